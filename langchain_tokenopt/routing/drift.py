"""Whether a promise still holds: audits of a small share of requests, and when to raise an alarm.

A sampled request whose draft was accepted is answered by the strong model too, unseen by the user;
one that was escalated anyway is no loss and costs nothing. What audits show is tested by betting
against the promise, so it may be looked at after every audit without more false alarms.
"""

import math
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from langchain_tokenopt.errors import ConfigurationError

_BLOCK = 50
_BETS = tuple(0.025 * 1.35**n for n in range(13))  # higher loss rates that are bet on
_FIRST_WEIGHT = 0.5


class RandomSource(Protocol):
    """What draws which requests are audited; `random.Random` is one."""

    def random(self) -> float:
        """Return a number of at least 0 and below 1."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftState:
    """The audits so far, in blocks; plain values that can be saved."""

    audits: int = 0
    losses: tuple[int, ...] = ()
    """In each block of 50 audits."""
    alarmed_at: int | None = None
    """The audit at which the alarm was raised."""

    @property
    def total_losses(self) -> int:
        """Losses among all audits."""
        return sum(self.losses)

    def after(self, *, lost: bool) -> "DriftState":
        """Return the state after one more audit."""
        block = self.audits // _BLOCK
        losses = self.losses if block < len(self.losses) else (*self.losses, 0)
        counted = (*losses[:-1], losses[-1] + lost)
        return replace(self, audits=self.audits + 1, losses=counted)


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftReport:
    """What the audits say of the promise."""

    audits: int
    losses: int
    low: float
    """Of the share of requests that lose, at any time, with the chance `delta` of being wrong."""
    high: float
    evidence: float
    """By how much a bet against the promise has grown; the alarm is at 1 / `delta`."""
    is_alarmed: bool
    max_loss: float

    def __str__(self) -> str:
        state = "the promise is broken" if self.is_alarmed else "nothing speaks against the promise"
        return (
            f"{self.losses} of {self.audits} audits lost ({self.low:.1%} to {self.high:.1%}, "
            f"promised {self.max_loss:.1%}): {state}"
        )


def evidence(state: DriftState, max_loss: float) -> float:
    """Return by how much a bet has grown that more than `max_loss` of requests are lost.

    If the promise holds for every request given those before, the chance that this ever reaches
    1 / delta is at most delta (Ville's inequality). New bets start with every block, at a weight
    that falls, so a change after a long good time is seen too.
    """
    rates = [max_loss + (1 - max_loss) * bet for bet in _BETS]
    won = [math.log(rate / max_loss) for rate in rates]
    paid = [math.log((1 - rate) / (1 - max_loss)) for rate in rates]
    blocks = len(state.losses)
    total = 1.0 if not blocks else 1 - _staked(blocks)
    losses = audits = 0
    for block in reversed(range(blocks)):
        losses += state.losses[block]
        audits += min(_BLOCK, state.audits - block * _BLOCK)
        # Half of the stake is on the first bet, the rest is spread: the weights sum to at most 1.
        stake = _FIRST_WEIGHT if block == 0 else (1 - _FIRST_WEIGHT) / (block * (block + 1))
        grown = (losses * up + (audits - losses) * down for up, down in zip(won, paid, strict=True))
        total += stake * sum(math.exp(min(each, 700.0)) for each in grown) / len(_BETS)
    return total


def rate_interval(losses: int, audits: int, *, delta: float = 0.05) -> tuple[float, float]:
    """Return bounds of a loss rate that hold at all times together (Robbins' mixture).

    >>> low, high = rate_interval(3, 100)
    >>> round(low, 3), round(high, 3)
    (0.002, 0.123)
    """
    if not audits:
        return 0.0, 1.0
    mixture = _log_beta(losses + 0.5, audits - losses + 0.5) - _log_beta(0.5, 0.5)

    def is_possible(rate: float) -> bool:
        likelihood = losses * math.log(rate) + (audits - losses) * math.log1p(-rate)
        return mixture - likelihood < -math.log(delta)

    seen = min(max(losses / audits, 1e-12), 1 - 1e-12)
    low = 0.0 if not losses else _edge(is_possible, inside=seen, outside=1e-15)
    high = 1.0 if losses == audits else _edge(is_possible, inside=seen, outside=1 - 1e-15)
    return low, high


class DriftMonitor:
    """Says which accepted drafts to audit, and whether the promised loss is exceeded.

    `observe` every request; where it returns true, ask the strong model too and tell with
    `record` whether the draft had lost. After the alarm, ask the strong model alone until the gate
    is calibrated again: the audits are labels for that.

    Args:
        max_loss: The promised share of requests, as in the policy.
        share: Of requests to audit, above 0; 0.01 to 0.05 is usual.
        delta: The chance of an alarm, ever, while the promise holds.
        state: Where to go on.
        random_source: Draws the audits.
        on_alarm: Called once, with the report.

    >>> monitor = DriftMonitor(max_loss=0.05, share=1.0)
    >>> for _ in range(40):
    ...     if monitor.observe(accepted=True):
    ...         monitor.record(lost=True)
    >>> monitor.report().is_alarmed, monitor.state.alarmed_at
    (True, 2)
    """

    def __init__(
        self,
        *,
        max_loss: float,
        share: float = 0.03,
        delta: float = 0.05,
        state: DriftState | None = None,
        random_source: RandomSource | None = None,
        on_alarm: Callable[[DriftReport], None] | None = None,
    ) -> None:
        if not (0 < max_loss < 1 and 0 < delta < 1 and 0 < share <= 1):
            message = (
                "max_loss and delta are shares between 0 and 1, and share is above 0, got "
                f"{max_loss}, {delta} and {share}"
            )
            raise ConfigurationError(message)
        self._max_loss, self._share, self._delta = max_loss, share, delta
        self._state = state or DriftState()
        self._random = random_source or random.Random()  # noqa: S311 - a sample, not a secret
        self._on_alarm = on_alarm
        self._lock = threading.Lock()

    @property
    def state(self) -> DriftState:
        """The audits so far, to be saved."""
        return self._state

    def observe(self, *, accepted: bool) -> bool:
        """Return whether this request's draft is to be audited.

        A sampled request that was escalated counts as an audit without a loss at once.
        """
        with self._lock:
            if self._random.random() >= self._share:
                return False
        if not accepted:
            self.record(lost=False)
        return accepted

    def record(self, *, lost: bool) -> None:
        """Note an audit: whether the strong model was right and the accepted draft wrong."""
        with self._lock:
            self._state = self._state.after(lost=lost)
            crossed = (
                self._state.alarmed_at is None
                and evidence(self._state, self._max_loss) >= 1 / self._delta
            )
            if crossed:
                self._state = replace(self._state, alarmed_at=self._state.audits)
        if crossed and self._on_alarm is not None:
            self._on_alarm(self.report())

    def report(self) -> DriftReport:
        """Return what the audits say."""
        state = self._state
        low, high = rate_interval(state.total_losses, state.audits, delta=self._delta)
        return DriftReport(
            audits=state.audits,
            losses=state.total_losses,
            low=low,
            high=high,
            evidence=evidence(state, self._max_loss),
            is_alarmed=state.alarmed_at is not None,
            max_loss=self._max_loss,
        )


def _staked(blocks: int) -> float:
    """Return what the bets of the first blocks were started with."""
    return _FIRST_WEIGHT + (1 - _FIRST_WEIGHT) * (1 - 1 / blocks)


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


def _edge(is_inside: Callable[[float], bool], *, inside: float, outside: float) -> float:
    for _ in range(60):
        middle = (inside + outside) / 2
        inside, outside = (middle, outside) if is_inside(middle) else (inside, middle)
    return outside
