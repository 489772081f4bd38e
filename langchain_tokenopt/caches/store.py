"""What keeps entries: the protocol that memory, SQLite and others implement, and its counts."""

import threading
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from langchain_tokenopt.errors import StoreError

__all__ = ["Held", "Store", "StoreError", "StoreEvents", "StoreSize", "Tally"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreSize:
    """How much a store holds."""

    entries: int
    bytes: int
    """Of the encoded entries."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreEvents:
    """What a store did by itself."""

    evicted: int = 0
    expired: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """An entry with what a copy of it must keep."""

    value: bytes
    ttl_s: float | None
    """Seconds that it may still be served, `None` for ever."""
    tags: frozenset[str] = frozenset()


class Store(Protocol):
    """Keeps bytes under 32-byte keys. Batched: a key that is not found is absent in the result."""

    @property
    def source(self) -> str:
        """The name that hits carry: `memory`, `sqlite`."""
        ...

    def get(self, keys: Iterable[bytes]) -> dict[bytes, bytes]:
        """Return the entries that are there and have not expired."""
        ...

    def held(self, keys: Iterable[bytes]) -> dict[bytes, Held]:
        """Return the entries as `get` does, with their remaining life and tags."""
        ...

    def put(
        self, entries: Mapping[bytes, bytes], *, ttl_s: float | None, tags: Collection[str] = ()
    ) -> None:
        """Keep entries for `ttl_s` seconds, `None` for ever; returned means kept.

        Entries that are written again lose the tags that they had.
        """
        ...

    def delete(self, keys: Iterable[bytes]) -> None:
        """Forget entries; unknown keys are no error."""
        ...

    def invalidate(self, tags: Iterable[str]) -> int:
        """Forget the entries that have one of the tags; return how many they were."""
        ...

    def clear(self) -> None:
        """Forget everything."""
        ...

    async def aget(self, keys: Iterable[bytes]) -> dict[bytes, bytes]:
        """Do what `get` does without blocking the event loop."""
        ...

    async def aheld(self, keys: Iterable[bytes]) -> dict[bytes, Held]:
        """Do what `held` does without blocking the event loop."""
        ...

    async def aput(
        self, entries: Mapping[bytes, bytes], *, ttl_s: float | None, tags: Collection[str] = ()
    ) -> None:
        """Do what `put` does without blocking the event loop."""
        ...

    async def adelete(self, keys: Iterable[bytes]) -> None:
        """Do what `delete` does without blocking the event loop."""
        ...

    async def ainvalidate(self, tags: Iterable[str]) -> int:
        """Do what `invalidate` does without blocking the event loop."""
        ...

    async def aclear(self) -> None:
        """Do what `clear` does without blocking the event loop."""
        ...

    def size(self) -> StoreSize:
        """Return how much is held."""
        ...

    def events(self) -> StoreEvents:
        """Return what was evicted and what expired since the store was made."""
        ...

    def close(self) -> None:
        """Release what is held; the store may be used again."""
        ...


class Tally:
    """Counts that threads share.

    >>> tally = Tally()
    >>> tally.add("hits")
    >>> tally.of("hits"), tally.of("misses")
    (1, 0)
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[str, int] = {}

    def add(self, name: str, n: int = 1) -> None:
        """Add `n`."""
        with self._lock:
            self._counts[name] = self._counts.get(name, 0) + n

    def of(self, name: str) -> int:
        """Return the count so far."""
        return self._counts.get(name, 0)
