"""How many requests an experiment needs, before it begins."""

import math
import statistics
from dataclasses import dataclass

from langchain_tokenopt.advisor.experiment import QUALITY, Metric
from langchain_tokenopt.advisor.experiment_tests import TUNED_FOR, half_width, mixture_scale
from langchain_tokenopt.errors import ConfigurationError

_MOST = 10**10
# What exact intervals need of what asymptotic ones do: 0.85 to 1.2, the more the smaller the
# effect (benchmarks/experiment.py).
_EXACT = 1.2


@dataclass(frozen=True, slots=True, kw_only=True)
class ExperimentPlan:
    """How long an experiment takes, if the effect is as large as said. All of it is estimated."""

    effect: float
    """The difference that is to be found, in the metric's unit."""
    requests: int
    """Of both arms, by which a test that is looked at all the time finds it with the `power`."""
    fixed_requests: int
    """Of both arms, for one look at the end: the price of peeking is the difference."""
    days: float | None
    """`None` if no number a day was given."""
    power: float
    confidence: float

    def __str__(self) -> str:
        days = "" if self.days is None else f", {self.days:.1f} days"
        return (
            f"a difference of {self.effect:g} is found in {self.requests:,} requests{days}, or "
            f"sooner, with a probability of {self.power:.0%}, looked at all the time; "
            f"{self.fixed_requests:,} requests if looked at once (estimated)"
        )


def plan_experiment(
    *,
    effect: float,
    deviation: float,
    metric: Metric = QUALITY,
    share: float = 0.5,
    requests_a_day: float | None = None,
    confidence: float = 0.95,
    power: float = 0.8,
    comparisons: int = 1,
) -> ExperimentPlan:
    """Return how many independent requests (or keys) find a difference.

    Args:
        effect: The least difference that would matter, in the metric's unit.
        deviation: The standard deviation of one outcome, the same in both arms: for a share of
            right answers `p` it is `(p * (1 - p)) ** 0.5`; for cost and latency, take the ledger's.
        metric: One with bounds is tested exactly, which needs up to a fifth more requests.
        share: Of the two arms' requests that get the variant.
        requests_a_day: Of both arms, to tell days.
        confidence: Of the test, over all comparisons.
        power: The probability of finding the difference.
        comparisons: Variants that are compared with the control.

    Raises:
        ConfigurationError: A value cannot be used, or no affordable number would do.

    >>> print(plan_experiment(effect=0.05, deviation=0.4, requests_a_day=1_000))
    a difference of 0.05 is found in 4,677 requests, 4.7 days, or sooner, ...
    """
    shares = (share, confidence, power)
    usable = math.isfinite(effect) and effect != 0 and deviation > 0 and comparisons >= 1
    a_day = math.inf if requests_a_day is None else requests_a_day
    if not usable or not all(0 < each < 1 for each in shares) or not a_day > 0:
        message = (
            "expected an effect other than 0, a deviation and requests a day above 0, shares "
            "between 0 and 1 and one comparison or more, "
            f"got {effect}, {deviation}, {requests_a_day}, {shares} and {comparisons}"
        )
        raise ConfigurationError(message)
    alpha = (1 - confidence) / comparisons
    variance = deviation**2 * (1 / share + 1 / (1 - share))
    normal = statistics.NormalDist()
    beta = normal.inv_cdf(power)
    rho_squared = mixture_scale(alpha, TUNED_FOR)
    fixed = math.ceil(variance * ((normal.inv_cdf(1 - alpha / 2) + beta) / effect) ** 2)

    def finds(n: int) -> bool:
        half = half_width(n, variance, alpha, rho_squared)
        return half + beta * math.sqrt(variance / n) <= abs(effect)

    low, high = 1, 2
    while not finds(high):
        low, high = high, high * 2
        if high > _MOST:
            message = (
                f"an effect of {effect} at a deviation of {deviation} needs more than {_MOST:,} "
                "requests; look for a larger effect or a metric that varies less"
            )
            raise ConfigurationError(message)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if finds(middle) else (middle, high)
    requests = high if metric.low is None or metric.high is None else math.ceil(_EXACT * high)
    return ExperimentPlan(
        effect=effect,
        requests=requests,
        fixed_requests=fixed,
        days=None if requests_a_day is None else requests / requests_a_day,
        power=power,
        confidence=confidence,
    )
