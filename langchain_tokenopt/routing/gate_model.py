"""The small models that turn a draft's features into a score; coefficients, saved as JSON."""

import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from langchain_tokenopt.errors import ConfigurationError

_FURTHEST = 5.0  # standard deviations: a draft unlike all others gets no more weight than that


@dataclass(frozen=True, slots=True, kw_only=True)
class LogisticModel:
    """The chance of something, from named features.

    >>> model = LogisticModel(
    ...     names=("agreement",), means=(0.5,), scales=(0.5,), weights=(2.0,), intercept=0.0
    ... )
    >>> round(model.score({"agreement": 1.0}), 2), model.score({"agreement": 0.5})
    (0.88, 0.5)
    """

    names: tuple[str, ...]
    means: tuple[float, ...]
    scales: tuple[float, ...]
    weights: tuple[float, ...]
    intercept: float

    def __post_init__(self) -> None:
        rows = (self.means, self.scales, self.weights)
        if any(len(row) != len(self.names) for row in rows) or not all(
            math.isfinite(value) for row in (*rows, (self.intercept,)) for value in row
        ):
            message = (
                f"expected a mean, a scale and a weight for each of {len(self.names)} features, "
                f"all finite, got {', '.join(str(len(row)) for row in rows)} of them"
            )
            raise ConfigurationError(message)
        if not all(scale > 0 for scale in self.scales):
            message = f"scales must be above 0, got {min(self.scales)}"
            raise ConfigurationError(message)

    def score(self, features: Mapping[str, float]) -> float:
        """Return the chance, above 0 and below 1.

        Raises:
            ConfigurationError: A feature of the model is not there.
        """
        missing = [name for name in self.names if name not in features]
        if missing:
            message = (
                f"the model was fitted with {', '.join(map(repr, missing))}, which this gate does "
                "not tell; give it the second opinion or judge that the labels had, or fit again"
            )
            raise ConfigurationError(message)
        logit = self.intercept
        for name, mean, scale, weight in zip(
            self.names, self.means, self.scales, self.weights, strict=True
        ):
            far = (features[name] - mean) / scale
            logit += weight * min(max(far, -_FURTHEST), _FURTHEST)
        return 1 / (1 + math.exp(-min(max(logit, -30.0), 30.0)))


@dataclass(frozen=True, slots=True, kw_only=True)
class GateModel:
    """What a gate learned: one model of the draft alone, and one with other opinions on it."""

    own: LogisticModel
    """From the draft alone, before anything else is asked."""
    full: LogisticModel | None = None
    """From the draft, the second opinions and the judge; `None` if there were none."""
    ask_from: float = 0.0
    """Below this score of `own` no opinion is asked for: it would hardly change anything."""
    fitted_on: tuple[str, ...] = ()
    """Marks of the questions it was fitted on; no promise may be made on them."""


def mark_of(question: str) -> str:
    r"""Return a short mark that tells whether two questions are the same, without showing them.

    >>> mark_of("2 + 2?") == mark_of(" 2 + 2?\n"), len(mark_of("2 + 2?"))
    (True, 16)
    """
    return hashlib.sha256(question.strip().encode("utf-8", "replace")).hexdigest()[:16]


def marks_of(questions: Iterable[str]) -> tuple[str, ...]:
    """Return the marks of many questions, sorted, each once."""
    return tuple(sorted(set(map(mark_of, questions))))
