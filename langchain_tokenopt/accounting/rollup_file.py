"""Open a ledger's file to look at it: read-only, whatever its age, and say what is wrong."""

import contextlib
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

from langchain_tokenopt.accounting.rollup import ROLLUP_SCHEMA, add_passing_rollup
from langchain_tokenopt.accounting.sqlite_rows import COLUMNS
from langchain_tokenopt.errors import LedgerFileError

_OURS = ("calls", "budget", "alert")


class LedgerFile:
    """One read-only connection to a ledger's file, shared by threads in turns.

    A file of before the sums gets them in this connection's memory, which takes some seconds for a
    million calls, and again when the file has changed.

    Args:
        path: The file of a `UsageLedger`.
        timeout_s: How long to wait for a process that locks the file.
    """

    def __init__(self, path: str | Path, *, timeout_s: float = 5.0) -> None:
        self.path = Path(path)
        self._timeout_s = timeout_s
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._identity: tuple[int, ...] = ()

    @contextlib.contextmanager
    def reading(self) -> Iterator[sqlite3.Connection | None]:
        """Give the connection, `None` where the file holds no call yet, as one state of the file.

        Raises:
            LedgerFileError: The file is not there, is locked, or is no ledger.
        """
        with self._lock:
            try:
                if self._connection is not None and self._connection.in_transaction:
                    yield self._connection if self._has_calls(self._connection) else None
                    return
                connection = self._opened()
                connection.execute("BEGIN")
                try:
                    yield connection if self._has_calls(connection) else None
                finally:
                    connection.rollback()
            except sqlite3.Error as error:
                self._close()
                raise LedgerFileError(self._told(error)) from error

    def _has_calls(self, connection: sqlite3.Connection) -> bool:
        found = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'calls'")
        return found.fetchone() is not None

    def check(self) -> None:
        """Raise what `reading` would, without adding up the calls of an older file."""
        with self._lock:
            try:
                self._connect()
            except sqlite3.Error as error:
                raise LedgerFileError(self._told(error)) from error
            finally:
                self._close()

    def close(self) -> None:
        """Let go of the file; the next look opens it again."""
        with self._lock:
            self._close()

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _opened(self) -> sqlite3.Connection:
        if self._connection is not None and self._identity != self._identity_now():
            self._close()
        if self._connection is None:
            connection, schema = self._connect()
            if schema < ROLLUP_SCHEMA:
                add_passing_rollup(connection)
            self._identity = self._identity_now()
            return connection
        return self._connection

    def _connect(self) -> tuple[sqlite3.Connection, int]:
        if not self.path.is_file():
            message = (
                f"expected the file of a ledger, found none at {self.path}; give the path that "
                "UsageLedger(path) was given"
            )
            raise LedgerFileError(message)
        self._connection = sqlite3.connect(
            f"{self.path.resolve().as_uri()}?mode=ro",
            uri=True,
            timeout=self._timeout_s,
            check_same_thread=False,
        )
        return self._connection, self._check(self._connection)

    def _identity_now(self) -> tuple[int, ...]:
        """Return what changes when another file takes the place, or sums in memory grow old."""
        if not self.path.is_file():
            return ()
        status = self.path.stat()
        if self._connection is None:
            return (status.st_dev, status.st_ino)
        (version,) = self._connection.execute("PRAGMA user_version").fetchone()
        (data,) = self._connection.execute("PRAGMA data_version").fetchone()
        return (status.st_dev, status.st_ino, version, data if version < ROLLUP_SCHEMA else 0)

    def _check(self, connection: sqlite3.Connection) -> int:
        """Return the schema of the file, and refuse what is no ledger."""
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version > ROLLUP_SCHEMA:
            message = (
                f"the ledger {self.path} has schema {version}, this version knows up to "
                f"{ROLLUP_SCHEMA}; upgrade langchain-tokenopt"
            )
            raise LedgerFileError(message)
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
        columns = {row[1] for row in connection.execute("PRAGMA table_info(calls)")}
        # Budgets and alerts may be in the file before the first call is.
        foreign = bool(tables) and not any(name.startswith(_OURS) for name in tables)
        if foreign or (columns and not columns >= set(COLUMNS)):
            message = (
                f"{self.path} is an SQLite file but no ledger: it has no calls of one; give the "
                "path that UsageLedger(path) was given"
            )
            raise LedgerFileError(message)
        return int(version) if columns else ROLLUP_SCHEMA

    def _told(self, error: sqlite3.Error) -> str:
        if "locked" in str(error) or "busy" in str(error):
            return (
                f"the ledger {self.path} is locked by another process (waited "
                f"{self._timeout_s:g} s); try again, or end what holds it"
            )
        if "not a database" in str(error) or "malformed" in str(error):
            return (
                f"{self.path} is no ledger: {error}; give the path that UsageLedger(path) was given"
            )
        return f"the ledger {self.path} cannot be read: {error}"
