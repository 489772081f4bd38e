"""Who makes a call that several want: one in this process and, with a lease, one of all."""

from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Iterator
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    asynccontextmanager,
    contextmanager,
)
from dataclasses import dataclass
from threading import Lock
from typing import Protocol
from weakref import WeakKeyDictionary

from langchain_core.caches import BaseCache
from langchain_core.outputs import ChatGeneration, ChatResult

from langchain_tokenopt.caches.flight import SingleFlight, Turn
from langchain_tokenopt.caches.keys import CacheKey
from langchain_tokenopt.caches.replay import settled

Answers = list[ChatGeneration]

_flights: WeakKeyDictionary[BaseCache, SingleFlight[Answers]] = WeakKeyDictionary()
_flights_lock = Lock()


class Hold(Protocol):
    """A lease that is held, or what another holder has made meanwhile."""

    @property
    def found(self) -> Answers | None:
        """What another made; `None` if it is to be made now."""
        ...

    @property
    def touch(self) -> Callable[[], None]:
        """Says that the call goes on."""
        ...


class Leases(Protocol):
    """Lets one process at a time do what a key stands for; see `Lease`."""

    def held(
        self, key: bytes, *, look: Callable[[], Answers | None], stall_s: float | None = None
    ) -> AbstractContextManager[Hold]:
        """Hold a lease in a block, or find what another made."""
        ...

    def aheld(
        self,
        key: bytes,
        *,
        look: Callable[[], Awaitable[Answers | None]],
        stall_s: float | None = None,
    ) -> AbstractAsyncContextManager[Hold]:
        """Do what `held` does without blocking the event loop."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Lead:
    """The lead of a call, or what spares it."""

    turn: Turn[Answers]
    shared: Answers | None = None
    """What an identical call of this process was answered."""
    found: Answers | None = None
    """What was kept meanwhile, ready to be served."""
    hold: Hold | None = None

    def pause(self) -> None:
        """Say that from here on the call depends on its caller, not on the model."""
        self.turn.pause()

    def resume(self) -> None:
        """Say that the model is being waited for again."""
        self.turn.resume()
        if self.hold is not None:
            self.hold.touch()


class Leads:
    """Gives the first caller of a key the lead; the others wait for its answer.

    Args:
        cache: Models that share it share calls too.
        lease: For other processes; `None` for this one only.
        stall_s: How long a stream whose consumer does not read keeps other processes waiting.
    """

    def __init__(self, cache: BaseCache, *, lease: Leases | None, stall_s: float = 1.0) -> None:
        self._cache = cache
        self._lease = lease
        self._stall_s = stall_s

    @contextmanager
    def take(
        self, key: Hashable, *, again: Callable[[], Answers | None], streams: bool
    ) -> Iterator[Lead]:
        """Wait for one's turn; `again` looks whether the answer was kept meanwhile."""
        flights = self._flights()
        with flights.take_turn(key) as turn:
            # For a call that ended between the caller's look-up and its turn.
            found = again() if turn.shared is None and flights.landed_lately(key) else None
            leased = self._leased(key, turn)
            if turn.shared is not None or found is not None or leased is None:
                yield Lead(turn=turn, shared=turn.shared, found=found)
                return
            lease, digest = leased
            stall_s = self._stall_s if streams else None
            with lease.held(digest, look=again, stall_s=stall_s) as hold:
                yield _of(turn, hold)

    @asynccontextmanager
    async def atake(
        self, key: Hashable, *, again: Callable[[], Awaitable[Answers | None]], streams: bool
    ) -> AsyncIterator[Lead]:
        """Do what `take` does without blocking the event loop."""
        flights = self._flights()
        with await flights.atake_turn(key) as turn:
            found = await again() if turn.shared is None and flights.landed_lately(key) else None
            leased = self._leased(key, turn)
            if turn.shared is not None or found is not None or leased is None:
                yield Lead(turn=turn, shared=turn.shared, found=found)
                return
            lease, digest = leased
            stall_s = self._stall_s if streams else None
            async with lease.aheld(digest, look=again, stall_s=stall_s) as hold:
                yield _of(turn, hold)

    def _flights(self) -> SingleFlight[Answers]:
        with _flights_lock:
            return _flights.setdefault(self._cache, SingleFlight())

    def _leased(self, key: Hashable, turn: Turn[Answers]) -> tuple[Leases, bytes] | None:
        """Return the lease to ask for, `None` if this call waits for no other process."""
        # One that overtook a stalled call of this process would wait for that call's lease.
        leads = turn.leads and not turn.overtook
        if self._lease is None or not isinstance(key, CacheKey) or not leads:
            return None
        return self._lease, key.digest


def _of(turn: Turn[Answers], hold: Hold) -> Lead:
    if hold.found is not None:
        turn.deliver(settled(ChatResult(generations=hold.found)))
    return Lead(turn=turn, found=hold.found, hold=hold)
