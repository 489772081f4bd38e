"""Documents for a question: which, how many tokens, in what order, and what goes wrong."""

import logging
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding, Embeddings
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.vectorstores import InMemoryVectorStore
from langgraph.graph import START, MessagesState, StateGraph

from langchain_tokenopt import counter_for
from langchain_tokenopt.embeddings import StaticEmbeddings
from langchain_tokenopt.errors import ConfigurationError, StoreError
from langchain_tokenopt.prompts import (
    DocumentIndex,
    FaissVectors,
    IndexChanges,
    PreFilter,
    PromptBuilder,
    Selection,
    cited,
)
from langchain_tokenopt.prompts.builder import written
from langchain_tokenopt.testing import ScriptedModel

COUNT = counter_for("gpt-5-mini").count_text
FAKE = DeterministicFakeEmbedding(size=16)
SHOP = [
    Document("The shop opens at nine in the morning.", id="hours"),
    Document("Parcels are sent with the post office on weekdays.", id="parcels"),
    Document("Books may be returned within thirty days.", id="returns"),
    Document("Gift cards are valid for three years.", id="gifts"),
    Document("The cellar holds rare maps and old globes.", id="maps"),
]


@pytest.fixture(scope="module")
def local() -> StaticEmbeddings:
    return StaticEmbeddings()


@pytest.fixture
def index(local: StaticEmbeddings) -> DocumentIndex:
    made = DocumentIndex(local)
    made.update(SHOP)
    return made


def prefilter(index: DocumentIndex, **options: Any) -> PreFilter:
    return PreFilter(index=index, **{"model": "gpt-5-mini", **options})


def ids(selection: Selection) -> list[str]:
    return [str(document.id) for document in selection.documents]


# --- the choice -----------------------------------------------------------------------------------


def test_the_documents_that_answer_come_first(index: DocumentIndex) -> None:
    chosen = prefilter(index).select("When does the shop open in the morning?")

    assert ids(chosen)[0] == "hours"
    assert chosen.relevance["hours"] == max(chosen.relevance.values())


def test_no_more_tokens_than_allowed_are_sent_as_they_are_written(index: DocumentIndex) -> None:
    chosen = prefilter(index, max_tokens=60).select("When does the shop open?")

    sent = "\n\n".join(written(document) for document in chosen.documents)
    assert 0 < COUNT(sent) <= chosen.tokens <= 60
    assert chosen.saved_tokens == chosen.tokens_found - chosen.tokens > 0
    assert {left.reason for left in chosen.left} == {"no room"}


@settings(max_examples=50)
@given(
    texts=st.lists(st.text(min_size=1, max_size=200).filter(str.strip), min_size=1, max_size=12),
    budget=st.integers(1, 300),
    diversity=st.floats(0, 1),
    exponent=st.floats(0, 2),
)
def test_the_budget_holds_and_every_document_is_sent_or_left_with_a_reason(
    texts: list[str], budget: int, diversity: float, exponent: float
) -> None:
    made = DocumentIndex(FAKE)
    made.update([Document(text, id=str(n)) for n, text in enumerate(texts)])

    chosen = prefilter(made, max_tokens=budget, diversity=diversity, size_exponent=exponent).select(
        "anything"
    )

    assert chosen.tokens <= budget
    found = [*ids(chosen), *(left.id for left in chosen.left)]
    assert len(found) == len(set(found))
    assert set(found) <= {str(n) for n in range(len(texts))}


def test_a_document_that_does_not_fit_makes_room_for_smaller_ones(local: StaticEmbeddings) -> None:
    made = DocumentIndex(local)
    made.update([Document("The shop opens at nine. " * 40, id="long"), *SHOP])

    chosen = prefilter(made, max_tokens=80).select("The shop opens at nine.")

    assert "hours" in ids(chosen)
    assert "long" not in ids(chosen)


def test_the_same_text_is_sent_once(local: StaticEmbeddings) -> None:
    made = DocumentIndex(local)
    made.update([*SHOP, Document("the SHOP opens, at nine in the morning", id="twin")])

    chosen = prefilter(made).select("When does the shop open?")

    assert len({"hours", "twin"} & set(ids(chosen))) == 1
    assert [left.reason for left in chosen.left] == ["the same as another"]


def test_diversity_prefers_what_says_something_new(local: StaticEmbeddings) -> None:
    made = DocumentIndex(local)
    twins = [Document(f"The shop opens at nine in the morning on day {n}.") for n in range(5)]
    made.update([*twins, Document("The shop closes at six.", id="closing")])
    question = "When does the shop open?"

    near = prefilter(made, k=2, diversity=0.0).select(question)
    wide = prefilter(made, k=2, diversity=0.9).select(question)

    assert "closing" not in ids(near)
    assert "closing" in ids(wide)


def test_words_find_what_vectors_do_not() -> None:
    made = DocumentIndex(FAKE)  # its vectors say nothing
    made.update([*SHOP, Document("Form ZX-81 is for the customs.", id="form")])

    chosen = prefilter(made, words_weight=0.9, k=1).select("Where do I need the form ZX-81?")

    assert ids(chosen) == ["form"]


async def test_what_only_words_find_is_read_from_the_index(tmp_path: Path) -> None:
    form = Document("Form ZX-81 is for the customs.", id="form", metadata={"page": 3})
    made = DocumentIndex(FAKE, path=tmp_path / "documents.sqlite")
    made.update([*(Document(f"Number {n}.", id=str(n)) for n in range(600)), form])
    asked = prefilter(made, words_weight=1.0, k=1, fetch_k=1)

    assert asked.select("Where do I need the form ZX-81?").documents == (form,)
    assert (await asked.aselect("Where do I need the form ZX-81?")).documents == (form,)
    found = made.words.get([*map(str, range(600)), "form", "nobody"])
    assert len(found) == 601
    made.words.close()
    made.words.close()
    assert made.words.get(["form"]) == {"form": form}
    made.delete([])
    await made.adelete([])
    assert len(made) == 601


def test_without_vectors_documents_are_alike_by_their_words(local: StaticEmbeddings) -> None:
    made = DocumentIndex(vectors=InMemoryVectorStore(local))
    twins = [Document(f"The shop opens at nine in the morning on day {n}.") for n in range(5)]
    made.update([*twins, Document("The shop closes at six.", id="closing")])

    wide = prefilter(made, k=2, diversity=0.9).select("When does the shop open?")

    assert "closing" in ids(wide)


@pytest.mark.parametrize(
    "question", ['"', "NEAR(a b)", "content:x OR *", "shop' AND '1", "***", "?"]
)
def test_words_of_a_question_are_never_commands_of_the_index(
    index: DocumentIndex, question: str
) -> None:
    assert prefilter(index, words_weight=1.0).select(question) is not None


def test_below_the_threshold_nothing_is_sent(index: DocumentIndex) -> None:
    chosen = prefilter(index, score_threshold=0.99).select("Quantum chromodynamics?")

    assert chosen.documents == ()
    assert {left.reason for left in chosen.left} == {"not relevant"}
    assert chosen.tokens_found == 0


def test_what_is_far_from_the_best_can_be_left_out_whatever_the_budget(
    index: DocumentIndex,
) -> None:
    question = "When does the shop open in the morning?"
    all_of, near = (prefilter(index, score_ratio=ratio).select(question) for ratio in (0.0, 0.8))

    assert ids(near) == ["hours"]
    assert near.tokens < all_of.tokens / 3


def test_a_further_hop_finds_what_the_found_ones_speak_of(local: StaticEmbeddings) -> None:
    made = DocumentIndex(local)
    chain = [
        Document("Stella works in the lighthouse.", id="1"),
        Document("The lighthouse stands on Gull Island.", id="2"),
    ]
    other = [Document(f"Bread number {n} is baked at dawn.", id=f"b{n}") for n in range(8)]
    made.update([*chain, *other])

    one = prefilter(made, k=3, hops=1).select("Where is Stella?")
    two = prefilter(made, k=3, hops=2).select("Where is Stella?")

    assert ids(two)[:2] == ["1", "2"]
    assert two.relevance["2"] > one.relevance.get("2", 0.0)


# --- order and citations --------------------------------------------------------------------------


def test_stable_documents_stand_first_in_the_same_order_for_every_question(
    local: StaticEmbeddings,
) -> None:
    rules = [Document(f"Rule {n}: be kind.", id=f"r{n}", metadata={"stable": True}) for n in "21"]
    made = DocumentIndex(local)
    made.update([*SHOP, *rules])

    for question in ("When does the shop open?", "Which rule tells me to be kind?"):
        assert ids(prefilter(made).select(question))[:2] == ["r1", "r2"]


def test_what_is_sent_of_a_document_is_the_same_for_every_question(index: DocumentIndex) -> None:
    one, two = (
        {d.id: written(d) for d in prefilter(index).select(question).documents}
        for question in ("When does the shop open?", "Are there maps?")
    )
    assert one == two


def test_citations_are_checked_against_what_was_sent(index: DocumentIndex) -> None:
    documents = prefilter(index).select("When does the shop open?").documents
    answer = "At nine [hours]; see [maps, gifts] and [the web](https://a.b), not [invented]."

    found = cited(answer, documents)

    assert found.ids == ("hours", "maps", "gifts")
    assert found.unknown == ("invented",)


# --- the index ------------------------------------------------------------------------------------


class Counting(DeterministicFakeEmbedding):
    embedded: list[str] = []  # noqa: RUF012 - a field of a pydantic model

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        self.embedded.extend(texts)
        return super().embed_documents(texts)


def test_what_did_not_change_is_not_embedded_again_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "documents.sqlite"
    DocumentIndex(FAKE, path=path).update(SHOP)
    embeddings = Counting(size=16)
    again = DocumentIndex(vectors=FaissVectors(embeddings, path=path, model=_name()), path=path)

    changed = again.update(
        [*SHOP[1:], Document("The shop opens at ten.", id="hours"), Document("New.", id="new")]
    )

    assert changed == IndexChanges(added=1, changed=1, deleted=0, unchanged=4)
    assert embeddings.embedded == ["The shop opens at ten.", "New."]


def _name() -> str:
    return str(getattr(FAKE, "model", None) or type(FAKE).__name__)


def test_what_is_no_longer_in_the_source_is_forgotten(tmp_path: Path) -> None:
    made = DocumentIndex(FAKE, path=tmp_path / "documents.sqlite")
    made.update(SHOP)

    assert made.replace_all(SHOP[:2]).deleted == 3
    assert len(made) == 2
    assert set(ids(prefilter(made).select("maps and globes"))) == {"hours", "parcels"}
    assert made.words.search("maps", 5) == []


async def test_the_async_index_and_choice_are_the_same(local: StaticEmbeddings) -> None:
    made = DocumentIndex(local)
    assert (await made.aupdate(SHOP)).added == 5
    assert (await made.areplace_all(SHOP[:4])).deleted == 1
    assert (await made.aupdate([Document("The shop opens at ten.", id="hours")])).changed == 1

    question = "When does the shop open?"
    assert await prefilter(made, hops=2).aselect(question) == prefilter(made, hops=2).select(
        question
    )
    assert [d.id for d in await prefilter(made).ainvoke(question)] == ids(
        prefilter(made).select(question)
    )


@pytest.mark.filterwarnings("ignore:.langchain-community. is being sunset:DeprecationWarning")
@pytest.mark.parametrize("store", ["core", "community"])
async def test_any_vector_store_of_langchain_does(store: str, local: StaticEmbeddings) -> None:
    vectors: Any = InMemoryVectorStore(local)
    if store == "community":
        from langchain_community.vectorstores import FAISS

        vectors = FAISS.from_texts(["seed"], local, ids=["seed"], normalize_L2=True)
    made = DocumentIndex(vectors=vectors)
    made.update(SHOP)
    made.update([Document("The shop opens at ten.", id="hours")])

    chosen = prefilter(made, k=3).select("When does the shop open?")

    assert ids(chosen)[0] == "hours"
    assert chosen.documents[0].page_content == "The shop opens at ten."
    assert ids(await prefilter(made, k=3).aselect("When does the shop open?")) == ids(chosen)


async def test_a_store_without_scores_is_used_by_its_order_and_that_is_said_once(
    local: StaticEmbeddings, caplog: pytest.LogCaptureFixture
) -> None:
    class Plain(InMemoryVectorStore):
        def _select_relevance_score_fn(self) -> Any:
            raise NotImplementedError

    made = DocumentIndex(vectors=Plain(local))
    made.update(SHOP)

    filter_ = prefilter(made, words_weight=0.0)
    with caplog.at_level(logging.WARNING):
        both = [
            filter_.select("When does the shop open?"),
            await filter_.aselect("When does the shop open?"),
        ]

    for chosen in both:
        assert ids(chosen)[0] == "hours"
        assert "tells no scores" in chosen.problems[0]
    assert len([r for r in caplog.records if "tells no scores" in r.message]) == 1


# --- in LangChain and LangGraph -------------------------------------------------------------------


def test_a_question_goes_through_the_filter_and_the_builder_to_the_model(
    index: DocumentIndex,
) -> None:
    model = ScriptedModel(["At nine [hours]."], model_name="gpt-5-mini", provider="openai")
    chain = prefilter(index, k=2).as_prompt_input() | PromptBuilder("Answer.").bind(model)

    assert chain.invoke("When does the shop open?").text == "At nine [hours]."
    assert '"id":"hours"' in str(model.requests[0][-1].text)
    assert str(model.requests[0][-1].text).endswith("When does the shop open?")


def test_a_node_adds_documents_to_the_state(index: DocumentIndex) -> None:
    class State(MessagesState):
        documents: list[Document]

    graph = StateGraph(State)
    graph.add_node("prefilter", prefilter(index, k=1).as_node())
    graph.add_edge(START, "prefilter")

    state = graph.compile().invoke({"messages": [HumanMessage("When does the shop open?")]})

    assert [document.id for document in state["documents"]] == ["hours"]


async def test_the_async_forms_add_the_same_documents(index: DocumentIndex) -> None:
    asked = "When does the shop open?"
    blocks: Any = [{"type": "text", "text": asked}, {"type": "image", "url": "a"}, "Today?"]
    made, node = prefilter(index, k=1), prefilter(index, k=1).as_node(question_key="asked")

    by_text = await made.as_prompt_input().ainvoke(asked)
    by_blocks = await made.as_prompt_input().ainvoke({"query": blocks})
    state = await node.ainvoke({"asked": asked, "messages": [HumanMessage("Maps?")]})

    assert [d.id for d in by_text["documents"]] == ["hours"]
    assert [d.id for d in by_blocks["documents"]] == ["hours"]
    assert by_blocks["query"] == blocks
    assert [d.id for d in state["documents"]] == ["hours"]
    with pytest.raises(ConfigurationError, match="expected a question"):
        node.invoke({"messages": [HumanMessage("Maps?")]})
    with pytest.raises(ConfigurationError, match="expected a question"):
        prefilter(index).as_node().invoke({"messages": [AIMessage("Maps?")]})


def test_callbacks_see_the_retrieval(index: DocumentIndex) -> None:
    from langchain_core.callbacks import BaseCallbackHandler

    seen: list[str] = []

    class Handler(BaseCallbackHandler):
        def on_retriever_end(self, documents: Any, **keywords: Any) -> None:
            seen.extend(document.id for document in documents)

    prefilter(index, k=1).as_prompt_input().invoke(
        {"query": "When does the shop open?"}, {"callbacks": [Handler()]}
    )

    assert seen == ["hours"]


# --- wrong input ----------------------------------------------------------------------------------


@pytest.mark.parametrize("question", ["", "  ", None, 3])
def test_an_empty_question_is_refused(index: DocumentIndex, question: Any) -> None:
    with pytest.raises(ConfigurationError, match="expected a question"):
        prefilter(index).select(question)


def test_an_empty_index_and_a_budget_below_the_smallest_document_are_said(
    index: DocumentIndex,
) -> None:
    assert "no document was found" in prefilter(DocumentIndex(FAKE)).select("a").problems[0]
    assert "the smallest relevant one has" in prefilter(index, max_tokens=3).select("a").problems[0]


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"max_tokens": 0}, "max_tokens"),
        ({"words_weight": 1.5}, "words_weight"),
        ({"size_exponent": -1}, "size_exponent"),
        ({"hops": 0}, "hops"),
    ],
)
def test_wrong_options_are_refused(index: DocumentIndex, wrong: Any, named: str) -> None:
    with pytest.raises(ConfigurationError, match=named):
        prefilter(index, **wrong)


def test_an_index_needs_embeddings_or_a_store() -> None:
    with pytest.raises(ConfigurationError, match="not both"):
        DocumentIndex()
    with pytest.raises(ConfigurationError, match="LangChain documents, got str"):
        DocumentIndex(FAKE).update(["text"])  # type: ignore[list-item]  # wrong on purpose


def test_text_that_sqlite_refuses_is_kept_without_its_broken_characters(tmp_path: Path) -> None:
    made = DocumentIndex(FAKE, path=tmp_path / "documents.sqlite")
    broken = Document("The \ud800 shop.", id="a\ud800", metadata={"by": "\ud800"})

    assert made.update([broken]).added == 1
    assert made.update([broken]).unchanged == 1
    (found,) = prefilter(made).select("Which \ud800 shop?").documents
    assert found.page_content == "The ? shop."


def test_embeddings_that_fail_leave_the_index_as_it_was(tmp_path: Path) -> None:
    class Failing(Embeddings):
        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            raise RuntimeError("no embeddings today")

        def embed_query(self, text: str) -> list[float]:
            raise RuntimeError("no embeddings today")

    made = DocumentIndex(Failing(), path=tmp_path / "documents.sqlite")
    with pytest.raises(RuntimeError, match="today"):
        made.update(SHOP)

    assert len(made) == 0


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    path = tmp_path / "documents.sqlite"
    path.write_bytes(b"no database" * 200)
    with pytest.raises(StoreError, match=r"documents\.sqlite cannot be used"):
        DocumentIndex(FAKE, path=path)


def test_this_python_has_full_text_search() -> None:
    options = [row[0] for row in sqlite3.connect(":memory:").execute("PRAGMA compile_options")]
    assert "ENABLE_FTS5" in options
