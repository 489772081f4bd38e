"""What a bandit believes of its arms, and how much of that it may stake on trying them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from langchain_tokenopt.routing.bandit_state import ArmSums

Vector: TypeAlias = NDArray[np.float64]

_BORROWED = 8.0
"""Rewards that what is known of all tasks counts for, at a task of its own."""
_CONFIDENT = 1.645
_MOST_SAVED = 50.0
"""Right answers that a budget of losses may hold: a long calm pays for no long storm."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Belief:
    """A Beta posterior over an arm's quality at a task, and its price."""

    good: float
    bad: float
    price: float
    """`price_weight * cost`, on average."""

    @classmethod
    def of(cls, own: ArmSums, overall: ArmSums, *, price_weight: float) -> "Belief":
        """Return what the rewards of a task say, and those of all tasks where it has few.

        The task's own are among those of all, so up to eight of them count twice: it is surer than
        its rewards make it. Measured without, what was given up was tried again three times as
        often, and no more was earned.
        """
        borrowed = min(overall.weight, _BORROWED)
        mean = (overall.quality + 1) / (overall.weight + 2)
        cost, weight = (own.cost, own.weight) if own.weight else (overall.cost, overall.weight)
        return cls(
            good=1 + own.quality + borrowed * mean,
            bad=1 + own.weight - own.quality + borrowed * (1 - mean),
            price=price_weight * cost / weight if weight else 0.0,
        )

    @property
    def quality(self) -> float:
        """The mean."""
        return self.good / (self.good + self.bad)

    @property
    def deviation(self) -> float:
        """The standard deviation of the quality."""
        total = self.good + self.bad
        return float(np.sqrt(self.good * self.bad / (total * total * (total + 1))))

    @property
    def value(self) -> float:
        """The mean quality less the price."""
        return self.quality - self.price

    @property
    def upper_quality(self) -> float:
        """The quality that it surely does not exceed, 19 times in 20."""
        return self.quality + _CONFIDENT * self.deviation

    def likely_gain(self, baseline: "Belief") -> float:
        """Return what it gains over the baseline less half a deviation; 0 if that is nothing."""
        doubt = float(np.hypot(self.deviation, baseline.deviation)) / 2
        return max(self.value - baseline.value - doubt, 0.0)

    def drawn(self, rng: np.random.Generator, draws: int) -> Vector:
        """Return draws of the value."""
        return np.asarray(rng.beta(self.good, self.bad, draws) - self.price)


def best_shares(values: Vector, allowed: Sequence[bool]) -> Vector:
    """Return how often each arm is the best in draws of their values, by draw and arm.

    >>> best_shares(np.array([[0.2, 0.8], [0.9, 0.4], [0.1, 0.3], [0.5, 0.6]]), [True, True])
    array([0.25, 0.75])
    """
    among = np.where(np.asarray(allowed), values, -np.inf)
    return np.bincount(among.argmax(axis=1), minlength=values.shape[1]) / len(values)


class LossBudget:
    """What may still be lost against the baseline, in right answers.

    Each request adds the share `allowed` of the baseline's value and what is likely gained, and
    takes out what is risked.
    """

    def __init__(self, allowed: float) -> None:
        self._allowed = allowed
        self._left = 0.0

    def kept(self, shares: Vector, values: Vector, gained: Vector, *, baseline: int) -> Vector:
        """Return shares of which the baseline has what trying the others would risk too much.

        Args:
            shares: How often each arm would be chosen.
            values: Draws of the arms' values, by draw and arm.
            gained: What each arm likely gains over the baseline.
            baseline: Which arm it is.
        """
        risks = np.maximum(values[:, [baseline]] - values, 0.0).mean(axis=0)
        room = self._left + self._allowed * max(float(values[:, baseline].mean()), 0.0)
        risked = float(shares @ risks)
        if risked > room:
            kept = room / risked
            shares, risked = shares * kept, room
            shares[baseline] += 1 - kept
        self._left = min(room - risked + float(shares @ gained), _MOST_SAVED)
        return np.asarray(shares / shares.sum())
