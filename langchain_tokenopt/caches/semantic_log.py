"""Follow what is kept in Redis into an index of this process: any Redis from 6 on, and Valkey."""

import hashlib
import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from langchain_tokenopt.caches.codec import UnreadableError
from langchain_tokenopt.caches.kept import KeptQuestions
from langchain_tokenopt.caches.likeness import WordWeights
from langchain_tokenopt.caches.question import Question
from langchain_tokenopt.caches.semantic_entry import EntryCodec, Stored
from langchain_tokenopt.caches.semantic_questions import KeptQuestion
from langchain_tokenopt.caches.semantic_scripts import FOLLOW, SNAPSHOT
from langchain_tokenopt.caches.store import StoreError
from langchain_tokenopt.redis_client import Command

_AT_ONCE = 500
_NOTHING = b""  # the name of what is kept where nothing is
_NEVER = -1e9
_GONE = -2  # what PTTL says of it


class LocalSearch:
    """Searches a copy in this process, which reads before a look-up what others changed.

    The first look-up begins to read everything, in a thread; look-ups that come before it is read
    are misses, after a short wait. The same is done again when Redis was cleared, came back empty,
    or has forgotten changes that were not read yet.

    Args:
        run: Runs a script with arguments.
        send: Sends commands.
        entry_name: The key of an entry, by the name of what is kept now and the id.
        max_entries: How many Redis keeps at most.
        fresh_s: For how long what was read last is taken for what is there.
        wait_s: How long a look-up waits for another that reads.
    """

    def __init__(
        self,
        run: Callable[..., Any],
        send: Callable[[Sequence[Command]], list[Any]],
        *,
        entry_name: Callable[[bytes, bytes], bytes],
        codec: EntryCodec,
        unreadable: Callable[[], None],
        max_entries: int,
        fresh_s: float,
        wait_s: float,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._run = run
        self._send = send
        self._entry_name = entry_name
        self._codec = codec
        self._unreadable = unreadable
        self._max_entries = max_entries
        self._fresh_s = fresh_s
        self._wait_s = wait_s
        self._clock = clock
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._local = self._empty()
        self._gen = _NOTHING
        self._seq = 0
        self._read_at = _NEVER
        self._dimensions = 0
        self._reader: threading.Thread | None = None
        self._reader_failed: StoreError | None = None
        self._waits_until = _NEVER

    @property
    def words(self) -> WordWeights:
        """How rare the words of the entries read so far are."""
        return self._local.words

    def near(
        self, question: Question, vector: NDArray[np.float32], *, most: int
    ) -> tuple[list[KeptQuestion], list[float]]:
        """Return the nearest entries and their cosines.

        Raises:
            StoreError: Redis cannot be reached, is too slow, or refuses.
        """
        if not self._lock.acquire(timeout=self._wait_s):
            return [], []
        try:
            if not self._current(len(vector)):
                return [], []
            local = self._local
        finally:
            self._lock.release()
        return local.near(question, vector.tolist(), most=most)

    def stale(self) -> None:
        """Read before the next look-up, whatever was read a moment ago."""
        self._read_at = _NEVER

    def used(self, entry: KeptQuestion) -> None:
        """Note that an entry was served."""
        self._local.used(entry)

    def count(self) -> int:
        """Return how many entries were read."""
        return len(self._local)

    def _current(self, dimensions: int) -> bool:
        """Return whether all is read; the lock is held."""
        if self._reader is not None and not self._has_read():
            return False
        if self._dimensions != dimensions:
            self._dimensions, self._read_at = dimensions, _NEVER
            self._local, self._gen, self._seq = self._empty(), _NOTHING, 0
        began = self._monotonic()
        if began - self._read_at < self._fresh_s:
            return True
        # Set before it is read: a change by this process meanwhile makes it stale again.
        self._read_at = began
        try:
            return self._follow() or self._begin_again()
        except StoreError:
            self._read_at = _NEVER
            raise

    def _follow(self) -> bool:
        """Read what was changed; return whether that could be."""
        while True:
            gen, seq, changes = self._run(FOLLOW, self._gen, self._seq)
            if gen == _NOTHING:
                self._local, self._gen, self._seq = self._empty(), _NOTHING, 0
                return True
            if gen != self._gen or seq < self._seq:
                return False
            if seq == self._seq:
                return True
            if not changes or changes[0][0] != b"%d-1" % (self._seq + 1):
                return False
            self._apply([fields for _, fields in changes])
            self._seq += len(changes)

    def _apply(self, changes: Sequence[Sequence[bytes]]) -> None:
        added = [value for kind, value, *_ in changes if kind == b"added"]
        entries = self._fetch(self._gen, added, self._dimensions)
        for kind, value, *_ in changes:
            if kind == b"added" and value in entries:
                _take(self._local, entries[value])
            elif kind == b"gone" and value.isdigit() and len(value) < 20:
                self._local.forget(int(value))
            elif kind == b"tag":
                self._local.forget_where(_tagged(value))

    def _begin_again(self) -> bool:
        self._local, self._gen, self._seq = self._empty(), _NOTHING, 0
        self._reader = threading.Thread(
            target=self._read_all, args=(self._dimensions,), name="tokenopt-semantic", daemon=True
        )
        # All look-ups together wait so long: what is much to read should not slow each of them.
        self._waits_until = self._monotonic() + self._wait_s
        self._reader.start()
        return self._has_read() and self._follow()

    def _has_read(self) -> bool:
        assert self._reader is not None  # noqa: S101 - the callers know
        self._reader.join(max(self._waits_until - self._monotonic(), 0.0))
        if self._reader.is_alive():
            return False
        self._reader = None
        if self._reader_failed is not None:
            error, self._reader_failed = self._reader_failed, None
            raise error
        return True

    def _read_all(self, dimensions: int) -> None:
        try:
            gen, seq, ids = self._run(SNAPSHOT)
            local = self._empty()
            for start in range(0, len(ids), _AT_ONCE):
                found = self._fetch(gen, ids[start : start + _AT_ONCE], dimensions)
                for stored in found.values():
                    _take(local, stored)
        except StoreError as error:
            self._read_at = _NEVER
            self._reader_failed = error
        else:
            # What was changed while it read is read by the look-up that finds it done.
            self._read_at = _NEVER
            self._local, self._gen, self._seq = local, gen, seq

    def _fetch(self, gen: bytes, ids: Sequence[bytes], dimensions: int) -> dict[bytes, Stored]:
        """Return the entries that are there, and are as this process's embeddings make them."""
        if not ids:
            return {}
        names = [self._entry_name(gen, id_) for id_ in ids]
        commands = [command for name in names for command in (("GET", name), ("PTTL", name))]
        replies = self._send(commands)
        now = self._clock()
        found = {}
        for id_, data, left_ms in zip(ids, replies[::2], replies[1::2], strict=True):
            if data is None or left_ms == _GONE:
                continue
            try:
                stored = self._codec.decode(data)
            except UnreadableError:
                self._unreadable()
                continue
            if str(stored.kept.id).encode() != id_:
                self._unreadable()
            elif len(stored.vector) == dimensions:
                end = math.inf if left_ms < 0 else now + left_ms / 1000
                kept = replace(stored.kept, expires_at=min(stored.kept.expires_at, end))
                found[id_] = Stored(kept, stored.vector)
        return found

    def _empty(self) -> KeptQuestions:
        # Redis sees to the bound; this one is for a Redis that does not.
        return KeptQuestions(max_entries=2 * self._max_entries, clock=self._clock)


def _take(local: KeptQuestions, stored: Stored) -> None:
    if stored.kept.id not in local:
        local.take(stored.kept, stored.vector.tolist())


def _tagged(digest: bytes) -> Callable[[KeptQuestion], bool]:
    wanted = digest.decode("ascii", "replace")
    return lambda kept: any(digest_of(tag) == wanted for tag in kept.tags)


@lru_cache(maxsize=10_000)
def digest_of(tag: str) -> str:
    """Return the digest by which a tag is named in Redis."""
    return hashlib.sha256(tag.encode("utf-8", "surrogatepass")).hexdigest()[:32]
