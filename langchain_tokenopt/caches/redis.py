"""Entries in Redis or Valkey, shared by processes and hosts."""

import hashlib
import json
import os
import struct
import time
from collections.abc import Callable, Collection, Generator, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from langchain_tokenopt.caches.exact import ExactCache
from langchain_tokenopt.caches.keys import Tenant
from langchain_tokenopt.caches.store import Held, StoreEvents, StoreSize
from langchain_tokenopt.redis_client import (
    AsyncClient,
    Command,
    RedisClients,
    SyncClient,
    checked_namespace,
)

T = TypeVar("T")
# What an operation asks for, and the replies that it gets: `True` means that all run as one.
_Steps = Generator[tuple[Sequence[Command], bool], list[Any], T]

VERSION = 1  # of the layout; raised when older versions could not read what is written
# An entry: a mark of this very write (zero without tags), the length of its tags, tags, value.
_HEAD = struct.Struct(">8sI")
_NO_MARK = bytes(8)
_DIGEST_BYTES = 32
_BATCH = 1_000
# A member of a tag lives a little longer than its entry, and goes with the next entry of that tag.
_TAG = """
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
local till = '+inf'
if ARGV[1] ~= '' then till = string.format('%.0f', now + ARGV[1] + 1000) end
for i = 2, #ARGV do redis.call('ZADD', KEYS[1], till, ARGV[i]) end
local last = redis.call('ZRANGE', KEYS[1], -1, -1, 'WITHSCORES')[2]
if last == 'inf' then redis.call('PERSIST', KEYS[1])
else redis.call('PEXPIREAT', KEYS[1], string.format('%.0f', last)) end
"""
# Only the write that the tag was given with: what was written since may have other tags.
_DROP = """
if redis.call('GETRANGE', KEYS[1], 0, 7) == ARGV[1] then return redis.call('UNLINK', KEYS[1]) end
return 0
"""


class RedisStore:
    """A `Store` in Redis 6 or later, or Valkey: standalone, behind Sentinels, or a Cluster.

    Redis expires entries itself, and evicts them under its `maxmemory-policy`; with one of the
    `allkeys` policies the record of a tag may go before the tag's entries, which then live out
    their time: choose `volatile-ttl` or `volatile-lru` if tags matter. Anyone who can write to this
    Redis can write entries, so give the cache a `signing_key`.

    Args:
        url_or_client: See `RedisClients`.
        namespace: Begins every key, so that several applications can share a Redis. `clear`
            forgets only this namespace.
        async_client: See `RedisClients`.
        timeout_s: How long a call waits for a connection, and for an answer.
        clock: Seconds, for tests.

    Raises:
        ConfigurationError: The URL, the client or the namespace cannot be used.
    """

    source = "redis"

    def __init__(
        self,
        url_or_client: str | SyncClient,
        *,
        namespace: str = "tokenopt",
        async_client: Callable[[], AsyncClient] | None = None,
        timeout_s: float = 0.5,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clients = RedisClients(url_or_client, async_client=async_client, timeout_s=timeout_s)
        self._prefix = entry_prefix(namespace)
        self._clock = clock
        self._counted: tuple[StoreSize, float] | None = None

    @property
    def clustered(self) -> bool:
        """Whether it is a cluster, of which each node tells of its own keys only."""
        return self._clients.clustered

    def get(self, keys: Iterable[bytes]) -> dict[bytes, bytes]:
        """Return the entries that are there.

        Raises:
            StoreError: Redis cannot be reached, is too slow, or refuses, as all methods.
        """
        return self._do(self._get(list(keys)))

    async def aget(self, keys: Iterable[bytes]) -> dict[bytes, bytes]:
        """Do what `get` does without blocking the event loop."""
        return await self._ado(self._get(list(keys)))

    def _get(self, keys: list[bytes]) -> "_Steps[dict[bytes, bytes]]":
        replies = yield [("GET", self._name(key)) for key in keys], False
        entries = {key: _entry(data) for key, data in zip(keys, replies, strict=True)}
        return {key: entry[0] for key, entry in entries.items() if entry is not None}

    def held(self, keys: Iterable[bytes]) -> dict[bytes, Held]:
        """Return the entries that are there with their remaining life and tags."""
        return self._do(self._held(list(keys)))

    async def aheld(self, keys: Iterable[bytes]) -> dict[bytes, Held]:
        """Do what `held` does without blocking the event loop."""
        return await self._ado(self._held(list(keys)))

    def _held(self, keys: list[bytes]) -> "_Steps[dict[bytes, Held]]":
        names = [self._name(key) for key in keys]
        commands = [command for name in names for command in (("GET", name), ("PTTL", name))]
        replies = yield commands, True
        found = {}
        for key, data, left in zip(keys, replies[::2], replies[1::2], strict=True):
            entry = _entry(data)
            # On a cluster the entry may have gone between the two: -2.
            if entry is not None and left != -2:
                ttl_s = None if left == -1 else left / 1000
                found[key] = Held(value=entry[0], ttl_s=ttl_s, tags=entry[1])
        return found

    def put(
        self, entries: Mapping[bytes, bytes], *, ttl_s: float | None, tags: Collection[str] = ()
    ) -> None:
        """Keep entries; returned means that this Redis has them, not that its disk has."""
        self._do(self._put(entries, ttl_s, tags))

    async def aput(
        self, entries: Mapping[bytes, bytes], *, ttl_s: float | None, tags: Collection[str] = ()
    ) -> None:
        """Do what `put` does without blocking the event loop."""
        await self._ado(self._put(entries, ttl_s, tags))

    def _put(
        self, entries: Mapping[bytes, bytes], ttl_s: float | None, tags: Collection[str]
    ) -> "_Steps[None]":
        life_ms = None if ttl_s is None else max(1, round(ttl_s * 1000))
        life: Command = () if life_ms is None else ("PX", life_ms)
        # Random, so that no process can take another's write for its own.
        mark = os.urandom(8) if tags else _NO_MARK
        head = _head(mark, tags)
        kept = [("SET", self._name(key), head + value, *life) for key, value in entries.items()]
        members = [key + mark for key in entries]
        left = "" if life_ms is None else life_ms
        tagged = [("EVAL", _TAG, 1, self._tag(tag), left, *members) for tag in set(tags)]
        if self._clients.clustered:
            # In this order, and not at once: who invalidates in between is before this write.
            yield kept, False
            yield (tagged if entries else []), False
        else:
            yield (kept + tagged if entries else []), True

    def delete(self, keys: Iterable[bytes]) -> None:
        """Forget entries."""
        self._do(self._delete(list(keys)))

    async def adelete(self, keys: Iterable[bytes]) -> None:
        """Do what `delete` does without blocking the event loop."""
        await self._ado(self._delete(list(keys)))

    def _delete(self, keys: list[bytes]) -> "_Steps[None]":
        yield [("UNLINK", self._name(key)) for key in keys], False

    def invalidate(self, tags: Iterable[str]) -> int:
        """Forget the entries that have one of the tags, a thousand at a time."""
        return self._do(self._invalidate(frozenset(tags)))

    async def ainvalidate(self, tags: Iterable[str]) -> int:
        """Do what `invalidate` does without blocking the event loop."""
        return await self._ado(self._invalidate(frozenset(tags)))

    def _invalidate(self, tags: Collection[str]) -> "_Steps[int]":
        gone = 0
        for name in map(self._tag, tags):
            left = (yield [("ZCARD", name)], False)[0]
            while left > 0:
                members = (yield [("ZRANGE", name, 0, _BATCH - 1)], False)[0]
                if not members:
                    break
                drops = [self._drop(member) for member in members]
                gone += sum((yield drops, False))
                # Only now: if this process ends in between, the next call starts again.
                yield [("ZREM", name, *members)], False
                left -= len(members)
        return gone

    def _drop(self, member: bytes) -> Command:
        key, mark = member[:_DIGEST_BYTES], member[_DIGEST_BYTES:]
        return ("EVAL", _DROP, 1, self._name(key), mark)

    def clear(self) -> None:
        """Forget everything in this namespace, a thousand keys at a time."""
        for names in self._clients.scan(f"{self._prefix}*"):
            self._clients.send([("UNLINK", name) for name in names])
        self._counted = None

    async def aclear(self) -> None:
        """Do what `clear` does without blocking the event loop."""
        async for names in self._clients.ascan(f"{self._prefix}*"):
            await self._clients.asend([("UNLINK", name) for name in names])
        self._counted = None

    def size(self) -> StoreSize:
        """Return how much is held.

        Redis has to be walked for that. If it took more than a tenth of a second, the figure is
        given again for ten times as long.
        """
        if self._counted is not None and self._clock() < self._counted[1]:
            return self._counted[0]
        started = self._clock()
        entries = held = 0
        for names in self._clients.scan(f"{self._prefix}[0-9a-f]*"):
            lengths = self._clients.send([("STRLEN", name) for name in names])
            there = [length for length in lengths if length]
            entries += len(there)
            held += sum(there) + len(there) * (_DIGEST_BYTES - _HEAD.size)
        size = StoreSize(entries=entries, bytes=held)
        took_s = self._clock() - started
        self._counted = (size, self._clock() + 10 * took_s) if took_s > 0.1 else None
        return size

    def events(self) -> StoreEvents:
        """Return nothing: Redis counts what it evicts and expires for all its users together."""
        return StoreEvents()

    def close(self) -> None:
        """Close the connections of threads; the next call opens them again.

        Those of an event loop close when it ends, or with `aclose`.
        """
        self._clients.close()

    async def aclose(self) -> None:
        """Close the connections, those of this event loop before this returns."""
        await self._clients.aclose()

    def _name(self, key: bytes) -> str:
        return self._prefix + key.hex()

    def _tag(self, tag: str) -> str:
        return (
            f"{self._prefix}tag:{hashlib.sha256(tag.encode('utf-8', 'surrogatepass')).hexdigest()}"
        )

    def _do(self, steps: "_Steps[T]") -> T:
        try:
            commands, atomic = next(steps)
            while True:
                replies = self._clients.send(commands, atomic=atomic) if commands else []
                commands, atomic = steps.send(replies)
        except StopIteration as done:
            answer: T = done.value
            return answer

    async def _ado(self, steps: "_Steps[T]") -> T:
        try:
            commands, atomic = next(steps)
            while True:
                replies = await self._clients.asend(commands, atomic=atomic) if commands else []
                commands, atomic = steps.send(replies)
        except StopIteration as done:
            answer: T = done.value
            return answer


class RedisCache(ExactCache):
    """Exact answers in Redis, shared by processes and hosts.

    Put it behind memory with `TieredCache([MemoryStore(), RedisStore(url)])`, and let
    `Invalidations` tell the copies in memory what others changed.
    """

    def __init__(
        self,
        url_or_client: str | SyncClient,
        *,
        namespace: str = "tokenopt",
        ttl_s: float | None = None,
        key_fields: Sequence[str] | None = None,
        tenant: Tenant = "",
        signing_key: bytes | None = None,
        timeout_s: float = 0.5,
    ) -> None:
        store = RedisStore(url_or_client, namespace=namespace, timeout_s=timeout_s)
        super().__init__(
            store, ttl_s=ttl_s, key_fields=key_fields, tenant=tenant, signing_key=signing_key
        )


def entry_prefix(namespace: str) -> str:
    """Return what the keys of a namespace's entries begin with; a digest in hex follows."""
    return f"{checked_namespace(namespace)}:{VERSION}:"


def _head(mark: bytes, tags: Collection[str]) -> bytes:
    names = json.dumps(sorted(set(tags))).encode() if tags else b""
    return _HEAD.pack(mark, len(names)) + names


def _entry(data: bytes | None) -> tuple[bytes, frozenset[str]] | None:
    """Return an entry's value and tags, `None` if it is absent or nothing that `put` wrote."""
    if data is None or len(data) < _HEAD.size:
        return None
    start = _HEAD.size + _HEAD.unpack_from(data)[1]
    if start == _HEAD.size:
        return data[start:], frozenset()
    try:
        tags = json.loads(data[_HEAD.size : start])
        return data[start:], frozenset(str(tag) for tag in tags)
    except (ValueError, TypeError, RecursionError):
        return None
