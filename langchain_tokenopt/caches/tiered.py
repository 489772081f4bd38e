"""Stores in a row: the quick one first, the shared ones behind it."""

import asyncio
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from langchain_tokenopt.caches.changes import Changes
from langchain_tokenopt.caches.circuit import CLEAR, FAILED, Circuit, Operation, TierStats
from langchain_tokenopt.caches.store import Held, Store, StoreError, StoreEvents, StoreSize
from langchain_tokenopt.errors import ConfigurationError

_MOST_ABSENT = 10_000


@dataclass(frozen=True, slots=True)
class CacheTier:
    """A store in a row of stores."""

    store: Store
    ttl_s: float | None = None
    """Keep entries here no longer than this, in seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """An entry and the tier that had it."""

    held: Held
    tier: str


class TieredStore:
    """Ask the first store, then the next; keep what is found in those before.

    A copy in a quicker tier lives as long as the original has left, no longer. Writes go to every
    tier, deletions too. A tier that fails is skipped and tried again with growing pauses, and the
    others go on; what it missed meanwhile (deletions, overwritten entries) is made up for before it
    is asked again, so nothing stale comes back with it. Only when every tier fails does an
    operation raise `StoreError`.

    Args:
        tiers: The quickest first.
        negative_ttl_s: Remember for so long that no tier has an entry, in seconds; an entry that
            another host writes meanwhile is found late. `None` asks every time.
        clock: Seconds, for tests.
    """

    source = "tiered"

    def __init__(
        self,
        tiers: Sequence[CacheTier | Store],
        *,
        negative_ttl_s: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not tiers:
            message = "a tiered store needs at least one tier, got none"
            raise ConfigurationError(message)
        if negative_ttl_s is not None and negative_ttl_s <= 0:
            message = f"negative_ttl_s must be more than 0, or None, got {negative_ttl_s}"
            raise ConfigurationError(message)
        given = [tier if isinstance(tier, CacheTier) else CacheTier(tier) for tier in tiers]
        self._circuits = [Circuit(tier.store, ttl_s=tier.ttl_s, clock=clock) for tier in given]
        self._negative_ttl_s = negative_ttl_s
        self._clock = clock
        self._lock = threading.Lock()
        self._absent: OrderedDict[bytes, float] = OrderedDict()
        self._changes = Changes()

    def locate(self, keys: Iterable[bytes]) -> dict[bytes, Found]:
        """Return the entries that are there, each with the name of the tier that had it.

        Raises:
            StoreError: No tier could be asked.
        """
        search, mark = _Search(self._unless_absent(keys)), self._changes.mark()
        for depth, circuit in enumerate(self._circuits):
            if search.missing:
                held = circuit.attempt(Operation("held", (search.missing,)))
                search.note(circuit, held)
                for above, copy in self._promotions(depth, held):
                    above.attempt(copy)
                for above, stale in self._outdated(depth, held, mark):
                    above.attempt(stale)
        return self._ended(search)

    async def alocate(self, keys: Iterable[bytes]) -> dict[bytes, Found]:
        """Do what `locate` does without blocking the event loop."""
        search, mark = _Search(self._unless_absent(keys)), self._changes.mark()
        for depth, circuit in enumerate(self._circuits):
            if search.missing:
                held = await circuit.aattempt(Operation("held", (search.missing,)))
                search.note(circuit, held)
                for above, copy in self._promotions(depth, held):
                    await above.aattempt(copy)
                for above, stale in self._outdated(depth, held, mark):
                    await above.aattempt(stale)
        return self._ended(search)

    def get(self, keys: Iterable[bytes]) -> dict[bytes, bytes]:
        """Return the entries that are there."""
        return {key: found.held.value for key, found in self.locate(keys).items()}

    def held(self, keys: Iterable[bytes]) -> dict[bytes, Held]:
        """Return the entries that are there with their remaining life and tags."""
        return {key: found.held for key, found in self.locate(keys).items()}

    def put(
        self, entries: Mapping[bytes, bytes], *, ttl_s: float | None, tags: Collection[str] = ()
    ) -> None:
        """Keep entries in every tier.

        Raises:
            StoreError: No tier kept them.
        """
        self._now_present(entries)
        with self._changes.under_way(entries.keys()):
            written = [
                circuit.attempt(_put(circuit, entries, ttl_s, tags)) for circuit in self._circuits
            ]
        self._raise_if_none(written)

    def delete(self, keys: Iterable[bytes]) -> None:
        """Forget entries in every tier, in those that fail as soon as they are back."""
        gone = tuple(keys)
        with self._changes.under_way(gone):
            for circuit in self._circuits:
                circuit.attempt(_delete(gone))

    def invalidate(self, tags: Iterable[str]) -> int:
        """Forget the entries with one of the tags in every tier; return the most of any tier."""
        operation = _invalidate(tuple(tags))
        with self._changes.under_way(None):
            return _most([circuit.attempt(operation) for circuit in self._circuits])

    def clear(self) -> None:
        """Forget everything in every tier."""
        self._now_present(None)
        with self._changes.under_way(None):
            for circuit in self._circuits:
                circuit.attempt(_CLEAR)

    async def aget(self, keys: Iterable[bytes]) -> dict[bytes, bytes]:
        """Do what `get` does without blocking the event loop."""
        return {key: found.held.value for key, found in (await self.alocate(keys)).items()}

    async def aheld(self, keys: Iterable[bytes]) -> dict[bytes, Held]:
        """Do what `held` does without blocking the event loop."""
        return {key: found.held for key, found in (await self.alocate(keys)).items()}

    async def aput(
        self, entries: Mapping[bytes, bytes], *, ttl_s: float | None, tags: Collection[str] = ()
    ) -> None:
        """Do what `put` does without blocking the event loop, in all tiers at once."""
        self._now_present(entries)
        with self._changes.under_way(entries.keys()):
            written = await self._aall(lambda circuit: _put(circuit, entries, ttl_s, tags))
        self._raise_if_none(written)

    async def adelete(self, keys: Iterable[bytes]) -> None:
        """Do what `delete` does without blocking the event loop."""
        gone = tuple(keys)
        with self._changes.under_way(gone):
            await self._aall(lambda _: _delete(gone))

    async def ainvalidate(self, tags: Iterable[str]) -> int:
        """Do what `invalidate` does without blocking the event loop."""
        operation = _invalidate(tuple(tags))
        with self._changes.under_way(None):
            return _most(await self._aall(lambda _: operation))

    async def aclear(self) -> None:
        """Do what `clear` does without blocking the event loop."""
        self._now_present(None)
        with self._changes.under_way(None):
            await self._aall(lambda _: _CLEAR)

    async def _aall(self, operation: Callable[[Circuit], Operation]) -> list[Any]:
        return await asyncio.gather(*(c.aattempt(operation(c)) for c in self._circuits))

    def drop_copies(self, keys: Iterable[bytes] | None) -> None:
        """Forget the copies in all tiers but the last, `None` for all of them.

        For what says that another host changed an entry.
        """
        gone = None if keys is None else tuple(keys)
        self._now_present(gone)
        with self._changes.under_way(gone):
            for circuit in self._circuits[:-1]:
                circuit.attempt(_CLEAR if gone is None else _delete(gone))

    def size(self) -> StoreSize:
        """Return how much the last tier holds that can say so.

        Raises:
            StoreError: No tier can.
        """
        for circuit in reversed(self._circuits):
            size = circuit.attempt(Operation("size"))
            if isinstance(size, StoreSize):
                return size
        raise StoreError("no tier can be asked now")

    def events(self) -> StoreEvents:
        """Return what all tiers evicted and found expired."""
        events = [circuit.store.events() for circuit in self._circuits]
        return StoreEvents(
            evicted=sum(event.evicted for event in events),
            expired=sum(event.expired for event in events),
        )

    def tiers(self) -> list[TierStats]:
        """Return what each tier did."""
        return [circuit.stats() for circuit in self._circuits]

    def close(self) -> None:
        """Close every tier."""
        for circuit in self._circuits:
            circuit.store.close()

    def _promotions(self, depth: int, held: Any) -> Iterator[tuple[Circuit, Operation]]:
        """Yield the copies that the tiers above should keep, entries that are alike together."""
        if held is FAILED or not depth:
            return
        groups: dict[tuple[float | None, frozenset[str]], dict[bytes, bytes]] = {}
        for key, entry in held.items():
            groups.setdefault((entry.ttl_s, entry.tags), {})[key] = entry.value
        for (ttl_s, tags), entries in groups.items():
            for above in self._circuits[:depth]:
                yield above, _put(above, entries, ttl_s, tags)

    def _outdated(self, depth: int, held: Any, mark: int) -> Iterator[tuple[Circuit, Operation]]:
        """Yield what takes back copies of entries that changed since they were read."""
        if held is FAILED or not depth or not held:
            return
        stale = tuple(self._changes.since(mark, held))
        if stale:
            for above in self._circuits[:depth]:
                yield above, _delete(stale)

    def _unless_absent(self, keys: Iterable[bytes]) -> list[bytes]:
        if self._negative_ttl_s is None:
            return list(keys)
        now = self._clock()
        with self._lock:
            return [key for key in keys if self._absent.get(key, now) <= now]

    def _ended(self, search: "_Search") -> dict[bytes, Found]:
        if search.missing:
            self._raise_if_none(search.answers)
        # Only what every tier denied is known to be absent.
        if self._negative_ttl_s is not None and FAILED not in search.answers:
            until = self._clock() + self._negative_ttl_s
            with self._lock:
                self._absent |= dict.fromkeys(search.missing, until)
                while len(self._absent) > _MOST_ABSENT:
                    self._absent.popitem(last=False)
        return search.found

    def _now_present(self, keys: Iterable[bytes] | None) -> None:
        with self._lock:
            if keys is None:
                self._absent.clear()
                return
            for key in keys:
                self._absent.pop(key, None)

    def _raise_if_none(self, answers: Sequence[Any]) -> None:
        if answers and all(answer is FAILED for answer in answers):
            names = ", ".join(circuit.name for circuit in self._circuits)
            raise StoreError(f"every tier failed and is left alone for a moment: {names}")


class _Search:
    """What was found so far, and what is still missing."""

    def __init__(self, keys: list[bytes]) -> None:
        self.missing = keys
        self.found: dict[bytes, Found] = {}
        self.answers: list[Any] = []

    def note(self, circuit: Circuit, held: Any) -> None:
        self.answers.append(held)
        if held is FAILED:
            return
        circuit.looked(hits=len(held), of=len(self.missing))
        self.missing = [key for key in self.missing if key not in held]
        for key, entry in held.items():
            self.found[key] = Found(held=entry, tier=circuit.name)


_CLEAR = Operation("clear", owed=CLEAR)


def _put(
    circuit: Circuit, entries: Mapping[bytes, bytes], ttl_s: float | None, tags: Collection[str]
) -> Operation:
    options = (("ttl_s", circuit.life(ttl_s)), ("tags", tags))
    return Operation("put", (entries,), options, owed=Operation("delete", (tuple(entries),)))


def _delete(keys: tuple[bytes, ...]) -> Operation:
    return Operation("delete", (keys,), owed=Operation("delete", (keys,)))


def _invalidate(tags: tuple[str, ...]) -> Operation:
    return Operation("invalidate", (tags,), owed=Operation("invalidate", (tags,)))


def _most(counts: Iterable[Any]) -> int:
    return max((count for count in counts if isinstance(count, int)), default=0)
