"""A kept question, what was decided with it, and the protocol of what keeps questions."""

import asyncio
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Generic, ParamSpec, Protocol, TypeVar

from langchain_core.outputs import Generation

from langchain_tokenopt.caches.decision import Vector
from langchain_tokenopt.caches.likeness import WordWeights
from langchain_tokenopt.caches.question import Question
from langchain_tokenopt.caches.template import Packed

P = ParamSpec("P")
T = TypeVar("T")
K = TypeVar("K")
V = TypeVar("V")


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptQuestion:
    """A question and its answer."""

    id: int
    question: Question
    packed: Packed
    answer: str
    group: int
    """Questions whose answers agreed share it."""
    expires_at: float
    tags: frozenset[str]


@dataclass(slots=True)
class Decision:
    """What was found for a request, until its answer comes."""

    question: Question
    vector: Sequence[float]
    near: list[KeptQuestion]
    similarities: Sequence[float]
    """Cosines of what is near."""
    chosen: KeptQuestion | None = None
    similarity: float = 0.0
    x: Vector | None = None
    risk: float = 1.0
    takes: bool = False
    audited: bool = False


class Questions(Protocol):
    """Keeps the questions of a semantic cache; apart from `learned`, no method raises."""

    @property
    def words(self) -> WordWeights:
        """How rare the words of the kept questions are."""
        ...

    @property
    def failures(self) -> int:
        """How often what keeps them failed; the calls went on without it."""
        ...

    @property
    def in_memory(self) -> bool:
        """Whether no method waits for a disk or a network, so that an event loop may call it."""
        ...

    def near(
        self, question: Question, vector: Sequence[float], *, most: int
    ) -> tuple[list[KeptQuestion], list[float]]:
        """Return the nearest kept questions of the same partition, and their cosines."""
        ...

    def add(
        self,
        question: Question,
        vector: Sequence[float],
        *,
        answer: Generation,
        group: int | None,
        ttl_s: float | None,
        tags: frozenset[str],
    ) -> None:
        """Keep a question; without a group its answer is one that was not there before."""
        ...

    def used(self, entry: KeptQuestion) -> None:
        """Note that an entry was served; this never waits."""
        ...

    def forget(self, id_: int) -> bool:
        """Forget an entry; return whether it was there."""
        ...

    def invalidate(self, tags: Collection[str]) -> int:
        """Forget the entries with one of the tags; return how many they were."""
        ...

    def clear(self) -> None:
        """Forget everything but what was learned."""
        ...

    def learned(self) -> list[float] | None:
        """Return the coefficients that were saved last, `None` if there are none.

        Raises:
            StoreError: They cannot be read now.
        """
        ...

    def save(self, coefficients: Sequence[float]) -> None:
        """Keep what the risk model has learned."""
        ...

    def close(self) -> None:
        """Release what is held open; the next call opens it again."""
        ...

    def __len__(self) -> int:
        """Return how many are kept, as far as that is known here."""
        ...


async def off_loop(kept: Questions, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Return what `work` does with the questions, without blocking the event loop."""
    if kept.in_memory:
        return work(*args, **kwargs)
    return await asyncio.to_thread(work, *args, **kwargs)


class Recent(Generic[K, V]):
    """The last ten thousand values by key, for threads."""

    def __init__(self, *, most: int = 10_000) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._values: OrderedDict[K, V] = OrderedDict()

    def put(self, key: K, value: V) -> None:
        """Keep a value; the oldest makes room."""
        with self._lock:
            self._values[key] = value
            if len(self._values) > self._most:
                self._values.popitem(last=False)

    def get(self, key: K) -> V | None:
        """Return the value, `None` without one."""
        return self._values.get(key)

    def pop(self, key: K) -> V | None:
        """Return the value, and forget it."""
        with self._lock:
            return self._values.pop(key, None)

    def clear(self) -> None:
        """Forget all."""
        with self._lock:
            self._values.clear()
