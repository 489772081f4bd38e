"""The limits kept to by one process while the shared store cannot be asked."""

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from langchain_tokenopt.accounting.amounts import Amounts, BudgetStatus
from langchain_tokenopt.accounting.budget import Account, Hold
from langchain_tokenopt.accounting.budget_store import MemoryBudgets, Outcome

_MOST_KNOWN = 10_000


@dataclass(frozen=True, slots=True)
class Debt:
    """What is to be booked when the store is back."""

    hold: Hold
    spent: Amounts
    charged: bool = field(kw_only=True)
    """Whether the store never knew of the hold."""


class OwnAccounts:
    """Accounts in memory that begin where the shared ones were last seen."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seen: OrderedDict[tuple[str, str, str], BudgetStatus] = OrderedDict()
        self._begun: set[tuple[str, str, str]] = set()
        self._store = MemoryBudgets()
        self._holds: set[str] = set()

    def remember(self, accounts: Sequence[Account], standing: Sequence[BudgetStatus]) -> None:
        """Note how shared accounts stand."""
        with self._lock:
            for account, status in zip(accounts, standing, strict=False):
                before = self._seen.get(account.id)
                # Threads may tell of an earlier moment after a later one.
                if before is None or _used(status) >= _used(before):
                    self._seen[account.id] = status
                self._seen.move_to_end(account.id)
            while len(self._seen) > _MOST_KNOWN:
                self._seen.popitem(last=False)

    def reserve(self, hold: Hold, *, now: datetime) -> Outcome:
        """Set aside what a call may use, in this process only."""
        with self._lock:
            for account in hold.accounts:
                seen = self._seen.get(account.id)
                if account.id not in self._begun and seen is not None:
                    # What others had set aside then is taken to be spent.
                    self._store.charge((account,), seen.spent + seen.reserved, now=now)
                self._begun.add(account.id)
            outcome = self._store.reserve(hold, now=now)
            if outcome.refused_by is None:
                self._holds.add(hold.id)
            return outcome

    def settles(self, hold: Hold, spent: Amounts) -> bool:
        """Book what a call used if it was set aside here, and return whether it was."""
        with self._lock:
            if hold.id not in self._holds:
                return False
            self._holds.discard(hold.id)
            self._store.settle(hold, spent)
            return True

    def forget(self) -> None:
        """Begin anew: the shared store knows it all."""
        with self._lock:
            self._store = MemoryBudgets()
            self._begun.clear()
            self._seen.clear()


def _used(status: BudgetStatus) -> tuple[Any, ...]:
    spent, reserved = status.spent, status.reserved
    return spent.calls, spent.tokens, spent.dollars, reserved.calls, reserved.tokens
