"""What an evaluation says of a runnable, and how far its intervals can be trusted."""

import asyncio
import random
from datetime import date
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableLambda

from langchain_tokenopt.accounting import Budget, BudgetGuard, BudgetHandler
from langchain_tokenopt.caches import CachedChatModel, MemoryCache
from langchain_tokenopt.errors import ConfigurationError
from langchain_tokenopt.reasoning import ChainOfThought, extract
from langchain_tokenopt.reasoning.evaluate import aevaluate, evaluate
from langchain_tokenopt.reasoning.metrics import LabelledSample, typed_equality
from langchain_tokenopt.reasoning.sequential import (
    ConfidenceSequence,
    mean_interval,
    wilson_interval,
)
from langchain_tokenopt.testing import RecordedQuestion, ReplayModel, ScriptedModel

NUMBER = typed_equality(extract.number)


def sums(n: int) -> list[LabelledSample]:
    return [LabelledSample(f"{i} + 1?", str(i + 1)) for i in range(n)]


def adds(messages: list[Any]) -> str:
    """Answer as a model that adds well, but not beyond 5."""
    first = int(messages[-1].text.split()[0])
    return f"Answer: {first + 1 if first < 5 else 0}"


def adder(**options: Any) -> ScriptedModel:
    return ScriptedModel([adds], when_exhausted="repeat_last", **options)


def test_score_tokens_and_their_intervals_are_told() -> None:
    found = evaluate(adder(), sums(10), metric=NUMBER)

    assert found.score == 0.5
    assert [row.score for row in found.rows] == [1.0] * 5 + [0.0] * 5
    assert found.score_interval.low == pytest.approx(0.2366, abs=1e-4)
    assert found.score_interval.high == pytest.approx(0.7634, abs=1e-4)
    assert found.tokens == 7
    assert found.usage.calls == 10
    assert found.stop_reason == "finished"


async def test_the_same_comes_of_aevaluate() -> None:
    one = evaluate(adder(), sums(10), metric=NUMBER)
    other = await aevaluate(adder(), sums(10), metric=NUMBER)

    assert [row.score for row in one.rows] == [row.score for row in other.rows]
    assert one.spent == other.spent


@pytest.mark.parametrize(
    "runnable",
    [
        adder(),
        ChainOfThought(adder(), answer=extract.number),
        adder() | RunnableLambda(lambda message: message.text),
        ChainOfThought(adder(), answer=extract.number).answer,
    ],
)
def test_messages_text_results_and_values_are_scored_alike(runnable: Any) -> None:
    found = evaluate(runnable, sums(6), metric=NUMBER)

    assert found.score == 5 / 6
    assert found.usage.calls == 6


@pytest.mark.parametrize(
    ("extractor", "output", "gold", "score"),
    [
        (extract.number, "1,000", 1000, 1.0),
        (extract.number, "0.1", 0.1, 1.0),
        (extract.number, Decimal(4), "4", 1.0),
        (extract.number, AIMessage("So it is 4."), "5", 0.0),
        (extract.date, "Answer: 5/1/2021", date(2021, 5, 1), 1.0),
        (extract.option("AB"), "(B)", "B", 1.0),
        (extract.boolean, "no", False, 1.0),
        (extract.text, None, "x", 0.0),
        (str.lower, "YES", "yes", 1.0),
    ],
)
def test_typed_equality_compares_values(
    extractor: Any, output: Any, gold: Any, score: float
) -> None:
    assert typed_equality(extractor)(output, gold) == score


def test_a_gold_answer_of_another_type_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="gold answer that is a number, got 'four'"):
        NUMBER("4", "four")


def test_an_answer_of_another_type_than_the_metrics_is_refused() -> None:
    thinking = ChainOfThought(adder(), answer=extract.number)

    with pytest.raises(ConfigurationError, match=r"an answer that is a text, got Decimal\('1'\)"):
        evaluate(thinking, sums(1))


def test_failures_are_kept_and_score_nothing() -> None:
    model = ScriptedModel(["1", ConnectionError("down"), "3"])

    found = evaluate(model, sums(3), metric=NUMBER, config={"max_concurrency": 1})

    assert [row.error for row in found.rows] == [None, "ConnectionError: down", None]
    assert found.score == 2 / 3
    assert found.failures == 1
    assert "1 samples failed, such as ConnectionError: down" in str(found)


def test_a_wrong_set_up_is_raised_after_one_call() -> None:
    asked = []

    def refuse(question: str) -> str:
        asked.append(question)
        raise ConfigurationError("no such thing")

    with pytest.raises(ConfigurationError, match="no such thing"):
        evaluate(RunnableLambda(refuse), sums(50))
    assert len(asked) == 1


@pytest.mark.parametrize("score", [1.5, -0.1, float("nan")])
def test_a_score_out_of_bounds_is_refused(score: float) -> None:
    with pytest.raises(ConfigurationError, match="score from 0 to 1"):
        evaluate(adder(), sums(1), metric=lambda output, gold: score)


@pytest.mark.parametrize(
    ("options", "says"),
    [({"budget": 0}, "above 0"), ({"confidence": 1.0}, "between 0 and 1")],
)
def test_bad_options_are_refused(options: Any, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        evaluate(adder(), sums(1), **options)
    with pytest.raises(ConfigurationError, match="at least one labelled sample"):
        evaluate(adder(), [])


def test_cached_calls_count_no_tokens_and_are_named() -> None:
    model = CachedChatModel(adder(), cache=MemoryCache())
    evaluate(model, sums(4), metric=NUMBER)

    found = evaluate(model, sums(4), metric=NUMBER)

    assert (found.tokens, found.usage.calls, found.usage.cached_calls) == (0, 0, 4)
    assert "a cache served 4 calls" in found.report()


def test_tokens_that_the_provider_did_not_report_are_called_estimates() -> None:
    found = evaluate(adder(usage="none"), sums(3), metric=NUMBER)

    assert found.tokens
    assert "the tokens of 3 calls are estimates" in found.report()


@given(budget=st.integers(1, 3_000), seed=st.integers(0, 99), at_once=st.sampled_from([1, 4, None]))
def test_the_budget_is_kept_and_what_was_measured_is_returned(
    budget: int, seed: int, at_once: int | None
) -> None:
    rng = random.Random(seed)

    def answer(messages: list[Any]) -> str:
        return "so " * rng.randint(1, 20) + "\nAnswer: 1"

    model = ScriptedModel([answer], when_exhausted="repeat_last")
    found = evaluate(model, sums(60), budget=budget, config={"max_concurrency": at_once})

    assert found.spent.total_tokens <= budget
    assert found.stop_reason == ("finished" if len(found.rows) == 60 else "budget")
    assert sum(row.tokens for row in found.rows) <= found.spent.total_tokens


def test_most_of_the_budget_is_used() -> None:
    found = evaluate(adder(), sums(400), metric=NUMBER, budget=2_000)

    assert found.spent.total_tokens > 1_900
    assert "The budget ended before the samples." in found.report()


def test_a_call_that_may_be_too_long_is_not_made() -> None:
    model = adder()

    found = evaluate(model.bind(max_tokens=5_000), sums(5), budget=4_000)

    assert (model.calls, found.rows, found.score) == (0, (), None)
    assert "| - | - |" in found.report()


def test_several_answers_to_one_prompt_are_planned_as_such() -> None:
    recorded = [
        RecordedQuestion(question=f"question {i}", samples=("Answer: 1",) * 8, input_tokens=10)
        for i in range(200)
    ]
    model = ReplayModel(recorded)
    samples = [LabelledSample(each.question, "1") for each in recorded]

    found = evaluate(model.bind(n=8), samples, budget=5_000)

    assert found.spent.total_tokens > 4_500


def test_a_budget_of_the_callers_own_ends_the_evaluation() -> None:
    handler = BudgetHandler(BudgetGuard([Budget("calls", calls=3)]))
    config: Any = {"callbacks": [handler], "max_concurrency": 1}

    found = evaluate(ChainOfThought(adder()), sums(9), config=config)

    assert len(found.rows) == 3
    assert found.stop_reason == "budget"


class Started(BaseCallbackHandler):
    def __init__(self) -> None:
        self.tags: list[Any] = []

    def on_chat_model_start(self, *args: Any, tags: Any = None, **kwargs: Any) -> None:
        self.tags.append(tags)


async def test_callbacks_and_tags_reach_every_call() -> None:
    heard = Started()
    config: Any = {"callbacks": [heard], "tags": ["mine"]}

    evaluate(adder(), sums(3), name="adds", config=config)
    await aevaluate(adder(), sums(3), name="adds", config=config)

    assert len(heard.tags) == 6
    assert all({"mine", "step:adds"} <= set(tags) for tags in heard.tags)


async def test_max_concurrency_is_kept() -> None:
    running, most = 0, 0

    async def count(_: float) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1

    model = adder(latency_s=1.0, async_sleep=count)
    await aevaluate(model, sums(20), config={"max_concurrency": 3})

    assert most == 3


async def test_a_cancelled_evaluation_leaves_no_task() -> None:
    asked = asyncio.Event()

    async def wait_for_ever(_: float) -> None:
        asked.set()
        await asyncio.Event().wait()

    before = asyncio.all_tasks()
    model = adder(latency_s=1.0, async_sleep=wait_for_ever)
    evaluation = asyncio.create_task(aevaluate(model, sums(20)))
    await asked.wait()

    evaluation.cancel()
    with pytest.raises(asyncio.CancelledError):
        await evaluation

    assert asyncio.all_tasks() == before


# --- intervals ------------------------------------------------------------------------------------


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=60))
def test_a_confidence_sequence_only_narrows_and_stays_within_the_bounds(
    values: list[float],
) -> None:
    sequence = ConfidenceSequence(low=-1, high=1)
    before = sequence.interval

    for value in values:
        sequence.observe(value)
        now = sequence.interval
        assert before.low <= now.low <= now.high <= before.high
        before = now


def peeked(draw: Any, *, mean: float, runs: int, n: int) -> int:
    """Return in how many runs the interval misses the mean at any look."""
    missed = 0
    for _ in range(runs):
        sequence = ConfidenceSequence(low=-1, high=1, confidence=0.9)
        for _ in range(n):
            sequence.observe(draw())
            if not sequence.interval.low <= mean <= sequence.interval.high:
                missed += 1
                break
    return missed


@pytest.mark.parametrize("weights", [(2, 6, 2), (1, 18, 1), (5, 0, 5), (4, 15, 1)])
def test_a_confidence_sequence_covers_the_mean_at_every_look(
    weights: tuple[int, int, int],
) -> None:
    rng = random.Random(1)
    mean = (weights[2] - weights[0]) / sum(weights)

    missed = peeked(lambda: rng.choices((-1, 0, 1), weights)[0], mean=mean, runs=200, n=150)

    assert missed <= 0.1 * 200


def test_looking_at_a_fixed_interval_often_goes_wrong() -> None:
    rng, missed = random.Random(1), 0
    for _ in range(200):
        values = [float(rng.choice((-1, 0, 1))) for _ in range(150)]
        looks = (mean_interval(values[:n], confidence=0.9) for n in range(8, 151, 8))
        missed += any(look is not None and not look.low <= 0 <= look.high for look in looks)

    assert missed > 0.2 * 200


def test_a_confidence_sequence_finds_a_difference() -> None:
    rng = random.Random(2)
    sequence = ConfidenceSequence(low=-1, high=1)

    for _ in range(200):
        sequence.observe(rng.choices((-1, 0, 1), (1, 5, 4))[0])

    assert sequence.interval.low > 0.1
    with pytest.raises(ConfigurationError, match="value from -1"):
        sequence.observe(2)


def test_bounds_that_leave_no_room_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="low must be below high, got 1 and 1"):
        ConfidenceSequence(low=1, high=1)


def test_intervals_of_nothing_tell_nothing() -> None:
    assert (wilson_interval(0, 0).low, wilson_interval(0, 0).high) == (0.0, 1.0)
    assert mean_interval([3.0]) is None


@pytest.mark.parametrize(
    ("n", "half"), [(2, 12.706), (3, 4.303), (4, 3.182), (11, 2.228), (101, 1.984)]
)
def test_the_interval_of_a_mean_is_students(n: int, half: float) -> None:
    # Values around 0 whose standard error is 1.
    spread = ((n - 1) * n / (n - n % 2)) ** 0.5
    values = [spread * (-1) ** i for i in range(n - n % 2)] + [0.0] * (n % 2)

    found = mean_interval(values)

    assert found is not None
    assert found.high == pytest.approx(half, rel=0.01)
