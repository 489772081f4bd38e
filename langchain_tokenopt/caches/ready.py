"""The exact cache over each store, ready to use."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from langchain_tokenopt.caches.circuit import TierStats
from langchain_tokenopt.caches.eviction import Eviction
from langchain_tokenopt.caches.exact import ExactCache
from langchain_tokenopt.caches.keys import Tenant
from langchain_tokenopt.caches.memory import MemoryStore
from langchain_tokenopt.caches.sqlite import SqliteStore
from langchain_tokenopt.caches.store import Store
from langchain_tokenopt.caches.tiered import CacheTier, Found, TieredStore

if TYPE_CHECKING:
    from langchain_tokenopt.caches.sync import Invalidations

_TOLD_TTL_S, _UNTOLD_TTL_S = 60.0, 5.0


class MemoryCache(ExactCache):
    """Exact answers in this process; the least recently used make room, or what `policy` chooses.

    With `policy=CostAware()` and a bound in bytes, what would save least for its bytes makes room.

    >>> from langchain_tokenopt.testing import ScriptedModel
    >>> model = ScriptedModel(["four"], cache=MemoryCache())
    >>> model.invoke("2 + 2?").text, model.invoke("2 + 2?").text, model.calls
    ('four', 'four', 1)
    """

    def __init__(
        self,
        *,
        max_entries: int | None = 10_000,
        max_bytes: int | None = None,
        ttl_s: float | None = None,
        key_fields: Sequence[str] | None = None,
        tenant: Tenant = "",
        policy: Eviction | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        store = MemoryStore(
            max_entries=max_entries, max_bytes=max_bytes, policy=policy, clock=clock
        )
        super().__init__(store, ttl_s=ttl_s, key_fields=key_fields, tenant=tenant)


class SqliteCache(ExactCache):
    """Exact answers in an SQLite file, kept across restarts and shared by processes."""

    def __init__(
        self,
        path: str | Path,
        *,
        max_bytes: int | None = None,
        ttl_s: float | None = None,
        key_fields: Sequence[str] | None = None,
        tenant: Tenant = "",
        signing_key: bytes | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        store = SqliteStore(path, max_bytes=max_bytes, clock=clock)
        super().__init__(
            store, ttl_s=ttl_s, key_fields=key_fields, tenant=tenant, signing_key=signing_key
        )


class TieredCache(ExactCache):
    """Exact answers in a row of stores: memory, then a file or Redis, in any number.

    `TieredCache.default("cache.sqlite")` is memory before a file, `default("redis://...")` memory
    before a Redis with copies that follow what other hosts change. A hit carries the name of the
    tier that had it. A tier that fails is skipped, and tried again with growing pauses; see
    `TieredStore`.

    >>> from langchain_tokenopt.caches import MemoryStore
    >>> from langchain_tokenopt.testing import ScriptedModel
    >>> model = ScriptedModel(["four"], cache=TieredCache([MemoryStore(), MemoryStore()]))
    >>> model.invoke("2 + 2?").text, model.invoke("2 + 2?").text, model.calls
    ('four', 'four', 1)
    """

    store: TieredStore
    listener: "Invalidations | None" = None
    """What hears of changes by other hosts, where Redis is the last tier of `default`."""

    def __init__(
        self,
        tiers: Sequence[CacheTier | Store],
        *,
        ttl_s: float | None = None,
        key_fields: Sequence[str] | None = None,
        tenant: Tenant = "",
        signing_key: bytes | None = None,
        negative_ttl_s: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(
            TieredStore(tiers, negative_ttl_s=negative_ttl_s, clock=clock),
            ttl_s=ttl_s,
            key_fields=key_fields,
            tenant=tenant,
            signing_key=signing_key,
        )

    @classmethod
    def default(
        cls,
        where: str | Path,
        *,
        memory_ttl_s: float | None = None,
        namespace: str = "tokenopt",
        **options: Any,
    ) -> "TieredCache":
        """Return a memory tier of 10,000 entries before an SQLite file, or before a Redis.

        With Redis, a copy in memory is dropped as soon as anyone changes, deletes or invalidates
        the entry; see `Invalidations`. Should word of that not get through, the copy ends after
        `memory_ttl_s`. On a cluster nobody is told, and copies live for five seconds.

        Args:
            where: The path of a file, which processes share, or the URL of a Redis, which hosts
                share; see `RedisClients` for Sentinels and clusters.
            memory_ttl_s: How long a copy in memory may be served that another process has changed
                or deleted meanwhile, in seconds; `None` for as long as it is kept before a file,
                and for a minute before a Redis.
            namespace: Begins every key in Redis.
            options: Those of the class.
        """
        if isinstance(where, Path) or "://" not in where:
            memory = CacheTier(MemoryStore(), ttl_s=memory_ttl_s)
            return cls([memory, SqliteStore(where)], **options)
        from langchain_tokenopt.caches.redis import RedisStore  # noqa: PLC0415 - redis is heavy
        from langchain_tokenopt.caches.sync import follow  # noqa: PLC0415

        shared = RedisStore(where, namespace=namespace)
        if memory_ttl_s is None:
            memory_ttl_s = _UNTOLD_TTL_S if shared.clustered else _TOLD_TTL_S
        cache = cls([CacheTier(MemoryStore(), ttl_s=memory_ttl_s), shared], **options)
        if not shared.clustered:
            cache.listener = follow(where, cache.store, namespace=namespace)
        return cache

    @override
    def close(self) -> None:
        """Release what the stores hold open, and stop following changes for good."""
        if self.listener is not None:
            self.listener.close()
        super().close()

    def tiers(self) -> list[TierStats]:
        """Return what each tier did."""
        return self.store.tiers()

    @override
    def _fetch(self, key: bytes) -> tuple[bytes | None, str]:
        return _of(self.store.locate([key]).get(key))

    @override
    async def _afetch(self, key: bytes) -> tuple[bytes | None, str]:
        return _of((await self.store.alocate([key])).get(key))


def _of(found: Found | None) -> tuple[bytes | None, str]:
    return (None, "") if found is None else (found.held.value, found.tier)
