"""Tells what kind of task a question is, by its likeness to examples; or says that it cannot."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from langchain_core.embeddings import Embeddings
from langchain_core.messages import BaseMessage
from langchain_core.runnables import RunnableConfig
from numpy.typing import NDArray

from langchain_tokenopt.errors import ConfigurationError
from langchain_tokenopt.messages import last_human_text
from langchain_tokenopt.routing.cascade_state import Route
from langchain_tokenopt.routing.profiles import TASKS, TaskProfile

_NEAREST = 3
_LEAST = 0.05
"""A closeness that nothing is divided by less than: examples that have nothing in common."""
_Table: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskMatch:
    """What kind of task a question is taken for."""

    task: str | None
    """`None` where it is like no kind, or like two."""
    likeness: float
    """Mean cosine to the nearest examples of the likeliest kind."""
    margin: float
    """How much more it is like that kind than like the next."""
    reason: str


class TaskClassifier:
    """Finds the kind of a task by the nearest examples, and abstains where they do not tell.

    A question is left undecided if it is not like any kind, is less like its kind than the kind's
    examples are like each other, or is as much like another kind. The three bounds are fitted when
    they are first needed, from the examples themselves: each is classified by the others, and a
    bound is set so that the share `abstain` of them would have fallen below. Questions vary more
    than examples: expect more of them undecided, and some of a kind that nobody described decided.

    Args:
        embeddings: Of questions and examples.
        profiles: The kinds; at least two, with three examples each.
        abstain: Share of examples that each bound may leave undecided.

    >>> from langchain_tokenopt.embeddings import StaticEmbeddings
    >>> classifier = TaskClassifier(StaticEmbeddings())
    >>> classifier.classify("Write a Java method that sorts a list of names.").task
    'code'
    >>> classifier.classify("Wo ist der Bahnhof?").task is None
    True
    """

    def __init__(
        self,
        embeddings: Embeddings,
        profiles: Sequence[TaskProfile] = TASKS,
        *,
        abstain: float = 0.05,
    ) -> None:
        names = [profile.name for profile in profiles]
        few = [p.name for p in profiles if len(p.examples) < _NEAREST]
        if len(names) < 2 or len(set(names)) < len(names) or few:
            message = (
                f"expected two or more kinds of different names with {_NEAREST} examples each, "
                f"got {names}" + (f", too few examples of {few}" if few else "")
            )
            raise ConfigurationError(message)
        if not 0 <= abstain < 1:
            raise ConfigurationError(f"abstain is a share from 0 to below 1, got {abstain}")
        self.profiles: Mapping[str, TaskProfile] = {p.name: p for p in profiles}
        self._embeddings = embeddings
        self._abstain = abstain
        self._texts = [example for profile in profiles for example in profile.examples]
        self._kinds = np.array(
            [at for at, profile in enumerate(profiles) for _ in profile.examples]
        )
        self._names = names
        self._fitted: _Fitted | None = None

    def classify(self, question: str) -> TaskMatch:
        """Return the kind of one question."""
        return self.classify_all([question])[0]

    def classify_all(self, questions: Sequence[str]) -> list[TaskMatch]:
        """Return the kind of each question."""
        if not questions:
            return []
        fitted = self._fitted or self._fit(self._embeddings.embed_documents(self._texts))
        return self._matches(fitted, _unit(self._embeddings.embed_documents(list(questions))))

    async def aclassify(self, question: str) -> TaskMatch:
        """Do what `classify` does without blocking the event loop."""
        return (await self.aclassify_all([question]))[0]

    async def aclassify_all(self, questions: Sequence[str]) -> list[TaskMatch]:
        """Do what `classify_all` does without blocking the event loop."""
        if not questions:
            return []
        fitted = self._fitted or self._fit(await self._embeddings.aembed_documents(self._texts))
        vectors = await self._embeddings.aembed_documents(list(questions))
        return self._matches(fitted, _unit(vectors))

    def _fit(self, vectors: Sequence[Sequence[float]]) -> "_Fitted":
        examples = _unit(vectors)
        likeness = examples @ examples.T
        np.fill_diagonal(likeness, -np.inf)  # each by the others
        scores = self._scores(likeness)
        own = scores[np.arange(len(self._kinds)), self._kinds]
        closeness = np.array(
            [max(np.median(own[self._kinds == kind]), _LEAST) for kind in range(len(self._names))]
        )
        right = scores.argmax(axis=1) == self._kinds
        ranked = np.sort(scores, axis=1)
        found = own, own / closeness[self._kinds], ranked[:, -1] - ranked[:, -2]
        bounds = [self._bound(each[right]) for each in found]
        # Fitted twice at once is the same twice.
        self._fitted = _Fitted(examples, closeness, *bounds)
        return self._fitted

    def _bound(self, values: _Table) -> float:
        """Return what `abstain` of the values are below; without values, what nothing reaches."""
        return float(np.quantile(values, self._abstain)) if values.size else np.inf

    def _scores(self, likeness: _Table) -> _Table:
        """Return the mean of the nearest examples of each kind, by question and kind."""
        columns = []
        for kind in range(len(self._names)):
            own = np.sort(likeness[:, self._kinds == kind], axis=1)[:, -_NEAREST:]
            columns.append(own.mean(axis=1, where=np.isfinite(own)))
        return np.stack(columns, axis=1)

    def _matches(self, fitted: "_Fitted", questions: _Table) -> list[TaskMatch]:
        scores = self._scores(questions @ fitted.examples.T)
        return [self._match(fitted, row) for row in scores]

    def _match(self, fitted: "_Fitted", scores: _Table) -> TaskMatch:
        order = np.argsort(scores)[::-1]
        name, likeness = self._names[order[0]], float(scores[order[0]])
        margin = likeness - float(scores[order[1]])
        closeness = float(fitted.closeness[order[0]])
        alike = likeness >= fitted.least_likeness
        if not alike or likeness / closeness < fitted.least_share:
            reason = f"like no kind: {likeness:.2f} to {name}, whose examples have {closeness:.2f}"
            task = None
        elif margin < fitted.least_margin:
            task, reason = None, f"as much like {name} as like {self._names[order[1]]}"
        else:
            task, reason = name, f"like examples of {name}"
        return TaskMatch(task=task, likeness=likeness, margin=margin, reason=reason)


@dataclass(frozen=True, slots=True)
class _Fitted:
    examples: _Table
    closeness: _Table
    """How alike the examples of each kind are among themselves."""
    least_likeness: float
    least_share: float
    """Of the closeness."""
    least_margin: float


def _unit(vectors: Sequence[Sequence[float]]) -> _Table:
    table = np.asarray(vectors, dtype=np.float64)
    table = table.reshape(len(vectors), -1)
    return np.asarray(table / np.maximum(np.linalg.norm(table, axis=1, keepdims=True), 1e-12))


def by_task(classifier: TaskClassifier, tiers: Mapping[str, str]) -> "TaskChooser":
    """Return a chooser that starts each kind of task at its tier; others at the first.

    Args:
        classifier: Tells the kinds.
        tiers: The tier to start at, by the name of the kind.

    Raises:
        ConfigurationError: A kind is not known.
    """
    unknown = set(tiers) - set(classifier.profiles)
    if unknown:
        message = (
            f"no kind of task is called {', '.join(sorted(unknown))}; known are "
            f"{', '.join(classifier.profiles)}"
        )
        raise ConfigurationError(message)
    return TaskChooser(classifier, dict(tiers))


@dataclass(frozen=True, slots=True)
class TaskChooser:
    """Starts a request at the tier of its kind; for `start=` of a cascade."""

    classifier: TaskClassifier
    tiers: Mapping[str, str]

    def __call__(self, messages: Sequence[BaseMessage], config: RunnableConfig) -> Route | None:
        """Return where to start."""
        return self._route(self.classifier.classify(last_human_text(messages)))

    async def achoose(
        self, messages: Sequence[BaseMessage], config: RunnableConfig
    ) -> Route | None:
        """Do what calling does without blocking the event loop; for asynchronous graphs."""
        return self._route(await self.classifier.aclassify(last_human_text(messages)))

    def _route(self, match: TaskMatch) -> Route | None:
        tier = self.tiers.get(match.task or "")
        return None if tier is None else Route(tier=tier, reason=match.reason)
