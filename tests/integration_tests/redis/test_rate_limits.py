"""Tokens and requests a minute that processes share through a Redis."""

import asyncio
import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from langchain_core.messages import AIMessage

from langchain_tokenopt.batching import RateLimitedChatModel, RateLimiter, RedisWindow
from langchain_tokenopt.batching.limit_window import Rates
from langchain_tokenopt.errors import ConfigurationError
from langchain_tokenopt.testing import ScriptedModel

Server = Any
Until = Callable[..., Any]


def test_threads_share_what_a_minute_allows(redis_server: Server, namespace: str) -> None:
    limiters = [
        RateLimiter(
            tokens_per_minute=1_000, window=RedisWindow(redis_server.url, namespace=namespace)
        )
        for _ in range(2)
    ]
    with ThreadPoolExecutor(20) as pool:
        taken = list(pool.map(lambda n: limiters[n % 2]._at_once(90), range(40)))

    assert sum(lease is not None for lease in taken) == 11


def _grab(url: str, namespace: str, results: Any) -> None:
    window = RedisWindow(url, namespace=namespace)
    rates = Rates(tokens=500, requests=None)
    end, got = time.monotonic() + 2, 0
    while time.monotonic() < end and window.take("me", 20, rates).second is not None:
        got += 1
    results.put(got)


def test_processes_together_never_pass_the_limit(redis_server: Server, namespace: str) -> None:
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    workers = [
        context.Process(target=_grab, args=(redis_server.url, namespace, results)) for _ in range(2)
    ]
    for worker in workers:
        worker.start()
    got = [results.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join(60)

    assert sum(got) == 25


def test_who_came_first_is_served_first_whatever_the_process(
    redis_server: Server, namespace: str
) -> None:
    one, two = (RedisWindow(redis_server.url, namespace=namespace) for _ in range(2))
    rates = Rates(tokens=100, requests=None)
    first = one.take("a", 90, rates)
    assert first.second is not None
    large = one.take("large", 80, rates)
    assert large.second is None
    assert 50 < large.wait_s < 62

    small = two.take("small", 5, rates)
    assert small.second is None  # there is room, but not before the large one
    one.correct(first.second, -90, -1)
    assert one.take("large", 80, rates).second is not None
    assert two.take("small", 5, rates).second is not None


def test_who_gave_up_stands_in_nobodys_way(redis_server: Server, namespace: str) -> None:
    one, two = (RedisWindow(redis_server.url, namespace=namespace) for _ in range(2))
    rates = Rates(tokens=100, requests=None)
    one.take("a", 90, rates)
    assert one.take("large", 80, rates).second is None
    one.leave("large")

    assert two.take("small", 5, rates).second is not None


def test_a_pause_holds_for_all_processes(redis_server: Server, namespace: str) -> None:
    one, two = (RedisWindow(redis_server.url, namespace=namespace) for _ in range(2))
    one.pause(30)
    two.pause(1)

    told = two.take("a", 1, Rates(tokens=100, requests=None))
    assert told.second is None
    assert 25 < told.wait_s <= 30


async def test_async_callers_wait_for_a_redis_without_holding_up_the_loop(
    redis_server: Server, namespace: str
) -> None:
    limits = RateLimiter(
        requests_per_minute=5, window=RedisWindow(redis_server.url, namespace=namespace)
    )
    leases = [await limits.atake(10) for _ in range(5)]

    assert not await limits.aacquire(blocking=False)
    limits.settle(leases[0], used=None)
    assert await limits.aacquire(blocking=False)


def test_without_its_redis_a_process_goes_on_with_its_share_and_returns_to_it(
    own_server: Server, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    now = [1_000.0]
    limits = RateLimiter(
        tokens_per_minute=1_000,
        window=RedisWindow(own_server.url, namespace=namespace),
        share_when_away=0.2,
        clock=lambda: now[0],
    )
    assert limits._at_once(300) is not None
    own_server.kill()
    assert limits._at_once(150) is not None
    assert limits._at_once(150) is None  # 200 are its share
    assert limits.stats.failures == 1
    assert "goes on with its share" in caplog.text

    own_server.start()
    now[0] += 40
    lease = limits._at_once(700)
    assert lease is not None
    assert isinstance(lease.window, RedisWindow)


async def test_a_pause_and_what_was_used_are_told_to_all_that_share(
    redis_server: Server, namespace: str
) -> None:
    one, two = (
        RateLimiter(
            tokens_per_minute=1_000, window=RedisWindow(redis_server.url, namespace=namespace)
        )
        for _ in range(2)
    )
    usage: Any = {"input_tokens": 300, "output_tokens": 300, "total_tokens": 600}
    model = RateLimitedChatModel(
        ScriptedModel([AIMessage("four", usage_metadata=usage)]),
        limiter=one,
    )

    assert [chunk async for chunk in model.astream("2 + 2?", max_tokens=10)]

    assert two._at_once(401) is None
    assert two._at_once(400) is not None
    one.pause(30)
    assert two._at_once(0) is None


async def test_a_task_that_is_cancelled_while_it_waits_leaves_the_line(
    redis_server: Server, namespace: str, until: Until
) -> None:
    limits = RateLimiter(
        requests_per_minute=1, window=RedisWindow(redis_server.url, namespace=namespace)
    )
    await limits.atake(0)
    waiting = asyncio.create_task(limits.atake(0))
    await asyncio.to_thread(until, lambda: limits._line)

    waiting.cancel()

    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert not limits._line


def test_a_redis_that_stays_away_is_logged_once(
    own_server: Server, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    now = [1_000.0]
    limits = RateLimiter(
        requests_per_minute=100,
        window=RedisWindow(own_server.url, namespace=namespace),
        clock=lambda: now[0],
    )
    lease = limits.take(0)
    own_server.kill()

    limits.settle(lease, used=None)
    limits.pause(0.0)
    now[0] += 100
    assert limits.acquire(blocking=False)

    assert limits.stats.failures == 3
    assert caplog.text.count("goes on with its share") == 1


def test_a_name_that_is_no_key_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="namespace"):
        RedisWindow("redis://localhost", name="a b")
