"""Agents whose requests are laid out for the provider's cache."""

from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import ModelFallbackMiddleware
from langchain.chat_models import init_chat_model
from langchain_anthropic import ChatAnthropic
from langchain_core.callbacks import CallbackManager
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI

from langchain_tokenopt.accounting import UsageLedger
from langchain_tokenopt.caches import MemoryCache
from langchain_tokenopt.errors import ConfigurationError
from langchain_tokenopt.middleware import (
    LedgerMiddleware,
    PromptCacheMiddleware,
    ResponseCacheMiddleware,
)
from langchain_tokenopt.prompts import CacheHints
from langchain_tokenopt.testing import LoopbackServer, PromptCache, Reply, ScriptedModel

LONG = "You answer for a bookshop. " * 400
ASK: Any = {"messages": [HumanMessage("Which books?")]}


@tool
def search(query: str) -> str:
    """Search the books."""
    return "Sea Atlas"


@tool
def order(book: str) -> str:
    """Order a book."""
    return "ordered"


def searching(**options: Any) -> ScriptedModel:
    call = {"name": "search", "args": {"query": "x"}, "id": "1", "type": "tool_call"}
    return ScriptedModel([AIMessage("", tool_calls=[call]), "Sea Atlas."], **options)


@pytest.mark.parametrize("way", ["invoke", "ainvoke"])
async def test_an_openai_agent_keeps_one_key_through_its_loop(way: str) -> None:
    model = searching(model_name="gpt-5.1", provider="openai")
    agent = create_agent(
        model, [search, order], system_prompt=LONG, middleware=[PromptCacheMiddleware()]
    )
    answer = agent.invoke(ASK) if way == "invoke" else await agent.ainvoke(ASK)

    assert answer["messages"][-1].text == "Sea Atlas."
    first, second = model.keywords
    assert first["prompt_cache_key"] == second["prompt_cache_key"]
    assert [each["function"]["name"] for each in first["tools"]] == ["order", "search"]


def test_an_anthropic_agent_marks_prefix_and_history() -> None:
    model = searching(model_name="claude-sonnet-4-5", provider="anthropic")
    agent = create_agent(
        model,
        [search, order],
        system_prompt=LONG,
        middleware=[PromptCacheMiddleware(CacheHints(lifetime="1h"))],
    )
    agent.invoke(ASK)

    mark = {"type": "ephemeral", "ttl": "1h"}
    first, second = model.requests
    assert first[0].content[-1]["cache_control"] == mark  # type: ignore[index,call-overload]  # a block
    assert first[1].content == "Which books?"
    assert second[-1].content[-1]["cache_control"] == mark  # type: ignore[index,call-overload]  # a block
    assert "cache_control" not in model.keywords[0]


def test_tools_alone_are_marked_for_anthropic_in_its_own_form() -> None:
    @tool(description="word " * 2_000)
    def zebra(query: str) -> str:
        return query

    seen: list[Any] = []

    class Watching(ChatAnthropic):
        def _generate(self, messages: Any, stop: Any = None, *args: Any, **kwargs: Any) -> Any:
            seen.append(self._get_request_payload(messages, stop=stop, **kwargs))
            raise OSError("not sent")

    model = Watching(model_name="claude-sonnet-4-5", api_key="any", timeout=1, stop=None)  # type: ignore[arg-type]  # a secret
    agent = create_agent(model, [zebra, search], middleware=[PromptCacheMiddleware()])
    with pytest.raises(OSError, match="not sent"):
        agent.invoke(ASK)

    tools = seen[0]["tools"]
    assert [each["name"] for each in tools] == ["search", "zebra"]
    assert tools[-1]["cache_control"] == {"type": "ephemeral"}


def test_a_fallback_gets_the_hints_of_its_own_provider() -> None:
    first = ScriptedModel([OSError("down")], model_name="claude-sonnet-4-5", provider="anthropic")
    second = ScriptedModel(["ok"], model_name="gpt-5.1", provider="openai")
    agent = create_agent(
        first,
        system_prompt=LONG,
        middleware=[ModelFallbackMiddleware(second), PromptCacheMiddleware()],
    )

    assert agent.invoke(ASK)["messages"][-1].text == "ok"
    assert isinstance(first.requests[0][0].content, list)
    assert second.requests[0][0] == SystemMessage(LONG)
    assert second.keywords[0]["prompt_cache_key"]


def test_lines_that_change_are_moved_behind_what_does_not() -> None:
    def cached(middleware: list[Any]) -> float:
        def respond(request: Any) -> Reply:
            return Reply(text="ok")

        with LoopbackServer(respond, prompt_cache=PromptCache()) as server:
            chat = ChatOpenAI(model="gpt-5.1", base_url=server.base_url, api_key="any")
            for n in range(4):
                prompt = f"Current time: 10:3{n}\n{LONG}"
                create_agent(chat, system_prompt=prompt, middleware=middleware).invoke(ASK)
            read = sum(u["prompt_tokens_details"]["cached_tokens"] for u in server.billed)
            total = sum(u["prompt_tokens"] for u in server.billed)
            last = server.requests[-1].body["messages"]
        if middleware:
            assert last[-1]["content"] == (
                "<context>\nCurrent time: 10:33\n</context>\n\nWhich books?"
            )
        return float(read / total)

    assert cached([]) == 0
    assert cached([PromptCacheMiddleware(volatile=["^Current time:"])]) > 0.7
    with pytest.raises(ConfigurationError, match="regular expressions"):
        PromptCacheMiddleware(volatile=["("])


def test_the_thread_chooses_the_shard() -> None:
    model = ScriptedModel(
        ["ok"], model_name="gpt-5.1", provider="openai", when_exhausted="repeat_last"
    )
    hints = CacheHints(shards=8, shard_by="thread_id")
    agent = create_agent(model, system_prompt=LONG, middleware=[PromptCacheMiddleware(hints)])
    for n in range(20):
        agent.invoke(ASK, {"configurable": {"thread_id": f"t{n % 5}"}})

    keys = [each["prompt_cache_key"] for each in model.keywords]
    assert keys[:5] * 4 == keys
    assert len(set(keys)) > 1


def test_a_provider_without_rules_is_sent_what_it_was_sent() -> None:
    model = ScriptedModel(["ok"], model_name="llama-3", provider="ollama")
    agent = create_agent(model, system_prompt=LONG, middleware=[PromptCacheMiddleware()])
    agent.invoke(ASK)

    assert model.requests == [[SystemMessage(LONG), *ASK["messages"]]]
    assert set(model.keywords[0]) <= {"stop"}


@pytest.mark.parametrize("way", ["invoke", "ainvoke"])
async def test_a_model_that_the_config_chooses_is_asked_as_it_is(way: str) -> None:
    with LoopbackServer(lambda request: f"{request.model} says hello") as server:
        model: Any = init_chat_model(
            "gpt-5-mini", model_provider="openai", configurable_fields=("model",),
            base_url=server.base_url, api_key="any",
        )  # fmt: skip
        cache, ledger = MemoryCache(), UsageLedger()
        middleware: list[Any] = [
            ResponseCacheMiddleware(cache), LedgerMiddleware(ledger), PromptCacheMiddleware(),
        ]  # fmt: skip
        agent = create_agent(model, system_prompt=LONG, middleware=middleware)
        config: Any = {"configurable": {"model": "gpt-5"}}
        for _ in range(2):
            state = (
                agent.invoke(ASK, config) if way == "invoke" else await agent.ainvoke(ASK, config)
            )

    assert state["messages"][-1].text == "gpt-5 says hello"
    assert len(server.requests) == 2
    assert [record.model for record in ledger.records()] == ["gpt-5", "gpt-5"]


@pytest.mark.parametrize(
    ("asked", "sent"),
    [
        ("Now: 9:30", [{"type": "text", "text": "<context>\nNow: 9:30\n</context>"}, "blocks"]),
        ("No time here", ["blocks"]),
    ],
)
def test_lines_that_change_are_put_before_the_blocks_of_a_question(
    asked: str, sent: list[Any]
) -> None:
    model = ScriptedModel(["ok"])
    block = {"type": "text", "text": "Which books?"}
    agent: Any = create_agent(
        model, system_prompt=f"Be brief.\n{asked}",
        middleware=[PromptCacheMiddleware(volatile=["^Now:"])],
    )  # fmt: skip

    agent.invoke({"messages": [HumanMessage([block])]})

    system, question = model.requests[0]
    assert question.content == [block if part == "blocks" else part for part in sent]
    assert (asked in system.text) == (len(sent) == 1)


def test_callbacks_of_the_model_hear_what_the_ledger_hears() -> None:
    own, ledger = UsageLedger(), UsageLedger()
    model = ScriptedModel(["ok"], callbacks=CallbackManager([own]))

    create_agent(model, middleware=[LedgerMiddleware(ledger)]).invoke(ASK)

    assert [len(list(each.records())) for each in (own, ledger)] == [1, 1]
    assert len(model.callbacks.handlers) == 1  # type: ignore[union-attr]  # the manager
