"""Whether to serve a kept answer for a question that is only like the one it was kept for.

The chance that the answer is right is a logistic model of what the two questions, and the
neighbours of the asked one, have in common. It starts from coefficients fitted on public request
streams and learns from every answer that the model gave where one could have been served. How much
risk may be taken is a budget: the user's highest share of wrong answers among all requests, spent
by the served answers' own risks.

The idea of a promised rate over all requests is vCache's (arXiv 2502.03771); the pooled model and
the budget are not.
"""

import math
import threading
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from langchain_tokenopt.caches.likeness import WordWeights, read

Vector = NDArray[np.float64]

FEATURES = (
    "one", "similarity", "margin", "share", "agreement", "words", "rare words", "rarest", "length",
    "alone", "alone, similarity", "kept", "kept, agreement",
    "stems",
)  # fmt: skip
# Fitted by benchmarks/fit/semantic_prior.py on development streams.
PRIOR = (0.23, 0.33, 0.81, 0.29, 2.71, 1.39, 0.9, 1.64, 0.41, -0.14, 1.35, 0.04, 0.3, 0.91)
_PRIOR_PRECISION = 0.5
_ENTRY_PRECISION = 2.0  # observations' worth by which an entry is taken for one like all
_MOST_SEEN, _MOST_ENTRIES = 4_000, 50_000
_WINDOW = 1_000
_AUDIT_WEIGHT = 3.0


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A kept question near the asked one."""

    text: str
    group: int
    """Questions with the same answer share it."""
    similarity: float
    """Cosine."""


def features(asked: str, near: Sequence[Neighbour], chosen: int, words: WordWeights) -> Vector:
    """Return the features of serving `near[chosen]` for `asked`; see `FEATURES`."""
    candidate = near[chosen]
    others = [n.similarity for n in near if n.group != candidate.group]
    floor = near[-1].similarity - 0.05
    best_other = max(others) if others else floor
    strength = [math.exp(20 * (n.similarity - near[0].similarity)) for n in near]
    own = [n.group == candidate.group for n in near]
    alone = float(len(near) == sum(own))
    share = sum(s for s, mine in zip(strength, own, strict=True) if mine) / sum(strength)
    reading, other = read(asked), read(candidate.text)
    a, b = reading.bag, other.bag
    common, either = a & b, a | b
    stems = len(reading.stems & other.stems) / max(len(reading.stems | other.stems), 1)
    weight = words.weight
    rare = sum(map(weight, common)) / (sum(map(weight, either)) + 1e-6)
    rarest = max(map(weight, either - common), default=0.0) / words.highest
    # Among few, neighbours agree because what would disagree was not asked yet.
    kept = math.log10(words.questions + 1) - 3
    agreement = sum(own) / len(near) - 0.5
    return np.array(
        [
            1.0,
            5 * (candidate.similarity - 0.8),
            10 * (candidate.similarity - best_other),
            4 * (share - 0.7),
            agreement,
            len(common) / max(len(either), 1) - 0.3,
            rare - 0.3,
            rarest - 0.7,
            math.log(len(a) + 1) - 2.2,
            alone,
            alone * 5 * (candidate.similarity - 0.8),
            kept,
            kept * agreement,
            stems - 0.4,
        ]
    )


def fit(
    x: NDArray[np.float64], right: Vector, weights: Vector, *, start: Vector, prior: Vector
) -> tuple[Vector, NDArray[np.float64]]:
    """Return the coefficients with the highest posterior and their covariance (Newton, damped)."""

    def loss(w: Vector) -> float:
        logits = x @ w
        data = float((weights * (np.logaddexp(0.0, logits) - right * logits)).sum())
        return data + 0.5 * _PRIOR_PRECISION * float(((w - prior) ** 2).sum())

    w, current = start.copy(), loss(start)
    ridge = _PRIOR_PRECISION * np.eye(len(prior))
    hessian: NDArray[Any] = ridge
    for _ in range(20):
        chance = 1 / (1 + np.exp(-np.clip(x @ w, -30, 30)))
        slope = x.T @ (weights * (chance - right)) + _PRIOR_PRECISION * (w - prior)
        hessian = (x * (weights * chance * (1 - chance))[:, None]).T @ x + ridge
        step = np.linalg.solve(hessian, slope)
        size = 1.0
        while size > 1e-3 and loss(w - size * step) > current:
            size /= 2
        improved = loss(w - size * step)
        if current - improved < 1e-4:
            break
        w, current = w - size * step, improved
    return w, np.asarray(np.linalg.inv(hessian), dtype=np.float64)


class RiskModel:
    """The chance that a kept answer is wrong for a question, learned as answers come in.

    Args:
        caution: Standard deviations of the model's own doubt that are added to a risk.
    """

    def __init__(self, *, caution: float = 0.25) -> None:
        self._caution = caution
        self._lock = threading.Lock()
        self._prior = np.array(PRIOR)
        self._w = self._prior.copy()
        self._covariance: NDArray[np.float64] = np.eye(len(PRIOR)) / _PRIOR_PRECISION * 0.1
        self._seen: deque[tuple[Vector, bool, float]] = deque(maxlen=_MOST_SEEN)
        self._entries: OrderedDict[int, tuple[float, float]] = OrderedDict()
        # Risk as it was told, whether it came true, and for how many requests this one stands.
        self._told: deque[tuple[float, bool, float]] = deque(maxlen=3_000)
        self._since_fit = 0
        self._learned = 0

    @property
    def learned(self) -> int:
        """How many answers were learned from."""
        return self._learned

    @property
    def coefficients(self) -> list[float]:
        """What was learned, for `start_from`."""
        return [float(value) for value in self._w]

    def start_from(self, coefficients: Sequence[float] | None) -> None:
        """Start from what another model learned; `None`, or another number, changes nothing."""
        if coefficients is None or len(coefficients) != len(PRIOR):
            return
        with self._lock:
            self._prior = np.array(coefficients)
            self._w = self._prior.copy()

    def risk(self, x: Vector, *, entry: int | None = None) -> float:
        """Return the chance that the answer of an entry is wrong, cautiously."""
        w, covariance = self._w, self._covariance
        doubt = math.sqrt(max(float(x @ covariance @ x), 0.0))
        logit = float(x @ w) - self._caution * doubt + self._own(entry)
        return 1 / (1 + math.exp(min(max(logit, -30.0), 30.0)))

    def _own(self, entry: int | None) -> float:
        """Return by how much an entry was right more often than the model of all would have it.

        In log odds, drawn towards 0: the random intercept of a hierarchical model, in one step.
        """
        seen = None if entry is None else self._entries.get(entry)
        return 0.0 if seen is None else seen[0] / (seen[1] + _ENTRY_PRECISION)

    def learn(
        self,
        x: Vector,
        *,
        right: bool,
        risk: float,
        entry: int | None = None,
        stands_for: float = 1.0,
    ) -> None:
        """Note whether an entry's answer would have been right.

        Args:
            x: See `features`.
            right: Whether.
            risk: As it was told.
            entry: Which.
            stands_for: More than 1 for an audit, which stands for hits that nobody checked.
        """
        with self._lock:
            if entry is not None:
                self._note(entry, x, right=right)
            self._seen.append((x, right, _AUDIT_WEIGHT if stands_for > 1 else 1.0))
            self._told.append((risk, not right, stands_for))
            self._learned += 1
            self._since_fit += 1
            if self._since_fit < 50 + len(self._seen) // 20:
                return
            self._since_fit = 0
            rows = list(self._seen)
        x_all = np.array([row[0] for row in rows])
        right_all = np.array([float(row[1]) for row in rows])
        weights = np.array([row[2] for row in rows])
        self._w, self._covariance = fit(x_all, right_all, weights, start=self._w, prior=self._prior)

    def _note(self, entry: int, x: Vector, *, right: bool) -> None:
        chance = 1 / (1 + math.exp(-min(max(float(x @ self._w), -30.0), 30.0)))
        surprise, information = self._entries.pop(entry, (0.0, 0.0))
        self._entries[entry] = (
            surprise + right - chance,
            information + chance * (1 - chance),
        )
        if len(self._entries) > _MOST_ENTRIES:
            self._entries.popitem(last=False)

    def optimism(self) -> float:
        """Return by what factor small risks came true more often than told, at least 1.

        One standard deviation above the observed ratio, so little evidence counts as optimism.
        """
        with self._lock:
            small = [row for row in self._told if row[0] < 0.2]
        wrong = sum(row[1] for row in small)
        told = sum(row[0] for row in small)
        return max(1.0, (wrong + math.sqrt(wrong) + 1) / (told + 1))


class RiskBudget:
    """How much risk may be taken, so that wrong answers stay below a share of all requests.

    Every request adds to the budget, every served answer spends its risk times the model's
    optimism. The highest risk that is taken follows the risks of the last thousand requests, so
    that the budget is spent evenly and where it buys most.

    Args:
        max_error_rate: Wrong answers among all requests, above 0 and at most 0.5.
        safety: The share of it that is planned for.
        credit: Requests whose budget may be spent ahead of time.
    """

    def __init__(self, max_error_rate: float, *, safety: float = 0.8, credit: float = 50.0) -> None:
        self._rate = max_error_rate * safety
        self._credit = credit
        self._lock = threading.Lock()
        self._requests = 0
        self._spent = 0.0
        self._risks: deque[float] = deque(maxlen=_WINDOW)
        self._optimism = 2.0
        self._highest = self._rate * 20

    @property
    def highest_risk(self) -> float:
        """The risk above which nothing is served now."""
        return self._highest

    def count(self) -> None:
        """Count a request that had nothing near it."""
        with self._lock:
            self._requests += 1
            self._risks.append(1.0)

    def take(self, risk: float, model: RiskModel) -> bool:
        """Count a request, and return whether its risk may be taken; it is spent then."""
        with self._lock:
            self._requests += 1
            self._risks.append(risk)
            if self._requests % 50 == 0:
                self._adapt(model)
            price = self._optimism * risk
            room = self._rate * (self._requests + self._credit) - self._spent
            if risk > self._highest or price > room:
                return False
            self._spent += price
            return True

    def uncount(self) -> None:
        """Take back that a request was counted: it comes again."""
        with self._lock:
            self._requests -= 1
            if self._risks:
                self._risks.pop()

    def give_back(self, risk: float) -> None:
        """Return the risk of an answer that was not served after all."""
        with self._lock:
            self._spent -= self._optimism * risk

    def _adapt(self, model: RiskModel) -> None:
        self._optimism = model.optimism()
        saved = self._rate * self._requests - self._spent
        limit = 0.5 * self._rate
        rate = self._rate + min(max(saved / 500, -limit), limit)
        risks = np.sort(np.fromiter(self._risks, dtype=float))
        affordable = np.cumsum(self._optimism * risks) / len(risks) <= rate
        self._highest = float(risks[affordable][-1]) if affordable.any() else 0.0
