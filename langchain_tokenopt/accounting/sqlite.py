"""Records in an SQLite file that many processes may share."""

import atexit
import contextlib
import logging
import queue
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from langchain_tokenopt.accounting.records import CallRecord, Totals
from langchain_tokenopt.accounting.rollup import ROLLUP_SCHEMA, add_rollup
from langchain_tokenopt.accounting.sqlite_rows import (
    COLUMNS,
    CREATE,
    INSERT,
    microseconds,
    record_of,
    row_of,
)
from langchain_tokenopt.accounting.sqlite_totals import totals_in
from langchain_tokenopt.accounting.totals import GroupField, Window, total, total_by
from langchain_tokenopt.errors import LedgerFileError
from langchain_tokenopt.files import database_path, keep_journal_ahead

_LOG = logging.getLogger(__name__)

_MOST_UNSAVED = 100_000
_RETRY_AFTER_S = 5.0
_WAIT_S = 30.0
_BATCH = 500
_UNSTORABLE = (ArithmeticError, TypeError, ValueError, sqlite3.ProgrammingError)


class SqliteRecords:
    """Records in a file in WAL mode, written by a thread of their own in batches.

    `add` never waits for the disk. What was added is on disk after `flush`, `close`, the end of
    the process, or a moment later by itself; a process that is killed loses at most that moment.
    If the file cannot be written the records stay in memory (the newest 100,000), the log says so
    once, and writing is tried again every few seconds.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = database_path(path)
        self._queue: queue.SimpleQueue[CallRecord | threading.Event | None] = queue.SimpleQueue()
        self._unsaved: deque[CallRecord] = deque()
        self._lost = 0
        self._warned = False
        self._retry_at = 0.0
        self._connection: sqlite3.Connection | None = None
        self._lock = threading.Lock()
        self._writer: threading.Thread | None = None
        self._closed = False
        atexit.register(self.close)

    @property
    def unsaved(self) -> int:
        """Records in memory because the file could not be written."""
        return len(self._unsaved)

    @property
    def lost(self) -> int:
        """Records given up: too many could not be written, or SQLite has no form for one."""
        return self._lost

    def add(self, record: CallRecord) -> None:
        """Hand `record` to the writer."""
        if self._writer is None:
            self._start_writer()
        self._queue.put(record)

    def _start_writer(self) -> None:
        with self._lock:
            if self._writer is None:
                self._closed = False
                self._writer = threading.Thread(
                    target=self._write_for_ever, name="tokenopt-ledger", daemon=True
                )
                self._writer.start()

    def flush(self) -> None:
        """Return when everything added before is in the file, or could not be written."""
        if self._writer is None or threading.current_thread() is self._writer:
            return
        written = threading.Event()
        self._queue.put(written)
        written.wait()

    def close(self) -> None:
        """Write what waits and end the writer; the next `add` starts another."""
        with self._lock:
            writer, self._writer = self._writer, None
        if writer is not None:
            self._queue.put(None)
            writer.join()
        if not self._closed:
            atexit.unregister(self.close)
            self._closed = True

    def _write_for_ever(self) -> None:
        going = True
        while going:
            batch: list[CallRecord] = []
            events: list[threading.Event] = []
            entry = self._queue.get()
            while True:
                if entry is None:
                    going = False
                elif isinstance(entry, threading.Event):
                    events.append(entry)
                else:
                    batch.append(entry)
                if len(batch) >= _BATCH:
                    break
                try:
                    entry = self._queue.get_nowait()
                except queue.Empty:
                    break
            self._save(batch, now=bool(events) or not going)
            for event in events:
                event.set()
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _save(self, batch: list[CallRecord], *, now: bool) -> None:
        self._unsaved.extend(batch)
        if not self._unsaved or (time.monotonic() < self._retry_at and not now):
            self._give_up_the_oldest()
            return
        try:
            if self._connection is None:
                self._connection = self._open()
            with self._connection:
                self._insert(self._connection)
        except sqlite3.Error as error:
            self._retry_at = time.monotonic() + _RETRY_AFTER_S
            self._give_up_the_oldest()
            if self._connection is not None:
                self._connection.close()
                self._connection = None
            if not self._warned:
                self._warned = True
                _LOG.warning(
                    "the ledger %s cannot be written (%s); records are kept in memory",
                    self._path,
                    error,
                )
        else:
            self._unsaved.clear()

    def _insert(self, connection: sqlite3.Connection) -> None:
        try:
            connection.executemany(INSERT, [row_of(record) for record in self._unsaved])
        except _UNSTORABLE:
            # One bad record must not keep the others out of the file, nor end the writer.
            for record in self._unsaved:
                try:
                    connection.execute(INSERT, row_of(record))
                except _UNSTORABLE as error:
                    self._lost += 1
                    _LOG.warning("the ledger cannot keep the record %s: %r", record.run_id, error)

    def _give_up_the_oldest(self) -> None:
        while len(self._unsaved) > _MOST_UNSAVED:
            self._unsaved.popleft()
            self._lost += 1

    def _open(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, timeout=_WAIT_S, check_same_thread=False)
        try:
            keep_journal_ahead(connection, wait_s=_WAIT_S)
            connection.execute("PRAGMA synchronous=NORMAL")
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if version > ROLLUP_SCHEMA:
                message = f"the file has schema {version}, this version knows {ROLLUP_SCHEMA}"
                raise sqlite3.DatabaseError(message)
            if version < ROLLUP_SCHEMA:
                _upgrade(connection)
        except sqlite3.Error:
            connection.close()
            raise
        return connection

    @contextlib.contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection | None]:
        """Give a connection for one read, `None` if there is no readable file yet."""
        self.flush()
        if not self._path.exists():
            yield None
            return
        connection = sqlite3.connect(
            f"{self._path.resolve().as_uri()}?mode=ro", uri=True, timeout=_WAIT_S
        )
        try:
            found = connection.execute(
                "SELECT 1 FROM sqlite_master WHERE name = 'calls'"
            ).fetchone()
            yield connection if found else None
        except sqlite3.Error as error:
            message = (
                f"the ledger {self._path} cannot be read: {error}. {self.unsaved} records are in "
                "memory; move the file away, and they are written to a new one"
            )
            raise LedgerFileError(message) from error
        finally:
            connection.close()

    def records(self, window: Window) -> Iterator[CallRecord]:
        """Yield the records of a window, oldest first, those that could not be written last."""
        with self._reading() as connection:
            where, values = _where(window)
            columns = ", ".join(COLUMNS)
            query = f"SELECT {columns} FROM calls {where} ORDER BY started_at"  # noqa: S608 - our own names
            rows = connection.execute(query, values) if connection is not None else iter(())
            unsaved = [record for record in self._unsaved if window.covers(record)]
            yield from chain(map(record_of, rows), unsaved)

    def totals(self, window: Window) -> Totals:
        """Return the sums of a window."""
        with self._reading() as connection:
            if connection is not None and not self._unsaved:
                where, values = _where(window)
                return totals_in(connection, None, where, values).get("", total(()))
        return total(self.records(window))

    def totals_by(self, by: GroupField, window: Window) -> dict[str, Totals]:
        """Return the sums of a window by group."""
        with self._reading() as connection:
            if connection is not None and not self._unsaved:
                where, values = _where(window)
                return totals_in(connection, by, where, values)
        return total_by(self.records(window), by)


def _upgrade(connection: sqlite3.Connection) -> None:
    """Create what a new or older file lacks: all of it or, where the process dies, nothing."""
    with connection:
        connection.execute("BEGIN IMMEDIATE")
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version >= ROLLUP_SCHEMA:
            return  # another process was quicker
        for statement in CREATE:
            connection.execute(statement)
        add_rollup(connection)
        connection.execute(f"PRAGMA user_version={ROLLUP_SCHEMA}")


def _where(window: Window) -> tuple[str, tuple[int, ...]]:
    conditions, values = ["1"], []
    if window.since is not None:
        conditions.append("started_at >= ?")
        values.append(microseconds(window.since))
    if window.until is not None:
        conditions.append("started_at < ?")
        values.append(microseconds(window.until))
    return f"WHERE {' AND '.join(conditions)}", tuple(values)
