"""Fits a gate's model on labelled drafts, with scikit-learn: the extra `calibrate`."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from langchain_tokenopt.errors import ConfigurationError, MissingExtraError
from langchain_tokenopt.routing.gate import Gate
from langchain_tokenopt.routing.gate_features import OWN_FEATURES
from langchain_tokenopt.routing.gate_model import GateModel, LogisticModel, marks_of
from langchain_tokenopt.routing.labels import LabelledDraft

try:
    # scikit-learn ships no types.
    from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]
    from sklearn.model_selection import StratifiedKFold  # type: ignore[import-untyped]
except ImportError as error:
    raise MissingExtraError(package="scikit-learn", extra="calibrate") from error

LEAST_LABELS = 30
"""Below this many labels agreement alone is the better gate."""

_STRENGTHS = (0.003, 0.01, 0.03, 0.1, 0.3)
_LEAST_SCALE = 0.05  # a feature that is nearly constant says nothing, however far one value lies
_FOLDS = 5


def fit_gate(gate: Gate, items: Sequence[LabelledDraft], *, skip_share: float = 0.25) -> Gate:
    """Return the gate with a model of "the stronger model would gain nothing".

    Calibrate it on other items: scores of the items it was fitted on are too good.

    Args:
        gate: How drafts are checked and who else is asked; a model it has is replaced.
        items: At least 30, with gains and without.
        skip_share: The share of drafts, the least promising ones, for which no second opinion and
            no judge is asked.

    Raises:
        ConfigurationError: There are too few labels, or all are alike.
    """
    if not 0 <= skip_share < 1:
        message = f"skip_share must be at least 0 and below 1, got {skip_share}"
        raise ConfigurationError(message)
    gains = sum(item.gains for item in items)
    if len(items) < LEAST_LABELS or not 1 < gains < len(items) - 1:
        message = (
            f"expected at least {LEAST_LABELS} labels, with and without a gain from the stronger "
            f"model, got {len(items)} with {gains} gains; use the gate without a model"
        )
        raise ConfigurationError(message)
    unfitted = replace(gate, model=None)
    verdicts = [unfitted.judge_again(item.draft) for item in items]
    # What a check declines never reaches the model.
    kept = [(v.features, item) for v, item in zip(verdicts, items, strict=True) if v.features]
    rows = [features for features, _ in kept]
    no_gain = np.array([not item.gains for _, item in kept])
    own = fit_logistic(rows, no_gain, names=OWN_FEATURES)
    if gate.second_opinion is None and gate.judged_by is None:
        model = GateModel(own=own, fitted_on=marks_of(item.question for item in items))
        return replace(gate, model=model)
    scores = sorted(own.score(row) for row in rows)
    model = GateModel(
        own=own,
        full=fit_logistic(rows, no_gain, names=list(rows[0])),
        ask_from=float(np.quantile(scores, skip_share)) if skip_share else 0.0,
        fitted_on=marks_of(item.question for item in items),
    )
    return replace(gate, model=model)


def fit_logistic(
    rows: Sequence[Mapping[str, float]], labels: NDArray[np.bool_], *, names: Sequence[str]
) -> LogisticModel:
    """Return a model of `labels`; its regularisation is chosen by cross-validation among the rows.

    Features that are the same in all rows are left out; where all are, it is the share of `labels`.
    """
    if labels.all() or not labels.any():
        message = f"expected labels of both kinds, got {len(labels)} of one"
        raise ConfigurationError(message)
    table = np.array([[row[name] for name in names] for row in rows], dtype=float)
    varies = table.std(axis=0) > 1e-9
    if not varies.any():
        right = float(labels.sum())
        intercept = math.log((right + 0.5) / (len(labels) - right + 0.5))
        return LogisticModel(names=(), means=(), scales=(), weights=(), intercept=intercept)
    table = table[:, varies]
    means = table.mean(axis=0)
    scales = np.maximum(table.std(axis=0), _LEAST_SCALE)
    scaled = np.clip((table - means) / scales, -5, 5)
    fitted = _fitted(scaled, labels, _best_strength(scaled, labels))
    return LogisticModel(
        names=tuple(name for name, kept in zip(names, varies, strict=True) if kept),
        means=tuple(map(float, means)),
        scales=tuple(map(float, scales)),
        weights=tuple(map(float, fitted.coef_[0])),
        intercept=float(fitted.intercept_[0]),
    )


def _best_strength(x: NDArray[Any], y: NDArray[np.bool_]) -> float:
    folds = min(_FOLDS, int(y.sum()), int((~y).sum()))
    if folds < 2:
        return _STRENGTHS[1]
    splits = list(StratifiedKFold(folds, shuffle=True, random_state=0).split(x, y))
    losses = []
    for strength in _STRENGTHS:
        loss = 0.0
        for learn, held in splits:
            chance = _fitted(x[learn], y[learn], strength).predict_proba(x[held])[:, 1]
            loss -= float(np.log(np.where(y[held], chance, 1 - chance)).sum())
        losses.append(loss)
    return _STRENGTHS[int(np.argmin(losses))]


def _fitted(x: NDArray[Any], y: NDArray[np.bool_], strength: float) -> Any:
    return LogisticRegression(C=strength, max_iter=500).fit(x, y)
