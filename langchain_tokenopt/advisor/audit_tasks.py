"""Which kinds of prompts a smaller model might answer: a bound, since only labels can tell."""

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal

from langchain_core.embeddings import Embeddings

from langchain_tokenopt.advisor.audit_evidence import Example, example
from langchain_tokenopt.advisor.audit_facts import PICO, CallFacts
from langchain_tokenopt.routing import TaskClassifier

_EASY = 0.5
_AT_ONCE = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskShare:
    """One kind of task among the calls that were looked at."""

    task: str
    """`unknown` for questions that are like no kind, or like two."""
    calls: int
    cost: Decimal
    at_small: Decimal
    """What the same tokens cost at the smaller model."""
    is_easy: bool
    """Whether the kind is one that small models are known for; no word on a single question."""


@dataclass(slots=True)
class _Sum:
    calls: int = 0
    cost: int = 0
    small: int = 0


@dataclass(frozen=True, slots=True)
class _Looked:
    call: CallFacts
    cost: int
    small: int
    block: int


@dataclass(slots=True)
class TaskReplay:
    """Sorts a random share of the questions by kind.

    Args:
        embeddings: Of the questions.
        rate: The share of calls to look at.
        blocks: How many blocks of time there are.
        seed: Fixes the sample.
    """

    embeddings: Embeddings
    rate: float
    blocks: int
    seed: int = 0
    saved: list[int] = field(init=False)
    """By block: what moving all easy kinds would save, of the calls looked at."""
    looked_cost: list[int] = field(init=False)
    looked: int = 0
    easy_calls: int = 0
    without_price: int = 0
    """Calls that were looked at, and of which the smaller model's price is not known."""
    _waiting: list["_Looked"] = field(default_factory=list)
    _sums: dict[str, _Sum] = field(default_factory=lambda: defaultdict(_Sum))
    _examples: dict[str, Example] = field(default_factory=dict)
    _random: random.Random = field(init=False)
    _classifier: TaskClassifier = field(init=False)

    def __post_init__(self) -> None:
        """Make what belongs to this replay alone."""
        self.saved, self.looked_cost = [0] * self.blocks, [0] * self.blocks
        self._random = random.Random(self.seed)  # noqa: S311 - a sample
        self._classifier = TaskClassifier(self.embeddings)

    def add(self, call: CallFacts, *, cost: int, read: int, block: int) -> None:
        """Look at a call, if it falls in the sample.

        Args:
            call: The call.
            cost: What it costs now.
            read: What is read from the provider's cache now; the smaller model has one too.
            block: Of time.
        """
        if self._random.random() >= self.rate:
            return
        small = cost
        if call.small_cost is None:
            self.without_price += 1
        else:
            small = call.small_cost - (read - call.read) * call.small_read
        self._waiting.append(_Looked(call, cost, small, block))
        if len(self._waiting) >= _AT_ONCE:
            self.finish()

    def finish(self) -> None:
        """Sort what waits."""
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        matches = self._classifier.classify_all([each.call.question for each in waiting])
        for each, match in zip(waiting, matches, strict=True):
            task = (match.task if each.call.question else None) or "unknown"
            total = self._sums[task]
            total.calls += 1
            total.cost += each.cost
            total.small += each.small
            self.looked += 1
            self.looked_cost[each.block] += each.cost
            if self._is_easy(task):
                self.easy_calls += 1
                self.saved[each.block] += max(each.cost - each.small, 0)
                told = f"{task}: {each.call.question}"
                self._examples.setdefault(task, example(each.call.line, told))

    def _is_easy(self, task: str) -> bool:
        profile = self._classifier.profiles.get(task)
        return profile is not None and profile.complexity < _EASY

    def shares(self) -> Sequence[TaskShare]:
        """Return the kinds, the costliest first."""
        found = [
            TaskShare(
                task=task,
                calls=each.calls,
                cost=each.cost / PICO,
                at_small=each.small / PICO,
                is_easy=self._is_easy(task),
            )
            for task, each in self._sums.items()
        ]
        return sorted(found, key=lambda share: -share.cost)

    @property
    def examples(self) -> tuple[Example, ...]:
        """A question of each easy kind."""
        return tuple(self._examples.values())
