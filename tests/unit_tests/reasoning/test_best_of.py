"""Samples judged by a score: when it ends, and what becomes of errors."""

from typing import Any

import pytest
from langchain_core.messages import BaseMessage
from langgraph.checkpoint.memory import InMemorySaver

from langchain_tokenopt.accounting import Budget, BudgetGuard, BudgetHandler
from langchain_tokenopt.errors import BudgetExceededError, ConfigurationError
from langchain_tokenopt.messages import SAMPLE_MARK
from langchain_tokenopt.reasoning import BestOf, ChainOfThought, Sample, extract
from langchain_tokenopt.testing import ScriptedModel

QUESTION = "Name a number."


def best_of(answers: list[Any], scorer: Any, **options: Any) -> tuple[BestOf, ScriptedModel]:
    def by_mark(messages: list[BaseMessage]) -> Any:
        answer = answers[messages[0].additional_kwargs.get(SAMPLE_MARK, 0)]
        return f"Answer: {answer}" if isinstance(answer, int) else answer

    model = ScriptedModel([by_mark], when_exhausted="repeat_last")
    return BestOf(model, scorer, **{"answer": extract.number, **options}), model


def size(question: str, sample: Sample) -> float:
    assert question == QUESTION
    return float(sample.answer)


def test_all_are_drawn_at_once_and_the_best_is_returned() -> None:
    best, model = best_of([3, 9, 9, 1, 2], size)

    result = best.invoke(QUESTION)

    assert (result.answer, result.stop_reason, result.rounds) == (9, "max_samples", 1)
    assert [sample.score for sample in result.samples] == [3, 9, 9, 1, 2]
    assert model.calls == 5


async def test_the_first_that_is_good_enough_ends_it() -> None:
    best, model = best_of([3, 7, 9, 1, 2], size, threshold=5)

    result = best.invoke(QUESTION)

    assert (result.answer, result.stop_reason, model.calls) == (7, "accepted", 2)
    assert await best.ainvoke(QUESTION) == result


def test_of_a_round_the_first_good_one_counts_and_not_the_best() -> None:
    best, model = best_of([3, 7, 9, 1, 2], size, threshold=5, at_once=3)

    assert best.invoke(QUESTION).answer == 7
    assert model.calls == 3


def test_where_none_is_good_enough_the_best_is_returned() -> None:
    best, _ = best_of([3, 7, 2], size, threshold=50, n=3)

    result = best.invoke(QUESTION)

    assert (result.answer, result.stop_reason) == (7, "max_samples")


def test_every_call_starts_anew() -> None:
    best, model = best_of([3, 7, 9], size, threshold=5, n=3)

    assert [best.invoke(QUESTION).answer for _ in range(3)] == [7, 7, 7]
    assert model.calls == 6


async def test_a_scorer_may_be_asynchronous_where_the_call_is() -> None:
    async def score(question: str, sample: Sample) -> float:
        return float(sample.answer)

    best, _ = best_of([3, 7], score, n=2)

    assert (await best.ainvoke(QUESTION)).answer == 7
    with pytest.raises(ConfigurationError, match="asynchronous: call the technique with ainvoke"):
        best.invoke(QUESTION)


def test_what_cannot_be_read_is_not_scored_and_never_wins() -> None:
    best, _ = best_of(["I cannot say.", -3], size, n=2)
    none, _ = best_of(["I cannot say."] * 2, size, n=2)

    assert best.invoke(QUESTION).answer == -3
    assert none.invoke(QUESTION).abstained


@pytest.mark.parametrize("score", [None, "high", float("nan")])
def test_a_score_that_is_no_number_is_refused(score: Any) -> None:
    best, _ = best_of([3] * 5, lambda *_: score)

    with pytest.raises(ConfigurationError, match="a scorer returns a number"):
        best.invoke(QUESTION)


def test_after_an_error_of_the_scorer_nothing_is_drawn_again() -> None:
    broken = [True]

    def score(question: str, sample: Sample) -> float:
        if broken:
            broken.clear()
            raise ConnectionError("tests are down")
        return float(sample.answer)

    best, model = best_of([3, 7], score, n=2)
    graph = best.as_graph(checkpointer=InMemorySaver())
    config: Any = {"configurable": {"thread_id": "1"}}

    with pytest.raises(ConnectionError):
        graph.invoke({"messages": [("user", QUESTION)]}, config)
    state = graph.invoke(None, config)

    assert state["result"]["answer"] == 7
    assert model.calls == 2


def test_a_failed_sample_does_not_lose_the_others() -> None:
    best, _ = best_of([3, ConnectionError("down"), 7], size, n=3)

    result = best.invoke(QUESTION)

    assert (result.answer, result.samples[1].error) == (7, "ConnectionError: down")


def test_a_spent_budget_leaves_the_best_so_far_or_raises() -> None:
    def few() -> Any:
        return {"callbacks": [BudgetHandler(BudgetGuard([Budget("few", calls=2)]))]}

    best, _ = best_of([3, 7, 9], size, threshold=8, n=3)
    raising, _ = best_of([3, 7, 9], size, threshold=8, n=3, on_budget="raise")

    result = best.invoke(QUESTION, few())

    assert (result.answer, result.stop_reason) == (7, "budget")
    with pytest.raises(BudgetExceededError):
        raising.invoke(QUESTION, few())


def test_runs_of_another_technique_are_scored() -> None:
    model = ScriptedModel(["Answer: 3", "Answer: 7"])
    best = BestOf(ChainOfThought(model, answer=extract.number), size, n=2)

    assert best.invoke(QUESTION, {"max_concurrency": 1}).answer == 7


@pytest.mark.parametrize(("options", "says"), [({"n": 0}, "got 0"), ({"at_once": 0}, "got 0")])
def test_wrong_options_are_refused(options: Any, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        best_of([1], size, **options)
