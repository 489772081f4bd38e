"""Demonstrations for few-shot prompts: unlike questions, each with reasoning that was checked."""

import asyncio
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from langchain_core.embeddings import Embeddings
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage
from langchain_core.runnables import Runnable, RunnableConfig
from numpy.typing import NDArray

from langchain_tokenopt.errors import ConfigurationError
from langchain_tokenopt.reasoning.extract import Extractor, same_answer
from langchain_tokenopt.reasoning.prompting import Example, Style
from langchain_tokenopt.reasoning.result import ReasoningResult, ReasoningUsage
from langchain_tokenopt.reasoning.self_consistency import SelfConsistency
from langchain_tokenopt.tokens import counter_for


@dataclass(frozen=True, slots=True, kw_only=True)
class ChosenExamples:
    """Demonstrations, and how they were found."""

    examples: tuple[Example, ...]
    """One a cluster, that of the largest cluster first; a cluster where none held has none."""
    rejected: tuple[tuple[str, str], ...]
    """Questions that were tried, and why they are no demonstration."""
    usage: ReasoningUsage
    reason: str = ""
    """Why there are fewer examples than asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Demonstrations:
    r"""How demonstrations are chosen (Auto-CoT, arXiv 2210.03493), with a check of the answers.

    The questions are clustered by their embeddings, so that the demonstrations are unlike each
    other. In each cluster the question nearest to the centre is answered with a chain of thought;
    if its answer holds and it is short, it is the demonstration, else the next one is tried. An
    answer holds if it is the right one, where that is known, else if `agree` samples all give it.

    Args:
        model: Writes the chains.
        embeddings: Of the questions.
        answer: Reads the answers.
        k: Clusters, and so demonstrations at most.
        tries: Questions to try in a cluster.
        agree: Samples that must agree where the right answer is not known.
        max_question_tokens: Longer questions are no demonstration; they cost in every call.
        max_steps: Nor are chains of more lines.
        style: Of the chains, as in `ChainOfThought`.
        seed: Of the clusters.

    >>> from langchain_tokenopt.embeddings import StaticEmbeddings
    >>> from langchain_tokenopt.reasoning import extract
    >>> from langchain_tokenopt.testing import ScriptedModel
    >>> model = ScriptedModel(["2 + 2 = 4.\nAnswer: 4"], when_exhausted="repeat_last")
    >>> how = Demonstrations(model=model, embeddings=StaticEmbeddings(), answer=extract.number, k=1)
    >>> how.choose(["2 + 2?", "What is 2 + 2?"], golds=[4, 4]).examples[0].text
    '2 + 2 = 4.\nAnswer: 4'
    """

    model: BaseChatModel | Runnable[Any, AIMessage]
    embeddings: Embeddings
    answer: Extractor
    k: int = 4
    tries: int = 5
    agree: int = 2
    max_question_tokens: int = 60
    max_steps: int = 5
    style: Style = "full"
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse numbers that choose nothing."""
        low = {name: getattr(self, name) for name in ("k", "tries") if getattr(self, name) < 1}
        if self.agree < 2:
            low["agree"] = self.agree
        if low:
            message = f"expected k and tries of at least 1 and agree of at least 2, got {low}"
            raise ConfigurationError(message)

    def choose(
        self,
        questions: Sequence[str],
        *,
        golds: Sequence[Any] | None = None,
        config: RunnableConfig | None = None,
    ) -> ChosenExamples:
        """Return demonstrations out of `questions`.

        Args:
            questions: At least `k`, like those that will be asked.
            golds: The right answers, as the extractor reads them; `None` for one not known.
            config: Reaches every call; a budget among the callbacks ends the search.
        """
        pool = _Pool.of(questions, golds, self.k)
        clusters = self._clusters(pool, self.embeddings.embed_documents(list(pool.questions)))
        found = _Found()
        for cluster in clusters:
            search = self._search(cluster, found)
            try:
                asked = next(search)
                while True:
                    asked = search.send(self._asks(asked).invoke(asked.question, config))
            except StopIteration:
                continue
        return found.chosen(self.k)

    async def achoose(
        self,
        questions: Sequence[str],
        *,
        golds: Sequence[Any] | None = None,
        config: RunnableConfig | None = None,
    ) -> ChosenExamples:
        """Do what `choose` does without blocking the event loop."""
        pool = _Pool.of(questions, golds, self.k)
        vectors = await self.embeddings.aembed_documents(list(pool.questions))
        found = _Found()
        for cluster in await asyncio.to_thread(self._clusters, pool, vectors):
            search = self._search(cluster, found)
            try:
                asked = next(search)
                while True:
                    asked = search.send(await self._asks(asked).ainvoke(asked.question, config))
            except StopIteration:
                continue
        return found.chosen(self.k)

    def _asks(self, candidate: "_Candidate") -> SelfConsistency:
        return SelfConsistency(
            self.model,
            answer=self.answer,
            style=self.style,
            n=self.agree if candidate.gold is None else 1,
            stop="never",
        )

    def _search(self, cluster: Sequence["_Candidate"], found: "_Found") -> "_Search":
        for candidate in cluster[: self.tries]:
            if found.spent:
                return
            tokens = counter_for().count_text(candidate.question)
            if tokens > self.max_question_tokens:
                found.rejected.append((candidate.question, f"the question has {tokens} tokens"))
                continue
            result = yield candidate
            found.usage.extend(result.usage.rows)
            if result.stop_reason == "budget":
                found.spent = result.reason
                return
            why = self._objection(result, candidate.gold)
            if why is None:
                found.examples.append(Example(candidate.question, result.text))
                return
            found.rejected.append((candidate.question, why))

    def _objection(self, result: ReasoningResult, gold: Any) -> str | None:
        if result.answer is None:
            return "no answer could be read"
        if gold is not None and not same_answer(self.answer)(result.answer, gold):
            return f"the answer {result.answer} is not {gold}"
        votes = result.votes[0].votes if result.votes else 0
        if gold is None and votes < self.agree:
            return f"{self.agree} samples do not agree"
        steps = sum(bool(line.strip()) for line in result.text.splitlines())
        return f"the chain has {steps} lines" if steps > self.max_steps else None

    def _clusters(
        self, pool: "_Pool", vectors: Sequence[Sequence[float]]
    ) -> list[list["_Candidate"]]:
        """Return the clusters, the largest first, each from its centre outwards."""
        import faiss  # noqa: PLC0415 - slow to load, and needed here alone

        points = np.asarray(vectors, dtype=np.float32)
        points /= np.maximum(np.linalg.norm(points, axis=1, keepdims=True), 1e-12)
        means = faiss.Kmeans(
            points.shape[1], self.k, spherical=True, seed=self.seed, min_points_per_centroid=1
        )
        means.train(points)
        likeness: NDArray[np.float32] = points @ np.asarray(means.centroids).T
        nearest = likeness.argmax(axis=1)
        clusters = [
            sorted(np.flatnonzero(nearest == at), key=lambda n, at=at: -likeness[n, at])  # type: ignore[misc]  # the index is bound on purpose
            for at in range(self.k)
        ]
        clusters.sort(key=len, reverse=True)
        return [[pool.candidate(int(n)) for n in members] for members in clusters if members]


_Search: TypeAlias = "Generator[_Candidate, ReasoningResult, None]"


@dataclass(frozen=True, slots=True)
class _Candidate:
    question: str
    gold: Any


@dataclass(frozen=True, slots=True)
class _Pool:
    questions: tuple[str, ...]
    golds: tuple[Any, ...]

    @classmethod
    def of(cls, questions: Sequence[str], golds: Sequence[Any] | None, k: int) -> "_Pool":
        if isinstance(questions, str) or len(questions) < k:
            message = f"expected at least {k} questions to choose {k} from, got {len(questions)}"
            raise ConfigurationError(message)
        if golds is not None and len(golds) != len(questions):
            message = f"expected one right answer a question, got {len(golds)} of {len(questions)}"
            raise ConfigurationError(message)
        return cls(tuple(questions), tuple(golds or [None] * len(questions)))

    def candidate(self, at: int) -> _Candidate:
        return _Candidate(self.questions[at], self.golds[at])


@dataclass(slots=True)
class _Found:
    examples: list[Example] = field(default_factory=list)
    rejected: list[tuple[str, str]] = field(default_factory=list)
    usage: list[Any] = field(default_factory=list)
    spent: str = ""

    def chosen(self, k: int) -> ChosenExamples:
        missing = k - len(self.examples)
        reason = f"{missing} of {k} clusters had no question whose answer held" if missing else ""
        return ChosenExamples(
            examples=tuple(self.examples),
            rejected=tuple(self.rejected),
            usage=ReasoningUsage.of(self.usage),
            reason=self.spent or reason,
        )
