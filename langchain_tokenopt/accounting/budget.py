"""What a budget allows, for whom and for how long."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, time, timedelta, tzinfo
from decimal import Decimal, InvalidOperation
from typing import Any, Literal, get_args

from langchain_tokenopt.accounting.amounts import Amounts, Limits
from langchain_tokenopt.errors import ConfigurationError

Every = Literal["hour", "day", "month"]

# A run is over when nothing of it was heard for a day; of a window, last month's can still be read.
_KEEP_UNENDING = timedelta(days=1)
_KEEP_ENDED = timedelta(days=35)


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """One budget for one key and one window: what a store keeps."""

    name: str
    key: str
    window: str
    limits: Limits
    resets_at: datetime | None
    per: str | None = None

    @property
    def id(self) -> tuple[str, str, str]:
        """What the account is known by."""
        return self.name, self.key, self.window

    def keep_until(self, now: datetime) -> datetime | None:
        """Return when the account may be forgotten; `None` of one for everything, for ever."""
        if self.resets_at is not None:
            return self.resets_at + _KEEP_ENDED
        return now + _KEEP_UNENDING if self.per == "run" else None

    def __str__(self) -> str:
        where = [f"{self.per} {self.key!r}"] if self.per else []
        where += [self.window] if self.window else []
        return f"budget {self.name!r}" + (f" ({', '.join(where)})" if where else "")


@dataclass(frozen=True, slots=True)
class Budget:
    """The most tokens, calls or dollars that a key may use in a window.

    Args:
        name: Names the budget in messages, alerts and the dashboard; budgets that share a store
            and a name share what is left.
        tokens: Input and output together.
        calls: Requests that a provider answers; hits of a response cache are free.
        dollars: Text or `Decimal`, so that no digit is lost.
        per: The key in the call's metadata whose every value has this budget to itself:
            `feature`, `user`, `tenant`, `thread_id`, any of yours; `run` is one invocation of a
            graph or an agent. Calls without the key share the one of "". `None` is one budget over
            everything.
        every: When it starts anew; `None` is never.
        timezone: Where the hour, the day or the month begins.
        warn_at: Share at which an alert tells that the budget is running out; 1.0 for none.

    Raises:
        ConfigurationError: Nothing is limited, a limit is negative or no number, or `every` is not
            known.

    >>> Budget("support", dollars="5", per="feature", every="day").limits.dollars
    Decimal('5')
    """

    name: str
    tokens: int | None = field(default=None, kw_only=True)
    calls: int | None = field(default=None, kw_only=True)
    dollars: Decimal | str | int | None = field(default=None, kw_only=True)
    per: str | None = field(default=None, kw_only=True)
    every: Every | None = field(default=None, kw_only=True)
    timezone: tzinfo = field(default=UTC, kw_only=True)
    warn_at: float = field(default=0.8, kw_only=True)

    def __post_init__(self) -> None:
        limits = self.limits
        given = [
            amount for amount in (limits.tokens, limits.calls, limits.dollars) if amount is not None
        ]
        if not self.name or not given:
            message = f"a budget needs a name and a limit on tokens, calls or dollars, got {self!r}"
            raise ConfigurationError(message)
        if any(amount < 0 for amount in given):
            message = f"the limits of budget {self.name!r} must be 0 or more, got {given}"
            raise ConfigurationError(message)
        if self.every is not None and self.every not in get_args(Every):
            message = f"every must be one of {', '.join(get_args(Every))}, got {self.every!r}"
            raise ConfigurationError(message)
        if not 0 < self.warn_at <= 1:
            message = f"warn_at is a share above 0 and at most 1, got {self.warn_at}"
            raise ConfigurationError(message)

    @property
    def limits(self) -> Limits:
        """The limits, dollars as `Decimal`."""
        return Limits(tokens=self.tokens, calls=self.calls, dollars=_dollars(self.dollars))

    def account(self, metadata: Mapping[str, Any], *, now: datetime) -> Account:
        """Return the account that a call with this metadata is booked to at `now`."""
        window, resets_at = _window(self.every, now.astimezone(self.timezone))
        key = "" if self.per is None else metadata.get(self.per)
        return Account(
            name=self.name,
            key="" if key is None else str(key),
            window=window,
            limits=self.limits,
            resets_at=resets_at,
            per=self.per,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """What is set aside for one call, on every account that the call belongs to."""

    id: str
    accounts: tuple[Account, ...]
    amounts: Amounts
    """The most that the call may use."""
    floor: Amounts
    """What counts as spent if nobody says within its life what the call used."""
    expires_at: datetime


NANO = Decimal(10) ** 9


def nano(dollars: Decimal) -> int:
    """Return dollars as whole billionths, rounded up: what stores add, without rounding errors.

    >>> nano(Decimal("0.0123375"))
    12337500
    """
    return math.ceil(dollars * NANO)


def from_nano(count: int) -> Decimal:
    """Return billionths as dollars."""
    return Decimal(count) / NANO


def _dollars(given: Decimal | str | int | None) -> Decimal | None:
    if given is None:
        return None
    try:
        amount = Decimal(str(given))
    except InvalidOperation:
        amount = Decimal("NaN")
    if not amount.is_finite():
        message = f"expected dollars as a number or its text, such as '2.50', got {given!r}"
        raise ConfigurationError(message)
    return amount


def _window(every: Every | None, local: datetime) -> tuple[str, datetime | None]:
    """Return the window's name and its end, from the local time."""
    if every is None:
        return "", None
    if every == "hour":
        start = local.replace(minute=0, second=0, microsecond=0)
        # By UTC, so that the hour that is there twice in autumn is two windows.
        return f"{start:%Y-%m-%dT%H%z}", start.astimezone(UTC) + timedelta(hours=1)
    day = local.date()
    if every == "day":
        name, after = day.isoformat(), day + timedelta(days=1)
    else:
        name, after = f"{day:%Y-%m}", (day.replace(day=1) + timedelta(days=32)).replace(day=1)
    return name, datetime.combine(after, time.min, local.tzinfo).astimezone(UTC)
