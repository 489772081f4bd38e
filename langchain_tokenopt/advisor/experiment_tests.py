"""Tests that may be looked at after every outcome: is one variant better than another?

All of them read `Contrast`s, whose mean is the difference between two variants if the variants were
drawn with known shares. What is promised, and when:

- A bounded metric (quality): the betting confidence sequence of `reasoning.sequential`. It holds
  for any number of outcomes and any distribution within the bounds.
- An unbounded metric (cost, latency): the asymptotic confidence sequence of Waudby-Smith, Arbour,
  Sinha, Kennedy and Ramdas (https://arxiv.org/abs/2103.06476). It holds as the sample grows, so
  nothing is said before `least` outcomes; heavy tails need more.
- The shares themselves: a mixture test of the counts (Lindon and Malek,
  https://arxiv.org/abs/2011.03567). It holds for any number of assignments.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from langchain_tokenopt.errors import ConfigurationError
from langchain_tokenopt.reasoning.sequential import ConfidenceSequence, Interval, check_confidence

LEAST = 200
"""Outcomes of both variants together before an asymptotic interval is given."""
TUNED_FOR = 2_000
"""Outcomes at which asymptotic intervals are the narrowest."""
_STRENGTH = 100.0
"""How near to the shares the alternatives of their test lie."""
_EVERYTHING = Interval(-math.inf, math.inf)


@dataclass(frozen=True, slots=True, kw_only=True)
class Contrast:
    """One outcome, of the variant or of the control."""

    value: float
    of_variant: bool
    share: float
    """The share of requests that got this arm, among those that got either of the two."""


class DifferenceTest(Protocol):
    """Where the mean of a variant less the mean of the control lies, at any time."""

    def observe(self, outcome: Contrast) -> None:
        """Take in the next outcome."""
        ...

    @property
    def interval(self) -> Interval:
        """Where the difference lies."""
        ...


class BoundedDifference:
    """Intervals of the difference of two means of values between two bounds, exact at any time.

    Each outcome is weighted by its share, less the mean of the outcomes before it, which changes
    nothing in the mean of the difference and much in its variance.

    Args:
        low: Least value.
        high: Largest value.
        least_share: The least share that any outcome's arm has.
        confidence: That all intervals hold the difference.

    >>> test = BoundedDifference(least_share=0.5)
    >>> for n in range(400):
    ...     test.observe(Contrast(value=float(n % 2), of_variant=bool(n % 2), share=0.5))
    >>> test.interval.low > 0.8
    True
    """

    def __init__(
        self,
        *,
        low: float = 0.0,
        high: float = 1.0,
        least_share: float = 0.5,
        confidence: float = 0.95,
    ) -> None:
        if not low < high or not 0 < least_share <= 0.5:
            message = (
                "expected low below high and a least share above 0 and at most 0.5, "
                f"got {low}, {high} and {least_share}"
            )
            raise ConfigurationError(message)
        self._low, self._width, self._least_share = low, high - low, least_share
        most = 1 / least_share
        self._sequence = ConfidenceSequence(low=-most, high=most, confidence=confidence)
        # The mean of all outcomes, begun in the middle: what the next one is measured from.
        self._sum, self._n = 0.5, 1

    def observe(self, outcome: Contrast) -> None:
        """Take in the next outcome.

        Raises:
            ConfigurationError: Its value or its share is out of bounds.
        """
        scaled = (outcome.value - self._low) / self._width
        if not 0 <= scaled <= 1 or outcome.share < self._least_share - 1e-9:
            message = (
                f"expected a value from {self._low} to {self._low + self._width} of an arm with a "
                f"share of at least {self._least_share}, got {outcome.value} and {outcome.share}"
            )
            raise ConfigurationError(message)
        away = (scaled - self._sum / self._n) / max(outcome.share, self._least_share)
        self._sequence.observe(away if outcome.of_variant else -away)
        self._sum += scaled
        self._n += 1

    @property
    def interval(self) -> Interval:
        """Where the difference lies, in the metric's own unit."""
        found, most = self._sequence.interval, self._width
        return Interval(max(found.low * most, -most), min(found.high * most, most))


class AsymptoticDifference:
    """Intervals of the difference of two means of any values, at any time once there are many.

    Args:
        confidence: That all intervals hold the difference, as their number grows.
        least: Outcomes before which nothing is said.
        tuned_for: The number of outcomes at which intervals are the narrowest.

    >>> test = AsymptoticDifference()
    >>> for n in range(1_000):
    ...     test.observe(Contrast(value=10.0 + n % 2, of_variant=bool(n % 2), share=0.5))
    >>> test.interval.low > 0.9
    True
    """

    def __init__(
        self, *, confidence: float = 0.95, least: int = LEAST, tuned_for: int = TUNED_FOR
    ) -> None:
        check_confidence(confidence)
        if least < 2 or tuned_for < 1:
            message = f"expected least of 2 or more and tuned_for of 1, got {least}, {tuned_for}"
            raise ConfigurationError(message)
        self._alpha, self._least = 1 - confidence, least
        self._rho_squared = mixture_scale(self._alpha, tuned_for)
        self._arms = {True: _Sums(), False: _Sums()}
        self._scores = _Sums()

    def observe(self, outcome: Contrast) -> None:
        """Take in the next outcome.

        Raises:
            ConfigurationError: Its value is not finite, or its share is none.
        """
        if not math.isfinite(outcome.value) or not 0 < outcome.share < 1:
            message = (
                "expected a finite value of an arm with a share between 0 and 1, "
                f"got {outcome.value} and {outcome.share}"
            )
            raise ConfigurationError(message)
        # Augmented by the arms' means so far: unbiased whatever they are, and of less variance.
        means = {arm: sums.mean for arm, sums in self._arms.items()}
        away = (outcome.value - means[outcome.of_variant]) / outcome.share
        score = means[True] - means[False] + (away if outcome.of_variant else -away)
        self._scores.add(score)
        self._arms[outcome.of_variant].add(outcome.value)

    @property
    def interval(self) -> Interval:
        """Where the difference lies; everywhere while there are too few outcomes."""
        n = self._scores.n
        if n < self._least or min(sums.n for sums in self._arms.values()) < self._least / 20:
            return _EVERYTHING
        half = half_width(n, self._scores.variance, self._alpha, self._rho_squared)
        return Interval(self._scores.mean - half, self._scores.mean + half)


def mixture_scale(alpha: float, n: int) -> float:
    """Return the scale of the mixture, squared, whose intervals are the narrowest at `n`."""
    return (-2 * math.log(alpha) + math.log(-2 * math.log(alpha) + 1)) / n


def half_width(n: int, variance: float, alpha: float, rho_squared: float) -> float:
    """Return half the width of the asymptotic confidence sequence after `n` outcomes."""
    mixed = n * rho_squared + 1
    return math.sqrt(variance * mixed / (n * n * rho_squared) * math.log(mixed / alpha**2))


@dataclass(slots=True)
class _Sums:
    n: int = 0
    mean: float = 0.0
    squares: float = 0.0

    @property
    def variance(self) -> float:
        return self.squares / self.n if self.n else 0.0

    def add(self, value: float) -> None:
        self.n += 1
        away = value - self.mean
        self.mean += away / self.n
        self.squares += away * (value - self.mean)


def share_mismatch(counts: Mapping[str, int], shares: Mapping[str, float]) -> float:
    """Return a p-value that holds at any time: did the variants get the shares they were to get?

    Below 0.01 something is wrong with how requests are assigned or counted, and no difference
    between the variants can be trusted.

    Args:
        counts: Keys that got each variant.
        shares: The share that each was to get; they need not add up to 1.

    >>> share_mismatch({"a": 5_000, "b": 5_100}, {"a": 0.5, "b": 0.5}) > 0.5
    True
    >>> share_mismatch({"a": 5_000, "b": 5_600}, {"a": 0.5, "b": 0.5}) < 0.01
    True
    """
    return math.exp(-max(log_evidence(counts, shares), 0.0))


def log_evidence(counts: Mapping[str, int], shares: Mapping[str, float]) -> float:
    """Return the logarithm of the evidence against the shares, a Dirichlet mixture around them.

    Raises:
        ConfigurationError: A variant was counted that was to get nothing.
    """
    used = {name: share for name, share in shares.items() if share > 0}
    strangers = sorted(name for name, n in counts.items() if n and name not in used)
    if strangers:
        message = f"no share is given for {', '.join(strangers)}; expected one for each variant"
        raise ConfigurationError(message)
    whole, total = sum(used.values()), sum(counts.values())
    found = math.lgamma(_STRENGTH) - math.lgamma(_STRENGTH + total)
    for name, share in used.items():
        n, prior = counts.get(name, 0), _STRENGTH * share / whole
        found += math.lgamma(prior + n) - math.lgamma(prior) - n * math.log(share / whole)
    return found
