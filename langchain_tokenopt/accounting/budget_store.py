"""What keeps the accounts of budgets: the protocol, and memory."""

import threading
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import NamedTuple, Protocol

from langchain_tokenopt.accounting.amounts import Amounts, BudgetStatus, Limits
from langchain_tokenopt.accounting.budget import Account, Hold, from_nano, nano

_PURGE_EVERY = 1_000
_LATE = timedelta(days=1)  # a call that ends later than this after its hold is not booked again


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of a reservation."""

    refused_by: BudgetStatus | None
    """The account that has not enough left; then nothing was set aside on any."""
    standing: tuple[BudgetStatus, ...]
    """How the call's accounts stand now, in their order; empty if refused."""


class BudgetStore(Protocol):
    """Sets amounts aside and books them, on all accounts of a call or on none.

    Every method raises `StoreError` if the store cannot be asked now.
    """

    @property
    def blocks(self) -> bool:
        """Whether it waits for a disk or a network, so must not be asked on an event loop."""
        ...

    def reserve(self, hold: Hold, *, now: datetime) -> Outcome:
        """Set `hold.amounts` aside on each account, if each has that much left."""
        ...

    def settle(self, hold: Hold, spent: Amounts) -> None:
        """Book what a call used, instead of what was set aside; a second time does nothing."""
        ...

    def charge(self, accounts: tuple[Account, ...], spent: Amounts, *, now: datetime) -> None:
        """Book what was used without asking, whatever is left."""
        ...

    def grant(self, account: Account, more: Amounts, *, now: datetime) -> None:
        """Allow an account more than its limits."""
        ...

    def statuses(self) -> tuple[BudgetStatus, ...]:
        """Return every account that is kept."""
        ...

    async def areserve(self, hold: Hold, *, now: datetime) -> Outcome:
        """Do what `reserve` does without blocking the event loop."""
        ...

    async def asettle(self, hold: Hold, spent: Amounts) -> None:
        """Do what `settle` does without blocking the event loop."""
        ...

    def close(self) -> None:
        """Release what is held; the store may be used again."""
        ...


class Counts(NamedTuple):
    """Amounts as whole numbers: tokens, calls, billionths of a dollar."""

    tokens: int = 0
    calls: int = 0
    nano: int = 0

    def plus(self, other: "Counts") -> "Counts":
        """Return the sums."""
        return Counts(*(a + b for a, b in zip(self, other, strict=True)))

    def minus(self, other: "Counts") -> "Counts":
        """Return the differences."""
        return Counts(*(a - b for a, b in zip(self, other, strict=True)))

    def amounts(self) -> Amounts:
        """Return them as amounts."""
        return Amounts(tokens=self.tokens, calls=self.calls, dollars=from_nano(self.nano))


def counts(amounts: Amounts) -> Counts:
    """Return amounts as whole numbers."""
    return Counts(amounts.tokens, amounts.calls, nano(amounts.dollars))


@dataclass(slots=True)
class Row:
    """One account as it is kept."""

    spent: Counts = field(default_factory=Counts)
    reserved: Counts = field(default_factory=Counts)
    granted: Counts = field(default_factory=Counts)
    refused: int = 0


def admits(account: Account, row: Row, asked: Counts) -> bool:
    """Return whether an account has as much left as is asked for."""
    used = row.spent.plus(row.reserved).plus(asked)
    return all(
        most is None or need <= most + more
        for need, most, more in zip(used, limit_counts(account), row.granted, strict=True)
    )


def limit_counts(account: Account) -> tuple[int | None, int | None, int | None]:
    """Return an account's limits as whole numbers."""
    dollars = account.limits.dollars
    # Rounded down, as what is asked for is rounded up: the limit itself is never passed.
    cap = None if dollars is None else int(dollars * 10**9)
    return account.limits.tokens, account.limits.calls, cap


def status_of(account: Account, row: Row) -> BudgetStatus:
    """Return how an account stands; what was granted is part of its limits."""
    limits = account.limits
    more = row.granted.amounts()
    return BudgetStatus(
        name=account.name,
        key=account.key,
        window=account.window,
        limits=Limits(
            tokens=None if limits.tokens is None else limits.tokens + more.tokens,
            calls=None if limits.calls is None else limits.calls + more.calls,
            dollars=None if limits.dollars is None else limits.dollars + more.dollars,
        ),
        spent=row.spent.amounts(),
        reserved=row.reserved.amounts(),
        refused=row.refused,
        resets_at=account.resets_at,
    )


@dataclass(slots=True)
class _Kept:
    account: Account
    keep_until: datetime | None
    row: Row = field(default_factory=Row)


class MemoryBudgets:
    """Accounts of this process; they end with it."""

    blocks = False

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._accounts: dict[tuple[str, str, str], _Kept] = {}
        self._holds: dict[str, Hold] = {}
        self._expired: dict[str, Hold] = {}
        self._reserved = 0

    def reserve(self, hold: Hold, *, now: datetime) -> Outcome:
        """Set `hold.amounts` aside on each account, if each has that much left."""
        asked = counts(hold.amounts)
        with self._lock:
            self._tidy(now)
            rows = [self._row(account, now) for account in hold.accounts]
            for account, row in zip(hold.accounts, rows, strict=True):
                if not admits(account, row, asked):
                    row.refused += 1
                    return Outcome(refused_by=status_of(account, row), standing=())
            for row in rows:
                row.reserved = row.reserved.plus(asked)
            self._holds[hold.id] = hold
            standing = map(status_of, hold.accounts, rows)
            return Outcome(refused_by=None, standing=tuple(standing))

    def settle(self, hold: Hold, spent: Amounts) -> None:
        """Book what a call used, instead of what was set aside; a second time does nothing."""
        used = counts(spent)
        with self._lock:
            if self._holds.pop(hold.id, None) is not None:
                self._book(hold, used, freed=counts(hold.amounts))
            elif self._expired.pop(hold.id, None) is not None:
                self._book(hold, used.minus(counts(hold.floor)), freed=Counts())

    def charge(self, accounts: tuple[Account, ...], spent: Amounts, *, now: datetime) -> None:
        """Book what was used without asking, whatever is left."""
        with self._lock:
            for account in accounts:
                row = self._row(account, now)
                row.spent = row.spent.plus(counts(spent))

    def grant(self, account: Account, more: Amounts, *, now: datetime) -> None:
        """Allow an account more than its limits."""
        with self._lock:
            row = self._row(account, now)
            row.granted = row.granted.plus(counts(more))

    def statuses(self) -> tuple[BudgetStatus, ...]:
        """Return every account that is kept."""
        with self._lock:
            return tuple(status_of(kept.account, kept.row) for kept in self._accounts.values())

    async def areserve(self, hold: Hold, *, now: datetime) -> Outcome:
        """Do what `reserve` does: nothing is waited for."""
        return self.reserve(hold, now=now)

    async def asettle(self, hold: Hold, spent: Amounts) -> None:
        """Do what `settle` does: nothing is waited for."""
        self.settle(hold, spent)

    def close(self) -> None:
        """Nothing is held."""

    def _row(self, account: Account, now: datetime) -> Row:
        kept = self._accounts.get(account.id)
        if kept is None:
            kept = self._accounts[account.id] = _Kept(account, account.keep_until(now))
        kept.account, kept.keep_until = account, account.keep_until(now)
        return kept.row

    def _book(self, hold: Hold, used: Counts, *, freed: Counts) -> None:
        for account in hold.accounts:
            kept = self._accounts.get(account.id)
            if kept is not None:  # else its window ended long ago
                kept.row.reserved = kept.row.reserved.minus(freed)
                kept.row.spent = kept.row.spent.plus(used)

    def _tidy(self, now: datetime) -> None:
        """Let go of holds that nobody settled, and now and then of accounts that are over."""
        # In the order in which they were made, which is nearly that in which they end.
        while self._holds and (first := next(iter(self._holds.values()))).expires_at <= now:
            del self._holds[first.id]
            self._expired[first.id] = first
            self._book(first, counts(first.floor), freed=counts(first.amounts))
        self._reserved += 1
        if self._reserved % _PURGE_EVERY == 0:
            over = [
                id_
                for id_, kept in self._accounts.items()
                if kept.keep_until is not None and kept.keep_until <= now
            ]
            for id_ in over:
                del self._accounts[id_]
            late = [id_ for id_, hold in self._expired.items() if hold.expires_at + _LATE <= now]
            for hold_id in late:
                del self._expired[hold_id]
