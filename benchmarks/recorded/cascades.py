"""Recorded answers of a small and a strong model as labelled drafts, and measures of a router.

Prices are dollars for a million tokens, input and output, at the time of the models. A request of
GSM8K is counted with 100 tokens of prompt around the question, in every call.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
from measure import json_rows
from numpy.typing import NDArray

from langchain_tokenopt.reasoning.extract import number
from langchain_tokenopt.routing.labels import LabelledDraft, labelled

WEAK, STRONG, PEER = "mixtral-8x7b", "gpt-4-1106-preview", "gpt3-175b_finetuning"
PRICES = {WEAK: ("0.5", "1.5"), STRONG: ("10", "30"), PEER: ("0.5", "1.5")}
PROMPT_TOKENS = 100


@dataclass(frozen=True)
class Quality:
    """How well a score ranks drafts, and what that is worth."""

    auroc: float
    """Of "the draft is right"."""
    apgr: float
    """Mean share of the gap in quality that is recovered, over all shares of strong calls."""
    cost_80: float
    """Share of the strong model's cost at which 80% of the gap is recovered, all calls billed."""
    cost_95: float


def gsm8k(data: Path) -> tuple[LabelledDraft, ...]:
    """Return Mixtral's drafts beside gpt-4-1106, graded from the texts, with one peer's opinion."""
    return tuple(
        labelled(
            row["question"],
            _said(row, WEAK),
            strong=_said(row, STRONG),
            reference=row["gold"],
            reader=number,
            opinions=[_said(row, PEER)],
            weak_cost=_cost(row, WEAK),
            strong_cost=_cost(row, STRONG),
            gate_cost=_cost(row, PEER),
        )
        for row in json_rows(data / "cascade/gsm8k_dev.jsonl.gz")
    )


def _said(row: Any, model: str) -> str:
    return str(row["models"][model]["samples"][0])


def _cost(row: Any, model: str) -> Decimal:
    into, out = map(Decimal, PRICES[model])
    recorded = row["models"][model]
    tokens = PROMPT_TOKENS + row["in_tokens"]
    return (into * tokens + out * recorded["out_tokens"][0]) / 1_000_000


def quality(
    scores: Sequence[float],
    *,
    weak: NDArray[Any],
    strong: NDArray[Any],
    costs: NDArray[Any],
    paid: NDArray[Any],
    rng: np.random.Generator,
) -> Quality:
    """Return what ranking by `scores` is worth; the lowest go to the strong model first.

    Args:
        scores: Of drafts; ties are broken at random.
        weak: Whether each draft is right.
        strong: Whether each strong answer is.
        costs: Of the strong answers.
        paid: For each draft and what the gate asked, whether it is accepted or not.
        rng: Breaks ties.
    """
    order = np.lexsort((rng.random(len(scores)), np.asarray(scores)))
    gains = np.concatenate([[0.0], np.cumsum((strong.astype(float) - weak)[order])])
    recovered = gains / gains[-1]
    cost = (paid.sum() + np.concatenate([[0.0], np.cumsum(costs[order])])) / costs.sum()
    return Quality(
        auroc=_auroc(order, weak),
        apgr=float(np.trapezoid(recovered, dx=1 / len(order))),
        cost_80=float(cost[np.argmax(recovered >= 0.8)]),
        cost_95=float(cost[np.argmax(recovered >= 0.95)]),
    )


def _auroc(order: NDArray[Any], weak: NDArray[Any]) -> float:
    right = weak[order].astype(bool)
    wrong_below = np.cumsum(~right)[right].sum()
    return float(wrong_below / (right.sum() * (~right).sum()))
