"""Who leads a call, who waits for it, and who goes on when it cannot."""

import asyncio
import os
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from langchain_tokenopt.caches.flight import SingleFlight, Turn

Until = Callable[[Callable[[], bool]], None]
AsyncUntil = Callable[[Callable[[], bool]], Awaitable[None]]
ALWAYS_S = 1_000.0


class Looks:
    """A clock that stands still and counts how often it is looked at."""

    def __init__(self) -> None:
        self.now = 0.0
        self.seen = 0

    def __call__(self) -> float:
        self.seen += 1
        return self.now


def follow(flights: SingleFlight[str]) -> Turn[str]:
    with flights.take_turn("key") as turn:
        return turn


async def afollow(flights: SingleFlight[str]) -> Turn[str]:
    with await flights.atake_turn("key") as turn:
        return turn


def test_a_thread_waits_on_for_a_call_that_only_takes_long(until: Until) -> None:
    clock = Looks()
    flights = SingleFlight[str](stall_s=0.01, lease_s=10, clock=clock)

    with ThreadPoolExecutor(1) as pool, flights.take_turn("key") as lead:
        waits = pool.submit(follow, flights)
        until(lambda: clock.seen > 4)  # it looked whether the lead stalls, and waited again
        lead.deliver("four")
        turn = waits.result(30)

    assert (turn.shared, turn.leads) == ("four", False)


async def test_a_task_waits_on_for_a_call_that_only_takes_long(auntil: AsyncUntil) -> None:
    clock = Looks()
    flights = SingleFlight[str](stall_s=0.01, lease_s=10, clock=clock)

    with await flights.atake_turn("key") as lead:
        waits = asyncio.create_task(afollow(flights))
        await auntil(lambda: clock.seen > 4)
        lead.deliver("four")
        turn = await asyncio.wait_for(waits, 30)

    assert (turn.shared, turn.leads) == ("four", False)


async def test_a_task_overtakes_a_call_without_a_sign_of_life_and_hears_nothing_of_it(
    auntil: AsyncUntil,
) -> None:
    clock = Looks()
    flights = SingleFlight[str](stall_s=0.01, lease_s=10, clock=clock)

    with await flights.atake_turn("key") as lead:
        waits = asyncio.create_task(afollow(flights))
        await auntil(lambda: flights.waiting("key") == 1)
        clock.now = 11.0
        turn = await asyncio.wait_for(waits, 30)
        lead.deliver("late")

    assert (turn.shared, turn.leads, turn.overtook) == (None, True, True)


async def test_a_sign_of_life_keeps_the_lead(auntil: AsyncUntil) -> None:
    clock = Looks()
    flights = SingleFlight[str](stall_s=0.01, lease_s=10, clock=clock)

    with await flights.atake_turn("key") as lead:
        clock.now = 9.0
        lead.resume()
        waits = asyncio.create_task(afollow(flights))
        await auntil(lambda: flights.waiting("key") == 1)
        clock.now = 18.0
        seen = clock.seen
        await auntil(lambda: clock.seen > seen + 3)
        lead.deliver("four")

        assert (await asyncio.wait_for(waits, 30)).shared == "four"


def test_newcomers_get_the_answer_until_the_block_ends() -> None:
    flights = SingleFlight[str]()

    with flights.take_turn("key") as lead:
        lead.deliver("four")
        lead.deliver("five")  # the first one counts
        newcomer = flights.take_turn("key")
    with flights.take_turn("key") as next_one:
        assert next_one.leads

    assert (newcomer.shared, newcomer.leads) == ("four", False)


def test_who_would_wait_for_itself_goes_on_without_a_lead() -> None:
    clock = Looks()
    flights = SingleFlight[str](clock=clock)

    with flights.take_turn("key") as lead:
        with flights.take_turn("key") as inner:
            inner.pause()
            inner.deliver("inner")
            inner.resume()
        assert flights.take_turn("key").shared is None  # what is inside neither lands nor ends it
        lead.deliver("four")

    assert (inner.leads, inner.shared) == (False, None)


def test_the_last_thousand_answered_are_known() -> None:
    flights = SingleFlight[int]()
    for key in range(1_001):
        with flights.take_turn(key) as turn:
            turn.deliver(key + 1)

    assert not flights.landed_lately(0)
    assert flights.landed_lately(1)
    assert flights.landed_lately(1_000)


async def test_a_task_cancelled_just_when_it_got_the_lead_passes_it_on(auntil: AsyncUntil) -> None:
    flights = SingleFlight[str](stall_s=ALWAYS_S)

    with await flights.atake_turn("key"):
        second, third = (asyncio.create_task(afollow(flights)) for _ in range(2))
        await auntil(lambda: flights.waiting("key") == 2)
    second.cancel()  # the lead is on its way to it

    assert (await asyncio.wait_for(third, 30)).leads
    assert second.cancelled()
    with await flights.atake_turn("key") as turn:
        assert turn.leads


def test_the_lead_passes_over_a_task_whose_loop_is_closed(auntil: AsyncUntil) -> None:
    flights = SingleFlight[str](stall_s=0.05)
    started, ended = threading.Event(), threading.Event()

    def lead() -> None:
        with flights.take_turn("key"):
            started.set()
            assert ended.wait(30)

    with ThreadPoolExecutor(2) as pool:
        led = pool.submit(lead)
        assert started.wait(30)
        loop = asyncio.new_event_loop()
        lost = loop.create_task(afollow(flights))
        loop.run_until_complete(auntil(lambda: flights.waiting("key") == 1))
        loop.close()
        other = asyncio.new_event_loop()
        waits = other.create_task(afollow(flights))
        other.run_until_complete(auntil(lambda: flights.waiting("key") == 2))
        ended.set()
        led.result(30)

        assert other.run_until_complete(asyncio.wait_for(waits, 30)).leads
        other.close()
    assert flights.waiting("key") == 0
    lost._log_destroy_pending = False  # type: ignore[attr-defined]  # it is lost on purpose
    coroutine = lost.get_coro()
    assert coroutine is not None
    coroutine.close()


def test_a_forked_child_waits_for_none_of_its_parents_calls(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    flights = SingleFlight[str]()
    with flights.take_turn("key") as lead:
        monkeypatch.setattr(os, "getpid", lambda: -1)  # as after a fork
        with flights.take_turn("key") as turn:
            assert turn.leads
            lead.deliver("the parent's")
            turn.deliver("the child's")

            assert flights.take_turn("key").shared == "the child's"
