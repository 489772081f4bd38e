"""The rule of vCache (arXiv 2502.03771), written from its formulae, as a peer.

Each kept question has its own logistic curve of similarity against rightness, fitted to what was
seen of it (a small ridge stands for the paper's table of variances under separation). A request is
asked with probability tau, which bounds the share of wrong answers among all requests by delta.
"""

import random
from statistics import NormalDist
from typing import Any

import numpy as np

FEWEST = 6
GRID = np.linspace(0.01, 0.99, 25)
QUANTILES = np.array([NormalDist().inv_cdf(1 - e) for e in GRID])


def explore(seen: list[tuple[float, bool]], similarity: float, *, delta: float) -> float:
    """Return the probability with which to ask."""
    if len(seen) < FEWEST:
        return 1.0
    s = np.array([one for one, _ in seen])
    c = np.array([float(right) for _, right in seen])
    x = np.column_stack([np.ones_like(s), s])
    w = np.array([-8.0, 10.0])
    for _ in range(25):
        p = 1 / (1 + np.exp(-np.clip(x @ w, -30, 30)))
        hessian = (x * (p * (1 - p))[:, None]).T @ x + 1e-2 * np.eye(2)
        w = w - np.linalg.solve(hessian, x.T @ (p - c) + 1e-2 * (w - np.array([-8.0, 10.0])))
    steep = max(float(w[1]), 1e-3)
    middle = -float(w[0]) / steep
    gradient = np.array([-1 / steep, float(w[0]) / steep**2])
    spread = float(np.sqrt(max(gradient @ np.linalg.inv(hessian) @ gradient, 0.0)))
    moved = np.clip(middle + QUANTILES * spread, 0.0, 1.0)
    alpha = (1 - GRID) / (1 + np.exp(-np.clip(steep * (similarity - moved), -30, 30)))
    return float(np.clip(np.min(1 - delta / (1 - alpha)), 0.0, 1.0))


def play_vcache(
    rows: list[dict[str, Any]], vectors: Any, *, delta: float, seed: int
) -> tuple[float, float]:
    """Return hits and wrong answers as shares of all requests."""
    chance = random.Random(seed)
    kept = np.empty_like(vectors)
    answers: list[str] = []
    seen: list[list[tuple[float, bool]]] = []
    hits = wrong = 0
    for row, vector in zip(rows, vectors, strict=True):
        if answers:
            similar = kept[: len(answers)] @ vector
            best = int(similar.argmax())
            right = answers[best] == row["answer_id"]
            if chance.random() > explore(seen[best], float(similar[best]), delta=delta):
                hits += 1
                wrong += not right
                continue
            seen[best].append((float(similar[best]), right))
            if right:
                continue
        kept[len(answers)] = vector
        answers.append(row["answer_id"])
        seen.append([])
    return hits / len(rows), wrong / len(rows)
