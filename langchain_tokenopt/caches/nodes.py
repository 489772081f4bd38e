"""LangGraph's node cache over a store: results of nodes kept in memory, a file, or both."""

import hashlib
import hmac
import logging
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any

from langgraph.cache.base import BaseCache, FullKey, Namespace
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from typing_extensions import override

from langchain_tokenopt.caches.store import Store, Tally

_LOG = logging.getLogger(__name__)
_MAGIC = b"TON1"
_CHECK_BYTES = 16


class NodeCache(BaseCache[Any]):
    """A LangGraph cache for `compile(cache=...)` over any `Store`.

    Its asynchronous methods do not block the event loop. Entries are checked before they are read,
    and read into LangGraph's built-in safe types and those of `allowed`, nothing else: what cannot
    be read is a miss, counted. A store that fails is logged once and counted; the nodes run.

    Args:
        store: Where results live.
        allowed: Your own classes that results may hold.
        signing_key: A secret; entries that were not written with it are misses.

    >>> from langchain_tokenopt.caches import MemoryStore
    >>> cache = NodeCache(MemoryStore())
    >>> cache.set({(("node",), "key"): ({"answer": 4}, None)})
    >>> cache.get([(("node",), "key")])
    {(('node',), 'key'): {'answer': 4}}
    """

    def __init__(
        self, store: Store, *, allowed: Iterable[type] = (), signing_key: bytes | None = None
    ) -> None:
        strict = JsonPlusSerializer(allowed_msgpack_modules=None)
        super().__init__(serde=strict.with_msgpack_allowlist(allowed))
        self.store = store
        self._key = hashlib.sha256(signing_key).digest() if signing_key else b""
        self._tally = Tally()
        self._warned = False

    @property
    def failures(self) -> int:
        """How often the store failed; the nodes ran."""
        return self._tally.of("failures")

    @property
    def unreadable(self) -> int:
        """Entries that were altered, or of a class that is not allowed."""
        return self._tally.of("unreadable")

    @override
    def get(self, keys: Sequence[FullKey]) -> dict[FullKey, Any]:
        names = {_digest(key): key for key in keys}
        try:
            found = self.store.get(list(names))
        except OSError as error:
            return self._failed(error)
        return self._read(found, names)

    @override
    async def aget(self, keys: Sequence[FullKey]) -> dict[FullKey, Any]:
        names = {_digest(key): key for key in keys}
        try:
            found = await self.store.aget(list(names))
        except OSError as error:
            return self._failed(error)
        return self._read(found, names)

    @override
    def set(self, pairs: Mapping[FullKey, tuple[Any, int | None]]) -> None:
        for ttl_s, namespace, entries in self._written(pairs):
            try:
                self.store.put(entries, ttl_s=ttl_s, tags=[namespace])
            except OSError as error:
                self._failed(error)

    @override
    async def aset(self, pairs: Mapping[FullKey, tuple[Any, int | None]]) -> None:
        for ttl_s, namespace, entries in self._written(pairs):
            try:
                await self.store.aput(entries, ttl_s=ttl_s, tags=[namespace])
            except OSError as error:
                self._failed(error)

    @override
    def clear(self, namespaces: Sequence[Namespace] | None = None) -> None:
        if namespaces is None:
            self.store.clear()
        else:
            self.store.invalidate([_tag(namespace) for namespace in namespaces])

    @override
    async def aclear(self, namespaces: Sequence[Namespace] | None = None) -> None:
        if namespaces is None:
            await self.store.aclear()
        else:
            await self.store.ainvalidate([_tag(namespace) for namespace in namespaces])

    def _written(
        self, pairs: Mapping[FullKey, tuple[Any, int | None]]
    ) -> list[tuple[int | None, str, dict[bytes, bytes]]]:
        """Return what to write, entries of one life and namespace together."""

        def alike(pair: tuple[FullKey, tuple[Any, int | None]]) -> tuple[str, int]:
            (namespace, _), (_, ttl_s) = pair
            return _tag(namespace), -1 if ttl_s is None else ttl_s

        groups = []
        for (namespace, life), group in groupby(sorted(pairs.items(), key=alike), key=alike):
            entries = {_digest(key): self._seal(value) for key, (value, _) in group}
            groups.append((None if life < 0 else life, namespace, entries))
        return groups

    def _seal(self, value: Any) -> bytes:
        kind, data = self.serde.dumps_typed(value)
        payload = len(kind).to_bytes(1, "big") + kind.encode() + data
        return _MAGIC + self._check(payload) + payload

    def _read(
        self, found: Mapping[bytes, bytes], names: Mapping[bytes, FullKey]
    ) -> dict[FullKey, Any]:
        values = {}
        for digest, sealed in found.items():
            check, payload = sealed[4 : 4 + _CHECK_BYTES], sealed[4 + _CHECK_BYTES :]
            if sealed[:4] != _MAGIC or not hmac.compare_digest(check, self._check(payload)):
                self._tally.add("unreadable")
                continue
            end = 1 + payload[0]
            try:
                kind = payload[1:end].decode()
                values[names[digest]] = self.serde.loads_typed((kind, payload[end:]))
            except Exception as error:  # noqa: BLE001 - what others wrote must not stop a graph
                self._tally.add("unreadable")
                _LOG.debug("an entry of the node cache cannot be read: %r", error)
        return values

    def _check(self, payload: bytes) -> bytes:
        return hashlib.blake2b(payload, digest_size=_CHECK_BYTES, key=self._key).digest()

    def _failed(self, error: OSError) -> dict[FullKey, Any]:
        self._tally.add("failures")
        if not self._warned:
            self._warned = True
            _LOG.warning("the node cache failed, nodes run without it: %s", error)
        return {}


def _digest(key: FullKey) -> bytes:
    namespace, name = key
    digest = hashlib.sha256(b"node")
    for part in (*namespace, name):
        data = part.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.digest()


def _tag(namespace: Namespace) -> str:
    return "node:" + "\x1f".join(namespace)
