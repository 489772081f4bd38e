"""The ways in which LangChain makes, shares, repeats and drops a call, and what is booked."""

import asyncio
import socket
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain.agents import create_agent
from langchain.agents.middleware import SummarizationMiddleware
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import CallbackManager
from langchain_core.language_models import FakeListLLM
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, Generation, LLMResult
from langchain_core.tools import tool
from langgraph.graph import START, MessagesState, StateGraph

from langchain_tokenopt.accounting import CallRecord, Usage, UsageLedger, track_usage
from langchain_tokenopt.accounting.callback import RecordingHandler
from langchain_tokenopt.accounting.prices import GenaiPrices, _rates
from langchain_tokenopt.messages import TEMPLATE_MARK, mark_batch
from langchain_tokenopt.testing import ScriptedModel

PLAIN: Any = {"input_tokens": 10, "output_tokens": 5, "total_tokens": 15}


def forever(model: str = "gpt-5", **options: Any) -> ScriptedModel:
    return ScriptedModel(
        ["one two three"], when_exhausted="repeat_last", model_name=model, **options
    )


def kinds(ledger: UsageLedger) -> list[str]:
    return [record.kind for record in ledger.records()]


# --- caches -----------------------------------------------------------------------------------


def test_a_stream_passes_the_cache_by_and_is_spend_each_time() -> None:
    ledger = UsageLedger()
    model = forever(cache=InMemoryCache())

    for _ in range(2):
        list(model.stream("hi", {"callbacks": [ledger]}))

    assert kinds(ledger) == ["live", "live"]


def test_an_async_hit_is_no_spend() -> None:
    ledger = UsageLedger()
    model = forever(cache=InMemoryCache())

    for _ in range(2):
        asyncio.run(model.ainvoke("hi", {"callbacks": [ledger]}))

    assert kinds(ledger) == ["live", "cache_hit"]
    live, hit = ledger.records()
    assert (hit.cost, hit.saved, hit.usage) == (0, live.cost, live.usage)


def test_a_text_completion_model_counts_its_call_and_its_hits_are_silent() -> None:
    """LangChain calls no handler when a text-completion model hits its cache."""
    ledger = UsageLedger()
    model = FakeListLLM(responses=["four"], cache=InMemoryCache())

    for _ in range(3):
        model.invoke("2 + 2?", {"callbacks": [ledger]})

    (record,) = ledger.records()
    assert (record.kind, record.estimated) == ("live", True)
    assert record.usage.input_tokens > 0


def test_a_text_completion_models_own_numbers_are_taken() -> None:
    ledger = UsageLedger()
    result = LLMResult(
        generations=[[Generation(text="four")]],
        llm_output={
            "model_name": "gpt-3.5-turbo-instruct",
            "token_usage": {"prompt_tokens": 40, "completion_tokens": 2, "total_tokens": 42},
        },
    )
    run = uuid4()

    ledger.on_llm_start({}, ["2 + 2?"], run_id=run)
    ledger.on_llm_end(result, run_id=run)

    (record,) = ledger.records()
    assert record.usage == Usage(plain_input=40, output=2)
    assert (record.model, record.estimated) == ("gpt-3.5-turbo-instruct", False)


# --- who counts -------------------------------------------------------------------------------


def test_two_handlers_that_fill_one_ledger_count_once() -> None:
    ledger = UsageLedger()
    handlers: Any = [RecordingHandler(record=ledger.append, prices=GenaiPrices()) for _ in "ab"]

    forever().invoke("hi", {"callbacks": [*handlers, ledger]})

    assert ledger.totals().calls == 1


def test_every_entry_of_a_batch_is_a_call() -> None:
    ledger = UsageLedger()

    forever().batch(["one", "two", "three"], {"callbacks": [ledger]})
    asyncio.run(forever().abatch(["one", "two", "three"], {"callbacks": [ledger]}))

    assert kinds(ledger) == ["live"] * 6


def test_a_failed_entry_of_a_batch_is_an_error_and_the_others_count() -> None:
    ledger = UsageLedger()
    model = ScriptedModel(["a", ValueError("no"), "c"])

    model.batch(
        ["one", "two", "three"],
        {"callbacks": [ledger], "max_concurrency": 1},
        return_exceptions=True,
    )

    assert sorted(kinds(ledger)) == ["error", "live", "live"]


def test_a_fallback_is_a_call_of_its_own_with_its_own_model() -> None:
    ledger = UsageLedger()
    broken = ScriptedModel([RuntimeError("down")], model_name="gpt-5")

    broken.with_fallbacks([forever("gpt-5-mini")]).invoke("hi", {"callbacks": [ledger]})

    assert [(r.kind, r.model) for r in ledger.records()] == [
        ("error", "gpt-5"),
        ("live", "gpt-5-mini"),
    ]


async def test_tasks_in_a_block_are_recorded() -> None:
    model = forever()

    with track_usage() as ledger:
        await asyncio.gather(*(model.ainvoke("hi") for _ in range(20)))

    assert ledger.totals().calls == 20


async def test_concurrent_blocks_do_not_see_each_other() -> None:
    model = forever()

    async def block(calls: int) -> int:
        with track_usage() as ledger:
            for _ in range(calls):
                await model.ainvoke("hi")
        return ledger.totals().calls

    assert await asyncio.gather(*map(block, range(1, 6))) == [1, 2, 3, 4, 5]


def test_a_block_that_raises_keeps_its_records_and_ends() -> None:
    model = forever()

    ledger = UsageLedger()

    def block() -> None:
        with track_usage(ledger):
            model.invoke("hi")
            raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        block()
    model.invoke("hi")

    assert ledger.totals().calls == 1


# --- calls that are dropped -------------------------------------------------------------------


class Gate:
    """Lets a model's waits begin, never end."""

    def __init__(self, arrivals: int) -> None:
        self._missing = arrivals
        self.all_arrived = asyncio.Event()

    async def __call__(self, _: float) -> None:
        self._missing -= 1
        if not self._missing:
            self.all_arrived.set()
        await asyncio.Event().wait()


async def cancelled(task: "asyncio.Task[Any]", gate: Gate) -> None:
    await gate.all_arrived.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.sleep(0)  # callbacks of the task run


async def test_a_cancelled_batch_is_abandoned_entry_by_entry() -> None:
    ledger, gate = UsageLedger(), Gate(3)
    model = forever(latency_s=1, async_sleep=gate)

    batch = model.abatch(["a", "b", "c"], {"callbacks": [ledger]})
    await cancelled(asyncio.create_task(batch), gate)

    assert kinds(ledger) == ["abandoned"] * 3
    assert ledger.open_calls == 0


async def test_a_cancelled_stream_is_abandoned_once() -> None:
    ledger, gate = UsageLedger(), Gate(1)
    model = forever(latency_s=1, async_sleep=gate)

    async def read() -> None:
        async for _ in model.astream("hi", {"callbacks": [ledger]}):
            pass

    await cancelled(asyncio.create_task(read()), gate)

    assert kinds(ledger) == ["abandoned"]
    assert ledger.open_calls == 0


async def test_a_call_in_a_graph_that_is_cancelled_is_abandoned() -> None:
    ledger, gate = UsageLedger(), Gate(1)
    model = forever(latency_s=1, async_sleep=gate)

    async def node(state: MessagesState) -> dict[str, Any]:
        return {"messages": [await model.ainvoke(state["messages"])]}

    graph = StateGraph(MessagesState).add_node("node", node).add_edge(START, "node").compile()
    run = graph.ainvoke({"messages": [HumanMessage("hi")]}, {"callbacks": [ledger]})
    await cancelled(asyncio.create_task(run), gate)

    (record,) = ledger.records()
    assert (record.kind, record.node) == ("abandoned", "node")


async def test_a_task_cancelled_after_its_call_adds_nothing() -> None:
    ledger, gate = UsageLedger(), Gate(1)

    async def call_then_wait() -> None:
        await forever().ainvoke("hi", {"callbacks": [ledger]})
        await gate(0)

    await cancelled(asyncio.create_task(call_then_wait()), gate)

    assert kinds(ledger) == ["live"]


async def test_a_stream_that_another_task_finishes_is_live() -> None:
    ledger = UsageLedger()
    stream: Any = forever().astream("hi", {"callbacks": [ledger]})

    await asyncio.create_task(anext(stream))
    await asyncio.sleep(0)  # callbacks of the task run
    async for _ in stream:
        pass

    assert kinds(ledger) == ["live"]


class CutInACall(ScriptedModel):
    """A stream that breaks after the first chunk of a tool call, before any text."""

    def _stream(self, *args: Any, **kwargs: Any) -> Iterator[ChatGenerationChunk]:
        for chunk in super()._stream(*args, **kwargs):
            yield chunk
            raise ConnectionError


def test_a_stream_cut_inside_a_tool_call_is_estimated() -> None:
    ledger = UsageLedger()
    call = {"name": "ask", "args": {"question": "?"}, "id": "1", "type": "tool_call"}
    model = CutInACall([AIMessage("", tool_calls=[call])], usage="none")

    with pytest.raises(ConnectionError):
        list(model.stream("hi", {"callbacks": [ledger]}))

    (record,) = ledger.records()
    assert (record.kind, record.estimated) == ("error", True)
    assert record.usage.input_tokens > 0


def test_an_estimate_has_the_tools_of_the_request_too() -> None:
    @tool
    def ask(question: str) -> str:
        """Ask another model, and wait for what it has to say."""
        return question

    ledger = UsageLedger()
    model = forever(usage="none")

    model.invoke("hi", {"callbacks": [ledger]})
    model.bind_tools([ask]).invoke("hi", {"callbacks": [ledger]})

    plain, with_tools = (record.usage.input_tokens for record in ledger.records())
    assert with_tools > plain + 10


async def test_a_call_in_a_callback_of_the_loop_is_booked_too() -> None:
    ledger, model = UsageLedger(), forever()
    done: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def call() -> None:  # no task runs it
        done.set_result(model.invoke("Hi", {"callbacks": [ledger]}).text)

    asyncio.get_running_loop().call_soon(call)
    await asyncio.wait_for(done, 30)

    assert kinds(ledger) == ["live"]


def test_of_very_many_open_calls_the_oldest_is_given_up() -> None:
    ledger = UsageLedger()
    runs = [uuid4() for _ in range(20_001)]
    for run in runs:
        ledger.on_llm_start({}, ["Hi"], run_id=run)
    assert ledger.open_calls == 20_000

    ledger.on_llm_error(RuntimeError("down"), run_id=runs[-1])
    assert ledger.open_calls == 19_999
    ledger.on_llm_error(RuntimeError("down"), run_id=runs[0])
    assert ledger.open_calls == 19_999


def test_an_end_without_a_start_is_still_booked() -> None:
    ledger = UsageLedger()
    answer = AIMessage("ok", id="1", usage_metadata=PLAIN, response_metadata={"model_name": "m"})
    ledger.on_llm_end(LLMResult(generations=[[ChatGeneration(message=answer)]]), run_id=uuid4())

    assert ledger.totals().usage == Usage(plain_input=10, output=5)


# --- usage that is odd ------------------------------------------------------------------------


def booked(usage: Any, *, model: str = "gpt-5.6-sol", **bound: Any) -> CallRecord:
    ledger = UsageLedger()
    answer = AIMessage("ok", usage_metadata=usage, response_metadata={"model_name": model})
    ScriptedModel([answer], provider="openai").bind(**bound).invoke("hi", {"callbacks": [ledger]})
    (record,) = ledger.records()
    return record


@pytest.mark.parametrize(
    ("options", "dollars"),
    [({}, "0.005"), ({"ttl": "30m"}, "0.005"), ({"ttl": "12h"}, "0.01")],
)
def test_a_write_is_priced_by_the_life_that_the_request_asked_for(
    options: dict[str, str], dollars: str
) -> None:
    usage: Any = {
        "input_tokens": 1_000,
        "output_tokens": 0,
        "total_tokens": 1_000,
        "input_token_details": {"cache_creation": 1_000},
    }

    record = booked(usage, prompt_cache_options=options)

    assert record.cost == Decimal(dollars)  # 4 dollars a million, times 1.25 or 2.5


def test_a_write_for_an_hour_is_told_by_the_request_where_the_answer_has_no_breakdown() -> None:
    usage: Any = {
        "input_tokens": 1_000,
        "output_tokens": 0,
        "total_tokens": 1_000,
        "input_token_details": {"cache_creation": 1_000},
    }

    record = booked(usage, model="claude-sonnet-4-5", cache_control={"ttl": "1h"})

    assert record.usage == Usage(cache_write_1h=1_000)


def test_a_usage_without_a_total_is_believed() -> None:
    record = booked({"input_tokens": 10, "output_tokens": 5, "total_tokens": 0})

    assert record.usage == Usage(plain_input=10, output=5)
    assert not record.estimated


def test_a_usage_of_zeros_is_estimated() -> None:
    record = booked({"input_tokens": 0, "output_tokens": 0, "total_tokens": 0})

    assert record.estimated
    assert record.usage.total_tokens > 0


def test_prices_are_read_without_a_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    _rates.cache_clear()

    assert booked(PLAIN).cost == Decimal("0.00014")


tokens = st.integers(0, 100_000)
usages = st.fixed_dictionaries(
    {"input_tokens": tokens, "output_tokens": tokens, "total_tokens": tokens},
    optional={
        "input_token_details": st.dictionaries(
            st.sampled_from(["cache_read", "cache_creation", "audio", "flex", "flex_cache_read"]),
            tokens,
        ),
        "output_token_details": st.dictionaries(
            st.sampled_from(["reasoning", "audio", "flex_reasoning"]), tokens
        ),
    },
)


@given(usages, st.sampled_from(["gpt-5", "claude-sonnet-4-5", "unheard-of"]))
def test_sync_async_and_streamed_calls_are_booked_alike(usage: Any, model: str) -> None:
    answer = AIMessage("ok", usage_metadata=usage, response_metadata={"model_name": model})
    ledger = UsageLedger()
    scripted = ScriptedModel([answer], when_exhausted="repeat_last")
    config: Any = {"callbacks": [ledger]}

    scripted.invoke("hi", config)
    asyncio.run(scripted.ainvoke("hi", config))
    list(scripted.stream("hi", config))

    booked = {
        (r.kind, r.model, r.usage, r.cost, r.saved, r.tier, r.estimated) for r in ledger.records()
    }
    assert len(booked) == 1


# --- agents -----------------------------------------------------------------------------------


def test_an_agents_own_summary_is_told_apart_from_its_answers() -> None:
    ledger = UsageLedger()
    summariser = forever("gpt-5-mini")
    agent = create_agent(
        forever("gpt-5"),
        middleware=[
            SummarizationMiddleware(summariser, trigger=("messages", 4), keep=("messages", 1))
        ],
    )
    history: Any = [("user", "one"), ("ai", "two"), ("user", "three"), ("ai", "4"), ("user", "5")]

    agent.invoke({"messages": history}, {"callbacks": [ledger]})

    assert [(r.model, r.overhead) for r in ledger.records()] == [
        ("gpt-5-mini", True),
        ("gpt-5", False),
    ]


def test_a_model_that_a_tool_calls_is_counted_with_its_feature() -> None:
    inner = forever("gpt-5-mini")

    @tool
    def ask(question: str) -> str:
        """Ask another model."""
        return inner.invoke(question).text

    call = {"name": "ask", "args": {"question": "?"}, "id": "1", "type": "tool_call"}
    outer = ScriptedModel([AIMessage("", tool_calls=[call]), "done"], model_name="gpt-5")
    ledger = UsageLedger()

    create_agent(outer, tools=[ask]).invoke(
        {"messages": [HumanMessage("hi")]},
        {"callbacks": [ledger], "metadata": {"feature": "research"}},
    )

    assert [(r.model, r.node, r.feature) for r in ledger.records()] == [
        ("gpt-5", "model", "research"),
        ("gpt-5-mini", "tools", "research"),
        ("gpt-5", "model", "research"),
    ]


# --- marks --------------------------------------------------------------------------------------


def test_an_answer_of_a_batch_is_booked_at_its_price_and_when_it_was_asked_for() -> None:
    submitted = datetime(2026, 11, 1, 8, tzinfo=UTC)
    answer = AIMessage(
        "four",
        id="run-1",
        usage_metadata={"input_tokens": 1_000, "output_tokens": 100, "total_tokens": 1_100},
        response_metadata={"model_name": "gpt-5-mini"},
    )
    ledgers = UsageLedger(), UsageLedger()
    for ledger, message in zip(
        ledgers,
        [
            answer,
            mark_batch(
                answer, submitted_at=submitted, completed_at=submitted + timedelta(minutes=5)
            ),
        ],
        strict=True,
    ):
        manager = CallbackManager.configure(inheritable_callbacks=[ledger])
        (run,) = manager.on_chat_model_start({}, [[HumanMessage("2 + 2?")]])
        run.on_llm_end(LLMResult(generations=[[ChatGeneration(message=message)]]))

    (live,), (batch,) = (list(ledger.records()) for ledger in ledgers)
    assert live.cost
    assert batch.cost == live.cost / 2
    assert (batch.kind, batch.tier) == ("batch", "batch")
    assert (batch.started_at, batch.latency_s) == (submitted, 300.0)


def test_a_call_is_booked_under_the_templates_that_made_its_messages() -> None:
    ledger = UsageLedger()
    made = {"response_metadata": {TEMPLATE_MARK: "review@0123456789ab"}}
    prompt = [SystemMessage("Review.", **made), HumanMessage("x = 1", **made)]

    forever().invoke(prompt, {"callbacks": [ledger], "tags": ["mine"]})
    forever().invoke("hi", {"callbacks": [ledger]})

    assert [record.tags for record in ledger.records()] == [
        ("mine", "template:review@0123456789ab"),
        (),
    ]
    assert {name: of.calls for name, of in ledger.totals_by("template").items()} == {
        "": 1,
        "review@0123456789ab": 1,
    }
