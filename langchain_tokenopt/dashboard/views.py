"""What each view of the dashboard shows, as plain rows: no drawing here."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Literal

from langchain_tokenopt.accounting import Totals
from langchain_tokenopt.accounting.alert import Alert
from langchain_tokenopt.accounting.amounts import BudgetStatus
from langchain_tokenopt.accounting.rollup_query import LedgerReader
from langchain_tokenopt.accounting.rollup_range import CallFilter, HourRange
from langchain_tokenopt.accounting.totals import total

Step = Literal["hour", "day"]
Stack = Literal["feature", "model", "tenant"]
STACKS: tuple[Stack, ...] = ("feature", "model", "tenant")
OTHERS = "others"
_MOST_GROUPS = 8
_HOURLY_UP_TO = timedelta(days=3)


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """The hours and calls that all views are about."""

    within: HourRange = field(default_factory=HourRange)
    where: CallFilter = field(default_factory=CallFilter)

    def only(self, *kinds: str) -> CallFilter:
        """Return the filter, cut to kinds of calls."""
        return replace(self.where, kind=kinds)


@dataclass(frozen=True, slots=True, kw_only=True)
class SpendPoint:
    """What a group spent and saved in an hour or a day."""

    at: datetime
    group: str
    cost: Decimal
    saved: Decimal
    calls: int
    unpriced_calls: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SpendRow:
    """What a group spent and saved in a whole range."""

    group: str
    cost: Decimal
    saved: Decimal
    calls: int
    unpriced_calls: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CachePoint:
    """What the response caches answered in an hour or a day."""

    at: datetime
    calls: int
    hits: int
    saved: Decimal

    @property
    def hit_share(self) -> float:
        """Hits of all calls."""
        return self.hits / self.calls if self.calls else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheRow:
    """What one response cache has answered."""

    cache: str
    hits: int
    saved: Decimal
    tokens: int
    """That were not sent."""
    unpriced_hits: int
    latency_p50_s: float | None
    latency_p95_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyPoint:
    """How long live calls took in an hour or a day, and how many calls failed."""

    at: datetime
    calls: int
    """Cache hits are left out."""
    errors: int
    abandoned: int
    latency_p50_s: float | None
    latency_p95_s: float | None

    @property
    def error_share(self) -> float:
        """Errors of all calls that were sent."""
        return self.errors / self.calls if self.calls else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyRow:
    """The same of a whole range, for one model."""

    model: str
    calls: int
    errors: int
    abandoned: int
    latency_p50_s: float | None
    latency_p95_s: float | None


_SENT = ("live", "error", "abandoned", "embedding", "batch")
_WAITED = ("live", "embedding")


def step_of(reader: LedgerReader, within: HourRange) -> Step:
    """Return "hour" for up to three days, "day" for more."""
    extent = reader.extent()
    if extent is None or extent.since is None or extent.until is None:
        return "day"
    since = max(within.since or extent.since, extent.since)
    until = min(within.until or extent.until, extent.until)
    return "hour" if until - since <= _HOURLY_UP_TO else "day"


def headline(reader: LedgerReader, selection: Selection) -> Totals:
    """Return the sums of the selection, without latencies."""
    found = reader.spend_by([], within=selection.within, where=selection.where)
    return found.get((), total(()))


def spend_over_time(
    reader: LedgerReader, selection: Selection, *, by: Stack, step: Step
) -> tuple[SpendPoint, ...]:
    """Return spend and savings by time and group; small groups past eight are one, "others"."""
    groups = reader.spend_by([step, by], within=selection.within, where=selection.where)
    kept = _largest(groups)
    points: dict[tuple[str, str], SpendPoint] = {}
    for (at, name), totals in groups.items():
        group = shown(name) if name in kept else OTHERS
        before = points.get((at, group))
        points[at, group] = SpendPoint(
            at=_time(at),
            group=group,
            cost=totals.cost + (before.cost if before else 0),
            saved=totals.saved + (before.saved if before else 0),
            calls=totals.calls + (before.calls if before else 0),
            unpriced_calls=totals.unpriced_calls + (before.unpriced_calls if before else 0),
        )
    return tuple(points.values())


def spend_rows(reader: LedgerReader, selection: Selection, *, by: Stack) -> tuple[SpendRow, ...]:
    """Return what each group spent and saved, the largest first."""
    groups = reader.spend_by([by], within=selection.within, where=selection.where)
    rows = (
        SpendRow(
            group=shown(name),
            cost=totals.cost,
            saved=totals.saved,
            calls=totals.calls,
            unpriced_calls=totals.unpriced_calls,
        )
        for (name,), totals in groups.items()
    )
    return tuple(sorted(rows, key=lambda row: (-row.cost, -row.saved, row.group)))


def _largest(groups: dict[tuple[str, ...], Totals]) -> set[str]:
    sizes: dict[str, Decimal] = {}
    for (_, name), totals in groups.items():
        sizes[name] = sizes.get(name, Decimal(0)) + totals.cost + totals.saved
    if len(sizes) <= _MOST_GROUPS:
        return set(sizes)
    return set(sorted(sizes, key=lambda name: (-sizes[name], name))[: _MOST_GROUPS - 1])


def cache_over_time(
    reader: LedgerReader, selection: Selection, *, step: Step
) -> tuple[CachePoint, ...]:
    """Return hits and what they saved by time."""
    groups = reader.spend_by([step], within=selection.within, where=selection.where)
    return tuple(
        CachePoint(at=_time(at), calls=t.calls, hits=t.cache_hits, saved=t.saved)
        for (at,), t in groups.items()
    )


def cache_rows(reader: LedgerReader, selection: Selection) -> tuple[CacheRow, ...]:
    """Return what each cache answered, the one that saved most first."""
    groups = reader.totals_by(["cache"], within=selection.within, where=selection.only("cache_hit"))
    rows = (
        CacheRow(
            cache=shown(name),
            hits=t.cache_hits,
            saved=t.saved,
            tokens=t.cached_usage.total_tokens,
            unpriced_hits=t.unpriced_calls,
            latency_p50_s=t.latency_p50_s,
            latency_p95_s=t.latency_p95_s,
        )
        for (name,), t in groups.items()
    )
    return tuple(sorted(rows, key=lambda row: (-row.saved, row.cache)))


def latency_over_time(
    reader: LedgerReader, selection: Selection, *, step: Step
) -> tuple[LatencyPoint, ...]:
    """Return latency of the calls that were sent and answered, and errors, by time."""
    sent = reader.spend_by([step], within=selection.within, where=selection.only(*_SENT))
    waited = reader.totals_by([step], within=selection.within, where=selection.only(*_WAITED))
    return tuple(
        LatencyPoint(
            at=_time(key[0]),
            calls=totals.calls,
            errors=totals.errors,
            abandoned=totals.abandoned,
            latency_p50_s=waited[key].latency_p50_s if key in waited else None,
            latency_p95_s=waited[key].latency_p95_s if key in waited else None,
        )
        for key, totals in sent.items()
    )


def latency_rows(reader: LedgerReader, selection: Selection) -> tuple[LatencyRow, ...]:
    """Return latency and errors of each model, the most used first."""
    sent = reader.spend_by(["model"], within=selection.within, where=selection.only(*_SENT))
    waited = reader.totals_by(["model"], within=selection.within, where=selection.only(*_WAITED))
    rows = (
        LatencyRow(
            model=shown(key[0]),
            calls=totals.calls,
            errors=totals.errors,
            abandoned=totals.abandoned,
            latency_p50_s=waited[key].latency_p50_s if key in waited else None,
            latency_p95_s=waited[key].latency_p95_s if key in waited else None,
        )
        for key, totals in sent.items()
    )
    return tuple(sorted(rows, key=lambda row: (-row.calls, row.model)))


def budgets(path: str | Path) -> Sequence[BudgetStatus]:
    """Return the budgets in the ledger's file, the fullest first; none where none are kept."""
    from langchain_tokenopt.accounting.budget_sqlite import (  # noqa: PLC0415 - only this view
        read_budgets,
    )

    return sorted(read_budgets(path), key=lambda status: -status.used_share)


def alerts(path: str | Path, within: HourRange) -> Sequence[Alert]:
    """Return the alerts of a range, the newest first; none where none are kept."""
    from langchain_tokenopt.accounting.alert_log import AlertLog  # noqa: PLC0415 - only this view

    found = AlertLog(path).alerts(since=within.since, until=within.until)
    return sorted(found, key=lambda alert: alert.at, reverse=True)


def shown(name: str) -> str:
    """Return a group's name for people: "" stands for a field that was not given."""
    return name or "(none)"


def _time(shown_time: str) -> datetime:
    return datetime.fromisoformat(shown_time).replace(tzinfo=UTC)
