"""How well does a gate tell, from the draft, where the strong model would gain something?

GSM8K, Mixtral 8x7B first and gpt-4-1106 after it; both graded from their texts. Every draft is
paid for, and so is every second opinion, one call of a fine-tuned gpt3-175b (34% right by itself).
A fitted gate learns from that many labels drawn at random and is measured on all other questions;
figures are means over the draws. Intervals are 95% over draws of labels and of questions together.
cascadeflow's gate of its LangChain integration (1.2.0) is in the table if it is installed. Needs
`--data` or TOKENOPT_DATA.
"""

import importlib
from collections.abc import Callable, Sequence
from dataclasses import astuple

import numpy as np
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from measure import data_arguments, has_recorded, table
from recorded.cascades import Quality, gsm8k, quality

from langchain_tokenopt.reasoning.extract import number
from langchain_tokenopt.routing.agreement import SecondOpinion
from langchain_tokenopt.routing.calibrate import outcome_of
from langchain_tokenopt.routing.fit import fit_gate
from langchain_tokenopt.routing.gate import Gate
from langchain_tokenopt.routing.labels import LabelledDraft
from langchain_tokenopt.testing import ScriptedModel

Score = Callable[[LabelledDraft], tuple[float, float]]
"""Returns a draft's score and what the gate paid for it."""


def main() -> None:
    """Print one table."""
    given = data_arguments(__doc__)
    if not has_recorded(given.data, "cascade"):
        return
    items = gsm8k(given.data)
    draws = 3 if given.quick else 40
    alone = Gate(reader=number)
    # No call is made: opinions were recorded.
    peer = Gate(reader=number, second_opinion=SecondOpinion(model=ScriptedModel(["unused"])))
    ways: list[tuple[str, list[tuple[Quality, Quality]]]] = [
        ("random", measured(lambda _: (0.0, 0.0), items, draws)),
        ("question length", measured(lambda item: (-len(item.question), 0.0), items, draws)),
        *cascadeflow(items, draws),
        ("peer agrees, no labels", measured(scorer(peer), items, draws)),
    ]
    for labels in (100,) if given.quick else (50, 100, 200):
        ways.append((f"draft alone, {labels} labels", fitted(alone, items, labels, draws)))
        ways.append((f"with the peer, {labels} labels", fitted(peer, items, labels, draws)))
    head = ["gate", "AUROC", "APGR", "cost at 80% of the gap", "cost at 95%"]
    title = f"GSM8K, {len(items)} questions, {draws} draws"
    table(title, head, [[name, *shown(found)] for name, found in ways])


def scorer(gate: Gate) -> Score:
    """Return the gate as a function of recorded drafts."""

    def score(item: LabelledDraft) -> tuple[float, float]:
        verdict = gate.judge_again(item.draft)
        paid = outcome_of(item, verdict, threshold=0.5).gate_cost
        return verdict.score, float(paid or 0)

    return score


def fitted(
    gate: Gate, items: Sequence[LabelledDraft], labels: int, draws: int
) -> list[tuple[Quality, Quality]]:
    """Fit on labels drawn at random and measure on the others, as often as there are draws."""
    found = []
    for draw in range(draws):
        order = np.random.default_rng(draw).permutation(len(items))
        learnt = fit_gate(gate, [items[n] for n in order[:labels]])
        found += measured(scorer(learnt), [items[n] for n in order[labels:]], 1, seed=draw)
    return found


def measured(
    score: Score, items: Sequence[LabelledDraft], draws: int, *, seed: int = 0
) -> list[tuple[Quality, Quality]]:
    """Return for each draw the quality on the items, and on as many drawn from them again."""
    scores, paid = np.array([score(item) for item in items]).T
    columns = {
        "weak": np.array([item.weak_right for item in items]),
        "strong": np.array([item.strong_right for item in items]),
        "costs": np.array([float(item.strong_cost or 0) for item in items]),
        "paid": paid + np.array([float(item.weak_cost or 0) for item in items]),
    }
    found = []
    for draw in range(draws):
        rng = np.random.default_rng(1_000 * seed + draw)
        again = rng.integers(0, len(items), len(items))
        whole = quality(scores, **columns, rng=rng)
        resampled = {name: column[again] for name, column in columns.items()}
        found.append((whole, quality(scores[again], **resampled, rng=rng)))
    return found


def cascadeflow(
    items: Sequence[LabelledDraft], draws: int
) -> list[tuple[str, list[tuple[Quality, Quality]]]]:
    """Return the peer's gate measured, nothing if it is not installed."""
    try:
        theirs = importlib.import_module("cascadeflow.integrations.langchain.utils")
    except ImportError as error:
        print(f"cascadeflow is not in the table: {error}")
        return []

    def score(item: LabelledDraft) -> tuple[float, float]:
        message = AIMessage(item.draft.attempt["text"])
        result = ChatResult(generations=[ChatGeneration(message=message)])
        return theirs.calculate_quality(result), 0.0

    return [("cascadeflow's LangChain gate", measured(score, items, draws))]


def shown(found: Sequence[tuple[Quality, Quality]]) -> list[str]:
    """Return each figure's mean with its interval."""
    means = np.array([astuple(whole) for whole, _ in found]).mean(axis=0)
    drawn = np.array([astuple(again) for _, again in found])
    low, high = np.quantile(drawn, (0.025, 0.975), axis=0)
    cells = []
    for column, (mean, least, most) in enumerate(zip(means, low, high, strict=True)):
        form = "{:.3f} ({:.3f} to {:.3f})" if column < 2 else "{:.1%} ({:.1%} to {:.1%})"
        cells.append(form.format(mean, least, most))
    return cells


if __name__ == "__main__":
    main()
