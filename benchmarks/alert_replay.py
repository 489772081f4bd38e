"""How soon are incidents told, and how often is there a false alarm?

A month of calls is played through the monitor with its default rules: four features, two models,
a day and a week with their seasons, bursts within the hour as in Mooncake's recorded arrivals
(with `--data`; else drawn), real prices of gpt-5.1 and gpt-5-mini. In its last twelve days one
incident of each kind lasts three hours each, at a random time, two days apart. Beside it: a fixed
limit at the mean and three standard deviations of all hours before, and the same by hour of the
day, each looked at when the hour is over. An alarm is false if no incident of its measure is on,
nor was in the hour before. The defaults were chosen on seeds 0 to 4, these are others.
"""

import math
import os
import random
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import cache
from pathlib import Path
from uuid import UUID

import numpy as np
from measure import json_rows, quick_parser, table

from langchain_tokenopt.accounting import (
    CallRecord,
    GenaiPrices,
    Price,
    Usage,
    UsageLedger,
    cost_of,
)
from langchain_tokenopt.accounting.alert import Alert
from langchain_tokenopt.accounting.alert_rules import default_rules
from langchain_tokenopt.accounting.alert_series import Sums
from langchain_tokenopt.accounting.alerts import AlertMonitor

START = datetime(2026, 10, 5, tzinfo=UTC)  # a Monday


@dataclass(frozen=True)
class Feature:
    """A part of the application, and its traffic."""

    name: str
    model: str
    peak: int
    """Calls an hour at noon of a working day."""
    size: int
    """Input tokens of a usual prompt."""
    output: int
    cached: float
    """Share of prompts whose beginning the provider has cached."""
    hits: float
    """Share of calls that the response cache serves."""


FEATURES = {
    feature.name: feature
    for feature in (
        Feature("support", "gpt-5-mini", 240, 2_600, 120, 0.8, 0.35),
        Feature("search", "gpt-5-mini", 400, 1_500, 40, 0.7, 0.5),
        Feature("writer", "gpt-5.1", 60, 3_000, 700, 0.6, 0.05),
        Feature("night jobs", "gpt-5.1", 90, 4_000, 200, 0.9, 0.0),
    )
}
DURATION_H = 3
KINDS = {  # which measure an incident is of
    "runaway loop, 10 x calls": ("spend",),
    "prompt grew, 2 x unit cost": ("unit_cost", "spend"),
    "provider cache broken": ("provider_hit_rate", "unit_cost", "spend"),
    "response cache lost": ("hit_rate", "spend"),
    "errors, 25 % of calls": ("error_rate",),
    "latency, 3 x": ("latency",),
}


@dataclass(frozen=True)
class Incident:
    """Something that goes wrong."""

    kind: str
    feature: str
    start: datetime

    @property
    def end(self) -> datetime:
        """When it is over."""
        return self.start + timedelta(hours=DURATION_H)


def main() -> None:
    """Play the months and print the tables."""
    parser = quick_parser(__doc__)
    parser.add_argument("--data", type=Path, default=os.environ.get("TOKENOPT_DATA"))
    parser.add_argument("--seeds", type=int, default=12)
    parser.add_argument("--first", type=int, default=100)
    chosen = parser.parse_args()
    seeds = [chosen.first] if chosen.quick else range(chosen.first, chosen.first + chosen.seeds)
    bursts = _bursts(chosen.data)
    delays: dict[str, dict[str, list[float | None]]] = defaultdict(lambda: defaultdict(list))
    false: dict[str, list[float]] = defaultdict(list)
    micro: list[float] = []
    for seed in seeds:
        rng = random.Random(seed)
        incidents = _incidents(rng)
        days = 16 if chosen.quick else 31
        if chosen.quick:
            incidents = [i for i in incidents if i.start < START + timedelta(days=days)]
        calls = _month(rng, incidents, bursts, days=days)
        told = _by_monitor(calls, micro)
        others = _by_the_hour(calls)
        for name, alerts in (("AlertMonitor", told), *others.items()):
            for incident in incidents:
                delays[name][incident.kind].append(_delay(alerts, incident))
            weeks = (days - 7) / 7
            wrong = [a for a in alerts if not _explained(a, incidents)]
            false[name].append(len(wrong) / weeks)
            if name == "AlertMonitor" and os.environ.get("SHOW"):
                for alert in wrong:
                    print(seed, alert.at, alert.rule, alert.message, file=sys.stderr)
    rows = []
    for name, kinds in delays.items():
        for kind, values in kinds.items():
            seen = sorted(value for value in values if value is not None)
            rows.append(
                [
                    name,
                    kind,
                    f"{len(seen)} of {len(values)}",
                    f"{_at(seen, 0.5):.0f}" if seen else "-",
                    f"{_at(seen, 0.9):.0f}" if seen else "-",
                ]
            )
    head = ["by", "incident", "told", "minutes, median", "minutes, p90"]
    table("Incidents of three hours", head, rows)
    wrong = [
        [name, f"{statistics.mean(values):.2f} ({_interval(values)})", f"{max(values):.1f}"]
        for name, values in false.items()
    ]
    head = ["by", "false alarms a week, all rules (95%)", "worst month"]
    table(f"False alarms in {len(micro)} months", head, wrong)
    print(f"\n{statistics.median(micro):.1f} us a call for six rules")


def _bursts(data: Path | None) -> list[float]:
    """Return recorded arrivals as shares of the hour that they were in."""
    path = Path(data) / "cache" / "mooncake_conversation_trace.jsonl.gz" if data else None
    if path is None or not path.exists():
        rng = random.Random(7)
        return sorted(rng.random() ** 1.5 % 1 for _ in range(5_000))
    times = [row["timestamp"] / 3_600_000 for row in json_rows(path)]
    return [t for t in times if t < 1]


def _incidents(rng: random.Random) -> list[Incident]:
    found = []
    for n, kind in enumerate(rng.sample(list(KINDS), len(KINDS))):
        features = [f for f in FEATURES if f != "night jobs"]
        if kind == "response cache lost":
            features = ["support", "search"]
        start = START + timedelta(
            days=18 + 2 * n, hours=rng.randint(7, 18), minutes=rng.random() * 60
        )
        found.append(Incident(kind, rng.choice(features), start))
    return found


def _month(
    rng: random.Random, incidents: Sequence[Incident], bursts: list[float], *, days: int
) -> list[CallRecord]:
    draw = np.random.default_rng(rng.getrandbits(63))
    calls: list[CallRecord] = []
    for hour in range(24 * days):
        at = START + timedelta(hours=hour)
        for feature in FEATURES.values():
            mean = feature.peak * _season(feature.name, at) * math.exp(draw.normal(0, 0.15))
            shares = draw.choice(bursts, size=draw.poisson(mean))
            moments = [at + timedelta(hours=float(share)) for share in shares]
            loop = _on(incidents, "runaway loop, 10 x calls", feature.name)
            if loop is not None and loop.start < at + timedelta(hours=1) and loop.end > at:
                more = [at + timedelta(hours=draw.random()) for _ in range(int(9 * mean))]
                moments += [m for m in more if loop.start <= m < loop.end]
            calls.extend(_call(draw, moment, incidents, feature) for moment in moments)
    return sorted(calls, key=lambda call: call.started_at + timedelta(seconds=call.latency_s))


@cache
def _price(model: str) -> Price:
    price = GenaiPrices()(model=model, provider="openai", tier=None, usage=Usage(), at=START)
    assert price is not None
    return price


def _season(feature: str, at: datetime) -> float:
    if feature == "night jobs":
        return 1.0 if 1 <= at.hour <= 4 else 0.02
    day = max(math.sin((at.hour - 5) / 18 * math.pi), 0.0) ** 1.5 + 0.04
    return day * (0.35 if at.weekday() >= 5 else 1.0)


def _on(incidents: Sequence[Incident], kind: str, feature: str) -> Incident | None:
    return next((i for i in incidents if (i.kind, i.feature) == (kind, feature)), None)


def _call(
    draw: np.random.Generator, at: datetime, incidents: Sequence[Incident], feature: Feature
) -> CallRecord:
    on = {i.kind for i in incidents if i.feature == feature.name and i.start <= at < i.end}
    size, output, cached, hits = feature.size, feature.output, feature.cached, feature.hits
    if "prompt grew, 2 x unit cost" in on:
        size, output = size * 2, output * 2
    if "provider cache broken" in on:
        cached = 0.0
    if "response cache lost" in on:
        hits = 0.0
    read = int(draw.lognormal(math.log(size), 0.35))
    written = int(draw.lognormal(math.log(output), 0.6)) + 1
    from_cache = read // 128 * 115 if draw.random() < cached and read >= 1_024 else 0
    usage = Usage(plain_input=read - from_cache, cache_read=from_cache, output=written)
    latency = float(draw.lognormal(math.log(0.5 + written * 0.008), 0.3))
    if "latency, 3 x" in on:
        latency *= 3
    kind, error = "live", None
    if draw.random() < hits:
        kind, latency = "cache_hit", 0.002
    elif draw.random() < (0.25 if "errors, 25 % of calls" in on else 0.006):
        kind, error, usage, latency = "error", "RateLimitError", Usage(), 0.1
    price = cost_of(usage, _price(feature.model)).total
    hit = kind == "cache_hit"
    return CallRecord(
        run_id=UUID(int=int(draw.integers(2**63))),
        started_at=at,
        kind=kind,
        model=feature.model,
        provider="openai",
        feature=feature.name,
        usage=usage,
        cost=Decimal(0) if hit else price,
        saved=price if hit else Decimal(0),
        latency_s=latency,
        error=error,
        cache="memory" if hit else None,
    )


def _by_monitor(calls: Sequence[CallRecord], micro: list[float]) -> list[Alert]:
    told: list[Alert] = []
    ledger = UsageLedger(listeners=[monitor := AlertMonitor([told.append])])
    assert ledger.listener_failures == 0
    started = time.perf_counter()
    for call in calls:
        monitor(call)
    micro.append((time.perf_counter() - started) / len(calls) * 1e6)
    return [alert for alert in told if alert.state == "raised"]


def _by_the_hour(calls: Sequence[CallRecord]) -> dict[str, list[Alert]]:
    """Alarm at the end of an hour that is three deviations above the mean of those before."""
    values: dict[tuple[str, str], dict[int, float]] = defaultdict(dict)
    sums: dict[tuple[str, str, int], list[CallRecord]] = defaultdict(list)
    for call in calls:
        hour = int((call.started_at - START).total_seconds() // 3600)
        for rule in default_rules():
            sums[rule.measure, str(getattr(call, rule.per or "")), hour].append(call)
    for (measure, group, hour), found in sums.items():
        value = _measured(measure, found)
        if value is not None:
            values[measure, group][hour] = value
    alarms: dict[str, list[Alert]] = {"mean + 3 sd of all hours": [], "... of this hour of day": []}
    for (measure, group), hours in values.items():
        falls = measure.endswith("hit_rate")
        for hour, value in sorted(hours.items()):
            for name, like in zip(alarms, (1, 24), strict=True):
                before = [v for h, v in hours.items() if h < hour and (hour - h) % like == 0]
                if hour < 24 * 7 or len(before) < 7:
                    continue
                mean, sd = statistics.mean(before), statistics.pstdev(before)
                limit = mean - 3 * sd if falls else mean + 3 * sd
                if value < limit if falls else value > limit:
                    at = START + timedelta(hours=hour + 1)
                    alarms[name].append(
                        Alert(
                            at=at,
                            rule=name,
                            measure=measure,
                            group=group,
                            value=value,
                            expected=mean,
                            limit=limit,
                            message="",
                        )
                    )
    return alarms


def _measured(measure: str, calls: Sequence[CallRecord]) -> float | None:
    sums = Sums()
    for call in calls:
        sums.add(call)
    return sums.value(measure)  # type: ignore[arg-type]  # one of the measures of the rules


def _delay(alerts: Sequence[Alert], incident: Incident) -> float | None:
    """Return after how many minutes the first alarm of one of its measures came."""
    model = FEATURES[incident.feature].model
    until = incident.end + timedelta(hours=1)
    times = [
        alert.at
        for alert in alerts
        if alert.measure in KINDS[incident.kind]
        and alert.group in (incident.feature, model)
        and incident.start <= alert.at <= until
    ]
    return (min(times) - incident.start).total_seconds() / 60 if times else None


def _explained(alert: Alert, incidents: Sequence[Incident]) -> bool:
    slack = timedelta(hours=1, minutes=5)
    return any(
        i.start <= alert.at <= i.end + slack
        and alert.group in (i.feature, FEATURES[i.feature].model)
        for i in incidents
    )


def _at(ordered: Sequence[float], share: float) -> float:
    return ordered[max(math.ceil(share * len(ordered)), 1) - 1]


def _interval(values: Sequence[float]) -> str:
    rng = random.Random(1)
    means = sorted(statistics.mean(rng.choices(values, k=len(values))) for _ in range(2_000))
    return f"{means[50]:.2f} to {means[1949]:.2f}"


if __name__ == "__main__":
    main()
