"""Votes over samples: how many are drawn, in which rounds, and what comes of trouble."""

import asyncio
import random
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.runnables import RunnableLambda
from langgraph.checkpoint.memory import InMemorySaver
from pydantic import BaseModel

from langchain_tokenopt.accounting import AsyncBudgetHandler, Budget, BudgetGuard, BudgetHandler
from langchain_tokenopt.caches import CachedChatModel, MemoryCache, SemanticCache
from langchain_tokenopt.embeddings import StaticEmbeddings
from langchain_tokenopt.errors import BudgetExceededError, ConfigurationError
from langchain_tokenopt.messages import SAMPLE_MARK
from langchain_tokenopt.reasoning import (
    ChainOfThought,
    SelfConsistency,
    Structured,
    TokenWeights,
    extract,
)
from langchain_tokenopt.reasoning.voting import leads
from langchain_tokenopt.testing import (
    RecordedQuestion,
    ReplayModel,
    ScriptedModel,
)

QUESTION = "How many apples are in 3 boxes of 4?"


def sampled(answers: list[Any], **options: Any) -> tuple[SelfConsistency, ScriptedModel]:
    """Answer the sample of each index with the same entry, whatever order they are drawn in."""

    def by_mark(messages: list[BaseMessage]) -> Any:
        answer = answers[messages[0].additional_kwargs.get(SAMPLE_MARK, 0)]
        return f"Answer: {answer}" if isinstance(answer, int) else answer

    model = ScriptedModel([by_mark], when_exhausted="repeat_last")
    return SelfConsistency(model, **{"answer": extract.number, **options}), model


def test_four_equal_answers_end_the_sampling_in_one_round() -> None:
    voting, model = sampled([12] * 40)

    result = voting.invoke(QUESTION)

    assert result.answer == Decimal(12)
    assert (result.stop_reason, result.rounds, model.calls) == ("unanimous", 1, 4)
    assert result.confidence == leads(4, 0)
    assert result.usage.calls == 4
    assert [vote.votes for vote in result.votes] == [4]


async def test_the_same_comes_of_ainvoke() -> None:
    voting, _ = sampled([12, 13, 12, 12, 14, *[12] * 10])

    assert await voting.ainvoke(QUESTION) == voting.invoke(QUESTION)


def one_at_a_time(answers: list[int], n: int) -> tuple[int, int]:
    """Return answer and number of samples of the published rule."""
    counts: dict[int, int] = {}
    drawn = 0
    for answer in answers[:n]:
        drawn += 1
        counts[answer] = counts.get(answer, 0) + 1
        first, second = [*sorted(counts.values(), reverse=True), 0][:2]
        if leads(first, second) >= 0.95:
            break
    return max(counts, key=lambda answer: counts[answer]), drawn


@given(st.lists(st.integers(1, 3), min_size=12, max_size=12), st.integers(1, 12))
@settings(max_examples=60, deadline=None)
def test_samples_and_answer_are_those_of_drawing_one_at_a_time(answers: list[int], n: int) -> None:
    voting, model = sampled(answers, n=n)

    result = voting.invoke(QUESTION)

    assert (result.answer, model.calls) == one_at_a_time(answers, n)


@given(st.lists(st.integers(1, 3), min_size=9, max_size=9))
@settings(max_examples=40, deadline=None)
def test_a_lossless_vote_is_that_of_all_samples(answers: list[int]) -> None:
    lossless, model = sampled(answers, n=9, stop="lossless")
    never, all_of_them = sampled(answers, n=9, stop="never")

    assert lossless.invoke(QUESTION).answer == never.invoke(QUESTION).answer
    assert model.calls <= all_of_them.calls == 9


def test_a_divided_vote_ends_at_n() -> None:
    voting, _ = sampled([1, 2] * 5, n=10)

    result = voting.invoke(QUESTION)

    assert (result.stop_reason, result.answer, len(result.samples)) == ("max_samples", 1, 10)
    assert result.confidence == 0.5


def test_texts_without_an_answer_are_paid_for_and_cast_no_vote() -> None:
    voting, model = sampled(["I cannot say."] * 6, n=6)

    result = voting.invoke(QUESTION)

    assert result.abstained
    assert "could be read out of any sample" in result.reason
    assert result.usage.calls == model.calls == 6


def recorded(samples: list[str]) -> ReplayModel:
    question = RecordedQuestion(question=QUESTION, samples=tuple(samples))
    return ReplayModel([question], model_name="gpt-4", usage="counted")


def test_a_model_with_n_is_asked_once_a_round_and_its_prompt_is_paid_once() -> None:
    many = SelfConsistency(recorded(["Answer: 12"] * 40), answer=extract.number)
    single = SelfConsistency(
        recorded(["Answer: 12"] * 40), answer=extract.number, draw="separate", n=4
    )

    result, apart = many.invoke(QUESTION), single.invoke(QUESTION)

    assert (result.answer, result.usage.calls, apart.usage.calls) == (12, 1, 4)
    assert 4 * result.usage.total.input_tokens == apart.usage.total.input_tokens


def test_long_prompts_make_large_rounds() -> None:
    long = QUESTION + " " + "word " * 20_000
    question = RecordedQuestion(question=QUESTION, samples=("Answer: 12",) * 40)
    model = ReplayModel([question], usage="counted")

    short = SelfConsistency(model, answer=extract.number).invoke(QUESTION)
    large = SelfConsistency(
        ReplayModel([question], usage="counted"),
        answer=extract.number,
        weights=TokenWeights(output=1),
    ).invoke(long)

    assert len(short.samples) == 4
    assert len(large.samples) > 10
    assert large.rounds == 1


async def test_later_rounds_are_as_large_as_what_was_used_makes_them_worth() -> None:
    def rounds(words: int) -> SelfConsistency:
        answers = [f"{'so ' * words}Answer: {n % 2}" for n in range(40)]
        return SelfConsistency(recorded(answers), answer=extract.number, n=40)

    short, long = rounds(1).invoke(QUESTION), rounds(2_000).invoke(QUESTION)

    assert short.rounds == short.usage.calls
    assert 1 < short.rounds < long.rounds  # where answers are short, it is the prompt that costs
    assert await rounds(1).ainvoke(QUESTION) == short


def test_a_server_that_ignores_n_is_asked_one_at_a_time_from_then_on() -> None:
    voting, model = sampled([12] * 40, draw="n")

    result = voting.invoke(QUESTION)

    assert result.answer == 12
    assert len(result.samples) == model.calls == 4
    assert [keywords.get("n") for keywords in model.keywords] == [4, None, None, None]


def test_options_bound_to_a_model_are_kept() -> None:
    _, model = sampled([12] * 40)
    bound = SelfConsistency(model.bind(stop=["\n\n"]), answer=extract.number, draw="n")

    bound.invoke(QUESTION)

    assert all(keywords["stop"] == ["\n\n"] for keywords in model.keywords)


@pytest.mark.parametrize("cache", [MemoryCache(), SemanticCache(StaticEmbeddings())])
def test_a_cache_keeps_samples_apart_and_answers_a_repeated_question(cache: Any) -> None:
    texts = ["Answer: 1", "Answer: 2", "Answer: 1", "Answer: 1", "Answer: 1", "Answer: 1"]
    upstream = ScriptedModel([*texts, "Answer: 1", "Answer: 1"])
    voting = SelfConsistency(CachedChatModel(upstream, cache=cache), answer=extract.number)

    first = voting.invoke(QUESTION)
    calls = upstream.calls
    again = voting.invoke(QUESTION)

    assert len({sample.text for sample in first.samples}) == 2
    assert again.answer == first.answer
    if isinstance(cache, MemoryCache):
        assert upstream.calls == calls
        assert again.usage.cached_calls == calls


def test_a_failed_sample_is_kept_and_the_others_vote() -> None:
    voting, _ = sampled([12, ConnectionError("down"), *[12] * 10])

    result = voting.invoke(QUESTION)

    assert result.answer == 12
    assert result.samples[1].error == "ConnectionError: down"
    assert result.usage.failed_calls == 1


def test_the_error_of_a_model_that_is_down_is_raised_as_it_is() -> None:
    voting, model = sampled([ConnectionError("down")] * 40)

    with pytest.raises(ConnectionError, match="down"):
        voting.invoke(QUESTION)
    assert model.calls == 5


def test_a_model_that_goes_down_leaves_the_vote_so_far() -> None:
    voting, _ = sampled([1, 2, 1, 2, *[ConnectionError("down")] * 36])

    result = voting.invoke(QUESTION)

    assert (result.answer, result.stop_reason) == (1, "error")
    assert "down" in result.reason


def calls(most: int) -> BudgetGuard:
    return BudgetGuard([Budget("few", calls=most)])


async def test_a_spent_budget_leaves_the_vote_so_far_or_raises() -> None:
    votes = [1, 2, 1, 2, 1, 2, *[1] * 34]
    voting, model = sampled(votes)
    raising, _ = sampled(votes, on_budget="raise")

    result = voting.invoke(QUESTION, {"callbacks": [BudgetHandler(calls(5))]})
    aresult = await voting.ainvoke(QUESTION, {"callbacks": [AsyncBudgetHandler(calls(5))]})

    assert (result.answer, result.stop_reason, len(result.samples)) == (1, "budget", 5)
    assert aresult.stop_reason == "budget"
    assert model.calls == 10
    with pytest.raises(BudgetExceededError):
        raising.invoke(QUESTION, {"callbacks": [BudgetHandler(calls(2))]})


def test_a_request_for_many_shrinks_to_what_the_budget_has_room_for() -> None:
    model = recorded(["Answer: 12"] * 40)
    voting = SelfConsistency(
        model.bind(max_tokens=100), answer=extract.number, n=16, stop="never", draw="n"
    )
    guard = BudgetGuard([Budget("few", tokens=300)])

    result = voting.invoke(QUESTION, {"callbacks": [BudgetHandler(guard)]})

    assert result.stop_reason == "budget"
    assert 2 <= len(result.samples) < 16
    assert guard.statuses()[0].spent.tokens == result.usage.total.total_tokens


def sure(answer: int, logprob: float) -> AIMessage:
    told = {"logprobs": {"content": [{"token": "x", "logprob": logprob}] * 3}}
    return AIMessage(f"Answer: {answer}", response_metadata=told)


def test_sure_samples_outweigh_a_majority_that_is_not() -> None:
    drawn = [sure(1, -0.05), sure(2, -1.5), sure(2, -1.5), sure(1, -0.05), sure(2, -1.5)]
    by_count, _ = sampled(drawn, n=5)
    by_confidence, _ = sampled(drawn, n=5, vote="confidence")

    assert by_count.invoke(QUESTION).answer == 2
    result = by_confidence.invoke(QUESTION)
    assert result.answer == 1
    assert sum(vote.votes for vote in result.votes) == pytest.approx(5)


def test_votes_are_counted_where_the_model_gives_no_log_probabilities() -> None:
    voting, _ = sampled([1] * 5, n=5, vote="confidence")

    result = voting.invoke(QUESTION)

    assert result.answer == 1
    assert "no log probabilities" in result.reason


class Count(BaseModel):
    apples: int


def test_runs_of_another_technique_are_samples_with_answers_of_its_type() -> None:
    call = {"name": "Reasoned", "args": {"reasoning": "3 * 4", "answer": {"apples": 12}}, "id": "1"}
    model = ScriptedModel([AIMessage("", tool_calls=[call])], when_exhausted="repeat_last")  # type: ignore[list-item]  # a plain dict is one
    voting = SelfConsistency(ChainOfThought(model, answer=Structured(Count)))

    result = voting.invoke(QUESTION)

    assert result.answer == Count(apples=12)
    assert len(result.samples) == model.calls == 4


def test_a_budget_that_ends_the_inner_technique_ends_the_outer_one() -> None:
    model = ScriptedModel(["Answer: 1", "Answer: 2"], when_exhausted="cycle")
    voting = SelfConsistency(ChainOfThought(model, answer=extract.number))

    result = voting.invoke(QUESTION, {"callbacks": [BudgetHandler(calls(2))]})

    assert result.stop_reason == "budget"
    assert model.calls == 2


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"n": 0}, "at least 1, got 0"),
        ({"stop": "beta"}, "stop is one of confident, lossless, never"),
        ({"vote": "loud"}, "vote is one of"),
        ({"model": RunnableLambda(str), "draw": "n"}, "draw='n' needs a chat model, got Runnable"),
        ({"draw": "all"}, "draw is one of"),
        ({"confidence": 1.0}, "use stop='lossless'"),
        ({"softness": 0}, "softness is above 0"),
    ],
)
def test_wrong_options_are_refused_with_what_was_expected(options: Any, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        SelfConsistency(**{"model": ScriptedModel(["1"]), **options})


def test_a_model_whose_samples_are_all_the_same_is_refused() -> None:
    from langchain_openai import ChatOpenAI

    cold = ChatOpenAI(model="gpt-4.1-mini", temperature=0, api_key="any")

    with pytest.raises(ConfigurationError, match="temperature above 0"):
        SelfConsistency(cold)
    with pytest.raises(ConfigurationError, match="temperature above 0"):
        SelfConsistency(CachedChatModel(cold, cache=MemoryCache()))
    assert SelfConsistency(cold.bind(temperature=0.7)).name == "self_consistency"


async def test_a_stream_tells_each_sample_and_ends_with_the_result() -> None:
    voting, _ = sampled([1, 2, 1, 1, 1, 1, 1, 1])

    parts = list(voting.stream(QUESTION))
    aparts = [part async for part in voting.astream(QUESTION)]

    sizes = [len(part.samples) for part in parts]
    assert sizes == sorted(sizes)
    assert parts[0].stop_reason is None
    assert parts[-1] == aparts[-1] == voting.invoke(QUESTION)


def test_a_run_that_was_killed_goes_on_without_paying_again() -> None:
    class Killed(BaseException):
        pass

    voting, model = sampled([1, 2, 1, Killed(), *[1] * 20])
    graph = voting.as_graph(checkpointer=InMemorySaver())
    config: Any = {"configurable": {"thread_id": "1"}, "max_concurrency": 1}

    with pytest.raises(Killed):
        graph.invoke({"messages": [("user", QUESTION)]}, config)
    paid = model.calls
    voting, model = sampled([1, 2, 1, 1, *[1] * 20])
    saver: Any = graph.checkpointer
    state = voting.as_graph(checkpointer=saver).invoke(None, config)

    assert paid == 4
    assert state["result"]["answer"] == 1
    assert model.calls == len(state["samples"]) - 3


async def test_fifty_runs_share_one_budget_and_do_not_pass_it() -> None:
    guard = BudgetGuard([Budget("shared", calls=90)])
    rng = random.Random(0)
    voting, model = sampled([rng.choice([1, 2, 3]) for _ in range(40)])

    async def run() -> Any:
        return await voting.ainvoke(QUESTION, {"callbacks": [AsyncBudgetHandler(guard)]})

    results = await asyncio.gather(*(run() for _ in range(50)))

    assert model.calls == guard.statuses()[0].spent.calls == 90
    assert sum(result.usage.calls for result in results) == 90
    assert all(result.stop_reason == "budget" for result in results)


async def test_a_cancelled_run_leaves_no_task_behind() -> None:
    asked = asyncio.Event()

    async def wait_for_ever(_: float) -> None:
        asked.set()
        await asyncio.Event().wait()

    model = ScriptedModel(["1"], latency_s=1.0, async_sleep=wait_for_ever)
    before = asyncio.all_tasks()
    run = asyncio.create_task(SelfConsistency(model).ainvoke(QUESTION))
    await asked.wait()

    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run

    assert asyncio.all_tasks() == before
