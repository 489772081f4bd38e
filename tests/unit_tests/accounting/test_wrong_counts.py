"""Bugs that users of other trackers report, each one a test.

The names say what went wrong there; the numbers here are right.
"""

import asyncio
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult, Generation
from langgraph.graph import START, MessagesState, StateGraph

from langchain_tokenopt.accounting import (
    CallRecord,
    GenaiPrices,
    Usage,
    UsageLedger,
    cost_of,
    normalise_usage,
    track_usage,
)
from langchain_tokenopt.testing import ScriptedModel

NOW = datetime(2026, 11, 1, tzinfo=UTC)
PRICES = GenaiPrices()


def message(
    model: str, into: dict[str, int], out: int, *, total: int | None = None, **details: Any
) -> AIMessage:
    """A provider's answer as LangChain hands it on."""
    read = into.pop("input")
    usage: Any = {
        "input_tokens": read,
        "output_tokens": out,
        "total_tokens": read + out if total is None else total,
        "input_token_details": into,
        "output_token_details": details.pop("output_details", {}),
    }
    return AIMessage("ok", usage_metadata=usage, response_metadata={"model_name": model, **details})


def booked(answer: Any, **options: Any) -> CallRecord:
    """What the ledger makes of one call that gets this answer."""
    ledger = UsageLedger()
    model = answer.response_metadata["model_name"]
    provider = "anthropic" if model.startswith("claude") else "openai"
    scripted = ScriptedModel([answer], provider=provider, **options)
    scripted.invoke("hi", {"callbacks": [ledger]})
    (record,) = ledger.records()
    return record


def priced(model: str, usage: Usage, *, tier: str | None = None) -> Decimal:
    price = PRICES(model=model, provider=None, tier=tier, usage=usage, at=NOW)
    assert price is not None
    return cost_of(usage, price).total


# --- the six hand-checked prices --------------------------------------------------------------

FLEX_5 = {"flex": 1_000, "flex_cache_read": 9_000}
SOL = {"cache_read": 2_000, "cache_creation": 7_000}
FLEX_SOL = {"flex": 8_000, "flex_cache_read": 2_000, "flex_cache_creation": 7_000}


@pytest.mark.parametrize(
    ("model", "into", "out", "tier", "dollars"),
    [
        ("gpt-5", {"input": 10_000, "cache_read": 9_000}, 1_000, None, "0.012375"),
        ("gpt-5", {"input": 10_000, **FLEX_5}, 1_000, "flex", "0.0061875"),
        ("gpt-5.6-sol", {"input": 10_000, **SOL}, 10, None, "0.0400"),
        ("gpt-5.6-sol", {"input": 10_000, **FLEX_SOL}, 10, "flex", "0.0200"),
        # The Anthropic console billed $0.05439 for this call (litellm#9812).
        (
            "claude-sonnet-4-5",
            {"input": 12_307, "cache_creation": 0, "ephemeral_5m_input_tokens": 12_304},
            550,
            None,
            "0.054399",
        ),
        (
            "claude-sonnet-4-5",
            {"input": 12_307, "cache_creation": 0, "ephemeral_1h_input_tokens": 12_304},
            550,
            None,
            "0.082083",
        ),
    ],
)
def test_the_hand_checked_prices(
    model: str, into: dict[str, int], out: int, tier: str | None, dollars: str
) -> None:
    reported = normalise_usage(message(model, dict(into), out).usage_metadata or {})

    assert reported.tier == tier
    assert priced(model, reported.usage, tier=tier) == Decimal(dollars)


def test_a_real_bill_is_met_to_the_cent_of_a_cent() -> None:
    into = {"input": 12_307, "cache_creation": 0, "ephemeral_5m_input_tokens": 12_304}

    record = booked(message("claude-sonnet-4-5", into, 550))

    assert record.cost == Decimal("0.054399")  # 0.05439 on the bill, which cuts
    assert record.usage.cache_write == 12_304


# --- the table of wrong counts ----------------------------------------------------------------


def test_a_cache_hit_is_no_spend_and_what_it_saved_stands_apart() -> None:
    ledger = UsageLedger()
    answer = message("gpt-5", {"input": 1_000}, 100)
    model = ScriptedModel([answer], provider="openai", cache=InMemoryCache())

    for _ in range(3):
        model.invoke("hi", {"callbacks": [ledger]})

    totals = ledger.totals()
    assert (totals.calls, totals.live, totals.cache_hits) == (3, 1, 2)
    assert totals.usage.total_tokens == 1_100
    assert totals.cached_usage.total_tokens == 2_200
    assert totals.cost == Decimal("0.00225")
    assert totals.saved == 2 * totals.cost


def test_cached_tokens_are_not_added_on_top_of_the_input() -> None:
    record = booked(message("gpt-5", {"input": 10_000, "cache_read": 9_000}, 0))

    assert record.usage.input_tokens == 10_000
    assert record.usage.plain_input == 1_000


def test_cached_tokens_are_not_priced_at_the_full_rate() -> None:
    cached = booked(message("gpt-5", {"input": 10_000, "cache_read": 9_000}, 0))
    plain = booked(message("gpt-5", {"input": 10_000}, 0))

    assert plain.cost == Decimal("0.0125")
    assert cached.cost == Decimal("0.002375")


def test_cached_tokens_of_a_stream_are_not_lost() -> None:
    ledger = UsageLedger()
    model = ScriptedModel([message("gpt-5", {"input": 10_000, "cache_read": 9_000}, 0)])

    list(model.stream("hi", {"callbacks": [ledger]}))

    assert ledger.totals().usage.cache_read == 9_000


def test_cached_tokens_outside_of_the_input_never_make_a_negative_cost() -> None:
    # Bedrock: input 3, cache read 1,000, and the total has them all.
    outside = message("claude-sonnet-4-5", {"input": 3, "cache_read": 1_000}, 7, total=1_010)

    record = booked(outside)

    assert record.usage.plain_input == 3
    assert record.usage.cache_read == 1_000
    assert record.cost == Decimal("0.000414")


def test_more_cached_tokens_than_input_are_clamped() -> None:
    record = booked(message("gpt-5", {"input": 5, "cache_read": 9}, 0))

    assert (record.usage.plain_input, record.usage.cache_read) == (0, 5)


def test_a_write_is_not_billed_as_creation_and_by_its_life_too() -> None:
    into = {"input": 1_000, "cache_creation": 800, "ephemeral_5m_input_tokens": 800}

    usage = normalise_usage(message("claude-sonnet-4-5", into, 0).usage_metadata or {}).usage

    assert (usage.plain_input, usage.cache_write, usage.cache_write_1h) == (200, 800, 0)


def test_writes_of_the_flex_tier_are_not_counted_twice() -> None:
    usage = normalise_usage(
        message("gpt-5.6-sol", {"input": 10_000, **FLEX_SOL}, 0).usage_metadata or {}
    ).usage

    assert (usage.plain_input, usage.cache_read, usage.cache_write) == (1_000, 2_000, 7_000)
    assert usage.input_tokens == 10_000


def test_a_stream_without_usage_is_estimated_and_says_so() -> None:
    ledger = UsageLedger()

    list(ScriptedModel(["one two three"], usage="none").stream("hi", {"callbacks": [ledger]}))

    (record,) = ledger.records()
    assert record.estimated
    assert record.usage.output > 0
    assert ledger.totals().estimated_calls == 1
    assert "estimated: the usage of 1 calls" in ledger.report()


class Repeating(ScriptedModel):
    """A server that reports all usage so far with every chunk."""

    def _stream(self, *args: Any, **kwargs: Any) -> Iterator[ChatGenerationChunk]:
        for number, chunk in enumerate(super()._stream(*args, **kwargs)):
            usage: Any = {"input_tokens": 10, "output_tokens": number, "total_tokens": 10 + number}
            chunk.message.usage_metadata = usage  # type: ignore[attr-defined]
            yield chunk


def test_usage_in_every_chunk_is_not_added_up() -> None:
    ledger = UsageLedger()

    list(Repeating(["a b c d e"]).stream("hi", {"callbacks": [ledger]}))

    assert ledger.totals().usage == Usage(plain_input=10, output=5)


@pytest.mark.filterwarnings("ignore:The method.*is in beta")
@pytest.mark.parametrize("version", ["v2", "v3"])
async def test_events_keep_the_details(version: Any) -> None:
    ledger = UsageLedger()
    model = ScriptedModel([message("gpt-5", {"input": 100, "cache_read": 60}, 5)])

    events: Any = model.astream_events("hi", {"callbacks": [ledger]}, version=version)
    if version == "v3":
        events = await events
    async for _ in events:
        pass
    for _ in range(100):  # version 3 ends the run in a task of its own
        await asyncio.sleep(0)

    (record,) = ledger.records()
    assert record.usage == Usage(plain_input=40, cache_read=60, output=5)


def test_a_batch_job_costs_half_its_cached_part_too() -> None:
    usage = Usage(plain_input=1_000, cache_read=9_000, output=1_000)

    assert priced("gpt-5", usage, tier="batch") == priced("gpt-5", usage) / 2 > 0


def test_the_tier_that_served_is_priced_not_the_one_asked_for() -> None:
    served = booked(message("gpt-5", {"input": 1_000}, 0, service_tier="default"))
    flexed = booked(message("gpt-5", {"input": 1_000}, 0, service_tier="flex"))

    assert (served.tier, served.cost) == (None, Decimal("0.00125"))
    assert (flexed.tier, flexed.cost) == ("flex", Decimal("0.000625"))


def test_a_long_context_is_priced_as_a_cliff() -> None:
    below = priced("gpt-5.4", Usage(plain_input=272_000))
    above = priced("gpt-5.4", Usage(plain_input=272_001))

    assert below == Decimal("0.68")
    assert above / 272_001 == 2 * below / 272_000


def test_records_of_graph_nodes_in_threads_and_tasks_are_not_lost() -> None:
    model = ScriptedModel(["a"], when_exhausted="repeat_last")

    def node(state: MessagesState) -> dict[str, Any]:
        return {"messages": [model.invoke("hi")]}

    graph = StateGraph(MessagesState)
    for name in ("one", "two", "three"):
        graph.add_node(name, node)
        graph.add_edge(START, name)

    with track_usage() as ledger:
        graph.compile().invoke({"messages": []})
        asyncio.run(graph.compile().ainvoke({"messages": []}))

    assert sorted(str(record.node) for record in ledger.records()) == sorted(
        ["one", "two", "three"] * 2
    )


def test_an_unknown_model_is_unpriced_never_free() -> None:
    ledger = UsageLedger()
    answer = message("gpt-99-turbo", {"input": 90}, 10)

    ScriptedModel([answer]).invoke("hi", {"callbacks": [ledger]})

    totals = ledger.totals()
    (record,) = ledger.records()
    assert record.cost is None
    assert (totals.unpriced_calls, totals.unpriced_tokens) == (1, 100)
    assert totals.unpriced_models == ("gpt-99-turbo",)
    assert totals.priced_share == 0.0
    assert "UNPRICED: 1 calls, 100 tokens of gpt-99-turbo" in ledger.report()


def test_a_bare_model_name_bills_output_at_the_output_rate() -> None:
    assert priced("o3", Usage(plain_input=1_250, output=1_500)) == Decimal("0.0145")


def test_a_price_is_that_of_the_day_of_the_call() -> None:
    usage = Usage(plain_input=1_000_000)

    def at(day: datetime) -> Decimal | None:
        price = PRICES(model="o3", provider="openai", tier=None, usage=usage, at=day)
        return price.input if price else None

    before, after = at(datetime(2025, 5, 1, tzinfo=UTC)), at(datetime(2025, 7, 1, tzinfo=UTC))
    assert (before, after) == (Decimal(10), Decimal(2))


# --- usage_metadata of langchain-core ---------------------------------------------------------


class Several(BaseChatModel):
    """A model that answers n times, each answer with the usage of the whole request."""

    @property
    def _llm_type(self) -> str:
        return "several"

    def _generate(self, *args: Any, **kwargs: Any) -> ChatResult:
        usage: Any = {"input_tokens": 10, "output_tokens": 30, "total_tokens": 40}
        each = [AIMessage(text, usage_metadata=usage) for text in "abc"]
        return ChatResult(generations=[ChatGeneration(message=m) for m in each])


def test_the_usage_of_n_choices_is_counted_once() -> None:
    ledger = UsageLedger()

    Several().generate([[HumanMessage("hi")]], callbacks=[ledger])

    assert ledger.totals().usage.total_tokens == 40


def test_a_hit_without_usage_is_a_hit_and_no_error() -> None:
    ledger = UsageLedger()
    model = ScriptedModel(["a"], usage="none", cache=InMemoryCache())

    for _ in range(2):
        model.invoke("hi", {"callbacks": [ledger]})

    assert [record.kind for record in ledger.records()] == ["live", "cache_hit"]
    assert list(ledger.records())[1].usage == Usage()


class Texts(InMemoryCache):
    """A cache that keeps texts alone, as those that serialise them badly do."""

    def update(self, prompt: str, llm_string: str, return_val: Any) -> None:
        super().update(prompt, llm_string, [Generation(text=g.text) for g in return_val])


def test_a_hit_without_any_marker_is_no_spend() -> None:
    ledger = UsageLedger()
    model = ScriptedModel(["a"], cache=Texts())

    for _ in range(2):
        model.invoke("hi", {"callbacks": [ledger]})

    live, hit = ledger.records()
    assert (live.kind, hit.kind) == ("live", "cache_hit")
    assert hit.cost == 0
    assert hit.usage == Usage()


def test_numbers_are_read_before_langchain_changes_the_stored_answer() -> None:
    ledger = UsageLedger()
    model = ScriptedModel([message("gpt-5", {"input": 100}, 0)], cache=InMemoryCache())
    model.invoke("hi", {"callbacks": [ledger]})
    before = list(ledger.records())

    model.invoke("hi")  # a hit that nobody counts, which marks the stored answer

    assert list(ledger.records()) == before
    assert before[0].kind == "live"


def test_one_handler_in_three_places_counts_once() -> None:
    ledger = UsageLedger()
    model = ScriptedModel(["a"], callbacks=[ledger])
    chain = (model | (lambda answer: answer)).with_config(callbacks=[ledger])

    chain.invoke("hi", {"callbacks": [ledger]})

    assert ledger.totals().calls == 1


def test_a_ledger_in_the_callbacks_and_around_counts_once() -> None:
    with track_usage() as ledger:
        ScriptedModel(["a"]).invoke("hi", {"callbacks": [ledger]})

    assert ledger.totals().calls == 1


def test_two_ledgers_on_one_file_count_once(tmp_path: Any) -> None:
    first, second = UsageLedger(tmp_path / "a.sqlite"), UsageLedger(tmp_path / "a.sqlite")

    ScriptedModel(["a"]).invoke("hi", {"callbacks": [first, second]})

    assert first.totals().calls == second.totals().calls == 1
    first.close()
    second.close()


def test_every_attempt_of_a_retry_is_a_call_of_its_own() -> None:
    ledger = UsageLedger()
    model = ScriptedModel([RuntimeError("1"), RuntimeError("2"), "a"])

    model.with_retry(wait_exponential_jitter=False).invoke("hi", {"callbacks": [ledger]})

    assert [record.kind for record in ledger.records()] == ["error", "error", "live"]
    assert [record.error for record in ledger.records()] == ["RuntimeError", "RuntimeError", None]


def test_metadata_reaches_every_child_call() -> None:
    ledger = UsageLedger()
    model = ScriptedModel(["a", "b"])
    chain = model | (lambda answer: answer.text) | model

    chain.invoke(
        "hi",
        {"callbacks": [ledger], "metadata": {"feature": "faq", "tenant": "acme"}, "tags": ["t"]},
    )

    assert [(r.feature, r.tenant, r.tags) for r in ledger.records()] == [
        ("faq", "acme", ("seq:step:1", "t")),
        ("faq", "acme", ("seq:step:3", "t")),
    ]


def test_a_summary_made_by_middleware_is_overhead() -> None:
    ledger = UsageLedger()

    ScriptedModel(["a"]).invoke(
        "hi", {"callbacks": [ledger], "metadata": {"lc_source": "summarization"}}
    )

    assert [record.overhead for record in ledger.records()] == [True]


def leave(stream: Iterator[Any]) -> None:
    next(stream)
    stream.close()  # type: ignore[attr-defined]


def test_a_stream_that_is_left_is_estimated_and_labelled() -> None:
    ledger = UsageLedger()

    model = ScriptedModel(["one two three"], model_name="gpt-5", provider="openai")
    leave(model.stream("hi", {"callbacks": [ledger]}))

    (record,) = ledger.records()
    assert (record.kind, record.estimated, record.error) == ("abandoned", True, None)
    assert record.usage.input_tokens > 0
    assert record.usage.output > 0
    assert record.cost is not None
    assert record.cost > 0


async def test_an_async_stream_that_is_left_is_estimated_and_labelled() -> None:
    ledger = UsageLedger()
    stream: Any = ScriptedModel(["one two three"]).astream("hi", {"callbacks": [ledger]})

    await anext(stream)
    await stream.aclose()

    (record,) = ledger.records()
    assert (record.kind, record.estimated) == ("abandoned", True)


async def test_a_cancelled_call_is_abandoned_not_forgotten() -> None:
    ledger = UsageLedger()
    asked = asyncio.Event()

    async def wait(_: float) -> None:
        asked.set()
        await asyncio.Event().wait()

    model = ScriptedModel(["a"], latency_s=1, async_sleep=wait)
    task = asyncio.create_task(model.ainvoke("hi", {"callbacks": [ledger]}))
    await asked.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    (record,) = ledger.records()
    assert (record.kind, record.estimated) == ("abandoned", True)
    assert ledger.open_calls == 0


def test_an_error_that_came_at_once_costs_nothing_and_one_in_a_stream_does() -> None:
    from langchain_tokenopt.testing import Failure

    ledger = UsageLedger()
    model = ScriptedModel(
        [RuntimeError("429"), Failure(error=RuntimeError("cut"), after_chunks=2, text="a b c")]
    )
    for _ in range(2):
        with pytest.raises(RuntimeError):
            list(model.stream("hi", {"callbacks": [ledger]}))

    refused, cut = ledger.records()
    assert (refused.usage, refused.cost) == (Usage(), 0)
    assert cut.usage.output > 0
    assert cut.estimated


async def test_every_way_of_calling_counts_the_same() -> None:
    answer = message("gpt-5", {"input": 100, "cache_read": 60}, 5, output_details={"reasoning": 3})
    model = ScriptedModel([answer], when_exhausted="repeat_last")
    ledger = UsageLedger()
    config: Any = {"callbacks": [ledger]}

    model.invoke("hi", config)
    await model.ainvoke("hi", config)
    list(model.stream("hi", config))
    [_ async for _ in model.astream("hi", config)]
    model.batch(["hi"], config)
    await model.abatch(["hi"], config)

    usages = {record.usage for record in ledger.records()}
    assert usages == {Usage(plain_input=40, cache_read=60, output=5, reasoning=3)}
    assert ledger.totals().calls == 6


def test_a_graph_streams_messages_and_counts_the_same() -> None:
    model = ScriptedModel([message("gpt-5", {"input": 100, "cache_read": 60}, 5)])

    def node(state: MessagesState) -> dict[str, Any]:
        return {"messages": [model.invoke(state["messages"])]}

    graph = StateGraph(MessagesState).add_node(node).add_edge(START, "node").compile()
    ledger = UsageLedger()

    list(
        graph.stream(
            {"messages": [("user", "hi")]}, {"callbacks": [ledger]}, stream_mode="messages"
        )
    )

    (record,) = ledger.records()
    assert record.usage == Usage(plain_input=40, cache_read=60, output=5)
    assert record.node == "node"
    assert record.first_token_s is not None
    assert record.first_token_s <= record.latency_s


def test_tracking_leaves_no_hook_behind_and_ends_with_its_block() -> None:
    from langchain_core.tracers import context

    before = len(context._configure_hooks)
    model = ScriptedModel(["a"], when_exhausted="repeat_last")
    for _ in range(100):
        with track_usage():
            model.invoke("hi")
    with track_usage() as ledger:
        pass
    model.invoke("hi")

    assert len(context._configure_hooks) == before
    assert ledger.totals().calls == 0


def test_nested_blocks_record_in_the_innermost() -> None:
    model = ScriptedModel(["a"], when_exhausted="repeat_last")

    with track_usage() as outer:
        model.invoke("hi")
        with track_usage() as inner:
            model.invoke("hi")
        model.invoke("hi")

    assert (outer.totals().calls, inner.totals().calls) == (2, 1)


def test_other_threads_are_not_recorded_unless_the_ledger_is_given_to_them() -> None:
    model = ScriptedModel(["a"], when_exhausted="repeat_last")

    with track_usage() as ledger:
        alone = threading.Thread(target=model.invoke, args=("hi",))
        given = threading.Thread(target=model.invoke, args=("hi", {"callbacks": [ledger]}))
        for thread in (alone, given):
            thread.start()
            thread.join()

    assert ledger.totals().calls == 1


@pytest.mark.parametrize("part", ["input_audio", "output_audio"])
def test_audio_is_not_billed_as_text_where_its_price_is_not_known(part: str) -> None:
    usage = Usage(plain_input=1_000, output=1_000, **{part: 500})
    known = PRICES(model="gpt-audio", provider="openai", tier=None, usage=usage, at=NOW)
    unknown = PRICES(
        model="gpt-4o-audio-preview", provider="openai", tier=None, usage=usage, at=NOW
    )

    assert known is not None
    assert known.rate(part) > 10 * known.input
    assert unknown is None  # 40 and 80 dollars at OpenAI, which the snapshot leaves out
    assert priced("gpt-4o-audio-preview", Usage(plain_input=1_000_000)) == Decimal("2.5")


def test_audio_costs_what_text_does_where_a_provider_has_one_price() -> None:
    usage = Usage(plain_input=1_000, input_audio=1_000)
    price = PRICES(model="gemini-2.5-pro", provider="google_genai", tier=None, usage=usage, at=NOW)

    assert price is not None
    assert cost_of(usage, price).total == Decimal("0.0025")


def test_googles_prefix_of_models_is_no_part_of_the_name() -> None:
    usage = Usage(plain_input=1_000_000)
    price = PRICES(
        model="models/gemini-2.5-flash", provider="google_genai", tier=None, usage=usage, at=NOW
    )
    assert price is not None
    assert price.input == Decimal("0.3")


@pytest.mark.parametrize(
    ("outputs", "counted"),
    [
        ([1, 2, 3], 3),  # so far
        ([30, 30, 30], 30),  # all, with each chunk
        ([0, 1, 1, 1], 3),  # of the chunk alone (langchain#30429)
        ([2, 1, 3], 6),
        ([1, 1, 1, 3], 3),  # of the chunk, and all at the end
    ],
)
def test_usage_with_every_chunk_is_read_as_what_it_is(outputs: list[int], counted: int) -> None:
    class Stream(ScriptedModel):
        def _stream(self, *args: Any, **kwargs: Any) -> Iterator[ChatGenerationChunk]:
            run_manager = kwargs.get("run_manager")
            for number, output in enumerate(outputs):
                silent = number == len(outputs) - 1 and len(outputs) > 3 and output > 1
                usage = UsageMetadata(
                    input_tokens=35, output_tokens=output, total_tokens=35 + output
                )
                text = "" if silent or not output else "a "
                message = AIMessageChunk(text, usage_metadata=usage)
                chunk = ChatGenerationChunk(message=message)
                if run_manager is not None:
                    run_manager.on_llm_new_token(text, chunk=chunk)
                yield chunk

    ledger = UsageLedger()
    for _ in Stream(["any"]).stream("hi", {"callbacks": [ledger]}):
        pass

    (record,) = ledger.records()
    assert (record.usage.input_tokens, record.usage.output) == (35, counted)


@pytest.mark.parametrize(
    ("said", "tier", "cost"),
    [
        ({"service_tier": "standard", "speed": "standard"}, None, Decimal("0.0075")),
        ({"service_tier": "batch"}, "batch", Decimal("0.00375")),
        ({"service_tier": "standard", "speed": "fast"}, "fast", None),  # some times the price
    ],
)
def test_what_anthropic_says_of_the_tier_inside_of_its_usage_is_read(
    said: dict[str, str], tier: str | None, cost: Decimal | None
) -> None:
    record = booked(message("claude-opus-4-6", {"input": 1_000}, 100, usage=said))
    assert (record.tier, record.cost) == (tier, cost)
