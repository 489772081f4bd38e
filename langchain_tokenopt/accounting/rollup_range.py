"""Which hours and which calls a question about a ledger covers."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from langchain_tokenopt.errors import ConfigurationError

_HOUR = timedelta(hours=1)
_EPOCH = datetime.fromtimestamp(0, UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class HourRange:
    """From `since` (inclusive) to `until` (exclusive), both whole hours of aware time.

    Raises:
        ConfigurationError: A time has no zone, or is not on the hour.
    """

    since: datetime | None = None
    until: datetime | None = None

    def __post_init__(self) -> None:
        for at in (self.since, self.until):
            if at is not None and (at.tzinfo is None or (at - _EPOCH) % _HOUR):
                message = (
                    f"expected a full hour with a time zone, got {at.isoformat()}; sums are kept "
                    "by the hour, so cut minutes and seconds off"
                )
                raise ConfigurationError(message)
        if self.since is not None and self.until is not None and self.since > self.until:
            message = (
                f"expected a start before the end, got {self.since.isoformat()} to "
                f"{self.until.isoformat()}; swap them"
            )
            raise ConfigurationError(message)


@dataclass(frozen=True, slots=True, kw_only=True)
class CallFilter:
    """Names that calls must have, each field one of its names; without names a field passes."""

    model: tuple[str, ...] = ()
    feature: tuple[str, ...] = ()
    tenant: tuple[str, ...] = ()
    kind: tuple[str, ...] = ()


def hour_of(at: datetime) -> int:
    """Return the hours since 1970."""
    return (at - _EPOCH) // _HOUR


def pieces_of(within: HourRange, *, hourly: bool) -> Iterator[str]:
    """Yield conditions on rows that cover a range once: days inside, hours at the ends."""
    first = None if within.since is None else hour_of(within.since)
    last = None if within.until is None else hour_of(within.until)
    day_first = None if first is None else -(-first // 24) * 24
    day_last = None if last is None else last // 24 * 24
    short = day_first is not None and day_last is not None and day_first >= day_last
    if hourly or short:
        yield _piece(1, first, last)
        return
    yield _piece(24, day_first, day_last)
    if first != day_first:
        yield _piece(1, first, day_first)
    if last != day_last:
        yield _piece(1, day_last, last)


def _piece(hours: int, first: int | None, last: int | None) -> str:
    since = "" if first is None else f" AND start >= {first}"
    until = "" if last is None else f" AND start < {last}"
    return f"hours = {hours}{since}{until}"


def condition_of(where: CallFilter, prefix: str) -> tuple[str, tuple[Any, ...]]:
    """Return a condition on the columns of calls or groups, and its values."""
    conditions, values = ["1"], []
    for field in ("model", "feature", "tenant", "kind"):
        names = getattr(where, field)
        if names:
            marks = ", ".join("?" * len(names))
            conditions.append(f"COALESCE({prefix}{field}, '') IN ({marks})")
            values.extend(names)
    return " AND ".join(conditions), tuple(values)
