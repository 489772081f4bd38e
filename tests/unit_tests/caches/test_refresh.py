"""What is asked every morning is there in the morning."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from langchain_core.language_models import FakeListChatModel, FakeListLLM
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.outputs import ChatGeneration, LLMResult

from langchain_tokenopt.caches import CachedChatModel, MemoryCache
from langchain_tokenopt.caches.refresh import Refresher
from langchain_tokenopt.messages import is_cache_hit
from langchain_tokenopt.testing import Failure, ScriptedModel

MONDAY = datetime(2026, 11, 2, tzinfo=UTC)
LIFE_S = 3_600.0
USAGE = {"input_tokens": 900, "output_tokens": 100, "total_tokens": 1_000}


class Office:
    """People who ask the same at nine every day, and something else each time."""

    def __init__(
        self,
        *,
        refresh_price: float = 0.5,
        answers: list[Any] | None = None,
        max_prompts: int = 10_000,
    ) -> None:
        self.now = MONDAY
        usual = [AIMessage("four", usage_metadata=USAGE)]  # type: ignore[arg-type]
        self.upstream = ScriptedModel(answers or usual, when_exhausted="repeat_last")
        self.cache = MemoryCache(ttl_s=LIFE_S, clock=self._seconds)
        self.model: CachedChatModel = CachedChatModel(self.upstream, cache=self.cache)
        self.refresher = Refresher(
            ttl_s=LIFE_S,
            refresh_price=refresh_price,
            max_prompts=max_prompts,
            clock=lambda: self.now,
        )

    def _seconds(self) -> float:
        return self.now.timestamp()

    def ask(self, text: str) -> AIMessage:
        return self.model.invoke([HumanMessage(text)], {"callbacks": [self.refresher]})

    def morning(self, day: int) -> AIMessage:
        self.now = MONDAY + timedelta(days=day, hours=9, minutes=10)
        self.ask(f"What is new on day {day}?")
        return self.ask("Where is the coffee?")

    def before_nine(self, day: int) -> None:
        self.now = MONDAY + timedelta(days=day, hours=8, minutes=50)


def test_what_is_asked_every_morning_is_refreshed_before_and_served_then() -> None:
    office = Office()
    assert not any(is_cache_hit(office.morning(day)) for day in range(14))

    office.before_nine(14)
    report = office.refresher.refresh(office.model)
    assert (report.due, report.warmed.asked, report.warmed.tokens) == (1, 1, 1_000)
    assert 0 < report.expected_saving < 500

    assert is_cache_hit(office.morning(14))
    stats = office.refresher.stats()
    assert (stats.refreshed, stats.used) == (1, 1)
    assert (stats.spent_tokens, stats.saved_tokens) == (1_000, 1_000)


async def test_the_async_twin_does_the_same() -> None:
    office = Office()
    for day in range(14):
        office.morning(day)
    office.before_nine(14)
    report = await office.refresher.arefresh(office.model)
    assert (report.due, report.warmed.asked) == (1, 1)
    assert is_cache_hit(office.morning(14))


def test_a_refresh_that_nobody_uses_saved_nothing() -> None:
    office = Office()
    for day in range(14):
        office.morning(day)
    office.before_nine(14)
    office.refresher.refresh(office.model)
    stats = office.refresher.stats()
    assert (stats.refreshed, stats.used, stats.saved_tokens) == (1, 0, 0)


def test_its_own_calls_are_not_taken_for_somebodys() -> None:
    office = Office()
    for day in range(14):
        office.morning(day)
    for day in range(14, 20):  # a holiday: refreshes go on, and nobody asks
        office.before_nine(day)
        office.refresher.refresh(office.model)
    habits = office.refresher._recurrence._habits
    assert max(habit.asked for habit in habits.values()) == 14


def test_nothing_is_refreshed_where_it_costs_as_much_or_does_not_fit() -> None:
    dear = Office(refresh_price=1.0)
    for day in range(14):
        dear.morning(day)
    dear.before_nine(14)
    assert dear.refresher.refresh(dear.model).due == 0

    office = Office()
    for day in range(14):
        office.morning(day)
    office.before_nine(14)
    assert office.refresher.refresh(office.model, budget_tokens=900).due == 0


def test_a_refresh_that_fails_leaves_the_prompt_due() -> None:
    usual = AIMessage("four", usage_metadata=USAGE)  # type: ignore[arg-type]
    office = Office(answers=[*[usual] * 28, Failure(error=RuntimeError("down")), usual])
    for day in range(14):
        office.morning(day)
    office.before_nine(14)
    report = office.refresher.refresh(office.model)
    assert (report.due, report.warmed.failed) == (1, 1)
    assert office.refresher.stats().refreshed == 0
    assert office.refresher.refresh(office.model).warmed.asked == 1


def test_calls_that_fail_are_forgotten() -> None:
    office = Office(answers=[Failure(error=RuntimeError("down"))])
    with pytest.raises(RuntimeError):
        office.ask("2 + 2?")
    assert not office.refresher._running


def test_calls_that_end_without_a_word_are_forgotten_in_time() -> None:
    office = Office()
    answer = ChatGeneration(message=AIMessage("four", usage_metadata=USAGE))  # type: ignore[arg-type]
    for n in range(1_001):
        office.refresher.on_chat_model_start({}, [[HumanMessage(f"{n}?")]], run_id=UUID(int=n))

    for n in range(1_001):
        office.refresher.on_llm_end(LLMResult(generations=[[answer]]), run_id=UUID(int=n))

    assert len(office.refresher._prompts) == 1_000  # the first one was given up


def test_models_that_complete_texts_and_several_answers_are_no_habit() -> None:
    office = Office()
    FakeListLLM(responses=["four"]).invoke("2 + 2?", {"callbacks": [office.refresher]})
    office.refresher.on_chat_model_start({}, [[HumanMessage("2 + 2?")]], run_id=UUID(int=1))
    two = [ChatGeneration(message=AIMessage(text)) for text in ("four", "4")]
    office.refresher.on_llm_end(LLMResult(generations=[two]), run_id=UUID(int=1))

    assert not office.refresher._prompts
    assert not office.refresher._running


def test_where_a_model_reports_no_tokens_they_are_counted() -> None:
    silent = FakeListChatModel(responses=["In the kitchen."])
    office = Office()
    office.model = CachedChatModel(silent, cache=office.cache)
    for day in range(14):
        office.morning(day)
    office.before_nine(14)
    office.refresher.refresh(office.model)

    assert 5 < office.refresher.stats().spent_tokens < 50


def test_no_more_prompts_are_remembered_than_allowed() -> None:
    office = Office(max_prompts=1, refresh_price=0.1)
    for asked, days in (("Where is the coffee?", range(14)), ("Where is the tea?", range(14, 28))):
        for day in days:
            office.now = MONDAY + timedelta(days=day, hours=9, minutes=10)
            office.ask(asked)
        office.before_nine(days.stop)
        assert office.refresher.refresh(office.model).warmed.asked == 1
        assert (len(office.refresher._prompts), len(office.refresher._ahead)) == (1, 1)

    office.now = MONDAY + timedelta(days=28, hours=9, minutes=10)
    assert is_cache_hit(office.ask("Where is the tea?"))
    assert office.refresher.stats().used == 1
