"""Entries in an SQLite file that threads and processes share."""

import asyncio
import contextlib
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path

from langchain_tokenopt.caches.store import Held, StoreError, StoreEvents, StoreSize, Tally
from langchain_tokenopt.errors import ConfigurationError
from langchain_tokenopt.files import database_path, keep_journal_ahead

_SCHEMA_VERSION = 1
# The row id is taken from the key, so a look-up is one walk down one tree; the whole key is kept
# in the row and compared, since two keys may share 63 bits.
_CREATE = """
CREATE TABLE IF NOT EXISTS entries (
    id INTEGER PRIMARY KEY, key BLOB NOT NULL, value BLOB NOT NULL,
    expires_at REAL, used_at INTEGER NOT NULL, bytes INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS entries_expires_at ON entries (expires_at) WHERE expires_at IS NOT NULL;
CREATE INDEX IF NOT EXISTS entries_used_at ON entries (used_at);
CREATE TABLE IF NOT EXISTS held (one INTEGER PRIMARY KEY, entries INTEGER, bytes INTEGER);
INSERT OR IGNORE INTO held VALUES (1, 0, 0);
CREATE TABLE IF NOT EXISTS tags (
    tag TEXT NOT NULL, id INTEGER NOT NULL, PRIMARY KEY (tag, id)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS tags_id ON tags (id);
CREATE TRIGGER IF NOT EXISTS entries_in AFTER INSERT ON entries BEGIN
    UPDATE held SET entries = entries + 1, bytes = bytes + NEW.bytes; END;
CREATE TRIGGER IF NOT EXISTS entries_out AFTER DELETE ON entries BEGIN
    UPDATE held SET entries = entries - 1, bytes = bytes - OLD.bytes;
    DELETE FROM tags WHERE id = OLD.id; END;
"""
# When an entry was used is written at most this often, and with the next write: reading an entry
# then never waits for the writer.
_USED_EVERY_S = 60
_EVICT_AT_ONCE = 64
_MOST_TOUCHED = 10_000


class SqliteStore:
    """A `Store` in a file in WAL mode: what `put` returned from survives a killed process.

    Reads run beside writes, and processes write in turn. When the entries exceed `max_bytes` the
    least recently used make room, a few at each write. A power cut may lose the last writes, but
    never the file.

    Args:
        path: The file; made if it is not there.
        max_bytes: Most bytes of keys and encoded values to keep; the file is somewhat larger.
        busy_timeout_s: How long a call waits for another process that writes.
        clock: Unix time in seconds, for tests.

    Raises:
        ConfigurationError: The path is a folder, or its folder does not exist.
    """

    source = "sqlite"

    def __init__(
        self,
        path: str | Path,
        *,
        max_bytes: int | None = None,
        busy_timeout_s: float = 5.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._path = database_path(path)
        if max_bytes is not None and max_bytes < 1:
            message = f"max_bytes must be at least 1, or None for no bound, got {max_bytes}"
            raise ConfigurationError(message)
        self._max_bytes = max_bytes
        self._busy_timeout_s = busy_timeout_s
        self._clock = clock
        self._lock = threading.Lock()
        # Connections that nobody uses now: as many as there were calls at once.
        self._idle: list[sqlite3.Connection] = []
        self._owner = (os.getpid(), 0)
        self._inherited: list[sqlite3.Connection] = []
        self._touched: dict[int, int] = {}
        self._tally = Tally()

    def get(self, keys: Iterable[bytes]) -> dict[bytes, bytes]:
        """Return the entries that are there.

        Raises:
            StoreError: The file cannot be read.
        """
        found = {}
        with self._using() as connection:
            for key in keys:
                row = self._live(connection, key)
                if row is not None:
                    found[key] = row[1]
        return found

    def held(self, keys: Iterable[bytes]) -> dict[bytes, Held]:
        """Return the entries that are there with their remaining life and tags.

        Raises:
            StoreError: The file cannot be read.
        """
        found = {}
        with self._using() as connection:
            for key in keys:
                row = self._live(connection, key)
                if row is None:
                    continue
                tags = connection.execute("SELECT tag FROM tags WHERE id = ?", (_id(key),))
                found[key] = Held(
                    value=row[1],
                    ttl_s=None if row[2] is None else row[2] - self._clock(),
                    tags=frozenset(tag for (tag,) in tags),
                )
        return found

    def _live(
        self, connection: sqlite3.Connection, key: bytes
    ) -> tuple[bytes, bytes, float | None, int] | None:
        row: tuple[bytes, bytes, float | None, int] | None = connection.execute(
            "SELECT key, value, expires_at, used_at FROM entries WHERE id = ?", (_id(key),)
        ).fetchone()
        if row is None or row[0] != key:
            return None
        now = self._clock()
        if row[2] is not None and row[2] <= now:
            self._tally.add("expired")
            return None
        if now - row[3] > _USED_EVERY_S and len(self._touched) < _MOST_TOUCHED:
            self._touched[_id(key)] = int(now)
        return row

    def put(
        self, entries: Mapping[bytes, bytes], *, ttl_s: float | None, tags: Collection[str] = ()
    ) -> None:
        """Keep entries; returned means that a killed process does not lose them.

        Raises:
            StoreError: The file cannot be written: read-only, full, or held too long.
        """
        now = self._clock()
        expires_at = None if ttl_s is None else now + ttl_s
        rows = [
            (_id(key), key, value, expires_at, int(now), len(key) + len(value))
            for key, value in entries.items()
        ]
        with self._writing() as connection:
            # A delete and an insert, not a replace: triggers count what goes.
            connection.executemany("DELETE FROM entries WHERE id = ?", [row[:1] for row in rows])
            connection.executemany("INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?)", rows)
            if tags:
                marks = [(tag, row[0]) for row in rows for tag in set(tags)]
                connection.executemany("INSERT INTO tags VALUES (?, ?)", marks)
            self._tidy(connection, now)

    def _tidy(self, connection: sqlite3.Connection, now: float) -> None:
        touched, self._touched = self._touched, {}
        if touched:
            used = [(at, row) for row, at in touched.items()]
            connection.executemany("UPDATE entries SET used_at = ? WHERE id = ?", used)
        connection.execute(
            "DELETE FROM entries WHERE id IN"
            " (SELECT id FROM entries WHERE expires_at <= ? LIMIT ?)",
            (now, _EVICT_AT_ONCE),
        )
        while self._max_bytes is not None:
            entries, held = connection.execute("SELECT entries, bytes FROM held").fetchone()
            if held <= self._max_bytes:
                break
            gone = connection.execute(
                "DELETE FROM entries WHERE id IN"
                " (SELECT id FROM entries ORDER BY used_at, id LIMIT ?)",
                (min(_EVICT_AT_ONCE, max(entries // 8, 1)),),
            ).rowcount
            self._tally.add("evicted", gone)
            if not gone:
                break

    def delete(self, keys: Iterable[bytes]) -> None:
        """Forget entries.

        Raises:
            StoreError: The file cannot be written.
        """
        with self._writing() as connection:
            connection.executemany(
                "DELETE FROM entries WHERE id = ? AND key = ?", [(_id(key), key) for key in keys]
            )

    def invalidate(self, tags: Iterable[str]) -> int:
        """Forget the entries that have one of the tags.

        Raises:
            StoreError: The file cannot be written.
        """
        gone = 0
        with self._writing() as connection:
            for tag in tags:
                gone += connection.execute(
                    "DELETE FROM entries WHERE id IN (SELECT id FROM tags WHERE tag = ?)", (tag,)
                ).rowcount
        return gone

    def clear(self) -> None:
        """Forget everything.

        Raises:
            StoreError: The file cannot be written.
        """
        with self._writing() as connection:
            connection.execute("DELETE FROM entries")

    async def aget(self, keys: Iterable[bytes]) -> dict[bytes, bytes]:
        """Do what `get` does in a thread."""
        return await asyncio.to_thread(self.get, list(keys))

    async def aheld(self, keys: Iterable[bytes]) -> dict[bytes, Held]:
        """Do what `held` does in a thread."""
        return await asyncio.to_thread(self.held, list(keys))

    async def aput(
        self, entries: Mapping[bytes, bytes], *, ttl_s: float | None, tags: Collection[str] = ()
    ) -> None:
        """Do what `put` does in a thread."""
        await asyncio.to_thread(self.put, dict(entries), ttl_s=ttl_s, tags=tuple(tags))

    async def adelete(self, keys: Iterable[bytes]) -> None:
        """Do what `delete` does in a thread."""
        await asyncio.to_thread(self.delete, list(keys))

    async def ainvalidate(self, tags: Iterable[str]) -> int:
        """Do what `invalidate` does in a thread."""
        return await asyncio.to_thread(self.invalidate, list(tags))

    async def aclear(self) -> None:
        """Do what `clear` does in a thread."""
        await asyncio.to_thread(self.clear)

    def size(self) -> StoreSize:
        """Return how much the file holds, expired entries that wait to be tidied among it."""
        with self._using() as connection:
            entries, held = connection.execute("SELECT entries, bytes FROM held").fetchone()
        return StoreSize(entries=entries, bytes=held)

    def events(self) -> StoreEvents:
        """Return what this process evicted and found expired."""
        return StoreEvents(evicted=self._tally.of("evicted"), expired=self._tally.of("expired"))

    def close(self) -> None:
        """Close the file; the next call opens it again."""
        with self._lock:
            idle, self._idle = self._idle, []
            self._owner = (os.getpid(), self._owner[1] + 1)
        for connection in idle:
            connection.close()

    @contextlib.contextmanager
    def _using(self) -> Iterator[sqlite3.Connection]:
        try:
            connection, owner = self._take()
        except sqlite3.Error as error:
            raise StoreError(f"{self._path}: {error}") from error
        try:
            yield connection
        except sqlite3.Error as error:
            connection.close()
            raise StoreError(f"{self._path}: {error}") from error
        except BaseException:
            self._give_back(connection, owner)
            raise
        self._give_back(connection, owner)

    def _take(self) -> tuple[sqlite3.Connection, tuple[int, int]]:
        with self._lock:
            if self._owner[0] != os.getpid():
                # A forked child must neither use nor close what its parent opened.
                self._inherited += self._idle
                self._idle = []
                self._owner = (os.getpid(), 0)
            if self._idle:
                return self._idle.pop(), self._owner
            owner = self._owner
        return self._open(), owner

    def _give_back(self, connection: sqlite3.Connection, owner: tuple[int, int]) -> None:
        with self._lock:
            if owner == self._owner:
                self._idle.append(connection)
                return
        connection.close()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._using() as connection:
            # Taking the write lock first: a read that turns into a write cannot wait for it.
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise

    def _open(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self._path,
            timeout=self._busy_timeout_s,
            isolation_level=None,
            check_same_thread=False,  # used by one thread at a time, not always the same
        )
        try:
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            if version > _SCHEMA_VERSION:
                message = f"has schema {version}, this version knows {_SCHEMA_VERSION}"
                raise sqlite3.DatabaseError(message)
            if version < _SCHEMA_VERSION:
                keep_journal_ahead(connection, wait_s=self._busy_timeout_s)
                connection.executescript(
                    f"BEGIN IMMEDIATE; {_CREATE} PRAGMA user_version={_SCHEMA_VERSION}; COMMIT;"
                )
            connection.execute("PRAGMA synchronous=NORMAL")
        except sqlite3.Error:
            connection.close()
            raise
        return connection


def _id(key: bytes) -> int:
    return int.from_bytes(key[:8], "big") >> 1
