"""From labels to a policy: fit on some of them, promise on others, plan by what it would cost."""

import hashlib
import random
from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal

from langchain_tokenopt.errors import ConfigurationError
from langchain_tokenopt.routing.gate import Gate, GateVerdict
from langchain_tokenopt.routing.gate_model import mark_of, marks_of
from langchain_tokenopt.routing.labels import LabelledDraft
from langchain_tokenopt.routing.planner import Choice, Outcome, plan_cascade
from langchain_tokenopt.routing.policy import DataNote, RoutingPolicy
from langchain_tokenopt.routing.risk import promise
from langchain_tokenopt.routing.router import GainRouter


def split_labels(
    items: Sequence[LabelledDraft], *, fit_share: float = 0.5, seed: int = 0
) -> tuple[tuple[LabelledDraft, ...], tuple[LabelledDraft, ...]]:
    """Return labels to fit on and labels to calibrate on; a question's labels stay together.

    Args:
        items: The labels.
        fit_share: The share of questions to fit on, at least 0 and below 1.
        seed: Of the draw.
    """
    if not 0 <= fit_share < 1:
        message = f"fit_share must be at least 0 and below 1, got {fit_share}"
        raise ConfigurationError(message)
    marks = list(marks_of(item.question for item in items))
    random.Random(seed).shuffle(marks)  # noqa: S311 - a draw of a sample, not a secret
    fitted = frozenset(marks[: round(fit_share * len(marks))])
    return (
        tuple(item for item in items if mark_of(item.question) in fitted),
        tuple(item for item in items if mark_of(item.question) not in fitted),
    )


def calibrate(
    gate: Gate,
    items: Sequence[LabelledDraft],
    *,
    max_loss: float,
    delta: float | None = None,
    router: GainRouter | None = None,
) -> RoutingPolicy:
    """Return the policy that keeps a promised loss on requests like the labelled ones.

    Where nothing can be promised, or a cascade does not pay, the policy's choice is the strong
    model alone, so no draft is paid for. The labels must be independent draws of the traffic: a
    promise made on easy questions does not hold for hard ones.

    Args:
        gate: The gate as it will be used, with its model if it has one.
        items: Labels that the gate's model was not fitted on.
        max_loss: The share of requests whose accepted draft is worse than the strong answer.
        delta: The chance that the share is higher; `None` bounds its mean over calibrations.
        router: Kept with the policy. What it sends to the strong model at once is no loss, so the
            promise holds with it; the plan is that of the cascade without it.

    Raises:
        ConfigurationError: There are no labels, or the gate or router was fitted on some of them.
    """
    if not items:
        raise ConfigurationError("calibration needs labels, got none")
    fitted = gate.model.fitted_on if gate.model is not None else ()
    known = {*fitted, *(router.fitted_on if router is not None else ())}
    seen = [item for item in items if mark_of(item.question) in known]
    if seen:
        message = (
            f"{len(seen)} of {len(items)} labels are among those that the gate or router was "
            "fitted on, so scores on them are too good; split them with split_labels"
        )
        raise ConfigurationError(message)
    verdicts = [gate.judge_again(item.draft) for item in items]
    gains = [item.gains for item in items]
    made = promise([verdict.score for verdict in verdicts], gains, max_loss=max_loss, delta=delta)
    outcomes = [
        outcome_of(item, verdict, threshold=made.threshold)
        for item, verdict in zip(items, verdicts, strict=True)
    ]
    # The small model alone accepts every draft: the promise must allow that.
    among: tuple[Choice, ...] = (
        ("weak", "cascade") if sum(gains) <= made.losses_allowed else ("cascade",)
    )
    plan = plan_cascade(outcomes, among=among)
    if plan.choice == "strong" and not made.is_certified:
        plan = replace(plan, reason=str(made))
    marks = marks_of(item.question for item in items)
    return RoutingPolicy(
        plan=plan,
        promise=made,
        gate_model=gate.model,
        data=DataNote(
            labels=len(items) + len(fitted),
            fitted=len(fitted),
            calibrated=len(items),
            loss_rate=sum(gains) / len(gains),
            mark=hashlib.sha256("".join(marks).encode()).hexdigest()[:16],
        ),
        router=router,
    )


def outcome_of(item: LabelledDraft, verdict: GateVerdict, *, threshold: float) -> Outcome:
    """Return what a label's request would have cost, and whether its draft is accepted.

    A gate that stops early pays for the opinions it asked for, not for all recorded ones.
    """
    gate_cost = item.gate_cost
    recorded = len(item.draft.opinions) + (item.draft.judged is not None)
    asked = len(verdict.opinions) + (verdict.judged is not None)
    if asked == 0:
        gate_cost = Decimal(0)
    elif gate_cost is not None:
        gate_cost = gate_cost * asked / recorded
    return Outcome(
        weak_quality=float(item.weak_right),
        strong_quality=float(item.strong_right),
        weak_cost=item.weak_cost,
        strong_cost=item.strong_cost,
        gate_cost=gate_cost,
        accepted=verdict.score > threshold,
    )
