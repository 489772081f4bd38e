"""Tokens and requests a minute in one process."""

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from types import SimpleNamespace
from typing import Any

import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.messages import AIMessage
from langchain_openai import ChatOpenAI

from langchain_tokenopt import UsageLedger
from langchain_tokenopt.batching import RateLimitedChatModel, RateLimiter
from langchain_tokenopt.batching.limit_window import LONGEST_WAIT_S, MemoryWindow, Rates
from langchain_tokenopt.errors import ConfigurationError
from langchain_tokenopt.testing import Failure, LoopbackServer, RateLimited, Reply, ScriptedModel


class Time:
    """A clock that sleeping moves on."""

    def __init__(self) -> None:
        self.now = 1_000.25
        self.lock = threading.Lock()

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        with self.lock:
            self.now += max(seconds, 0.001)

    async def async_sleep(self, seconds: float) -> None:
        self.sleep(seconds)
        await asyncio.sleep(0)


def limiter(clock: Time | None = None, **rates: Any) -> RateLimiter:
    clock = clock or Time()
    return RateLimiter(**rates, clock=clock, sleep=clock.sleep, async_sleep=clock.async_sleep)


def most_in_a_minute(sent: list[tuple[float, int]]) -> int:
    """Return the most that any sixty seconds hold."""
    return max(sum(n for other, n in sent if at <= other < at + 60) for at, _ in sent)


# --- the window -----------------------------------------------------------------------------------


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(1, 100), st.floats(0, 20)), min_size=1, max_size=60))
def test_no_sixty_seconds_hold_more_than_is_allowed(requests: list[tuple[int, float]]) -> None:
    clock = Time()
    limits = limiter(clock, tokens_per_minute=100, requests_per_minute=7)
    sent: list[tuple[float, int]] = []
    for tokens, pause_s in requests:
        clock.now += pause_s
        limits.take(tokens)
        sent.append((clock.now, tokens))

    assert most_in_a_minute(sent) <= 100
    assert most_in_a_minute([(at, 1) for at, _ in sent]) <= 7


def test_two_hundred_threads_never_pass_the_limit() -> None:
    clock, sent = Time(), []
    limits = limiter(clock, tokens_per_minute=1_000)

    def send(_: int) -> None:
        lease = limits.take(50)
        sent.append((lease.second, 50))

    with ThreadPoolExecutor(50) as pool:
        list(pool.map(send, range(200)))

    assert len(sent) == 200
    assert most_in_a_minute([(float(at), n) for at, n in sent]) <= 1_000


async def test_two_hundred_tasks_never_pass_the_limit() -> None:
    limits = limiter(tokens_per_minute=1_000)

    leases = await asyncio.gather(*(limits.atake(50) for _ in range(200)))

    assert most_in_a_minute([(float(lease.second), 50) for lease in leases]) <= 1_000
    assert limits.stats.requests == 200
    assert limits.stats.waited > 100


def test_no_longer_is_waited_than_is_needed() -> None:
    clock = Time()
    limits = limiter(clock, tokens_per_minute=100)
    limits.take(100)
    began = clock.now
    limits.take(100)

    assert 60 <= clock.now - began <= 61.1


def test_a_large_request_is_served_before_small_ones_that_came_later() -> None:
    limits = RateLimiter(tokens_per_minute=100, sleep=lambda _: time.sleep(0.001))
    limits.take(90)
    served: list[int] = []

    def send(tokens: int) -> None:
        limits.take(tokens)
        served.append(tokens)

    pool = ThreadPoolExecutor(4)
    waiting = [pool.submit(send, 80)]
    _until(lambda: len(limits._line) == 1)
    waiting += [pool.submit(send, 1) for _ in range(3)]
    _until(lambda: len(limits._line) == 4)
    assert served == []
    limits._own._used.clear()  # as if a minute had passed
    for each in waiting:
        each.result(10)

    assert served == [80, 1, 1, 1]


def _until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.001)


async def test_a_cancelled_waiter_leaves_the_line_and_takes_nothing() -> None:
    limits = RateLimiter(tokens_per_minute=100)
    lease = limits.take(100)
    first = asyncio.create_task(limits.atake(100))
    second = asyncio.create_task(limits.atake(60))
    await asyncio.sleep(0.01)
    first.cancel()
    limits.settle(lease, used=10)

    assert (await asyncio.wait_for(second, 10)).tokens == 60
    assert not limits._line
    with pytest.raises(asyncio.CancelledError):
        await first


def test_what_was_not_used_is_given_back() -> None:
    clock = Time()
    limits = limiter(clock, tokens_per_minute=100)
    limits.settle(limits.take(90), used=20)
    began = clock.now
    limits.take(80)

    assert clock.now == began


def test_a_request_that_was_not_sent_counts_as_none() -> None:
    limits = limiter(requests_per_minute=1)
    limits.settle(limits.take(0), used=None)

    assert limits.acquire(blocking=False)
    assert not limits.acquire(blocking=False)


def test_what_is_settled_after_its_minute_frees_nothing_of_this_one() -> None:
    clock = Time()
    limits = limiter(clock, tokens_per_minute=100)
    old = limits.take(100)
    clock.now += 70
    limits.take(60)

    limits.settle(old, used=0)

    assert limits._at_once(50) is None
    assert limits._at_once(40) is not None


def test_what_used_just_what_was_taken_needs_no_settling() -> None:
    limits = limiter(tokens_per_minute=100)

    limits.settle(limits.take(60), used=60)

    assert limits._at_once(50) is None
    assert limits._at_once(40) is not None


def test_more_than_a_minute_ever_has_room_for_waits_without_a_time() -> None:
    window = MemoryWindow(clock=Time())
    window.take("a", 50, Rates(tokens=100, requests=None))

    taken = window.take("b", 101, Rates(tokens=100, requests=None))

    assert (taken.second, taken.wait_s) == (None, LONGEST_WAIT_S)


def test_who_cannot_wait_does_not_pass_those_who_do() -> None:
    limits = RateLimiter(requests_per_minute=1, sleep=lambda _: time.sleep(0.001))
    limits.acquire()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(limits.acquire)
        _until(lambda: len(limits._line) == 1)
        assert not limits.acquire(blocking=False)
        limits._own._used.clear()  # as if a minute had passed
        assert waiting.result(10)


async def test_it_is_a_rate_limiter_of_langchain() -> None:
    clock = Time()
    limits = limiter(clock, requests_per_minute=2)
    model = ScriptedModel(["a", "b", "c"], rate_limiter=limits)
    began = clock.now
    model.invoke("1")
    await model.ainvoke("2")
    assert clock.now == began
    model.invoke("3")

    assert clock.now - began >= 60
    assert await limits.aacquire(blocking=False)
    assert not await limits.aacquire(blocking=False)


# --- the model ------------------------------------------------------------------------------------


def usage(total: int) -> Any:
    return {"input_tokens": total - 5, "output_tokens": 5, "total_tokens": total}


@pytest.mark.parametrize("way", ["invoke", "ainvoke", "stream", "astream"])
async def test_a_call_takes_input_and_max_tokens_and_gives_back_the_rest(way: str) -> None:
    limits = limiter(tokens_per_minute=10_000)
    answers = [AIMessage("four", usage_metadata=usage(25))]
    model = RateLimitedChatModel(ScriptedModel(answers), limiter=limits)
    taken: list[int] = []
    original = limits._own.take

    def watch(waiter: str, tokens: int, rates: Any) -> Any:
        taken.append(tokens)
        return original(waiter, tokens, rates)

    limits._own.take = watch  # type: ignore[method-assign]  # looked at, not replaced
    bound: Any = model.bind(max_tokens=800)
    if way == "invoke":
        bound.invoke("2 + 2?")
    elif way == "ainvoke":
        await bound.ainvoke("2 + 2?")
    elif way == "stream":
        list(bound.stream("2 + 2?"))
    else:
        assert [chunk async for chunk in bound.astream("2 + 2?")]

    assert 800 < taken[0] < 830
    assert [tokens for tokens, _ in limits._own._used.values()] == [25]


def test_without_max_tokens_answers_are_taken_to_be_as_long_as_most_were() -> None:
    model = RateLimitedChatModel(
        ScriptedModel([AIMessage("a", usage_metadata=usage(25))], when_exhausted="repeat_last"),
        limiter=limiter(tokens_per_minute=100_000),
    )
    assert model._needed([], {}) > 500
    for _ in range(100):
        model.invoke("2 + 2?")

    assert model._needed([], {}) < 20


def test_a_request_larger_than_a_minute_is_refused_with_its_size() -> None:
    model = RateLimitedChatModel(ScriptedModel(["a"]), limiter=limiter(tokens_per_minute=50))

    with pytest.raises(ConfigurationError, match="50 a minute are allowed"):
        model.invoke("word " * 100)


def test_when_the_provider_has_enough_all_wait_as_long_as_it_says() -> None:
    clock = Time()
    limits = limiter(clock, tokens_per_minute=10_000)
    answers = [RateLimited(retry_after_s=7), Reply(text="four")]
    with LoopbackServer(answers) as server:
        chat = ChatOpenAI(
            model="gpt-5-mini", base_url=server.base_url, api_key="any", max_retries=0
        )
        model = RateLimitedChatModel(chat, limiter=limits)
        began = clock.now
        with pytest.raises(openai.RateLimitError):
            model.invoke("2 + 2?")
        assert not any(tokens for tokens, _ in limits._own._used.values())
        other = RateLimitedChatModel(chat, limiter=limits)
        assert other.invoke("2 + 2?").text == "four"

    assert clock.now - began >= 7
    assert limits.stats.pauses == 1


@pytest.mark.parametrize(
    ("headers", "least_s", "most_s"),
    [
        ({"retry-after-ms": "2500"}, 2.5, 2.5),
        ({"retry-after-ms": "2500", "retry-after": "9"}, 2.5, 2.5),
        ({"retry-after": "in 500 seconds, as a date"}, 60, 120),
        ({"retry-after": "soon"}, 1, 60),
        ({}, 1, 60),
    ],
)
def test_the_wait_is_read_in_every_form_that_providers_give(
    headers: dict[str, str], least_s: float, most_s: float
) -> None:
    if "date" in headers.get("retry-after", ""):  # made now: the test may be collected long before
        until = datetime.now(UTC) + timedelta(seconds=500)
        headers = {"retry-after": format_datetime(until)}

    class TooManyError(Exception):
        status_code = 429
        response = SimpleNamespace(status_code=429, headers=headers)

    clock = Time()
    limits = limiter(clock, requests_per_minute=100)
    failing = ScriptedModel([Failure(error=TooManyError())])
    with pytest.raises(TooManyError):
        RateLimitedChatModel(failing, limiter=limits).invoke("2 + 2?")

    began = clock.now
    limits.take(0)

    assert least_s <= clock.now - began <= most_s + 0.01


def test_a_call_that_fails_otherwise_keeps_its_room_since_it_may_be_billed() -> None:
    limits = limiter(tokens_per_minute=10_000)
    failing = ScriptedModel([Failure(error=TimeoutError("no answer in time"))])
    with pytest.raises(TimeoutError):
        RateLimitedChatModel(failing, limiter=limits).invoke("2 + 2?")

    assert sum(tokens for tokens, _ in limits._own._used.values()) > 500


def test_callbacks_and_tools_reach_the_model_and_a_wait_is_no_second_call() -> None:
    ledger = UsageLedger()
    model = RateLimitedChatModel(ScriptedModel(["a", "b"]), limiter=limiter(requests_per_minute=1))
    for _ in range(2):
        model.invoke("2 + 2?", {"callbacks": [ledger]})

    assert ledger.totals().calls == 2


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"tokens_per_minute": 0},
        {"requests_per_minute": -1},
        {"requests_per_minute": 1, "share_when_away": 0},
    ],
)
def test_wrong_limits_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        RateLimiter(**wrong)
