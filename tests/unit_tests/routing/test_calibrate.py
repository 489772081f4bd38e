"""Fitting, promising and saving: what may be promised, on which labels, and the command."""

import json
import math
import random
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langgraph.checkpoint.memory import InMemorySaver
from scipy.stats import binom

from langchain_tokenopt.cli import calibrate as command
from langchain_tokenopt.errors import ConfigurationError, LogFormatError
from langchain_tokenopt.reasoning.extract import number
from langchain_tokenopt.routing import Tier, create_cascade
from langchain_tokenopt.routing.agreement import SecondOpinion
from langchain_tokenopt.routing.calibrate import calibrate, split_labels
from langchain_tokenopt.routing.fit import fit_gate, fit_logistic
from langchain_tokenopt.routing.gate import Gate
from langchain_tokenopt.routing.gate_model import mark_of
from langchain_tokenopt.routing.labels import LabelledDraft, labelled, read_labels
from langchain_tokenopt.routing.policy import RoutingPolicy
from langchain_tokenopt.routing.risk import (
    labels_needed,
    least_escalated,
    losses_allowed,
    promise,
)
from langchain_tokenopt.testing import ScriptedModel

CENT = Decimal("0.01")


def label(n: int, *, weak: int, opinion: int, **more: Any) -> LabelledDraft:
    costs = {"weak_cost": CENT, "strong_cost": 20 * CENT, "gate_cost": CENT}
    return labelled(
        f"What is {n} + {n}?",
        f"{n} + {n} = {weak}",
        strong=f"It is {2 * n}",
        reader=number,
        opinions=[f"It is {opinion}"],
        **{**costs, **more},
    )


def labels(count: int, *, wrong: float = 0.3, seed: int = 0) -> list[LabelledDraft]:
    """Drafts of which a share is wrong, with a peer that mostly disagrees with the wrong ones."""
    draws = random.Random(seed)
    made = []
    for n in range(10, 10 + count):
        weak = 2 * n + 1 if draws.random() < wrong else 2 * n
        opinion = 2 * n if draws.random() < 0.8 else 2 * n + draws.choice([1, 3])
        made.append(label(n, weak=weak, opinion=opinion))
    return made


def peer_gate() -> Gate:
    # A replay asks no model: a call would exhaust the script.
    return Gate(reader=number, second_opinion=SecondOpinion(model=ScriptedModel(["unused"])))


# --- risk -----------------------------------------------------------------------------------------


@given(st.integers(0, 300), st.floats(0.005, 0.5), st.floats(0.01, 0.5))
def test_losses_allowed_with_confidence_are_those_of_the_exact_binomial_test(
    count: int, max_loss: float, delta: float
) -> None:
    allowed = losses_allowed(count, max_loss, delta=delta)

    if allowed >= 0:
        assert binom.cdf(allowed, count, max_loss) <= delta * (1 + 1e-9)
    if allowed < count:
        assert binom.cdf(allowed + 1, count, max_loss) > delta * (1 - 1e-9)


@given(
    st.lists(st.tuples(st.integers(0, 20), st.booleans()), max_size=60),
    st.floats(0.01, 0.6),
    st.none() | st.floats(0.05, 0.5),
)
def test_a_threshold_is_the_lowest_that_shows_no_more_losses_than_allowed(
    rows: list[tuple[int, bool]], max_loss: float, delta: float | None
) -> None:
    scores, losses = [s / 20 for s, _ in rows], [loss for _, loss in rows]
    made = promise(scores, losses, max_loss=max_loss, delta=delta)

    def losses_above(threshold: float) -> int:
        return sum(loss and s > threshold for s, loss in zip(scores, losses, strict=True))

    assert made.losses_seen == losses_above(made.threshold) <= max(made.losses_allowed, 0)
    lower = made.threshold - 1e-9
    if made.losses_allowed >= 0 and lower >= 0:
        assert losses_above(lower) > made.losses_allowed


@pytest.mark.parametrize("delta", [None, 0.1])
@pytest.mark.parametrize("max_loss", [0.05, 0.15])
def test_a_promise_holds_over_many_calibrations(max_loss: float, delta: float | None) -> None:
    # The score is uniform, and a draft of score s loses with the chance (1 - s) / 2.
    draws = random.Random(1)
    found = []
    for _ in range(2_000):
        scores = [draws.random() for _ in range(80)]
        losses = [draws.random() < (1 - score) / 2 for score in scores]
        threshold = promise(scores, losses, max_loss=max_loss, delta=delta).threshold
        found.append((1 - threshold) ** 2 / 4)

    if delta is None:
        mean = sum(found) / len(found)
        assert mean <= max_loss
        assert mean > max_loss * 0.7  # and is not bought by accepting next to nothing
    else:
        above = sum(loss > max_loss for loss in found) / len(found)
        assert above <= delta + 3 * math.sqrt(delta * (1 - delta) / len(found))


@pytest.mark.parametrize(
    ("max_loss", "delta", "needed"),
    [(0.02, 0.1, 114), (0.05, 0.1, 45), (0.05, None, 19), (0.02, None, 49)],
)
def test_the_labels_needed_are_the_fewest_that_allow_a_promise(
    max_loss: float, delta: float | None, needed: int
) -> None:
    assert labels_needed(max_loss, delta=delta) == needed
    assert losses_allowed(needed, max_loss, delta=delta) == 0
    assert losses_allowed(needed - 1, max_loss, delta=delta) == -1


def test_labels_needed_grow_with_the_losses_to_expect_and_end_where_there_are_too_many() -> None:
    few, more = (labels_needed(0.05, delta=0.1, loss_rate=rate) or 0 for rate in (0.0, 0.03))

    assert few < more
    assert labels_needed(0.05, delta=0.1, loss_rate=0.05) is None


def test_with_too_few_labels_nothing_is_promised_and_nothing_accepted() -> None:
    made = promise([1.0] * 18, [False] * 18, max_loss=0.05)

    assert not made.is_certified
    assert made.threshold == 1.0
    assert str(made) == "nothing can be promised with 18 labels; at least 19 are needed"


def test_a_gate_cannot_accept_more_than_the_losses_leave() -> None:
    assert least_escalated(0.3, 0.05) == pytest.approx(0.25 / 0.95)


@pytest.mark.parametrize(("max_loss", "delta"), [(0, None), (1.5, None), (0.05, 0), (0.05, 1)])
def test_shares_that_cannot_be_are_refused(max_loss: float, delta: float | None) -> None:
    with pytest.raises(ConfigurationError, match="shares between 0 and 1"):
        promise([0.5], [False], max_loss=max_loss, delta=delta)


def test_scores_outside_0_to_1_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="a score from 0 to 1"):
        promise([1.5], [False], max_loss=0.05)


# --- labels ---------------------------------------------------------------------------------------


def test_the_strong_answer_is_the_reference_where_none_is_given() -> None:
    right = labelled("2 + 2?", "4.0", strong="The answer is 4", reader=number)
    wrong = labelled("2 + 2?", "5", strong="The answer is 4", reader=number)

    assert (right.gains, wrong.gains) == (False, True)


def test_a_reference_says_who_was_right() -> None:
    both_wrong = labelled("2 + 2?", "5", strong="6", reference="4", reader=number)

    assert (both_wrong.weak_right, both_wrong.strong_right) == (False, False)
    assert not both_wrong.gains


def test_stated_correctness_needs_no_reader() -> None:
    assert labelled("A poem?", "roses", weak_right=False, strong_right=True).gains


def test_a_label_without_a_way_to_tell_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="cannot be told"):
        labelled("2 + 2?", "4", strong="4")
    with pytest.raises(ConfigurationError, match="no answer can be read from 'who knows'"):
        labelled("2 + 2?", "4", strong="who knows", reader=number)


def test_lines_that_are_no_labels_are_told_with_the_reason(tmp_path: Path) -> None:
    rows: list[Any] = [
        {"question": "2 + 2?", "weak": "4", "strong": "4", "weak_cost": 0.001},
        [1],
        {"question": "2 + 2?", "weak": 4, "strong": "4"},
        {"question": "2 + 2?", "weak": "4", "strong": "4", "weak_cost": -1},
        {"question": "2 + 2?", "weak": "4", "strong": "4", "judged": 2},
        {"question": "2 + 2?", "weak": "4", "strong": "4", "opinions": "4"},
        {"question": "2 + 2?", "weak": "4", "weak_correct": "yes", "strong": "4"},
    ]
    path = tmp_path / "labels.jsonl"
    path.write_text("\n".join([*map(json.dumps, rows), "{", ""]))

    found = read_labels(path, reader=number)

    assert [item.weak_cost for item in found.items] == [Decimal("0.001")]
    assert [problem.split(":")[0] for problem in found.problems] == [
        f"line {n}" for n in range(2, 9)
    ]


def test_a_file_without_labels_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "labels.jsonl"
    path.write_text("{}\n")

    with pytest.raises(LogFormatError, match=r"got none in .*; line 1: `question` must be a text"):
        read_labels(path, reader=number)


# --- fitting and calibrating ----------------------------------------------------------------------


def test_a_split_keeps_the_labels_of_a_question_together() -> None:
    items = [item for item in labels(60) for _ in range(2)]

    fitted, held = split_labels(items, fit_share=0.5)

    assert len(fitted) == len(held) == 60
    assert not {i.question for i in fitted} & {i.question for i in held}
    assert split_labels(items, fit_share=0.0)[0] == ()


def test_a_fitted_gate_ranks_drafts_without_a_gain_higher() -> None:
    fitted, held = split_labels(labels(300), fit_share=0.5)
    gate = fit_gate(peer_gate(), fitted)

    scores = [(gate.judge_again(item.draft).score, item.gains) for item in held]
    good = [score for score, gains in scores if not gains]
    bad = [score for score, gains in scores if gains]
    pairs = [g > b for g in good for b in bad]

    assert sum(pairs) / len(pairs) > 0.8


def test_a_fitted_gate_asks_no_opinion_on_the_least_promising_drafts() -> None:
    items = labels(200)
    # A hedge in the wrong drafts shows without an opinion.
    hedged = [
        replace(
            item,
            draft=replace(
                item.draft,
                attempt={**item.draft.attempt, "text": f"Perhaps {item.draft.attempt['text']}"},
            ),
        )
        if item.gains
        else item
        for item in items
    ]
    gate = fit_gate(peer_gate(), hedged, skip_share=0.25)
    verdicts = [gate.judge_again(item.draft) for item in hedged]

    spared = [v for v in verdicts if not v.opinions]
    assert 0 < len(spared) / len(verdicts) <= 0.25
    assert max(v.score for v in spared) < 0.5


def test_drafts_that_look_alike_are_all_given_an_opinion() -> None:
    # The drafts show nothing: only the peer tells them apart.
    items = [
        label(10 + n % 10, weak=20 + 2 * (n % 10), opinion=20 + 2 * (n % 10) + n % 2)
        for n in range(60)
    ]
    told = [replace(item, weak_right=n % 2 == 0) for n, item in enumerate(items)]
    gate = fit_gate(peer_gate(), told)

    assert all(gate.judge_again(item.draft).opinions for item in told)


def test_a_fit_is_refused_where_there_is_too_little_to_learn_from() -> None:
    with pytest.raises(ConfigurationError, match="at least 30 labels"):
        fit_gate(peer_gate(), labels(29))
    with pytest.raises(ConfigurationError, match="got 60 with 0 gains"):
        fit_gate(peer_gate(), labels(60, wrong=0.0))
    with pytest.raises(ConfigurationError, match="skip_share must be"):
        fit_gate(peer_gate(), labels(60), skip_share=1.0)


def test_a_feature_that_never_varies_is_left_out() -> None:
    import numpy as np

    rows = [{"says": float(n % 2), "same": 1.0} for n in range(40)]
    model = fit_logistic(rows, np.array([n % 2 == 0 for n in range(40)]), names=["says", "same"])

    assert model.names == ("says",)
    assert model.score({"says": 0.0}) > 0.5 > model.score({"says": 1.0})


def test_calibrating_on_labels_that_were_fitted_on_is_refused() -> None:
    items = labels(100)
    gate = fit_gate(peer_gate(), items[:60])

    with pytest.raises(ConfigurationError, match="10 of 50 labels are among those"):
        calibrate(gate, items[50:], max_loss=0.05)


def test_a_policy_cascades_where_it_pays_and_says_what_it_promised_on_what() -> None:
    fitted, held = split_labels(labels(400), fit_share=0.5)
    policy = calibrate(fit_gate(peer_gate(), fitted), held, max_loss=0.05, delta=0.1)

    assert policy.choice == "cascade"
    assert policy.promise.is_certified
    assert (policy.data.fitted, policy.data.calibrated, policy.data.labels) == (200, 200, 400)
    assert policy.gate_model is not None
    assert mark_of(fitted[0].question) in policy.gate_model.fitted_on
    share = policy.plan.best.cost_share
    assert share is not None
    assert share.high < 1


def test_where_nothing_can_be_promised_the_strong_model_is_asked_alone_and_it_says_why() -> None:
    policy = calibrate(peer_gate(), labels(40), max_loss=0.05, delta=0.1)

    assert policy.choice == "strong"
    assert policy.plan.reason == ("nothing can be promised with 40 labels; at least 45 are needed")
    assert not any(policy.accepts(peer_gate().judge_again(i.draft)) for i in labels(40))


def test_a_small_model_that_never_loses_is_asked_alone() -> None:
    policy = calibrate(peer_gate(), labels(60, wrong=0.0), max_loss=0.05)

    assert policy.choice == "weak"


def test_the_small_model_alone_is_not_advised_beyond_the_promise() -> None:
    few = labels(15, wrong=0.0)

    assert calibrate(peer_gate(), few, max_loss=0.05).choice == "strong"


def test_unknown_costs_are_told_and_not_taken_for_nothing() -> None:
    items = [replace(item, strong_cost=None) for item in labels(200)]
    policy = calibrate(peer_gate(), items, max_loss=0.05)

    assert policy.choice == "strong"
    assert "costs are not known" in policy.plan.reason
    assert all(option.cost is None for option in policy.plan.options)


def test_calibrating_without_labels_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="needs labels, got none"):
        calibrate(peer_gate(), [], max_loss=0.05)


# --- the file and the command ---------------------------------------------------------------------


def test_a_saved_policy_is_read_back_and_scores_the_same(tmp_path: Path) -> None:
    fitted, held = split_labels(labels(200), fit_share=0.5)
    gate = fit_gate(peer_gate(), fitted)
    policy = calibrate(gate, held, max_loss=0.1)
    policy.save(tmp_path / "policy.json")

    again = RoutingPolicy.load(tmp_path / "policy.json")

    assert again == policy
    assert (tmp_path / "policy.json").read_text() == policy.as_json()
    reloaded = replace(peer_gate(), model=again.gate_model)
    for item in held:
        verdict = reloaded.judge_again(item.draft)
        assert verdict == gate.judge_again(item.draft)
        assert again.accepts(verdict) == policy.accepts(verdict)


async def test_a_saved_policy_decides_in_a_cascade_and_a_checkpoint_keeps_its_reasons(
    tmp_path: Path,
) -> None:
    fitted, held = split_labels(labels(400), fit_share=0.5)
    calibrate(fit_gate(peer_gate(), fitted), held, max_loss=0.05).save(tmp_path / "policy.json")
    policy = RoutingPolicy.load(tmp_path / "policy.json")
    peer = ScriptedModel(["It is 80", "It is 82"])
    gate = replace(peer_gate(), second_opinion=SecondOpinion(model=peer), model=policy.gate_model)
    small, large = ScriptedModel(["40 + 40 = 80", "41 + 41 = 83"]), ScriptedModel(["It is 82"])
    tiers = [
        Tier("small", small, gate=gate, threshold=policy.promise.threshold),
        Tier("large", large),
    ]
    graph: Any = create_cascade(tiers).compile(checkpointer=InMemorySaver())
    thread: Any = {"configurable": {"thread_id": "1"}}

    for question, answer, asked in (("40 + 40?", "80", 0), ("41 + 41?", "82", 1)):
        messages = {"messages": [("user", f"What is {question}")]}
        state = await graph.ainvoke(messages, thread)
        assert state["answer"].text.endswith(answer)
        assert large.calls == asked

    kept = (await graph.aget_state(thread)).values["attempts"]
    assert [attempt["accepted"] for attempt in kept] == [False, True]
    assert "needed more than" in kept[0]["reason"]


@pytest.mark.parametrize("text", ["", "[]", '{"version": 2}', '{"plan": null}'])
def test_a_file_that_is_no_policy_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "policy.json"
    path.write_text(text)

    with pytest.raises(ConfigurationError, match="write one with `tokenopt calibrate`"):
        RoutingPolicy.load(path)


def rows_of(items: list[LabelledDraft]) -> list[dict[str, Any]]:
    return [
        {
            "question": item.question,
            "weak": item.draft.attempt["text"],
            "strong_correct": item.strong_right,
            "weak_correct": item.weak_right,
            "opinions": list(item.draft.opinions),
            "weak_cost": str(item.weak_cost),
            "strong_cost": str(item.strong_cost),
            "gate_cost": str(item.gate_cost),
        }
        for item in items
    ]


def run(arguments: list[str]) -> int:
    import argparse

    parser = argparse.ArgumentParser()
    command.add_to(parser.add_subparsers())
    chosen = parser.parse_args(["calibrate", *arguments])
    return int(chosen.run(chosen))


@pytest.fixture
def label_file(tmp_path: Path) -> Path:
    path = tmp_path / "labels.jsonl"
    path.write_text("\n".join(map(json.dumps, rows_of(labels(300)))) + "\n[]\n")
    return path


def test_the_command_prints_plan_and_promise_and_writes_the_policy(
    label_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "policy.json"

    status = run([str(label_file), "--answers", "number", "--output", str(output)])

    told = capsys.readouterr().out
    assert status == 0
    assert "cascade (advised)" in told
    assert "promise: at most 5.0% of requests lose quality, on average" in told
    assert "not read, line 301: expected an object, got list" in told
    assert RoutingPolicy.load(output).choice == "cascade"


def test_the_command_prints_the_policy_as_json(
    label_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run([str(label_file), "--answers", "number", "--format", "json", "--delta", "10%"])

    assert json.loads(capsys.readouterr().out)["promise"]["delta"] == 0.1


def test_the_command_says_how_many_labels_are_needed_and_returns_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "labels.jsonl"
    path.write_text("\n".join(map(json.dumps, rows_of(labels(40)))))

    status = run([str(path), "--answers", "number", "--max-loss", "2%", "--delta", "10%"])

    assert status == 1
    assert "labels needed if none of them is a loss: 114" in capsys.readouterr().out


def test_the_command_refuses_labels_that_it_can_learn_nothing_from(tmp_path: Path) -> None:
    path = tmp_path / "labels.jsonl"
    rows = [{**row, "opinions": []} for row in rows_of(labels(40))]
    path.write_text("\n".join(map(json.dumps, rows)))

    with pytest.raises(ConfigurationError, match="20 labels are too few to fit a gate on"):
        run([str(path), "--answers", "number"])
    with pytest.raises(ConfigurationError, match="expected number, boolean, text or option"):
        run([str(path), "--answers", "colour"])


def test_the_command_reads_choices_and_shows_the_first_bad_lines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "labels.jsonl"
    rows = [json.dumps(row) for row in rows_of(labels(120))]
    choices = [
        {
            **json.loads(row), "question": f"A or B? ({n})", "weak_answer": "Answer: A",
            "strong_answer": "Answer: A", "opinions": ["Answer: A"], "strong_beats_weak": False,
        }
        for n, row in enumerate(rows)
    ]  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in choices) + "{broken\n" * 13)

    run([str(path), "--answers", "option:AB", "--max-loss", "50%"])

    told = capsys.readouterr().out
    assert told.count("not read, line ") == 10
    assert "not read: 3 lines more" in told
    assert "any gate must escalate" not in told
