"""Send only the documents that earn their tokens."""

import asyncio
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from langchain_core.callbacks import (
    AsyncCallbackManagerForRetrieverRun,
    CallbackManagerForRetrieverRun,
)
from langchain_core.documents import Document
from langchain_core.messages import convert_to_messages
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import Runnable, RunnableConfig, RunnableLambda
from langchain_core.vectorstores import VectorStore
from pydantic import ConfigDict, Field, PrivateAttr
from typing_extensions import override

from langchain_tokenopt.errors import ConfigurationError
from langchain_tokenopt.files import storable
from langchain_tokenopt.messages import last_human_text
from langchain_tokenopt.prompts.builder import PromptInput, written
from langchain_tokenopt.prompts.prefilter_index import DocumentIndex
from langchain_tokenopt.prompts.prefilter_pack import (
    Candidate,
    Selection,
    fused,
    in_order,
    merged,
    pack,
)
from langchain_tokenopt.prompts.vectors import FaissVectors
from langchain_tokenopt.tokens import counter_for

_LOG = logging.getLogger(__name__)

STABLE = "stable"
"""Key in a document's metadata: it is of use to many questions, and stands first."""
CITE = "After each statement name the documents that it rests on by their ids, as [id]."
"""For the system prompt, so that `cited` finds what was named."""

_WORD = re.compile(r"\w+")
_HOP_FROM = 3
_HOP_DECAY = 0.8
_CITED = re.compile(r"\[([^\[\]\n]{1,200})\](?!\()")

Found = list[tuple[Document, float]]


class PreFilter(BaseRetriever):
    """Retrieves documents for a question within a budget of real tokens.

    Documents are found by their vectors, and by their words where `words_weight` is more than 0;
    those too alike are sent once; then the most valuable for their tokens are taken until the
    budget is used. A document that does not fit makes room for smaller ones. Those marked
    `metadata={"stable": True}` come first and in a fixed order, for the provider's cache.

    Args:
        index: The documents.
        max_tokens: Of all documents together, as `PromptBuilder` writes them.
        model: Whose tokens are counted.
        fetch_k: How many documents are looked at.
        k: How many are sent at most.
        score_threshold: Below this relevance, 0 to 1, none is sent.
        score_ratio: Below this share of the best one's relevance none is sent, 0 to 1: a question
            that one document answers then takes few tokens, however large the budget.
        words_weight: How much words count beside vectors, 0 to 1.
        diversity: How much likeness to what is already there takes from a document's value.
        size_exponent: Value is divided by the tokens to this power: 0 takes no notice of size.
        hops: More than 1 searches again with what was found: for questions whose answer is spread
            over documents that speak of each other.

    Raises:
        ConfigurationError: A value cannot be used.

    >>> from langchain_core.embeddings import DeterministicFakeEmbedding
    >>> index = DocumentIndex(DeterministicFakeEmbedding(size=8))
    >>> _ = index.update([Document("The shop opens at nine.", id="hours")])
    >>> PreFilter(index=index, max_tokens=100).invoke("When does the shop open?")[0].id
    'hours'
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    index: DocumentIndex
    max_tokens: int = Field(default=2_000)
    model: str | None = None
    fetch_k: int = 50
    k: int = 20
    score_threshold: float = 0.0
    score_ratio: float = 0.0
    words_weight: float = 0.3
    diversity: float = 0.0
    size_exponent: float = 0.5
    hops: int = 1

    _told: bool = PrivateAttr(default=False)

    def __init__(self, **keywords: Any) -> None:
        super().__init__(**keywords)
        shares = (self.score_threshold, self.score_ratio, self.words_weight, self.diversity)
        if min(self.max_tokens, self.fetch_k, self.k, self.hops) < 1:
            message = (
                "max_tokens, fetch_k, k and hops must be at least 1, got "
                f"{self.max_tokens}, {self.fetch_k}, {self.k} and {self.hops}"
            )
            raise ConfigurationError(message)
        if not all(0 <= share <= 1 for share in shares) or self.size_exponent < 0:
            message = (
                "score_threshold, score_ratio, words_weight and diversity must be from 0 to 1, and "
                f"size_exponent at least 0, got {shares} and {self.size_exponent}"
            )
            raise ConfigurationError(message)

    def select(self, question: str) -> Selection:
        """Return the documents for a question, and what was left out and why.

        Raises:
            ConfigurationError: The question is empty.
        """
        question = _checked(question)
        relevance, documents, problems = self._found(question)
        asked: set[str] = set()
        for _ in range(self.hops - 1):
            for text, share in _next_questions(question, relevance, documents, asked):
                more, others, _ = self._found(text)
                documents |= others
                relevance = merged(relevance, more, share=share)
        vectors = self._vectors(list(relevance))
        return self._selected(relevance, documents, vectors, problems)

    async def aselect(self, question: str) -> Selection:
        """Do what `select` does without blocking the event loop."""
        question = _checked(question)
        relevance, documents, problems = await self._afound(question)
        asked: set[str] = set()
        for _ in range(self.hops - 1):
            for text, share in _next_questions(question, relevance, documents, asked):
                more, others, _ = await self._afound(text)
                documents |= others
                relevance = merged(relevance, more, share=share)
        vectors = await asyncio.to_thread(self._vectors, list(relevance))
        return self._selected(relevance, documents, vectors, problems)

    @override
    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun
    ) -> list[Document]:
        return list(self.select(query).documents)

    @override
    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun
    ) -> list[Document]:
        return list((await self.aselect(query)).documents)

    def as_prompt_input(self) -> Runnable[str | PromptInput, PromptInput]:
        """Return a runnable that adds the documents to what a `PromptBuilder` takes.

        `prefilter.as_prompt_input() | builder.bind(model)` answers a question.
        """

        def add(given: str | PromptInput, config: RunnableConfig) -> PromptInput:
            told, question = _prompt_input(given)
            return {**told, "documents": self.invoke(question, config)}

        async def aadd(given: str | PromptInput, config: RunnableConfig) -> PromptInput:
            told, question = _prompt_input(given)
            return {**told, "documents": await self.ainvoke(question, config)}

        return RunnableLambda(add, aadd, name="prefilter")

    def as_node(
        self, *, question_key: str | None = None, documents_key: str = "documents"
    ) -> Runnable[Mapping[str, Any], dict[str, Any]]:
        """Return a node for a graph: reads the question of the state, gives the documents.

        Without a `question_key` the question is the last human message under `messages`.
        """

        def node(state: Mapping[str, Any], config: RunnableConfig) -> dict[str, Any]:
            return {documents_key: self.invoke(_question_of(state, question_key), config)}

        async def anode(state: Mapping[str, Any], config: RunnableConfig) -> dict[str, Any]:
            return {documents_key: await self.ainvoke(_question_of(state, question_key), config)}

        return RunnableLambda(node, anode, name="prefilter")

    # --- finding --------------------------------------------------------------------------------

    def _found(self, text: str) -> tuple[dict[str, float], dict[str, Document], list[str]]:
        store, problems = self.index.vectors, []
        try:
            near = _search(store)(text, k=self.fetch_k)
        except NotImplementedError:
            problems.append(self._no_scores(store))
            near = _by_rank(store.similarity_search(text, k=self.fetch_k))
        words = self.index.words.search(text, self.fetch_k) if self.words_weight else []
        known = {str(document.id): document for document, _ in near}
        more = self.index.words.get([name for name, _ in words if name not in known])
        return fused(near, words, weight=self.words_weight), {**known, **more}, problems

    async def _afound(self, text: str) -> tuple[dict[str, float], dict[str, Document], list[str]]:
        store, problems = self.index.vectors, []
        try:
            near = await _asearch(store)(text, k=self.fetch_k)
        except NotImplementedError:
            problems.append(self._no_scores(store))
            near = _by_rank(await store.asimilarity_search(text, k=self.fetch_k))
        words: list[tuple[str, float]] = []
        if self.words_weight:
            words = await asyncio.to_thread(self.index.words.search, text, self.fetch_k)
        known = {str(document.id): document for document, _ in near}
        missing = [name for name, _ in words if name not in known]
        more = await asyncio.to_thread(self.index.words.get, missing) if missing else {}
        return fused(near, words, weight=self.words_weight), {**known, **more}, problems

    def _no_scores(self, store: VectorStore) -> str:
        problem = f"{type(store).__name__} tells no scores, the order of its results stands in"
        if not self._told:
            self._told = True
            _LOG.warning(problem)
        return problem

    def _vectors(self, names: Sequence[str]) -> Mapping[str, Any]:
        store = self.index.vectors
        return store.vectors_of(names) if isinstance(store, FaissVectors) else {}

    def _selected(
        self,
        relevance: Mapping[str, float],
        documents: Mapping[str, Document],
        vectors: Mapping[str, Any],
        problems: Sequence[str],
    ) -> Selection:
        count = counter_for(self.model).count_text
        candidates = [
            Candidate(
                document=documents[name],
                relevance=value,
                tokens=count(written(documents[name])) + 2,  # the lines between
                vector=vectors.get(name),
            )
            for name, value in relevance.items()
            if name in documents
        ]
        best = max((candidate.relevance for candidate in candidates), default=0.0)
        chosen, left = pack(
            candidates,
            max_tokens=self.max_tokens,
            most=self.k,
            least=max(self.score_threshold, self.score_ratio * best),
            diversity=self.diversity,
            size_exponent=self.size_exponent,
        )
        told = list(problems)
        if not candidates:
            told.append("no document was found; see whether the index has any")
        elif not chosen and any(each.reason == "no room" for each in left):
            smallest = min(each.tokens for each in left if each.reason == "no room")
            told.append(
                f"no document fits: max_tokens is {self.max_tokens}, the smallest relevant one has "
                f"{smallest}"
            )
        irrelevant = {each.id for each in left if each.reason == "not relevant"}
        return Selection(
            documents=tuple(in_order(chosen, _is_stable)),
            tokens=sum(each.tokens for each in chosen),
            tokens_found=sum(each.tokens for each in candidates if each.id not in irrelevant),
            relevance={each.id: each.relevance for each in chosen},
            left=tuple(left),
            problems=tuple(told),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Citations:
    """What an answer names."""

    ids: tuple[str, ...]
    """Of documents that were given, in the order in which they are named."""
    unknown: tuple[str, ...]
    """What looks like a citation and is the id of no document."""


def cited(answer: str, documents: Sequence[Document]) -> Citations:
    """Return the documents that an answer names as `[id]`, or `[id, id]`.

    >>> cited("It opens at nine [hours], on Sundays too [made up].", [Document("...", id="hours")])
    Citations(ids=('hours',), unknown=('made up',))
    """
    known = {str(document.id) for document in documents}
    named: list[str] = []
    for match in _CITED.finditer(answer):
        inside = match.group(1).strip()
        parts = [inside] if inside in known else re.split(r"\s*[,;]\s*", inside)
        named += [part.strip() for part in parts if part.strip()]
    unique = list(dict.fromkeys(named))
    return Citations(
        ids=tuple(name for name in unique if name in known),
        unknown=tuple(name for name in unique if name not in known),
    )


def _search(store: VectorStore) -> Any:
    if isinstance(store, FaissVectors):
        return store.similarity_search_with_score
    return store._similarity_search_with_relevance_scores  # the public one warns of small ones


def _asearch(store: VectorStore) -> Any:
    if isinstance(store, FaissVectors):
        return store.asimilarity_search_with_score
    return store._asimilarity_search_with_relevance_scores


def _by_rank(documents: Sequence[Document]) -> Found:
    return [(document, 1 - n / len(documents)) for n, document in enumerate(documents)]


def _next_questions(
    question: str,
    relevance: Mapping[str, float],
    documents: Mapping[str, Document],
    asked: set[str],
) -> list[tuple[str, float]]:
    """Return what the best documents speak of beyond the question, each document once.

    With the share of its relevance that what is found so gets: less with each hop.
    """
    best = sorted(relevance, key=lambda name: (-relevance[name], name))
    new = [name for name in best if name in documents and name not in asked][:_HOP_FROM]
    asked.update(new)
    known = set(_WORD.findall(question.casefold()))
    highest = relevance[best[0]] if best else 1.0
    texts = (
        (
            " ".join(
                word
                for word in _WORD.findall(documents[name].page_content)
                if word.casefold() not in known
            ),
            _HOP_DECAY * relevance[name] / highest,
        )
        for name in new
    )
    return [(text, share) for text, share in texts if text]


def _is_stable(document: Document) -> bool:
    return bool(document.metadata.get(STABLE))


def _checked(question: str) -> str:
    given: Any = question
    if not isinstance(given, str) or not given.strip():
        raise ConfigurationError(f"expected a question to find documents for, got {question!r}")
    return storable(question)


def _prompt_input(given: str | PromptInput) -> tuple[PromptInput, str]:
    told: PromptInput = {"query": given} if isinstance(given, str) else given
    query: Any = told.get("query")
    if isinstance(query, list):  # content blocks
        query = " ".join(
            str(block.get("text", "")) if isinstance(block, Mapping) else str(block)
            for block in query
        )
    return told, query


def _question_of(state: Mapping[str, Any], key: str | None) -> str:
    if key is not None:
        return str(state.get(key) or "")
    return last_human_text(convert_to_messages(state.get("messages") or []))
