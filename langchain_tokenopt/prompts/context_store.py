"""Keeps what context windows decided in an SQLite file, so that it outlives the process."""

import contextlib
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from langchain_core.stores import ByteStore
from typing_extensions import override

from langchain_tokenopt.errors import StoreError
from langchain_tokenopt.files import database_path, keep_journal_ahead

_AT_ONCE = 500
_WAIT_S = 5.0


class SqliteContextStore(ByteStore):
    """A LangChain store in an SQLite file that processes may share.

    For `ContextWindow(store=...)`; any other `BaseStore[str, bytes]` does as well.

    Args:
        path: The file; made if it is not there.

    Raises:
        ConfigurationError: The path is a folder, or its folder does not exist.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = database_path(path)
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None

    @override
    def mget(self, keys: Sequence[str]) -> list[bytes | None]:
        found: dict[str, bytes] = {}
        with self._using() as connection:
            for at in range(0, len(keys), _AT_ONCE):
                some = list(keys[at : at + _AT_ONCE])
                marks = ", ".join("?" * len(some))
                query = f"SELECT key, value FROM contexts WHERE key IN ({marks})"  # noqa: S608 - marks alone
                found.update(connection.execute(query, some))
        return [found.get(key) for key in keys]

    @override
    def mset(self, key_value_pairs: Sequence[tuple[str, bytes]]) -> None:
        with self._using() as connection, connection:
            connection.executemany("INSERT OR REPLACE INTO contexts VALUES (?, ?)", key_value_pairs)

    @override
    def mdelete(self, keys: Sequence[str]) -> None:
        with self._using() as connection, connection:
            connection.executemany("DELETE FROM contexts WHERE key = ?", [(key,) for key in keys])

    @override
    def yield_keys(self, *, prefix: str | None = None) -> Iterator[str]:
        with self._using() as connection:
            query = "SELECT key FROM contexts WHERE substr(key, 1, ?) = ? ORDER BY key"
            start = prefix or ""
            keys = [key for (key,) in connection.execute(query, (len(start), start))]
        yield from keys

    def close(self) -> None:
        """Let go of the file. The store stays usable."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    @contextlib.contextmanager
    def _using(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                yield self._opened()
            except sqlite3.Error as error:
                if self._connection is not None:
                    self._connection.close()
                    self._connection = None
                message = f"the context store {self._path} cannot be used: {error}"
                raise StoreError(message) from error

    def _opened(self) -> sqlite3.Connection:
        if self._connection is None:
            connection = sqlite3.connect(self._path, check_same_thread=False, timeout=_WAIT_S)
            self._connection = connection
            keep_journal_ahead(connection, wait_s=_WAIT_S)
            connection.execute(
                "CREATE TABLE IF NOT EXISTS contexts (key TEXT PRIMARY KEY, value BLOB NOT NULL) "
                "WITHOUT ROWID"
            )
        return self._connection
