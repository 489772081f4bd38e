"""How often does an A/B test find a difference that is not there, looked at after every outcome?

Simulated tests of two arms with equal shares. Without a difference: right and wrong answers (80%
right), and cost or latency (log-normal, as skewed as 1.0 and 1.5 of its logarithm's deviation). The
naive test is Welch's t-test at 95%, looked at from the 20th outcome on; the same once at the end is
what it is made for. With a difference: how many outcomes until it is found, beside a test of a
fixed number of outcomes that has 80% power. Intervals are Wilson's, 95%.

Needs no recorded data.
"""

import math
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from measure import arguments, table

from langchain_tokenopt.advisor.experiment import COST, QUALITY
from langchain_tokenopt.advisor.experiment_plan import plan_experiment
from langchain_tokenopt.advisor.experiment_tests import (
    AsymptoticDifference,
    BoundedDifference,
    Contrast,
    DifferenceTest,
    share_mismatch,
)
from langchain_tokenopt.reasoning.sequential import Interval, wilson_interval

Draw = Callable[[random.Random, bool], float]
_Z = statistics.NormalDist().inv_cdf(0.975)


def right(drawn: random.Random, of_variant: bool, *, effect: float = 0.0) -> float:
    """Return whether an answer is right."""
    return float(drawn.random() < 0.8 - effect * of_variant)


def dollars(
    drawn: random.Random, of_variant: bool, *, spread: float = 1.0, effect: float = 0.0
) -> float:
    """Return what an answer costs."""
    return drawn.lognormvariate(0.0, spread) * (1 + effect * of_variant)


@dataclass
class Welch:
    """The naive test: a fixed-number interval looked at all the time."""

    least: int = 20
    sums: dict[bool, list[float]] = field(
        default_factory=lambda: {True: [0.0] * 3, False: [0.0] * 3}
    )

    def observe(self, outcome: Contrast) -> None:
        """Take in the next outcome."""
        arm = self.sums[outcome.of_variant]
        arm[0] += 1
        away = outcome.value - arm[1]
        arm[1] += away / arm[0]
        arm[2] += away * (outcome.value - arm[1])

    @property
    def interval(self) -> Interval:
        """Where the difference lies, if one looked once."""
        if (
            sum(arm[0] for arm in self.sums.values()) < self.least
            or min(arm[0] for arm in self.sums.values()) < 2
        ):
            return Interval(-math.inf, math.inf)
        error = math.sqrt(sum(arm[2] / (arm[0] - 1) / arm[0] for arm in self.sums.values()))
        away = self.sums[True][1] - self.sums[False][1]
        return Interval(away - _Z * error, away + _Z * error)


def play(make: Callable[[], DifferenceTest], draw: Draw, *, n: int, seed: int) -> int | None:
    """Return after how many outcomes a difference was found, `None` if never."""
    drawn, test = random.Random(seed), make()
    for seen in range(1, n + 1):
        arm = drawn.random() < 0.5
        test.observe(Contrast(value=draw(drawn, arm), of_variant=arm, share=0.5))
        if test.interval.low > 0 or test.interval.high < 0:
            return seen
    return None


def at_the_end(draw: Draw, *, n: int, seed: int) -> bool:
    """Return whether Welch's test finds a difference, looked at once."""
    drawn, test = random.Random(seed), Welch()
    for _ in range(n):
        arm = drawn.random() < 0.5
        test.observe(Contrast(value=draw(drawn, arm), of_variant=arm, share=0.5))
    return test.interval.low > 0 or test.interval.high < 0


def share(found: int, of: int) -> str:
    """Return a share with its interval."""
    interval = wilson_interval(found, of)
    return f"{found / of:.1%} ({interval.low:.1%} to {interval.high:.1%})"


def false_alarms(sims: int, n: int) -> None:
    """Print how often each test finds what is not there."""
    cases: list[tuple[str, Draw, Callable[[], DifferenceTest]]] = [
        ("right or wrong", right, BoundedDifference),
        ("right or wrong, asymptotic", right, AsymptoticDifference),
        ("cost, deviation 1.0", dollars, AsymptoticDifference),
        ("cost, deviation 1.5", lambda d, a: dollars(d, a, spread=1.5), AsymptoticDifference),
    ]
    rows = []
    for name, draw, make in cases:
        ours = sum(play(make, draw, n=n, seed=seed) is not None for seed in range(sims))
        naive = sum(play(Welch, draw, n=n, seed=seed) is not None for seed in range(sims))
        once = sum(at_the_end(draw, n=n, seed=seed) for seed in range(sims))
        rows.append([name, share(ours, sims), share(naive, sims), share(once, sims)])
    head = ["outcome", "ours, peeking", "t-test, peeking", "t-test, once"]
    table(f"False alarms at 95%, {sims:,} tests without a difference, {n:,} outcomes", head, rows)


def power(sims: int) -> None:
    """Print how many outcomes find a difference that is there."""
    deviation = math.sqrt((math.e - 1) * math.e)
    mean = math.exp(0.5)
    cases: list[tuple[str, Draw, Callable[[], DifferenceTest], float, float]] = [
        (
            f"right: 80% against {80 - 100 * e:.0f}%",
            _less_right(e),
            BoundedDifference,
            e,
            _spread(e),
        )
        for e in (0.05, 0.1, 0.2)
    ] + [
        (f"cost: {e:+.0%}", _dearer(e), AsymptoticDifference, e * mean, deviation * (1 + e / 2))
        for e in (0.3, 0.6)
    ]
    rows = []
    for name, draw, make, effect, spread in cases:
        metric = QUALITY if make is BoundedDifference else COST
        plan = plan_experiment(effect=effect, deviation=spread, metric=metric)
        stops = [play(make, draw, n=2 * plan.requests, seed=seed) for seed in range(sims)]
        found = sorted(stop for stop in stops if stop is not None)
        in_plan = sum(stop <= plan.requests for stop in found)
        spent = statistics.fmean(stop or 2 * plan.requests for stop in stops)
        rows.append(
            [
                name,
                f"{plan.fixed_requests:,}",
                f"{plan.requests:,}",
                share(in_plan, sims),
                f"{spent:,.0f}",
                f"{spent / plan.fixed_requests:.2f}",
            ]
        )
    head = [
        "difference", "fixed test of 80% power", "planned, peeking", "found by then",
        "outcomes until found, mean", "of the fixed test",
    ]  # fmt: skip
    table(f"Power, {sims:,} tests with a difference, at most twice the plan", head, rows)


def _spread(effect: float) -> float:
    """Return the deviation of right and wrong, of both arms together."""
    return math.sqrt((0.8 * 0.2 + (0.8 - effect) * (0.2 + effect)) / 2)


def _less_right(effect: float) -> Draw:
    return lambda drawn, arm: right(drawn, arm, effect=effect)


def _dearer(effect: float) -> Draw:
    return lambda drawn, arm: dollars(drawn, arm, effect=effect)


def mismatches(sims: int, n: int) -> None:
    """Print how often the test of shares speaks, with and without lost assignments."""
    rows = []
    for lost in (0.0, 0.05, 0.1, 0.2):
        found = 0
        for seed in range(sims):
            drawn, counts = random.Random(seed), {"a": 0, "b": 0}
            for _ in range(n):
                arm = "b" if drawn.random() < 0.5 else "a"
                if arm == "a" or drawn.random() >= lost:
                    counts[arm] += 1
                    # Every tenth look, to save time: a look fewer finds less, not more.
                    if (
                        sum(counts.values()) % 10 == 0
                        and share_mismatch(counts, {"a": 1, "b": 1}) < 0.01
                    ):
                        found += 1
                        break
        rows.append([f"{lost:.0%}", share(found, sims)])
    title = f"Share mismatch found at p < 0.01, {sims:,} tests of {n:,} requests"
    table(title, ["lost of one arm", "found"], rows)


def main() -> None:
    """Print three tables."""
    quick = arguments(__doc__).quick
    started = time.perf_counter()
    false_alarms(30 if quick else 1_000, 300 if quick else 2_000)
    power(5 if quick else 200)
    mismatches(20 if quick else 500, 1_000 if quick else 5_000)
    print(f"\n{time.perf_counter() - started:,.0f} s")


if __name__ == "__main__":
    main()
