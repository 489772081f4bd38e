"""The SQLite file of a vector store: every change has a number, so that others can follow."""

import json
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from langchain_core.documents import Document

from langchain_tokenopt.errors import ConfigurationError, StoreError
from langchain_tokenopt.files import keep_journal_ahead, storable

_WAIT_S = 10.0
_CREATE = """
CREATE TABLE IF NOT EXISTS vectors (
    id TEXT PRIMARY KEY, content TEXT NOT NULL, metadata TEXT NOT NULL, vector BLOB,
    changed INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS vectors_changed ON vectors (changed);
CREATE TABLE IF NOT EXISTS vectors_about (name TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True)
class Changes:
    """What was written since a change."""

    gone: list[str]
    documents: list[Document]
    matrix: Any
    """Their vectors, one a row; `None` without documents."""
    latest: int


class VectorFile:
    """Documents and vectors in an SQLite file. Not for several threads at once.

    Args:
        path: The file.
        model: Name of the embeddings.
    """

    def __init__(self, path: Path, *, model: str) -> None:
        self._path = path
        self._model = model
        self._connection: sqlite3.Connection | None = None

    @contextmanager
    def using(self) -> Iterator[sqlite3.Connection]:
        """Give the connection.

        Raises:
            StoreError: The file cannot be read or written.
            ConfigurationError: It holds vectors of other embeddings.
        """
        try:
            yield self._opened()
        except sqlite3.Error as error:
            self.close()
            raise StoreError(f"the vectors in {self._path} cannot be used: {error}") from error

    def changes(self, connection: sqlite3.Connection, since: int) -> Changes | None:
        """Return what was written since a change, `None` for nothing."""
        query = "SELECT id, content, metadata, vector, changed FROM vectors WHERE changed > ?"
        rows = connection.execute(query, (since,)).fetchall()
        if not rows:
            return None
        there = [row for row in rows if row[3] is not None]
        matrix = None
        if len({len(row[3]) for row in there}) > 1:
            message = f"the vectors in {self._path} are of several lengths; make the file anew"
            raise StoreError(message)
        if there:
            values = np.frombuffer(b"".join(row[3] for row in there), dtype=np.float32)
            matrix = values.reshape(len(there), -1)
        return Changes(
            [name for name, _, _, vector, _ in rows if vector is None],
            [
                Document(id=row[0], page_content=row[1], metadata=json.loads(row[2]))
                for row in there
            ],
            matrix,
            max(row[4] for row in rows),
        )

    def write(
        self,
        connection: sqlite3.Connection,
        documents: Sequence[Document],
        matrix: Any,
        *,
        before: Callable[[], None],
    ) -> int:
        """Keep documents and return the number of the change; `before` runs inside of it."""
        with connection:
            changed = self._change(connection, before)
            connection.executemany(
                "INSERT OR REPLACE INTO vectors VALUES (?, ?, ?, ?, ?)",
                [
                    (d.id, storable(d.page_content), _json(d.metadata), vector.tobytes(), changed)
                    for d, vector in zip(documents, matrix, strict=True)
                ],
            )
            connection.execute(
                "INSERT OR REPLACE INTO vectors_about VALUES ('model', ?)", (self._model,)
            )
        return changed

    def forget(
        self, connection: sqlite3.Connection, names: Sequence[str], *, before: Callable[[], None]
    ) -> int:
        """Empty documents, whose ids stay so that others hear of it; return the number."""
        with connection:
            changed = self._change(connection, before)
            connection.executemany(
                "UPDATE vectors SET vector = NULL, content = '', metadata = '{}', changed = ? "
                "WHERE id = ?",
                [(changed, name) for name in names],
            )
        return changed

    def close(self) -> None:
        """Let go of the file; the next use opens it again."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _opened(self) -> sqlite3.Connection:
        if self._connection is None:
            connection = sqlite3.connect(self._path, check_same_thread=False, timeout=_WAIT_S)
            self._connection = connection
            keep_journal_ahead(connection, wait_s=_WAIT_S)
            connection.executescript(_CREATE)
            about = dict(connection.execute("SELECT name, value FROM vectors_about"))
            model = about.get("model", self._model)
            if model != self._model:
                self.close()
                message = (
                    f"{self._path} holds vectors of {model!r}, got the embeddings "
                    f"{self._model!r}; give those, another path, or the name that they had as "
                    "model="
                )
                raise ConfigurationError(message)
        return self._connection

    def _change(self, connection: sqlite3.Connection, before: Callable[[], None]) -> int:
        connection.execute("BEGIN IMMEDIATE")
        before()
        (latest,) = connection.execute("SELECT COALESCE(MAX(changed), 0) FROM vectors").fetchone()
        return int(latest) + 1


def _json(metadata: Mapping[str, Any]) -> str:
    try:
        return json.dumps(metadata)
    except (TypeError, ValueError) as error:
        message = f"expected metadata of JSON values, got {metadata!r:.200}: {error}"
        raise ConfigurationError(message) from error
