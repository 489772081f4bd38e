"""Budgets in a Redis that is killed, hangs or comes back empty amid the calls."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from langchain_tokenopt.accounting import (
    AsyncBudgetHandler,
    Budget,
    BudgetedChatModel,
    BudgetGuard,
)
from langchain_tokenopt.accounting.budget_redis import RedisBudgets
from langchain_tokenopt.errors import BudgetExceededError
from langchain_tokenopt.testing import ScriptedModel


class Clock:
    now = datetime(2026, 11, 23, 12, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now


def made(model: Any, count: int) -> int:
    """How many of so many calls at once were made; the others were refused, and nothing else."""

    def call(n: int) -> bool:
        try:
            model.invoke(f"{n}?")
        except BudgetExceededError:
            return False
        return True

    with ThreadPoolExecutor(max_workers=16) as pool:
        return sum(pool.map(call, range(count)))


def many() -> ScriptedModel:
    return ScriptedModel(["four"], when_exhausted="repeat_last")


@pytest.mark.parametrize("fault", ["kill", "pause"])
def test_the_limit_holds_in_each_process_while_redis_is_away(own_server: Any, fault: str) -> None:
    clock = Clock()
    store = RedisBudgets(own_server.url, timeout_s=0.2)
    guard = BudgetGuard([Budget("b", calls=50)], store=store, clock=clock)
    model = BudgetedChatModel(many(), guard=guard)
    assert made(model, 20) == 20

    getattr(own_server, fault)()
    assert made(model, 60) == 30  # it remembers the twenty
    assert guard.counts().owed == 30
    assert guard.counts().store_failures >= 1

    own_server.resume() if fault == "pause" else own_server.start()
    clock.now += timedelta(seconds=6)
    after = made(model, 60)
    assert guard.counts().owed == 0
    (status,) = guard.statuses()
    if fault == "pause":  # a killed one has forgotten the first twenty
        assert (after, status.spent.calls) == (0, 50)
    else:
        assert (after, status.spent.calls) == (20, 50)


def test_what_was_spent_while_redis_was_away_is_told_to_the_other_processes(
    own_server: Any, until: Callable[..., Any]
) -> None:
    clock = Clock()
    guards = [
        BudgetGuard([Budget("b", calls=10)], store=RedisBudgets(own_server.url), clock=clock)
        for _ in range(2)
    ]
    own_server.kill()
    assert made(BudgetedChatModel(many(), guard=guards[0]), 8) == 8
    own_server.start()
    clock.now += timedelta(seconds=6)
    made(BudgetedChatModel(many(), guard=guards[0]), 1)

    assert made(BudgetedChatModel(many(), guard=guards[1]), 5) == 1


async def test_a_redis_that_hangs_does_not_hold_up_the_event_loop(own_server: Any) -> None:
    guard = BudgetGuard([Budget("b", calls=50)], store=RedisBudgets(own_server.url, timeout_s=0.3))
    model = many()
    config: Any = {"callbacks": [AsyncBudgetHandler(guard)]}
    await model.ainvoke("1?", config)
    own_server.pause()
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.01)
            ticks += 1

    ticking = asyncio.create_task(tick())
    answers = await asyncio.gather(*(model.ainvoke(f"{n}?", config) for n in range(10)))
    ticking.cancel()
    own_server.resume()

    assert [answer.text for answer in answers] == ["four"] * 10
    assert ticks >= 10  # the loop went on while a third of a second was waited
