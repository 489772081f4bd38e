"""Finds documents by their words: BM25 in SQLite's full-text index."""

import json
import re
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from langchain_core.documents import Document

from langchain_tokenopt.errors import ConfigurationError, StoreError
from langchain_tokenopt.files import database_path, keep_journal_ahead, storable

_WORD = re.compile(r"\w+")
_MOST_WORDS = 64
_AT_ONCE = 500
_WAIT_S = 10.0


class WordIndex:
    """What documents there are, by the hash of their content, and their words.

    In memory, or in an SQLite file that processes may share. The full-text index is SQLite's FTS5
    with the Porter stemmer and its `bm25`; see https://www.sqlite.org/fts5.html.

    Args:
        path: The file; in memory without one.

    Raises:
        ConfigurationError: The path cannot be used, or this Python's SQLite has no FTS5.
    """

    def __init__(self, path: str | Path | None = None) -> None:
        self._path = None if path is None else database_path(path)
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        with self._using():
            pass

    def hashes(self) -> dict[str, str]:
        """Return the hash of each document's content, by id."""
        with self._using() as connection:
            return dict(connection.execute("SELECT id, hash FROM documents"))

    def put(self, documents: Sequence[Document], hashes: Mapping[str, str]) -> None:
        """Keep documents; those with the same id are replaced."""
        with self._using() as connection, connection:
            for document in documents:
                name, content = str(document.id), storable(document.page_content)
                _delete(connection, [name])
                cursor = connection.execute(
                    "INSERT INTO documents (id, hash, content, metadata) VALUES (?, ?, ?, ?)",
                    (name, hashes[name], content, json.dumps(document.metadata, default=str)),
                )
                connection.execute(
                    "INSERT INTO words (rowid, content) VALUES (?, ?)", (cursor.lastrowid, content)
                )

    def delete(self, ids: Sequence[str]) -> None:
        """Forget documents."""
        with self._using() as connection, connection:
            _delete(connection, ids)

    def get(self, ids: Sequence[str]) -> dict[str, Document]:
        """Return the documents that are there, by id."""
        found: dict[str, Document] = {}
        with self._using() as connection:
            for at in range(0, len(ids), _AT_ONCE):
                some = list(ids[at : at + _AT_ONCE])
                marks = ", ".join("?" * len(some))
                query = f"SELECT id, content, metadata FROM documents WHERE id IN ({marks})"  # noqa: S608 - marks alone
                for name, content, metadata in connection.execute(query, some):
                    found[name] = Document(
                        id=name, page_content=content, metadata=json.loads(metadata)
                    )
        return found

    def search(self, query: str, k: int) -> list[tuple[str, float]]:
        """Return the ids of the `k` best documents with their BM25 scores, higher is better."""
        words = list(dict.fromkeys(_WORD.findall(storable(query))))[:_MOST_WORDS]
        if not words:
            return []
        # Each word in quotes: none is an operator of the query language.
        match = " OR ".join(f'"{word}"' for word in words)
        with self._using() as connection:
            rows = connection.execute(
                "SELECT d.id, -bm25(words) FROM words JOIN documents d ON d.rowid = words.rowid "
                "WHERE words MATCH ? ORDER BY bm25(words), d.id LIMIT ?",
                (match, k),
            ).fetchall()
        return [(name, float(score)) for name, score in rows]

    def close(self) -> None:
        """Let go of the file. An index in memory is gone then."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    @contextmanager
    def _using(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                yield self._opened()
            except sqlite3.Error as error:
                if "no such module: fts5" in str(error):
                    message = (
                        "the SQLite of this Python has no FTS5, which finding by words needs; use "
                        "a Python with one"
                    )
                    raise ConfigurationError(message) from error
                where = self._path or "memory"
                raise StoreError(f"the documents in {where} cannot be used: {error}") from error

    def _opened(self) -> sqlite3.Connection:
        if self._connection is None:
            path = ":memory:" if self._path is None else str(self._path)
            connection = sqlite3.connect(path, check_same_thread=False, timeout=_WAIT_S)
            try:
                if self._path is not None:
                    keep_journal_ahead(connection, wait_s=_WAIT_S)
                connection.execute(
                    "CREATE TABLE IF NOT EXISTS documents (rowid INTEGER PRIMARY KEY, "
                    "id TEXT UNIQUE, hash TEXT NOT NULL, content TEXT NOT NULL, "
                    "metadata TEXT NOT NULL)"
                )
                connection.execute(
                    "CREATE VIRTUAL TABLE IF NOT EXISTS words "
                    "USING fts5(content, tokenize='porter unicode61')"
                )
            except sqlite3.Error:
                connection.close()
                raise
            self._connection = connection
        return self._connection


def _delete(connection: sqlite3.Connection, ids: Sequence[str]) -> None:
    for name in ids:
        row = connection.execute("SELECT rowid FROM documents WHERE id = ?", (name,)).fetchone()
        if row is not None:
            connection.execute("DELETE FROM words WHERE rowid = ?", row)
            connection.execute("DELETE FROM documents WHERE rowid = ?", row)
