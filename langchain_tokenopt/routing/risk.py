"""How many losses a set of labels may show, so that a promise holds beyond it.

A loss is an accepted draft that is wrong where the strong model is right. The share of requests
that are losses only falls as the threshold rises, and both ways of promising rest on that:

- conformal risk control (Angelopoulos et al., arXiv 2208.02814) bounds the mean, over calibrations;
- learn then test (arXiv 2110.01052), with an exact binomial test at thresholds from the safest
  down, bounds the share itself, with a probability.

Both come to a number of losses that may be seen; the threshold is the score of the next one.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from langchain_tokenopt.errors import ConfigurationError

_MOST_LABELS = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Promise:
    """What holds for requests like the labelled ones, if drafts scored above `threshold` pass."""

    max_loss: float
    """The promised share of requests whose draft is accepted and worse than the strong answer."""
    delta: float | None
    """The chance that the share is higher after all; `None` if only its mean is promised."""
    threshold: float
    """Accept a draft whose score is above it; 1 accepts nothing."""
    labels: int
    losses_allowed: int
    """Among the labels; -1 if there are too few of them for any promise."""
    losses_seen: int
    """Among the labels, at the threshold."""
    accepted_share: float
    """Of the labels, at the threshold."""

    @property
    def is_certified(self) -> bool:
        """Whether anything may be accepted."""
        return self.losses_allowed >= 0 and self.accepted_share > 0

    def __str__(self) -> str:
        if not self.is_certified:
            needed = labels_needed(self.max_loss, delta=self.delta)
            if self.losses_allowed < 0:
                return (
                    f"nothing can be promised with {self.labels} labels; "
                    f"at least {needed} are needed"
                )
            return f"no draft is safe enough: the best scored ones of {self.labels} are losses"
        kind = "on average" if self.delta is None else f"with probability {1 - self.delta:.0%}"
        return f"at most {self.max_loss:.1%} of requests lose quality, {kind}"


def losses_allowed(labels: int, max_loss: float, *, delta: float | None = None) -> int:
    """Return how many losses `labels` may show; -1 if none of them would be few enough.

    Args:
        labels: How many.
        max_loss: The share that is promised.
        delta: The chance that it is higher; `None` bounds the mean.

    >>> losses_allowed(100, 0.05), losses_allowed(100, 0.05, delta=0.1)
    (4, 1)
    >>> losses_allowed(113, 0.02, delta=0.1), losses_allowed(114, 0.02, delta=0.1)
    (-1, 0)
    """
    _check(max_loss, delta)
    if delta is None:
        # Rounded, so that a product such as 0.07 * 100 counts as 7.
        return math.floor(round(max_loss * (labels + 1), 9)) - 1
    allowed, chance = -1, 0.0
    for losses in range(labels + 1):
        chance += _binomial(losses, labels, max_loss)
        if chance > delta:
            break
        allowed = losses
    return allowed


def labels_needed(
    max_loss: float, *, delta: float | None = None, loss_rate: float = 0.0
) -> int | None:
    """Return how many labels make a promise possible, `None` if none do.

    Args:
        max_loss: The share that is promised.
        delta: The chance that it is higher; `None` bounds the mean.
        loss_rate: The share of losses to expect at the threshold; must be below `max_loss`.

    >>> labels_needed(0.02, delta=0.1), labels_needed(0.05, delta=0.1), labels_needed(0.05)
    (114, 45, 19)
    """
    _check(max_loss, delta)
    if loss_rate >= max_loss:
        return None

    def enough(labels: int) -> bool:
        return losses_allowed(labels, max_loss, delta=delta) >= math.ceil(loss_rate * labels)

    high = 1
    while not enough(high):
        high *= 2
        if high > _MOST_LABELS:
            return None
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def promise(
    scores: Sequence[float], losses: Sequence[bool], *, max_loss: float, delta: float | None = None
) -> Promise:
    """Return the lowest threshold that keeps a promise, by drafts that nothing was fitted on.

    Args:
        scores: Of drafts, 0 to 1.
        losses: Whether accepting each would lose something, in the same order.
        max_loss: The share that is promised, above 0 and below 1.
        delta: The chance that it is higher; `None` bounds the mean over calibrations.

    >>> found = promise([0.9] * 60 + [0.2] * 40, [False] * 60 + [True] * 40, max_loss=0.05)
    >>> found.threshold, found.accepted_share, found.losses_seen
    (0.2, 0.6, 0)
    """
    if len(scores) != len(losses) or not all(0 <= score <= 1 for score in scores):
        message = (
            f"expected a score from 0 to 1 and a loss for each draft, got {len(scores)} scores and "
            f"{len(losses)} losses"
        )
        raise ConfigurationError(message)
    allowed = losses_allowed(len(scores), max_loss, delta=delta)
    lost = sorted((s for s, loss in zip(scores, losses, strict=True) if loss), reverse=True)
    threshold = 1.0
    if allowed >= 0:
        # Accepting strictly above the next loss's score keeps exactly the allowed ones.
        threshold = lost[allowed] if len(lost) > allowed else 0.0
    return Promise(
        max_loss=max_loss,
        delta=delta,
        threshold=threshold,
        labels=len(scores),
        losses_allowed=allowed,
        losses_seen=sum(score > threshold for score in lost),
        accepted_share=sum(s > threshold for s in scores) / len(scores) if scores else 0.0,
    )


def least_escalated(loss_rate: float, max_loss: float) -> float:
    """Return the share of requests that any gate must escalate (arXiv 2606.29054).

    Args:
        loss_rate: The share of losses if every draft were accepted.
        max_loss: The share that is promised.

    >>> round(least_escalated(0.30, 0.05), 3), least_escalated(0.04, 0.05)
    (0.263, 0.0)
    """
    return max(0.0, (loss_rate - max_loss) / (1 - max_loss))


def _binomial(losses: int, labels: int, rate: float) -> float:
    log_ways = math.lgamma(labels + 1) - math.lgamma(losses + 1) - math.lgamma(labels - losses + 1)
    return math.exp(log_ways + losses * math.log(rate) + (labels - losses) * math.log1p(-rate))


def _check(max_loss: float, delta: float | None) -> None:
    if not 0 < max_loss < 1 or (delta is not None and not 0 < delta < 1):
        message = (
            f"max_loss and delta are shares between 0 and 1, got {max_loss} and {delta}; "
            "use delta=None to bound the mean"
        )
        raise ConfigurationError(message)
