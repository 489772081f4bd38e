"""One call for all processes that ask the same at the same time, agreed upon in Redis."""

import asyncio
import random
import threading
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import Generic, TypeVar

from langchain_tokenopt.caches.store import StoreError, Tally
from langchain_tokenopt.errors import ConfigurationError
from langchain_tokenopt.redis_client import (
    AsyncClient,
    Command,
    RedisClients,
    SyncClient,
    checked_namespace,
)

T = TypeVar("T")
_RELEASE = """
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0
"""
_RENEW = """
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
return 0
"""
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.005, 0.1
# A Redis that failed is left alone for a moment: not every call should wait for it.
_REST_S = 5.0


class Claim(Enum):
    """What came of asking for a lease."""

    HELD = "held"
    """Nobody else holds it until the block ends."""
    FREED = "freed"
    """Another held it and let go, or ended: what it made may be there now."""
    WITHOUT = "without"
    """Redis cannot be asked, or it took too long: go on without a lease."""


@dataclass(frozen=True, slots=True)
class Hold(Generic[T]):
    """A lease that is held, or what another holder has made."""

    found: T | None
    """What another has made; `None` if it is to be made now."""
    touch: Callable[[], None]
    """Says that the work goes on, where the lease is renewed for that only."""


class Lease:
    """Lets one process at a time do what a key stands for, while the others wait for it.

    A holder that ends without a word loses the lease after `life_s`; while it lives the lease is
    renewed. A Redis that fails costs one timeout every five seconds, and no call. Asking for a key
    inside its own block waits for itself, up to `wait_s`.

    >>> lease = Lease("redis://localhost:6379/0")  # connects when it is first used

    Args:
        url_or_client: See `RedisClients`.
        namespace: Begins every key.
        life_s: How long the lease of a process that was killed keeps others waiting.
        wait_s: How long a call waits for others before it goes on without a lease.
        longest_s: How long a lease is renewed at most, should its holder hang.
        async_client: See `RedisClients`.
        timeout_s: How long to wait for a connection, and for an answer.
        clock: Seconds, for tests.

    Raises:
        ConfigurationError: The URL, the namespace or a duration cannot be used.
    """

    def __init__(
        self,
        url_or_client: str | SyncClient,
        *,
        namespace: str = "tokenopt",
        life_s: float = 5.0,
        wait_s: float = 60.0,
        longest_s: float = 600.0,
        async_client: Callable[[], AsyncClient] | None = None,
        timeout_s: float = 0.5,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        for name, given in (("life_s", life_s), ("wait_s", wait_s), ("longest_s", longest_s)):
            if given <= 0:
                raise ConfigurationError(f"{name} must be more than 0 seconds, got {given}")
        self._clients = RedisClients(url_or_client, async_client=async_client, timeout_s=timeout_s)
        self._prefix = f"{checked_namespace(namespace)}:lease:"
        self._life_ms = max(1, round(life_s * 1000))
        self._wait_s = wait_s
        self._clock = clock
        self._renewals = _Renewals(
            self._clients, life_ms=self._life_ms, longest_s=longest_s, clock=clock
        )
        self._rests_until = 0.0
        self._tally = Tally()

    @property
    def failures(self) -> int:
        """How often Redis could not be asked."""
        return self._tally.of("failures")

    def once(self, key: bytes, *, look: Callable[[], T | None], make: Callable[[], T]) -> T:
        """Return what `look` finds, or `make` it while the others wait.

        Args:
            key: What is made.
            look: Finds what another has made, `None` if it is not there.
            make: Makes it, and puts it where `look` finds it. What it raises is raised here; the
                next of those that wait tries then.
        """
        with self.held(key, look=look) as hold:
            return make() if hold.found is None else hold.found

    async def aonce(
        self,
        key: bytes,
        *,
        look: Callable[[], Awaitable[T | None]],
        make: Callable[[], Awaitable[T]],
    ) -> T:
        """Do what `once` does without blocking the event loop."""
        async with self.aheld(key, look=look) as hold:
            return await make() if hold.found is None else hold.found

    @contextmanager
    def held(
        self, key: bytes, *, look: Callable[[], T | None], stall_s: float | None = None
    ) -> Iterator[Hold[T]]:
        """Hold the lease in this block, unless `look` finds what another has made meanwhile.

        What `found` is `None` for is to be made in the block, and put where `look` finds it.

        Args:
            key: What is made.
            look: Finds what another has made, `None` if it is not there.
            stall_s: Renew the lease no longer than this after the last `touch`, in seconds.
        """
        deadline = self._clock() + self._wait_s
        while True:
            with self._take(key, deadline, stall_s) as (claim, touch):
                # A holder looks too: the one before may have ended since the caller looked.
                found = None if claim is Claim.WITHOUT else look()
                if found is not None or claim is not Claim.FREED:
                    yield Hold(found=found, touch=touch)
                    return

    @asynccontextmanager
    async def aheld(
        self,
        key: bytes,
        *,
        look: Callable[[], Awaitable[T | None]],
        stall_s: float | None = None,
    ) -> AsyncIterator[Hold[T]]:
        """Do what `held` does without blocking the event loop."""
        deadline = self._clock() + self._wait_s
        while True:
            async with self._atake(key, deadline, stall_s) as (claim, touch):
                found = None if claim is Claim.WITHOUT else await look()
                if found is not None or claim is not Claim.FREED:
                    yield Hold(found=found, touch=touch)
                    return

    @contextmanager
    def take(self, key: bytes) -> Iterator[Claim]:
        """Hold the lease in this block, or wait until another has let it go."""
        with self._take(key, self._clock() + self._wait_s) as (claim, _):
            yield claim

    @asynccontextmanager
    async def atake(self, key: bytes) -> AsyncIterator[Claim]:
        """Do what `take` does without blocking the event loop."""
        async with self._atake(key, self._clock() + self._wait_s) as (claim, _):
            yield claim

    @contextmanager
    def _take(
        self, key: bytes, deadline: float, stall_s: float | None = None
    ) -> Iterator[tuple[Claim, Callable[[], None]]]:
        name, token = self._prefix + key.hex(), _token()
        claim = self._do(self._claim(name, token, deadline))
        if claim is not Claim.HELD:
            yield claim, _nothing
            return
        touch = partial(self._renewals.add, name, token, stall_s)
        touch()
        try:
            yield claim, touch
        finally:
            self._renewals.drop(name, token)
            with suppress(StoreError):  # it expires
                self._clients.send([_release(name, token)])

    @asynccontextmanager
    async def _atake(
        self, key: bytes, deadline: float, stall_s: float | None = None
    ) -> AsyncIterator[tuple[Claim, Callable[[], None]]]:
        name, token = self._prefix + key.hex(), _token()
        claim = await self._ado(self._claim(name, token, deadline))
        if claim is not Claim.HELD:
            yield claim, _nothing
            return
        touch = partial(self._renewals.add, name, token, stall_s)
        touch()
        try:
            yield claim, touch
        finally:
            self._renewals.drop(name, token)
            with suppress(StoreError):
                await self._clients.asend([_release(name, token)])

    def _claim(
        self, name: str, token: bytes, deadline: float
    ) -> Generator[Command | float, object, Claim]:
        """Yield commands, and seconds to pause."""
        if self._clock() < self._rests_until:
            return Claim.WITHOUT
        if (yield ("SET", name, token, "NX", "PX", self._life_ms)):
            return Claim.HELD
        pause_s = _FIRST_PAUSE_S
        while True:
            holder = yield ("GET", name)
            if holder == token:  # it was set, and only the answer was lost
                return Claim.HELD
            if holder is None:
                return Claim.FREED
            if self._clock() >= deadline:
                return Claim.WITHOUT
            yield min(pause_s, max(0.0, deadline - self._clock())) * random.uniform(0.5, 1.0)  # noqa: S311 - no secret
            pause_s = min(1.5 * pause_s, _LONGEST_PAUSE_S)

    def _do(self, steps: Generator[Command | float, object, Claim]) -> Claim:
        reply: object = None
        try:
            while True:
                step = steps.send(reply)
                if isinstance(step, float):
                    time.sleep(step)
                else:
                    reply = self._clients.send([step])[0]
        except StopIteration as done:
            claim: Claim = done.value
            return claim
        except StoreError:
            return self._failed()

    async def _ado(self, steps: Generator[Command | float, object, Claim]) -> Claim:
        reply: object = None
        try:
            while True:
                step = steps.send(reply)
                if isinstance(step, float):
                    await asyncio.sleep(step)
                else:
                    reply = (await self._clients.asend([step]))[0]
        except StopIteration as done:
            claim: Claim = done.value
            return claim
        except StoreError:
            return self._failed()

    def _failed(self) -> Claim:
        self._tally.add("failures")
        self._rests_until = self._clock() + _REST_S
        return Claim.WITHOUT

    def close(self) -> None:
        """Close the connections of threads; the next call opens them again."""
        self._renewals.close()
        self._clients.close()

    async def aclose(self) -> None:
        """Close the connections, those of this event loop before this returns."""
        await asyncio.to_thread(self._renewals.close)
        await self._clients.aclose()


class _Renewals:
    """A thread that renews what is held, while anything is.

    A thread for asynchronous holders too: a busy event loop must not lose its leases.
    """

    def __init__(
        self,
        clients: RedisClients,
        *,
        life_ms: int,
        longest_s: float,
        clock: Callable[[], float],
    ) -> None:
        self._clients = clients
        self._life_ms = life_ms
        self._longest_s = longest_s
        self._clock = clock
        self._changed = threading.Condition()
        self._held: dict[tuple[str, bytes], float] = {}
        self._thread: threading.Thread | None = None

    def add(self, name: str, token: bytes, for_s: float | None) -> None:
        with self._changed:
            self._held[name, token] = self._clock() + (for_s or self._longest_s)
            # A forked child has the object but not the thread.
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(
                    target=self._run, name="tokenopt-leases", daemon=True
                )
                self._thread.start()

    def drop(self, name: str, token: bytes) -> None:
        with self._changed:
            self._held.pop((name, token), None)

    def close(self) -> None:
        with self._changed:
            self._held.clear()
            thread, self._thread = self._thread, None
            self._changed.notify_all()
        if thread is not None:
            thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait(self._life_ms / 3000)
                now = self._clock()
                for lease in [lease for lease, end in self._held.items() if end <= now]:
                    del self._held[lease]
                if not self._held or self._thread is not threading.current_thread():
                    if self._thread is threading.current_thread():
                        self._thread = None
                    return
                held = list(self._held)
            with suppress(StoreError):  # tried again before it expires
                self._clients.send(
                    [("EVAL", _RENEW, 1, name, token, self._life_ms) for name, token in held]
                )


def _nothing() -> None:
    """Touch a lease that is not held."""


def _token() -> bytes:
    return uuid.uuid4().bytes


def _release(name: str, token: bytes) -> Command:
    return ("EVAL", _RELEASE, 1, name, token)
