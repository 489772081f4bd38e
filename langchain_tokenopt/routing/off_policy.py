"""What another policy would have earned, told from the log of the one that served."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from langchain_tokenopt.errors import ConfigurationError
from langchain_tokenopt.routing.bandit import Decision

TaskPolicy: TypeAlias = Callable[[str], Mapping[str, float]]
"""The probability of each arm at a task."""

Estimator: TypeAlias = Literal["ips", "snips", "dr"]

_DRAWS = 1_000
_LEAST = 1e-12
"""A sum of weights that nothing is divided by less than: a draw without what the policy chooses."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyValue:
    """An estimate of what a policy earns a request, with a 95% bootstrap interval."""

    mean: float
    low: float
    high: float
    requests: int
    effective: float
    """How many requests of its own the log is worth; far below `requests`, do not trust it."""
    unsupported: float
    """The share of the policy's choices that could not have served; of them `ips` knows nothing,
    `dr` what its model says. The interval does not tell: do not trust it far above 0."""


def evaluate_policy(
    log: Sequence[Decision],
    policy: TaskPolicy,
    *,
    price_weight: float = 0.0,
    estimator: Estimator = "dr",
    seed: int = 0,
) -> PolicyValue:
    """Return what a policy would have earned on logged requests (arXiv 1103.4601).

    Args:
        log: Decisions with rewards, as `TierBandit.log` has them. Their propensities must be those
            of what served: a bandit in shadow mode served the baseline always, and tells nothing
            of other arms.
        policy: What would have been chosen.
        price_weight: As in the bandit.
        estimator: `ips` weighs rewards by how much likelier the policy is to choose what served;
            `snips` divides by the sum of the weights; `dr` adds a model of the rewards (their mean
            by task and arm), which the weights then correct.
        seed: Of the bootstrap.

    Raises:
        ConfigurationError: The log holds no reward, or a decision in shadow mode or of the
            probability 0, or nothing that the policy would have chosen; or the policy's
            probabilities do not add up to 1.

    >>> even = {"small": 0.5, "large": 0.5}
    >>> log = [
    ...     Decision(
    ...         request_id=str(n), task="", arm=arm, served=arm, propensities=even, quality=quality
    ...     )
    ...     for n, (arm, quality) in enumerate([("small", 0.0), ("large", 1.0)] * 50)
    ... ]
    >>> evaluate_policy(log, lambda task: {"large": 1.0}).mean
    1.0
    """
    if estimator not in ("ips", "snips", "dr"):
        raise ConfigurationError(f"estimator is 'ips', 'snips' or 'dr', got {estimator!r}")
    rows = _weighable(log)
    rewards = np.array([(r.quality or 0.0) - price_weight * (r.cost or 0.0) for r in rows])
    wanted = [_checked(policy(row.task), row.task) for row in rows]
    weights = np.array(
        [
            want.get(row.served, 0.0) / row.propensities[row.served]
            for row, want in zip(rows, wanted, strict=True)
        ]
    )
    if not weights.any():
        message = (
            "the log holds nothing that the policy would have chosen; log with a policy that tries "
            "those arms now and then"
        )
        raise ConfigurationError(message)
    base, modelled = _modelled(rows, wanted, rewards) if estimator == "dr" else (0.0, 0.0)
    terms = base + weights * (rewards - modelled)
    over = weights if estimator == "snips" else np.ones_like(weights)
    low, high = _interval(terms, over, seed=seed)
    never = [
        sum(share for arm, share in want.items() if row.propensities.get(arm, 0.0) <= 0)
        for row, want in zip(rows, wanted, strict=True)
    ]
    return PolicyValue(
        mean=float(terms.sum() / over.sum()),
        low=low,
        high=high,
        requests=len(rows),
        effective=float(weights.sum() ** 2 / (weights**2).sum()),
        unsupported=sum(never) / len(never),
    )


def _weighable(log: Sequence[Decision]) -> list[Decision]:
    """Return the decisions with rewards, each served with a known probability."""
    rows = [each for each in log if each.quality is not None]
    if not rows:
        raise ConfigurationError("the log holds no decision with a reward")
    for each in rows:
        if each.shadow or each.arm != each.served:
            message = (
                f"the decision {each.request_id} was logged in shadow mode ({each.served} served "
                "in any case); only what was served by its propensities can be weighed"
            )
            raise ConfigurationError(message)
        if not each.propensities.get(each.served, 0.0) > 0:
            message = (
                f"expected propensities with which arms were drawn, got the decision "
                f"{each.request_id}, which served {each.served} with the probability 0"
            )
            raise ConfigurationError(message)
    return rows


def _interval(
    terms: NDArray[np.float64], over: NDArray[np.float64], *, seed: int
) -> tuple[float, float]:
    """Return the bootstrap interval of the ratio of two sums over the same requests."""
    rng = np.random.default_rng(seed)
    values = []
    for _ in range(_DRAWS):  # one by one: all at once take gigabytes for a long log
        drawn = rng.integers(0, len(terms), len(terms))
        values.append(terms[drawn].sum() / max(over[drawn].sum(), _LEAST))
    low, high = np.quantile(values, (0.025, 0.975))
    return float(low), float(high)


def _checked(shares: Mapping[str, float], task: str) -> Mapping[str, float]:
    if not (min(shares.values(), default=-1.0) >= 0 and abs(sum(shares.values()) - 1) <= 1e-6):
        message = (
            f"expected probabilities that add up to 1 for the task {task!r}, got {dict(shares)}"
        )
        raise ConfigurationError(message)
    return shares


def _modelled(
    rows: Sequence[Decision],
    wanted: Sequence[Mapping[str, float]],
    rewards: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return what a model of the rewards expects of the policy, and of what was served."""
    sums: dict[tuple[str, str], list[float]] = {}
    for row, reward in zip(rows, rewards, strict=True):
        for key in {(row.task, row.served), ("", row.served)}:
            sums.setdefault(key, []).append(float(reward))
    overall = float(rewards.mean())

    def expected(task: str, arm: str) -> float:
        known = sums.get((task, arm)) or sums.get(("", arm))
        return sum(known) / len(known) if known else overall

    base = [
        sum(share * expected(row.task, arm) for arm, share in want.items())
        for row, want in zip(rows, wanted, strict=True)
    ]
    served = [expected(row.task, row.served) for row in rows]
    return np.array(base), np.array(served)
