"""The questions of a semantic cache in Redis or Valkey, shared by processes and hosts."""

import logging
import math
import os
import threading
import time
from collections.abc import Callable, Collection, Sequence
from typing import Any, Literal, TypeVar

import numpy as np
from langchain_core.outputs import Generation

from langchain_tokenopt.caches.codec import UnencodableError, UnreadableError
from langchain_tokenopt.caches.likeness import WordWeights, read
from langchain_tokenopt.caches.question import Question
from langchain_tokenopt.caches.semantic_entry import EntryCodec
from langchain_tokenopt.caches.semantic_log import LocalSearch, digest_of
from langchain_tokenopt.caches.semantic_questions import KeptQuestion
from langchain_tokenopt.caches.semantic_scripts import ADD, FORGET, INVALIDATE, RENEW
from langchain_tokenopt.caches.semantic_vectors import ServerSearch, set_name
from langchain_tokenopt.caches.store import StoreError
from langchain_tokenopt.caches.template import Packed
from langchain_tokenopt.errors import ConfigurationError
from langchain_tokenopt.messages import SEMANTIC
from langchain_tokenopt.redis_client import (
    Command,
    RedisClients,
    SyncClient,
    checked_namespace,
)

_LOG = logging.getLogger(__name__)
T = TypeVar("T")
# After a failure Redis is left alone for a moment: not every call should wait for it.
_REST_S = 5.0
_FRESH_S = 0.05
_MOST_OWED = 10_000
_MOST_USED = 200
_MOST_WORDS = 1_000  # of one question that are counted


class RedisQuestions:
    """Keeps the questions of a `SemanticCache` where other processes and hosts find them too.

    What one process keeps, the others serve; what one corrects or invalidates, no other serves any
    more than 50 ms later. Look-ups are misses while Redis cannot be reached, and nothing is kept;
    what was to be forgotten meanwhile is forgotten before the next look-up.

    All processes of a namespace need the same embeddings, and should search in the same way. On a
    Cluster a namespace lives on one node. Redis should not evict keys without a life: choose
    `noeviction` or one of the `volatile` policies. Anyone who can write to this Redis can write
    entries, so give a `signing_key`.

    Args:
        url_or_client: See `RedisClients`.
        namespace: Begins every key, so that several applications can share a Redis.
        max_entries: The longest unused make room, over all hosts and tenants.
        signing_key: A secret; entries that were not written with it are passed over.
        search: `server` asks Redis 8 for the nearest, which needs no memory here; `local` keeps a
            copy of all in this process, and works with Redis 6 or later and Valkey; `auto` asks
            the server if it can.
        timeout_s: How long a call waits for a connection, and for an answer.
        clock: Unix time in seconds, for tests.
        monotonic: Seconds, for tests.

    Raises:
        ConfigurationError: The URL, the client, the namespace or an option cannot be used.
    """

    in_memory = False

    def __init__(
        self,
        url_or_client: str | SyncClient,
        *,
        namespace: str = "tokenopt",
        max_entries: int = 100_000,
        signing_key: bytes | None = None,
        search: Literal["auto", "server", "local"] = "auto",
        timeout_s: float = 0.5,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        if search not in ("auto", "server", "local"):
            raise ConfigurationError(f"search must be auto, server or local, got {search!r}")
        if max_entries < 1:
            raise ConfigurationError(f"max_entries must be at least 1, got {max_entries}")
        self._clients = RedisClients(url_or_client, timeout_s=timeout_s)
        # In braces: a cluster keeps all of it on one node, so that scripts can work on it.
        self._root = f"{{{checked_namespace(namespace)}:semantic}}:1:"
        self._max_entries = max_entries
        self._codec = EntryCodec(signing_key=signing_key)
        self._search_kind = search
        self._clock = clock
        self._monotonic = monotonic
        self._server = ServerSearch(
            self._run, codec=self._codec, unreadable=self._note_unreadable, clock=clock
        )
        self._local = LocalSearch(
            self._run,
            self._clients.send,
            entry_name=lambda gen, id_: self._root.encode() + gen + b":e:" + id_,
            codec=self._codec,
            unreadable=self._note_unreadable,
            max_entries=max_entries,
            fresh_s=_FRESH_S,
            wait_s=timeout_s,
            clock=clock,
            monotonic=monotonic,
        )
        self._on_server: bool | None = {"server": True, "local": False}.get(search)
        self._lock = threading.Lock()
        self._paying = threading.Lock()
        self._owed: list[_Debt] = []
        self._used: dict[int, None] = {}
        self._rests_until = 0.0
        self._warned = False
        self.failures = 0
        """Operations that Redis failed."""
        self.skipped = 0
        """Operations that were not tried, because Redis had just failed."""
        self.unreadable = 0
        """Entries that were altered, or written by another version or key, as often as met."""

    @property
    def words(self) -> WordWeights:
        """How rare the words of the kept questions are."""
        return self._server.words if self._on_server else self._local.words

    @property
    def search(self) -> Literal["server", "local"] | None:
        """Where the nearest are looked for, `None` before Redis was asked what it can do."""
        return None if self._on_server is None else "server" if self._on_server else "local"

    def near(
        self, question: Question, vector: Sequence[float], *, most: int
    ) -> tuple[list[KeptQuestion], list[float]]:
        """Return the nearest kept questions of the same partition, and their cosines."""
        row = np.asarray(vector, dtype="<f4")

        def find() -> tuple[list[KeptQuestion], list[float]]:
            found = self._server if self._asks_server() else self._local
            return found.near(question, row, most=most)

        nothing: tuple[list[KeptQuestion], list[float]] = ([], [])
        return self._attempt(find, instead=nothing)

    def add(
        self,
        question: Question,
        vector: Sequence[float],
        *,
        answer: Generation,
        group: int | None,
        ttl_s: float | None,
        tags: frozenset[str],
    ) -> None:
        """Keep a question; without a group its answer is one that was not there before."""
        row = np.asarray(vector, dtype="<f4")
        entry = KeptQuestion(
            id=_random_id(),
            question=question,
            packed=Packed(answer, source=SEMANTIC),
            answer=answer.text,
            group=_random_id() if group is None else group,
            expires_at=math.inf if ttl_s is None else self._clock() + ttl_s,
            tags=tags,
        )
        try:
            data = self._codec.encode(entry, row, answer)
        except UnencodableError:
            return
        life = "" if ttl_s is None else max(1, round(ttl_s * 1000))

        def keep() -> None:
            at_server = self._asks_server()
            words = sorted(read(question.text).bag)[:_MOST_WORDS] if at_server else []
            name = set_name(question.partition, row) if at_server else "-"
            digests = [digest_of(tag) for tag in tags]
            with self._lock:
                used, self._used = list(self._used), {}
            fixed = (os.urandom(8).hex(), entry.id, data, life, self._max_entries, name)
            counts = (len(digests), len(words))
            self._run(ADD, *fixed, row.tobytes(), *counts, *digests, *words, *used)
            self._local.stale()
            if at_server:
                self._server.words.add(question.text)

        self._attempt(keep, instead=None)

    def used(self, entry: KeptQuestion) -> None:
        """Note that an entry was served; Redis is told with the next that is kept."""
        if not self._on_server:
            self._local.used(entry)
        with self._lock:
            self._used[entry.id] = None
            while len(self._used) > _MOST_USED:
                del self._used[next(iter(self._used))]

    def forget(self, id_: int) -> bool:
        """Forget an entry; return whether it was there."""
        return self._remove(lambda: int(self._run(FORGET, id_))) > 0

    def invalidate(self, tags: Collection[str]) -> int:
        """Forget the entries with one of the tags, some hundred at a time."""
        digests = sorted({digest_of(tag) for tag in tags})
        return self._remove(lambda: sum(map(self._invalidate, digests)))

    def _invalidate(self, digest: str) -> int:
        gone, left = 0, 1
        while left:
            there, left = self._run(INVALIDATE, digest)
            gone += there
        return gone

    def clear(self) -> None:
        """Forget everything in this namespace but what was learned."""
        self._remove(self._clear)

    def _clear(self) -> int:
        gen = os.urandom(8).hex()
        self._run(RENEW, gen)
        stays = tuple(f"{self._root}{name}".encode() for name in ("gen", "learned", f"{gen}:"))
        for names in self._clients.scan(f"{self._root}*"):
            old = [name for name in names if not name.startswith(stays)]
            self._clients.send([("UNLINK", name) for name in old])
        return 0

    def learned(self) -> list[float] | None:
        """Return what a risk model saved last, here or elsewhere.

        Raises:
            StoreError: Redis cannot be reached now, is too slow, or refuses.
        """
        if self._monotonic() < self._rests_until:
            raise StoreError("Redis has just failed")
        try:
            (data,) = self._clients.send([("GET", self._root + "learned")])
            return None if data is None else self._codec.decode_learned(data)
        except StoreError as error:
            self._failed(error)
            raise
        except UnreadableError:
            self._note_unreadable()
            return None

    def save(self, coefficients: Sequence[float]) -> None:
        """Keep what the risk model has learned; the last that is saved is read by all."""
        command: Command = ("SET", self._root + "learned", self._codec.encode_learned(coefficients))
        self._attempt(lambda: self._clients.send([command]), instead=[])

    def close(self) -> None:
        """Close the connections; the next call opens them again."""
        self._clients.close()

    def __len__(self) -> int:
        if not self._on_server:
            return self._local.count()
        return self._attempt(self._server.count, instead=self._server.counted)

    def _asks_server(self) -> bool:
        if self._on_server is None:
            self._on_server = self._has_vector_sets()
        return self._on_server

    def _has_vector_sets(self) -> bool:
        try:
            self._clients.send([("VCARD", self._root + "none")])
        except StoreError as error:
            if "unknown command" in str(error) or "NoPermission" in str(error):
                return False
            raise
        return True

    def _run(self, script: str, *arguments: Any) -> Any:
        where = (1, self._root + "gen", self._root)
        return self._clients.send([("EVAL", script, *where, *arguments)])[0]

    def _attempt(self, work: Callable[[], T], *, instead: T) -> T:
        if self._monotonic() < self._rests_until:
            self.skipped += 1
            return instead
        try:
            self._pay()
            return work()
        except StoreError as error:
            self._failed(error)
            return instead

    def _remove(self, work: Callable[[], int]) -> int:
        """Forget what is wrong: if not now, then before anything else is done."""
        debt = _Debt(work)
        with self._lock:
            full = len(self._owed) >= _MOST_OWED
            self._owed = [_Debt(self._clear)] if full else [*self._owed, debt]
        self._attempt(lambda: None, instead=None)
        return debt.gone

    def _pay(self) -> None:
        if not self._owed:
            return
        with self._paying:
            for debt in list(self._owed):
                debt.gone = debt.work()
                self._local.stale()
                with self._lock:
                    self._owed = [other for other in self._owed if other is not debt]

    def _failed(self, error: StoreError) -> None:
        self.failures += 1
        if "OutOfMemory" not in str(error):  # full, it can still be read
            self._rests_until = self._monotonic() + _REST_S
        if self._search_kind == "auto" and "unknown" in str(error).lower():
            self._on_server = None  # another server than the one that was asked
        if not self._warned:
            self._warned = True
            _LOG.warning("semantic entries in Redis failed, calls go on without them: %s", error)

    def _note_unreadable(self) -> None:
        self.unreadable += 1


class _Debt:
    """Something to be forgotten, and how many entries that were."""

    def __init__(self, work: Callable[[], int]) -> None:
        self.work = work
        self.gone = 0


def _random_id() -> int:
    # Unlike a counter in Redis, it does not begin anew when Redis comes back empty.
    return int.from_bytes(os.urandom(8), "big") >> 1
