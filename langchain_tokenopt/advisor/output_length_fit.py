"""Learn from a log or a ledger how many tokens calls answer with: the extra `calibrate`."""

import math
import random
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from langchain_tokenopt.advisor.output_length import (
    OutputExample,
    OutputLengthModel,
    Quantile,
    Tree,
    row_of,
)
from langchain_tokenopt.errors import ConfigurationError, MissingExtraError

try:
    # scikit-learn ships no types.
    from sklearn.ensemble import GradientBoostingRegressor  # type: ignore[import-untyped]
except ImportError as error:
    raise MissingExtraError(package="scikit-learn", extra="calibrate") from error

LEAST = 60
"""Examples without which nothing is learned."""
_LEAST_NAMED = 20
_TREES, _DEPTH, _RATE = 60, 2, 0.05
_Vector = NDArray[np.float64]


def fit_output_length(
    examples: Iterable[OutputExample],
    *,
    confidence: float = 0.9,
    fit_share: float = 0.7,
    seed: int = 0,
) -> OutputLengthModel:
    """Return a model of the tokens of answers, with intervals that held on calls set apart.

    The interval of a new call holds with the given confidence if it is like those: drawn from the
    same traffic. Calls with the same prompt are on one side of the split.

    Args:
        examples: From `examples_of_log` or `examples_of_ledger`.
        confidence: Of the intervals.
        fit_share: Of the examples that the trees are fitted on; the rest calibrates.
        seed: Of the split.

    Raises:
        ConfigurationError: A value cannot be used, or there are too few examples.
    """
    rows = list(examples)
    if not 0 < confidence < 1 or not 0 < fit_share < 1:
        message = f"expected shares between 0 and 1, got {confidence} and {fit_share}"
        raise ConfigurationError(message)
    fitted, held = _split(rows, fit_share, seed)
    # The quantile that calibration takes must be one of the errors that it sees.
    needed = math.ceil(confidence / (1 - confidence))
    if len(rows) < LEAST or len(held) < needed or not fitted:
        message = (
            f"{len(rows)} examples are too few, {len(held)} of them to calibrate on; expected "
            f"{LEAST} or more with different prompts, {needed} of them to calibrate on"
        )
        raise ConfigurationError(message)
    names = _names(fitted)
    typical, elsewhere = _typical(fitted)
    table = np.array([row_of(row.facts, names) for row in fitted])
    offsets = _offsets(fitted, elsewhere)
    away = np.array([math.log1p(row.output_tokens) for row in fitted]) - offsets
    tails = ((1 - confidence) / 2, 0.5, (1 + confidence) / 2)
    low, middle, high = (_boosted(table, away, share) for share in tails)
    errors = []
    for row in held:
        seen = row_of(row.facts, names)
        real = math.log1p(row.output_tokens) - typical.get(row.facts.group, elsewhere)
        ends = sorted((low.at(seen), high.at(seen)))
        errors.append(max(ends[0] - real, real - ends[1]))
    rank = math.ceil(confidence * (len(errors) + 1))
    return OutputLengthModel(
        typical=typical,
        elsewhere=elsewhere,
        names=names,
        low=low,
        middle=middle,
        high=high,
        widened=sorted(errors)[rank - 1],
        confidence=confidence,
        fitted=len(fitted),
        calibrated=len(held),
    )


def _split(
    rows: Sequence[OutputExample], fit_share: float, seed: int
) -> tuple[list[OutputExample], list[OutputExample]]:
    prompts = [row.facts.text or f"\n{number}" for number, row in enumerate(rows)]
    different = sorted(set(prompts))
    random.Random(seed).shuffle(different)  # noqa: S311 - no secret
    for_fit = set(different[: round(fit_share * len(different))])
    fitted = [row for row, prompt in zip(rows, prompts, strict=True) if prompt in for_fit]
    held = [row for row, prompt in zip(rows, prompts, strict=True) if prompt not in for_fit]
    return fitted, held


def _names(rows: Sequence[OutputExample]) -> tuple[str, ...]:
    seen: dict[str, int] = {}
    for row in rows:
        for name in (f"feature={row.facts.feature}", f"model={row.facts.model}"):
            seen[name] = seen.get(name, 0) + 1
    return tuple(sorted(name for name, n in seen.items() if _LEAST_NAMED <= n < len(rows)))


def _sums(rows: Sequence[OutputExample]) -> dict[str, tuple[float, int]]:
    sums: dict[str, tuple[float, int]] = {}
    for row in rows:
        whole, n = sums.get(row.facts.group, (0.0, 0))
        sums[row.facts.group] = (whole + math.log1p(row.output_tokens), n + 1)
    return sums


def _typical(rows: Sequence[OutputExample]) -> tuple[dict[str, float], float]:
    """Return the mean of each group, to which one call of the mean of all is added, and that."""
    sums = _sums(rows)
    elsewhere = math.fsum(whole for whole, _ in sums.values()) / len(rows)
    return {g: (whole + elsewhere) / (n + 1) for g, (whole, n) in sums.items()}, elsewhere


def _offsets(rows: Sequence[OutputExample], elsewhere: float) -> _Vector:
    """Return what is typical of each row's group without the row itself, as it is of a new call."""
    sums = _sums(rows)
    found = []
    for row in rows:
        whole, n = sums[row.facts.group]
        found.append((whole - math.log1p(row.output_tokens) + elsewhere) / n)
    return np.array(found)


def _boosted(table: _Vector, target: _Vector, share: float) -> Quantile:
    model = GradientBoostingRegressor(
        loss="quantile",
        alpha=share,
        n_estimators=_TREES,
        max_depth=_DEPTH,
        learning_rate=_RATE,
        min_samples_leaf=min(10, max(len(target) // 10, 1)),
        subsample=0.7,
        random_state=0,
    ).fit(table, target)
    trees = tuple(_tree_of(each.tree_) for each in model.estimators_[:, 0])
    first = sum(tree.at(table[0].tolist()) for tree in trees)
    base = float(model.predict(table[:1])[0]) - first
    return Quantile(base=base, trees=trees)


def _tree_of(tree: Any) -> Tree:
    return Tree(
        left=tuple(map(int, tree.children_left)),
        right=tuple(map(int, tree.children_right)),
        column=tuple(map(int, tree.feature)),
        threshold=tuple(map(float, tree.threshold)),
        value=tuple(float(value) * _RATE for value in tree.value[:, 0, 0]),
    )
