"""What the accounts of a call have left."""

from collections.abc import Iterable, Sequence
from decimal import Decimal

from langchain_tokenopt.accounting.amounts import Amounts, BudgetStatus
from langchain_tokenopt.accounting.budget import Account
from langchain_tokenopt.calls import Room, least_room


def room_of(accounts: Iterable[Account], statuses: Sequence[BudgetStatus]) -> Room:
    """Return the least that any of the accounts has left, never less than nothing."""
    kept = {(status.name, status.key, status.window): status for status in statuses}
    return least_room(_left(account, kept.get(account.id)) for account in accounts)


def _left(account: Account, status: BudgetStatus | None) -> Room:
    limits = account.limits if status is None else status.limits
    used = Amounts() if status is None else status.spent + status.reserved
    return Room(
        tokens=None if limits.tokens is None else max(limits.tokens - used.tokens, 0),
        calls=None if limits.calls is None else max(limits.calls - used.calls, 0),
        dollars=None if limits.dollars is None else max(limits.dollars - used.dollars, Decimal(0)),
    )
