"""What budgets say: that one is running out, and that one has not enough left."""

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from datetime import datetime

from langchain_tokenopt.accounting.alert import Alert
from langchain_tokenopt.accounting.amounts import BudgetStatus
from langchain_tokenopt.accounting.budget import Budget, Hold
from langchain_tokenopt.accounting.report import dollars

_LOG = logging.getLogger(__name__)

_MOST_WARNED = 10_000


class Warnings:
    """Tells the log and the sinks once when an account passes its budget's `warn_at`."""

    def __init__(self, budgets: Sequence[Budget], sinks: Sequence[Callable[[Alert], None]]) -> None:
        self._budgets = tuple(budgets)
        self._sinks = tuple(sinks)
        self._lock = threading.Lock()
        self._warned: OrderedDict[tuple[str, str, str], None] = OrderedDict()

    def look(self, hold: Hold, standing: Sequence[BudgetStatus], *, now: datetime) -> None:
        """Look at the accounts of a call after it was let through."""
        for budget, account, status in zip(self._budgets, hold.accounts, standing, strict=True):
            share = status.used_share
            if share < budget.warn_at or budget.warn_at == 1:
                continue
            with self._lock:
                if account.id in self._warned:
                    continue
                self._warned[account.id] = None
                if len(self._warned) > _MOST_WARNED:
                    self._warned.popitem(last=False)
            message = f"{account} is used up to {share:.0%}"
            _LOG.warning("%s", message)
            alert = Alert(
                at=now,
                rule=budget.name,
                measure="budget",
                group=account.key,
                value=share,
                expected=None,
                limit=budget.warn_at,
                message=message,
            )
            for tell in self._sinks:
                try:
                    tell(alert)
                except Exception as error:  # noqa: BLE001 - no sink may break the call
                    _LOG.warning("%r could not be told of an alert: %r", tell, error)


def refusal_text(hold: Hold, status: BudgetStatus) -> str:
    """Say which budget has how much left, and what to do."""
    account = next(
        each for each in hold.accounts if (each.name, each.key) == (status.name, status.key)
    )
    lines = []
    for unit in ("tokens", "calls", "dollars"):
        most = getattr(status.limits, unit)
        if most is None:
            continue
        used = getattr(status.spent, unit) + getattr(status.reserved, unit)
        needed = getattr(hold.amounts, unit)
        if used + needed > most:
            show = dollars if unit == "dollars" else str
            lines.append(
                f"{show(max(most - used, 0))} of {show(most)} {unit} left, "
                f"the call needs up to {show(needed)}"
            )
    until = f"; it starts anew at {status.resets_at:%Y-%m-%d %H:%M} UTC" if status.resets_at else ""
    return (
        f"{account} has {' and '.join(lines)}{until}. "
        "Raise the limit, give the call a smaller max_tokens, or wait."
    )
