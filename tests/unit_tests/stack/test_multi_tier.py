"""The graph from a cached answer to the largest model."""

import asyncio
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from langchain_core.caches import BaseCache, InMemoryCache
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage
from langchain_core.outputs import ChatGeneration, Generation
from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder
from langchain_core.runnables import RunnableConfig, RunnableLambda
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite import SqliteSaver

from langchain_tokenopt.accounting import Price, UsageLedger
from langchain_tokenopt.caches import CachedChatModel, MemoryCache, SemanticCache
from langchain_tokenopt.embeddings import StaticEmbeddings
from langchain_tokenopt.errors import ConfigurationError
from langchain_tokenopt.prompts import ContextWindow
from langchain_tokenopt.routing import (
    Attempt,
    Gate,
    Route,
    SecondOpinion,
    Tier,
    Verdict,
    mentions,
)
from langchain_tokenopt.stack import MultiTierContext, create_multi_tier, current_tenant
from langchain_tokenopt.testing import ScriptedModel


def sure(question: str, attempt: Attempt) -> Verdict:
    return Verdict(accepted="perhaps" not in attempt["text"], reason="looked for doubts")


def prices(**asked: Any) -> Price | None:
    known = {"small": Decimal(1), "large": Decimal(10)}.get(asked["model"])
    return known and Price(input=known, output=known, source="test")


def scripted(answer: Any, name: str) -> ScriptedModel:
    return ScriptedModel([answer], when_exhausted="repeat_last", model_name=name)


def graph_of(small: Any, large: Any, **options: Any) -> tuple[Any, ScriptedModel, ScriptedModel]:
    compile_with = {"checkpointer": options.pop("checkpointer", None)}
    one, two = scripted(small, "small"), scripted(large, "large")
    tiers = [Tier("small", one), Tier("large", two)]
    given = {"checks": [sure], "prices": prices, **options}
    return create_multi_tier(tiers, **given).compile(**compile_with), one, two


def ask(text: str = "When do you open?") -> Any:
    return {"messages": [HumanMessage(text)]}


async def run(graph: Any, way: str, given: Any, **options: Any) -> Any:
    return (
        graph.invoke(given, **options) if way == "invoke" else await graph.ainvoke(given, **options)
    )


@pytest.fixture(params=["invoke", "ainvoke"])
def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def test_the_second_time_the_cache_answers(way: str) -> None:
    graph, small, _ = graph_of("From nine.", "never", cache=MemoryCache())

    first, second = [await run(graph, way, ask()) for _ in range(2)]

    assert (first["tier"], second["tier"]) == ("small", "cache")
    assert second["answer"].text == "From nine."
    assert small.calls == 1
    assert (Decimal(second["cost"]), second["unpriced"]) == (0, [])
    assert [stage["result"] for stage in second["stages"]] == ["hit"]


async def test_what_a_check_declines_goes_to_the_large_model_and_both_are_paid(way: str) -> None:
    graph, _, _ = graph_of("At nine, perhaps.", "From nine.")

    state = await run(graph, way, ask())

    assert (state["tier"], state["answer"].text) == ("large", "From nine.")
    assert [call["model"] for call in state["calls"]] == ["small", "large"]
    used = [sum(call["usage"][k] for k in ("plain_input", "output")) for call in state["calls"]]
    cost = (Decimal(1) * used[0] + Decimal(10) * used[1]) / 1_000_000
    assert Decimal(state["cost"]) == cost
    assert Decimal(state["saved"]) == -Decimal(used[0]) / 1_000_000
    told = state["answer"].response_metadata["tokenopt"]
    assert told == {"tier": "large", "cost": state["cost"], "saved": state["saved"]}


async def test_a_question_that_means_the_same_is_served(way: str) -> None:
    graph, small, _ = graph_of(
        "Under Account, Security.", "never", similar=SemanticCache(StaticEmbeddings())
    )

    await run(graph, way, ask("How do I reset my password?"))
    state = await run(graph, way, ask("How can I reset my password please?"))

    assert (state["tier"], small.calls) == ("similar", 1)


async def test_a_rule_passes_over_likeness_and_names_the_tier(way: str) -> None:
    graph, small, large = graph_of(
        "never",
        "Ask our lawyer.",
        similar=SemanticCache(StaticEmbeddings()),
        rules=[mentions("contract", tier="large")],
    )

    state = await run(graph, way, ask("Is my contract void?"))

    assert (state["tier"], state["route"]) == ("large", "the question mentions 'contract'")
    assert [stage["stage"] for stage in state["stages"]] == ["rules"]
    assert (small.calls, large.calls) == (0, 1)


async def test_the_request_is_prepared_and_the_conversation_kept(way: str) -> None:
    def shortened(messages: Any) -> list[BaseMessage]:
        return [SystemMessage("Be brief."), messages[-1]]

    graph, small, _ = graph_of("From nine.", "never", prepare=shortened)
    given = [HumanMessage("Hello"), AIMessage("Hi!"), HumanMessage("When do you open?")]

    state = await run(graph, way, {"messages": given})

    assert [message.text for message in small.requests[0]] == ["Be brief.", "When do you open?"]
    assert [message.text for message in state["messages"]] == [
        "Hello",
        "Hi!",
        "When do you open?",
        "From nine.",
    ]


def test_a_context_window_prepares() -> None:
    window = ContextWindow("gpt-5-mini", max_tokens=1_500)
    graph, small, _ = graph_of("From nine.", "never", prepare=window)
    long = [HumanMessage("word " * 400), AIMessage("word " * 400)] * 8

    state = graph.invoke({"messages": [*long, HumanMessage("When do you open?")]})

    assert state["tier"] == "small"
    assert sum(len(message.text) for message in small.requests[0]) < 2_000 * 8
    assert small.requests[0][-1].text == "When do you open?"


async def test_a_preparation_that_fails_sends_the_conversation_and_tells(way: str) -> None:
    def broken(messages: Any) -> Any:
        raise ConnectionError("no documents")

    graph, small, _ = graph_of("From nine.", "never", prepare=broken)

    state = await run(graph, way, ask())

    assert small.requests[0][0].text == "When do you open?"
    assert state["stages"][-1]["result"] == "failed: ConnectionError: no documents"


async def test_a_preparation_that_leaves_no_message_is_an_error(way: str) -> None:
    graph, small, _ = graph_of("From nine.", "never", prepare=lambda _: [])

    with pytest.raises(ConfigurationError, match="`prepare` returned no message to send"):
        await run(graph, way, ask())
    assert small.calls == 0


async def test_a_preparation_that_is_set_up_wrongly_is_told_and_not_passed_over(way: str) -> None:
    def misconfigured(messages: Any) -> Any:
        raise ConfigurationError("no such index")

    graph, small, _ = graph_of("From nine.", "never", prepare=misconfigured)

    with pytest.raises(ConfigurationError, match="no such index"):
        await run(graph, way, ask())
    assert small.calls == 0


async def test_a_request_may_be_sent_unprepared(way: str) -> None:
    graph, small, _ = graph_of("From nine.", "never", prepare=lambda _: [HumanMessage("short")])

    state = await run(graph, way, ask(), context=MultiTierContext(skip=("prepare",)))

    assert small.requests[0][0].text == "When do you open?"
    assert state["stages"][-1]["result"] == "skipped"


class Broken(BaseCache):
    def lookup(self, prompt: str, llm_string: str) -> Any:
        raise ConnectionError("down")

    def update(self, prompt: str, llm_string: str, return_val: Any) -> None:
        raise ConnectionError("down")

    def clear(self, **kwargs: Any) -> None:
        raise ConnectionError("down")


async def test_a_cache_that_fails_is_a_miss(way: str) -> None:
    graph, _, _ = graph_of("From nine.", "never", cache=Broken(), similar=Broken())

    assert (await run(graph, way, ask()))["tier"] == "small"


class Foreign(Broken):
    """Gives what other programs keep in the same cache."""

    def __init__(self, found: list[Generation]) -> None:
        self.found = found

    def lookup(self, prompt: str, llm_string: str) -> Any:
        return self.found


@pytest.mark.parametrize(
    "found", [Generation(text="a completion"), ChatGeneration(message=HumanMessage("a question"))]
)
async def test_an_entry_that_is_no_answer_of_a_chat_model_is_a_miss(
    way: str, found: Generation
) -> None:
    graph, small, _ = graph_of("From nine.", "never", cache=Foreign([found]))

    state = await run(graph, way, ask())

    assert (state["tier"], state["answer"].text, small.calls) == ("small", "From nine.", 1)


async def test_any_langchain_cache_will_do(way: str) -> None:
    graph, _, _ = graph_of("From nine.", "never", cache=InMemoryCache())

    await run(graph, way, ask())

    assert (await run(graph, way, ask()))["tier"] == "cache"


def test_answers_that_nothing_accepted_are_not_kept() -> None:
    graph, small, large = graph_of("perhaps", "perhaps too", cache=MemoryCache())

    states = [graph.invoke(ask()) for _ in range(2)]

    assert [state["tier"] for state in states] == ["large", "large"]
    assert not states[0]["accepted"]
    assert (small.calls, large.calls) == (2, 2)


async def test_no_tenant_gets_the_answer_of_another(way: str) -> None:
    semantic = SemanticCache(StaticEmbeddings())
    graph, small, _ = graph_of("From nine.", "never", cache=MemoryCache(), similar=semantic)

    tiers = [
        (await run(graph, way, ask(), context=MultiTierContext(tenant=tenant)))["tier"]
        for tenant in ("acme", "bravo", "acme")
    ]

    assert tiers == ["small", "small", "cache"]
    assert small.calls == 2


async def test_the_tiers_own_caches_can_keep_tenants_apart_too(way: str) -> None:
    upstream = scripted("From nine.", "small")
    cached = CachedChatModel(upstream, cache=MemoryCache(tenant=current_tenant))
    graph: Any = create_multi_tier([Tier("small", cached)], prices=prices).compile()

    for tenant in ("acme", "bravo", "acme"):
        await run(graph, way, ask(), context=MultiTierContext(tenant=tenant))

    assert upstream.calls == 2


async def test_a_request_may_ask_for_a_fresh_answer_which_is_kept(way: str) -> None:
    upstream = ScriptedModel(["From nine.", "From ten."], model_name="small")
    cached = CachedChatModel(upstream, cache=MemoryCache())
    graph: Any = create_multi_tier(
        [Tier("small", cached)], cache=MemoryCache(), prices=prices
    ).compile()

    await run(graph, way, ask())
    fresh = await run(graph, way, ask(), context=MultiTierContext(fresh=True))
    again = await run(graph, way, ask())

    assert [state["answer"].text for state in (fresh, again)] == ["From ten.", "From ten."]
    assert again["tier"] == "cache"


@pytest.mark.parametrize(
    ("context", "tier"),
    [
        ({"first_tier": "large"}, "large"),
        ({"last_tier": "small"}, "small"),
        ({"first_tier": "large", "last_tier": "small"}, "small"),
        ({"skip": ("rules",)}, "large"),
    ],
)
def test_a_request_may_name_where_to_start_and_where_to_stop(context: Any, tier: str) -> None:
    graph, _, _ = graph_of("perhaps", "From nine.", rules=[mentions("open", tier="large")])

    state = graph.invoke(ask(), context=MultiTierContext(**context))

    assert state["tier"] == tier


def test_a_stage_or_tier_that_is_none_is_refused() -> None:
    graph, _, _ = graph_of("From nine.", "never")

    with pytest.raises(ConfigurationError, match="skip takes cache, rules, similar, prepare"):
        MultiTierContext(skip=("large",))  # type: ignore[arg-type]  # wrong on purpose
    with pytest.raises(ConfigurationError, match="first_tier is one of small, large, got 'huge'"):
        graph.invoke(ask(), context=MultiTierContext(first_tier="huge"))
    with pytest.raises(ConfigurationError, match="at least one message"):
        graph.invoke({"messages": []})


def test_a_chooser_is_asked_where_no_rule_applies() -> None:
    def start(messages: Any, config: RunnableConfig) -> Route:
        return Route(tier="large", reason="learned")

    graph, small, _ = graph_of("never", "From nine.", start=start)

    assert graph.invoke(ask())["route"] == "learned"
    assert small.calls == 0


def test_calls_of_the_gate_are_paid_too() -> None:
    peer = scripted("From nine.", "small")
    gate = Gate(second_opinion=SecondOpinion(model=peer), reader=str)
    tiers = [
        Tier("small", scripted("From nine.", "small"), gate=gate),
        Tier("large", scripted("never", "large")),
    ]

    state: Any = create_multi_tier(tiers, prices=prices).compile().invoke(ask())

    assert [(call["node"], call["kind"]) for call in state["calls"]] == [
        ("small", "live"),
        ("gate", "live"),
    ]
    used = sum(call["usage"]["plain_input"] + call["usage"]["output"] for call in state["calls"])
    assert Decimal(state["cost"]) == Decimal(used) / 1_000_000


@pytest.mark.parametrize("wrap", [lambda m: m.bind(stop=["END"]), lambda m: m.with_retry()])
def test_savings_are_told_against_the_model_inside_of_what_is_bound(wrap: Any) -> None:
    tiers = [
        Tier("small", scripted("From nine.", "small")),
        Tier("large", wrap(scripted("never", "large"))),
    ]

    state: Any = create_multi_tier(tiers, prices=prices).compile().invoke(ask())

    assert Decimal(state["saved"]) == 9 * Decimal(state["cost"]) > 0


def test_what_is_no_chat_model_has_no_price_to_save_against() -> None:
    tiers = [
        Tier("small", scripted("From nine.", "small")),
        Tier("large", RunnableLambda(lambda _: AIMessage("never"))),
    ]

    state: Any = create_multi_tier(tiers, prices=prices).compile().invoke(ask())

    assert Decimal(state["cost"]) > 0
    assert state["saved"] is None


def test_a_call_that_failed_costs_nothing_whatever_its_price() -> None:
    peer = scripted(ConnectionError("down"), "of a price unknown")
    gate = Gate(second_opinion=SecondOpinion(model=peer), reader=str)
    tiers = [
        Tier("small", scripted("From nine.", "small"), gate=gate),
        Tier("large", scripted("From nine.", "large")),
    ]

    state: Any = create_multi_tier(tiers, prices=prices).compile().invoke(ask())

    assert [call["kind"] for call in state["calls"]] == ["live", "error", "live"]
    assert Decimal(state["cost"]) > 0
    assert state["unpriced"] == []


def test_graphs_of_other_models_do_not_share_answers_in_one_cache() -> None:
    cache = MemoryCache()

    def answered(first: str, second: str, **options: Any) -> Any:
        models = [scripted(f"of {name}", name).bind(**options) for name in (first, second)]
        tier = Tier("small", models[0].with_fallbacks(models[1:]))
        state = create_multi_tier([tier], cache=cache, prices=prices).compile().invoke(ask())
        return state["tier"], state["answer"].text

    assert answered("a", "b") == ("small", "of a")
    assert answered("c", "b") == ("small", "of c")
    assert answered("a", "b", stop=["END"]) == ("small", "of a")
    assert answered("a", "b") == ("cache", "of a")


def test_prompts_and_functions_around_a_model_keep_answers_apart() -> None:
    cache, model = MemoryCache(), scripted("From nine.", "small")

    def shortened(messages: Any) -> Any:
        return messages[-1:]

    def whole(messages: Any) -> Any:
        return messages

    def tier_of(chain: Any) -> str:
        tiers = [Tier("small", chain)]
        state: Any = create_multi_tier(tiers, cache=cache, prices=prices).compile().invoke(ask())
        return str(state["tier"])

    prompts = [
        ChatPromptTemplate([("system", system), MessagesPlaceholder("messages")])
        for system in ("Be brief.", "Be kind.")
    ]
    chains = [RunnableLambda(shortened) | model, RunnableLambda(whole) | model]
    chains += [RunnableLambda(lambda m: {"messages": m}) | prompt | model for prompt in prompts]

    assert [tier_of(chain) for chain in chains] == ["small"] * 4
    assert [tier_of(chain) for chain in chains] == ["cache"] * 4


def test_an_unknown_price_is_said_and_never_nothing() -> None:
    graph, _, _ = graph_of("From nine.", "never", prices=lambda **_: None)

    state = graph.invoke(ask())

    assert (state["cost"], state["saved"], state["unpriced"]) == (None, None, ["small"])


async def test_the_ledger_hears_of_cached_answers_as_of_any_other_hit(way: str) -> None:
    graph, _, _ = graph_of("From nine.", "never", cache=MemoryCache())
    ledger = UsageLedger(prices=prices)

    for _ in range(2):
        await run(graph, way, ask(), config={"callbacks": [ledger]})

    live, hit = ledger.records()
    assert (live.kind, hit.kind, hit.cache, hit.model) == ("live", "cache_hit", "memory", "small")
    assert hit.saved == live.cost


def test_a_stream_shows_one_answer_and_no_draft() -> None:
    graph, _, _ = graph_of("At nine, perhaps.", "From nine, surely.", cache=MemoryCache())

    for _ in range(2):
        parts = graph.stream(ask(), stream_mode="messages")
        texts = [message.text for message, _ in parts if isinstance(message, AIMessage)]
        assert "".join(texts) == "From nine, surely."


def test_a_thread_goes_on_and_starts_each_turn_afresh(tmp_path: Path) -> None:
    with SqliteSaver.from_conn_string(str(tmp_path / "threads.sqlite")) as saver:
        graph, small, _ = graph_of("From nine.", "never", cache=MemoryCache(), checkpointer=saver)
        config: Any = {"configurable": {"thread_id": "1"}}

        graph.invoke(ask(), config)
        state = graph.invoke(ask("And on Sundays?"), config)

    assert [message.text for message in state["messages"]][::2] == [
        "When do you open?",
        "And on Sundays?",
    ]
    assert (len(state["attempts"]), len(state["calls"]), small.calls) == (1, 1, 2)


async def test_identical_requests_at_once_share_their_calls() -> None:
    slow = ScriptedModel(["From nine."], when_exhausted="repeat_last", latency_s=0.05)
    cached = CachedChatModel(slow, cache=MemoryCache())
    graph: Any = create_multi_tier([Tier("small", cached)], cache=MemoryCache()).compile()

    states = await asyncio.gather(*(graph.ainvoke(ask()) for _ in range(50)))

    assert {state["answer"].text for state in states} == {"From nine."}
    assert slow.calls == 1


async def test_a_run_that_was_cut_off_goes_on_from_its_checkpoint(way: str) -> None:
    large = ScriptedModel([ConnectionError("down"), "From nine."], model_name="large")
    small = scripted("perhaps", "small")
    graph: Any = create_multi_tier(
        [Tier("small", small), Tier("large", large)], checks=[sure], prices=prices
    ).compile(checkpointer=InMemorySaver())
    config: Any = {"configurable": {"thread_id": "1"}}

    with pytest.raises(ConnectionError):
        await run(graph, way, ask(), config=config)
    state = await run(graph, way, None, config=config)

    assert state["answer"].text == "From nine."
    assert small.calls == 1


def test_the_graph_can_be_drawn() -> None:
    graph, _, _ = graph_of(
        "4", "4", cache=MemoryCache(), similar=MemoryCache(), rules=[mentions("x", tier="large")],
        prepare=list,
    )  # fmt: skip

    edges = {(edge.source, edge.target) for edge in graph.get_graph().edges}

    for edge in [
        ("begin", "cache"), ("cache", "finish"), ("cache", "rules"), ("rules", "similar"),
        ("rules", "prepare"), ("similar", "finish"), ("similar", "prepare"),
        ("prepare", "choose_tier"), ("choose_tier", "small"), ("small", "gate"),
        ("gate", "large"), ("gate", "finish"), ("finish", "__end__"),
    ]:  # fmt: skip
        assert edge in edges
