"""Accounts of budgets in an SQLite file, the ledger's for one, that processes share."""

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar

from langchain_tokenopt.accounting.amounts import Amounts, BudgetStatus, Limits
from langchain_tokenopt.accounting.budget import Account, Hold
from langchain_tokenopt.accounting.budget_store import (
    Counts,
    Outcome,
    Row,
    admits,
    counts,
    status_of,
)
from langchain_tokenopt.errors import StoreError
from langchain_tokenopt.files import database_path, keep_journal_ahead

T = TypeVar("T")
_LATE_S = timedelta(days=1).total_seconds()
_PURGE_EVERY = 1_000
_CREATE = """
CREATE TABLE IF NOT EXISTS budgets (
    name TEXT, key TEXT, window TEXT,
    limit_tokens INTEGER, limit_calls INTEGER, limit_dollars TEXT, resets_at REAL, keep_until REAL,
    spent_tokens INTEGER NOT NULL DEFAULT 0, spent_calls INTEGER NOT NULL DEFAULT 0,
    spent_nano INTEGER NOT NULL DEFAULT 0,
    reserved_tokens INTEGER NOT NULL DEFAULT 0, reserved_calls INTEGER NOT NULL DEFAULT 0,
    reserved_nano INTEGER NOT NULL DEFAULT 0,
    granted_tokens INTEGER NOT NULL DEFAULT 0, granted_calls INTEGER NOT NULL DEFAULT 0,
    granted_nano INTEGER NOT NULL DEFAULT 0,
    refused INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (name, key, window)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS budget_holds (
    id TEXT, name TEXT, key TEXT, window TEXT,
    tokens INTEGER, calls INTEGER, nano INTEGER,
    floor_tokens INTEGER, floor_calls INTEGER, floor_nano INTEGER,
    expires_at REAL, expired INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (id, name, key, window)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS budget_holds_expires_at ON budget_holds (expired, expires_at);
"""
_KNOWN = """
INSERT INTO budgets (name, key, window, limit_tokens, limit_calls, limit_dollars, resets_at,
    keep_until) VALUES (?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT DO UPDATE SET limit_tokens = excluded.limit_tokens,
    limit_calls = excluded.limit_calls, limit_dollars = excluded.limit_dollars,
    keep_until = excluded.keep_until
RETURNING spent_tokens, spent_calls, spent_nano, reserved_tokens, reserved_calls, reserved_nano,
    granted_tokens, granted_calls, granted_nano, refused
"""
_WHICH = "WHERE name = ? AND key = ? AND window = ?"
_BOOK = f"""
UPDATE budgets SET spent_tokens = spent_tokens + ?, spent_calls = spent_calls + ?,
    spent_nano = spent_nano + ?, reserved_tokens = reserved_tokens - ?,
    reserved_calls = reserved_calls - ?, reserved_nano = reserved_nano - ? {_WHICH}
"""  # noqa: S608 - our own text
_GRANT = f"""
UPDATE budgets SET granted_tokens = granted_tokens + ?, granted_calls = granted_calls + ?,
    granted_nano = granted_nano + ? {_WHICH}
"""  # noqa: S608 - our own text
_READ = """
SELECT name, key, window, limit_tokens, limit_calls, limit_dollars, resets_at,
    spent_tokens, spent_calls, spent_nano, reserved_tokens, reserved_calls, reserved_nano,
    granted_tokens, granted_calls, granted_nano, refused
FROM budgets ORDER BY name, window, key
"""
_NOTHING = Counts()


class SqliteBudgets:
    """Accounts in a file that the processes of one machine share, in transactions.

    The file may be the ledger's: `tokenopt dashboard` then shows how the budgets stand.

    Raises:
        ConfigurationError: The path cannot be a file.
    """

    blocks = True

    def __init__(self, path: str | Path, *, timeout_s: float = 5.0) -> None:
        self._path = database_path(path)
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._reserved = 0

    def reserve(self, hold: Hold, *, now: datetime) -> Outcome:
        """Set `hold.amounts` aside on each account, if each has that much left."""
        return self._change(lambda connection: self._reserve(connection, hold, now))

    def settle(self, hold: Hold, spent: Amounts) -> None:
        """Book what a call used, instead of what was set aside; a second time does nothing."""
        used = counts(spent)

        def book(connection: sqlite3.Connection) -> None:
            found = connection.execute(
                "DELETE FROM budget_holds WHERE id = ? RETURNING name, key, window, expired, "
                "tokens, calls, nano, floor_tokens, floor_calls, floor_nano",
                (hold.id,),
            ).fetchall()
            for name, key, window, expired, *held in found:
                amounts, floor = Counts(*held[:3]), Counts(*held[3:])
                booked, freed = (used.minus(floor), _NOTHING) if expired else (used, amounts)
                connection.execute(_BOOK, (*booked, *freed, name, key, window))

        self._change(book)

    def charge(self, accounts: tuple[Account, ...], spent: Amounts, *, now: datetime) -> None:
        """Book what was used without asking, whatever is left."""

        def book(connection: sqlite3.Connection) -> None:
            for account in accounts:
                _row(connection, account, now)
                connection.execute(_BOOK, (*counts(spent), *_NOTHING, *account.id))

        self._change(book)

    def grant(self, account: Account, more: Amounts, *, now: datetime) -> None:
        """Allow an account more than its limits."""

        def add(connection: sqlite3.Connection) -> None:
            _row(connection, account, now)
            connection.execute(_GRANT, (*counts(more), *account.id))

        self._change(add)

    def statuses(self) -> tuple[BudgetStatus, ...]:
        """Return every account that is kept."""
        return self._change(lambda connection: tuple(_statuses(connection.execute(_READ))))

    async def areserve(self, hold: Hold, *, now: datetime) -> Outcome:
        """Do what `reserve` does without blocking the event loop."""
        return await asyncio.to_thread(self.reserve, hold, now=now)

    async def asettle(self, hold: Hold, spent: Amounts) -> None:
        """Do what `settle` does without blocking the event loop."""
        await asyncio.to_thread(self.settle, hold, spent)

    def close(self) -> None:
        """Close the file; the next use opens it again."""
        with self._lock:
            connection, self._connection = self._connection, None
            if connection is not None:
                connection.close()

    def _change(self, work: Callable[[sqlite3.Connection], T]) -> T:
        with self._lock:
            try:
                if self._connection is None:
                    self._connection = self._open()
                connection = self._connection
                connection.execute("BEGIN IMMEDIATE")
                try:
                    result = work(connection)
                    connection.execute("COMMIT")
                except BaseException:
                    if connection.in_transaction:
                        connection.execute("ROLLBACK")
                    raise
            except (sqlite3.Error, OverflowError) as error:
                broken, self._connection = self._connection, None
                if broken is not None:
                    broken.close()
                raise StoreError(f"{self._path}: {error}") from error
            return result

    def _open(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self._path, timeout=self._timeout_s, check_same_thread=False, isolation_level=None
        )
        try:
            keep_journal_ahead(connection, wait_s=self._timeout_s)
            connection.execute("PRAGMA synchronous=NORMAL")
            connection.executescript(_CREATE)
        except sqlite3.Error:
            connection.close()
            raise
        return connection

    def _reserve(self, connection: sqlite3.Connection, hold: Hold, now: datetime) -> Outcome:
        self._tidy(connection, now)
        asked = counts(hold.amounts)
        rows = [_row(connection, account, now) for account in hold.accounts]
        for account, row in zip(hold.accounts, rows, strict=True):
            if not admits(account, row, asked):
                refuse = f"UPDATE budgets SET refused = refused + 1 {_WHICH}"  # noqa: S608
                connection.execute(refuse, account.id)
                row.refused += 1
                return Outcome(refused_by=status_of(account, row), standing=())
        freed = Counts(*(-n for n in asked))
        for account, row in zip(hold.accounts, rows, strict=True):
            connection.execute(_BOOK, (*_NOTHING, *freed, *account.id))
            connection.execute(
                "INSERT INTO budget_holds VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0)",
                (
                    hold.id,
                    *account.id,
                    *asked,
                    *counts(hold.floor),
                    hold.expires_at.timestamp(),
                ),
            )
            row.reserved = row.reserved.plus(asked)
        standing = map(status_of, hold.accounts, rows)
        return Outcome(refused_by=None, standing=tuple(standing))

    def _tidy(self, connection: sqlite3.Connection, now: datetime) -> None:
        """Let go of holds that nobody settled, and now and then of accounts that are over."""
        expired = connection.execute(
            "UPDATE budget_holds SET expired = 1 WHERE expired = 0 AND expires_at <= ? "
            "RETURNING name, key, window, tokens, calls, nano, floor_tokens, floor_calls, "
            "floor_nano",
            (now.timestamp(),),
        ).fetchall()
        for name, key, window, *held in expired:
            connection.execute(_BOOK, (*held[3:], *held[:3], name, key, window))
        self._reserved += 1
        if self._reserved % _PURGE_EVERY == 0:
            at = now.timestamp()
            connection.execute("DELETE FROM budgets WHERE keep_until <= ?", (at,))
            connection.execute(
                "DELETE FROM budget_holds WHERE expired = 1 AND expires_at <= ?", (at - _LATE_S,)
            )


def read_budgets(path: str | Path) -> tuple[BudgetStatus, ...]:
    """Return how the budgets in a file stand, without changing it; () if it holds none.

    Raises:
        StoreError: The file cannot be read.
    """
    if not Path(path).exists():
        return ()
    try:
        connection = sqlite3.connect(f"{Path(path).resolve().as_uri()}?mode=ro", uri=True)
        try:
            held = "SELECT 1 FROM sqlite_master WHERE name = 'budgets'"
            if connection.execute(held).fetchone() is None:
                return ()
            return tuple(_statuses(connection.execute(_READ)))
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise StoreError(f"{path}: {error}") from error


def _row(connection: sqlite3.Connection, account: Account, now: datetime) -> Row:
    limits = account.limits
    keep_until = account.keep_until(now)
    values = connection.execute(
        _KNOWN,
        (
            *account.id,
            limits.tokens,
            limits.calls,
            None if limits.dollars is None else str(limits.dollars),
            account.resets_at.timestamp() if account.resets_at else None,
            keep_until.timestamp() if keep_until else None,
        ),
    ).fetchone()
    return _as_row(values)


def _as_row(values: Any) -> Row:
    return Row(
        spent=Counts(*values[:3]),
        reserved=Counts(*values[3:6]),
        granted=Counts(*values[6:9]),
        refused=values[9],
    )


def _statuses(rows: Iterable[Any]) -> Iterable[BudgetStatus]:
    for name, key, window, tokens, calls, dollars, resets_at, *counted in rows:
        account = Account(
            name=name,
            key=key,
            window=window,
            limits=Limits(
                tokens=tokens,
                calls=calls,
                dollars=None if dollars is None else Decimal(dollars),
            ),
            resets_at=None if resets_at is None else datetime.fromtimestamp(resets_at, UTC),
        )
        yield status_of(account, _as_row(counted))
