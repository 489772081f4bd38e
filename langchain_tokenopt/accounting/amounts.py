"""What a budget counts, and how one stands."""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class Amounts:
    """Tokens, calls and dollars, together.

    >>> Amounts(tokens=100, calls=1) + Amounts(tokens=20, calls=1, dollars=Decimal("0.1"))
    Amounts(tokens=120, calls=2, dollars=Decimal('0.1'))
    """

    tokens: int = 0
    calls: int = 0
    dollars: Decimal = Decimal(0)

    def __add__(self, other: "Amounts") -> "Amounts":
        return Amounts(
            tokens=self.tokens + other.tokens,
            calls=self.calls + other.calls,
            dollars=self.dollars + other.dollars,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The most that a budget allows; `None` is no limit."""

    tokens: int | None = None
    calls: int | None = None
    dollars: Decimal | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetStatus:
    """How one budget stands."""

    name: str
    key: str
    """The run, feature or user that it is of; "" for one over everything."""
    window: str
    """The day (`2026-11-23`), hour or month it is for; "" for one without an end."""
    limits: Limits
    spent: Amounts
    reserved: Amounts
    """For calls in flight."""
    refused: int
    """Calls that were not made."""
    resets_at: datetime | None

    @property
    def used_share(self) -> float:
        """The largest of spent and reserved over limit, 0.0 for a budget without limits."""
        pairs = (
            (self.spent.tokens + self.reserved.tokens, self.limits.tokens),
            (self.spent.calls + self.reserved.calls, self.limits.calls),
            (self.spent.dollars + self.reserved.dollars, self.limits.dollars),
        )
        shares = (float(used) / float(most) for used, most in pairs if most)
        return max(shares, default=0.0)
