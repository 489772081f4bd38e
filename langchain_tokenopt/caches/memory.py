"""Entries in this process, bounded by number and by bytes; a policy says which makes room."""

import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

from langchain_tokenopt.caches.eviction import Eviction, Lru
from langchain_tokenopt.caches.store import Held, StoreEvents, StoreSize
from langchain_tokenopt.errors import ConfigurationError

_NEVER = float("inf")


@dataclass(frozen=True, slots=True)
class _Entry:
    value: bytes
    expires_at: float
    tags: frozenset[str]


class MemoryStore:
    """A `Store` in memory. Reading is as quick as a dictionary, so the async twins do the same.

    Args:
        max_entries: Most entries to keep.
        max_bytes: Most bytes of keys and encoded values to keep; an entry larger than all of it
            is not kept.
        policy: Which entry makes room: `Lru` if not given, or `CostAware`. It belongs to this
            store alone.
        clock: Seconds, for tests.
    """

    source = "memory"

    def __init__(
        self,
        *,
        max_entries: int | None = 10_000,
        max_bytes: int | None = None,
        policy: Eviction | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        for name, bound in (("max_entries", max_entries), ("max_bytes", max_bytes)):
            if bound is not None and bound < 1:
                message = f"{name} must be at least 1, or None for no bound, got {bound}"
                raise ConfigurationError(message)
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._policy = Lru() if policy is None else policy
        self._used = self._policy.used
        self._clock = clock
        self._lock = threading.Lock()
        self._entries: dict[bytes, _Entry] = {}
        self._tagged: dict[str, set[bytes]] = {}
        self._bytes = 0
        self._evicted = 0
        self._expired = 0

    def get(self, keys: Iterable[bytes]) -> dict[bytes, bytes]:
        """Return the entries that are there, and count them as used."""
        found = {}
        with self._lock:
            for key in keys:
                entry = self._live(key)
                if entry is not None:
                    found[key] = entry.value
        return found

    def held(self, keys: Iterable[bytes]) -> dict[bytes, Held]:
        """Return the entries that are there with their remaining life, and count them as used."""
        found = {}
        with self._lock:
            for key in keys:
                entry = self._live(key)
                if entry is not None:
                    at = entry.expires_at
                    left = None if at == _NEVER else at - self._clock()
                    found[key] = Held(value=entry.value, ttl_s=left, tags=entry.tags)
        return found

    def _live(self, key: bytes) -> _Entry | None:
        entry = self._entries.get(key)
        if entry is None:
            return None
        if entry.expires_at != _NEVER and entry.expires_at <= self._clock():
            self._drop(key)
            self._expired += 1
            return None
        self._used(key)
        return entry

    def put(
        self, entries: Mapping[bytes, bytes], *, ttl_s: float | None, tags: Collection[str] = ()
    ) -> None:
        """Keep entries; those that the policy names make room."""
        expires_at = _NEVER if ttl_s is None else self._clock() + ttl_s
        marked = frozenset(tags)
        with self._lock:
            for key, value in entries.items():
                self._drop(key)
                if self._max_bytes is not None and len(key) + len(value) > self._max_bytes:
                    self._evicted += 1
                    continue
                self._policy.added(key, value)
                self._entries[key] = _Entry(value, expires_at, marked)
                self._bytes += len(key) + len(value)
                for tag in marked:
                    self._tagged.setdefault(tag, set()).add(key)
            self._make_room()

    def _make_room(self) -> None:
        while self._entries and (
            (self._max_entries is not None and len(self._entries) > self._max_entries)
            or (self._max_bytes is not None and self._bytes > self._max_bytes)
        ):
            self._drop(self._policy.victim())
            self._evicted += 1

    def _drop(self, key: bytes) -> None:
        entry = self._entries.pop(key, None)
        if entry is None:
            return
        self._policy.removed(key)
        self._bytes -= len(key) + len(entry.value)
        for tag in entry.tags:
            keys = self._tagged[tag]
            keys.discard(key)
            if not keys:
                del self._tagged[tag]

    def delete(self, keys: Iterable[bytes]) -> None:
        """Forget entries."""
        with self._lock:
            for key in keys:
                self._drop(key)

    def invalidate(self, tags: Iterable[str]) -> int:
        """Forget the entries that have one of the tags."""
        with self._lock:
            keys = {key for tag in tags for key in self._tagged.get(tag, ())}
            for key in keys:
                self._drop(key)
        return len(keys)

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._entries.clear()
            self._tagged.clear()
            self._policy.clear()
            self._bytes = 0

    async def aget(self, keys: Iterable[bytes]) -> dict[bytes, bytes]:
        """Do what `get` does."""
        return self.get(keys)

    async def aheld(self, keys: Iterable[bytes]) -> dict[bytes, Held]:
        """Do what `held` does."""
        return self.held(keys)

    async def aput(
        self, entries: Mapping[bytes, bytes], *, ttl_s: float | None, tags: Collection[str] = ()
    ) -> None:
        """Do what `put` does."""
        self.put(entries, ttl_s=ttl_s, tags=tags)

    async def adelete(self, keys: Iterable[bytes]) -> None:
        """Do what `delete` does."""
        self.delete(keys)

    async def ainvalidate(self, tags: Iterable[str]) -> int:
        """Do what `invalidate` does."""
        return self.invalidate(tags)

    async def aclear(self) -> None:
        """Do what `clear` does."""
        self.clear()

    def size(self) -> StoreSize:
        """Return how much is held, entries that expired unseen among it."""
        with self._lock:
            return StoreSize(entries=len(self._entries), bytes=self._bytes)

    def events(self) -> StoreEvents:
        """Return what was evicted and what expired."""
        return StoreEvents(evicted=self._evicted, expired=self._expired)

    def close(self) -> None:
        """Nothing is held open."""
