"""What was handed to a provider, in an SQLite file: written before anything is sent."""

import json
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from langchain_tokenopt.errors import StoreError
from langchain_tokenopt.files import database_path, keep_journal_ahead

_CREATE = """
CREATE TABLE IF NOT EXISTS jobs (
    id TEXT PRIMARY KEY, key TEXT UNIQUE, digest TEXT NOT NULL, model TEXT NOT NULL,
    prompts INTEGER NOT NULL, told TEXT NOT NULL, created REAL NOT NULL,
    cancelled INTEGER NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS sent (
    tag TEXT PRIMARY KEY, job TEXT NOT NULL, provider_id TEXT UNIQUE, rows INTEGER NOT NULL,
    state TEXT NOT NULL, created REAL NOT NULL, lease REAL NOT NULL);
CREATE TABLE IF NOT EXISTS requests (
    id TEXT PRIMARY KEY, job TEXT NOT NULL, number INTEGER NOT NULL, body TEXT NOT NULL,
    messages TEXT NOT NULL, state TEXT NOT NULL, attempts INTEGER NOT NULL DEFAULT 0, tag TEXT,
    answer TEXT, error TEXT, completed REAL, submitted REAL, batch TEXT,
    booked INTEGER NOT NULL DEFAULT 0);
CREATE INDEX IF NOT EXISTS requests_of_a_job ON requests (job, state);
CREATE INDEX IF NOT EXISTS requests_of_a_batch ON requests (tag);
CREATE TABLE IF NOT EXISTS prompts (
    job TEXT NOT NULL, position INTEGER NOT NULL, request TEXT NOT NULL,
    PRIMARY KEY (job, position)) WITHOUT ROWID;
"""
# A process that sends or books may take as long until another one takes over.
_WAIT_S = 10.0
_CANCELLED = "cancelled before it was sent"
LEASE_S = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What was submitted together."""

    id: str
    digest: str
    model: str
    prompts: int
    told: Mapping[str, Any]
    """Keywords, metadata and tags of the calls."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """A batch of the provider."""

    tag: str
    provider_id: str | None
    rows: int
    state: str
    """`sending` or `open`."""
    created: float
    lease: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One request, of one prompt or several equal ones."""

    id: str
    body: Mapping[str, Any]
    messages: Sequence[Any]
    state: str
    """`waiting`, `sent`, `answered` or `failed`."""
    attempts: int
    answer: Mapping[str, Any] | None
    error: str | None
    submitted: float | None
    completed: float | None
    batch: str | None


_ROW = "id, body, messages, state, attempts, answer, error, submitted, completed, batch"


class BatchFile:
    """Jobs in an SQLite file that processes may share.

    Args:
        path: The file.

    Raises:
        ConfigurationError: The path cannot be used.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = database_path(path)
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None

    def add(
        self,
        job: Job,
        *,
        key: str | None,
        rows: Iterable[tuple[str, int, Mapping[str, Any], Any]],
        prompts: Sequence[str],
        now: float,
    ) -> Job | None:
        """Keep a job, or return the one that has the key."""
        with self._writing() as connection:
            if key is not None and (known := self._job(connection, "key", key)) is not None:
                return known
            told = json.dumps(job.told, ensure_ascii=False)
            connection.execute(
                "INSERT INTO jobs VALUES (?, ?, ?, ?, ?, ?, ?, 0)",
                (job.id, key, job.digest, job.model, job.prompts, told, now),
            )
            connection.executemany(
                "INSERT INTO requests (id, job, number, body, messages, state) "
                "VALUES (?, ?, ?, ?, ?, 'waiting')",
                [
                    (name, job.id, number, json.dumps(body), json.dumps(messages))
                    for name, number, body, messages in rows
                ],
            )
            connection.executemany(
                "INSERT INTO prompts VALUES (?, ?, ?)",
                [(job.id, position, name) for position, name in enumerate(prompts)],
            )
        return None

    def job(self, name: str) -> Job | None:
        """Return a job."""
        with self._reading() as connection:
            return self._job(connection, "id", name)

    def cancel(self, job: str) -> None:
        """Note that nothing of a job is to be sent any more; what waits fails."""
        with self._writing() as connection:
            connection.execute("UPDATE jobs SET cancelled = 1 WHERE id = ?", (job,))
            connection.execute(
                "UPDATE requests SET state = 'failed', error = ? "
                "WHERE job = ? AND state = 'waiting'",
                (_CANCELLED, job),
            )

    def cancelled(self, job: str) -> bool:
        """Return whether a job was cancelled."""
        with self._reading() as connection:
            row = connection.execute("SELECT cancelled FROM jobs WHERE id = ?", (job,)).fetchone()
            return bool(row and row[0])

    def rows(self, job: str, *, state: str | None = None) -> list[Row]:
        """Return the requests of a job, or those in a state."""
        query = f"SELECT {_ROW} FROM requests WHERE job = ?"  # noqa: S608 - our own names
        values: tuple[Any, ...] = (job,)
        if state is not None:
            query, values = f"{query} AND state = ?", (job, state)
        with self._reading() as connection:
            return list(map(_row, connection.execute(f"{query} ORDER BY number", values)))

    def positions(self, job: str) -> list[str]:
        """Return the request of each prompt."""
        query = "SELECT request FROM prompts WHERE job = ? ORDER BY position"
        with self._reading() as connection:
            return [name for (name,) in connection.execute(query, (job,))]

    def counts(self, job: str) -> dict[str, int]:
        """Return how many prompts are in each state."""
        query = (
            "SELECT r.state, COUNT(*) FROM prompts p JOIN requests r ON r.id = p.request "
            "WHERE p.job = ? GROUP BY r.state"
        )
        with self._reading() as connection:
            return dict(connection.execute(query, (job,)))

    def take(self, job: str, tag: str, names: Sequence[str], *, now: float) -> list[str]:
        """Note that requests are about to be sent, and return those that nobody else took."""
        with self._writing() as connection:
            taken = [
                name
                for name in names
                if connection.execute(
                    "UPDATE requests SET state = 'sent', tag = ?, attempts = attempts + 1, "
                    "submitted = ? WHERE id = ? AND state = 'waiting'",
                    (tag, now, name),
                ).rowcount
            ]
            if taken:
                connection.execute(
                    "INSERT INTO sent VALUES (?, ?, NULL, ?, 'sending', ?, ?)",
                    (tag, job, len(taken), now, now + LEASE_S),
                )
            return taken

    def accepted(self, tag: str, provider_id: str) -> None:
        """Note the provider's id of a batch."""
        with self._writing() as connection:
            connection.execute(
                "UPDATE sent SET state = 'open', provider_id = ? WHERE tag = ?", (provider_id, tag)
            )

    def refused(self, tag: str) -> None:
        """Note that a batch was not handed in: its requests wait again, or fail if cancelled."""
        with self._writing() as connection:
            query = (
                "SELECT id FROM sent JOIN jobs ON jobs.id = sent.job WHERE tag = ? AND cancelled"
            )
            over = connection.execute(query, (tag,)).fetchone() is not None
            connection.execute(
                "UPDATE requests SET state = ?, error = ?, attempts = attempts - 1, tag = NULL "
                "WHERE tag = ? AND state = 'sent'",
                ("failed" if over else "waiting", _CANCELLED if over else None, tag),
            )
            connection.execute("DELETE FROM sent WHERE tag = ?", (tag,))

    def open_batches(self, job: str) -> list[Sent]:
        """Return the batches that have not ended."""
        query = (
            "SELECT tag, provider_id, rows, state, created, lease FROM sent "
            "WHERE job = ? AND state <> 'ended' ORDER BY created"
        )
        with self._reading() as connection:
            return [
                Sent(tag=t, provider_id=p, rows=r, state=s, created=c, lease=lease)
                for t, p, r, s, c, lease in connection.execute(query, (job,))
            ]

    def provider_ids(self) -> frozenset[str]:
        """Return all batches that are known here."""
        with self._reading() as connection:
            found = connection.execute("SELECT provider_id FROM sent WHERE provider_id NOT NULL")
            return frozenset(name for (name,) in found)

    def leased(self, tag: str, *, now: float) -> bool:
        """Take a batch whose sender may be gone, and return whether nobody else did."""
        with self._writing() as connection:
            return bool(
                connection.execute(
                    "UPDATE sent SET lease = ? WHERE tag = ? AND state = 'sending' AND lease < ?",
                    (now + LEASE_S, tag, now),
                ).rowcount
            )

    def settle(
        self,
        tag: str,
        name: str,
        *,
        state: str,
        batch: str,
        answer: Mapping[str, Any] | None = None,
        error: str | None = None,
        completed: float | None = None,
    ) -> bool:
        """Keep what became of a request, and return whether nobody did before."""
        with self._writing() as connection:
            return bool(
                connection.execute(
                    "UPDATE requests SET state = ?, answer = ?, error = ?, completed = ?, "
                    "batch = ? WHERE id = ? AND tag = ? AND state = 'sent'",
                    (
                        state,
                        json.dumps(answer) if answer is not None else None,
                        error,
                        completed,
                        batch,
                        name,
                        tag,
                    ),
                ).rowcount
            )

    def unbooked(self, job: str) -> list[Row]:
        """Return answered requests that are in no ledger as far as is known."""
        query = (
            f"SELECT {_ROW} FROM requests WHERE job = ? AND booked = 0 "  # noqa: S608 - our own names
            "AND state = 'answered' ORDER BY number"
        )
        with self._reading() as connection:
            return list(map(_row, connection.execute(query, (job,))))

    def booked(self, names: Sequence[str]) -> None:
        """Note that requests are in the ledger."""
        with self._writing() as connection:
            connection.executemany(
                "UPDATE requests SET booked = 1 WHERE id = ?", [(name,) for name in names]
            )

    def missing(self, tag: str) -> list[Row]:
        """Return the requests of a batch that nothing became of."""
        query = f"SELECT {_ROW} FROM requests WHERE tag = ? AND state = 'sent'"  # noqa: S608 - our own
        with self._reading() as connection:
            return list(map(_row, connection.execute(query, (tag,))))

    def ended(self, tag: str) -> None:
        """Note that a batch has ended and all of it was read."""
        with self._writing() as connection:
            connection.execute("UPDATE sent SET state = 'ended' WHERE tag = ?", (tag,))

    def answered_otherwise(
        self, name: str, *, answer: Mapping[str, Any] | None, error: str | None, now: float
    ) -> None:
        """Keep the answer of a request that was asked outside of a batch."""
        with self._writing() as connection:
            connection.execute(
                "UPDATE requests SET state = ?, answer = ?, error = ?, completed = ?, booked = 1 "
                "WHERE id = ?",
                (
                    "answered" if answer is not None else "failed",
                    json.dumps(answer) if answer is not None else None,
                    error,
                    now,
                    name,
                ),
            )

    def forget(self, job: str) -> None:
        """Delete all that is kept of a job."""
        with self._writing() as connection:
            for table in ("prompts", "requests", "sent"):
                connection.execute(f"DELETE FROM {table} WHERE job = ?", (job,))  # noqa: S608 - ours
            connection.execute("DELETE FROM jobs WHERE id = ?", (job,))

    def close(self) -> None:
        """Let go of the file; the next use opens it again."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _job(self, connection: sqlite3.Connection, column: str, value: str) -> Job | None:
        query = f"SELECT id, digest, model, prompts, told FROM jobs WHERE {column} = ?"  # noqa: S608 - our own names
        row = connection.execute(query, (value,)).fetchone()
        if row is None:
            return None
        return Job(id=row[0], digest=row[1], model=row[2], prompts=row[3], told=json.loads(row[4]))

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._reading() as connection, connection:
            connection.execute("BEGIN IMMEDIATE")
            yield connection

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                if self._connection is None:
                    connection = sqlite3.connect(
                        self._path, check_same_thread=False, timeout=_WAIT_S, isolation_level=None
                    )
                    self._connection = connection
                    keep_journal_ahead(connection, wait_s=_WAIT_S)
                    connection.executescript(_CREATE)
                yield self._connection
            except sqlite3.Error as error:
                self.close()
                message = f"the batches in {self._path} cannot be read or written: {error}"
                raise StoreError(message) from error


def _row(values: tuple[Any, ...]) -> Row:
    name, body, messages, state, attempts, answer, error, submitted, completed, batch = values
    return Row(
        id=name,
        body=json.loads(body),
        messages=json.loads(messages),
        state=state,
        attempts=attempts,
        answer=json.loads(answer) if answer else None,
        error=error,
        submitted=submitted,
        completed=completed,
        batch=batch,
    )
