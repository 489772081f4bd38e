"""CachedChatModel: what a served call looks like, and who makes a call for whom."""

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.caches import BaseCache, InMemoryCache
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.globals import set_llm_cache
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    ChatMessage,
    HumanMessage,
    ToolMessage,
)
from langchain_core.outputs import ChatGeneration, ChatResult, Generation
from langchain_core.rate_limiters import InMemoryRateLimiter
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from langgraph.graph import START, MessagesState, StateGraph
from pydantic import BaseModel, Field, create_model

from langchain_tokenopt.caches import (
    CachedChatModel,
    MemoryCache,
    SemanticCache,
    SqliteCache,
    cache_control,
)
from langchain_tokenopt.caches.flight import SingleFlight
from langchain_tokenopt.errors import ConfigurationError
from langchain_tokenopt.messages import cache_source, is_cache_hit
from langchain_tokenopt.testing import Failure, LoopbackServer, ScriptedModel

Until = Callable[[Callable[[], bool]], None]
AsyncUntil = Callable[[Callable[[], bool]], Awaitable[None]]

Caches = Callable[[], BaseCache]


@pytest.fixture(params=["memory", "sqlite", "langchain"])
def cache(request: pytest.FixtureRequest, tmp_path: Any) -> Iterator[BaseCache]:
    if request.param == "langchain":
        yield InMemoryCache()
        return
    made = MemoryCache() if request.param == "memory" else SqliteCache(tmp_path / "cache.sqlite")
    yield made
    made.close()


class Gate:
    """Holds a scripted model's answer until it is opened."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.opened = threading.Event()

    def answer(self, messages: list[Any]) -> str:
        self.entered.set()
        assert self.opened.wait(30)
        return "four"


class AsyncGate:
    """The same for the event loop, as a scripted model's `async_sleep`."""

    def __init__(self) -> None:
        self.entered = asyncio.Event()
        self.opened = asyncio.Event()

    async def sleep(self, _: float) -> None:
        self.entered.set()
        await asyncio.wait_for(self.opened.wait(), 30)


def waiting(model: CachedChatModel, text: str = "2 + 2?") -> int:
    request = model._request([HumanMessage(text)], None, {})
    return model._leads._flights().waiting(request.key)


# --- what is served ---------------------------------------------------------------------------


def test_the_second_call_is_served_in_every_way_of_calling(cache: BaseCache) -> None:
    upstream = ScriptedModel(["four"])
    model = CachedChatModel(upstream, cache=cache)
    first = model.invoke("2 + 2?")

    async def later() -> list[str]:
        streamed = [chunk.text async for chunk in model.astream("2 + 2?")]
        return [(await model.ainvoke("2 + 2?")).text, "".join(streamed)]

    again = [
        model.invoke("2 + 2?").text,
        "".join(chunk.text for chunk in model.stream("2 + 2?")),
        *[message.text for message in model.batch(["2 + 2?"] * 3)],
        *asyncio.run(later()),
    ]

    assert not is_cache_hit(first)
    assert set(again) == {"four"}
    assert upstream.calls == 1


def test_a_stream_fills_the_cache_for_streams_and_calls(cache: BaseCache) -> None:
    upstream = ScriptedModel(["one two three"])
    model = CachedChatModel(upstream, cache=cache)

    first = [chunk.text for chunk in model.stream("count")]
    second = [chunk.text for chunk in model.stream("count")]
    called = model.invoke("count")

    assert "".join(first) == "".join(second) == called.text == "one two three"
    assert len([text for text in second if text]) > 1
    assert upstream.calls == 1


async def test_an_async_stream_fills_the_cache(cache: BaseCache) -> None:
    upstream = ScriptedModel(["one two three"])
    model = CachedChatModel(upstream, cache=cache)

    texts = ["".join([chunk.text async for chunk in model.astream("count")]) for _ in range(3)]

    assert texts == ["one two three"] * 3
    assert upstream.calls == 1


def test_a_hit_has_its_own_id_its_mark_and_the_first_usage(cache: BaseCache) -> None:
    model = CachedChatModel(ScriptedModel(["four"]), cache=cache)
    live, one, two = (model.invoke("2 + 2?") for _ in range(3))

    assert len({live.id, one.id, two.id}) == 3
    assert all(message.id and message.id.startswith("lc_run--") for message in (live, one, two))
    assert cache_source(live) is None
    assert cache_source(one) in {"memory", "sqlite", "InMemoryCache"}
    assert live.usage_metadata is not None
    assert one.usage_metadata == {**live.usage_metadata, "total_cost": 0}
    assert one.response_metadata["model_name"] == live.response_metadata["model_name"]


def test_a_streamed_hit_is_marked_once_and_adds_up_to_the_usage() -> None:
    model = CachedChatModel(ScriptedModel(["one two three"]), cache=MemoryCache())
    live = model.invoke("count")

    chunks = list(model.stream("count"))
    total = chunks[0]
    for chunk in chunks[1:]:
        total = total + chunk

    assert sum(is_cache_hit(chunk) for chunk in chunks) == 1
    assert live.usage_metadata is not None
    assert total.usage_metadata == {**live.usage_metadata, "total_cost": 0}
    assert len({chunk.id for chunk in chunks}) == 1


def test_changing_a_served_message_changes_no_other(cache: BaseCache) -> None:
    model = CachedChatModel(ScriptedModel(["four"]), cache=cache)
    model.invoke("2 + 2?")
    served = model.invoke("2 + 2?")

    served.content = "five"
    served.response_metadata["model_name"] = "changed"
    served.additional_kwargs["note"] = "changed"

    again = model.invoke("2 + 2?")
    assert again.text == "four"
    assert again.response_metadata["model_name"] == "scripted"
    assert "note" not in again.additional_kwargs


def test_a_conversation_that_was_served_goes_on_being_served(cache: BaseCache) -> None:
    upstream = ScriptedModel(["four", "eight"])
    model = CachedChatModel(upstream, cache=cache)

    for _ in range(3):
        history: list[Any] = [HumanMessage("2 + 2?")]
        history.append(model.invoke(history))
        history.append(HumanMessage("and doubled?"))
        assert model.invoke(history).text == "eight"

    assert upstream.calls == 2


def test_a_conversation_that_was_streamed_is_found_by_a_call(cache: BaseCache) -> None:
    upstream = ScriptedModel(["four", "eight"])
    model = CachedChatModel(upstream, cache=cache)

    def conversation(stream: bool) -> str:
        history: list[Any] = [HumanMessage("2 + 2?")]
        if stream:
            chunks = list(model.stream(history))
            total = chunks[0]
            for chunk in chunks[1:]:
                total = total + chunk
            history.append(total)
        else:
            history.append(model.invoke(history))
        return model.invoke([*history, HumanMessage("and doubled?")]).text

    assert conversation(stream=True) == conversation(stream=False) == "eight"
    assert upstream.calls == 2


def test_options_that_change_the_answer_are_told_apart() -> None:
    upstream = ScriptedModel(["a", "b", "c"])
    model = CachedChatModel(upstream, cache=MemoryCache())

    answers = [
        model.invoke("hi").text,
        model.invoke("hi", stop=["x"]).text,
        model.bind(temperature=0.5).invoke("hi").text,
        model.invoke("hi", stop=["x"]).text,
        model.bind(temperature=0.5).invoke("hi").text,
        model.invoke("hi", stream_usage=True).text,
    ]

    assert answers == ["a", "b", "c", "b", "c", "a"]


def test_two_models_never_share_an_answer() -> None:
    cache = MemoryCache()
    small = CachedChatModel(ScriptedModel(["small"], model_name="small"), cache=cache)
    large = CachedChatModel(ScriptedModel(["large"], model_name="large"), cache=cache)

    assert [m.invoke("hi").text for m in (small, large, small, large)] == ["small", "large"] * 2


def test_tenants_never_share_an_answer_not_even_in_flight() -> None:
    tenant = threading.local()
    gate = Gate()
    upstream = ScriptedModel([gate.answer, "other"])
    cache = MemoryCache(tenant=lambda: tenant.name)
    model = CachedChatModel(upstream, cache=cache)

    def ask(name: str) -> str:
        tenant.name = name
        return model.invoke("2 + 2?").text

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(ask, "a")
        assert gate.entered.wait(10)
        assert pool.submit(ask, "b").result(10) == "other"
        gate.opened.set()
        assert first.result(10) == "four"


def test_the_wrapped_models_own_and_the_global_cache_are_left_alone() -> None:
    theirs, everyones = InMemoryCache(), InMemoryCache()
    set_llm_cache(everyones)
    try:
        model = CachedChatModel(ScriptedModel(["four"], cache=theirs), cache=MemoryCache())
        model.invoke("2 + 2?")
    finally:
        set_llm_cache(None)

    assert not theirs._cache
    assert not everyones._cache


def test_several_choices_are_all_kept() -> None:
    class Twice(ScriptedModel):
        def _generate(self, *args: Any, **kwargs: Any) -> ChatResult:
            one, two = super()._generate(*args, **kwargs), super()._generate(*args, **kwargs)
            return ChatResult(generations=[*one.generations, *two.generations])

    upstream = Twice(["a", "b"])
    model = CachedChatModel(upstream, cache=MemoryCache())
    live, hit = (model.generate([[HumanMessage("hi")]]).generations[0] for _ in range(2))

    assert [g.text for g in live] == [g.text for g in hit] == ["a", "b"]
    assert upstream.calls == 2


def test_the_run_is_reported_once_and_as_the_wrapped_model() -> None:
    class Runs(BaseCallbackHandler):
        def __init__(self) -> None:
            self.started: list[Any] = []
            self.tokens = 0
            self.ended = 0

        def on_chat_model_start(self, serialized: Any, messages: Any, **kwargs: Any) -> None:
            self.started.append(kwargs["metadata"])

        def on_llm_new_token(self, token: str, **kwargs: Any) -> None:
            self.tokens += 1

        def on_llm_end(self, response: Any, **kwargs: Any) -> None:
            self.ended += 1

    runs = Runs()
    model = CachedChatModel(ScriptedModel(["a b c"], model_name="m"), cache=MemoryCache())
    for _ in range(2):
        list(model.stream("hi", {"callbacks": [runs]}))

    assert [started["ls_model_name"] for started in runs.started] == ["m", "m"]
    assert runs.ended == 2
    assert runs.tokens >= 6


# --- tools, structure, agents, graphs -----------------------------------------------------------


@tool
def double(number: int) -> int:
    """Double a number."""
    return 2 * number


CALL = {"name": "double", "args": {"number": 2}, "id": "call_1", "type": "tool_call"}


@pytest.mark.parametrize("stream", [False, True])
def test_tool_calls_are_served_whole(cache: BaseCache, stream: bool) -> None:
    upstream = ScriptedModel([AIMessage("", tool_calls=[CALL])])
    model = CachedChatModel(upstream, cache=cache).bind_tools([double])
    calls = []
    for _ in range(2):
        answer: Any = model.invoke("double 2")
        if stream:
            chunks: list[Any] = list(model.stream("double 2"))
            answer = chunks[0]
            for chunk in chunks[1:]:
                answer = answer + chunk
        calls.append(answer.tool_calls)

    assert calls == [[CALL], [CALL]]
    assert upstream.calls == 1


def test_bound_tools_are_part_of_the_key() -> None:
    upstream = ScriptedModel(["plain", "with tools"])
    model = CachedChatModel(upstream, cache=MemoryCache())

    answers = [model.invoke("hi").text, model.bind_tools([double]).invoke("hi").text]

    assert answers == ["plain", "with tools"]


class Answer(BaseModel):
    """An answer."""

    number: int


def test_structured_output_is_served(cache: BaseCache) -> None:
    call = {"name": "Answer", "args": {"number": 4}, "id": "c", "type": "tool_call"}
    upstream = ScriptedModel([AIMessage("", tool_calls=[call])])
    model = CachedChatModel(upstream, cache=cache)

    plain = [model.with_structured_output(Answer).invoke("2 + 2?") for _ in range(2)]
    raw: Any = model.with_structured_output(Answer, include_raw=True).invoke("2 + 2?")

    assert plain == [Answer(number=4)] * 2
    assert raw["parsed"] == Answer(number=4)
    assert is_cache_hit(raw["raw"])
    assert upstream.calls == 1


@pytest.mark.parametrize("said", ['{"number": 4}', "four", ""])
def test_what_the_model_parsed_by_itself_is_there_in_a_hit_too(cache: BaseCache, said: str) -> None:
    parsed = {"parsed": Answer(number=4)} if said.startswith("{") else {}
    upstream = ScriptedModel([AIMessage(said, additional_kwargs=parsed)])
    model = CachedChatModel(upstream, cache=cache)

    first, again = (model.invoke("2 + 2?", response_format=Answer) for _ in range(2))

    assert is_cache_hit(again)
    assert again.additional_kwargs.get("parsed") == parsed.get("parsed")
    assert first.additional_kwargs.get("parsed") == parsed.get("parsed")


def test_schemas_that_ask_for_other_fields_are_told_apart() -> None:
    def answer_with(**fields: Any) -> type[BaseModel]:
        return create_model("Answer", **fields)

    upstream = ScriptedModel(["one", "two"])
    model = CachedChatModel(upstream, cache=MemoryCache())

    texts = [
        model.invoke("2 + 2?", response_format=schema).text
        for schema in (answer_with(a=int), answer_with(b=int), answer_with(a=int))
    ]

    assert texts == ["one", "two", "one"]


def test_an_agent_runs_twice_on_one_agents_calls() -> None:
    upstream = ScriptedModel([AIMessage("", tool_calls=[CALL]), "It is 4."])
    agent = create_agent(CachedChatModel(upstream, cache=MemoryCache()), tools=[double])

    states = [agent.invoke({"messages": [("user", "double 2")]}) for _ in range(3)]

    for state in states:
        kinds = [type(message) for message in state["messages"]]
        assert kinds == [HumanMessage, AIMessage, ToolMessage, AIMessage]
        assert state["messages"][-1].text == "It is 4."
    assert upstream.calls == 2


def graph_of(model: BaseChatModel) -> Any:
    def answer(state: MessagesState) -> dict[str, Any]:
        return {"messages": [model.invoke(state["messages"])]}

    return StateGraph(MessagesState).add_node(answer).add_edge(START, "answer").compile()


def test_a_graph_streams_the_messages_of_a_hit() -> None:
    upstream = ScriptedModel(["one two three"])
    graph = graph_of(CachedChatModel(upstream, cache=MemoryCache()))

    runs = [
        list(graph.stream({"messages": [("user", "count")]}, stream_mode="messages"))
        for _ in range(2)
    ]

    for run in runs:
        chunks = [chunk for chunk, _ in run if isinstance(chunk, AIMessageChunk)]
        assert len([chunk for chunk in chunks if chunk.text]) > 1
        assert "".join(chunk.text for chunk in chunks) == "one two three"
    assert upstream.calls == 1


def test_a_served_turn_is_appended_to_a_graphs_messages() -> None:
    graph = graph_of(CachedChatModel(ScriptedModel(["four"]), cache=MemoryCache()))
    first = graph.invoke({"messages": [HumanMessage("2 + 2?")]})

    second = graph.invoke({"messages": [HumanMessage("2 + 2?")]})
    joined = graph.invoke({"messages": [HumanMessage("2 + 2?")]})

    ids = {state["messages"][-1].id for state in (first, second, joined)}
    assert len(ids) == 3


async def test_events_of_a_hit_hold_the_answer() -> None:
    model = CachedChatModel(ScriptedModel(["one two"]), cache=MemoryCache())

    async def streamed() -> str:
        return "".join(
            [
                event["data"]["chunk"].text
                async for event in model.astream_events("count", version="v2")
                if event["event"] == "on_chat_model_stream"
            ]
        )

    assert [await streamed(), await streamed()] == ["one two", "one two"]


# --- one call for many --------------------------------------------------------------------------


def test_a_hundred_identical_threads_make_one_call(until: Until) -> None:
    gate = Gate()
    upstream = ScriptedModel([gate.answer])
    model = CachedChatModel(upstream, cache=MemoryCache())

    with ThreadPoolExecutor(100) as pool:
        asked = [pool.submit(model.invoke, "2 + 2?") for _ in range(100)]
        until(lambda: waiting(model) == 99)
        gate.opened.set()
        answers = [each.result(30) for each in asked]

    assert {answer.text for answer in answers} == {"four"}
    assert len({answer.id for answer in answers}) == 100
    assert sorted(filter(None, map(cache_source, answers))) == ["in_flight"] * 99
    assert upstream.calls == 1


async def test_a_hundred_identical_tasks_make_one_call(auntil: AsyncUntil) -> None:
    gate = AsyncGate()
    upstream = ScriptedModel(["four"], latency_s=1, async_sleep=gate.sleep)
    model = CachedChatModel(upstream, cache=MemoryCache())

    tasks = [asyncio.create_task(model.ainvoke("2 + 2?")) for _ in range(100)]
    await auntil(lambda: waiting(model) == 99)
    gate.opened.set()
    answers = await asyncio.gather(*tasks)

    assert {answer.text for answer in answers} == {"four"}
    assert sum(is_cache_hit(answer) for answer in answers) == 99
    assert upstream.calls == 1


@pytest.mark.parametrize("times", [10, 100])
def test_a_batch_of_equal_prompts_makes_one_call(times: int) -> None:
    upstream = ScriptedModel(["four"])
    model = CachedChatModel(upstream, cache=MemoryCache())

    answers = model.batch(["2 + 2?"] * times)

    assert [answer.text for answer in answers] == ["four"] * times
    assert upstream.calls == 1


async def test_an_async_batch_and_generate_make_one_call() -> None:
    upstream = ScriptedModel(["four"])
    model = CachedChatModel(upstream, cache=MemoryCache())

    await model.abatch(["2 + 2?"] * 50)
    await model.agenerate([[HumanMessage("2 + 2?")]] * 50)

    assert upstream.calls == 1


def test_streams_and_calls_in_flight_share_one_call(until: Until) -> None:
    gate = Gate()
    upstream = ScriptedModel([gate.answer])
    model = CachedChatModel(upstream, cache=MemoryCache())

    def streamed() -> str:
        return "".join(chunk.text for chunk in model.stream("2 + 2?"))

    with ThreadPoolExecutor(20) as pool:
        asked = [pool.submit(streamed) for _ in range(10)]
        asked += [pool.submit(lambda: model.invoke("2 + 2?").text) for _ in range(10)]
        until(lambda: waiting(model) == 19)
        gate.opened.set()

        assert {each.result(30) for each in asked} == {"four"}
    assert upstream.calls == 1


def test_two_wrappers_of_one_cache_share_their_flights(until: Until) -> None:
    gate = Gate()
    upstream = ScriptedModel([gate.answer])
    cache = MemoryCache()
    one, two = (CachedChatModel(upstream, cache=cache) for _ in range(2))

    with ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(model.invoke, "2 + 2?") for model in (one, two)]
        until(lambda: waiting(one) == 1)
        gate.opened.set()
        for each in asked:
            each.result(30)

    assert upstream.calls == 1


async def test_threads_that_wait_for_a_task_do_not_keep_it_from_its_threads() -> None:
    flights = SingleFlight[str](stall_s=0.05)
    loop, joined = asyncio.get_running_loop(), asyncio.Event()

    async def lead() -> str:
        with await flights.atake_turn("key") as turn:
            await joined.wait()
            turn.deliver(await asyncio.to_thread(lambda: "four"))
            return "four"

    def follow() -> str:
        loop.call_soon_threadsafe(joined.set)
        with flights.take_turn("key") as turn:
            return turn.shared or "four"

    first = asyncio.create_task(lead())
    await asyncio.sleep(0)
    others = (asyncio.to_thread(follow) for _ in range(100))  # more than the loop has threads
    assert set(await asyncio.wait_for(asyncio.gather(first, *others), 30)) == {"four"}


def test_tenants_of_one_semantic_cache_share_no_call_in_flight() -> None:
    gate, tenant = Gate(), ContextVar("tenant", default="")
    cache = SemanticCache(DeterministicFakeEmbedding(size=4), tenant=tenant.get)
    model = CachedChatModel(ScriptedModel([gate.answer, "six"]), cache=cache)

    def ask(name: str) -> str:
        tenant.set(name)
        return model.invoke("2 + 2?").text

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(ask, "ann")
        assert gate.entered.wait(30)
        assert pool.submit(ask, "bob").result(30) == "six"
        gate.opened.set()
        assert first.result(30) == "four"


def test_threads_and_tasks_share_one_call(until: Until) -> None:
    gate = Gate()
    upstream = ScriptedModel([gate.answer])
    model = CachedChatModel(upstream, cache=MemoryCache())

    async def tasks() -> list[str]:
        return [a.text for a in await asyncio.gather(*(model.ainvoke("2 + 2?") for _ in range(5)))]

    with ThreadPoolExecutor(6) as pool:
        led = pool.submit(model.invoke, "2 + 2?")
        assert gate.entered.wait(10)
        awaited = pool.submit(asyncio.run, tasks())
        until(lambda: waiting(model) == 5)
        gate.opened.set()

        assert led.result(30).text == "four"
        assert awaited.result(30) == ["four"] * 5
    assert upstream.calls == 1


def test_a_failure_of_the_first_hands_over_to_the_next(until: Until) -> None:
    gate = Gate()

    def fail(messages: Any) -> Any:
        gate.answer(messages)
        return RuntimeError("down")

    upstream = ScriptedModel([fail, "four"])
    model = CachedChatModel(upstream, cache=MemoryCache())

    with ThreadPoolExecutor(5) as pool:
        asked = [pool.submit(model.invoke, "2 + 2?") for _ in range(5)]
        until(lambda: waiting(model) == 4)
        gate.opened.set()
        errors = [each.exception(30) for each in asked]

    assert sorted(type(error).__name__ for error in errors) == ["NoneType"] * 4 + ["RuntimeError"]
    assert upstream.calls == 2


def test_with_a_model_that_is_down_every_caller_gets_its_own_error() -> None:
    upstream = ScriptedModel([RuntimeError("down")], when_exhausted="repeat_last")
    model = CachedChatModel(upstream, cache=MemoryCache())

    with ThreadPoolExecutor(10) as pool:
        asked = [pool.submit(model.invoke, "2 + 2?") for _ in range(10)]
        errors = [each.exception(30) for each in asked]

    assert all(isinstance(error, RuntimeError) for error in errors)
    assert waiting(model) == 0


async def test_a_cancelled_first_hands_over_to_the_next(auntil: AsyncUntil) -> None:
    gate = AsyncGate()
    upstream = ScriptedModel(
        ["lost", "four"], latency_s=1, async_sleep=gate.sleep, when_exhausted="raise"
    )
    model = CachedChatModel(upstream, cache=MemoryCache())

    first = asyncio.create_task(model.ainvoke("2 + 2?"))
    await gate.entered.wait()
    rest = [asyncio.create_task(model.ainvoke("2 + 2?")) for _ in range(4)]
    await auntil(lambda: waiting(model) == 4)
    first.cancel()
    gate.opened.set()

    assert [answer.text for answer in await asyncio.gather(*rest)] == ["four"] * 4
    with pytest.raises(asyncio.CancelledError):
        await first
    assert upstream.calls == 2


async def test_a_cancelled_waiter_leaves_the_others_alone(auntil: AsyncUntil) -> None:
    gate = AsyncGate()
    upstream = ScriptedModel(["four"], latency_s=1, async_sleep=gate.sleep)
    model = CachedChatModel(upstream, cache=MemoryCache())

    tasks = [asyncio.create_task(model.ainvoke("2 + 2?")) for _ in range(3)]
    await auntil(lambda: waiting(model) == 2)
    tasks[1].cancel()
    gate.opened.set()

    assert (await tasks[0]).text == (await tasks[2]).text == "four"
    assert upstream.calls == 1


def test_an_abandoned_stream_is_not_kept_and_hands_over(until: Until) -> None:
    upstream = ScriptedModel(["one two three", "one two three"])
    model = CachedChatModel(upstream, cache=MemoryCache())

    stream = model.stream("count")
    next(stream)
    with ThreadPoolExecutor(1) as pool:
        waits = pool.submit(lambda: model.invoke("count").text)
        until(lambda: waiting(model, "count") == 1)
        stream.close()

        assert waits.result(30) == "one two three"
    assert upstream.calls == 2
    assert model.invoke("count").text == "one two three"
    assert upstream.calls == 2


async def test_an_abandoned_async_stream_is_not_kept() -> None:
    upstream = ScriptedModel(["one two three"], when_exhausted="repeat_last")
    model = CachedChatModel(upstream, cache=MemoryCache())

    stream: Any = model.astream("count")
    await anext(stream)
    await stream.aclose()
    await model.ainvoke("count")

    assert upstream.calls == 2


def test_a_stream_that_nobody_reads_on_does_not_hold_up_others() -> None:
    upstream = ScriptedModel(["one two three"], when_exhausted="repeat_last")
    model = CachedChatModel(upstream, cache=MemoryCache())

    stream = model.stream("count")
    next(stream)
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(lambda: model.invoke("count").text).result(30) == "one two three"
    rest = "".join(chunk.text for chunk in stream)

    assert rest == "two three"
    assert upstream.calls == 2


def test_a_call_within_a_stream_of_the_same_thread_goes_through() -> None:
    upstream = ScriptedModel(["one two three"], when_exhausted="repeat_last")
    model = CachedChatModel(upstream, cache=MemoryCache())

    stream = model.stream("count")
    next(stream)

    assert "".join(chunk.text for chunk in model.stream("count")) == "one two three"
    assert model.invoke("count").text == "one two three"
    stream.close()


def test_a_failing_stream_is_not_kept() -> None:
    broken = Failure(error=RuntimeError("cut"), after_chunks=1, text="one two")
    upstream = ScriptedModel([broken, "one two three"])
    model = CachedChatModel(upstream, cache=MemoryCache())

    with pytest.raises(RuntimeError, match="cut"):
        list(model.stream("count"))

    assert model.invoke("count").text == "one two three"


async def test_a_cache_without_controls_is_not_asked_for_what_is_to_be_fresh() -> None:
    upstream = ScriptedModel(["one", "two", "three"])
    model = CachedChatModel(upstream, cache=InMemoryCache())
    model.invoke("count")

    with cache_control(no_cache=True):
        fresh = [model.invoke("count").text, (await model.ainvoke("count")).text]

    assert fresh == ["two", "three"]
    assert model.invoke("count").text == "three"


# --- models of every kind -----------------------------------------------------------------------


class Whole(BaseChatModel):
    """A model without streams, whose `_generate` takes no run manager."""

    asked: list[str] = Field(default_factory=list)

    @property
    def _llm_type(self) -> str:
        return "whole"

    def _generate(self, messages: Any, stop: Any = None, **kwargs: Any) -> ChatResult:  # type: ignore[override]
        assert not kwargs
        self.asked.append(messages[-1].text)
        return ChatResult(generations=[ChatGeneration(message=AIMessage("one two three"))])


async def test_a_model_that_cannot_stream_is_cached_too() -> None:
    upstream = Whole()
    model = CachedChatModel(upstream, cache=MemoryCache())

    texts = [
        "".join(chunk.text for chunk in model.stream("count")),
        "".join([chunk.text async for chunk in model.astream("count")]),
        model.invoke("count").text,
        (await model.ainvoke("count")).text,
    ]

    assert texts == ["one two three"] * 4
    assert upstream.asked == ["count"]


class Plain(Whole):
    """A model that says what it was made with."""

    says: list[ChatGeneration] = Field(default_factory=list)

    def _generate(self, messages: Any, *_: Any, **kwargs: Any) -> ChatResult:  # type: ignore[override]
        self.asked.append(messages[-1].text)
        return ChatResult(generations=self.says)


class Odd(Plain):
    """A model whose stream is empty."""

    def _stream(self, messages: Any, *_: Any, **kwargs: Any) -> Iterator[Any]:  # type: ignore[override]
        self.asked.append(messages[-1].text)
        yield from ()


async def test_no_answer_at_all_is_not_kept() -> None:
    upstream = Odd()
    model = CachedChatModel(upstream, cache=MemoryCache())

    for _ in range(2):
        assert model.generate([[HumanMessage("count")]]).generations == [[]]
        assert (await model.agenerate([[HumanMessage("count")]])).generations == [[]]
        with pytest.raises(ValueError, match="No generation"):
            list(model.stream("count"))

    assert len(upstream.asked) == 6


def test_an_answer_in_another_role_is_served_in_it() -> None:
    upstream = Odd(says=[ChatGeneration(message=ChatMessage("four", role="oracle"))])
    model = CachedChatModel(upstream, cache=InMemoryCache())

    answers = [model.invoke("2 + 2?") for _ in range(2)]

    assert [(each.type, each.text) for each in answers] == [("chat", "four")] * 2
    assert upstream.asked == ["2 + 2?"]


class AsyncOnly(Whole):
    """A model whose only stream is asynchronous."""

    async def _astream(self, messages: Any, stop: Any = None, **kwargs: Any) -> AsyncIterator[Any]:  # type: ignore[override]
        async for chunk in ScriptedModel(["four"])._astream(messages):
            yield chunk


async def test_a_model_with_an_async_stream_alone_is_cached_too() -> None:
    model = CachedChatModel(AsyncOnly(), cache=MemoryCache())

    assert "".join([chunk.text async for chunk in model.astream("2 + 2?")]) == "four"
    assert "".join(chunk.text for chunk in model.stream("2 + 2?")) == "four"
    assert "".join(chunk.text for chunk in model.stream("count")) == "one two three"


class Counting(InMemoryRateLimiter):
    acquired = 0

    def acquire(self, *, blocking: bool = True) -> bool:
        self.acquired += 1
        return True

    async def aacquire(self, *, blocking: bool = True) -> bool:
        return self.acquire(blocking=blocking)


async def test_every_way_of_calling_waits_for_the_rate_limit_once() -> None:
    limiter = Counting(requests_per_second=1)
    upstream = ScriptedModel(["a"], rate_limiter=limiter, when_exhausted="repeat_last")
    model = CachedChatModel(upstream, cache=MemoryCache())

    model.invoke("one")
    await model.ainvoke("two")
    list(model.stream("three"))
    assert "".join([chunk.text async for chunk in model.astream("four")]) == "a"

    assert (limiter.acquired, upstream.calls) == (4, 4)


async def test_a_model_made_to_stream_streams_for_calls_too() -> None:
    with LoopbackServer(lambda request: f"You said: {request.text}") as server:
        upstream = ChatOpenAI(
            model="gpt-5-mini", base_url=server.base_url, api_key="any", streaming=True
        )
        model = CachedChatModel(upstream, cache=MemoryCache())

        texts = [model.invoke("one").text, (await model.ainvoke("two")).text]
        again = [model.invoke("one").text, (await model.ainvoke("two")).text]

    assert texts == again == ["You said: one", "You said: two"]
    assert [request.body["stream"] for request in server.requests] == [True, True]


async def test_an_answer_in_blocks_is_streamed_as_it_is() -> None:
    blocks: Any = [{"type": "text", "text": "four"}, {"type": "image", "url": "a"}]
    for content in (blocks, []):
        upstream = Plain(says=[ChatGeneration(message=AIMessage(content))])
        model = CachedChatModel(upstream, cache=MemoryCache())

        streams = [
            list(model.stream("2 + 2?")),
            [chunk async for chunk in model.astream("2 + 2?")],
            [chunk async for chunk in model.astream("3 + 3?")],
        ]

        for chunks in streams:
            whole = chunks[0]
            for chunk in chunks[1:]:
                whole += chunk
            assert whole.content == content
        assert upstream.asked == ["2 + 2?", "3 + 3?"]


def test_only_real_calls_wait_for_the_rate_limit() -> None:
    limiter = Counting(requests_per_second=1)
    model = CachedChatModel(ScriptedModel(["a", "b"], rate_limiter=limiter), cache=MemoryCache())

    for question in ("one", "one", "two", "two"):
        list(model.stream(question))
        model.invoke(question)

    assert limiter.acquired == 2


def test_tokens_are_counted_as_the_wrapped_model_counts_them() -> None:
    upstream = ScriptedModel(["a"], custom_get_token_ids=lambda text: [1] * len(text))
    model = CachedChatModel(upstream, cache=MemoryCache())

    assert model.get_num_tokens("four") == 4


def test_tags_metadata_and_callbacks_of_the_wrapped_model_are_kept() -> None:
    upstream = ScriptedModel(["a"], tags=["t"], metadata={"feature": "faq"}, name="support")
    model = CachedChatModel(upstream, cache=MemoryCache())

    assert (model.tags, model.name) == (["t"], "support")
    assert model.metadata is not None
    assert model.metadata["feature"] == "faq"


# --- caches that misbehave ----------------------------------------------------------------------


class Broken(BaseCache):
    """A cache that always raises."""

    def lookup(self, prompt: str, llm_string: str) -> Any:
        raise LookupError("no cache today")

    def update(self, prompt: str, llm_string: str, return_val: Any) -> None:
        raise LookupError("no cache today")

    def clear(self, **kwargs: Any) -> None:
        raise NotImplementedError


async def test_a_cache_that_raises_is_counted_logged_once_and_breaks_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    upstream = ScriptedModel(["four"], when_exhausted="repeat_last")
    model = CachedChatModel(upstream, cache=Broken())

    with caplog.at_level(logging.WARNING):
        texts = [model.invoke("2 + 2?").text, (await model.ainvoke("2 + 2?")).text]
        texts.append("".join(chunk.text for chunk in model.stream("2 + 2?")))
        texts.append("".join([chunk.text async for chunk in model.astream("2 + 2?")]))

    assert texts == ["four"] * 4
    assert model.cache_failures >= 8
    assert [record.message for record in caplog.records] == [
        "the cache failed, calls go on without it: LookupError('no cache today')"
    ]


class Texts(BaseCache):
    """A cache that gives back plain texts, in a tuple."""

    def __init__(self) -> None:
        self.held: dict[tuple[str, str], Any] = {}

    def lookup(self, prompt: str, llm_string: str) -> Any:
        return self.held.get((prompt, llm_string))

    def update(self, prompt: str, llm_string: str, return_val: Any) -> None:
        self.held[prompt, llm_string] = tuple(Generation(text=g.text) for g in return_val)

    def clear(self, **kwargs: Any) -> None:
        self.held.clear()


def test_a_cache_of_plain_texts_serves_messages() -> None:
    upstream = ScriptedModel(["four"])
    model = CachedChatModel(upstream, cache=Texts())

    answers = [model.invoke("2 + 2?") for _ in range(2)]

    assert [answer.text for answer in answers] == ["four", "four"]
    assert cache_source(answers[1]) == "Texts"
    assert upstream.calls == 1


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"model": ScriptedModel(["a"]).bind(stop=["x"]), "cache": MemoryCache()}, "wrap the mod"),
        ({"model": ScriptedModel(["a"]), "cache": {}}, "expected a BaseCache, got dict"),
    ],
)
def test_what_is_no_model_or_no_cache_is_refused(arguments: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        CachedChatModel(arguments["model"], cache=arguments["cache"])
