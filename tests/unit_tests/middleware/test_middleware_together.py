"""All middleware in one agent with tools, over HTTP, in every order that makes sense."""

import asyncio
import itertools
import threading
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import HumanMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI

from langchain_tokenopt.accounting import Budget, BudgetGuard, UsageLedger
from langchain_tokenopt.caches import MemoryCache
from langchain_tokenopt.errors import ConfigurationError
from langchain_tokenopt.middleware import (
    BudgetMiddleware,
    CascadeMiddleware,
    ContextMiddleware,
    LedgerMiddleware,
    PromptCacheMiddleware,
    ResponseCacheMiddleware,
    check_order,
)
from langchain_tokenopt.prompts import ContextWindow
from langchain_tokenopt.routing import Attempt, Tier, Verdict
from langchain_tokenopt.testing import ChatRequest, LoopbackServer, Reply, ScriptedModel

ASK: Any = {"messages": [HumanMessage("What is x?")]}
CALL = {"name": "look_up", "args": {"what": "x"}, "id": "c1", "type": "tool_call"}


@tool
def look_up(what: str) -> str:
    """Look something up."""
    return f"{what}: 42"


def answer(request: ChatRequest) -> Any:
    """The small model looks things up and then doubts; the large one is sure."""
    if request.body["messages"][-1]["role"] != "tool":
        return Reply(tool_calls=[CALL])
    return "It is 42, perhaps." if request.model == "gpt-5-mini" else "It is 42."


def sure(question: str, attempt: Attempt) -> Verdict:
    return Verdict(accepted="perhaps" not in attempt["text"], reason="looked for doubts")


def model(server: LoopbackServer, name: str) -> ChatOpenAI:
    return ChatOpenAI(model=name, base_url=server.base_url, api_key="any", max_retries=0)  # type: ignore[arg-type]


class Parts:
    """One of each kind, around the models of a server."""

    def __init__(self, server: LoopbackServer) -> None:
        self.ledger = UsageLedger()
        self.guard = BudgetGuard([Budget("run", calls=100, per="run")])
        self.large = model(server, "gpt-5.1")
        self.all: dict[str, Any] = {
            "context": ContextMiddleware(ContextWindow("gpt-5.1", max_tokens=8_000)),
            "cascade": CascadeMiddleware(
                [Tier("small", model(server, "gpt-5-mini"))], checks=[sure]
            ),
            "response_cache": ResponseCacheMiddleware(MemoryCache()),
            "budget": BudgetMiddleware(self.guard),
            "ledger": LedgerMiddleware(self.ledger),
            "prompt_cache": PromptCacheMiddleware(),
        }

    def agent(self, order: tuple[str, ...]) -> Any:
        return create_agent(
            self.large,
            [look_up],
            system_prompt="You look things up.",
            middleware=[self.all[name] for name in order],
        )


def works(order: tuple[str, ...]) -> bool:
    at = order.index
    return (
        at("cascade") < min(map(at, ("response_cache", "budget", "ledger", "prompt_cache")))
        and at("context") < at("prompt_cache")
    )  # fmt: skip


NAMES = ("context", "cascade", "response_cache", "budget", "ledger", "prompt_cache")
ORDERS = list(itertools.permutations(NAMES))
RIGHT = [order for order in ORDERS if works(order)]
WRONG = [order for order in ORDERS if not works(order)]


@pytest.mark.parametrize("way", ["invoke", "ainvoke"])
async def test_every_right_order_books_every_call_once_and_answers_alike(way: str) -> None:
    with LoopbackServer(answer) as server:
        for order in RIGHT:
            before, parts = len(server.requests), Parts(server)
            agent = parts.agent(order)

            states = [
                agent.invoke(ASK) if way == "invoke" else await agent.ainvoke(ASK) for _ in range(2)
            ]

            assert [state["messages"][-1].text for state in states] == ["It is 42."] * 2, order
            sent = [request.model for request in server.requests[before:]]
            # A step by the small model, its doubt, the large one; then the cache answers.
            assert sent == ["gpt-5-mini", "gpt-5-mini", "gpt-5.1"], order
            kinds = [record.kind for record in parts.ledger.records()]
            assert kinds == ["live"] * 3 + ["cache_hit"] * 3, order


def test_every_wrong_order_is_refused_with_its_reason() -> None:
    with LoopbackServer(answer) as server:
        parts = Parts(server)
        for order in WRONG:
            with pytest.raises(ConfigurationError, match="stands inside of"):
                check_order([parts.all[name] for name in order])
        for order in RIGHT:
            check_order([parts.all[name] for name in order])
        for order in WRONG[:: len(WRONG) // 12]:
            with pytest.raises(ConfigurationError, match="stands inside of"):
                parts.agent(order).invoke(ASK)
        assert server.requests == []


async def test_a_wrong_order_is_refused_in_asynchronous_agents_too() -> None:
    cascade = CascadeMiddleware([Tier("small", ScriptedModel(["4"]))])
    budget = BudgetMiddleware(BudgetGuard([Budget("run", calls=1)]))
    agent: Any = create_agent(ScriptedModel(["4"]), middleware=[budget, cascade])

    with pytest.raises(
        ConfigurationError, match="drafts of the cascade would not be counted; list Cascade"
    ):
        await agent.ainvoke(ASK)


async def test_identical_steps_at_the_same_time_are_one_call() -> None:
    slow = ScriptedModel(["It is 42."], when_exhausted="repeat_last", latency_s=0.05)
    ledger = LedgerMiddleware(UsageLedger())
    cache = ResponseCacheMiddleware(MemoryCache())
    for order in ([ledger, cache], [cache, ledger]):
        cache._cache.clear()
        before = slow.calls
        agent: Any = create_agent(slow, middleware=order)

        await asyncio.gather(*(agent.ainvoke(ASK) for _ in range(20)))
        threads = [threading.Thread(target=agent.invoke, args=(ASK,)) for _ in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert slow.calls == before + 1


async def test_a_ledger_in_the_config_too_books_once() -> None:
    ledger = UsageLedger()
    agent: Any = create_agent(ScriptedModel(["4", "4"]), middleware=[LedgerMiddleware(ledger)])

    agent.invoke(ASK, {"callbacks": [ledger]})
    await agent.ainvoke(ASK, {"callbacks": [ledger]})

    assert ledger.totals().calls == 2
