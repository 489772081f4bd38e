"""Forecasts of spend and of the length of answers: intervals, odd histories, and bad input."""

import argparse
import json
import math
import random
import sqlite3
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, HumanMessage

from langchain_tokenopt.accounting import CallRecord, Usage, UsageLedger
from langchain_tokenopt.advisor.forecast import (
    SpendSeries,
    forecast,
    forecast_all,
    spend_by_feature,
)
from langchain_tokenopt.advisor.log import LoggedCall
from langchain_tokenopt.advisor.output_length import (
    OutputExample,
    OutputLengthModel,
    PromptFacts,
    examples_of_ledger,
    examples_of_log,
    facts_of,
    measure_output_length,
)
from langchain_tokenopt.advisor.output_length_fit import LEAST, fit_output_length
from langchain_tokenopt.cli import forecast as command
from langchain_tokenopt.errors import ConfigurationError, LedgerFileError, MissingExtraError

MONDAY = date(2026, 1, 5)
WEEK = (20.0, 21.0, 22.0, 21.0, 20.0, 8.0, 7.0)


def series(amounts: Sequence[float | None], **changes: Any) -> SpendSeries:
    return SpendSeries(
        name="faq",
        begins=MONDAY,
        amounts=tuple(None if a is None else Decimal(f"{a:.6f}") for a in amounts),
        **changes,
    )


def weekly(days: int, *, seed: int = 0, noise: float = 0.1) -> list[float]:
    drawn = random.Random(seed)
    return [WEEK[day % 7] * drawn.lognormvariate(0, noise) for day in range(days)]


def test_a_weekly_pattern_goes_on() -> None:
    found = forecast(series(weekly(42)), days=7)

    assert found.method == "local level with a pattern of 7 days"
    assert found.days[0].day == MONDAY + timedelta(days=42)
    assert all(day.low <= day.expected <= day.high for day in found.days)
    assert [float(day.expected) for day in found.days] == pytest.approx(WEEK, rel=0.25)
    assert found.low < 119 < found.high


def test_intervals_hold_about_as_often_as_they_say() -> None:
    held, days = 0, 0
    for seed in range(15):
        amounts = weekly(42, seed=seed, noise=0.2)
        found = forecast(series(amounts[:35]), days=7, confidence=0.8)
        for day, real in zip(found.days, amounts[35:], strict=True):
            held += float(day.low) <= real <= float(day.high)
            days += 1

    assert 0.7 < held / days < 0.93


def test_a_shift_of_level_is_followed() -> None:
    amounts = [value * (3 if day >= 28 else 1) for day, value in enumerate(weekly(49))]

    found = forecast(series(amounts), days=7)

    assert 2 * 119 < found.expected < 4 * 119


def test_gaps_are_no_zero_days() -> None:
    amounts: list[float | None] = list(weekly(42))
    with_gaps = [None if day % 5 == 3 else value for day, value in enumerate(amounts)]
    with_zeros = [0.0 if day % 5 == 3 else value for day, value in enumerate(amounts)]

    gaps, zeros = (forecast(series(each), days=7) for each in (with_gaps, with_zeros))

    assert float(gaps.expected) == pytest.approx(119, rel=0.15)
    assert zeros.expected < gaps.expected
    assert zeros.high - zeros.low > gaps.high - gaps.low


def test_a_short_history_says_that_no_pattern_is_known() -> None:
    found = forecast(series(weekly(10)), days=7)

    assert found.method == "local level"
    assert "too short for a pattern of 7 days" in str(found)


def test_two_weeks_with_a_gap_still_show_a_weekly_pattern() -> None:
    amounts: list[float | None] = list(weekly(14, noise=0.02))
    amounts[3] = amounts[8] = None

    found = forecast(series(amounts), days=7)

    assert found.method == "local level with a pattern of 7 days"
    assert [float(day.expected) for day in found.days] == pytest.approx(WEEK, rel=0.2)


def test_days_that_are_all_alike_give_no_false_certainty() -> None:
    found = forecast(series([2.0] * 20), days=3)

    assert found.expected == Decimal("6.000000")
    assert "the interval says nothing" in str(found)


def test_a_feature_that_costs_nothing_is_forecast_as_nothing() -> None:
    assert forecast(series([0.0] * 20), days=3).high == 0


def test_unpriced_calls_are_told() -> None:
    found = forecast(series(weekly(21), unpriced_calls=3), days=7)

    assert "3 calls of unknown price are not in it" in str(found)


@settings(max_examples=20)
@given(
    amounts=st.lists(st.one_of(st.none(), st.floats(0, 1e5)), min_size=12, max_size=30).filter(
        lambda some: sum(a is not None for a in some) >= 7
    )
)
def test_any_history_gives_ordered_amounts_of_zero_or_more(amounts: list[float | None]) -> None:
    found = forecast(series(amounts), days=3)

    for day in found.days:
        assert 0 <= day.low <= day.expected <= day.high
    assert 0 <= found.low <= found.expected <= found.high


@pytest.mark.parametrize("wrong", [{"days": 0}, {"confidence": 1.0}, {"season": 1}])
def test_a_forecast_that_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="expected days"):
        forecast(series(weekly(21)), **wrong)


@pytest.mark.parametrize("amounts", [[1.0] * 6, [None] * 30, [1.0] * 6 + [-1.0]])
def test_a_history_that_says_nothing_is_refused(amounts: list[float | None]) -> None:
    with pytest.raises(ConfigurationError, match="expected"):
        forecast(series(amounts))


def test_a_missing_library_is_told_with_the_line_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "statsmodels.tsa.statespace", None)

    with pytest.raises(MissingExtraError, match=r"langchain-tokenopt\[forecast\]"):
        forecast(series(weekly(21)))


def record(day: int, *, feature: str | None, cost: str | None, **changes: Any) -> CallRecord:
    given: dict[str, Any] = {
        "run_id": uuid4(),
        "started_at": datetime(2026, 1, 5, 12, tzinfo=UTC) + timedelta(days=day),
        "kind": "live",
        "model": "gpt-5-mini",
        "usage": Usage(plain_input=10, output=5),
        "cost": None if cost is None else Decimal(cost),
        "latency_s": 1.0,
        "feature": feature,
    }
    return CallRecord(**{**given, **changes})


def test_days_without_calls_cost_nothing_and_gaps_are_unknown() -> None:
    records = [
        record(0, feature="faq", cost="1"),
        record(0, feature="faq", cost="0.5"),
        record(3, feature="faq", cost=None),
        record(1, feature=None, cost="2"),
    ]
    gap = MONDAY + timedelta(days=2)

    found = spend_by_feature(records, until=MONDAY + timedelta(days=5), gaps=[gap])

    assert found["faq"].amounts == (Decimal("1.5"), Decimal(0), None, Decimal(0), Decimal(0))
    assert found["faq"].unpriced_calls == 1
    assert found[""].begins == MONDAY + timedelta(days=1)
    assert len(found[""].amounts) == 4


def test_features_with_too_little_history_are_named_not_forecast() -> None:
    report = forecast_all({"faq": series(weekly(21)), "new": series([1.0, 2.0])}, days=7)

    assert list(report.forecasts) == ["faq"]
    assert report.skipped["new"].startswith("2 days of history")
    assert "new: no forecast" in str(report)


def run(*arguments: str) -> Any:
    parser = argparse.ArgumentParser()
    command.add_to(parser.add_subparsers(required=True))
    chosen = parser.parse_args(["forecast", *arguments])
    return chosen.run(chosen)


def test_the_command_reads_a_ledger_and_agrees_with_the_api(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "ledger.db"
    with UsageLedger(path) as ledger:
        for day, amount in enumerate(weekly(28)):
            ledger.append(record(day, feature="faq", cost=f"{amount:.6f}"))
        ledger.append(record(27, feature="new", cost="1"))
    until = (MONDAY + timedelta(days=28)).isoformat()

    report = run(str(path), "--days", "7", "--until", until)

    assert report.forecasts["faq"] == forecast(series(weekly(28)), days=7)
    shown = capsys.readouterr().out
    assert "estimated" in shown
    assert "new: no forecast" in shown
    run(str(path), "--days", "7", "--until", until, "--format", "json", "--gap", "2026-01-10")
    read = json.loads(capsys.readouterr().out)
    assert Decimal(read["forecasts"]["faq"]["expected"]) > 0
    with pytest.raises(LedgerFileError):
        run(str(tmp_path / "none.db"))


def test_a_ledger_of_which_nothing_can_be_forecast_says_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "ledger.db"
    with UsageLedger(path) as ledger:
        ledger.append(record(9, feature="new", cost="1"))
    first = MONDAY.isoformat()
    assert run(str(path), "--until", first).forecasts == {}
    assert "0 days of history are too few" in capsys.readouterr().out
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("DELETE FROM calls")
        connection.execute("DELETE FROM rollup")
    run(str(path), "--until", first)
    assert "no calls before today: nothing to forecast" in capsys.readouterr().out

    with UsageLedger(path) as ledger:
        ledger.append(record(0, feature="new", cost="1"))
    report = run(str(path), "--until", (MONDAY + timedelta(days=2)).isoformat())

    shown = capsys.readouterr().out
    assert "new: no forecast, " in shown
    assert "median" not in shown
    assert list(report.skipped) == ["new"]


def test_spend_that_never_changes_is_forecast_to_stay() -> None:
    found = forecast(series([5.0] * 28), days=7)

    assert float(found.low) == pytest.approx(35, rel=0.02)
    assert float(found.high) == pytest.approx(35, rel=0.02)


def example(n: int, *, drawn: random.Random) -> OutputExample:
    model = ("small", "large")[n % 2]
    asks = ("Answer in one word: is it so?", "Explain step by step why it is so.")[n // 2 % 2]
    length = {"small": 20, "large": 200}[model] * (1 if "word" in asks else 4)
    return OutputExample(
        facts=PromptFacts(
            input_tokens=10 + n % 50, model=model, feature="faq", text=f"{asks} Case {n}."
        ),
        output_tokens=max(round(length * drawn.lognormvariate(0, 0.2)), 1),
    )


def examples(count: int, *, seed: int = 0) -> list[OutputExample]:
    drawn = random.Random(seed)
    return [example(n, drawn=drawn) for n in range(count)]


def test_what_prompts_ask_for_and_who_answers_are_learned() -> None:
    found = fit_output_length(examples(600))

    def typical(model: str, text: str) -> int:
        facts = PromptFacts(input_tokens=30, model=model, feature="faq", text=text)
        return found.predict(facts).typical

    brief = "Answer in one word: is it so? Case 9."
    long = "Explain step by step why it is so. Case 9."
    assert 15 < typical("small", brief) < 30
    assert 600 < typical("large", long) < 1_100
    assert typical("small", long) > 2 * typical("small", brief)


def test_intervals_of_new_calls_hold_as_often_as_they_say_and_beat_what_is_typical() -> None:
    known, new = examples(600), examples(400, seed=1)

    measured = measure_output_length(fit_output_length(known, confidence=0.9), new)

    middle = sorted(each.output_tokens for each in known)[300]
    naive = math.fsum(abs(each.output_tokens - middle) for each in new) / len(new)
    assert 0.85 < measured.covered < 0.96
    assert measured.mean_error < naive / 3


def test_a_group_that_was_never_seen_still_gets_an_estimate() -> None:
    found = fit_output_length(examples(200))

    estimate = found.predict(PromptFacts(input_tokens=5, model="new", feature="new"))

    assert 0 <= estimate.low <= estimate.typical <= estimate.high
    assert "estimated" in str(estimate)


@pytest.fixture(scope="module")
def fitted() -> OutputLengthModel:
    return fit_output_length(examples(80))


@given(most=st.integers(1, 5_000), tokens=st.integers(0, 10**7), text=st.text())
def test_an_estimate_never_exceeds_max_tokens(
    fitted: OutputLengthModel, most: int, tokens: int, text: str
) -> None:
    facts = PromptFacts(input_tokens=tokens, model="large", text=text, max_tokens=most)

    estimate = fitted.predict(facts)

    assert 0 <= estimate.low <= estimate.typical <= estimate.high <= most


def test_a_model_read_from_its_file_predicts_the_same(tmp_path: Path) -> None:
    found = fit_output_length(examples(200))
    found.save(tmp_path / "model.json")

    read = OutputLengthModel.load(tmp_path / "model.json")

    assert read == found
    assert json.loads(found.as_json())["version"] == 1
    for each in examples(20, seed=3):
        assert read.predict(each.facts) == found.predict(each.facts)


def test_a_file_that_holds_something_else_is_refused(tmp_path: Path) -> None:
    found = fit_output_length(examples(80))
    tree = found.low.trees[0]
    loops = replace(tree, left=(0,) * len(tree.left), right=(0,) * len(tree.right))
    broken = replace(found, low=replace(found.low, trees=(loops,)))
    path = tmp_path / "model.json"

    with pytest.raises(ConfigurationError, match="which cannot be read"):
        OutputLengthModel.load(path)
    path.write_text('{"version": 1}')
    with pytest.raises(ConfigurationError, match=r"an output length model in .*\.json, got"):
        OutputLengthModel.load(path)
    broken.save(path)
    with pytest.raises(ConfigurationError, match="a tree is broken"):
        OutputLengthModel.load(path)


@pytest.mark.parametrize(
    ("count", "wrong"),
    [
        (LEAST - 1, {}),
        (LEAST, {"confidence": 0.99}),
        (LEAST, {"confidence": 1.0}),
        (LEAST, {"fit_share": 0.0}),
    ],
)
def test_too_few_examples_and_wrong_shares_are_refused(count: int, wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        fit_output_length(examples(count), **wrong)


def test_the_same_prompt_many_times_is_no_evidence_of_other_prompts() -> None:
    with pytest.raises(ConfigurationError, match="different prompts"):
        fit_output_length([examples(1)[0]] * 200)


def test_measuring_nothing_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="no examples"):
        measure_output_length(fit_output_length(examples(80)), [])


def test_a_log_teaches_its_answered_calls() -> None:
    usage: Any = {"input_tokens": 7, "output_tokens": 3, "total_tokens": 10}
    call = LoggedCall(
        id="1",
        line=1,
        model="gpt-5-mini",
        messages=(HumanMessage("Why?"),),
        answer=AIMessage("So.", usage_metadata=usage),
        parameters={"max_tokens": 50},
        metadata={"feature": "faq"},
    )

    found = list(
        examples_of_log([call, replace(call, answer=None), replace(call, error="RateLimit")])
    )

    assert [each.output_tokens for each in found] == [3]
    facts = found[0].facts
    assert (facts.input_tokens, facts.max_tokens, facts.feature) == (7, 50, "faq")
    asked = facts_of(call.messages, model="gpt-5-mini", feature="faq", max_tokens=50)
    assert (asked.text, asked.group) == (facts.text, facts.group)


def test_a_ledger_teaches_its_live_calls_whose_usage_was_reported() -> None:
    records = [
        record(0, feature="faq", cost="1", model_asked="gpt-5-mini", tags=("template:faq@2",)),
        record(0, feature="faq", cost="0", kind="cache_hit"),
        record(0, feature="faq", cost="1", estimated=True),
        record(0, feature="faq", cost="1", kind="error", usage=Usage()),
    ]

    (found,) = examples_of_ledger(records)

    assert found.output_tokens == 5
    assert found.facts.group == "faq\ngpt-5-mini\nfaq@2"
