"""What is measured of one group of calls: the running hour, the last minutes, the hours before."""

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from langchain_tokenopt.accounting.alert_baseline import Baseline
from langchain_tokenopt.accounting.alert_rules import FALLS, Measure
from langchain_tokenopt.accounting.records import CallRecord

HOUR_S = 3600
_SLICE_S = 300
_RECENT = 12  # slices: an hour
_LOOKS = (3, 6, 12)
_LONG_PROMPT = 1_024  # shorter ones no provider caches
_MOST_LATENCIES = 2_000
# Standard errors: a rate is looked at again and again, and must not alarm by chance.
_Z = 3.2


@dataclass(slots=True)
class Sums:
    """Sums over calls."""

    calls: int = 0
    errors: int = 0
    priced: int = 0
    unpriced: int = 0
    cost: float = 0.0
    cost_squared: float = 0.0
    hits: int = 0
    cacheable: int = 0
    cached: int = 0
    latencies: list[float] = field(default_factory=list)

    def add(self, record: CallRecord) -> None:
        """Count one call."""
        self.calls += 1
        self.errors += record.kind == "error"
        if record.kind == "cache_hit":
            self.hits += 1
            return
        if record.cost is None:
            self.unpriced += 1
        elif record.kind != "error":
            cost = float(record.cost)
            self.priced += 1
            self.cost += cost
            self.cost_squared += cost * cost
        if record.kind == "live":
            if len(self.latencies) < _MOST_LATENCIES:
                self.latencies.append(record.latency_s)
            if record.usage.input_tokens >= _LONG_PROMPT:
                self.cacheable += 1
                self.cached += record.usage.cache_read > 0

    def value(self, measure: Measure) -> float | None:
        """Return a measure, `None` where there is nothing to measure."""
        if measure == "spend":
            return self.cost
        if measure == "latency":
            if not self.latencies:
                return None
            ordered = sorted(self.latencies)
            return ordered[max(math.ceil(0.95 * len(ordered)), 1) - 1]
        top, bottom = self.share_of(measure)
        return top / bottom if bottom else None

    def share_of(self, measure: Measure) -> tuple[float, int]:
        """Return what a ratio is of."""
        if measure == "unit_cost":
            return self.cost, self.priced
        if measure == "error_rate":
            return self.errors, self.calls - self.hits
        if measure == "hit_rate":
            return self.hits, self.calls
        return self.cached, self.cacheable

    def count(self, measure: Measure) -> int:
        """Return how many calls a measure is of."""
        return len(self.latencies) if measure == "latency" else self.share_of(measure)[1]

    def is_past(self, measure: Measure, limit: float) -> bool:
        """Return whether the calls say beyond chance that a rate or a mean is past a limit."""
        if measure == "latency":
            slow = sum(latency > limit for latency in self.latencies)
            return _wilson(slow, len(self.latencies))[0] > 0.05
        top, bottom = self.share_of(measure)
        if not bottom:
            return False
        if measure == "unit_cost":
            mean = top / bottom
            variance = max(self.cost_squared / bottom - mean * mean, 0.0)
            return mean - _Z * math.sqrt(variance / bottom) > limit
        low, high = _wilson(top, bottom)
        return high < limit if measure in FALLS else low > limit


class Series:
    """One group of calls through time."""

    def __init__(self) -> None:
        self.hour: int | None = None
        self.day: int = 0
        self.day_cost = 0.0
        self.running = Sums()
        self._slices: deque[tuple[int, Sums]] = deque(maxlen=_RECENT)
        self.baselines: dict[Measure, Baseline] = {}
        self._since_look = 0

    def add(self, record: CallRecord, at_s: float) -> None:
        """Count a call of the running hour."""
        self.running.add(record)
        number = int(at_s // _SLICE_S)
        while self._slices and self._slices[0][0] <= number - _RECENT:
            self._slices.popleft()
        if not self._slices or self._slices[-1][0] != number:
            self._slices.append((number, Sums()))
        self._slices[-1][1].add(record)
        day = int(at_s // (24 * HOUR_S))
        if day != self.day:
            self.day, self.day_cost = day, 0.0
        self.day_cost += float(record.cost or 0)

    def is_due(self) -> bool:
        """Return whether the rates are to be looked at: with many calls not after each of them."""
        self._since_look += 1
        if self._since_look * 32 < sum(part.calls for _, part in self._slices):
            return False
        self._since_look = 0
        return True

    def recent(self, measure: Measure, *, least: int) -> Iterator[Sums]:
        """Yield the last quarter, half and whole hour, those that have enough calls."""
        if not self._slices:
            return
        newest, whole, used = self._slices[-1][0], Sums(), 0
        backwards = list(reversed(self._slices))
        for look in _LOOKS:
            while used < len(backwards) and backwards[used][0] > newest - look:
                _join(whole, backwards[used][1])
                used += 1
            if whole.count(measure) >= least:
                yield whole

    def baseline(self, measure: Measure) -> Baseline:
        """Return the hours before."""
        return self.baselines.setdefault(measure, Baseline())


def _join(whole: Sums, part: Sums) -> None:
    for name in (
        "calls", "errors", "priced", "unpriced", "cost", "cost_squared", "hits", "cacheable",
        "cached",
    ):  # fmt: skip
        setattr(whole, name, getattr(whole, name) + getattr(part, name))
    whole.latencies += part.latencies


def _wilson(successes: float, n: int) -> tuple[float, float]:
    """Return the bounds of a share, Wilson's score interval."""
    if not n:
        return 0.0, 1.0
    share, z2 = successes / n, _Z * _Z
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    return max(centre - half, 0.0), min(centre + half, 1.0)
