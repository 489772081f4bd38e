"""Tokens and requests a minute: LangChain's own limiter knows requests a second."""

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from uuid import uuid4

from langchain_core.rate_limiters import BaseRateLimiter
from typing_extensions import override

from langchain_tokenopt.batching.limit_window import (
    LONGEST_WAIT_S,
    MemoryWindow,
    Rates,
    Taken,
    Window,
)
from langchain_tokenopt.errors import ConfigurationError, StoreError

_LOG = logging.getLogger(__name__)
# A Redis that failed is left alone for a second, then twice as long each time, up to half a minute.
_FIRST_REST_S, _LONGEST_REST_S = 1.0, 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """Room that was taken for a request."""

    second: int
    tokens: int
    window: Window


@dataclass(frozen=True, slots=True, kw_only=True)
class LimiterStats:
    """What a limiter did so far."""

    requests: int = 0
    waited: int = 0
    """Requests that had to wait."""
    waited_s: float = 0.0
    pauses: int = 0
    """Times that a provider said to wait."""
    failures: int = 0
    """Times that the shared window could not be asked, and this process went on by itself."""


class RateLimiter(BaseRateLimiter):
    """Keeps to a provider's tokens and requests a minute: no sixty seconds hold more.

    Whoever came first is served first, so that small requests do not pass a large one by. As
    `rate_limiter=` of a LangChain model it counts requests; `RateLimitedChatModel` counts tokens
    too. With a `RedisWindow` all processes and hosts share the limits; while that is away each goes
    on with a share of them.

    Args:
        tokens_per_minute: Input and output together, as the provider counts them.
        requests_per_minute: Of the same account and model.
        window: Where it is counted, by default in this process.
        share_when_away: Of the limits, while a shared window cannot be asked: one through the
            number of processes.

    Raises:
        ConfigurationError: No limit is given, or one is below 1.

    >>> limiter = RateLimiter(tokens_per_minute=90_000, requests_per_minute=500)
    >>> limiter.acquire()
    True
    """

    def __init__(
        self,
        *,
        tokens_per_minute: int | None = None,
        requests_per_minute: int | None = None,
        window: Window | None = None,
        share_when_away: float = 0.25,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        async_sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        given = (tokens_per_minute, requests_per_minute)
        if all(most is None for most in given) or any(m is not None and m < 1 for m in given):
            message = (
                "expected tokens_per_minute or requests_per_minute, or both, of at least 1, got "
                f"{tokens_per_minute} and {requests_per_minute}"
            )
            raise ConfigurationError(message)
        if not 0 < share_when_away <= 1:
            message = f"share_when_away must be above 0 and at most 1, got {share_when_away}"
            raise ConfigurationError(message)
        self.rates = Rates(tokens=tokens_per_minute, requests=requests_per_minute)
        self._away = Rates(
            tokens=_share(tokens_per_minute, share_when_away),
            requests=_share(requests_per_minute, share_when_away),
        )
        self._own = MemoryWindow(clock=clock)
        self._window: Window = window or self._own
        self._clock, self._sleep, self._async_sleep = clock, sleep, async_sleep
        self._lock = threading.Lock()
        self._line: deque[Future[None]] = deque()
        self._rest_until = float("-inf")
        self._rest_s = _FIRST_REST_S
        self.stats = LimiterStats()

    @override
    def acquire(self, *, blocking: bool = True) -> bool:
        if blocking:
            self.take(0)
            return True
        return self._at_once(0) is not None

    @override
    async def aacquire(self, *, blocking: bool = True) -> bool:
        if blocking:
            await self.atake(0)
            return True
        if self._window.blocks:
            return await asyncio.to_thread(self._at_once, 0) is not None
        return self._at_once(0) is not None

    def take(self, tokens: int) -> Lease:
        """Return once there is room for a request of so many tokens."""
        tokens, waiter, began = self._fitting(tokens), uuid4().hex, self._clock()
        turn = self._stand_in_line()
        waited = not turn.done()
        try:
            turn.result()
            while True:
                lease, wait_s = self._ask(waiter, tokens)
                if lease is not None:
                    self._served(began, waited=waited)
                    return lease
                waited = True
                self._sleep(min(wait_s, LONGEST_WAIT_S))
        except BaseException:
            self._left(waiter)
            raise
        finally:
            self._leave_line(turn)

    async def atake(self, tokens: int) -> Lease:
        """Do what `take` does without blocking the event loop."""
        tokens, waiter, began = self._fitting(tokens), uuid4().hex, self._clock()
        turn = self._stand_in_line()
        waited = not turn.done()
        try:
            await asyncio.shield(asyncio.wrap_future(turn))
            while True:
                if self._window.blocks:
                    lease, wait_s = await asyncio.to_thread(self._ask, waiter, tokens)
                else:
                    lease, wait_s = self._ask(waiter, tokens)
                if lease is not None:
                    self._served(began, waited=waited)
                    return lease
                waited = True
                await self._async_sleep(min(wait_s, LONGEST_WAIT_S))
        except BaseException:
            if self._window.blocks:
                # A Redis forgets by itself, within seconds, who does not ask again.
                raise
            self._left(waiter)
            raise
        finally:
            self._leave_line(turn)

    def settle(self, lease: Lease, *, used: int | None) -> None:
        """Count what a request used instead of what was taken for it; `None` if it was not sent."""
        more = -lease.tokens if used is None else used - lease.tokens
        fewer = -1 if used is None else 0
        if more or fewer:
            try:
                lease.window.correct(lease.second, more, fewer)
            except StoreError as error:
                self._failed(error)

    def pause(self, seconds: float) -> None:
        """Let nobody who shares the limits send for a while: a provider said so."""
        with self._lock:
            self.stats = replace(self.stats, pauses=self.stats.pauses + 1)
        self._own.pause(seconds)
        if self._window is not self._own:
            try:
                self._window.pause(seconds)
            except StoreError as error:
                self._failed(error)

    @property
    def blocks(self) -> bool:
        """Whether asking takes so long that an event loop must not wait for it."""
        return self._window.blocks

    def _fitting(self, tokens: int) -> int:
        """Return tokens that can be had at all: estimates of output are cut to what is allowed."""
        return tokens if self.rates.tokens is None else min(tokens, self.rates.tokens)

    def _ask(self, waiter: str, tokens: int) -> tuple[Lease | None, float]:
        """Return room for a request, or how long to wait before asking again."""
        if self._window is self._own:
            return _lease(self._own, self._own.take(waiter, tokens, self.rates), tokens)
        if self._clock() >= self._rest_until:
            try:
                taken = self._window.take(waiter, tokens, self.rates)
                self._rest_s = _FIRST_REST_S
                return _lease(self._window, taken, tokens)
            except StoreError as error:
                self._failed(error)
        # More than its share a process never gets, however long it waits.
        tokens = tokens if self._away.tokens is None else min(tokens, self._away.tokens)
        return _lease(self._own, self._own.take(waiter, tokens, self._away), tokens)

    def _at_once(self, tokens: int) -> Lease | None:
        with self._lock:
            if self._line:
                return None
        waiter = uuid4().hex
        lease, _ = self._ask(waiter, tokens)
        if lease is None:
            self._left(waiter)
        else:
            self._served(self._clock(), waited=False)
        return lease

    def _stand_in_line(self) -> "Future[None]":
        turn: Future[None] = Future()
        with self._lock:
            self._line.append(turn)
            if self._line[0] is turn:
                turn.set_result(None)
        return turn

    def _leave_line(self, turn: "Future[None]") -> None:
        with self._lock:
            self._line.remove(turn)
            if self._line and not self._line[0].done():
                self._line[0].set_result(None)

    def _left(self, waiter: str) -> None:
        if self._clock() < self._rest_until:
            return
        try:
            self._window.leave(waiter)
        except StoreError as error:
            self._failed(error)

    def _served(self, began: float, *, waited: bool) -> None:
        with self._lock:
            self.stats = replace(
                self.stats,
                requests=self.stats.requests + 1,
                waited=self.stats.waited + waited,
                waited_s=self.stats.waited_s + (self._clock() - began if waited else 0.0),
            )

    def _failed(self, error: StoreError) -> None:
        with self._lock:
            self.stats = replace(self.stats, failures=self.stats.failures + 1)
            first = self.stats.failures == 1
            self._rest_until = self._clock() + self._rest_s
            self._rest_s = min(2 * self._rest_s, _LONGEST_REST_S)
        if first:
            _LOG.warning(
                "the shared rate limits cannot be asked, this process goes on with its share: %s",
                error,
            )


def _lease(window: Window, taken: Taken, tokens: int) -> tuple[Lease | None, float]:
    if taken.second is None:
        return None, taken.wait_s
    return Lease(second=taken.second, tokens=tokens, window=window), 0.0


def _share(most: int | None, share: float) -> int | None:
    return None if most is None else max(int(most * share), 1)
