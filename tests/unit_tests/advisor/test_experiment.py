"""A/B tests: who gets what, what a branch does, and what may be concluded when."""

import argparse
import asyncio
import math
import random
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, TypedDict
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, interrupt

from langchain_tokenopt.accounting import CallRecord, Price, Usage, UsageLedger
from langchain_tokenopt.advisor.experiment import (
    COST,
    ERRORS,
    LATENCY,
    QUALITY,
    Experiment,
    ExperimentBranch,
    Metric,
)
from langchain_tokenopt.advisor.experiment_log import ExperimentLog
from langchain_tokenopt.advisor.experiment_plan import plan_experiment
from langchain_tokenopt.advisor.experiment_results import read_experiment, stop_breaches
from langchain_tokenopt.advisor.experiment_tests import (
    AsymptoticDifference,
    BoundedDifference,
    Contrast,
    DifferenceTest,
    share_mismatch,
)
from langchain_tokenopt.cli import experiment as command
from langchain_tokenopt.errors import ConfigurationError, StoreError
from langchain_tokenopt.testing import ScriptedModel

AB = Experiment(name="faq", shares={"long": 1, "short": 1}, control="long")
KEYS = [f"user {n}" for n in range(4_000)]


def at_price(**_: Any) -> Price:
    return Price(input=Decimal(1), output=Decimal(10), source="made for the test")


def branch_of(experiment: Experiment = AB, **changes: Any) -> ExperimentBranch[Any, Any]:
    variants = {
        name: ScriptedModel([f"this is {name}"], when_exhausted="cycle")
        for name in experiment.shares
    }
    return ExperimentBranch(experiment, **{"variants": variants, **changes})


def of(thread: str, **metadata: Any) -> RunnableConfig:
    return {"configurable": {"thread_id": thread}, "metadata": metadata}


def test_shares_are_met_and_need_not_add_up_to_one() -> None:
    experiment = replace(AB, shares={"long": 3, "short": 1})

    got = [experiment.assign(key) for key in KEYS].count("short") / len(KEYS)

    assert abs(got - 0.25) < 4 * math.sqrt(0.25 * 0.75 / len(KEYS))


@given(
    key=st.text(min_size=1),
    before=st.floats(0.01, 10),
    after=st.floats(0.01, 10),
    other=st.floats(0.01, 10),
)
def test_a_changed_share_moves_keys_only_to_or_from_that_variant(
    key: str, before: float, after: float, other: float
) -> None:
    shares = {"a": before, "b": other, "c": 1.0}
    old = Experiment(name="x", shares=shares, control="c")
    new = replace(old, shares={**shares, "a": after})

    was, now = old.assign(key), new.assign(key)

    assert was == now or (now == "a" if after > before else was == "a")


def test_another_salt_and_another_name_draw_anew() -> None:
    same = [
        sum(AB.assign(key) == other.assign(key) for key in KEYS) / len(KEYS)
        for other in (replace(AB, salt="2"), replace(AB, name="other"))
    ]

    assert all(0.45 < share < 0.55 for share in same)


@pytest.mark.parametrize(
    "wrong",
    [
        {"shares": {"long": 1}},
        {"shares": {"long": 1, "short": -1}},
        {"shares": {"long": 1, "short": math.nan}},
        {"shares": {"long": 0, "short": 1}},
        {"shares": {"long": 1, "a=b": 1}},
        {"control": "medium"},
        {"name": ""},
        {"metrics": ()},
        {"metrics": (COST, COST)},
        {"confidence": 1.0},
        {"least_share": 0.6},
    ],
)
def test_an_experiment_that_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        replace(AB, **wrong)


def test_a_branch_needs_a_runnable_for_each_variant() -> None:
    with pytest.raises(ConfigurationError, match="expected a runnable for each"):
        branch_of(variants={"long": ScriptedModel(["x"])})


def test_a_branch_says_what_is_missing_when_nobody_is_named() -> None:
    with pytest.raises(ConfigurationError, match="experiment_key"):
        branch_of().invoke("Why?")


def test_a_thread_keeps_its_variant_and_the_ledger_tells_it() -> None:
    ledger, branch = UsageLedger(), branch_of()

    texts = {branch.invoke("Why?", {**of("7"), "callbacks": [ledger]}).text for _ in range(5)}

    variant = AB.assign("7")
    assert texts == {f"this is {variant}"}
    assert all(f"experiment:faq={variant}" in record.tags for record in ledger.records())
    assert len({tag for r in ledger.records() for tag in r.tags if tag[:8] == "request:"}) == 5


async def test_async_stream_and_batch_give_the_variant_that_invoke_gives() -> None:
    branch = branch_of()
    wanted = branch.invoke("Why?", of("7")).text

    assert (await branch.ainvoke("Why?", of("7"))).text == wanted
    chunks = list(branch.stream("Why?", of("7")))
    assert len(chunks) > 1
    assert "".join(chunk.text for chunk in chunks) == wanted
    assert "".join([chunk.text async for chunk in branch.astream("Why?", of("7"))]) == wanted
    assert [answer.text for answer in branch.batch(["a", "b"], of("7"))] == [wanted] * 2


async def test_a_chain_streams_through_a_branch() -> None:
    chain = ChatPromptTemplate.from_template("{question}") | branch_of() | StrOutputParser()

    chunks = [chunk async for chunk in chain.astream({"question": "Why?"}, of("7"))]

    assert len(chunks) > 1
    assert "".join(chunks) == f"this is {AB.assign('7')}"


async def test_many_at_once_are_each_assigned_once(tmp_path: Path) -> None:
    log = ExperimentLog(tmp_path / "log.db")
    branch = branch_of(log=log)

    await asyncio.gather(*(branch.ainvoke("Why?", of(key)) for key in KEYS[:60]))

    found = {each.request: each.variant for each in log.assignments("faq")}
    assert len(found) == 60
    assert sorted(found.values()) == sorted(AB.assign(key) for key in KEYS[:60])
    log.close()


async def test_a_cancelled_call_leaves_no_task_behind() -> None:
    entered = asyncio.Event()

    async def never_ends(question: str) -> str:
        entered.set()
        await asyncio.Event().wait()
        return question

    branch = branch_of(variants={"long": never_ends, "short": never_ends})
    task = asyncio.create_task(branch.ainvoke("Why?", of("7")))
    await entered.wait()

    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert asyncio.all_tasks() == {asyncio.current_task()}


def test_an_error_of_the_model_reaches_the_caller_and_counts_as_one() -> None:
    ledger = UsageLedger()
    experiment = replace(AB, metrics=(ERRORS,))
    failing = ScriptedModel([ValueError("down")], when_exhausted="cycle")
    fine = ScriptedModel(["x"], when_exhausted="cycle")
    branch = branch_of(experiment, variants={"long": fine, "short": failing})

    for key in KEYS[:40]:
        if experiment.assign(key) == "short":
            with pytest.raises(ValueError, match="down"):
                branch.invoke("Why?", {**of(key), "callbacks": [ledger]})
        else:
            branch.invoke("Why?", {**of(key), "callbacks": [ledger]})

    (found,) = read_experiment(branch.log, "faq", ledger=ledger).comparisons
    assert (found.mean, found.control_mean) == (1.0, 0.0)
    assert found.keys == [experiment.assign(key) for key in KEYS[:40]].count("short")


class State(TypedDict, total=False):
    question: str
    drafted: str
    answer: str


def test_a_graph_resumed_from_its_checkpoint_goes_on_with_its_variant() -> None:
    branch = branch_of()

    def draft(state: State, config: RunnableConfig) -> State:
        return {"drafted": branch.invoke(state["question"], config).text}

    def approve(state: State) -> State:
        return {"answer": interrupt("fine?")}

    def finish(state: State, config: RunnableConfig) -> State:
        return {"answer": branch.invoke(state["question"], config).text}

    def graph(saver: InMemorySaver) -> Any:
        builder = StateGraph(State)
        builder.add_node("draft", draft)
        builder.add_node("approve", approve)
        builder.add_node("finish", finish)
        builder.add_edge(START, "draft")
        builder.add_edge("draft", "approve")
        builder.add_edge("approve", "finish")
        builder.add_edge("finish", END)
        return builder.compile(checkpointer=saver)

    saver, config = InMemorySaver(), of("7", request_id="one")
    graph(saver).invoke({"question": "Why?"}, config)
    state = graph(saver).invoke(Command(resume="yes"), config)

    assert state["drafted"] == state["answer"] == f"this is {AB.assign('7')}"
    assert len(list(branch.log.assignments("faq"))) == 1


def filled(
    experiment: Experiment, rates: dict[str, float], *, n: int = 3_000, seed: int = 0
) -> ExperimentLog:
    log, drawn = ExperimentLog(), random.Random(seed)
    branch = branch_of(experiment, log=log)
    for key in range(n):
        variant = experiment.assign(str(key))
        branch._choose("Why?", of(str(key), request_id=str(key)))
        log.outcome(str(key), quality=float(drawn.random() < rates[variant]))
    return log


def test_a_better_variant_wins_and_the_table_says_so() -> None:
    log = filled(AB, {"long": 0.6, "short": 0.8})

    results = read_experiment(log, "faq")

    (found,) = results.comparisons
    assert found.verdict == "better"
    assert 0 < found.interval.low < 0.2 < found.interval.high
    assert results.winner == "short"
    assert results.breaches() == {}
    assert "quality" in str(results)
    assert "better" in str(results)


def test_equal_variants_stay_open() -> None:
    results = read_experiment(filled(AB, {"long": 0.7, "short": 0.7}), "faq")

    assert results.comparisons[0].verdict == "open"
    assert results.winner is None


def test_a_worse_variant_is_stopped_by_its_guard_and_the_control_serves_its_keys() -> None:
    log = filled(AB, {"long": 0.9, "short": 0.5}, n=1_000)
    results = read_experiment(log, "faq")

    stopped = stop_breaches(log, results)

    assert list(stopped) == ["short"]
    ledger, branch = UsageLedger(), branch_of(log=log)
    key = next(key for key in KEYS if AB.assign(key) == "short")
    answer = branch.invoke("Why?", {**of(key), "callbacks": [ledger]})
    assert answer.text == "this is long"
    assert not any(tag.startswith("experiment:") for r in ledger.records() for tag in r.tags)
    again = read_experiment(log, "faq")
    assert again.breaches() == {}
    assert "short was stopped: quality is worse" in str(again)
    assert again.is_sound


def test_a_guard_on_cost_stops_what_costs_more_than_it_allows() -> None:
    cost = replace(COST, guard=0.0)
    experiment = replace(AB, metrics=(QUALITY, cost))
    ledger = UsageLedger(prices=at_price)
    brief = ScriptedModel(["yes"], when_exhausted="cycle")
    wordy = ScriptedModel(["yes and so on at length"], when_exhausted="cycle")
    branch = branch_of(experiment, variants={"long": brief, "short": wordy})
    for key in KEYS[:400]:
        branch.invoke("Why?", {**of(key), "callbacks": [ledger]})

    results = read_experiment(branch.log, "faq", ledger=ledger)

    (found,) = [each for each in results.comparisons if each.metric == cost]
    assert found.is_breach
    assert found.interval.low > 0
    assert list(results.breaches()) == ["short"]
    assert sum(results.spent.values()) == ledger.totals().cost


def test_requests_of_unknown_price_are_told_and_in_no_mean() -> None:
    ledger, branch = UsageLedger(), branch_of()
    branch.invoke("Why?", {**of("7"), "callbacks": [ledger]})

    results = read_experiment(branch.log, "faq", ledger=ledger)

    assert results.unpriced == 1
    assert all(each.keys == 0 for each in results.comparisons if each.metric == COST)
    assert "no known price" in str(results)


def test_only_the_first_outcome_of_a_key_counts() -> None:
    branch = branch_of()
    for n in range(3):
        branch.invoke("Why?", of("7", request_id=f"r{n}"))
        assert branch.log.outcome(f"r{n}", quality=1.0 if n == 0 else 0.0)

    (found, *_) = read_experiment(branch.log, "faq").comparisons

    mean = found.mean if AB.assign("7") == "short" else found.control_mean
    assert mean == 1.0


def test_an_outcome_is_kept_once_and_one_of_nobody_is_told() -> None:
    branch = branch_of()
    branch.invoke("Why?", of("7", request_id="r"))

    assert branch.log.outcome("r", quality=0.0)
    assert branch.log.outcome("r", quality=1.0)
    assert branch.log.outcomes("faq", "quality") == [("r", 0.0)]
    assert not branch.log.outcome("unknown", quality=1.0)
    wrong: list[Any] = [math.nan, "good", 10**400, None]
    for value in wrong:
        with pytest.raises(ConfigurationError, match="finite"):
            branch.log.outcome("r", quality=value)


def test_lost_assignments_are_noticed_and_nothing_is_concluded() -> None:
    full = filled(AB, {"long": 0.5, "short": 0.9})
    log = ExperimentLog()
    log.begin("faq", full.definitions()["faq"])
    lost = 0
    for each in full.assignments("faq"):
        lost += each.variant == "short"
        if each.variant == "short" and lost % 4 == 0:
            continue
        log.assigned(each)
        log.outcome(each.request, quality=float(each.variant == "short"))

    results = read_experiment(log, "faq")

    assert not results.is_sound
    assert results.winner is None
    assert "NOT SOUND" in str(results)
    assert stop_breaches(log, results) == {}


def test_shares_that_change_are_no_mismatch_and_leave_the_difference_unbiased() -> None:
    first = replace(AB, least_share=0.1)
    log = filled(first, {"long": 0.6, "short": 0.8}, n=1_500)
    later = replace(first, shares={"long": 8, "short": 2})
    branch, drawn = branch_of(later, log=log), random.Random(1)
    for key in range(1_500, 4_000):
        branch._choose("Why?", of(str(key), request_id=str(key)))
        rate = 0.8 if later.assign(str(key)) == "short" else 0.6
        log.outcome(str(key), quality=float(drawn.random() < rate))

    results = read_experiment(log, "faq")

    assert results.is_sound
    interval = results.comparisons[0].interval
    assert interval.low < 0.2 < interval.high


def test_a_running_experiment_cannot_become_another_one() -> None:
    log = ExperimentLog()
    branch_of(log=log)

    for changed in (
        replace(AB, metrics=(COST,)),
        replace(AB, salt="x"),
        replace(AB, control="short"),
        replace(AB, shares={"long": 1, "short": 1, "third": 1}),
        replace(AB, shares={"long": 9, "short": 1}),
    ):
        with pytest.raises(ConfigurationError, match="give it another name"):
            branch_of(changed, log=log)


def test_a_log_in_a_file_outlives_its_process_and_keeps_no_key(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    log = ExperimentLog(path)
    branch_of(log=log).invoke("Why?", of("alice@example.org", request_id="r"))
    log.close()

    again = ExperimentLog(path)
    assert [each.request for each in again.assignments("faq")] == ["r"]
    again.close()
    assert b"alice" not in path.read_bytes()


def test_a_file_that_is_no_log_is_told(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    path.write_text("this is no database, and long enough to be seen as none " * 20)

    with pytest.raises(StoreError, match=r"log\.db failed"):
        ExperimentLog(path).definitions()


def test_results_of_an_unknown_experiment_name_those_there_are() -> None:
    branch = branch_of()

    with pytest.raises(ConfigurationError, match="it has faq"):
        read_experiment(branch.log, "other")


def stream_of(seed: int, *, n: int, effect: float) -> Iterator[Contrast]:
    drawn = random.Random(seed)
    for _ in range(n):
        arm = drawn.random() < 0.5
        rate = 0.7 + effect * arm
        yield Contrast(value=float(drawn.random() < rate), of_variant=arm, share=0.5)


def excludes(test: DifferenceTest, truth: float) -> bool:
    return not test.interval.low <= truth <= test.interval.high


@pytest.mark.parametrize("make", [BoundedDifference, AsymptoticDifference])
def test_looking_after_every_outcome_does_not_break_the_promise(make: Any) -> None:
    broken = 0
    for seed in range(60):
        test = make(confidence=0.9)
        outcomes = stream_of(seed, n=500, effect=0.1)
        broken += any((test.observe(each), excludes(test, 0.1))[1] for each in outcomes)

    # At most 10% of 60; 13 or more would come about by chance in 1 of 200 runs.
    assert broken < 13


@pytest.mark.parametrize("make", [BoundedDifference, AsymptoticDifference])
def test_a_difference_is_found(make: Any) -> None:
    test = make()
    for each in stream_of(0, n=2_000, effect=0.2):
        test.observe(each)

    assert 0 < test.interval.low < 0.2 < test.interval.high


@given(
    values=st.lists(st.tuples(st.floats(0, 1), st.booleans()), max_size=60),
    share=st.floats(0.2, 0.5),
)
def test_a_bounded_interval_stays_within_what_is_possible(
    values: list[tuple[float, bool]], share: float
) -> None:
    test = BoundedDifference(least_share=0.2)
    for value, arm in values:
        test.observe(Contrast(value=value, of_variant=arm, share=share))

    assert -1 <= test.interval.low <= test.interval.high <= 1


def test_nothing_is_said_of_unbounded_values_before_there_are_enough() -> None:
    test = AsymptoticDifference(least=100)
    for n in range(99):
        test.observe(Contrast(value=float(n), of_variant=bool(n % 2), share=0.5))

    assert test.interval.low == -math.inf


@pytest.mark.parametrize("value", [math.nan, math.inf, 2.0])
def test_values_out_of_bounds_are_refused(value: float) -> None:
    with pytest.raises(ConfigurationError, match="expected"):
        BoundedDifference().observe(Contrast(value=value, of_variant=True, share=0.5))
    if not math.isfinite(value):
        with pytest.raises(ConfigurationError, match="finite"):
            AsymptoticDifference().observe(Contrast(value=value, of_variant=True, share=0.5))


def test_a_share_below_the_promised_one_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"share of at least 0\.5"):
        BoundedDifference().observe(Contrast(value=1.0, of_variant=True, share=0.4))


@given(st.integers(0, 2_000), st.integers(0, 2_000))
def test_a_mismatch_is_a_p_value(a: int, b: int) -> None:
    assert 0 <= share_mismatch({"a": a, "b": b}, {"a": 1, "b": 1}) <= 1


def test_a_variant_that_was_to_get_nothing_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="no share is given for c"):
        share_mismatch({"a": 1, "c": 1}, {"a": 1, "b": 1})


def test_peeking_costs_requests_and_rarer_effects_cost_more() -> None:
    small, large = (plan_experiment(effect=e, deviation=0.4) for e in (0.02, 0.1))

    assert large.fixed_requests < large.requests < small.requests
    many = plan_experiment(effect=0.1, deviation=0.4, comparisons=4)
    assert many.requests > large.requests


@pytest.mark.parametrize(
    "wrong",
    [
        {"effect": 0.0}, {"deviation": 0.0}, {"share": 1.0}, {"power": 0.0}, {"comparisons": 0},
        {"requests_a_day": 0.0}, {"effect": 1e-9},
    ],
)  # fmt: skip
def test_a_plan_that_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        plan_experiment(**{"effect": 0.1, "deviation": 0.4, **wrong})


def run(*arguments: str) -> Any:
    parser = argparse.ArgumentParser()
    command.add_to(parser.add_subparsers(required=True))
    chosen = parser.parse_args(["experiment", *arguments])
    return chosen.run(chosen)


def test_the_command_plans(capsys: pytest.CaptureFixture[str]) -> None:
    run("plan", "--effect", "0.05", "--rate", "0.8", "--requests-a-day", "1000")
    assert "requests" in capsys.readouterr().out

    with pytest.raises(ConfigurationError, match="--rate between"):
        run("plan", "--effect", "0.05", "--rate", "2")


def test_the_command_shows_stops_and_ends_with_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log, ledger = ExperimentLog(tmp_path / "log.db"), UsageLedger(tmp_path / "ledger.db")
    branch = branch_of(log=log)
    for key in KEYS[:300]:
        branch.invoke("Why?", {**of(key, request_id=key), "callbacks": [ledger]})
        log.outcome(key, quality=float(AB.assign(key) == "long"))
    ledger.close()
    files = (str(tmp_path / "log.db"), "--ledger", str(tmp_path / "ledger.db"))

    assert run("show", *files) == 1
    assert "to be stopped: short" in capsys.readouterr().out
    assert log.stopped("faq") == {}
    assert run("show", *files, "--stop") == 1
    assert "latency_s" in capsys.readouterr().out
    assert list(log.stopped("faq")) == ["short"]
    assert run("show", *files) == 0
    log.close()
    with pytest.raises(ConfigurationError, match="a file that exists"):
        run("show", str(tmp_path / "none.db"))


def test_a_metric_of_ones_own_and_delayed_outcomes_are_compared() -> None:
    stars = Metric(name="stars", better="higher", low=1, high=5)
    experiment = replace(AB, metrics=(stars, LATENCY))
    branch = branch_of(experiment)
    for key in KEYS[:400]:
        branch._choose("Why?", of(key, request_id=key))
    for key in reversed(KEYS[:400]):
        branch.log.outcome(key, stars=5.0 if experiment.assign(key) == "short" else 1.0)

    (found,) = read_experiment(branch.log, "faq").comparisons

    assert found.verdict == "better"
    assert (found.mean, found.control_mean) == (5.0, 1.0)
    assert found.interval.low > 3


def test_of_several_better_variants_the_one_with_the_largest_sure_gain_wins() -> None:
    experiment = replace(AB, shares={"long": 1, "short": 1, "terse": 1, "none": 0})
    assert "none" not in {experiment.assign(key) for key in KEYS}

    log = filled(experiment, {"long": 0.3, "short": 0.6, "terse": 0.9})

    results = read_experiment(log, "faq")
    verdicts = {each.variant: each.verdict for each in results.comparisons}
    assert verdicts == {"short": "better", "terse": "better", "none": "open"}
    assert results.winner == "terse"


def test_a_branch_tells_the_types_of_its_control() -> None:
    branch, model = branch_of(), ScriptedModel(["x"])

    assert branch.InputType == model.InputType
    assert branch.OutputType == model.OutputType


@pytest.mark.parametrize(
    "make",
    [
        lambda: BoundedDifference(low=1, high=1),
        lambda: BoundedDifference(least_share=0.6),
        lambda: AsymptoticDifference(least=1),
        lambda: AsymptoticDifference(confidence=0.0),
    ],
)
def test_a_test_that_cannot_be_is_refused(make: Any) -> None:
    with pytest.raises(ConfigurationError):
        make()


def booked_call(request: str, variant: str, **fields: Any) -> CallRecord:
    given = {
        "run_id": uuid4(), "started_at": datetime(2026, 11, 20, tzinfo=UTC), "kind": "live",
        "model": "gpt-5", "usage": Usage(plain_input=10), "cost": Decimal(1), "latency_s": 1.0,
        "tags": (f"experiment:faq={variant}", f"request:{request}"), **fields,
    }  # fmt: skip
    return CallRecord(**given)


def test_a_request_of_several_calls_ends_with_its_last_and_costs_them_all() -> None:
    log, ledger = ExperimentLog(), UsageLedger()
    experiment = replace(AB, metrics=(COST, ERRORS, LATENCY))
    branch = branch_of(experiment, log=log)
    start = datetime(2026, 11, 20, tzinfo=UTC)
    for key in KEYS[:40]:
        branch._choose("Why?", of(key, request_id=key))
        variant = experiment.assign(key)
        late = start + timedelta(seconds=9)
        # Written in the order in which they ended in the ledger, not in that of their starts.
        ledger.append(booked_call(key, variant, started_at=late))
        ledger.append(booked_call(key, variant, kind="error", cost=Decimal(0)))
    ledger.append(booked_call("of another log", "long", cost=Decimal(1_000)))
    ledger.append(booked_call("x", "long", cost=Decimal(1_000), tags=("request:x",)))

    results = read_experiment(log, "faq", ledger=ledger)
    by_metric = {each.metric.name: each for each in results.comparisons}

    assert by_metric[COST.name].mean == by_metric[COST.name].control_mean == 1.0
    assert by_metric[ERRORS.name].mean == 0.0
    assert by_metric[LATENCY.name].mean == 10.0
    assert sum(results.spent.values()) == 40


def test_requests_that_failed_have_no_latency_and_unpriced_ones_no_cost() -> None:
    log, ledger = ExperimentLog(), UsageLedger()
    experiment = replace(AB, metrics=(COST, ERRORS, LATENCY))
    branch = branch_of(experiment, log=log)
    for key in KEYS[:40]:
        branch._choose("Why?", of(key, request_id=key))
        for kind in ("live", "error"):
            at = datetime(2026, 11, 20, 0, 0, len(kind), tzinfo=UTC)
            call = booked_call(key, experiment.assign(key), kind=kind, cost=None, started_at=at)
            ledger.append(call)

    results = read_experiment(log, "faq", ledger=ledger)
    by_metric = {each.metric.name: each for each in results.comparisons}

    assert by_metric[ERRORS.name].mean == 1.0
    assert by_metric[LATENCY.name].mean is None
    assert by_metric[COST.name].mean is None


def test_a_log_may_be_closed_twice_and_is_opened_again(tmp_path: Path) -> None:
    log = ExperimentLog(tmp_path / "log.db")
    branch_of(log=log).invoke("Why?", of("a user"))
    for _ in range(2):
        log.close()

    assert list(log.definitions()) == ["faq"]
    log.close()


def test_the_command_plans_by_a_deviation_and_shows_without_a_ledger(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("plan", "--effect", "0.05", "--deviation", "0.4")
    by_deviation = capsys.readouterr().out
    run("plan", "--effect", "0.05", "--rate", "0.8")
    assert capsys.readouterr().out.split()[0] == by_deviation.split()[0]

    log = ExperimentLog(tmp_path / "log.db")
    log.definitions()
    with pytest.raises(ConfigurationError, match="no experiment in"):
        run("show", str(tmp_path / "log.db"))
    branch = branch_of(log=log)
    for key in KEYS[:20]:
        branch.invoke("Why?", of(key, request_id=key))
        log.outcome(key, quality=1.0)
    log.close()
    assert run("show", str(tmp_path / "log.db")) == 0
    assert "quality" in capsys.readouterr().out
