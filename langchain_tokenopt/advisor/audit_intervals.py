"""How sure a saving is: a bootstrap over blocks of time.

A log is cut into blocks of equally many consecutive calls, and a saving is a ratio of sums over
blocks. Two logs are drawn from the blocks, with replacement, again and again; the spread of the
difference between their savings is how far the saving of another log, as long as this one and from
the same traffic, may lie from the one seen here. Both start with empty caches. Blocks keep together
what happened together; a trend within the log (a cache that fills) makes the interval wider, not
narrower. Of fewer than twenty events, their number is drawn (Poisson, its rate from Jeffreys'
prior), since blocks would say too little. What changes from one log to the next for good, such as
a new feature, is not in it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MOST_BLOCKS = 40
LEAST_BLOCKS = 8
_LEAST_IN_BLOCK = 10
_DRAWS = 2_000
_RARE = 20


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

    def widened(self, by: float) -> "Share":
        """Return the share with an interval that is wider on both sides."""
        if self.low is None or self.high is None:
            return self
        return Share(self.value, self.low - by, min(self.high + by, 1.0))

    def covers(self, value: float) -> bool:
        """Return whether a value lies in the interval."""
        return self.low is not None and self.high is not None and self.low <= value <= self.high


def blocks_of(calls: int) -> int:
    """Return into how many blocks so many calls are cut."""
    return max(1, min(MOST_BLOCKS, calls // _LEAST_IN_BLOCK))


Sums = Sequence[int]
"""By block; 1e-12 dollars."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What was saved by block, and what it was saved of."""

    saved: Sums
    cost: Sums
    events: int
    """Calls that saved something."""
    calls: int
    """Calls that might have."""


def share_of(part: Part, *, seed: int = 0) -> Share:
    """Return the share that was saved, with its interval.

    >>> share = share_of(Part(saved=[1, 3] * 10, cost=[10] * 20, events=40, calls=200))
    >>> round(share.value, 6), 0.1 < share.low < 0.2 < share.high < 0.3
    (0.2, True)
    >>> share_of(Part(saved=[0] * 20, cost=[10] * 20, events=0, calls=200)).high > 0.005
    True
    """
    return combined_share([part], seed=seed)


def combined_share(parts: Sequence[Part], *, seed: int = 0) -> Share:
    """Return what the parts save together: each of what those before it left.

    The blocks of each part are drawn apart.
    """
    used = [part for part in parts if sum(part.cost) > 0]
    left = 1.0
    for part in used:
        left *= 1 - sum(part.saved) / sum(part.cost)
    if not used or min(len(part.cost) for part in used) < LEAST_BLOCKS:
        return Share(1 - left)
    source = np.random.default_rng(seed)
    one, other = (_draws(used, source) for _ in range(2))
    low, high = np.quantile(one - other, [0.025, 0.975])
    # What never costs more cannot save less than nothing.
    least = 0.0 if all(min(part.saved) >= 0 for part in used) else -np.inf
    return Share(
        1 - left, max(1 - left + float(low), float(least)), min(1 - left + float(high), 1.0)
    )


def _draws(parts: Sequence[Part], source: np.random.Generator) -> NDArray[np.float64]:
    left = np.ones(_DRAWS)
    for part in parts:
        rare = part.events < _RARE
        left *= 1 - (_rare_shares(part, source) if rare else _shares(part, source))
    return np.asarray(1 - left)


def _shares(part: Part, source: np.random.Generator) -> NDArray[np.float64]:
    saved = np.array(part.saved, dtype=np.float64)
    cost = np.array(part.cost, dtype=np.float64)
    count, mean = len(saved), saved.sum() / cost.sum()
    drawn = source.integers(0, count, size=(_DRAWS, count))
    share = saved[drawn].sum(axis=1) / np.maximum(cost[drawn].sum(axis=1), 1e-9)
    # A draw of n from n varies by (n - 1) / n too little.
    return np.asarray(mean + (share - mean) * np.sqrt(count / (count - 1)))


def _rare_shares(part: Part, source: np.random.Generator) -> NDArray[np.float64]:
    """Return shares of few events: blocks without any would say that there never are any."""
    each = sum(part.saved) / sum(part.cost) / part.events if part.events else 1 / part.calls
    expected = source.gamma(part.events + 0.5, size=_DRAWS)
    return np.asarray(each * source.poisson(expected))
