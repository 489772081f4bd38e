"""Jobs that wait for others to share a request with."""

import contextlib
import heapq
import itertools
from collections.abc import Hashable, Sequence
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field
from typing import Any

from langchain_core.callbacks import BaseCallbackHandler, BaseCallbackManager
from langchain_core.runnables import RunnableConfig
from langchain_core.tracers.base import BaseTracer


@dataclass(eq=False, slots=True, kw_only=True)
class Job:
    """An item that somebody waits for."""

    text: str
    tokens: int
    priority: float
    config: RunnableConfig
    due: float
    """When it is sent at the latest, if there is a request to spare; a time of the clock."""
    answer: "Future[Any]" = field(default_factory=Future)

    @property
    def wanted(self) -> bool:
        """Whether anybody still waits for it."""
        return not self.answer.done()

    def settle(self, value: Any) -> None:
        """Give the answer to who waits, if anybody does."""
        with contextlib.suppress(InvalidStateError):
            self.answer.set_result(value)

    def fail(self, error: BaseException) -> None:
        """Tell who waits what went wrong, if anybody does."""
        with contextlib.suppress(InvalidStateError):
            self.answer.set_exception(error)


class Waiting:
    """Jobs in the order of their priority, the oldest first among equals. Not for several threads.

    Args:
        max_items: Of one request.
        max_tokens: Of the items of one request; a larger item goes alone.
    """

    def __init__(self, *, max_items: int, max_tokens: int) -> None:
        self._max_items = max_items
        self._max_tokens = max_tokens
        self._heap: list[tuple[float, int, Job]] = []
        self._numbers = itertools.count()

    def add(self, job: Job) -> None:
        """Queue a job."""
        heapq.heappush(self._heap, (-job.priority, next(self._numbers), job))

    @property
    def full(self) -> bool:
        """Whether there is enough for a request."""
        wanted = [job for _, _, job in self._heap if job.wanted]
        return (
            len(wanted) >= self._max_items or sum(job.tokens for job in wanted) >= self._max_tokens
        )

    @property
    def due(self) -> float | None:
        """When the first of the jobs is to be sent, `None` if nobody waits."""
        return min((job.due for _, _, job in self._heap if job.wanted), default=None)

    def take(self) -> list[Job]:
        """Return the jobs of the next request, those that nobody waits for left out."""
        taken: list[Job] = []
        tokens = 0
        while self._heap and len(taken) < self._max_items:
            job = self._heap[0][2]
            if not job.wanted:
                heapq.heappop(self._heap)
                continue
            if taken and tokens + job.tokens > self._max_tokens:
                break
            heapq.heappop(self._heap)
            taken.append(job)
            tokens += job.tokens
        return taken


def partition_of(config: RunnableConfig) -> Hashable:
    """Return what jobs must have in common to share a request: tenant, feature and listeners."""
    metadata = config.get("metadata") or {}
    told = tuple(
        (name, str(metadata[name])) for name in ("tenant", "feature", "endpoint", "user")
        if metadata.get(name) is not None
    )  # fmt: skip
    return (*told, *map(_name_of, _handlers(config)))


def _name_of(handler: BaseCallbackHandler) -> Hashable:
    # LangChain makes a tracer anew for each call: one is as good as another.
    return type(handler).__qualname__ if isinstance(handler, BaseTracer) else id(handler)


def _handlers(config: RunnableConfig) -> Sequence[BaseCallbackHandler]:
    callbacks = config.get("callbacks")
    if isinstance(callbacks, BaseCallbackManager):
        return callbacks.inheritable_handlers
    return callbacks or ()
