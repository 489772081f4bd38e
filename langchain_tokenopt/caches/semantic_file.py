"""The rows of a semantic cache in an SQLite file, from which the next start builds it again."""

import json
import sqlite3
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from langchain_tokenopt.caches.store import StoreError
from langchain_tokenopt.files import database_path, keep_journal_ahead

_VERSION = 1
_WAIT_S = 5.0
_CREATE = """
CREATE TABLE IF NOT EXISTS questions (
    id INTEGER PRIMARY KEY, partition BLOB NOT NULL, text TEXT NOT NULL, vector BLOB NOT NULL,
    entry BLOB NOT NULL, grp INTEGER NOT NULL, expires_at REAL, tags TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS learned (one INTEGER PRIMARY KEY, coefficients TEXT NOT NULL);
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A kept question as it lies in the file."""

    id: int
    partition: bytes
    text: str
    vector: NDArray[np.float32]
    entry: bytes
    """Encoded by `Codec`."""
    group: int
    expires_at: float | None
    """Unix time."""
    tags: frozenset[str]


class SemanticFile:
    """Reads and writes the rows. One process at a time; others see them when they start.

    Raises:
        ConfigurationError: The path is a folder, or its folder does not exist.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = database_path(path)
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None

    def rows(self) -> list[Row]:
        """Return all rows in the order in which they were kept.

        Raises:
            StoreError: The file cannot be read.
        """
        with self._lock:
            try:
                found = self._open().execute("SELECT * FROM questions ORDER BY id").fetchall()
            except sqlite3.Error as error:
                raise self._failed(error) from error
        return [
            Row(
                id=row[0],
                partition=row[1],
                text=row[2],
                vector=np.frombuffer(row[3], dtype=np.float32),
                entry=row[4],
                group=row[5],
                expires_at=row[6],
                tags=frozenset(json.loads(row[7])),
            )
            for row in found
        ]

    def add(self, row: Row) -> None:
        """Write a row.

        Raises:
            StoreError: The file cannot be written.
        """
        values = (
            row.id,
            row.partition,
            row.text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"),
            row.vector.astype(np.float32).tobytes(),
            row.entry,
            row.group,
            row.expires_at,
            json.dumps(sorted(row.tags)),
        )
        self._write("INSERT OR REPLACE INTO questions VALUES (?, ?, ?, ?, ?, ?, ?, ?)", [values])

    def remove(self, ids: Iterable[int]) -> None:
        """Delete rows.

        Raises:
            StoreError: The file cannot be written.
        """
        self._write("DELETE FROM questions WHERE id = ?", [(id_,) for id_ in ids])

    def coefficients(self) -> list[float] | None:
        """Return what the risk model had learned, `None` if nothing was saved.

        Raises:
            StoreError: The file cannot be read.
        """
        with self._lock:
            try:
                row = self._open().execute("SELECT coefficients FROM learned").fetchone()
            except sqlite3.Error as error:
                raise self._failed(error) from error
        return None if row is None else [float(value) for value in json.loads(row[0])]

    def save(self, coefficients: Iterable[float]) -> None:
        """Write what the risk model has learned.

        Raises:
            StoreError: The file cannot be written.
        """
        text = json.dumps(list(coefficients))
        self._write("INSERT OR REPLACE INTO learned VALUES (1, ?)", [(text,)])

    def close(self) -> None:
        """Close the file; the next call opens it again."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _write(self, statement: str, rows: list[tuple[object, ...]]) -> None:
        with self._lock:
            try:
                connection = self._open()
                with connection:
                    connection.executemany(statement, rows)
            except sqlite3.Error as error:
                raise self._failed(error) from error

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            connection = sqlite3.connect(self._path, timeout=_WAIT_S, check_same_thread=False)
            try:
                keep_journal_ahead(connection, wait_s=_WAIT_S)
                connection.execute("PRAGMA synchronous=NORMAL")
                (version,) = connection.execute("PRAGMA user_version").fetchone()
                if version > _VERSION:
                    message = f"has schema {version}, this version knows {_VERSION}"
                    raise sqlite3.DatabaseError(message)
                connection.executescript(f"{_CREATE}; PRAGMA user_version={_VERSION}")
            except sqlite3.Error:
                connection.close()
                raise
            self._connection = connection
        return self._connection

    def _failed(self, error: sqlite3.Error) -> StoreError:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        return StoreError(f"{self._path}: {error}")
