"""Vectors that are computed once: any embeddings behind a store."""

import logging
import math
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from langchain_core.embeddings import Embeddings
from typing_extensions import override

from langchain_tokenopt.embeddings.claims import Claims
from langchain_tokenopt.embeddings.entry import Kind, decode, encode, intact, keys_of
from langchain_tokenopt.errors import ConfigurationError

_LOG = logging.getLogger(__name__)
_MOST_TO_READ = 1_000  # a store on the network answers that many within its time limit


class VectorKeeper(Protocol):
    """The part of a store that keeps vectors; every `Store` of `langchain_tokenopt.caches` fits."""

    def get(self, keys: Iterable[bytes]) -> Mapping[bytes, bytes]:
        """Return the entries that are there."""
        ...

    def put(self, entries: Mapping[bytes, bytes], *, ttl_s: float | None) -> None:
        """Keep entries for `ttl_s` seconds, `None` for ever."""
        ...

    async def aget(self, keys: Iterable[bytes]) -> Mapping[bytes, bytes]:
        """Do what `get` does without blocking the event loop."""
        ...

    async def aput(self, entries: Mapping[bytes, bytes], *, ttl_s: float | None) -> None:
        """Do what `put` does without blocking the event loop."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingStats:
    """What became of the texts that were asked for; hits, misses and shared add up to all."""

    hits: int
    """Texts whose vector was kept."""
    misses: int
    """Texts that were embedded."""
    shared: int
    """Texts that took the vector of an equal one in the same call, or of a call under way."""
    altered: int
    """Entries that were damaged, or of another number of dimensions; their texts are misses."""
    failures: int
    """Reads and writes that the store failed."""

    @property
    def hit_rate(self) -> float:
        """The share of texts that were not embedded."""
        texts = self.hits + self.misses + self.shared
        return (self.hits + self.shared) / texts if texts else 0.0


class CachedEmbeddings(Embeddings):
    """Any embeddings, asked once for each text: the vectors are kept in a store.

    Only the texts that are not kept are embedded, each once, however often it occurs and however
    many threads and tasks ask for it at the same time. Vectors have the precision of 32-bit
    floats, whether they were kept or not. Texts of `embed_query` and `embed_documents` are kept
    apart, as many models embed them differently. If the store fails, the texts are embedded: the
    failure is counted, and logged once; within a `TieredStore` it is then left alone for a while.
    A checksum shows damage, but no forgery: who can write to the store can write vectors.

    Args:
        embeddings: Any.
        store: Any store of `langchain_tokenopt.caches`; other things may be kept in it as well.
        name: Of the model, with all that changes its vectors, as `text-embedding-3-small/512`:
            equal names share vectors, in every process that uses the store.
        ttl_s: How long a vector is kept, in seconds; `None` for ever.
        max_batch: The most texts to embed in one call of `embeddings`; what was embedded before
            a call failed stays kept.
        patience_s: How long to wait for an equal text that another caller embeds; a blocking
            call waits at most two seconds for one that is awaited.

    >>> from langchain_tokenopt.caches import MemoryStore
    >>> from langchain_tokenopt.embeddings import StaticEmbeddings
    >>> cached = CachedEmbeddings(StaticEmbeddings(), MemoryStore(), name="wordllama/256")
    >>> _ = cached.embed_documents(["Where is my parcel?", "Hello", "Hello"])
    >>> _ = cached.embed_documents(["Hello"])
    >>> cached.stats().hits, cached.stats().misses, cached.stats().shared
    (1, 2, 1)
    """

    def __init__(
        self,
        embeddings: Embeddings,
        store: VectorKeeper,
        *,
        name: str,
        ttl_s: float | None = None,
        max_batch: int = 256,
        patience_s: float = 60.0,
    ) -> None:
        if not name:
            message = "name must tell the model and its dimensions, got an empty text"
            raise ConfigurationError(message)
        if max_batch < 1:
            message = f"max_batch must be at least 1, got {max_batch}"
            raise ConfigurationError(message)
        for option, value in (("ttl_s", ttl_s), ("patience_s", patience_s)):
            if value is not None and not 0 < value < math.inf:
                message = f"{option} must be a positive number of seconds, got {value}"
                raise ConfigurationError(message)
        self._embeddings = embeddings
        self._store = store
        self._name = name
        self._ttl_s = ttl_s
        self._max_batch = max_batch
        self._patience_s = patience_s
        self._claims = Claims()
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._warned = False
        self._width: int | None = None  # of a new vector's entry, once there was one

    @override
    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return self._embed(texts, "document")

    @override
    def embed_query(self, text: str) -> list[float]:
        return self._embed([text], "query")[0]

    @override
    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        return await self._aembed(texts, "document")

    @override
    async def aembed_query(self, text: str) -> list[float]:
        return (await self._aembed([text], "query"))[0]

    def stats(self) -> EmbeddingStats:
        """Return the counts so far."""
        with self._lock:
            of = dict(self._counts)
        return EmbeddingStats(
            hits=of.get("hits", 0),
            misses=of.get("misses", 0),
            shared=of.get("shared", 0),
            altered=of.get("altered", 0),
            failures=of.get("failures", 0),
        )

    def _embed(self, texts: Sequence[str], kind: Kind) -> list[list[float]]:
        work = _Work(texts, keys_of(texts, name=self._name, kind=kind), width=self._width)
        work.take_kept(self._read(work.missing))
        while work.missing:
            with self._claims.claim(work.missing, blocking=True) as claimed:
                if claimed.lately:
                    work.take_kept(self._read(claimed.lately))
                    claimed.deliver(work.entries_of(claimed.lately))
                for batch in work.batches(claimed.own, most=self._max_batch):
                    if kind == "query":
                        vectors = [self._embeddings.embed_query(text) for text in batch.values()]
                    else:
                        vectors = self._embeddings.embed_documents(list(batch.values()))
                    entries = work.take_fresh(batch, vectors)
                    claimed.deliver(entries)
                    self._write(entries)
                work.take_shared(claimed.wait(most_s=self._patience_s))
        return self._done(work)

    async def _aembed(self, texts: Sequence[str], kind: Kind) -> list[list[float]]:
        work = _Work(texts, keys_of(texts, name=self._name, kind=kind), width=self._width)
        work.take_kept(await self._aread(work.missing))
        while work.missing:
            with self._claims.claim(work.missing, blocking=False) as claimed:
                if claimed.lately:
                    work.take_kept(await self._aread(claimed.lately))
                    claimed.deliver(work.entries_of(claimed.lately))
                for batch in work.batches(claimed.own, most=self._max_batch):
                    if kind == "query":
                        vectors = [
                            await self._embeddings.aembed_query(text) for text in batch.values()
                        ]
                    else:
                        vectors = await self._embeddings.aembed_documents(list(batch.values()))
                    entries = work.take_fresh(batch, vectors)
                    claimed.deliver(entries)
                    await self._awrite(entries)
                work.take_shared(await claimed.await_(most_s=self._patience_s))
        return self._done(work)

    def _read(self, keys: Sequence[bytes]) -> Mapping[bytes, bytes]:
        found: dict[bytes, bytes] = {}
        try:
            for part in _parts(keys):
                found.update(self._store.get(part))
        except Exception as error:  # noqa: BLE001 - a store that fails must not fail the call
            self._failed(error)
        return found

    async def _aread(self, keys: Sequence[bytes]) -> Mapping[bytes, bytes]:
        found: dict[bytes, bytes] = {}
        try:
            for part in _parts(keys):
                found.update(await self._store.aget(part))
        except Exception as error:  # noqa: BLE001 - a store that fails must not fail the call
            self._failed(error)
        return found

    def _write(self, entries: Mapping[bytes, bytes]) -> None:
        try:
            self._store.put(_finite(entries), ttl_s=self._ttl_s)
        except Exception as error:  # noqa: BLE001 - a store that fails must not fail the call
            self._failed(error)

    async def _awrite(self, entries: Mapping[bytes, bytes]) -> None:
        try:
            await self._store.aput(_finite(entries), ttl_s=self._ttl_s)
        except Exception as error:  # noqa: BLE001 - a store that fails must not fail the call
            self._failed(error)

    def _failed(self, error: Exception) -> None:
        with self._lock:
            self._counts["failures"] += 1
            first, self._warned = not self._warned, True
        if first:
            _LOG.warning("the store of vectors failed, texts are embedded anew: %r", error)

    def _done(self, work: "_Work") -> list[list[float]]:
        with self._lock:
            self._width = work.width
            self._counts.update(work.counts)
        return work.vectors()


class _Work:
    """What one call has and still needs; keys stand for texts."""

    def __init__(self, texts: Sequence[str], keys: Sequence[bytes], *, width: int | None) -> None:
        self.width = width
        self._keys = keys
        self._texts = dict(zip(keys, texts, strict=True))
        self._times = Counter(keys)
        self._entries: dict[bytes, bytes] = {}
        self._altered: set[bytes] = set()
        self.counts: Counter[str] = Counter()

    @property
    def missing(self) -> list[bytes]:
        """The keys without a vector, in the order of their texts."""
        return [key for key in self._texts if key not in self._entries]

    def take_kept(self, found: Mapping[bytes, bytes]) -> None:
        for key, entry in found.items():
            if intact(entry) and self.width in (None, len(entry)):
                self._entries[key] = entry
                self.counts["hits"] += self._times[key]
            else:
                self._altered.add(key)
        self.counts["altered"] = len(self._altered)

    def take_fresh(
        self, batch: Mapping[bytes, str], vectors: Sequence[Sequence[float]]
    ) -> dict[bytes, bytes]:
        if len(vectors) != len(batch):
            message = f"the embeddings gave {len(vectors)} vectors for {len(batch)} texts"
            raise ConfigurationError(message)
        fresh = {key: encode(vector) for key, vector in zip(batch, vectors, strict=True)}
        self.width = len(next(iter(fresh.values())))
        self._drop_others()
        self._entries.update(fresh)
        self.counts["misses"] += len(fresh)
        self.counts["shared"] += sum(self._times[key] - 1 for key in fresh)
        return fresh

    def _drop_others(self) -> None:
        """Forget what was kept by a model of other dimensions: it goes by the same name."""
        others = [key for key, entry in self._entries.items() if len(entry) != self.width]
        for key in others:
            del self._entries[key]
            self.counts["hits"] -= self._times[key]
        self._altered.update(others)
        self.counts["altered"] = len(self._altered)

    def take_shared(self, got: Mapping[bytes, bytes]) -> None:
        self._entries.update(got)
        self.counts["shared"] += sum(self._times[key] for key in got)

    def entries_of(self, keys: Iterable[bytes]) -> dict[bytes, bytes]:
        return {key: self._entries[key] for key in keys if key in self._entries}

    def batches(self, keys: Iterable[bytes], *, most: int) -> Iterator[dict[bytes, str]]:
        left = [key for key in keys if key not in self._entries]
        for start in range(0, len(left), most):
            yield {key: self._texts[key] for key in left[start : start + most]}

    def vectors(self) -> list[list[float]]:
        return [decode(self._entries[key]) for key in self._keys]


def _parts(keys: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    return (keys[start : start + _MOST_TO_READ] for start in range(0, len(keys), _MOST_TO_READ))


def _finite(entries: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
    """Leave out vectors that are not worth keeping: a service's hiccup should not last."""
    return {key: entry for key, entry in entries.items() if all(map(math.isfinite, decode(entry)))}
