"""Warming a cache within a budget, and learning what is worth warming when."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import count, product
from types import SimpleNamespace
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from langchain_core.language_models import FakeListLLM
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableLambda

from langchain_tokenopt.caches import CachedChatModel, MemoryCache, cache_control
from langchain_tokenopt.caches.recurrence import Recurrence
from langchain_tokenopt.caches.warming import WarmReport, awarm, warm
from langchain_tokenopt.errors import ConfigurationError
from langchain_tokenopt.testing import ScriptedModel
from langchain_tokenopt.tokens import counter_for

Warm = Callable[..., Awaitable[WarmReport]]


@pytest.fixture(params=["sync", "async"])
def warms(request: pytest.FixtureRequest) -> Warm:
    """Return `warm` or `awarm`, both to be awaited."""
    if request.param == "async":
        return awarm

    async def run(*args: Any, **options: Any) -> WarmReport:
        return warm(*args, **options)

    return run


def echo(messages: list[BaseMessage]) -> AIMessage:
    """Answer with ten output tokens, whatever is asked."""
    usage: Any = {"input_tokens": 7, "output_tokens": 10, "total_tokens": 17}
    return AIMessage(f"answer to {messages[-1].text}", usage_metadata=usage)


def scripted(answer: Any = echo, **options: Any) -> ScriptedModel:
    return ScriptedModel([answer], when_exhausted="repeat_last", **options)


# --- warm -------------------------------------------------------------------------------------


async def test_each_prompt_is_asked_once_and_then_served(warms: Warm) -> None:
    upstream = scripted()
    model = CachedChatModel(upstream, cache=MemoryCache())
    report = await warms(model, ["one", "two", "one", [HumanMessage("three")]])

    assert report == WarmReport(
        asked=3,
        already_there=0,
        failed=0,
        tokens=3 * 17,
        dollars=None,
        stopped_at_budget=False,
        first_error=None,
    )
    for prompt in ("one", "two", "three"):
        assert model.invoke(prompt).text == f"answer to {prompt}"
    assert upstream.calls == 3


async def test_what_is_there_already_costs_nothing(warms: Warm) -> None:
    upstream = scripted()
    model = CachedChatModel(upstream, cache=MemoryCache())
    model.invoke("one")
    report = await warms(model, ["one", "two"])

    assert (report.asked, report.already_there, report.tokens) == (1, 1, 17)
    assert upstream.calls == 2


async def test_a_model_with_a_cache_of_its_own_is_warmed_through_a_chain(warms: Warm) -> None:
    upstream = scripted(cache=MemoryCache())
    chain = ChatPromptTemplate.from_template("About {topic}?") | upstream | StrOutputParser()
    first = await warms(chain, [{"topic": "books"}, {"topic": "films"}], budget_tokens=1_000)
    second = await warms(chain, [{"topic": "books"}])

    assert (first.asked, second.asked, second.already_there) == (2, 0, 1)
    assert first.tokens == 34
    assert chain.invoke({"topic": "films"}) == "answer to About films?"
    assert upstream.calls == 2


async def test_a_failure_is_counted_and_the_rest_goes_on(warms: Warm) -> None:
    def fails_on_two(messages: list[BaseMessage]) -> AIMessage:
        if messages[-1].text == "two":
            raise TimeoutError("no answer")
        return echo(messages)

    model = CachedChatModel(scripted(fails_on_two), cache=MemoryCache())
    report = await warms(model, ["one", "two", "three"])

    assert (report.asked, report.failed) == (2, 1)
    assert isinstance(report.first_error, TimeoutError)


async def test_nothing_is_asked_that_does_not_fit_the_budget(warms: Warm) -> None:
    upstream = scripted()
    model = CachedChatModel(upstream, cache=MemoryCache())
    prompts = [f"question {n}" for n in range(50)]
    budget = 10 * 17 + 5
    report = await warms(model, prompts, budget_tokens=budget, concurrency=1)

    assert report.stopped_at_budget
    assert upstream.calls == report.asked
    assert 9 <= report.asked <= 10
    assert report.tokens <= budget


async def test_a_budget_of_nothing_asks_nothing(warms: Warm) -> None:
    upstream = scripted()
    report = await warms(upstream, ["one"], budget_tokens=0)

    assert (report.asked, report.stopped_at_budget, upstream.calls) == (0, True, 0)


async def test_what_was_there_already_leaves_the_budget_to_others(warms: Warm) -> None:
    upstream = scripted()
    model = CachedChatModel(upstream, cache=MemoryCache())
    known = [f"question {n}" for n in range(20)]
    await warms(model, known)
    report = await warms(model, [*known, "new"], budget_tokens=30)

    assert (report.asked, report.already_there, report.stopped_at_budget) == (1, 20, False)


async def test_an_endless_row_of_prompts_ends_with_the_budget(warms: Warm) -> None:
    def questions() -> Iterator[str]:
        return (f"question {n}" for n in count())

    model = CachedChatModel(scripted(), cache=MemoryCache())
    report = await warms(model, questions(), budget_tokens=500)

    assert report.stopped_at_budget
    assert report.tokens <= 500 + 4 * 10  # answers in flight before the first length was known


async def test_tokens_are_counted_where_the_model_reports_none(warms: Warm) -> None:
    model = CachedChatModel(scripted("four five six", usage="none"), cache=MemoryCache())
    report = await warms(model, ["2 + 2?"])
    counter = counter_for("scripted")

    said = counter.count_text("four five six")
    assert report.tokens == counter.count_messages([HumanMessage("2 + 2?")]) + said


async def test_the_dollars_are_what_the_ledger_grew_by(warms: Warm) -> None:
    class Ledger:
        cost = Decimal("1.50")

        def totals(self) -> Any:
            return SimpleNamespace(cost=self.cost)

    ledger = Ledger()

    def answer(messages: list[BaseMessage]) -> AIMessage:
        ledger.cost += Decimal("0.25")
        return echo(messages)

    report = await warms(scripted(answer), ["one", "two"], ledger=ledger, concurrency=1)

    assert report.dollars == Decimal("0.50")


async def test_no_more_calls_run_at_once_than_allowed(warms: Warm) -> None:
    lock = threading.Lock()
    running: list[int] = [0, 0]

    def note(by: int) -> None:
        with lock:
            running[0] += by
            running[1] = max(running)

    def work(prompt: str) -> str:
        note(1)
        threading.Event().wait(0.01)
        note(-1)
        return prompt

    async def awork(prompt: str) -> str:
        note(1)
        await asyncio.sleep(0.01)
        note(-1)
        return prompt

    prompts = [f"question {n}" for n in range(12)]
    report = await warms(RunnableLambda(work, afunc=awork), prompts, concurrency=3)

    assert report.asked == 12
    assert 1 < running[1] <= 3


async def test_what_is_kept_can_be_asked_anew(warms: Warm) -> None:
    upstream = ScriptedModel(["old", "new"])
    model = CachedChatModel(upstream, cache=MemoryCache())
    model.invoke("2 + 2?")
    with cache_control(no_cache=True):
        report = await warms(model, ["2 + 2?"])

    assert report.asked == 1
    assert model.invoke("2 + 2?").text == "new"


async def test_a_warm_up_that_is_cancelled_leaves_no_call_running() -> None:
    started, ended = asyncio.Event(), asyncio.Event()

    async def hangs(prompt: str) -> str:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        return prompt

    task = asyncio.create_task(awarm(RunnableLambda(lambda p: p, afunc=hangs), ["one"]))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert ended.is_set()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompts": "one"}, "prompts must be several, got the text 'one'"),
        ({"prompts": [], "concurrency": 0}, "concurrency must be at least 1, got 0"),
        ({"prompts": [], "budget_tokens": -1}, "budget_tokens must be at least 0.*got -1"),
    ],
)
async def test_what_cannot_be_is_refused(
    warms: Warm, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        await warms(scripted(), **options)


async def test_prompt_values_and_models_that_complete_texts_are_warmed(warms: Warm) -> None:
    value = ChatPromptTemplate.from_template("About {topic}?").invoke({"topic": "books"})
    upstream = scripted()
    model = CachedChatModel(upstream, cache=MemoryCache())
    completes = FakeListLLM(responses=["four"], cache=MemoryCache())

    chat = await warms(model, [value], budget_tokens=1_000)
    text = await warms(completes, ["2 + 2?"])

    assert (chat.asked, chat.tokens, text.asked, text.failed) == (1, 17, 1, 0)
    assert model.invoke("About books?").text == "answer to About books?"
    assert upstream.calls == 1


def test_an_interrupt_ends_the_warm_up() -> None:
    def interrupted(messages: list[BaseMessage]) -> AIMessage:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        warm(scripted(interrupted), ["one", "two"], concurrency=1)


# --- recurrence -------------------------------------------------------------------------------

MONDAY = datetime(2026, 3, 2, tzinfo=UTC)
HOUR_S = 3_600.0


def at(day: int, hour: float) -> datetime:
    return MONDAY + timedelta(days=day, hours=hour)


def synthetic(*, weeks: int = 1, ttl_s: float = HOUR_S, **options: Any) -> Recurrence:
    """A time in which each key's habit is known."""
    seen = [(at(day, 9.1), "every morning", 1_000) for day in range(7 * weeks)]
    seen += [(at(day, 9.2), "weekday mornings", 1_000) for day in range(7 * weeks) if day % 7 < 5]
    seen += [(at(day, 17.1), "every evening", 1_000) for day in range(7 * weeks)]
    seen += [(at(7 * week, 9.3), "Mondays", 1_000) for week in range(weeks)]
    seen += [(at(day, hour + 0.5), "always", 200) for day in range(7 * weeks) for hour in range(24)]
    seen += [(at(day, 3 + day), f"once {day}", 1_000) for day in range(7 * weeks)]
    learned = Recurrence(ttl_s=ttl_s, **options)
    for when, key, tokens in sorted(seen):
        learned.observe(when, key, tokens=tokens)
    return learned


def keys_due(learned: Recurrence, now: datetime, **options: Any) -> list[Any]:
    return [due.key for due in learned.due(now, HOUR_S, **options)]


def test_what_recurs_at_this_hour_is_due_and_nothing_else() -> None:
    learned = synthetic(weeks=2)

    assert set(keys_due(learned, at(14, 9))) >= {"every morning", "weekday mornings"}
    assert set(keys_due(learned, at(14, 17))) == {"every evening", "always"}
    assert keys_due(learned, at(14, 13)) == ["always"]


def test_what_is_asked_on_weekdays_is_not_due_on_sunday() -> None:
    learned = synthetic(weeks=4)

    assert "weekday mornings" in keys_due(learned, at(28, 9))
    assert "weekday mornings" not in keys_due(learned, at(34, 9))
    assert "every morning" in keys_due(learned, at(34, 9))


def test_what_is_asked_on_one_weekday_is_learned_in_weeks() -> None:
    learned = synthetic(weeks=6)

    assert "Mondays" in keys_due(learned, at(42, 9))
    assert "Mondays" not in keys_due(learned, at(43, 9))


def test_the_greatest_saving_comes_first_and_is_chance_times_tokens_less_the_price() -> None:
    learned = synthetic(weeks=4, refresh_price=0.1)
    found = learned.due(at(29, 9), HOUR_S)

    assert [due.saving for due in found] == sorted((due.saving for due in found), reverse=True)
    assert found[0].saving == pytest.approx(found[0].tokens * (found[0].chance - 0.1))
    assert found[0].tokens == 1_000


def test_a_budget_takes_what_is_likeliest_for_its_tokens() -> None:
    learned = synthetic(weeks=4)

    assert keys_due(learned, at(29, 9), budget_tokens=200) == ["always"]
    assert sum(due.tokens for due in learned.due(at(29, 9), HOUR_S, budget_tokens=1_300)) <= 1_300
    assert keys_due(learned, at(29, 9), budget_tokens=0) == []


def test_an_entry_that_lives_past_the_horizon_is_not_due() -> None:
    learned = synthetic(weeks=4, ttl_s=12 * HOUR_S)
    learned.refreshed(at(29, 8.5), "every morning")

    assert "every morning" not in keys_due(learned, at(29, 9))
    assert "every evening" in keys_due(learned, at(29, 17))


def test_an_entry_is_due_before_it_expires() -> None:
    learned = synthetic(weeks=4, ttl_s=12 * HOUR_S, refresh_price=0.2)
    learned.refreshed(at(28, 21.05), "every morning")  # to 9:03, and then it is asked

    assert "every morning" in keys_due(learned, at(29, 8.5))


def test_a_refresh_at_full_price_never_saves() -> None:
    assert synthetic(weeks=4, refresh_price=1.0).due(at(28, 9), HOUR_S) == []


def test_what_is_asked_after_a_release_is_due_after_the_next() -> None:
    learned = Recurrence(ttl_s=HOUR_S, refresh_price=0.3)
    for day in range(60):
        release = f"1.{day // 10}"
        for hour in range(9, 18):
            learned.observe(at(day, hour), "help", tokens=500, release=release)
            if day % 10 == 0 and day:
                learned.observe(at(day, hour), "what is new", tokens=500, release=release)

    assert "what is new" in keys_due(learned, at(60, 10), release="1.6")
    assert "what is new" not in keys_due(learned, at(60, 10))
    assert "help" in keys_due(learned, at(60, 10))


def test_hours_are_those_of_the_zone() -> None:
    berlin = ZoneInfo("Europe/Berlin")
    learned = Recurrence(ttl_s=HOUR_S, zone=berlin)
    for day in range(1, 29):  # the clocks went forward on the last of them
        learned.observe(datetime(2026, 3, day, 9, 5, tzinfo=berlin), "news", tokens=100)

    assert keys_due(learned, datetime(2026, 3, 30, 9, tzinfo=berlin)) == ["news"]
    assert keys_due(learned, datetime(2026, 3, 30, 8, tzinfo=berlin)) == []


def test_the_same_observations_give_the_same_ranks() -> None:
    now = at(28, 9)

    assert synthetic(weeks=4).due(now, HOUR_S) == synthetic(weeks=4).due(now, HOUR_S)


def test_the_longest_unseen_is_forgotten() -> None:
    learned = Recurrence(ttl_s=HOUR_S, max_keys=2, refresh_price=0.0)
    for n, key in enumerate(["a", "b", "a", "c"]):
        learned.observe(at(0, n), key, tokens=10)

    assert set(keys_due(learned, at(0, 12))) == {"a", "c"}


def test_nothing_is_due_before_anything_was_observed() -> None:
    assert Recurrence(ttl_s=HOUR_S).due(MONDAY, HOUR_S) == []


def test_what_is_asked_twice_in_an_hour_recurs_no_more_often() -> None:
    once, twice = synthetic(weeks=2), Recurrence(ttl_s=HOUR_S)
    for when, minutes in product(range(14), (6, 7, 8)):
        twice.observe(at(when, 9) + timedelta(minutes=minutes), "every morning", tokens=1_000)

    (due,) = twice.due(at(14, 8.9), HOUR_S)
    often = {each.key: each for each in once.due(at(14, 8.9), HOUR_S)}["every morning"]
    assert due.key == "every morning"
    assert due.chance == pytest.approx(often.chance, rel=0.1)


def test_a_refresh_of_what_was_never_asked_for_is_no_habit() -> None:
    learned = Recurrence(ttl_s=HOUR_S)
    learned.refreshed(at(0, 9), "nobody's")

    assert learned.due(at(1, 9), HOUR_S) == []


def test_a_time_without_a_zone_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="must have a time zone"):
        Recurrence(ttl_s=1).observe(datetime(2026, 3, 2), "a", tokens=1)  # noqa: DTZ001 - the point


def test_a_life_of_nothing_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="ttl_s must be more than 0, got 0"):
        Recurrence(ttl_s=0)
