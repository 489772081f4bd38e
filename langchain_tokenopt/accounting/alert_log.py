"""Alerts in an SQLite file, the ledger's for one, that processes share."""

import sqlite3
import threading
from datetime import UTC, datetime
from pathlib import Path

from langchain_tokenopt.accounting.alert import Alert
from langchain_tokenopt.errors import StoreError
from langchain_tokenopt.files import database_path, keep_journal_ahead

_COLUMNS = (
    "at", "rule", "measure", "group_name", "value", "expected", "limit_", "message", "state",
)  # fmt: skip
_CREATE = """
CREATE TABLE IF NOT EXISTS alerts (
    id INTEGER PRIMARY KEY, at REAL NOT NULL, rule TEXT, measure TEXT, group_name TEXT,
    value REAL, expected REAL, limit_ REAL, message TEXT, state TEXT
);
CREATE INDEX IF NOT EXISTS alerts_at ON alerts (at);
"""


class AlertLog:
    """A sink that keeps alerts in a file; in the ledger's, `tokenopt dashboard` shows them.

    Writing waits for the disk, a fraction of a millisecond, and alerts are few.

    Raises:
        ConfigurationError: The path cannot be a file.
    """

    def __init__(self, path: str | Path, *, timeout_s: float = 5.0) -> None:
        self._path = database_path(path)
        self._timeout_s = timeout_s
        self._lock = threading.Lock()

    def __call__(self, alert: Alert) -> None:
        """Keep an alert.

        Raises:
            StoreError: The file cannot be written now.
        """
        values = (
            alert.at.timestamp(), alert.rule, alert.measure, alert.group, alert.value,
            alert.expected, alert.limit, alert.message, alert.state,
        )  # fmt: skip
        with self._lock:
            try:
                connection = sqlite3.connect(self._path, timeout=self._timeout_s)
                try:
                    keep_journal_ahead(connection, wait_s=self._timeout_s)
                    connection.executescript(_CREATE)
                    marks = ", ".join("?" * len(_COLUMNS))
                    insert = f"INSERT INTO alerts ({', '.join(_COLUMNS)}) VALUES ({marks})"  # noqa: S608 - our own names
                    with connection:
                        connection.execute(insert, values)
                finally:
                    connection.close()
            except sqlite3.Error as error:
                raise StoreError(f"{self._path}: {error}") from error

    def alerts(
        self, *, since: datetime | None = None, until: datetime | None = None
    ) -> list[Alert]:
        """Return the alerts of a window, oldest first; none from a file without any.

        Raises:
            StoreError: The file cannot be read.
        """
        if not self._path.exists():
            return []
        start = since.timestamp() if since else float("-inf")
        end = until.timestamp() if until else float("inf")
        query = f"SELECT {', '.join(_COLUMNS)} FROM alerts WHERE at >= ? AND at < ? ORDER BY at, id"  # noqa: S608 - our own names
        try:
            connection = sqlite3.connect(f"{self._path.resolve().as_uri()}?mode=ro", uri=True)
            try:
                held = "SELECT 1 FROM sqlite_master WHERE name = 'alerts'"
                if connection.execute(held).fetchone() is None:
                    return []
                rows = connection.execute(query, (start, end)).fetchall()
            finally:
                connection.close()
        except sqlite3.Error as error:
            raise StoreError(f"{self._path}: {error}") from error
        return [
            Alert(
                at=datetime.fromtimestamp(at, UTC),
                rule=rule,
                measure=measure,
                group=group,
                value=value,
                expected=expected,
                limit=limit,
                message=message,
                state=state,
            )
            for at, rule, measure, group, value, expected, limit, message, state in rows
        ]
