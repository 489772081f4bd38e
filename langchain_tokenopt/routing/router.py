"""Small model first or strong model directly, told from the question alone.

Trained on the gain of the strong model over the small one, not on whether the small one is right:
where both fail, the strong one is wasted.
"""

import math
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from langchain_core.embeddings import Embeddings
from numpy.typing import NDArray

from langchain_tokenopt.errors import ConfigurationError
from langchain_tokenopt.routing.gate_model import marks_of

Table = NDArray[np.float64]

_BUCKETS = 512
_SHAPES = 8
_WORD = re.compile(r"[^\W\d_]+|\d+|[^\w\s]")
_PENALTIES = (300.0, 1_000.0, 3_000.0, 10_000.0, 30_000.0)
_SCALE = 16.0  # a unit vector's entry is then about as large as a standardised one
_LEAST_LABELS = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class GainRouter:
    """Predicts what the strong model would gain on a question, before anything is asked.

    Reads hashed words, length and shape, and an embedding if it was fitted with one. A score costs
    microseconds beside the embedding.
    """

    weights: tuple[float, ...]
    intercept: float
    means: tuple[float, ...]
    """Of the features about the question's shape."""
    scales: tuple[float, ...]
    dimensions: int
    """Of the embedding; 0 without one."""
    fitted_on: tuple[str, ...] = ()
    """Marks of the questions it was fitted on."""

    def __post_init__(self) -> None:
        expected = (_SHAPES + _BUCKETS + self.dimensions, _SHAPES, _SHAPES)
        got = (len(self.weights), len(self.means), len(self.scales))
        if expected != got:
            message = f"expected {expected} weights, means and scales, got {got}; fit again"
            raise ConfigurationError(message)

    def score(self, question: str, *, embeddings: Embeddings | None = None) -> float:
        """Return how safe the small model is, 0 to 1; 0.5 where neither model is expected to gain.

        Args:
            question: What is asked.
            embeddings: Those that it was fitted with.
        """
        return self.scores([question], embeddings=embeddings)[0]

    async def ascore(self, question: str, *, embeddings: Embeddings | None = None) -> float:
        """Do what `score` does without blocking the event loop."""
        vectors = None
        if self.dimensions and embeddings is not None:
            vectors = [await embeddings.aembed_query(question)]
        return self._scores([question], vectors)[0]

    def scores(
        self, questions: Sequence[str], *, embeddings: Embeddings | None = None
    ) -> list[float]:
        """Return the score of each question."""
        vectors = None
        if self.dimensions and embeddings is not None:
            vectors = embeddings.embed_documents(list(questions))
        return self._scores(questions, vectors)

    def _scores(
        self, questions: Sequence[str], vectors: Sequence[Sequence[float]] | None
    ) -> list[float]:
        got = len(vectors[0]) if vectors else 0
        if questions and got != self.dimensions:
            message = (
                f"the router was fitted with embeddings of {self.dimensions} dimensions, got "
                f"{got}; pass the embeddings it was fitted with"
            )
            raise ConfigurationError(message)
        shapes = (_shapes(questions) - np.array(self.means)) / np.array(self.scales)
        x = _table(shapes, questions, vectors)
        gains = x @ np.array(self.weights) + self.intercept
        return [float(score) for score in np.clip(0.5 - gains / 2, 0.0, 1.0)]


def fit_router(
    questions: Sequence[str],
    gains: Sequence[float],
    *,
    embeddings: Embeddings | None = None,
) -> GainRouter:
    """Return a router fitted by ridge regression, its penalty chosen by leaving one out.

    Args:
        questions: At least 50.
        gains: Quality of the strong answer minus that of the small one, -1 to 1, in that order.
        embeddings: Read the question's meaning; they are needed again for every score.

    Raises:
        ConfigurationError: There are too few labels, or gains that cannot be.

    >>> sums = [f"What is {n} + {n}?" for n in range(30)]
    >>> proofs = [f"Prove theorem {n} about primes." for n in range(30)]
    >>> router = fit_router(sums + proofs, [0.0] * 30 + [1.0] * 30)
    >>> router.score("What is 7 + 8?") > router.score("Prove the theorem.")
    True
    """
    labels = np.array(gains, dtype=float)
    if len(questions) != len(gains) or len(questions) < _LEAST_LABELS:
        message = (
            f"expected at least {_LEAST_LABELS} questions with a gain each, got {len(questions)} "
            f"questions and {len(gains)} gains"
        )
        raise ConfigurationError(message)
    if not (np.isfinite(labels).all() and np.abs(labels).max() <= 1):
        message = f"gains must be from -1 to 1, got {labels.min()} to {labels.max()}"
        raise ConfigurationError(message)
    vectors = None if embeddings is None else embeddings.embed_documents(list(questions))
    shapes = _shapes(questions)
    means, scales = shapes.mean(axis=0), np.maximum(shapes.std(axis=0), 1e-3)
    x = _table((shapes - means) / scales, questions, vectors)
    centre, level = x.mean(axis=0), float(labels.mean())
    weights = _ridge(x - centre, labels - level)
    return GainRouter(
        weights=tuple(map(float, weights)),
        intercept=level - float(centre @ weights),
        means=tuple(map(float, means)),
        scales=tuple(map(float, scales)),
        dimensions=len(vectors[0]) if vectors else 0,
        fitted_on=marks_of(questions),
    )


def _ridge(x: Table, y: Table) -> Table:
    """Return the weights whose error on the row left out, summed over rows, is least."""
    values, basis = np.linalg.eigh(x @ x.T)
    values = np.maximum(values, 0.0)
    turned = basis.T @ y
    best, chosen = math.inf, np.zeros(len(y))
    for penalty in _PENALTIES:
        dual = basis @ (turned / (values + penalty))
        # The diagonal of the inverse gives every left-out error without a second fit.
        diagonal = ((basis**2) / (values + penalty)).sum(axis=1)
        error = float(((dual / diagonal) ** 2).sum())
        if error < best:
            best, chosen = error, dual
    weights: Table = x.T @ chosen
    return weights


def _table(
    shapes: Table, questions: Sequence[str], vectors: Sequence[Sequence[float]] | None
) -> Table:
    parts = [shapes, _SCALE * _hashed(questions)]
    if vectors:
        parts.append(_SCALE * np.array(vectors, dtype=float))
    return np.hstack(parts)


def _hashed(questions: Sequence[str]) -> Table:
    """Return unit vectors of hashed words; crc32, because `hash` differs between processes."""
    rows = np.zeros((len(questions), _BUCKETS))
    for row, question in zip(rows, questions, strict=True):
        for word in _WORD.findall(question.lower()):
            code = zlib.crc32(word.encode("utf-8", "replace"))
            row[code % _BUCKETS] += 1 if code >> 31 else -1
    damped = np.sign(rows) * np.sqrt(np.abs(rows))
    unit: Table = damped / np.maximum(np.linalg.norm(damped, axis=1, keepdims=True), 1e-9)
    return unit


def _shapes(questions: Sequence[str]) -> Table:
    return np.array([_shape(question) for question in questions], dtype=float).reshape(-1, _SHAPES)


def _shape(question: str) -> tuple[float, ...]:
    size = max(len(question), 1)
    words = _WORD.findall(question)
    return (
        math.log1p(size),
        math.log1p(len(words)),
        sum(character.isdigit() for character in question) / size,
        sum(character in "=+*/^<>\\$" for character in question) / size,
        sum(character.isupper() for character in question) / size,
        math.log1p(question.count("\n")),
        math.log1p(question.count(".")),
        sum(map(len, words)) / max(len(words), 1),
    )
