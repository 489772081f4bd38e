"""Answers jobs: together, and alone what did not come back."""

import random
import threading
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace

from langchain_core.messages import BaseMessage
from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.runnables.config import merge_configs

from langchain_tokenopt.batching.combine_queue import Job
from langchain_tokenopt.batching.combine_wire import Item, Wire
from langchain_tokenopt.errors import BatchAnswerError, TokenOptError

# A request that failed so would fail again, whatever is in it.
_PASSING = frozenset({401, 403, 404, 408, 409, 425, 429})
_PASSING_NAMES = ("Timeout", "Connection")


@dataclass(frozen=True, slots=True, kw_only=True)
class CombinedStats:
    """What was asked so far."""

    requests: int = 0
    """Combined ones, those for one item not counted."""
    items: int = 0
    """That were in combined requests."""
    singles: int = 0
    """Requests for one item."""
    missing: int = 0
    """Items that had no answer, or none that was certain, and were asked again alone."""
    unknown: int = 0
    """Answers to no item."""
    wrong: int = 0
    """Answers that contradict each other, echo another item, or are not of the asked kind."""
    split: int = 0
    """Combined requests that failed and were asked again in two halves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One call of the model."""

    items: tuple[Item, ...]
    runnable: Runnable[Sequence[BaseMessage], BaseMessage]
    messages: list[BaseMessage]
    config: RunnableConfig


Answered = BaseMessage | Exception


class Solver:
    """Turns jobs into requests and what comes back into their answers."""

    def __init__(
        self,
        wire: Wire,
        *,
        together: Runnable[Sequence[BaseMessage], BaseMessage],
        alone: Runnable[Sequence[BaseMessage], BaseMessage],
        attempts: int,
        shuffle: random.Random | None,
    ) -> None:
        self._wire = wire
        self._together = together
        self._alone = alone
        self._attempts = attempts
        self._shuffle = shuffle
        self._lock = threading.Lock()
        self.stats = CombinedStats()

    def solve(self, jobs: Sequence[Job]) -> Generator[list[Request], list[Answered], None]:
        """Yield rounds of requests, be sent what came back, and settle every job."""
        texts = list(dict.fromkeys(job.text for job in jobs))
        if self._shuffle is not None:
            with self._lock:
                self._shuffle.shuffle(texts)
        items = self._wire.items(texts)
        waiting = {item.id: [job for job in jobs if job.text == item.text] for item in items}
        tries = dict.fromkeys(waiting, 0)
        groups = [items]
        while groups:
            # What nobody waits for any longer is not asked again.
            wanted = [[i for i in group if _any_wanted(waiting[i.id])] for group in groups]
            requests = [self._request(group, jobs) for group in wanted if group]
            if not requests:
                return
            answered = yield requests
            groups = []
            for request, answer in zip(requests, answered, strict=True):
                groups += self._settle(request.items, answer, waiting, tries)

    def _request(self, items: Sequence[Item], jobs: Sequence[Job]) -> Request:
        alone = len(items) == 1
        self._count(
            requests=not alone, items=0 if alone else len(items), singles=alone
        )  # fmt: skip
        about: RunnableConfig = {
            "metadata": {"tokenopt_items": len(items)},
            "run_name": "combined_batch",
        }
        return Request(
            items=tuple(items),
            runnable=self._alone if alone else self._together,
            messages=self._wire.single(items[0]) if alone else self._wire.messages(items),
            config=merge_configs(jobs[0].config, about),
        )

    def _settle(
        self,
        items: Sequence[Item],
        answer: Answered,
        waiting: dict[str, list[Job]],
        tries: dict[str, int],
    ) -> list[list[Item]]:
        """Give answers to those who wait, and return what is to be asked again."""
        if len(items) == 1:
            return self._settle_alone(items[0], answer, waiting, tries)
        if isinstance(answer, Exception):
            if _passing(answer):
                for item in items:
                    _fail(waiting[item.id], answer)
                return []
            self._count(split=1)
            half = len(items) // 2
            return [list(items[:half]), list(items[half:])]
        read = self._wire.read(answer, items)
        for name, value in read.by_id.items():
            for job in waiting[name]:
                job.settle(value)
        again = [item for item in items if item.id not in read.by_id]
        self._count(missing=len(again), unknown=read.unknown, wrong=read.wrong)
        return [[item] for item in again]

    def _settle_alone(
        self,
        item: Item,
        answer: Answered,
        waiting: dict[str, list[Job]],
        tries: dict[str, int],
    ) -> list[list[Item]]:
        if isinstance(answer, Exception):
            _fail(waiting[item.id], answer)
            return []
        try:
            value = self._wire.read_single(answer)
        except ValueError as error:
            tries[item.id] += 1
            if tries[item.id] < self._attempts:
                return [[item]]
            message = (
                f"the model gave no usable answer to {item.text!r:.80} in {self._attempts} "
                f"attempts, the last was {str(answer.text)!r:.80}: {error}"
            )
            _fail(waiting[item.id], BatchAnswerError(message))
            return []
        for job in waiting[item.id]:
            job.settle(value)
        return []

    def _count(self, **more: int) -> None:
        with self._lock:
            now = self.stats
            self.stats = replace(now, **{name: getattr(now, name) + n for name, n in more.items()})


def _any_wanted(jobs: Sequence[Job]) -> bool:
    return any(job.wanted for job in jobs)


def _fail(jobs: Sequence[Job], error: Exception) -> None:
    for job in jobs:
        job.fail(error)


def _passing(error: Exception) -> bool:
    """Return whether each item alone would fail in the same way, now."""
    if isinstance(error, TokenOptError):
        return True  # a budget that is used up, for one
    status = getattr(error, "status_code", None)
    if isinstance(status, int):
        return status in _PASSING or status >= 500
    return isinstance(error, ConnectionError | TimeoutError) or any(
        part in type(error).__name__ for part in _PASSING_NAMES
    )
