"""Agents that keep within budgets."""

from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import ModelRetryMiddleware
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command

from langchain_tokenopt.accounting import (
    Amounts,
    Budget,
    BudgetedChatModel,
    BudgetGuard,
    BudgetHandler,
    UsageLedger,
)
from langchain_tokenopt.errors import BudgetExceededError, ConfigurationError
from langchain_tokenopt.middleware import BudgetMiddleware
from langchain_tokenopt.testing import ScriptedModel


@tool
def look_up(what: str) -> str:
    """Look something up."""
    return f"{what}: 42"


def searching(text: str = "Let me look it up.", **options: Any) -> ScriptedModel:
    """A model that never stops looking things up."""
    count = iter(range(1_000))

    def answer(messages: Any) -> AIMessage:
        call = {"name": "look_up", "args": {"what": "x"}, "id": f"c{next(count)}"}
        return AIMessage(text, tool_calls=[{**call, "type": "tool_call"}])

    return ScriptedModel([answer], when_exhausted="repeat_last", **options)


ASK = {"messages": [HumanMessage("What is x?")]}


async def ask(agent: Any, way: str, config: Any = None) -> dict[str, Any]:
    result = agent.invoke(ASK, config) if way == "invoke" else await agent.ainvoke(ASK, config)
    return dict(result)


@pytest.fixture(params=["invoke", "ainvoke"])
def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def test_an_agent_stops_with_the_best_it_has(way: str) -> None:
    guard = BudgetGuard([Budget("run", calls=3, per="run")])
    model = searching("It may be 42.")
    agent = create_agent(model, [look_up], middleware=[BudgetMiddleware(guard)])

    for _ in range(2):  # every invocation is a run of its own
        answer = (await ask(agent, way))["messages"][-1]
        assert answer.text == "It may be 42."
        assert "budget 'run'" in answer.response_metadata["tokenopt_budget"]["stopped"]
        assert not answer.tool_calls
    assert model.calls == 6


async def test_an_agent_without_an_answer_says_why(way: str) -> None:
    guard = BudgetGuard([Budget("day", calls=0)])
    agent = create_agent(searching(), [look_up], middleware=[BudgetMiddleware(guard)])

    answer = (await ask(agent, way))["messages"][-1]

    assert answer.text.startswith("Stopped before there was an answer: budget 'day'")


async def test_an_agent_raises_where_that_is_asked_for(way: str) -> None:
    guard = BudgetGuard([Budget("day", calls=1)])
    middleware = BudgetMiddleware(guard, when_exceeded="raise")
    agent = create_agent(searching(), [look_up], middleware=[middleware])

    with pytest.raises(BudgetExceededError):
        await ask(agent, way)


async def test_an_agent_goes_on_with_a_cheaper_model(way: str) -> None:
    guard = BudgetGuard([Budget("tokens", tokens=7_000)], output_tokens=4_000)
    cheap = ScriptedModel(["It is 42."])
    dear = searching("word " * 3_000)
    ledger = UsageLedger()
    # The cheaper model has room only because it says how little it writes.
    middleware = BudgetMiddleware(guard, downgrade_to=_capped(cheap))
    agent = create_agent(dear, [look_up], middleware=[middleware])
    answer = (await ask(agent, way, {"callbacks": [ledger]}))["messages"][-1]

    assert answer.text == "It is 42."
    assert (dear.calls, cheap.calls) == (1, 1)


def _capped(model: ScriptedModel) -> Any:
    class Capped(ScriptedModel):
        def _get_invocation_params(self, stop: Any = None, **kwargs: Any) -> Any:
            return {**super()._get_invocation_params(stop=stop, **kwargs), "max_tokens": 10}

        def _next(self, messages: Any, keywords: Any) -> Any:
            return model._next(messages, keywords)

    return Capped(model.answers)


async def test_a_human_allows_more_or_stops_it(way: str) -> None:
    guard = BudgetGuard([Budget("run", calls=1, per="run")])
    model = searching("It may be 42.")
    agent = create_agent(
        model,
        [look_up],
        middleware=[BudgetMiddleware(guard, when_exceeded="ask")],
        checkpointer=InMemorySaver(),
    )
    config: Any = {"configurable": {"thread_id": "1"}}

    async def go_on(value: Any) -> dict[str, Any]:
        command: Any = Command(resume=value)
        given = agent.invoke(command, config) if way == "invoke" else agent.ainvoke(command, config)
        return dict(given if way == "invoke" else await given)  # type: ignore[misc]

    (question,) = (await ask(agent, way, config))["__interrupt__"]
    assert question.value["budget"] == "run"
    assert question.value["needed"]["calls"] == 1

    (again,) = (await go_on({"grant": {"calls": 2}}))["__interrupt__"]
    assert model.calls == 3
    assert again.value["spent"]["calls"] == 3

    assert (await go_on("stop"))["messages"][-1].text == "It may be 42."
    assert model.calls == 3


async def test_the_agents_own_model_and_callbacks_of_the_guard_book_once(way: str) -> None:
    guard = BudgetGuard([Budget("user", calls=100, per="user")])
    model = BudgetedChatModel(ScriptedModel(["42"]), guard=guard)
    agent = create_agent(model, [look_up], middleware=[BudgetMiddleware(guard)])
    config: Any = {"metadata": {"user": "ann"}}
    if way == "invoke":
        config["callbacks"] = [BudgetHandler(guard)]

    await ask(agent, way, config)

    (status,) = guard.statuses()
    assert (status.key, status.spent.calls, status.reserved) == ("ann", 1, Amounts())


async def test_every_attempt_of_a_retry_is_booked(way: str) -> None:
    guard = BudgetGuard([Budget("day", calls=5)])
    model = ScriptedModel([OSError("gone"), "42"])
    retry = ModelRetryMiddleware(max_retries=2, initial_delay=0)
    agent = create_agent(model, [], middleware=[retry, BudgetMiddleware(guard)])

    assert (await ask(agent, way))["messages"][-1].text == "42"
    assert guard.statuses()[0].spent.calls == 1  # what failed was given back


def test_a_wrong_policy_or_grant_is_refused() -> None:
    guard = BudgetGuard([Budget("day", calls=0)])
    with pytest.raises(ConfigurationError, match="one of raise, stop, ask, got 'end'"):
        BudgetMiddleware(guard, when_exceeded="end")  # type: ignore[arg-type]

    middleware = BudgetMiddleware(guard, when_exceeded="ask")
    agent = create_agent(searching(), [], middleware=[middleware], checkpointer=InMemorySaver())
    config: Any = {"configurable": {"thread_id": "1"}}
    agent.invoke(ASK, config)  # type: ignore[call-overload]
    with pytest.raises(ConfigurationError, match=r"expected .* got .*lots"):
        agent.invoke(Command(resume={"grant": {"dollars": "lots"}}), config)


async def test_a_streamed_agent_still_streams() -> None:
    guard = BudgetGuard([Budget("day", calls=5)])
    agent = create_agent(ScriptedModel(["one two three"]), middleware=[BudgetMiddleware(guard)])

    chunks: Any = agent.stream(ASK, stream_mode="messages")  # type: ignore[call-overload]
    texts = [message.text for message, _ in chunks]

    assert len([text for text in texts if text]) >= 3
    assert guard.statuses()[0].spent.calls == 1
