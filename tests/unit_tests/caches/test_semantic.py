"""The semantic cache: what must be equal, what is learned, what is promised."""

import asyncio
import contextlib
import gzip
import json
import logging
import random
import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from langchain_core.embeddings import Embeddings
from langchain_core.load import dumps
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_core.outputs import ChatGeneration, Generation

from langchain_tokenopt.accounting import UsageLedger
from langchain_tokenopt.caches import (
    CachedChatModel,
    MemoryCache,
    SemanticCache,
    answers_agree,
    cache_control,
)
from langchain_tokenopt.caches.decision import PRIOR, RiskBudget, RiskModel, fit
from langchain_tokenopt.caches.index import VectorIndex
from langchain_tokenopt.caches.kept import KeptQuestions
from langchain_tokenopt.caches.question import Question
from langchain_tokenopt.caches.semantic_file import SemanticFile
from langchain_tokenopt.caches.semantic_learned import Learned
from langchain_tokenopt.caches.semantic_questions import Recent
from langchain_tokenopt.embeddings import StaticEmbeddings
from langchain_tokenopt.errors import ConfigurationError
from langchain_tokenopt.messages import cache_source
from langchain_tokenopt.testing import ScriptedModel

EMBEDDINGS = StaticEmbeddings()
ASKED = "How do I reset my password?"
LIKE = "How can I reset my password please?"


def answer(text: str) -> list[Any]:
    return [ChatGeneration(message=AIMessage(text))]


def prompt(*turns: Any) -> str:
    return dumps([HumanMessage(turn) if isinstance(turn, str) else turn for turn in turns])


def cache_of(**options: Any) -> SemanticCache:
    """A cache that serves at a cosine, and audits next to nothing."""
    return SemanticCache(EMBEDDINGS, **{"threshold": 0.8, "audit_rate": 1e-9, **options})


def kept(cache: SemanticCache, text: str = ASKED, said: str = "Click here.") -> SemanticCache:
    cache.update(prompt(text), "m", answer(said))
    return cache


# --- what must be equal -----------------------------------------------------------------------


async def test_a_like_answer_does_not_become_an_exact_one() -> None:
    similar = cache_of()
    upstream = ScriptedModel(["Click here.", "Click there."], when_exhausted="repeat_last")
    inner = CachedChatModel(upstream, cache=similar)
    outer = CachedChatModel(inner, cache=MemoryCache())

    inner.invoke(ASKED)
    assert outer.invoke(LIKE).text == "Click here."
    assert (await outer.ainvoke(LIKE)).text == "Click here."
    similar.clear()

    assert [outer.invoke(LIKE).text for _ in range(2)] == ["Click there."] * 2
    assert upstream.calls == 2


def test_a_like_question_gets_the_kept_answer() -> None:
    cache = kept(cache_of())

    found: Any = cache.lookup(prompt(LIKE), "m")

    assert found[0].text == "Click here."
    mark = found[0].message.response_metadata["tokenopt_cache"]
    assert (mark["source"], mark["question"]) == ("semantic", ASKED)
    assert 0.8 <= mark["similarity"] <= 1.001


def test_a_model_that_completes_texts_is_served_too() -> None:
    cache = cache_of()
    cache.update(ASKED, "m", [Generation(text="Click here.")])

    assert cache.lookup(LIKE, "m") == [Generation(text="Click here.")]
    assert cache.lookup(prompt(LIKE), "m") is None  # a chat is another kind of request
    long = f"You answer questions of customers, politely. {'Be kind. ' * 40}"
    cache.update(f"{long}{ASKED}", "m", [Generation(text="Click here.")])
    assert cache.lookup(f"{long}{LIKE}", "m") is None


SYSTEM = SystemMessage("Be brief.")


@pytest.mark.parametrize(
    ("turns", "llm"),
    [
        ([LIKE], "another model"),
        ([SYSTEM, LIKE], "m"),
        ([ASKED, AIMessage("For which account?"), LIKE], "m"),
        ([LIKE, AIMessage("Click here.")], "m"),
    ],
    ids=["model", "system prompt", "earlier turns", "no human turn last"],
)
def test_all_but_the_last_human_turn_must_be_equal(turns: list[Any], llm: str) -> None:
    assert kept(cache_of()).lookup(prompt(*turns), llm) is None


def test_a_turn_in_a_conversation_is_found_in_the_same_conversation() -> None:
    cache = cache_of()
    before = [SYSTEM, HumanMessage("Hello"), AIMessage("Hello! How can I help?", id="1")]
    again = [SYSTEM, HumanMessage("Hello"), AIMessage("Hello! How can I help?", id="2")]
    cache.update(prompt(*before, ASKED), "m", answer("Click here."))

    assert cache.lookup(prompt(*again, LIKE), "m") is not None


def spelled_out(earlier: list[tuple[str, str]], asked: str) -> str | None:
    """Put a question that leans on the one before into its words."""
    return f"{earlier[0][1]} {asked}" if asked.startswith("And") else None


def conversation(opening: str, answered: str, last: str) -> str:
    return prompt(SYSTEM, HumanMessage(opening), AIMessage(answered), HumanMessage(last))


SHIP, REST = "Do you ship to Sweden?", "And how long does it take to arrive?"


def test_a_question_that_leans_on_earlier_turns_is_found_by_what_it_means() -> None:
    cache = cache_of(condense=spelled_out)
    cache.update(conversation(SHIP, "We do.", REST), "m", answer("A week."))

    found: Any = cache.lookup(conversation(SHIP, "Yes, with pleasure!", REST), "m")

    assert found[0].text == "A week."
    mark = found[0].message.response_metadata["tokenopt_cache"]
    assert mark["question"] == f"{SHIP} {REST}"
    assert cache.lookup(conversation("Do you ship to Norway?", "We do.", REST), "m") is None


@pytest.mark.parametrize(
    ("asked", "llm"),
    [
        (conversation(SHIP, "Yes!", "How long does it take to arrive?"), "m"),
        (prompt(SYSTEM, HumanMessage(f"{SHIP} {REST}")), "m"),
        (conversation(SHIP, "Yes!", REST).replace("Be brief.", "Be rude."), "m"),
        (conversation(SHIP, "Yes!", REST), "another model"),
    ],
    ids=["stands alone", "a first turn", "system prompt", "model"],
)
def test_what_a_condensed_question_does_not_stand_for_must_be_equal(asked: str, llm: str) -> None:
    cache = cache_of(condense=spelled_out)
    cache.update(conversation(SHIP, "We do.", REST), "m", answer("A week."))
    assert cache.lookup(asked, llm) is None


async def test_condensing_does_not_hold_up_the_event_loop_and_may_fail() -> None:
    threads = []

    def condense(earlier: list[tuple[str, str]], asked: str) -> str | None:
        threads.append(threading.current_thread())
        raise RuntimeError("the small model is down")

    cache = cache_of(condense=condense)
    await cache.aupdate(conversation(SHIP, "We do.", REST), "m", answer("A week."))
    assert await cache.alookup(conversation(SHIP, "We do.", REST), "m") is None
    assert threading.main_thread() not in threads
    assert cache.stats().errors == 2


def test_tenants_never_share_an_answer() -> None:
    tenant = ["a"]
    cache = kept(cache_of(tenant=lambda: tenant[0]))
    tenant[0] = "b"
    assert cache.lookup(prompt(ASKED), "m") is None
    tenant[0] = "a"
    assert cache.lookup(prompt(ASKED), "m") is not None


def test_two_models_with_one_question_both_hit() -> None:
    cache = cache_of()
    for llm in ("one", "two"):
        cache.update(prompt(ASKED), llm, answer(llm))

    found: list[Any] = [cache.lookup(prompt(LIKE), llm) for llm in ("one", "two")]
    assert [each[0].text for each in found] == ["one", "two"]


def test_a_question_that_a_rule_keeps_apart_misses_at_any_cosine() -> None:
    cache = kept(cache_of(threshold=0.1), "Should I buy Tesla stock?", "Perhaps.")

    assert cache.lookup(prompt("Should I sell Tesla stock?"), "m") is None
    assert cache.stats().vetoed == 1


def test_the_policy_refuses_both_to_serve_and_to_keep() -> None:
    cache = cache_of()
    cache.update(prompt("What is the weather in Ulm?"), "m", answer("Rain."))

    assert cache.lookup(prompt("What is the weather in Ulm?"), "m") is None
    assert (cache.stats().entries, cache.stats().refused) == (0, 1)


def test_tool_calls_are_not_kept() -> None:
    call = {"name": "f", "args": {}, "id": "1", "type": "tool_call"}
    cache = cache_of()
    calling = [ChatGeneration(message=AIMessage("", tool_calls=[call]))]

    cache.update(prompt(ASKED), "m", calling)

    assert cache.stats().entries == 0


def test_content_blocks_of_text_are_read_and_images_are_left_alone() -> None:
    cache = kept(cache_of())
    text = HumanMessage([{"type": "text", "text": LIKE}])
    image = HumanMessage([{"type": "image_url", "image_url": {"url": "data:x"}}])

    assert cache.lookup(prompt(text), "m") is not None
    assert cache.lookup(prompt(image), "m") is None


# --- life -------------------------------------------------------------------------------------


def test_entries_expire_are_invalidated_and_make_room() -> None:
    now = [0.0]
    cache = cache_of(ttl_s=60, max_entries=2, clock=lambda: now[0])
    with cache_control(tags=["v1"]):
        kept(cache)
    kept(cache, "Do you ship to Norway?", "Yes.")
    assert cache.lookup(prompt(LIKE), "m") is not None

    assert cache.invalidate(["v1"]) == 1
    assert cache.lookup(prompt(LIKE), "m") is None
    kept(cache, "What is a gift card?", "A card.")
    kept(cache, "Who writes the handbook?", "We do.")
    assert cache.stats().entries == 2
    now[0] = 61
    assert cache.lookup(prompt("Who writes the handbook?"), "m") is None


def test_a_wrong_answer_can_be_taken_back() -> None:
    model = CachedChatModel(ScriptedModel(["wrong", "right"]), cache=cache_of())
    model.invoke(ASKED)
    served = model.invoke(LIKE)
    cache: Any = model.response_cache

    assert cache.correct(served)
    assert not cache.correct(served)
    assert model.invoke(LIKE).text == "right"


def test_control_holds() -> None:
    cache = cache_of()
    with cache_control(no_store=True):
        kept(cache)
    assert cache.lookup(prompt(ASKED), "m") is None
    kept(cache)
    with cache_control(no_cache=True):
        assert cache.lookup(prompt(ASKED), "m") is None
    cache.clear()
    assert cache.lookup(prompt(ASKED), "m") is None


def test_a_file_keeps_questions_and_what_was_learned(tmp_path: Path) -> None:
    now = [1_000.0]
    file = tmp_path / "semantic.sqlite"

    def opened() -> SemanticCache:
        return cache_of(path=file, clock=lambda: now[0], ttl_s=60)

    first = opened()
    with cache_control(tags=["v1"]):
        kept(first, "Do you ship to Norway?", "Yes.")
    kept(first)
    for _ in range(60):
        first.lookup(prompt("How do I close my account?"), "m")
        kept(first, "How do I close my account?", "Write to us.")
    learned = first._model.coefficients
    first.close()

    second = opened()
    assert second.lookup(prompt(LIKE), "m") is not None
    assert second._model.coefficients == learned
    assert second.invalidate(["v1"]) == 1
    second.close()

    third = opened()
    assert third.lookup(prompt("Do you ship to Norway?"), "m") is None
    now[0] += 60
    assert third.lookup(prompt(LIKE), "m") is None
    third.clear()
    third.close()
    assert len(opened()._kept) == 0


async def test_a_file_works_from_the_event_loop(tmp_path: Path) -> None:
    cache = cache_of(path=tmp_path / "semantic.sqlite")
    model = ScriptedModel(["Click here."], cache=cache)

    answers = [(await model.ainvoke(text)).text for text in (ASKED, LIKE)]

    assert answers == ["Click here.", "Click here."]
    assert model.calls == 1
    cache.close()


def test_a_file_that_fails_leaves_the_cache_in_memory(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "semantic.sqlite"
    file.write_bytes(b"this is no database but a text of some length" * 50)
    with caplog.at_level(logging.WARNING):
        cache = kept(kept(cache_of(path=file)), "Do you ship to Norway?", "Yes.")

    assert cache.lookup(prompt(LIKE), "m") is not None
    assert cache.stats().errors >= 2
    assert len([r for r in caplog.records if "goes on in memory" in r.message]) == 1
    cache.close()


def test_what_was_learned_meanwhile_is_not_replaced_by_what_was_saved(tmp_path: Path) -> None:
    saved = KeptQuestions(max_entries=9, file=SemanticFile(tmp_path / "s.sqlite"), clock=time.time)
    saved.save([0.5] * len(RiskModel().coefficients))
    fresh, learned = RiskModel(), RiskModel()
    learned.learn(np.asarray(PRIOR), right=True, risk=0.1)
    before = learned.coefficients

    Learned(fresh, saved).load()
    Learned(learned, saved).load()

    assert fresh.coefficients == [0.5] * len(before)
    assert learned.coefficients == before
    saved.close()


def test_questions_in_memory_save_nothing_and_forget_quietly() -> None:
    question = Question(text=ASKED, partition=b"p", temperature=None)
    vector = EMBEDDINGS.embed_query(ASKED)
    questions = KeptQuestions(max_entries=9, clock=time.time)
    (said,) = answer("Click here.")
    questions.add(question, vector, answer=said, group=None, ttl_s=None, tags=frozenset())
    (entry,), _ = questions.near(question, vector, most=1)
    questions.save([1.0])
    questions.close()

    assert questions.learned() is None
    assert questions.forget(entry.id)
    questions.used(entry)
    assert not questions.forget(entry.id)
    assert len(questions) == 0


def test_a_file_of_a_later_version_is_left_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "semantic.sqlite"
    with contextlib.closing(sqlite3.connect(file)) as later:
        later.execute("PRAGMA user_version = 99")
    with caplog.at_level(logging.WARNING):
        cache = kept(cache_of(path=file))

    assert cache.lookup(prompt(LIKE), "m") is not None
    assert "has schema 99, this version knows" in caplog.text
    cache.close()
    with contextlib.closing(sqlite3.connect(file)) as later:
        assert later.execute("PRAGMA user_version").fetchone() == (99,)


def test_a_file_that_was_spoilt_while_it_was_open_is_made_again(tmp_path: Path) -> None:
    file = tmp_path / "semantic.sqlite"
    cache = kept(cache_of(path=file))
    with contextlib.closing(sqlite3.connect(file)) as other:
        other.execute("DROP TABLE questions")
    kept(cache, "Do you ship to Norway?", "Yes.")
    assert cache.stats().errors == 1
    kept(cache, "Who are you?", "Us.")
    cache.close()

    again = cache_of(path=file)
    assert again.lookup(prompt("Who are you?"), "m") is not None
    again.close()


def test_rows_that_were_altered_or_of_other_embeddings_are_left_out(tmp_path: Path) -> None:
    file = tmp_path / "semantic.sqlite"
    cache = kept(kept(kept(cache_of(path=file)), "Do you ship to Norway?", "Yes."), "Who?", "We.")
    cache.close()
    other = sqlite3.connect(file)
    other.execute("UPDATE questions SET entry = x'00' WHERE id = 0")
    other.execute("UPDATE questions SET vector = x'00000000' WHERE id = 2")
    other.commit()
    other.close()

    again = cache_of(path=file)
    assert again.lookup(prompt(ASKED), "m") is None
    assert again.lookup(prompt("Do you ship to Norway?"), "m") is not None
    assert again.stats().entries == 1
    again.close()


@pytest.mark.parametrize("where", ["nowhere/s.sqlite", "."])
def test_a_path_that_cannot_be_a_file_is_refused(tmp_path: Path, where: str) -> None:
    with pytest.raises(ConfigurationError, match="create the folder or choose another path"):
        cache_of(path=tmp_path / where)


# --- behind a model ---------------------------------------------------------------------------


async def test_calls_streams_and_the_ledger_see_a_hit() -> None:
    upstream = ScriptedModel(["Click here."])
    model = CachedChatModel(upstream, cache=cache_of())
    ledger = UsageLedger()
    config: Any = {"callbacks": [ledger]}

    model.invoke(ASKED, config)
    hits = [
        model.invoke(LIKE, config).text,
        (await model.ainvoke(LIKE, config)).text,
        "".join(chunk.text for chunk in model.stream(LIKE, config)),
    ]

    assert hits == ["Click here."] * 3
    assert [r.cache for r in ledger.records()] == [None, "semantic", "semantic", "semantic"]
    assert upstream.calls == 1


def test_hits_are_fresh_copies() -> None:
    model = CachedChatModel(ScriptedModel(["Click here."]), cache=cache_of())
    model.invoke(ASKED)
    first = model.invoke(LIKE)
    first.content = "changed"
    second = model.invoke(LIKE)

    assert second.text == "Click here."
    assert first.id != second.id


class Failing(Embeddings):
    """Embeddings that are down."""

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        raise ConnectionError("no embeddings today")

    def embed_query(self, text: str) -> list[float]:
        return self.embed_documents([text])[0]

    async def aembed_query(self, text: str) -> list[float]:
        return self.embed_query(text)


async def test_embeddings_that_fail_break_nothing(caplog: pytest.LogCaptureFixture) -> None:
    cache = SemanticCache(Failing())
    model = ScriptedModel(["four"], cache=cache, when_exhausted="repeat_last")

    with caplog.at_level(logging.WARNING):
        texts = [model.invoke("2 + 2?").text, (await model.ainvoke("2 + 2?")).text]

    assert texts == ["four", "four"]
    assert (cache.stats().errors, cache.stats().entries) == (4, 0)
    assert len([r for r in caplog.records if "semantic cache failed" in r.message]) == 1


def test_eight_threads_read_and_write_at_once() -> None:
    cache = cache_of()
    topics = [f"What is the meaning of word{n} in chapter {n}?" for n in range(200)]

    def work(thread: int) -> None:
        for n, topic in enumerate(topics):
            if n % 8 == thread:
                kept(cache, topic, f"meaning {n}")
            found: Any = cache.lookup(prompt(topic), "m")
            assert found is None or found[0].text == f"meaning {n}"
            if n % 50 == 0:
                cache.invalidate(["nothing"])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))

    assert cache.stats().entries == 200
    assert len(cache._kept._index) == 200


async def test_an_answer_that_was_not_looked_for_is_kept_and_taken_back_in_the_loop() -> None:
    cache = cache_of()
    await cache.aupdate(prompt(ASKED), "m", answer("Click here."))

    found: Any = await cache.alookup(prompt(LIKE), "m")

    assert found[0].text == "Click here."
    assert await cache.acorrect(found[0].message)
    assert await cache.alookup(prompt(LIKE), "m") is None


def test_what_only_looks_like_messages_is_neither_kept_nor_served() -> None:
    cache = cache_of()
    for odd in ('[{"a": 1}]', "[{]"):
        cache.update(odd, "m", answer("Click here."))
        assert cache.lookup(odd, "m") is None

    assert (cache.stats().entries, cache.stats().errors) == (0, 0)


async def test_looking_again_finds_what_was_kept_meanwhile_and_both_count_as_one() -> None:
    for asynchronous in (False, True):
        cache = cache_of()
        assert cache.lookup(prompt(LIKE), "m") is None
        kept(cache)

        found: Any = (
            await cache.alookup_again(prompt(LIKE), "m")
            if asynchronous
            else cache.lookup_again(prompt(LIKE), "m")
        )

        assert found[0].text == "Click here."
        assert (cache.stats().requests, cache.stats().hits) == (1, 1)


@pytest.mark.parametrize("audit_rate", [1e-9, 0.999999])
async def test_what_was_not_missed_or_is_audited_is_not_looked_for_again(audit_rate: float) -> None:
    cache = kept(cache_of(audit_rate=audit_rate))
    audited = audit_rate > 0.5 and cache.lookup(prompt(LIKE), "m") is None

    assert cache.lookup_again(prompt(LIKE), "m") is None
    assert await cache.alookup_again(prompt(LIKE), "m") is None
    assert (cache.stats().requests, cache.stats().audits) == (int(audited), int(audited))


def test_looking_again_spends_no_risk_twice() -> None:
    cache = kept(SemanticCache(EMBEDDINGS, mode="shadow", max_error_rate=0.01))
    assert cache.lookup(prompt(LIKE), "m") is None
    for _ in range(500):
        assert cache.lookup_again(prompt(LIKE), "m") is None
    kept(cache, LIKE)

    assert (cache.stats().requests, cache.stats().would_hit) == (1, 1)


def test_a_request_that_comes_again_before_any_other_is_counted_once() -> None:
    budget = RiskBudget(0.01)
    budget.uncount()  # with a threshold none was counted
    budget.count()

    assert budget._requests == 0
    assert list(budget._risks) == [1.0]


# --- the promise ------------------------------------------------------------------------------


def test_a_new_cache_serves_a_plain_paraphrase_and_not_another_question() -> None:
    cache = kept(SemanticCache(EMBEDDINGS, audit_rate=1e-9))

    assert cache.lookup(prompt(LIKE), "m") is not None
    assert cache.lookup(prompt("How do I close my account?"), "m") is None


def test_shadow_decides_and_learns_but_serves_nothing() -> None:
    cache = SemanticCache(EMBEDDINGS, mode="shadow", threshold=0.8)
    for text in (ASKED, LIKE, LIKE):
        assert cache.lookup(prompt(text), "m") is None
        kept(cache, text)

    stats = cache.stats()
    assert (stats.hits, stats.would_hit) == (0, 2)
    assert (stats.wrong_of_hits.share, stats.wrong_of_hits.of) == (0.0, 2)


def test_off_does_nothing() -> None:
    cache = kept(SemanticCache(EMBEDDINGS, mode="off"))

    assert cache.lookup(prompt(ASKED), "m") is None
    assert cache.stats().entries == 0


def test_an_audited_hit_is_asked_and_judged() -> None:
    cache = cache_of(audit_rate=0.999999)
    kept(cache, ASKED, "Click here.")
    assert cache.lookup(prompt(LIKE), "m") is None
    kept(cache, LIKE, "Write to us.")

    stats = cache.stats()
    assert (stats.hits, stats.audits) == (0, 1)
    assert (stats.wrong_of_hits.share, stats.wrong_of_hits.of) == (1.0, 1)
    assert stats.wrong_of_hits.low > 0.2


@pytest.mark.parametrize(
    ("verifier", "served"),
    [
        (lambda *_: True, True),
        (lambda *_: False, False),
        (lambda *_: 1 / 0, False),
    ],
)
def test_a_verifier_has_the_last_word_and_fails_closed(verifier: Any, served: bool) -> None:
    cache = kept(cache_of(verifier=verifier))

    assert (cache.lookup(prompt(LIKE), "m") is not None) is served


@pytest.mark.parametrize("name", ["banking77_stream_dev", "clinc150_stream_dev"])
def test_the_promised_rate_holds_on_recorded_streams(recorded_data: Path, name: str) -> None:
    with gzip.open(recorded_data / "cache" / f"{name}.jsonl.gz", "rt") as lines:
        rows = [json.loads(line) for line in lines]
    random.Random(5).shuffle(rows)
    cache = SemanticCache(EMBEDDINGS, max_error_rate=0.01, policy=None)
    hits = wrong = 0
    for row in rows:
        found: Any = cache.lookup(prompt(row["prompt"]), "m")
        if found is None:
            cache.update(prompt(row["prompt"]), "m", answer(row["answer_id"]))
        else:
            hits += 1
            wrong += found[0].text != row["answer_id"]

    assert wrong <= 0.01 * len(rows)
    assert hits >= 0.25 * len(rows)
    stats = cache.stats()
    assert stats.hits == hits
    assert stats.wrong_of_hits.low <= wrong / hits <= stats.wrong_of_hits.high


def test_the_budget_is_never_overdrawn() -> None:
    model, budget = RiskModel(), RiskBudget(0.01, safety=1.0, credit=0.0)
    chance = random.Random(1)
    taken = 0.0
    for requests in range(1, 3_000):
        risk = chance.random() ** 3
        if budget.take(risk, model):
            taken += risk
        assert taken <= 0.01 * requests


def test_the_model_learns_what_is_right() -> None:
    import numpy as np

    model = RiskModel(caution=0.0)
    near, far = (
        np.array([1.0, *[0.5] * (len(PRIOR) - 1)]),
        np.array([1.0, *[-0.5] * (len(PRIOR) - 1)]),
    )
    for _ in range(200):
        model.learn(near, right=False, risk=0.1)
        model.learn(far, right=True, risk=0.9)

    assert model.risk(near) > 0.9
    assert model.risk(far) < 0.1
    assert model.optimism() > 5


def test_an_entry_that_was_wrong_is_a_greater_risk_than_its_like() -> None:
    import numpy as np

    model = RiskModel()
    x = np.array([1.0, *[0.3] * (len(PRIOR) - 1)])
    before = model.risk(x, entry=1)
    model.learn(x, right=False, risk=before, entry=1)
    model.learn(x, right=True, risk=before, entry=2)

    once = model.risk(x, entry=1)
    assert once > before > model.risk(x, entry=2)
    assert model.risk(x, entry=3) == before
    model.learn(x, right=False, risk=once, entry=1)
    assert model.risk(x, entry=1) > once


def test_of_very_many_entries_the_latest_learned_from_are_known_one_by_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("langchain_tokenopt.caches.decision._MOST_ENTRIES", 2)
    model, x = RiskModel(), np.array([1.0, *[0.3] * (len(PRIOR) - 1)])
    for entry in (1, 2, 3):
        model.learn(x, right=False, risk=0.1, entry=entry)

    first, second, third, unknown = (model.risk(x, entry=entry) for entry in (1, 2, 3, 4))

    assert first == unknown < second == third


def test_of_recent_values_the_oldest_makes_room() -> None:
    recent = Recent[str, int](most=2)
    for n, key in enumerate("abc"):
        recent.put(key, n)

    assert [recent.get(key) for key in "abc"] == [None, 1, 2]


def test_a_fit_is_the_prior_without_data_and_the_data_with_enough() -> None:
    import numpy as np

    prior = np.array(PRIOR)
    rng = np.random.default_rng(0)
    true = rng.normal(size=len(PRIOR))
    x = rng.normal(size=(5_000, len(PRIOR)))
    right = (rng.random(5_000) < 1 / (1 + np.exp(-x @ true))).astype(float)

    none, _ = fit(x[:0], right[:0], right[:0], start=prior, prior=prior)
    much, covariance = fit(x, right, np.ones(5_000), start=prior, prior=prior)

    assert np.allclose(none, prior)
    assert np.allclose(much, true, atol=0.25)
    assert np.all(np.abs(much - true) < 5 * np.sqrt(np.diag(covariance)))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"max_error_rate": 0}, "max_error_rate must be above 0 and at most 0.5, got 0"),
        ({"threshold": 2}, "threshold must be a cosine"),
        ({"mode": "on"}, "mode must be serve, shadow or off, got 'on'"),
        ({"audit_rate": 0, "ttl_s": -1}, "audit_rate must be between 0 and 1, got 0; ttl_s must"),
        ({"max_entries": 0}, "max_entries must be at least 1"),
    ],
)
def test_options_that_cannot_be_are_refused(options: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        SemanticCache(EMBEDDINGS, **options)


@pytest.mark.parametrize(
    ("one", "two", "agree"),
    [
        ("It takes 3 days.", "It takes 3 days!", True),
        ("It takes 3 days.", "It takes 5 days.", False),
        ("You can return it.", "You can not return it.", False),
        ("Click here to reset it.", "Write a letter to our office.", False),
    ],
)
def test_answers_agree_in_words_and_numbers(one: str, two: str, agree: bool) -> None:
    assert answers_agree("?", one, two) is agree


# --- index and embeddings ---------------------------------------------------------------------


def test_the_index_keeps_partitions_apart_and_forgets() -> None:
    index = VectorIndex()
    index.add(b"a", 1, [1.0, 0.0])
    index.add(b"a", 2, [1.0, 1.0])
    index.add(b"b", 3, [1.0, 0.0])

    assert [near.id for near in index.search(b"a", [2.0, 0.1], most=5)] == [1, 2]
    assert index.search(b"c", [1.0, 0.0], most=5) == []
    index.remove(b"a", 1)
    index.remove(b"a", 99)
    assert [near.id for near in index.search(b"a", [1.0, 0.0], most=5)] == [2]
    assert len(index) == 2
    with pytest.raises(ValueError, match="expected a vector of 2 numbers, got 3"):
        index.add(b"a", 4, [1.0, 0.0, 0.0])


def test_a_large_partition_finds_nearly_all_and_forgets_while_it_moves() -> None:
    import numpy as np

    rng = np.random.default_rng(0)
    rows = rng.normal(size=(3_000, 16))
    index = VectorIndex(graph_from=500)
    for n, row in enumerate(rows):
        index.add(b"p", n, row.tolist())
        if n % 3 == 0:
            index.remove(b"p", n)
            assert all(near.id != n for near in index.search(b"p", row.tolist(), most=5))
    left = [n for n in range(3_000) if n % 3]

    def recall() -> float:
        return sum(index.search(b"p", rows[n].tolist(), most=1)[0].id == n for n in left) / len(
            left
        )

    before = recall()
    index.settle()
    assert before >= 0.99
    assert recall() >= 0.99
    assert len(index) == len(left)
    assert index._partitions[b"p"]._graph is not None

    for n in left[:1_500]:
        index.remove(b"p", n)
    for n in range(3_000, 3_700):  # enough to start another move, and so another graph
        index.add(b"p", n, rows[n - 3_000].tolist())
    index.settle()
    held = len(index._partitions[b"p"]._graph_ids)
    assert held == len(index) == 500 + 700
    assert index.search(b"p", rows[5].tolist(), most=1)[0].id == 3_005


def test_eight_threads_use_an_index_that_moves() -> None:
    import numpy as np

    rows = np.random.default_rng(1).normal(size=(2_000, 16))
    index = VectorIndex(graph_from=200)

    def work(thread: int) -> None:
        for n in range(thread, 2_000, 8):
            index.add(b"p", n, rows[n].tolist())
            index.search(b"p", rows[n].tolist(), most=3)
            if n % 5 == 0:
                index.remove(b"p", n)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    index.settle()

    assert len(index) == 1_600
    found = [index.search(b"p", rows[n].tolist(), most=1)[0].id for n in range(1, 2_000, 5)]
    assert sum(id_ == n for id_, n in zip(found, range(1, 2_000, 5), strict=True)) >= 396


def test_no_entry_is_lost_with_a_partition_that_becomes_empty() -> None:
    index = VectorIndex()

    def come_and_go(thread: int) -> None:
        for n in range(thread, 4_000, 8):
            index.add(b"p", n, [1.0, 0.0])
            if n % 40 >= 8:
                index.remove(b"p", n)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(come_and_go, range(8)))

    assert len(index) == 800


def test_static_embeddings_are_unit_vectors_of_any_text() -> None:
    vectors = EMBEDDINGS.vectors(["hello world", "", "a\ud800b", "数学 🙂"])

    lengths = [float((row**2).sum()) for row in vectors]
    assert lengths == pytest.approx([1, 0, 1, 1], abs=1e-5)
    assert EMBEDDINGS.embed_query("hello world") == pytest.approx(list(map(float, vectors[0])))
    assert asyncio.run(EMBEDDINGS.aembed_query("hello world")) == EMBEDDINGS.embed_query(
        "hello world"
    )


def test_a_served_message_says_where_it_comes_from() -> None:
    model = CachedChatModel(ScriptedModel(["a"]), cache=cache_of())
    model.invoke(ASKED)

    assert cache_source(model.invoke(LIKE)) == "semantic"
