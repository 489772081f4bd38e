"""What an experiment shows so far: a table of differences that may be looked at at any time."""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Literal

from langchain_tokenopt.accounting import CallRecord, UsageLedger
from langchain_tokenopt.advisor.experiment import (
    EXPERIMENT_TAG,
    REQUEST_TAG,
    Experiment,
    Metric,
    experiment_of,
)
from langchain_tokenopt.advisor.experiment_log import Assignment, ExperimentLog
from langchain_tokenopt.advisor.experiment_tests import (
    AsymptoticDifference,
    BoundedDifference,
    Contrast,
    DifferenceTest,
    log_evidence,
)
from langchain_tokenopt.errors import ConfigurationError
from langchain_tokenopt.reasoning.sequential import Interval

Verdict = Literal["better", "worse", "open"]
MISMATCH = 0.01
"""The p-value of the shares below which nothing is concluded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A variant beside the control, by one metric."""

    metric: Metric
    variant: str
    keys: int
    """Whose first outcome is counted."""
    mean: float | None
    control_mean: float | None
    interval: Interval
    """Of the difference to the control; it holds however often one looks."""
    verdict: Verdict
    is_breach: bool
    """Whether the variant is surely worse by more than the metric's guard."""

    def __str__(self) -> str:
        shown = "-" if self.mean is None else f"{self.mean:.6g}"
        control = "-" if self.control_mean is None else f"{self.control_mean:.6g}"
        return (
            f"{self.metric.name:<12} {self.variant:<16} {self.keys:>8,} {shown:>12} {control:>12}  "
            f"{self.interval.low:+.4g} to {self.interval.high:+.4g}  {self.verdict}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ExperimentResults:
    """All comparisons, and whether they may be trusted."""

    experiment: Experiment
    keys: Mapping[str, int]
    """By variant: different keys that got it."""
    spent: Mapping[str, Decimal]
    """By variant: dollars of the priced calls."""
    unpriced: int
    """Requests with a call of unknown price: not in any cost."""
    comparisons: tuple[Comparison, ...]
    mismatch: float
    """A p-value of the shares, at any time; below 0.01 the differences are not to be trusted."""
    stopped: Mapping[str, str]
    """By variant: why it was stopped before."""

    @property
    def is_sound(self) -> bool:
        """Whether the variants got the shares that they were to get."""
        return self.mismatch >= MISMATCH

    @property
    def winner(self) -> str | None:
        """The variant that the first metric shows to be better and no guard speaks against.

        Of several, the one with the largest sure gain.
        """
        first = self.experiment.metrics[0]
        barred = {each.variant for each in self.comparisons if each.is_breach} | set(self.stopped)
        better = [
            each
            for each in self.comparisons
            if each.metric == first and each.verdict == "better" and each.variant not in barred
        ]
        if not self.is_sound or not better:
            return None
        return max(better, key=lambda each: _sure_gain(first, each.interval)).variant

    def breaches(self) -> dict[str, str]:
        """Return why each variant is to be stopped now, those stopped before left out."""
        found: dict[str, str] = {}
        for each in self.comparisons:
            if each.is_breach and each.variant not in self.stopped:
                reason = f"{each.metric.name} is worse than {self.experiment.control}'s by "
                low, high = each.interval.low, each.interval.high
                found.setdefault(each.variant, f"{reason}{low:+.4g} to {high:+.4g}")
        return found

    def __str__(self) -> str:
        experiment = self.experiment
        told = f"{experiment.confidence:.0%} intervals of variant less control, for each metric"
        lines = [
            f"experiment {experiment.name}, control {experiment.control}, {told}",
            f"{'metric':<12} {'variant':<16} {'keys':>8} {'mean':>12} {'control':>12}  difference",
            *map(str, self.comparisons),
        ]
        for variant, amount in self.spent.items():
            lines.append(f"{variant}: {self.keys.get(variant, 0):,} keys, ${amount:.4f} spent")
        lines += [f"{variant} was stopped: {why}" for variant, why in self.stopped.items()]
        if self.unpriced:
            lines.append(f"{self.unpriced:,} requests have no known price: not in any cost")
        if not self.is_sound:
            lines.append(
                f"NOT SOUND: the variants did not get their shares (p = {self.mismatch:.2g}): look "
                "for lost assignments before you believe any difference"
            )
        return "\n".join(lines)


def read_experiment(
    log: ExperimentLog, name: str, *, ledger: UsageLedger | None = None
) -> ExperimentResults:
    """Return what an experiment shows so far.

    Outcomes of one key are not independent, so that only the first of each counts, metric by
    metric, in the order in which they came. Outcomes that never come are left out: if a variant
    makes them come less often, its mean is of those that came.

    Args:
        log: The branch's log.
        name: The experiment's.
        ledger: That saw the calls, for cost, latency and errors; without, they are not compared.

    Raises:
        ConfigurationError: The log has no such experiment.
    """
    known = log.definitions()
    if name not in known:
        message = f"no experiment {name!r} in the log; it has {', '.join(known) or 'none'}"
        raise ConfigurationError(message)
    experiment = experiment_of(known[name])
    assignments = {each.request: each for each in log.assignments(name)}
    requests = _requests(name, ledger.records() if ledger is not None else ())
    first_of_key = {each.key: each for each in reversed(list(assignments.values()))}
    keys = dict.fromkeys(experiment.shares, 0)
    for assignment in first_of_key.values():
        keys[assignment.variant] += 1
    stopped = log.stopped(name)
    spent = dict.fromkeys(experiment.shares, Decimal(0))
    for request, seen in requests.items():
        if request in assignments:
            spent[assignments[request].variant] += seen.cost or 0
    comparisons = []
    for metric in experiment.metrics:
        values = _values(log, name, metric, requests)
        if metric.source != "outcome" and ledger is None:
            continue
        for variant in experiment.shares:
            if variant != experiment.control:
                found = _compare(experiment, metric, variant, values, assignments)
                comparisons.append(found)
    return ExperimentResults(
        experiment=experiment,
        keys=keys,
        spent=spent,
        unpriced=sum(seen.cost is None for seen in requests.values()),
        comparisons=tuple(comparisons),
        mismatch=_mismatch(first_of_key.values()),
        stopped=stopped,
    )


def stop_breaches(log: ExperimentLog, results: ExperimentResults) -> dict[str, str]:
    """Stop the variants that a guard speaks against, for every process, and return why.

    Where the shares are wrong a difference means nothing, and nothing is stopped.
    """
    if not results.is_sound:
        return {}
    found = results.breaches()
    for variant, reason in found.items():
        log.stop(results.experiment.name, variant, reason=reason)
    return found


@dataclass(slots=True)
class _Request:
    """What the ledger says of a request."""

    cost: Decimal | None = Decimal(0)
    first: datetime | None = None
    last: datetime | None = None
    failed: bool = False

    def add(self, record: CallRecord) -> None:
        ended = record.started_at + timedelta(seconds=record.latency_s)
        if self.cost is not None:
            self.cost = None if record.cost is None else self.cost + record.cost
        self.first = min(self.first or record.started_at, record.started_at)
        if self.last is None or ended >= self.last:
            self.last, self.failed = ended, record.kind == "error"

    def value(self, metric: Metric) -> float | None:
        if metric.source == "cost":
            return None if self.cost is None else float(self.cost)
        if metric.source == "error":
            return float(self.failed)
        if self.failed or self.first is None or self.last is None:
            return None
        return (self.last - self.first).total_seconds()


def _requests(name: str, records: Iterable[CallRecord]) -> dict[str, _Request]:
    """Return what each request of an experiment used, in the order in which they ended."""
    marked = f"{EXPERIMENT_TAG}{name}="
    found: dict[str, _Request] = defaultdict(_Request)
    for record in records:
        if any(tag.startswith(marked) for tag in record.tags):
            for tag in record.tags:
                if tag.startswith(REQUEST_TAG):
                    found[tag.removeprefix(REQUEST_TAG)].add(record)
    return dict(sorted(found.items(), key=lambda pair: str(pair[1].last)))


def _values(
    log: ExperimentLog, name: str, metric: Metric, requests: Mapping[str, _Request]
) -> list[tuple[str, float]]:
    if metric.source == "outcome":
        return log.outcomes(name, metric.name)
    valued = ((request, seen.value(metric)) for request, seen in requests.items())
    return [(request, value) for request, value in valued if value is not None]


def _compare(
    experiment: Experiment,
    metric: Metric,
    variant: str,
    values: Iterable[tuple[str, float]],
    assignments: Mapping[str, Assignment],
) -> Comparison:
    test = _test_of(experiment, metric)
    arms: dict[str, list[float]] = {variant: [], experiment.control: []}
    known: set[str] = set()
    for request, value in values:
        assignment = assignments.get(request)
        if assignment is None or assignment.variant not in arms or assignment.key in known:
            continue
        known.add(assignment.key)
        arms[assignment.variant].append(value)
        is_variant = assignment.variant == variant
        other = experiment.control if is_variant else variant
        own = assignment.shares[assignment.variant]
        share = own / (own + assignment.shares.get(other, 0.0))
        if share < 1:  # while the other one was stopped there is nothing to compare
            test.observe(Contrast(value=value, of_variant=is_variant, share=share))
    sign = 1 if metric.better == "higher" else -1
    low, high = sorted((sign * test.interval.low, sign * test.interval.high))
    verdict: Verdict = "better" if low > 0 else "worse" if high < 0 else "open"
    return Comparison(
        metric=metric,
        variant=variant,
        keys=len(arms[variant]),
        mean=_mean(arms[variant]),
        control_mean=_mean(arms[experiment.control]),
        interval=test.interval,
        verdict=verdict,
        is_breach=metric.guard is not None and high < -metric.guard,
    )


def _test_of(experiment: Experiment, metric: Metric) -> DifferenceTest:
    confidence = 1 - (1 - experiment.confidence) / (len(experiment.shares) - 1)
    if metric.low is None or metric.high is None:
        return AsymptoticDifference(confidence=confidence)
    return BoundedDifference(
        low=metric.low,
        high=metric.high,
        least_share=experiment.smallest_share(),
        confidence=confidence,
    )


def _mismatch(assignments: Iterable[Assignment]) -> float:
    """Return the p-value over all times, each with the shares that held then.

    Evidence of later times multiplies that of earlier ones.
    """
    periods: dict[tuple[tuple[str, float], ...], dict[str, int]] = {}
    for assignment in assignments:
        counts = periods.setdefault(tuple(sorted(assignment.shares.items())), {})
        counts[assignment.variant] = counts.get(assignment.variant, 0) + 1
    evidence = sum(log_evidence(counts, dict(shares)) for shares, counts in periods.items())
    return math.exp(-max(evidence, 0.0))


def _mean(values: list[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None


def _sure_gain(metric: Metric, interval: Interval) -> float:
    return interval.low if metric.better == "higher" else -interval.high
