"""Is the promised loss kept, what does it cost, and does the planner refuse what cannot pay?

A loss is an accepted draft that is wrong where the strong answer is right. Risk control promises
its mean over calibrations, learn then test that it exceeds the promise in at most a share delta of
them. Both are about the traffic that the labels were drawn from, so "whole set" draws labels from
the set with replacement and takes the set for the traffic. "Other questions" draws them without and
looks at the rest, which holds more losses wherever the labels hold fewer: for learn then test this
is harder than what is promised. A share of 10% of 300 draws has a standard error of 1.7 points.

The gate is scored without labels (the peer's agreement) or was fitted on 100 further questions that
take no part. Quality lost and cost are of the other questions; where the policy is not to cascade,
the strong model is asked alone and the cost is 100%, else every draft and opinion is billed.

RouterArena's pair is also given to the check for a model that dominates, and a small model that is
hopeless (every draft wrong) to the planner. Needs `--data` or TOKENOPT_DATA.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path

import numpy as np
from measure import data_arguments, has_recorded, json_rows, table
from recorded.cascades import STRONG, WEAK, gsm8k

from langchain_tokenopt.reasoning.extract import number
from langchain_tokenopt.routing.agreement import SecondOpinion
from langchain_tokenopt.routing.calibrate import outcome_of
from langchain_tokenopt.routing.fit import fit_gate
from langchain_tokenopt.routing.gate import Gate
from langchain_tokenopt.routing.labels import LabelledDraft
from langchain_tokenopt.routing.planner import (
    Measured,
    Outcome,
    dominating,
    plan_cascade,
)
from langchain_tokenopt.routing.risk import promise
from langchain_tokenopt.routing.router import fit_router
from langchain_tokenopt.testing import ScriptedModel

LABELS = 200
DELTA = 0.1
HAIKU, FLASH = "claude-3-haiku-20240307", "gemini-2.0-flash-001"


@dataclass(frozen=True)
class Scored:
    """A request with the score of its draft; its outcome's `accepted` is set by a threshold."""

    score: float
    outcome: Outcome

    @property
    def gains(self) -> bool:
        """Whether the strong model is better."""
        return self.outcome.strong_quality > self.outcome.weak_quality


def main() -> None:
    """Print three tables."""
    given = data_arguments(__doc__)
    if not has_recorded(given.data, "cascade"):
        return
    draws = 15 if given.quick else 300
    items = gsm8k(given.data)
    sets = {
        "GSM8K, peer's agreement": scored(_gate(), items),
        "GSM8K, fitted gate": fitted(items),
        "MMLU, fitted router": mmlu(given.data),
        "GSM8K, hopeless small model": hopeless(scored(_gate(), items)),
        "RouterArena, haiku first": arena(given.data),
    }
    shown = []
    for name, requests in sets.items():
        for max_loss in (0.05,) if given.quick else (0.02, 0.05, 0.1):
            shown += [[name, *kept(requests, max_loss, d, draws)] for d in (None, DELTA)]
    head = [
        "set", "promise", "loss, whole set", "draws above", "loss, other questions", "draws above",
        "cascades", "quality lost", "cost",
    ]  # fmt: skip
    table(f"{draws} draws of {LABELS} labels", head, shown)
    recommend(sets, given.data)


def kept(requests: Sequence[Scored], max_loss: float, delta: float | None, draws: int) -> list[str]:
    """Return how a promise was kept over the draws, with 95% intervals over them."""
    rest, whole, qualities, costs, cascades = [], [], [], [], 0
    for draw in range(draws):
        rng = np.random.default_rng(draw)
        again = [requests[n] for n in rng.integers(0, len(requests), LABELS)]
        whole.append(loss_of(requests, threshold_of(again, max_loss, delta)))
        order = rng.permutation(len(requests))
        labels, others = ([requests[n] for n in part] for part in np.split(order, [LABELS]))
        threshold = threshold_of(labels, max_loss, delta)
        # The promise is about the threshold, so it is judged even where a cascade does not pay.
        rest.append(loss_of(others, threshold))
        cascade = plan_cascade(outcomes(labels, threshold)).choice == "cascade"
        cascades += cascade
        quality, cost = played(others, threshold if cascade else 1.0, cascade=cascade)
        qualities.append(quality)
        costs.append(cost)
    return [
        f"{max_loss:.0%}, {'mean' if delta is None else f'but for {delta:.0%}'}",
        f"{np.mean(whole):.2%}",
        f"{np.mean(np.array(whole) > max_loss):.1%}",
        f"{np.mean(rest):.2%}",
        f"{np.mean(np.array(rest) > max_loss):.1%}",
        f"{cascades / draws:.0%}",
        _percent(qualities),
        _percent(costs),
    ]


def threshold_of(labels: Sequence[Scored], max_loss: float, delta: float | None) -> float:
    """Return the threshold that labels promise a loss at."""
    scores, gains = [each.score for each in labels], [each.gains for each in labels]
    return promise(scores, gains, max_loss=max_loss, delta=delta).threshold


def loss_of(requests: Sequence[Scored], threshold: float) -> float:
    """Return the share of requests that lose."""
    return sum(each.gains and each.score > threshold for each in requests) / len(requests)


def outcomes(requests: Sequence[Scored], threshold: float) -> list[Outcome]:
    """Return what the requests come to at a threshold."""
    return [replace(each.outcome, accepted=each.score > threshold) for each in requests]


def played(requests: Sequence[Scored], threshold: float, *, cascade: bool) -> tuple[float, float]:
    """Return the quality lost against the strong model, and the share of its cost."""
    lost = cost = strong = 0.0
    for each in outcomes(requests, threshold):
        strong_cost = float(each.strong_cost or 0)
        strong += strong_cost
        if cascade:
            cost += float(each.weak_cost or 0) + float(each.gate_cost or 0)
        if each.accepted:
            lost += each.strong_quality - each.weak_quality
        else:
            cost += strong_cost
    return lost / len(requests), cost / strong


def _gate() -> Gate:
    # No call is made: opinions were recorded.
    return Gate(reader=number, second_opinion=SecondOpinion(model=ScriptedModel(["unused"])))


def scored(gate: Gate, items: Sequence[LabelledDraft]) -> list[Scored]:
    """Return drafts with the scores of a gate."""
    found = []
    for item in items:
        verdict = gate.judge_again(item.draft)
        found.append(Scored(verdict.score, outcome_of(item, verdict, threshold=1.0)))
    return found


def fitted(items: Sequence[LabelledDraft]) -> list[Scored]:
    """Return all but 100 drafts with the scores of a gate fitted on those."""
    order = np.random.default_rng(0).permutation(len(items))
    gate = fit_gate(_gate(), [items[n] for n in order[:100]])
    return scored(gate, [items[n] for n in order[100:]])


def mmlu(data: Path) -> list[Scored]:
    """Return questions with a router's scores, each billed as if it were drafted all the same.

    Answers were not recorded: billed are the question, 100 tokens of prompt, and 1 for the answer.
    """
    read = list(json_rows(data / "cascade/mmlu_dev.jsonl.gz"))
    gains = [float(row["correct"][STRONG]) - float(row["correct"][WEAK]) for row in read]
    questions = [row["question"] for row in read]
    router = fit_router(questions[:1_000], gains[:1_000])
    found = []
    for row, score in zip(read[1_000:], router.scores(questions[1_000:]), strict=True):
        tokens = 101 + row["in_tokens"]
        outcome = Outcome(
            weak_quality=float(row["correct"][WEAK]),
            strong_quality=float(row["correct"][STRONG]),
            weak_cost=Decimal("0.5") * tokens / 1_000_000,
            strong_cost=Decimal(10) * tokens / 1_000_000,
            gate_cost=Decimal(0),
            accepted=False,
        )
        found.append(Scored(score, outcome))
    return found


def hopeless(requests: Sequence[Scored]) -> list[Scored]:
    """Return the requests as if every draft were wrong."""
    return [replace(r, outcome=replace(r.outcome, weak_quality=0.0)) for r in requests]


def arena(data: Path) -> list[Scored]:
    """Return claude-3-haiku's drafts before gemini-2.0-flash, scored by their length."""
    found = []
    for row in json_rows(data / "cascade/routerarena_dev.jsonl.gz"):
        weak, strong = row["models"][HAIKU], row["models"][FLASH]
        outcome = Outcome(
            weak_quality=float(weak["score"]),
            strong_quality=float(strong["score"]),
            weak_cost=Decimal(str(weak["cost"])),
            strong_cost=Decimal(str(strong["cost"])),
            gate_cost=Decimal(0),
            accepted=False,
        )
        found.append(Scored(1 / (1 + len(weak["samples"][0])), outcome))
    return found


def recommend(sets: dict[str, list[Scored]], data: Path) -> None:
    """Print what the planner says of each set as a whole, and which single model dominates."""
    shown = []
    for name, requests in sets.items():
        made = promise([e.score for e in requests], [e.gains for e in requests], max_loss=0.05)
        plan = plan_cascade(outcomes(requests, made.threshold))
        best = plan.best
        shown.append([name, plan.choice, str(best.quality), str(best.cost_share), plan.reason])
    head = ["set", "advice", "quality", "cost, of the strong model's", "reason"]
    table("What the planner advises at a mean loss of 5%, on whole sets", head, shown)
    models = {
        model: [
            Measured(
                float(row["models"][model]["score"]), Decimal(str(row["models"][model]["cost"]))
            )
            for row in json_rows(data / "cascade/routerarena_dev.jsonl.gz")
        ]
        for model in (HAIKU, FLASH)
    }
    table("Which single model dominates", ["pair", "dominating"], [
        [f"{HAIKU}, {FLASH}", str(dominating(models))]
    ])  # fmt: skip


def _percent(values: Sequence[float]) -> str:
    low, high = np.quantile(values, (0.025, 0.975))
    return f"{np.mean(values):.1%} ({low:.1%} to {high:.1%})"


if __name__ == "__main__":
    main()
