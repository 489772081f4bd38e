"""One call of a deployment, with a second one beside it where the first takes long."""

import asyncio
import queue
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator, Mapping
from contextvars import copy_context
from dataclasses import dataclass, field
from typing import Any

from langchain_core.outputs import ChatGenerationChunk, ChatResult

from langchain_tokenopt.routing.balance_audience import AsyncSide, Side
from langchain_tokenopt.routing.balance_board import Turn
from langchain_tokenopt.routing.deployment_fault import Fault
from langchain_tokenopt.wrapping import merged


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    """A call that is answered, or a stream that gave its first token."""

    turn: Turn
    result: ChatResult | None = None
    stream: Generator[ChatGenerationChunk] | None = None
    astream: AsyncGenerator[ChatGenerationChunk] | None = None
    chunks: list[ChatGenerationChunk] = field(default_factory=list)
    """What the stream gave so far."""

    async def drop(self) -> None:
        """Close the stream, for nobody reads it."""
        self.turn.left()
        if self.astream is not None:
            await self.astream.aclose()


@dataclass(frozen=True, slots=True, kw_only=True)
class Missed:
    """A call that failed."""

    turn: Turn
    error: BaseException
    fault: Fault | None
    """What is wrong with the deployment, `None` where another one need not be asked."""


Second = Callable[[], tuple[Turn, Side] | None]
"""Takes a turn for the second call and tells of it; `None` if there is to be none."""
AsyncSecond = Callable[[], Awaitable[tuple[Turn, AsyncSide] | None]]


class ThreadRace:
    """Two calls in threads of their own; the caller waits for the first answer.

    A thread cannot be stopped. The one that comes too late ends by itself, closes its stream, and
    tells the callbacks what it was.
    """

    def __init__(self, begin: Callable[[Turn], Begun | Missed]) -> None:
        self._begin = begin
        self._lock = threading.Lock()
        self._over = self._decided = False
        self._come: queue.SimpleQueue[Begun | Missed] = queue.SimpleQueue()
        self._side: Side | None = None

    def run(self, first: Turn, *, after_s: float, second: Second) -> Begun | Missed:
        """Return the first answer; if both calls fail, what became of the first."""
        try:
            self._start(first)
            came = self._within(after_s)
            if came is None:
                hedge = second()
                if hedge is not None:
                    turn, self._side = hedge
                    self._start(turn)
                came = self._come.get()
            if isinstance(came, Begun) or self._side is None or came.fault is None:
                return came
            other = self._come.get()
            if isinstance(other, Missed) and other.turn.hedge:
                came, other = other, came
            self._side.failed(came.error)
            return other
        finally:
            with self._lock:
                self._over = True

    def _within(self, seconds: float) -> Begun | Missed | None:
        try:
            return self._come.get(timeout=seconds)
        except queue.Empty:
            return None

    def _start(self, turn: Turn) -> None:
        # A daemon: whoever ends the process must not wait for an answer that nobody wants.
        threading.Thread(
            target=copy_context().run,
            args=(self._call, turn),
            name=f"deployment {turn.deployment.name}",
            daemon=True,
        ).start()

    def _call(self, turn: Turn) -> None:
        came: Begun | Missed
        try:
            came = self._begin(turn)
        except BaseException as error:  # noqa: BLE001 - raised by the caller, who waits for it
            came = Missed(turn=turn, error=error, fault=None)
        with self._lock:
            late = self._over
            if not late:
                self._over = self._decided = isinstance(came, Begun) or came.fault is None
                self._come.put(came)
        if late:
            self._too_late(came)

    def _too_late(self, came: Begun | Missed) -> None:
        side = self._side
        if isinstance(came, Begun) and came.stream is not None:
            came.stream.close()
            came.turn.left()
        if side is None or not (self._decided or came.turn.hedge):
            return  # the caller was interrupted, whose run ended then
        if isinstance(came, Missed):
            side.failed(came.error)
        elif came.result is not None:
            side.paid(came.result)
        else:
            side.abandoned(merged(came.chunks).generations, deployment=came.turn.deployment.name)


async def arace(
    begin: Callable[[Turn], Coroutine[Any, Any, Begun | Missed]],
    first: Turn,
    *,
    after_s: float,
    second: AsyncSecond,
) -> Begun | Missed:
    """Return the first answer of two calls; if both fail, what became of the first.

    The call that is too late is cancelled, and over before this returns.
    """
    running = {asyncio.create_task(begin(first)): first}
    side: AsyncSide | None = None
    missed: list[Missed] = []
    came: Begun | Missed | None = None
    try:
        try:
            done, _ = await asyncio.wait(running, timeout=after_s)
            if not done:
                hedge = await second()
                if hedge is not None:
                    turn, side = hedge
                    running[asyncio.create_task(begin(turn))] = turn
            while running and came is None:
                done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                call = done.pop()
                del running[call]
                ended = call.result()
                if isinstance(ended, Missed) and ended.fault is not None:
                    missed.append(ended)
                else:
                    came = ended
        finally:
            await _dismiss(running, side)
        missed.sort(key=lambda each: each.turn.hedge)
        if missed and side is not None:
            await side.failed(missed[-1].error)
    except BaseException:
        if isinstance(came, Begun):  # cancelled with an answer in hand
            await came.drop()
        raise
    return missed[0] if came is None else came


async def _dismiss(
    running: Mapping["asyncio.Task[Begun | Missed]", Turn], side: AsyncSide | None
) -> None:
    """Cancel calls that nobody waits for, and tell of the one that is not the caller's own run."""
    for call in running:
        call.cancel()
    for call, turn in running.items():
        await asyncio.wait([call])
        turn.left()
        came = None if call.cancelled() else call.exception() or call.result()
        if isinstance(came, Begun):
            await came.drop()
        if side is None or not (turn.hedge or len(running) == 1):
            continue
        if isinstance(came, Begun) and came.result is not None:
            await side.paid(came.result)
        elif isinstance(came, Missed):
            await side.failed(came.error)
        elif isinstance(came, BaseException):
            await side.failed(came)
        else:
            so_far = [] if came is None else merged(came.chunks).generations
            await side.abandoned(so_far, deployment=turn.deployment.name)
