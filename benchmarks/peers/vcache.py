"""The rule of vCache, from the formulae of its paper (arXiv 2502.03771).

Each kept question has a logistic model of its own, of the chance that its answer is right at a
similarity. Where the paper reads the variance of a fit without overlap from a table, this one takes
Firth's penalised likelihood, whose variance is finite.
"""

import math
import random

import numpy as np
from numpy.typing import NDArray

_FIRST = 6  # observations before anything is served
_GRID = np.linspace(0.005, 0.995, 100)


def _normal_quantiles(chances: NDArray[np.float64]) -> NDArray[np.float64]:
    from statistics import NormalDist  # noqa: PLC0415

    return np.array([NormalDist().inv_cdf(float(chance)) for chance in chances])


_Z = _normal_quantiles(1 - _GRID)


class Observed:
    """What one kept question has seen."""

    def __init__(self) -> None:
        self.similarities: list[float] = []
        self.right: list[bool] = []
        self._tau: tuple[int, tuple[float, float, float] | None] = (0, None)

    def add(self, similarity: float, *, right: bool) -> None:
        """Note one more answer."""
        self.similarities.append(similarity)
        self.right.append(right)

    def explore(self, similarity: float, delta: float) -> float:
        """Return the chance with which the model should be asked."""
        if len(self.right) < _FIRST:
            return 1.0
        if self._tau[0] != len(self.right):
            self._tau = (len(self.right), _fit(np.array(self.similarities), np.array(self.right)))
        if self._tau[1] is None:
            return 1.0
        threshold, slope, deviation = self._tau[1]
        shifted = np.clip(threshold + _Z * deviation, 0.0, 1.0)
        right = (1 - _GRID) / (1 + np.exp(-np.clip(slope * (similarity - shifted), -500, 500)))
        return float(np.min(1 - delta / np.maximum(1 - right, 1e-12)))


def _fit(x: NDArray[np.float64], y: NDArray[np.bool_]) -> tuple[float, float, float] | None:
    """Return threshold, slope and the threshold's standard deviation, by Firth's likelihood."""
    design = np.column_stack([np.ones_like(x), x])
    w = np.zeros(2)
    for _ in range(50):
        chance = 1 / (1 + np.exp(-np.clip(design @ w, -500, 500)))
        weight = np.maximum(chance * (1 - chance), 1e-9)
        information = (design * weight[:, None]).T @ design + 1e-9 * np.eye(2)
        covariance = np.linalg.inv(information)
        leverage = weight * np.einsum("ij,jk,ik->i", design, covariance, design)
        step = covariance @ (design.T @ (y - chance + leverage * (0.5 - chance)))
        w = w + step * min(1.0, 5 / max(float(np.abs(step).max()), 1e-9))
        if np.abs(step).max() < 1e-4:
            break
    if w[1] <= 0:  # nearer is not better: nothing to go by
        return None
    gradient = np.array([-1 / w[1], w[0] / w[1] ** 2])
    variance = float(gradient @ covariance @ gradient)
    return -w[0] / w[1], float(w[1]), math.sqrt(max(variance, 0.0))


class VCacheRule:
    """A stream's requests through the rule; wrong answers should stay below `delta` of them.

    Args:
        delta: The highest share of wrong answers among all requests.
        dimensions: Of the vectors.
        seed: Fixes what is explored.
    """

    def __init__(self, delta: float, *, dimensions: int, seed: int) -> None:
        self._delta = delta
        self._random = random.Random(seed)
        self._vectors = np.empty((0, dimensions), dtype=np.float32)
        self._answers: list[str] = []
        self._observed: list[Observed] = []

    def ask(self, vector: NDArray[np.float32], right_answer: str) -> str | None:
        """Return the answer that is served, `None` where the model is asked."""
        if not self._answers:
            self._keep(vector, right_answer)
            return None
        similarities = self._vectors[: len(self._answers)] @ vector
        best = int(similarities.argmax())
        similarity = float(similarities[best])
        if self._random.random() > self._observed[best].explore(similarity, self._delta):
            return self._answers[best]
        right = self._answers[best] == right_answer
        self._observed[best].add(similarity, right=right)
        if not right:
            self._keep(vector, right_answer)
        return None

    def _keep(self, vector: NDArray[np.float32], answer: str) -> None:
        if len(self._answers) == len(self._vectors):
            more = np.empty((max(64, len(self._vectors)), vector.shape[0]), dtype=np.float32)
            self._vectors = np.vstack([self._vectors, more])
        self._vectors[len(self._answers)] = vector
        self._answers.append(answer)
        self._observed.append(Observed())
