"""Let all that ask the same thing at the same time share one call, threads and tasks alike."""

import asyncio
import os
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from dataclasses import dataclass, field
from types import TracebackType
from typing import Generic, TypeVar

T = TypeVar("T")
_LATELY = 1_000


class Turn(Generic[T]):
    """What a caller got: the `shared` answer of an identical call, or the lead.

    A leader makes the call inside `with turn:` and hands its answer to `deliver`. Leaving the
    block without having delivered, by whatever exception, passes the lead to one that waits.
    """

    __slots__ = ("_caller", "_flight", "_flights", "overtook", "shared")

    def __init__(
        self,
        *,
        shared: T | None = None,
        flights: "SingleFlight[T] | None" = None,
        flight: "_Flight[T] | None" = None,
        caller: "_Caller | None" = None,
        overtook: bool = False,
    ) -> None:
        self.shared = shared
        self.overtook = overtook
        self._flights = flights
        self._flight = flight
        self._caller = caller

    @property
    def leads(self) -> bool:
        """Whether others wait for this call; not so inside the very call that they wait for."""
        return self._flights is not None

    def deliver(self, answer: T) -> None:
        """Release everyone who waits with `answer`; newcomers get it until the block ends."""
        if self._flights is not None and self._flight is not None:
            self._flights._land(self._flight, self, answer)

    def pause(self) -> None:
        """Say that from here on the call depends on the leader's caller, not on the model."""
        self._set_paused(paused=True)

    def resume(self) -> None:
        """Say that the model is being waited for again."""
        self._set_paused(paused=False)

    def _set_paused(self, *, paused: bool) -> None:
        if self._flights is not None and self._flight is not None:
            self._flights._touch(self._flight, self, paused=paused)

    def __enter__(self) -> "Turn[T]":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._flights is not None and self._flight is not None:
            self._flights._close(self._flight, self)


class SingleFlight(Generic[T]):
    """Give the first caller of a key the lead, and everyone else its answer.

    A leader that fails or is cancelled is followed by one of those that wait, who then tries on
    its own account: with a model that fails for good every caller gets its own error, one after
    the other. Nobody waits for a call that cannot go on: one led from the same thread or task is
    not waited for at all, a stream whose consumer has stopped reading is overtaken after
    `stall_s`, as is a task whose event loop waits for threads, by those that wait in threads; a
    call without a sign of life after `lease_s`.

    >>> flights = SingleFlight[str]()
    >>> with flights.take_turn("2 + 2?") as turn:
    ...     turn.shared or turn.deliver("4")
    """

    def __init__(
        self,
        *,
        stall_s: float = 1.0,
        lease_s: float = 300.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stall_s = stall_s
        self._lease_s = lease_s
        self._clock = clock
        self._reset()

    def _reset(self) -> None:
        self._pid = os.getpid()
        # Reentrant: the collector may close an abandoned stream while this thread holds it.
        self._lock = threading.RLock()
        self._flights: dict[Hashable, _Flight[T]] = {}
        self._landed: OrderedDict[Hashable, None] = OrderedDict()

    def landed_lately(self, key: Hashable) -> bool:
        """Return whether `key` was among the last thousand answered: an answer may be kept by now.

        A caller that looked for an answer before it took its turn should then look again.
        """
        with self._lock:
            return key in self._landed

    def take_turn(self, key: Hashable) -> Turn[T]:
        """Return the lead, or block until an identical call has its answer."""
        caller = _Caller.current()
        entered = self._enter(key, caller, blocking=True)
        if isinstance(entered, Turn):
            return entered
        flight, waiter = entered
        try:
            while True:
                try:
                    return waiter.turn.result(timeout=self._stall_s)
                except TimeoutError:
                    overtaken = self._overtake(flight, waiter, blocking=True)
                    if overtaken is not None:
                        return overtaken
        except BaseException:
            self._leave(flight, waiter)
            raise

    async def atake_turn(self, key: Hashable) -> Turn[T]:
        """Return the lead, or wait until an identical call has its answer."""
        caller = _Caller.current()
        entered = self._enter(key, caller, blocking=False)
        if isinstance(entered, Turn):
            return entered
        flight, waiter = entered
        awaited = asyncio.wrap_future(waiter.turn)
        try:
            while True:
                await asyncio.wait({awaited}, timeout=self._stall_s)
                if awaited.done():
                    return awaited.result()
                overtaken = self._overtake(flight, waiter)
                if overtaken is not None:
                    return overtaken
        except BaseException:
            self._leave(flight, waiter)
            raise

    def waiting(self, key: Hashable) -> int:
        """Return how many callers wait for the answer to `key`."""
        with self._lock:
            flight = self._flights.get(key)
            return len(flight.waiters) if flight else 0

    def _enter(
        self, key: Hashable, caller: "_Caller", *, blocking: bool
    ) -> "Turn[T] | tuple[_Flight[T], _Waiter[T]]":
        if os.getpid() != self._pid:  # a forked child has none of its parent's callers
            self._reset()
        with self._lock:
            flight = self._flights.get(key)
            if flight is None:
                flight = self._flights[key] = _Flight(key=key)
                return self._lead(flight, caller)
            if flight.answer is not None:
                return Turn(shared=flight.answer)
            if flight.leader is not None and flight.leader.blocked_by(caller, blocking=blocking):
                return Turn()
            waiter = _Waiter[T](caller=caller, blocking=blocking)
            flight.waiters.append(waiter)
            return flight, waiter

    def _lead(self, flight: "_Flight[T]", caller: "_Caller", *, overtook: bool = False) -> Turn[T]:
        turn = Turn(flights=self, flight=flight, caller=caller, overtook=overtook)
        flight.turn, flight.leader = turn, caller
        flight.paused, flight.touched = False, self._clock()
        return turn

    def _land(self, flight: "_Flight[T]", turn: Turn[T], answer: T) -> None:
        with self._lock:
            if flight.answer is not None:
                return
            flight.answer, flight.turn = answer, turn
            self._landed[flight.key] = None
            self._landed.move_to_end(flight.key)
            if len(self._landed) > _LATELY:
                self._landed.popitem(last=False)
            for waiter in flight.waiters:
                waiter.turn.set_result(Turn(shared=answer))
            flight.waiters.clear()

    def _touch(self, flight: "_Flight[T]", turn: Turn[T], *, paused: bool) -> None:
        with self._lock:
            if flight.turn is turn:
                flight.paused, flight.touched = paused, self._clock()

    def _close(self, flight: "_Flight[T]", turn: Turn[T]) -> None:
        with self._lock:
            if flight.turn is not turn:  # overtaken
                return
            if flight.answer is None and self._hand_over(flight):
                return
            if self._flights.get(flight.key) is flight:
                del self._flights[flight.key]

    def _hand_over(self, flight: "_Flight[T]") -> bool:
        """Give the lead to one that waits; blocked threads first, they may be holding a loop."""
        for waiter in sorted(flight.waiters, key=lambda waiter: not waiter.blocking):
            flight.waiters.remove(waiter)
            if waiter.reachable:
                waiter.turn.set_result(self._lead(flight, waiter.caller))
                return True
        return False

    def _overtake(
        self, flight: "_Flight[T]", waiter: "_Waiter[T]", *, blocking: bool = False
    ) -> Turn[T] | None:
        with self._lock:
            starved = blocking and flight.leader is not None and flight.leader.wants_threads()
            limit_s = self._stall_s if flight.paused or starved else self._lease_s
            if waiter.turn.done() or self._clock() - flight.touched < limit_s:
                return None
            flight.waiters.remove(waiter)
            return self._lead(flight, waiter.caller, overtook=True)

    def _leave(self, flight: "_Flight[T]", waiter: "_Waiter[T]") -> None:
        with self._lock:
            if waiter in flight.waiters:
                flight.waiters.remove(waiter)
                return
        if waiter.turn.done():
            with waiter.turn.result():  # the lead came too late for this caller: pass it on
                pass


@dataclass(frozen=True, slots=True)
class _Caller:
    """Who asks: a caller that waited for itself would wait for ever."""

    thread_id: int
    task: "asyncio.Task[object] | None"
    loop: asyncio.AbstractEventLoop | None

    @classmethod
    def current(cls) -> "_Caller":
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return cls(threading.get_ident(), None, None)
        return cls(threading.get_ident(), asyncio.current_task(loop), loop)

    def wants_threads(self) -> bool:
        """Return whether work waits for a thread of this caller's loop: we may be keeping it."""
        pool = getattr(self.loop, "_default_executor", None)
        queue = getattr(pool, "_work_queue", None)
        return queue is not None and queue.qsize() > 0

    def blocked_by(self, other: "_Caller", *, blocking: bool) -> bool:
        """Return whether this caller cannot go on while `other` waits."""
        if blocking:
            return self.thread_id == other.thread_id
        return self.task is not None and self.task is other.task


@dataclass(slots=True, eq=False)
class _Waiter(Generic[T]):
    caller: _Caller
    blocking: bool
    turn: "Future[Turn[T]]" = field(default_factory=Future)

    @property
    def reachable(self) -> bool:
        return self.blocking or self.caller.loop is None or not self.caller.loop.is_closed()


@dataclass(slots=True, eq=False)
class _Flight(Generic[T]):
    key: Hashable
    answer: T | None = None
    turn: Turn[T] | None = None
    leader: _Caller | None = None
    paused: bool = False
    touched: float = 0.0
    waiters: "deque[_Waiter[T]]" = field(default_factory=deque)
