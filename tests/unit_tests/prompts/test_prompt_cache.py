"""Prompts laid out for providers' caches, and what is told to each."""

import json
import random
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_anthropic import ChatAnthropic
from langchain_core.documents import Document
from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel

from langchain_tokenopt.caches import CachedChatModel, MemoryCache
from langchain_tokenopt.errors import ConfigurationError
from langchain_tokenopt.prompts import (
    CacheHints,
    CacheRules,
    Example,
    HintedChatModel,
    PromptBuilder,
    RequestShape,
    break_even_uses,
    bundled_rules,
    canonical_json,
    first_divergence,
    hinted,
    lifetime_advice,
    needed_hit_share,
    rule_for,
    shards_for,
    size_advice,
)
from langchain_tokenopt.prompts.prefixes import PrefixIndex
from langchain_tokenopt.testing import LoopbackServer, PromptCache, ScriptedModel

LONG = "You answer for a bookshop. " * 400  # more than every minimum


@tool
def search(query: str) -> str:
    """Search the books."""
    return query


@tool
def order(book: str, count: int) -> str:
    """Order a book."""
    return f"{count} {book}"


def openai(model: str = "gpt-5-mini", **options: Any) -> ScriptedModel:
    return ScriptedModel(
        ["ok"], model_name=model, provider="openai", when_exhausted="repeat_last", **options
    )


def told(model: str, provider: str, *messages: BaseMessage, **options: Any) -> Any:
    keywords = options.pop("keywords", {})
    hints = CacheHints(**options)
    return hinted(list(messages), keywords, model=model, provider=provider, hints=hints)


# --- rules ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "provider", "minimum", "read", "write"),
    [
        ("gpt-4o-mini", "openai", 1024, "0.5", "1"),
        ("gpt-4.1-mini-2025-04-14", "openai", 1024, "0.25", "1"),
        ("gpt-5-mini", "azure", 1024, "0.1", "1"),
        ("gpt-5.1", "openai", 1024, "0.1", "1"),
        ("gpt-5.6-sol", "openai", 1024, "0.1", "1.25"),
        ("gpt-6.1-sol", None, 1024, "0.1", "1.25"),
        ("openai/gpt-4o", None, 1024, "0.5", "1"),
        ("ft:gpt-4o:acme::a1", "openai", 1024, "0.5", "1"),
        ("claude-haiku-4-5-20251001", "anthropic", 4096, "0.1", "1.25"),
        ("anthropic/claude-opus-5", None, 512, "0.1", "1.25"),
        ("claude-sonnet-4-5", "anthropic", 1024, "0.1", "1.25"),
        ("gemini-2.5-pro", "google_genai", 2048, "0.1", "1"),
        ("deepseek-chat", "deepseek", 64, "0.1", "1"),
    ],
)
def test_every_model_has_its_rule(
    model: str, provider: str | None, minimum: int, read: str, write: str
) -> None:
    rule = rule_for(model, provider=provider)

    assert (rule.minimum_tokens, rule.read_factor) == (minimum, Decimal(read))
    assert rule.lifetime().write_factor == Decimal(write)
    assert rule.source


def test_an_unknown_model_has_none() -> None:
    assert bundled_rules().find("llama-3", provider="openai") is None
    with pytest.raises(ConfigurationError, match="'llama-3'"):
        rule_for("llama-3")


def test_own_rules_come_first(tmp_path: Path) -> None:
    path = tmp_path / "rules.json"
    own = {
        "provider": "anthropic", "models": ["claude-haiku-4-5*"], "minimum_tokens": 2000,
        "automatic": False, "read_factor": 0.1, "lifetimes": [
            {"name": "5m", "seconds": 300, "write_factor": "1.25"}], "source": "measured",
    }  # fmt: skip
    path.write_text(json.dumps({"as_of": "2026-11-20", "rules": [own]}))
    rules = CacheRules.load(path)

    found = rules.find("claude-haiku-4-5", provider="anthropic")
    assert found is not None
    assert (found.minimum_tokens, found.read_factor) == (2000, Decimal("0.1"))
    assert rules.find("gpt-5", provider="openai") == rule_for("gpt-5", provider="openai")


@pytest.mark.parametrize(
    ("text", "said"),
    [("{", "not JSON"), ('{"as_of": "2026-01-01", "rules": [{}]}', r"rules\.0\.provider")],
)
def test_rules_that_are_wrong_say_where(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "rules.json"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=said):
        CacheRules.load(path)
    with pytest.raises(ConfigurationError, match="cannot read"):
        CacheRules.load(tmp_path / "none.json")


# --- arithmetic -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("write", "read", "uses", "share"),
    [("1.25", "0.1", 2, 22), ("2", "0.1", 3, 53), ("2.5", "0.1", 3, 62), ("1", "0.5", 1, 0)],
)
def test_break_even_is_where_the_sums_cross(write: str, read: str, uses: int, share: int) -> None:
    w, r = Decimal(write), Decimal(read)
    assert break_even_uses(write_factor=w, read_factor=r) == uses
    needed = needed_hit_share(write_factor=w, read_factor=r)
    assert needed is not None
    assert round(needed * 100) == share


@given(write=st.decimals("0.5", "5", places=2), read=st.decimals("0", "1.5", places=2))
def test_caching_pays_from_the_break_even_on_and_not_before(write: Decimal, read: Decimal) -> None:
    uses = break_even_uses(write_factor=write, read_factor=read)

    def cost(n: int) -> Decimal:
        return write + (n - 1) * read

    if uses is None:
        assert cost(10_000) >= 10_000 or write > 1
    else:
        assert cost(uses) < uses or (uses == 1 and write == 1)
        assert uses == 1 or cost(uses - 1) >= uses - 1


def test_the_lifetime_that_pays_depends_on_how_soon_a_prefix_is_used_again() -> None:
    rule = rule_for("claude-sonnet-4-5")

    assert lifetime_advice(rule, [60.0] * 20).lifetime == "5m"
    assert lifetime_advice(rule, [1_800.0] * 20).lifetime == "1h"
    assert lifetime_advice(rule, [90_000.0] * 20).lifetime is None
    assert lifetime_advice(rule, []).lifetime is None
    assert lifetime_advice(rule_for("gpt-4o"), [90_000.0]).lifetime == "in_memory"
    with pytest.raises(ConfigurationError, match="0 seconds or more"):
        lifetime_advice(rule, [-1.0])


def test_padding_is_advised_only_where_the_arithmetic_pays() -> None:
    rule = rule_for("gpt-5")

    assert size_advice(rule, tokens=2_000, hit_share=0.9).action == "cached"
    pays = size_advice(rule, tokens=900, hit_share=0.95)
    assert pays.action == "pad"
    assert pays.cost_padded < pays.cost_now
    assert "900 tokens cost 900 a use uncached; padded to 1024" in str(pays)
    assert size_advice(rule, tokens=100, hit_share=0.95).action == "leave"
    assert size_advice(rule_for("claude-haiku-4-5"), tokens=900, hit_share=0.9).action == "pad"
    assert size_advice(rule_for("claude-haiku-4-5"), tokens=700, hit_share=0.9).action == "leave"
    with pytest.raises(ConfigurationError, match=r"got 1\.5"):
        size_advice(rule, tokens=1, hit_share=1.5)


def test_a_prefix_that_is_long_enough_or_never_cheaper_is_said_so() -> None:
    rule = rule_for("gpt-5", provider="openai")

    advice = size_advice(rule, tokens=2_000, hit_share=0.9)

    assert advice.cost_padded == advice.cost_now
    assert str(advice) == "2000 tokens are enough for the minimum of 1024"
    assert needed_hit_share(write_factor=Decimal("1.25"), read_factor=Decimal(1)) is None


def test_shards_follow_the_rate() -> None:
    assert [shards_for(rate) for rate in (0, 15, 16, 45.2)] == [1, 1, 2, 3]


# --- hints ------------------------------------------------------------------------------------

SYSTEM, QUESTION = SystemMessage(LONG), HumanMessage("Which books?")
HISTORY = (HumanMessage("Hello"), AIMessage("Hi"), QUESTION)


def test_openai_gets_a_key_that_changes_only_with_the_prefix() -> None:
    def key(*messages: BaseMessage, tools: Sequence[Any] = ()) -> str:
        request = told("gpt-5-mini", "openai", *messages, keywords={"tools": list(tools)})
        return str(request.keywords["prompt_cache_key"])

    same = {
        key(SYSTEM, QUESTION, tools=[search, order]),
        key(SYSTEM, HumanMessage("Another?"), tools=[order, search]),
        key(SYSTEM, *HISTORY, tools=[search, order]),
    }
    assert len(same) == 1
    assert key(SystemMessage(LONG + "."), QUESTION, tools=[search, order]) not in same
    assert key(SYSTEM, QUESTION, tools=[search]) not in same
    assert len(next(iter(same))) <= 64


def test_models_before_5_6_get_no_options_and_no_marks() -> None:
    request = told("gpt-5.1", "openai", SYSTEM, QUESTION)

    assert set(request.keywords) == {"prompt_cache_key"}
    assert request.messages == [SYSTEM, QUESTION]
    assert request.cacheable


def test_a_longer_retention_is_asked_only_of_models_that_take_it() -> None:
    asked = {
        model: told(model, "openai", SYSTEM, QUESTION, lifetime="24h").keywords.get(
            "prompt_cache_retention"
        )
        for model in ("gpt-5.1", "gpt-4.1", "gpt-4o", "gpt-5-mini", "gpt-5.5", "gpt-5.6-sol")
    }
    # gpt-5.5 keeps prefixes for 24 hours anyway; 5.6 has options instead.
    assert asked == {
        "gpt-5.1": "24h", "gpt-4.1": "24h", "gpt-4o": None, "gpt-5-mini": None,
        "gpt-5.5": None, "gpt-5.6-sol": None,
    }  # fmt: skip


def test_from_5_6_on_a_single_question_is_not_written() -> None:
    request = told("gpt-5.6-sol", "openai", SYSTEM, QUESTION)

    assert request.keywords["prompt_cache_options"] == {"mode": "explicit", "ttl": "30m"}
    (block,) = request.messages[0].content
    assert isinstance(block, dict)
    assert block["prompt_cache_breakpoint"] == {"mode": "explicit"}
    assert request.messages[1] == QUESTION
    going_on = told("gpt-5.6-sol", "openai", SYSTEM, *HISTORY)
    assert "prompt_cache_options" not in going_on.keywords  # the next turn reads what this writes


def test_a_prefix_below_the_minimum_is_not_marked() -> None:
    short = SystemMessage("Be brief.")

    request = told("gpt-5.6-sol", "openai", short, QUESTION)
    assert not request.cacheable
    assert request.messages == [short, QUESTION]
    # No mark and explicit mode: nothing is written, so nothing is paid for it.
    assert request.keywords["prompt_cache_options"]["mode"] == "explicit"
    assert told("claude-sonnet-4-5", "anthropic", short, QUESTION).messages == [short, QUESTION]


def test_anthropic_gets_marks_on_the_prefix_and_on_the_end_of_a_conversation() -> None:
    def marks(*messages: BaseMessage, **options: Any) -> list[Any]:
        request = told("claude-sonnet-4-5", "anthropic", *messages, **options)
        assert request.keywords == {}
        return [
            message.content[-1].get("cache_control")  # type: ignore[union-attr]  # a block
            if isinstance(message.content, list)
            else None
            for message in request.messages
        ]

    mark = {"type": "ephemeral"}
    assert marks(SYSTEM, QUESTION) == [mark, None]
    assert marks(SYSTEM, *HISTORY) == [mark, None, None, mark]
    hour = {"type": "ephemeral", "ttl": "1h"}
    assert marks(SYSTEM, QUESTION, lifetime="1h") == [hour, None]
    assert marks(SYSTEM, QUESTION, lifetime="24h") == [mark, None]


def test_a_lifetime_is_asked_for_by_its_name() -> None:
    question = [SystemMessage(LONG), HumanMessage("?")]

    hour = told("claude-sonnet-4-5", "anthropic", *question, lifetime="1h")

    assert hour.messages[0].content[-1]["cache_control"] == {"type": "ephemeral", "ttl": "1h"}
    rule = rule_for("claude-sonnet-4-5", provider="anthropic")
    dear, plain = (
        size_advice(rule, tokens=900, hit_share=0.5, lifetime=name) for name in ("1h", "5m")
    )
    assert dear.cost_padded > plain.cost_padded
    with pytest.raises(ConfigurationError, match="keeps prefixes for 5m, 1h, got '2h'"):
        size_advice(rule, tokens=900, hit_share=0.5, lifetime="2h")


def test_a_message_without_content_is_not_marked() -> None:
    conversation = [SystemMessage(LONG), HumanMessage("Go."), called({}), AIMessage("")]

    hints = told("claude-sonnet-4-5", "anthropic", *conversation)

    assert "cache_control" in str(hints.messages[0].content)
    assert hints.messages[-1].content == ""


@pytest.mark.parametrize("name", ["", "n" * 33])
def test_a_name_that_no_key_can_hold_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match="name must have 1 to 32 characters"):
        CacheHints(name=name)


def test_tools_without_a_system_prompt_are_marked_themselves() -> None:
    many = [
        {"name": f"tool{n}", "description": "word " * 200, "input_schema": {}} for n in range(9)
    ]
    request = told("claude-sonnet-4-5", "anthropic", QUESTION, keywords={"tools": many})

    marked = [each for each in request.keywords["tools"] if "cache_control" in each]
    assert [each["name"] for each in marked] == ["tool8"]
    assert "cache_control" not in many[-1]


def test_hints_of_another_provider_are_taken_off() -> None:
    anthropic = told("claude-sonnet-4-5", "anthropic", SYSTEM, *HISTORY)
    sent = {"prompt_cache_key": "k", "cache_control": {"type": "ephemeral"}, "seed": 1}

    for model, provider in (("gpt-5.1", "openai"), ("llama-3", "ollama")):
        request = told(model, provider, *anthropic.messages, keywords=sent)
        assert "cache_control" not in json.dumps(
            [message.content for message in request.messages] + [request.keywords]
        )
        assert request.keywords["seed"] == 1
    assert "prompt_cache_key" not in request.keywords


def test_shards_keep_a_conversation_together() -> None:
    def keys(**metadata: Any) -> set[str]:
        hints = CacheHints(shards=4, shard_by="thread_id")
        found = set()
        for n in range(40):
            request = hinted(
                [SYSTEM, HumanMessage(f"{n}?")], {}, model="gpt-5", provider="openai",
                hints=hints, metadata=metadata,
            )  # fmt: skip
            found.add(request.keywords["prompt_cache_key"])
        return found

    assert len(keys(thread_id="t1")) == 1
    assert len({next(iter(keys(thread_id=f"t{n}"))) for n in range(40)}) == 4
    assert len(keys()) == 4
    with pytest.raises(ConfigurationError, match="at least 1, got 0"):
        CacheHints(shards=0)


def test_what_the_caller_passed_is_not_changed() -> None:
    blocks: list[Any] = [{"type": "text", "text": LONG}]
    message = SystemMessage(blocks)
    told("claude-sonnet-4-5", "anthropic", message, QUESTION)

    assert message.content == [{"type": "text", "text": LONG}]


# --- the models of the providers themselves ---------------------------------------------------


def test_chat_anthropic_sends_the_marks() -> None:
    model = ChatAnthropic(model_name="claude-sonnet-4-5", api_key="any", timeout=1, stop=None)
    request = told("claude-sonnet-4-5", "anthropic", SYSTEM, *HISTORY)
    payload = model._get_request_payload(request.messages, **request.keywords)

    assert payload["system"][-1]["cache_control"] == {"type": "ephemeral"}
    assert payload["messages"][-1]["content"][-1]["cache_control"] == {"type": "ephemeral"}
    assert "cache_control" not in json.dumps(payload["messages"][:-1])


@pytest.mark.parametrize("way", ["invoke", "stream", "ainvoke", "astream"])
async def test_chat_openai_sends_key_options_and_sorted_tools(way: str) -> None:
    with LoopbackServer(["ok"]) as server:
        chat = ChatOpenAI(
            model="gpt-5.6-sol", base_url=server.base_url, api_key="any", use_responses_api=False
        )
        model = HintedChatModel(chat).bind_tools([search, order])
        given = [SYSTEM, QUESTION]
        if way == "invoke":
            model.invoke(given)
        elif way == "stream":
            list(model.stream(given))
        elif way == "ainvoke":
            await model.ainvoke(given)
        else:
            assert [chunk async for chunk in model.astream(given)]
        (request,) = server.requests

    body = request.body
    assert body["prompt_cache_key"].startswith("tokenopt-")
    assert body["prompt_cache_options"] == {"mode": "explicit", "ttl": "30m"}
    assert [each["function"]["name"] for each in body["tools"]] == ["order", "search"]
    assert body["messages"][0]["content"][0]["prompt_cache_breakpoint"] == {"mode": "explicit"}


def test_a_fallback_to_another_provider_sends_none_of_the_first_ones_hints() -> None:
    first = ScriptedModel([OSError("down")], model_name="claude-sonnet-4-5", provider="anthropic")
    second = openai()
    model = HintedChatModel(first).with_fallbacks([HintedChatModel(second)])

    assert model.invoke([SYSTEM, QUESTION]).text == "ok"
    assert isinstance(first.requests[0][0].content, list)
    assert second.requests[0] == [SYSTEM, QUESTION]


def test_hints_do_not_change_the_key_of_a_cached_answer() -> None:
    cache, upstream = MemoryCache(), openai()
    CachedChatModel(upstream, cache=cache).invoke([SYSTEM, QUESTION])
    CachedChatModel(HintedChatModel(upstream), cache=cache).invoke([SYSTEM, QUESTION])

    assert upstream.calls == 1


# --- the builder ------------------------------------------------------------------------------


def test_the_builder_puts_first_what_never_changes() -> None:
    builder = PromptBuilder(
        "You answer for a bookshop.",
        tools=[search, order],
        examples=[Example(question="Open?", answer="From nine.")],
        documents=[Document("B", id="2"), Document("A", id="1"), "C"],
    )
    messages = builder.messages(
        {
            "query": "Which books?",
            "history": [HumanMessage("Hello"), AIMessage("Hi")],
            "documents": [Document("Found", metadata={"page": 3})],
            "context": {"user": "ann", "now": "10:31", "cart": {"b", "a"}},
        }
    )

    assert [message.type for message in messages] == [
        "system", "human", "ai", "human", "ai", "human",
    ]  # fmt: skip
    assert str(messages[0].text).index("A") < str(messages[0].text).rindex("B")
    assert messages[-1].text == (
        '<document {"page":3}>\nFound\n</document>\n\n<context>\n'
        '{"cart":["a","b"],"now":"10:31","user":"ann"}\n</context>\n\nWhich books?'
    )
    assert [each.name for each in builder.tools] == ["order", "search"]


def test_a_question_with_an_image_stays_behind_what_was_found() -> None:
    query: Any = [{"type": "text", "text": "What is this?"}, image("a")]
    builder = PromptBuilder("Be brief.")

    (_, alone), (_, found) = (
        builder.messages({"query": query}),
        builder.messages({"query": query, "context": "now"}),
    )

    assert alone.content == query
    assert found.content == [{"type": "text", "text": "<context>\nnow\n</context>"}, *query]


@given(seed=st.integers(0, 1_000))
def test_the_order_in_which_things_are_given_does_not_matter(seed: int) -> None:
    rng = random.Random(seed)
    tools, documents = [search, order], ["one", "two", "three"]
    rng.shuffle(tools)
    rng.shuffle(documents)
    builder = PromptBuilder("Be brief.", tools=tools, documents=documents)

    first = PromptBuilder("Be brief.", tools=[search, order], documents=["one", "two", "three"])
    assert builder.version == first.version
    assert builder.messages({"query": "?"}) == first.messages({"query": "?"})
    assert PromptBuilder("Be brief!", tools=tools, documents=documents).version != first.version


def test_the_builder_marks_its_documents_and_examples_too() -> None:
    upstream = ScriptedModel(["ok"], model_name="claude-sonnet-4-5", provider="anthropic")
    builder = PromptBuilder(
        "Be brief.", examples=[Example(question="Open?", answer="word " * 2_000)], name="shop"
    )
    builder.bind(upstream).invoke({"query": "Which books?"})

    system, _, example, question = upstream.requests[0]
    assert system.content == "Be brief."
    assert example.content[-1]["cache_control"] == {"type": "ephemeral"}  # type: ignore[index,call-overload]  # a block
    assert question.content == "Which books?"


def test_the_builder_says_whether_its_prompt_is_long_enough() -> None:
    builder = PromptBuilder("word " * 900)

    advice = builder.advice(openai("gpt-5"), hit_share=0.95)
    assert advice is not None
    assert advice.action == "pad"
    assert builder.advice(openai("llama-3"), hit_share=0.9) is None


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "expected a query"),
        ({"query": "?", "qeury": "!"}, "got ..qeury', 'query'.$"),
        ({"query": "?", "history": [SystemMessage("It is 10:31.")]}, "give what it says as cont"),
    ],
)
def test_the_builder_refuses_what_it_cannot_lay_out(given: Any, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        PromptBuilder("Be brief.").messages(given)
    with pytest.raises(ConfigurationError, match="expected a system prompt"):
        PromptBuilder(" ")


def test_the_builder_raises_the_cached_share_on_a_real_server() -> None:
    def share(asks: Any) -> float:
        with LoopbackServer(lambda _: "ok", prompt_cache=PromptCache()) as server:
            chat = ChatOpenAI(model="gpt-5-mini", base_url=server.base_url, api_key="any")
            for n in range(6):
                asks(chat, n)
            billed = server.billed
        read = sum(usage["prompt_tokens_details"]["cached_tokens"] for usage in billed)
        return float(read / sum(usage["prompt_tokens"] for usage in billed))

    builder = PromptBuilder(LONG)

    def before(chat: Any, n: int) -> None:
        chat.invoke([SystemMessage(f"It is 10:{31 + n}. {LONG}"), HumanMessage("Books?")])

    def after(chat: Any, n: int) -> None:
        builder.bind(chat).invoke({"query": "Books?", "context": {"now": f"10:{31 + n}"}})

    assert share(before) == 0
    assert share(after) > 0.75


# --- why a prefix was not used ----------------------------------------------------------------


def shape(*messages: BaseMessage, model: str = "gpt-5", **parameters: Any) -> RequestShape:
    return RequestShape.of(messages or (SYSTEM, QUESTION), model=model, parameters=parameters)


def openai_tool(name: str, about: str = "x") -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "description": about}}


def called(arguments: dict[str, Any]) -> AIMessage:
    return AIMessage("", tool_calls=[{"name": "weather", "args": arguments, "id": "1"}])


def image(name: str, **extras: Any) -> dict[str, Any]:
    return {"type": "image", "url": f"https://example.com/{name}.png", **extras}


CONVERSATION = (SYSTEM, *HISTORY, AIMessage("These."), HumanMessage("Thanks"))
TIMES = ("2026-11-23 10:31", "10:31:05", "Monday", "Nov 23", "23.11.2026", "1763894400")
LATER = ("2026-11-24 09:00", "11:00:00", "Tuesday", "Nov 24", "24.11.2026", "1763898000")


@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [
        (shape(), shape(model="gpt-5-mini"), "model_changed"),
        (shape(), shape(service_tier="flex"), "service_tier_changed"),
        (
            shape(prompt_cache_key="a"),
            shape(prompt_cache_key="b"),
            "prompt_cache_key_changed",
        ),
        (shape(), shape(response_format={"type": "json_object"}), "text_format_changed"),
        (shape(), shape(reasoning_effort="high"), "reasoning_effort_changed"),
        (
            shape(reasoning={"effort": "low"}),
            shape(reasoning={"effort": "high"}),
            "reasoning_effort_changed",
        ),
        (shape(verbosity="low"), shape(verbosity="high"), "verbosity_changed"),
        (
            shape(tools=[openai_tool("a"), openai_tool("b")]),
            shape(tools=[openai_tool("b"), openai_tool("a")]),
            "tools_reordered",
        ),
        (shape(tools=[openai_tool("a")]), shape(tools=[openai_tool("b")]), "tools_changed"),
        (shape(tools=[openai_tool("a")]), shape(), "tools_changed"),
        (
            shape(tools=[openai_tool("a")]),
            shape(tools=[openai_tool("a", "another")]),
            "tools_changed",
        ),
        (
            shape(SYSTEM, QUESTION, called({"city": "Rome"})),
            shape(SYSTEM, QUESTION, called({"city": "Oslo"})),
            "input_changed",
        ),
        (
            shape(SYSTEM, HumanMessage(["What is this?", image("a")])),
            shape(SYSTEM, HumanMessage(["What is this?", image("b")])),
            "input_changed",
        ),
        (shape(*CONVERSATION), shape(SYSTEM, *CONVERSATION[3:]), "context_compacted"),
        (
            shape(SYSTEM, ToolMessage("r" * 500, tool_call_id="1"), AIMessage("a"), QUESTION),
            shape(SYSTEM, ToolMessage("[cleared]", tool_call_id="1"), AIMessage("a"), QUESTION),
            "context_compacted",
        ),
        (
            shape(SystemMessage("Sorted: {'b', 'a', 'c'}."), QUESTION),
            shape(SystemMessage("Sorted: {'a', 'c', 'b'}."), QUESTION),
            "unordered_in_prefix",
        ),
        (
            shape(SystemMessage("Be  brief."), QUESTION),
            shape(SystemMessage("Be brief."), QUESTION),
            "whitespace_changed",
        ),
        (
            shape(SystemMessage("You help Ann. " + LONG), QUESTION),
            shape(SystemMessage("You help Bob. " + LONG), QUESTION),
            "input_changed",
        ),
        (
            shape(SystemMessage("Run 0b9c3f2e-8a64-4c1f-9f62-0d5a7c1e2b3a"), QUESTION),
            shape(SystemMessage("Run 7d1f0a34-1b2c-4d5e-8f90-a1b2c3d4e5f6"), QUESTION),
            "random_id_in_prefix",
        ),
        *(
            (
                shape(SystemMessage(f"It is {old}. {LONG}"), QUESTION),
                shape(SystemMessage(f"It is {new}. {LONG}"), HumanMessage("Other?")),
                "time_in_prefix",
            )
            for old, new in zip(TIMES, LATER, strict=True)
        ),
    ],
)
def test_the_reason_is_told(before: RequestShape, after: RequestShape, reason: str) -> None:
    parted = first_divergence(before, after)

    assert parted is not None
    assert parted.reason == reason
    assert parted.advice in str(parted)


@pytest.mark.parametrize("n", range(2, len(CONVERSATION) + 1))
def test_a_conversation_that_goes_on_parts_nowhere(n: int) -> None:
    assert first_divergence(shape(*CONVERSATION[:n]), shape(*CONVERSATION)) is None


def test_a_last_message_that_only_became_longer_parts_nowhere() -> None:
    assert first_divergence(shape(SYSTEM), shape(SystemMessage(f"{SYSTEM.text} And kind."))) is None
    parted = first_divergence(shape(), shape(SystemMessage(f"{SYSTEM.text} And kind."), QUESTION))
    assert parted is not None


def test_marks_and_ids_of_blocks_are_no_part_of_the_prompt() -> None:
    marked = image("a", cache_control={"type": "ephemeral"}, id="1", index=0)
    text = {"type": "text", "text": "What is this?", "cache_control": {"type": "ephemeral"}}

    assert shape(HumanMessage(["What is this?", image("a")])) == shape(HumanMessage([text, marked]))


def test_where_it_parts_and_what_that_costs_is_told() -> None:
    parted = first_divergence(
        shape(SystemMessage("You help. It is 10:31. " + LONG), QUESTION),
        shape(SystemMessage("You help. It is 10:32. " + LONG), QUESTION),
    )

    assert parted is not None
    assert parted.where == "message 1 (system)"
    assert parted.before.startswith("You help. It is 10:31.")
    assert parted.shared_tokens < 15
    assert parted.lost_tokens > 2_000


@given(
    value=st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=8),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner),
        max_leaves=12,
    )
)
def test_canonical_json_is_equal_for_equal_values_and_reads_back(value: Any) -> None:
    def shuffled(each: Any) -> Any:
        if isinstance(each, dict):
            keys = list(each)
            random.shuffle(keys)
            return {key: shuffled(each[key]) for key in keys}
        return [shuffled(inner) for inner in each] if isinstance(each, list) else each

    text = canonical_json(value)
    assert canonical_json(shuffled(value)) == text
    assert json.loads(text) == value


def test_canonical_json_writes_models_their_schemas_and_sets() -> None:
    class Point(BaseModel):
        x: int

    assert canonical_json({"a": Point(x=1), "b": {2, 1}}) == '{"a":{"x":1},"b":[1,2]}'
    assert json.loads(canonical_json(Point)) == Point.model_json_schema()
    assert canonical_json(Path("a")) == '"a"'


def test_of_many_prefixes_the_longest_unseen_are_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("langchain_tokenopt.prompts.prefixes._MOST_BLOCKS", 20)
    index = PrefixIndex()
    first, second, third = (shape(HumanMessage(word * 640)) for word in "abc")
    for each in (first, second, first, third):
        index.add(each)

    assert index.shared(first, lifetime_s=60) > 0.9
    assert index.shared(third, lifetime_s=60) > 0.9
    assert index.shared(second, lifetime_s=60) == 0.0
