"""Guards: what is set aside, what is booked, and what a full budget stops."""

import asyncio
import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from langgraph.graph import START, MessagesState, StateGraph
from pydantic import BaseModel

from langchain_tokenopt.accounting import (
    Alert,
    Amounts,
    AsyncBudgetHandler,
    Budget,
    BudgetedChatModel,
    BudgetGuard,
    BudgetHandler,
    PlannedCall,
    PriceEntry,
    PriceOverrides,
    SqliteBudgets,
    UsageLedger,
)
from langchain_tokenopt.caches import CachedChatModel, MemoryCache
from langchain_tokenopt.errors import BudgetExceededError, ConfigurationError, StoreError
from langchain_tokenopt.testing import LoopbackServer, RateLimited, ScriptedModel
from langchain_tokenopt.tokens import counter_for

PRICES = PriceOverrides(
    entries=(PriceEntry(model="scripted", input=Decimal(1), output=Decimal(10)),)
)
NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)


def used(guard: BudgetGuard) -> tuple[int, int]:
    """Tokens and calls that are spent; nothing may be left over from calls that ended."""
    (status,) = guard.statuses()
    assert status.reserved == Amounts()
    return status.spent.tokens, status.spent.calls


def many(answer: Any = "four", **options: Any) -> ScriptedModel:
    return ScriptedModel([answer], when_exhausted="repeat_last", **options)


@pytest.fixture(params=["handler", "model"])
def guarded(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Puts a guard on a model, in both of its forms."""

    def put(model: BaseChatModel, guard: BudgetGuard, *, asynchronous: bool = False) -> Any:
        if request.param == "model":
            return BudgetedChatModel(model, guard=guard)
        handler = AsyncBudgetHandler(guard) if asynchronous else BudgetHandler(guard)
        return model.with_config({"callbacks": [handler]})

    return put


# --- what is booked ---------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["invoke", "stream", "batch", "ainvoke", "astream"])
async def test_a_call_is_booked_with_what_it_used(guarded: Any, way: str) -> None:
    guard = BudgetGuard([Budget("b", tokens=100_000)])
    model = guarded(many("one two three"), guard, asynchronous=way.startswith("a"))
    if way == "invoke":
        model.invoke("2 + 2?")
    elif way == "stream":
        assert "".join(chunk.text for chunk in model.stream("2 + 2?")) == "one two three"
    elif way == "batch":
        model.batch(["2 + 2?"])
    elif way == "ainvoke":
        await model.ainvoke("2 + 2?")
    else:
        assert len([chunk async for chunk in model.astream("2 + 2?")]) >= 3

    assert used(guard) == (4 + 3, 1)


def test_the_dollars_are_those_of_the_ledger(guarded: Any) -> None:
    guard = BudgetGuard([Budget("b", dollars=1)], prices=PRICES)
    ledger = UsageLedger(prices=PRICES)
    for _ in range(3):
        guarded(many(), guard).invoke("2 + 2?", {"callbacks": [ledger]})

    assert guard.statuses()[0].spent.dollars == ledger.totals().cost == Decimal("0.000042")


def test_a_call_that_fails_gives_everything_back(guarded: Any) -> None:
    guard = BudgetGuard([Budget("b", tokens=5_000, calls=1)])
    model = guarded(ScriptedModel([ValueError("no"), "four"]), guard)
    with pytest.raises(ValueError, match="no"):
        model.invoke("2 + 2?")

    assert model.invoke("2 + 2?").text == "four"
    assert used(guard)[1] == 1


def test_a_stream_that_is_left_is_booked_as_far_as_it_came(guarded: Any) -> None:
    guard = BudgetGuard([Budget("b", tokens=100_000)])
    stream = guarded(many("one two three four five six"), guard).stream("2 + 2?")
    next(stream)
    next(stream)
    stream.close()

    tokens, calls = used(guard)
    assert calls == 1
    assert 5 < tokens < 30


async def test_a_cancelled_call_is_booked_as_abandoned(guarded: Any) -> None:
    guard = BudgetGuard([Budget("b", tokens=100_000)])
    asked = asyncio.Event()

    async def hang(_: float) -> None:
        asked.set()
        await asyncio.Event().wait()

    model = guarded(many(latency_s=30, async_sleep=hang), guard, asynchronous=True)
    task = asyncio.create_task(model.ainvoke("2 + 2?"))
    await asked.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.sleep(0)

    tokens, calls = used(guard)
    assert calls == 1
    assert 0 < tokens < 100


async def test_a_call_that_is_cancelled_while_it_asks_gives_back_what_it_got(
    tmp_path: Path,
) -> None:
    path = tmp_path / "b.sqlite"
    store = SqliteBudgets(path)
    guard = BudgetGuard([Budget("b", calls=1)], store=store)
    guard.settle(guard.reserve_amounts(Amounts(), metadata={}), Amounts())
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")  # the store waits for this
    task = asyncio.create_task(many().ainvoke("2 + 2?", {"callbacks": [AsyncBudgetHandler(guard)]}))
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    other.execute("COMMIT")
    other.close()

    deadline = time.monotonic() + 10
    while not await asyncio.to_thread(lambda: store.statuses()[0].reserved == Amounts()):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)
    await asyncio.gather(*guard._giving_back)
    assert (await many().ainvoke("?", {"callbacks": [AsyncBudgetHandler(guard)]})).text == "four"
    store.close()


def test_tools_and_structured_answers_keep_their_budget() -> None:
    class Number(BaseModel):
        value: int

    @tool
    def add(a: int, b: int) -> int:
        """Add."""
        return a + b

    guard = BudgetGuard([Budget("b", calls=2)])
    call = {"name": "Number", "args": {"value": 4}, "id": "1", "type": "tool_call"}
    model = BudgetedChatModel(many(AIMessage("", tool_calls=[call])), guard=guard)

    model.bind_tools([add]).invoke("2 + 2?")
    model.bind_tools([Number]).invoke("2 + 2?")
    with pytest.raises(BudgetExceededError):
        model.bind_tools([add]).invoke("2 + 2?")


def test_an_answer_that_cannot_be_read_breaks_no_call(
    guarded: Any, caplog: pytest.LogCaptureFixture
) -> None:
    guard = BudgetGuard([Budget("b", tokens=10_000)])
    bad = AIMessage("four")
    object.__setattr__(bad, "usage_metadata", {"input_tokens": object(), "total_tokens": "x"})
    object.__setattr__(bad, "response_metadata", {"model_name": "m", "tokenopt_cache": 3.5})
    assert guarded(many(bad), guard).invoke("2 + 2?").text == "four"

    assert used(guard)[1] <= 1


@pytest.mark.parametrize("way", ["invoke", "stream", "ainvoke", "astream", "streamed invoke"])
async def test_a_model_knows_whose_call_it_is_however_it_is_made(way: str) -> None:
    guard = BudgetGuard([Budget("b", calls=10, per="user")])
    model = BudgetedChatModel(many(), guard=guard)
    handler = AsyncBudgetHandler(guard) if way.startswith("a") else BudgetHandler(guard)
    config: Any = {"metadata": {"user": "ann"}, "callbacks": [handler]}
    if way == "invoke":
        model.invoke("?", config)
    elif way == "stream":
        list(model.stream("?", config))
    elif way == "ainvoke":
        await model.ainvoke("?", config)
    elif way == "astream":
        assert [chunk async for chunk in model.astream("?", config)]
    else:  # LangGraph makes models stream to show their tokens
        list(graph_of(model, calls=1).stream({"messages": ["?"]}, config, stream_mode="messages"))

    assert [(s.key, s.spent.calls, s.reserved.calls) for s in guard.statuses()] == [("ann", 1, 0)]


def test_two_guards_on_one_call_book_it_once() -> None:
    guard = BudgetGuard([Budget("b", calls=10)])
    model = BudgetedChatModel(many(), guard=guard)

    model.invoke("2 + 2?", {"callbacks": [BudgetHandler(guard), BudgetHandler(guard)]})

    assert used(guard)[1] == 1


# --- what is stopped --------------------------------------------------------------------------


def test_a_full_budget_stops_the_call_before_it_is_made(guarded: Any) -> None:
    guard = BudgetGuard([Budget("b", calls=1)])
    upstream = many()
    guarded(upstream, guard).invoke("2 + 2?")

    with pytest.raises(BudgetExceededError, match="budget 'b' has 0 of 1 calls left") as refused:
        guarded(upstream, guard).invoke("2 + 2?")

    assert upstream.calls == 1
    assert refused.value.status.refused == 1
    assert refused.value.needed.calls == 1


async def test_a_full_budget_stops_every_way_to_call(guarded: Any) -> None:
    guard = BudgetGuard([Budget("b", calls=0)])
    upstream = many()
    model, amodel = guarded(upstream, guard), guarded(upstream, guard, asynchronous=True)
    with pytest.raises(BudgetExceededError):
        model.invoke("2 + 2?")
    with pytest.raises(BudgetExceededError):
        list(model.stream("2 + 2?"))
    with pytest.raises(BudgetExceededError):
        model.batch(["2 + 2?"])
    with pytest.raises(BudgetExceededError):
        await amodel.ainvoke("2 + 2?")
    with pytest.raises(BudgetExceededError):
        async for _ in amodel.astream("2 + 2?"):
            pass
    assert upstream.calls == 0


def test_what_is_needed_counts_the_prompt_and_the_cap_of_the_answer() -> None:
    guard = BudgetGuard([Budget("b", dollars="0.001")])
    handler = BudgetHandler(guard)
    with LoopbackServer(["a", "b"]) as server:
        chat = ChatOpenAI(model="gpt-5-mini", base_url=server.base_url, api_key="any", n=2)
        config: Any = {"callbacks": [handler]}
        with pytest.raises(BudgetExceededError, match="up to") as refused:
            chat.bind(n=2).invoke("hello", config)
        read = counter_for("gpt-5-mini").count_messages([HumanMessage("hello")])
        assert refused.value.needed.tokens == read + 2 * 4_096
        chat.bind(max_tokens=10, n=1).invoke("hello", config)

    assert len(server.requests) == 1
    assert guard.counts().exceeded_holds == 0


def test_the_dearer_price_of_a_cache_write_is_set_aside() -> None:
    guard = BudgetGuard([Budget("b", dollars=1)])
    store_hold = guard.reserve_amounts(Amounts(), metadata={})
    guard.settle(store_hold, Amounts())
    call = PlannedCall(
        model="gpt-5.6-sol",
        provider="openai",
        messages=[HumanMessage("word " * 1_000)],
        parameters={"max_tokens": 1},
    )
    held = guard.reserve(call)
    tokens = held.amounts.tokens - 1

    assert held.amounts.dollars == (Decimal(5) * tokens + 20) / 1_000_000  # 4.00 times 1.25
    assert held.floor.dollars == Decimal(4) * tokens / 1_000_000


@pytest.mark.parametrize("workers", [200])
def test_two_hundred_calls_at_once_never_overspend(guarded: Any, workers: int) -> None:
    limit = Decimal("0.0005")
    guard = BudgetGuard([Budget("b", dollars=limit)], prices=PRICES)
    gate = threading.Barrier(workers)

    def answer(messages: Any) -> str:
        return "word " * 8

    model = guarded(ScriptedModel([answer], when_exhausted="repeat_last"), guard)

    def one(_: int) -> bool:
        gate.wait()
        try:
            model.bind(max_tokens=8).invoke("2 + 2?")
        except BudgetExceededError:
            return False
        return True

    with ThreadPoolExecutor(max_workers=workers) as pool:
        made = sum(pool.map(one, range(workers)))

    (status,) = guard.statuses()
    assert status.spent.dollars <= limit
    assert status.reserved == Amounts()
    assert 0 < made < workers
    assert status.spent.calls == made


async def test_two_hundred_tasks_at_once_never_overspend(guarded: Any, tmp_path: Path) -> None:
    guard = BudgetGuard([Budget("b", calls=50)], store=SqliteBudgets(tmp_path / "b.sqlite"))
    model = guarded(many(latency_s=0.01), guard, asynchronous=True)

    done = await asyncio.gather(
        *(model.ainvoke("2 + 2?") for _ in range(200)), return_exceptions=True
    )

    assert sum(isinstance(each, AIMessage) for each in done) == 50
    assert sum(isinstance(each, BudgetExceededError) for each in done) == 150
    assert used(guard)[1] == 50


# --- whose budget -----------------------------------------------------------------------------


def test_each_feature_and_user_has_a_budget_of_its_own(guarded: Any) -> None:
    guard = BudgetGuard([Budget("f", calls=1, per="feature"), Budget("u", calls=2, per="user")])
    model = guarded(many(), guard)

    def ask(feature: str, user: str) -> None:
        model.invoke("2 + 2?", {"metadata": {"feature": feature, "user": user}})

    ask("faq", "ann")
    ask("search", "ann")
    with pytest.raises(BudgetExceededError, match="feature 'faq'"):
        ask("faq", "bob")
    with pytest.raises(BudgetExceededError, match="user 'ann'"):
        ask("other", "ann")
    ask("other", "bob")


def test_a_day_ends() -> None:
    now = NOW
    guard = BudgetGuard([Budget("b", calls=1, every="day")], clock=lambda: now)
    model = BudgetedChatModel(many(), guard=guard)
    model.invoke("2 + 2?")
    with pytest.raises(BudgetExceededError, match="starts anew at 2026-11-24 00:00 UTC"):
        model.invoke("2 + 2?")
    now += timedelta(days=1)

    assert model.invoke("2 + 2?").text == "four"


def graph_of(model: Any, *, calls: int) -> Any:
    graph = StateGraph(MessagesState)
    for n in range(calls):

        def ask(state: MessagesState) -> Any:
            return {"messages": [model.invoke(state["messages"])]}

        graph.add_node(f"ask{n}", ask)
        graph.add_edge(START if n == 0 else f"ask{n - 1}", f"ask{n}")
    return graph.compile()


def test_a_run_of_a_graph_has_a_budget_of_its_own() -> None:
    guard = BudgetGuard([Budget("run", calls=2, per="run")])
    upstream = many()
    graph = graph_of(upstream, calls=3)
    for _ in range(2):
        with pytest.raises(BudgetExceededError):
            graph.invoke({"messages": ["hi"]}, {"callbacks": [BudgetHandler(guard)]})

    assert upstream.calls == 4
    short = graph_of(upstream, calls=2)
    assert short.invoke({"messages": ["hi"]}, {"callbacks": [BudgetHandler(guard)]})


async def test_a_chain_in_an_event_loop_is_stopped_too() -> None:
    guard = BudgetGuard([Budget("b", calls=1)])
    chain = ChatPromptTemplate.from_template("{q}") | many()
    config: Any = {"callbacks": [AsyncBudgetHandler(guard)]}
    await chain.ainvoke({"q": "2 + 2?"}, config)
    with pytest.raises(BudgetExceededError):
        await chain.ainvoke({"q": "2 + 2?"}, config)


# --- with caches ------------------------------------------------------------------------------


def test_a_hit_of_langchains_cache_costs_nothing() -> None:
    guard = BudgetGuard([Budget("b", calls=2, tokens=10_000)])
    upstream = many(cache=InMemoryCache())
    for _ in range(5):
        upstream.invoke("2 + 2?", {"callbacks": [BudgetHandler(guard)]})

    assert upstream.calls == 1
    assert used(guard)[1] == 1


def test_a_full_budget_still_serves_what_the_cache_holds() -> None:
    guard = BudgetGuard([Budget("b", calls=1)])
    upstream = many()
    model = CachedChatModel(BudgetedChatModel(upstream, guard=guard), cache=MemoryCache())
    model.invoke("2 + 2?")

    assert model.invoke("2 + 2?").text == "four"
    assert "".join(chunk.text for chunk in model.stream("2 + 2?")) == "four"
    with pytest.raises(BudgetExceededError):
        model.invoke("3 + 3?")
    with pytest.raises(BudgetExceededError):
        list(model.stream("3 + 3?"))
    assert (upstream.calls, used(guard)[1]) == (1, 1)


def test_a_model_inside_a_cache_knows_whose_call_it_is() -> None:
    guard = BudgetGuard([Budget("b", calls=1, per="tenant")])
    inner = BudgetedChatModel(many(), guard=guard)
    model = CachedChatModel(inner, cache=MemoryCache())
    model.invoke("1?", {"metadata": {"tenant": "acme"}})
    list(model.stream("2?", {"metadata": {"tenant": "bolt"}}))

    assert {status.key: status.spent.calls for status in guard.statuses()} == {"acme": 1, "bolt": 1}


def test_a_budget_does_not_change_the_key_of_a_cached_answer() -> None:
    cache, upstream = MemoryCache(), many()
    CachedChatModel(upstream, cache=cache).invoke("2 + 2?")
    guard = BudgetGuard([Budget("b", calls=0)])
    model = CachedChatModel(BudgetedChatModel(upstream, guard=guard), cache=cache)

    assert model.invoke("2 + 2?").text == "four"


# --- cheaper instead --------------------------------------------------------------------------


def test_a_cheaper_model_answers_when_the_dear_one_has_no_room() -> None:
    prices = PriceOverrides(
        entries=tuple(
            PriceEntry(model=name, input=Decimal(price), output=Decimal(price))
            for name, price in (("dear", 1_000), ("cheap", 1))
        )
    )
    guard = BudgetGuard([Budget("b", dollars="0.02")], prices=prices)
    dear, cheap = many("dear", model_name="dear"), many("cheap", model_name="cheap")
    model = BudgetedChatModel(dear, guard=guard, downgrade_to=cheap).bind(max_tokens=5)
    ledger = UsageLedger(prices=prices)

    answers = [model.invoke("2?", {"callbacks": [ledger]}).text for _ in range(4)]

    assert (answers[0], answers[-1]) == ("dear", "cheap")
    assert guard.statuses()[0].spent.dollars <= Decimal("0.02")
    with pytest.raises(ConfigurationError, match="must be a ScriptedModel"):
        BudgetedChatModel(dear, guard=guard, downgrade_to=BudgetedChatModel(cheap, guard=guard))


# --- unknown prices, broken parts -------------------------------------------------------------


def test_an_unknown_price_is_let_through_counted_and_said(
    caplog: pytest.LogCaptureFixture,
) -> None:
    guard = BudgetGuard([Budget("b", dollars="0.001")])
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            BudgetedChatModel(many(), guard=guard).invoke("2 + 2?")

    assert guard.counts().unpriced == 3
    assert caplog.text.count("budgets of dollars do not count it") == 1


def test_an_unknown_price_is_refused_where_that_is_asked_for() -> None:
    guard = BudgetGuard([Budget("b", dollars="0.001")], unpriced="refuse")
    with pytest.raises(BudgetExceededError, match="price of 'scripted' is unknown"):
        BudgetedChatModel(many(), guard=guard).invoke("2 + 2?")


def test_a_price_table_that_raises_breaks_no_call() -> None:
    def broken(**_: Any) -> Any:
        raise RuntimeError("no table")

    guard = BudgetGuard([Budget("b", dollars="0.001")], prices=broken)

    assert BudgetedChatModel(many(), guard=guard).invoke("2 + 2?").text == "four"
    assert guard.counts().unpriced == 1


class Flaky(SqliteBudgets):
    """A real store that can be cut off."""

    down = False

    def _change(self, work: Any) -> Any:
        if self.down:
            raise StoreError("cut off")
        return super()._change(work)


@pytest.fixture
def flaky(tmp_path: Path) -> Iterator[Flaky]:
    store = Flaky(tmp_path / "b.sqlite")
    yield store
    store.close()


def test_a_store_that_is_away_breaks_no_call_and_the_limit_still_holds(flaky: Flaky) -> None:
    now = NOW
    guard = BudgetGuard([Budget("b", calls=5)], store=flaky, clock=lambda: now)
    model = BudgetedChatModel(many(), guard=guard)
    model.invoke("1?")
    model.invoke("2?")

    flaky.down = True
    for n in range(3):  # the two before are remembered
        assert model.invoke(f"{n}?").text == "four"
    with pytest.raises(BudgetExceededError):
        model.invoke("6?")
    assert guard.counts().store_failures == 1
    assert guard.counts().owed == 3

    flaky.down = False
    now += timedelta(seconds=6)
    with pytest.raises(BudgetExceededError):
        model.invoke("7?")
    assert guard.counts().owed == 0
    assert used(guard)[1] == 5


def test_a_call_that_began_before_the_store_went_is_booked_when_it_is_back(flaky: Flaky) -> None:
    now = NOW
    guard = BudgetGuard([Budget("b", calls=5)], store=flaky, clock=lambda: now)

    def answer(messages: Any) -> str:
        flaky.down = True
        return "four"

    BudgetedChatModel(ScriptedModel([answer]), guard=guard).invoke("1?")
    assert guard.counts().owed == 1
    flaky.down = False
    now += timedelta(seconds=6)
    BudgetedChatModel(many(), guard=guard).invoke("2?")

    assert used(guard)[1] == 2


def test_a_call_without_a_cap_that_writes_more_is_counted() -> None:
    guard = BudgetGuard([Budget("b", tokens=10_000)], output_tokens=2)
    BudgetedChatModel(many("one two three four " * 9), guard=guard).invoke("?")

    assert guard.counts().exceeded_holds == 1


def test_a_budget_that_runs_out_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    told: list[Alert] = []

    def broken(alert: Alert) -> None:
        raise OSError("no sink")

    guard = BudgetGuard([Budget("b", calls=5, per="user")], alerts=[broken, told.append])
    model = BudgetedChatModel(many(), guard=guard)
    for _ in range(5):
        model.invoke("2?", {"metadata": {"user": "ann"}})

    (alert,) = told
    assert (alert.measure, alert.rule, alert.group, alert.value) == ("budget", "b", "ann", 0.8)
    assert "budget 'b' (user 'ann') is used up to 80%" in caplog.text


def test_a_grant_makes_room(guarded: Any) -> None:
    guard = BudgetGuard([Budget("b", calls=1)])
    model = guarded(many(), guard)
    model.invoke("1?")
    with pytest.raises(BudgetExceededError) as refused:
        model.invoke("2?")

    guard.grant(refused.value.status, Amounts(calls=1))

    assert model.invoke("2?").text == "four"


def test_a_rate_limited_call_is_booked_once_it_succeeds() -> None:
    guard = BudgetGuard([Budget("b", calls=5)])
    with LoopbackServer([RateLimited(retry_after_s=0.01), "4"]) as server:
        chat = ChatOpenAI(model="gpt-5-mini", base_url=server.base_url, api_key="any")
        assert BudgetedChatModel(chat, guard=guard).invoke("2 + 2?").text == "4"

    assert used(guard)[1] == 1


@pytest.mark.parametrize(
    ("budgets", "options", "said"),
    [
        ([], {}, "budgets of different names"),
        ([Budget("a", calls=1), Budget("a", calls=2)], {}, "different names"),
        ([Budget("a", calls=1)], {"hold_s": 0}, "hold_s more than 0"),
        ([Budget("a", calls=1)], {"unpriced": "maybe"}, "'allow' or 'refuse', got 'maybe'"),
    ],
)
def test_a_guard_that_cannot_work_is_refused(budgets: Any, options: Any, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        BudgetGuard(budgets, **options)


def test_a_grant_to_a_budget_that_is_none_names_those_there_are() -> None:
    guard = BudgetGuard([Budget("one", calls=1), Budget("two", calls=1)])
    other = BudgetGuard([Budget("three", calls=1)])
    other.reserve_amounts(Amounts(calls=1), metadata={})
    (status,) = other.statuses()

    with pytest.raises(ConfigurationError, match="no budget 'three', there are: one, two"):
        guard.grant(status, Amounts(calls=1))


def test_a_refusal_names_the_limit_that_was_reached_and_no_other() -> None:
    guard = BudgetGuard([Budget("both", calls=1, tokens=1_000_000)])
    guard.reserve_amounts(Amounts(calls=1, tokens=10), metadata={})

    with pytest.raises(BudgetExceededError, match="0 of 1 calls left") as refused:
        guard.reserve_amounts(Amounts(calls=1, tokens=10), metadata={})

    assert "tokens left" not in str(refused.value)
