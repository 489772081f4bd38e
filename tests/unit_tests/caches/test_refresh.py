"""What is asked every morning is there in the morning."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage

from langchain_tokenopt.caches import CachedChatModel, MemoryCache
from langchain_tokenopt.caches.refresh import Refresher
from langchain_tokenopt.messages import is_cache_hit
from langchain_tokenopt.testing import Failure, ScriptedModel

MONDAY = datetime(2026, 11, 2, tzinfo=UTC)
LIFE_S = 3_600.0
USAGE = {"input_tokens": 900, "output_tokens": 100, "total_tokens": 1_000}


class Office:
    """People who ask the same at nine every day, and something else each time."""

    def __init__(self, *, refresh_price: float = 0.5, answers: list[Any] | None = None) -> None:
        self.now = MONDAY
        usual = [AIMessage("four", usage_metadata=USAGE)]  # type: ignore[arg-type]
        self.upstream = ScriptedModel(answers or usual, when_exhausted="repeat_last")
        self.cache = MemoryCache(ttl_s=LIFE_S, clock=self._seconds)
        self.model = CachedChatModel(self.upstream, cache=self.cache)
        self.refresher = Refresher(
            ttl_s=LIFE_S, refresh_price=refresh_price, clock=lambda: self.now
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
