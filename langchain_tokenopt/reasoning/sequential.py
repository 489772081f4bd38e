"""How sure a measured mean is, also where one looks at it after every question."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from langchain_tokenopt.errors import ConfigurationError

_POINTS = 2001
# Never all of the capital on one value: it would be lost to the first that comes out otherwise.
_LARGEST_BET = 0.9


@dataclass(frozen=True, slots=True)
class Interval:
    """Where a mean lies, at some confidence."""

    low: float
    high: float


def check_confidence(confidence: float) -> None:
    """Raise if a confidence is no share between 0 and 1."""
    if not 0 < confidence < 1:
        message = f"confidence is a share between 0 and 1 such as 0.95, got {confidence}"
        raise ConfigurationError(message)


def wilson_interval(total: float, n: int, *, confidence: float = 0.95) -> Interval:
    """Return Wilson's interval of a mean of values from 0 to 1, for an `n` fixed beforehand.

    It is meant for values that are 0 or 1; for those in between it is wider than needed.

    Args:
        total: The sum of the values.
        n: How many values there are; 0 tells nothing.
        confidence: Of the interval.

    >>> wilson_interval(8, 10)
    Interval(low=0.490..., high=0.943...)
    """
    if n == 0:
        return Interval(0.0, 1.0)
    z = _normal(confidence)
    mean = total / n
    centre = (mean + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(mean * (1 - mean) / n + z * z / (4 * n * n))
    return Interval(max(centre - half, 0.0), min(centre + half, 1.0))


def mean_interval(values: Sequence[float], *, confidence: float = 0.95) -> Interval | None:
    """Return Student's interval of a mean, `None` for fewer than two values.

    >>> mean_interval([10, 12, 14])
    Interval(low=7.03..., high=16.96...)
    """
    if len(values) < 2:
        return None
    mean = statistics.fmean(values)
    error = statistics.stdev(values) / math.sqrt(len(values))
    half = _student(confidence, len(values) - 1) * error
    return Interval(mean - half, mean + half)


class ConfidenceSequence:
    """Intervals of a mean that hold all at once, however often one looks and whenever one stops.

    Values are independent with the same mean and lie between two bounds. For every possible mean
    a gambler bets against it as far as the values so far advise; a mean is out once its gambler
    has multiplied the capital by 1 / (1 - confidence), which by Ville's inequality happens to the
    true one with a probability of at most 1 - confidence (Waudby-Smith and Ramdas, 2023,
    https://arxiv.org/abs/2010.09686, with the bets that they call aGRAPA).

    Args:
        low: Least value.
        high: Largest value.
        confidence: That all intervals hold the mean.

    >>> differences = ConfidenceSequence(low=-1, high=1)
    >>> for _ in range(100):
    ...     differences.observe(0)
    >>> differences.interval
    Interval(low=-0.0..., high=0.0...)
    """

    def __init__(self, *, low: float = 0.0, high: float = 1.0, confidence: float = 0.95) -> None:
        check_confidence(confidence)
        if not low < high:
            raise ConfigurationError(f"low must be below high, got {low} and {high}")
        self._low, self._width = low, high - low
        self._limit = -math.log(1 - confidence)
        self._means: NDArray[np.float64] = np.linspace(0.0, 1.0, _POINTS)
        with np.errstate(divide="ignore"):
            self._largest = _LARGEST_BET / self._means
            self._least = -_LARGEST_BET / (1 - self._means)
        self._gains: NDArray[np.float64] = np.zeros(_POINTS)
        self._within: NDArray[np.bool_] = np.ones(_POINTS, dtype=bool)
        self._sum, self._squares, self.n = 0.5, 0.25, 0
        self._interval = Interval(low, high)

    @property
    def interval(self) -> Interval:
        """Where the mean lies."""
        return self._interval

    def observe(self, value: float) -> None:
        """Take in the next value.

        Raises:
            ConfigurationError: It is out of bounds.
        """
        scaled = (value - self._low) / self._width
        if not 0 <= scaled <= 1:
            high = self._low + self._width
            raise ConfigurationError(f"expected a value from {self._low} to {high}, got {value}")
        self.n += 1
        # A bet may know only the values before: they make its mean and variance.
        mean, variance = self._sum / self.n, self._squares / self.n
        away = mean - self._means
        bets = np.clip(away / (variance + away * away), self._least, self._largest)
        self._gains += np.log1p(bets * (scaled - self._means))
        self._within &= self._gains < self._limit
        self._sum += scaled
        self._squares += (scaled - self._sum / (self.n + 1)) ** 2
        self._interval = self._hull()

    def _hull(self) -> Interval:
        left = np.flatnonzero(self._within)
        if not len(left):
            return self._interval  # the values contradict the bounds; the last one stands
        step = 1 / (_POINTS - 1)
        low = max(left[0] * step - step, 0.0) if left[0] else 0.0
        high = min(left[-1] * step + step, 1.0)
        return Interval(float(self._low + low * self._width), float(self._low + high * self._width))


def _normal(confidence: float) -> float:
    check_confidence(confidence)
    return statistics.NormalDist().inv_cdf((1 + confidence) / 2)


def _student(confidence: float, freedom: int) -> float:
    """Return a quantile of Student's distribution, by the expansion of Cornish and Fisher."""
    z = _normal(confidence)
    if freedom == 1:
        return math.tan(math.pi * confidence / 2)
    if freedom == 2:
        return confidence * math.sqrt(2 / (1 - confidence**2))
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return z + math.fsum(term / freedom**power for power, term in enumerate(terms, start=1))
