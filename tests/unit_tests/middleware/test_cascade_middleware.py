"""Agents whose steps are drafted by a smaller model."""

from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import AgentMiddleware, ModelResponse
from langchain.agents.structured_output import ToolStrategy
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage
from langchain_core.tools import tool
from pydantic import BaseModel

from langchain_tokenopt.accounting import Budget, BudgetGuard, UsageLedger
from langchain_tokenopt.errors import ConfigurationError
from langchain_tokenopt.middleware import BudgetMiddleware, CascadeMiddleware
from langchain_tokenopt.routing import Attempt, Tier, Verdict, mentions
from langchain_tokenopt.testing import ScriptedModel

ASK = {"messages": [HumanMessage("What is x?")]}


@tool
def look_up(what: str) -> str:
    """Look something up."""
    return f"{what}: 42"


def looking_up() -> AIMessage:
    call = {"name": "look_up", "args": {"what": "x"}, "id": "1", "type": "tool_call"}
    return AIMessage("", tool_calls=[call])  # type: ignore[list-item]  # a plain dict is one


def is_sure(question: str, attempt: Attempt) -> Verdict:
    return Verdict(accepted="perhaps" not in attempt["text"], reason="looked for doubts")


def agent_of(small: ScriptedModel, own: ScriptedModel, **options: Any) -> Any:
    middleware = CascadeMiddleware([Tier("small", small)], checks=[is_sure], **options)
    return create_agent(own, [look_up], middleware=[middleware])


@pytest.mark.parametrize("way", ["invoke", "ainvoke"])
async def test_each_step_is_drafted_by_the_small_model_and_its_own_steps_in(way: str) -> None:
    small = ScriptedModel([looking_up(), "It is 42, perhaps."], model_name="small")
    own = ScriptedModel(["It is 42."], model_name="own")
    ledger = UsageLedger()
    agent = agent_of(small, own)
    config: Any = {"callbacks": [ledger]}

    state = agent.invoke(ASK, config) if way == "invoke" else await agent.ainvoke(ASK, config)

    assert [message.text for message in state["messages"]] == [
        "What is x?",
        "",
        "x: 42",
        "It is 42.",
    ]
    told = [m.response_metadata["tokenopt_cascade"] for m in state["messages"][1::2]]
    assert [each["tier"] for each in told] == ["small", "agent_model"]
    assert [record.model for record in ledger.records()] == ["small", "small", "own"]
    assert "tools" in small.keywords[0]


def test_a_declined_draft_is_not_streamed() -> None:
    agent = agent_of(ScriptedModel(["It is 42, perhaps."]), ScriptedModel(["It is 42 for sure."]))

    parts = list(agent.stream(ASK, stream_mode="messages"))

    texts = [message.text for message, _ in parts if isinstance(message, AIMessageChunk)]
    assert "".join(texts) == "It is 42 for sure."
    assert len([text for text in texts if text]) > 2


def test_a_small_model_that_is_down_is_stood_in_for() -> None:
    agent = agent_of(ScriptedModel([ConnectionError("down")]), ScriptedModel(["It is 42."]))

    assert agent.invoke(ASK)["messages"][-1].text == "It is 42."


def test_a_rule_sends_a_step_to_the_agents_own_model() -> None:
    small, own = ScriptedModel(["It is 42."]), ScriptedModel(["It is 43."])
    agent = agent_of(small, own, rules=[mentions("x", tier="agent_model")])

    assert agent.invoke(ASK)["messages"][-1].text == "It is 43."
    assert small.calls == 0


class Found(BaseModel):
    value: int


def test_structured_answers_of_a_draft_are_kept() -> None:
    call = {"name": "Found", "args": {"value": 42}, "id": "1", "type": "tool_call"}
    small = ScriptedModel([AIMessage("", tool_calls=[call])])  # type: ignore[list-item]  # a plain dict is one
    agent: Any = create_agent(
        ScriptedModel(["never"]),
        [look_up],
        middleware=[CascadeMiddleware([Tier("small", small)])],
        response_format=ToolStrategy(Found),
    )

    assert agent.invoke(ASK)["structured_response"] == Found(value=42)


@pytest.mark.parametrize("way", ["invoke", "ainvoke"])
async def test_a_budget_inside_counts_drafts_and_keeps_the_draft_when_it_is_spent(way: str) -> None:
    guard = BudgetGuard([Budget("run", calls=1, per="run")])
    small, own = ScriptedModel(["It is 42, perhaps."]), ScriptedModel(["It is 42."])
    cascade = CascadeMiddleware([Tier("small", small)], checks=[is_sure])
    budget = BudgetMiddleware(guard, when_exceeded="raise")
    agent: Any = create_agent(own, [look_up], middleware=[cascade, budget])

    state = agent.invoke(ASK) if way == "invoke" else await agent.ainvoke(ASK)

    assert state["messages"][-1].text == "It is 42, perhaps."
    assert (small.calls, own.calls) == (1, 0)


def test_a_tier_with_tools_bound_is_refused() -> None:
    bound = ScriptedModel(["4"]).bind_tools([look_up])

    with pytest.raises(ConfigurationError, match="without anything bound, got"):
        CascadeMiddleware([Tier("small", bound)])


def test_a_tier_cannot_have_the_name_of_the_agents_model() -> None:
    with pytest.raises(ConfigurationError, match="agent_model"):
        CascadeMiddleware([Tier("agent_model", ScriptedModel(["4"]))])


def inside(answer: Any) -> Any:
    """Return middleware that gives this for whatever the model says."""

    class Inside(AgentMiddleware[Any, Any, Any]):
        def wrap_model_call(self, request: Any, handler: Any) -> Any:
            handler(request)
            return answer

    return Inside()


def test_middleware_inside_may_answer_by_itself() -> None:
    small, own = ScriptedModel(["perhaps"]), ScriptedModel(["never"])
    cascade = CascadeMiddleware([Tier("small", small)], checks=[is_sure])

    whole: Any = create_agent(own, middleware=[cascade, inside(AIMessage("It is 42."))])
    state = whole.invoke(ASK)

    assert state["messages"][-1].text == "It is 42."
    assert own.calls == 0


def test_middleware_inside_that_gives_no_answer_is_told() -> None:
    small, own = ScriptedModel(["perhaps"]), ScriptedModel(["never"])
    cascade = CascadeMiddleware([Tier("small", small)], checks=[is_sure])
    silent = inside(ModelResponse(result=[HumanMessage("?")]))  # type: ignore[list-item]  # wrong on purpose

    with pytest.raises(ConfigurationError, match="expected an AIMessage among the results"):
        create_agent(own, middleware=[cascade, silent]).invoke(ASK)  # type: ignore[arg-type]  # a dict
