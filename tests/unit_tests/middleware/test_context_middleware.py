"""An agent whose requests stay short while its state keeps everything."""

import json
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from langgraph.checkpoint.memory import InMemorySaver

from langchain_tokenopt import UsageLedger, counter_for
from langchain_tokenopt.middleware import ContextMiddleware, PromptCacheMiddleware
from langchain_tokenopt.prompts import ContextWindow
from langchain_tokenopt.testing import LoopbackServer, Reply, ScriptedModel


@tool
def get_orders(page: int) -> str:
    """Return a page of the customer's orders, as JSON."""
    rows = [{"id": page * 100 + n, "title": "A book", "state": "sent"} for n in range(20)]
    return json.dumps(rows)


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_an_agent_in_a_loop_with_tools_stays_within_its_window(asynchronous: bool) -> None:
    def answer(request: Any) -> Reply:
        results = [m for m in request.messages if m["role"] == "tool"]
        page = len(results)
        if page < 12:
            call = {"name": "get_orders", "args": {"page": page}, "id": f"call_{page}"}
            return Reply(tool_calls=[call])
        return Reply(text="All pages are read.")

    window, ledger = ContextWindow("gpt-5-mini", max_tokens=1_500), UsageLedger()
    with LoopbackServer(answer) as server:
        agent = create_agent(
            ChatOpenAI(model="gpt-5-mini", base_url=server.base_url, api_key="any"),
            [get_orders],
            system_prompt="You read orders.",
            middleware=[ContextMiddleware(window), PromptCacheMiddleware()],
        )
        given: Any = {"messages": [HumanMessage("Read all my orders.")]}
        config: Any = {"callbacks": [ledger]}
        state = await agent.ainvoke(given, config) if asynchronous else agent.invoke(given, config)

    assert state["messages"][-1].text == "All pages are read."
    whole = [m for m in state["messages"] if isinstance(m, ToolMessage)]
    assert len(whole) == 12
    assert all(len(json.loads(str(m.content))) == 20 for m in whole)
    assert all(record.usage.input_tokens <= 1_500 for record in ledger.records())
    assert window.stats.edits > 0
    assert counter_for("gpt-5-mini").count_messages(state["messages"]) > 2 * 1_500
    # What was counted is what the server was sent.
    assert server.requests[-1].body["messages"][0] == {
        "role": "system",
        "content": "You read orders.",
    }


def test_a_checkpoint_keeps_what_was_left_out() -> None:
    window = ContextWindow("gpt-5-mini", max_tokens=200, recall=None)
    model = ScriptedModel([AIMessage("An answer of some length to that.")] * 30)
    agent = create_agent(
        model, middleware=[ContextMiddleware(window)], checkpointer=InMemorySaver()
    )
    thread: Any = {"configurable": {"thread_id": "1"}}
    for n in range(30):
        agent.invoke({"messages": [HumanMessage(f"Question {n}, about this or that.")]}, thread)

    assert len(agent.get_state(thread).values["messages"]) == 60
    assert max(len(request) for request in model.requests) < 25
