"""How sure a saving is: a bootstrap over blocks of time.

A log is cut into blocks of equally many consecutive calls, and a saving is a ratio of sums over
blocks. Two logs are drawn from the blocks, with replacement, again and again; the spread of the
difference between their savings is how far the saving of another log, as long as this one and from
the same traffic, may lie from the one seen here. Both start with empty caches. Blocks keep together
what happened together; a trend within the log (a cache that fills) makes the interval wider, not
narrower. What changes from one log to the next for good, such as a new feature, is not in it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MOST_BLOCKS = 40
LEAST_BLOCKS = 8
_LEAST_IN_BLOCK = 10
_DRAWS = 2_000


@dataclass(frozen=True, slots=True)
class Share:
    """A share of the spend with the 95% interval of another log's; no interval for short logs."""

    value: float
    low: float | None = None
    high: float | None = None

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return f"{self.value:.1%}"
        return f"{self.value:.1%} ({self.low:.1%} to {self.high:.1%})"

    def covers(self, value: float) -> bool:
        """Return whether a value lies in the interval."""
        return self.low is not None and self.high is not None and self.low <= value <= self.high


def blocks_of(calls: int) -> int:
    """Return into how many blocks so many calls are cut."""
    return max(1, min(MOST_BLOCKS, calls // _LEAST_IN_BLOCK))


Sums = Sequence[int]
"""By block; 1e-12 dollars."""


def share_of(saved: Sums, cost: Sums, *, seed: int = 0) -> Share:
    """Return the share that was saved, with its interval.

    >>> share = share_of([1, 3] * 10, [10] * 20)
    >>> round(share.value, 6), 0.1 < share.low < 0.2 < share.high < 0.3
    (0.2, True)
    """
    return combined_share([(saved, cost)], seed=seed)


def combined_share(parts: Sequence[tuple[Sums, Sums]], *, seed: int = 0) -> Share:
    """Return the product of parts as one share: each part saves of what those before it left.

    Each part is what was saved by block, and what it was saved of; their blocks are drawn apart.
    """
    tables = [
        (np.array(saved, dtype=np.float64), np.array(cost, dtype=np.float64))
        for saved, cost in parts
    ]
    value = _left([(saved.sum(), cost.sum()) for saved, cost in tables])
    used = [(s, c) for s, c in tables if c.sum() > 0]
    if not used or min(len(saved) for saved, _ in used) < LEAST_BLOCKS:
        return Share(value)
    source = np.random.default_rng(seed)
    one, other = (_draws(used, source) for _ in range(2))
    low, high = np.quantile(one - other, [0.025, 0.975])
    # What never costs more cannot save less than nothing.
    least = 0.0 if all((saved >= 0).all() for saved, _ in used) else -np.inf
    return Share(value, max(value + float(low), float(least)), min(value + float(high), 1.0))


def _left(sums: Sequence[tuple[float, float]]) -> float:
    left = 1.0
    for saved, cost in sums:
        left *= 1 - (float(saved) / float(cost) if cost > 0 else 0.0)
    return 1 - left


def _draws(
    tables: Sequence[tuple[NDArray[np.float64], NDArray[np.float64]]], source: np.random.Generator
) -> NDArray[np.float64]:
    left = np.ones(_DRAWS)
    for saved, cost in tables:
        count = len(saved)
        drawn = source.integers(0, count, size=(_DRAWS, count))
        of = np.maximum(cost[drawn].sum(axis=1), 1e-9)
        share = saved[drawn].sum(axis=1) / of
        # A draw of n from n varies by (n - 1) / n too little.
        mean = saved.sum() / max(cost.sum(), 1e-9)
        left *= 1 - (mean + (share - mean) * np.sqrt(count / max(count - 1, 1)))
    return np.asarray(1 - left)
