"""Sums over records, and how a total is asked for."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Literal

from langchain_tokenopt.accounting.records import CallRecord, Totals
from langchain_tokenopt.calls.usage import Usage

ANSWERED_KINDS = ("live", "cache_hit", "embedding")
"""The kinds of calls whose latency is that of an answer."""

GroupField = Literal[
    "model",
    "provider",
    "tier",
    "feature",
    "endpoint",
    "tenant",
    "node",
    "kind",
    "cache",
    "day",
    "template",
]
GROUP_FIELDS: tuple[GroupField, ...] = (
    "model", "provider", "tier", "feature", "endpoint", "tenant", "node", "kind", "cache", "day",
    "template",
)  # fmt: skip
TEMPLATE_TAG = "template:"
"""Begins the tag that names the template of a call's prompt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Which records a total covers: from `since` (inclusive) to `until` (exclusive), aware UTC."""

    since: datetime | None = None
    until: datetime | None = None

    def covers(self, record: CallRecord) -> bool:
        """Return whether `record` began inside the window."""
        after = self.since is None or record.started_at >= self.since
        return after and (self.until is None or record.started_at < self.until)


EVERYTHING = Window()


def group_of(record: CallRecord, by: GroupField) -> str:
    """Return the group of a record; "" stands for a field that was not given."""
    if by == "day":
        return record.started_at.date().isoformat()
    if by == "template":
        named = (tag for tag in record.tags if tag.startswith(TEMPLATE_TAG))
        return next(named, "").removeprefix(TEMPLATE_TAG)
    return getattr(record, by) or ""


def percentile(ordered: Sequence[float], share: float) -> float | None:
    """Return the nearest-rank percentile of sorted values, `None` of none.

    >>> percentile([1.0, 2.0, 3.0, 4.0], 0.5)
    2.0
    """
    return ordered[max(math.ceil(share * len(ordered)), 1) - 1] if ordered else None


@dataclass(slots=True)
class _Sums:
    kinds: dict[str, int] = field(default_factory=dict)
    usage: Usage = field(default_factory=Usage)
    cached: Usage = field(default_factory=Usage)
    cost: Decimal = Decimal(0)
    saved: Decimal = Decimal(0)
    unpriced_calls: int = 0
    unpriced_tokens: int = 0
    unpriced_models: set[str] = field(default_factory=set)
    estimated: int = 0
    latencies: list[float] = field(default_factory=list)
    first_tokens: list[float] = field(default_factory=list)


def total(records: Iterable[CallRecord]) -> Totals:
    """Return the sums over `records`."""
    sums = _Sums()
    for record in records:
        _add(sums, record)
    sums.latencies.sort()
    sums.first_tokens.sort()
    return Totals(
        calls=sum(sums.kinds.values()),
        live=sum(sums.kinds.get(kind, 0) for kind in ("live", "embedding", "batch")),
        cache_hits=sums.kinds.get("cache_hit", 0),
        errors=sums.kinds.get("error", 0),
        abandoned=sums.kinds.get("abandoned", 0),
        usage=sums.usage,
        cached_usage=sums.cached,
        cost=sums.cost,
        saved=sums.saved,
        unpriced_calls=sums.unpriced_calls,
        unpriced_tokens=sums.unpriced_tokens,
        unpriced_models=tuple(sorted(sums.unpriced_models)),
        estimated_calls=sums.estimated,
        latency_p50_s=percentile(sums.latencies, 0.5),
        latency_p95_s=percentile(sums.latencies, 0.95),
        first_token_p50_s=percentile(sums.first_tokens, 0.5),
        first_token_p95_s=percentile(sums.first_tokens, 0.95),
    )


def total_by(records: Iterable[CallRecord], by: GroupField) -> dict[str, Totals]:
    """Return the sums of each group, in the order of their names."""
    groups: dict[str, list[CallRecord]] = {}
    for record in records:
        groups.setdefault(group_of(record, by), []).append(record)
    return {name: total(groups[name]) for name in sorted(groups)}


def _add(sums: _Sums, record: CallRecord) -> None:
    sums.kinds[record.kind] = sums.kinds.get(record.kind, 0) + 1
    sums.estimated += record.estimated
    if record.kind == "cache_hit":
        sums.cached += record.usage
    else:
        sums.usage += record.usage
    sums.cost += record.cost or 0
    sums.saved += record.saved or 0
    if record.cost is None or record.saved is None:
        sums.unpriced_calls += 1
        sums.unpriced_tokens += record.usage.total_tokens
        sums.unpriced_models.add(record.model)
    if record.kind in ANSWERED_KINDS:
        sums.latencies.append(record.latency_s)
    if record.first_token_s is not None:
        sums.first_tokens.append(record.first_token_s)
