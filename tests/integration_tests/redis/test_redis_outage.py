"""A Redis that is killed, hangs, comes back empty or is flushed in the middle of many calls."""

import asyncio
import logging
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from langchain_tokenopt.caches import (
    MemoryStore,
    StoreError,
    TieredCache,
    TieredStore,
    cache_control,
)
from langchain_tokenopt.caches.redis import RedisCache, RedisStore
from langchain_tokenopt.caches.sync import Invalidations
from langchain_tokenopt.testing import ScriptedModel

Server = Any
Until = Callable[..., Any]
TENANTS = ("ann", "bob", "eve")
QUESTIONS = 20


def key(n: int) -> bytes:
    return n.to_bytes(8, "little") + bytes(24)


class Traffic:
    """Threads and tasks of three tenants that ask until told to stop."""

    def __init__(self, make_cache: Callable[[str], Any]) -> None:
        self.calls = 0
        self.wrong: list[str] = []
        self.failed: list[BaseException] = []
        self._stop = threading.Event()
        self._count = threading.Lock()
        self.caches = {tenant: make_cache(tenant) for tenant in TENANTS}
        self._threads = [
            threading.Thread(target=work, args=(tenant,))
            for tenant in TENANTS
            for work in (self._ask, self._aask)
        ]

    def _model(self, tenant: str, n: int) -> ScriptedModel:
        said = f"{tenant} {n}"
        return ScriptedModel([said], cache=self.caches[tenant], when_exhausted="repeat_last")

    def _note(self, tenant: str, n: int, said: str) -> None:
        with self._count:
            self.calls += 1
        if said != f"{tenant} {n}":
            self.wrong.append(f"{tenant} asked {n}, got {said}")

    def _ask(self, tenant: str) -> None:
        try:
            while not self._stop.is_set():
                n = random.randrange(QUESTIONS)
                with cache_control(ttl_s=random.choice([0.2, 60]), tags=["all", tenant]):
                    self._note(tenant, n, self._model(tenant, n).invoke(f"question {n}").text)
        except BaseException as error:  # noqa: BLE001 - what a thread raises is lost otherwise
            self.failed.append(error)

    def _aask(self, tenant: str) -> None:
        async def ask(n: int) -> None:
            answer = await self._model(tenant, n).ainvoke(f"question {n}")
            self._note(tenant, n, answer.text)

        async def run() -> None:
            while not self._stop.is_set():
                await asyncio.gather(*(ask(n % QUESTIONS) for n in range(8)))

        try:
            asyncio.run(run())
        except BaseException as error:  # noqa: BLE001
            self.failed.append(error)

    def __enter__(self) -> "Traffic":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)
        for cache in self.caches.values():
            cache.close()


def kill_and_restart(server: Server) -> None:
    server.kill()
    time.sleep(0.3)  # the outage lasts a moment
    server.start()


def hang(server: Server) -> None:
    server.pause()
    time.sleep(1.2)  # longer than a timeout
    server.resume()


def empty(server: Server) -> None:
    for _ in range(5):
        server.admin.flushall()
        time.sleep(0.05)


def cut_connections(server: Server) -> None:
    for _ in range(10):
        server.admin.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        time.sleep(0.03)


@pytest.mark.parametrize("tiered", [False, True], ids=["redis", "memory+redis"])
@pytest.mark.parametrize("trouble", [kill_and_restart, hang, empty, cut_connections])
def test_no_call_fails_and_no_tenant_gets_anothers_answer(
    own_server: Server, until: Until, trouble: Callable[[Server], None], tiered: bool
) -> None:
    def make(tenant: str) -> Any:
        if not tiered:
            return RedisCache(own_server.url, tenant=tenant, signing_key=b"key")
        tiers = [MemoryStore(max_entries=10), RedisStore(own_server.url)]
        return TieredCache(tiers, tenant=tenant, signing_key=b"key")

    with Traffic(make) as traffic:
        until(lambda: traffic.calls > 200)
        trouble(own_server)
        calls = traffic.calls
        until(lambda: traffic.calls > calls + 200)

    assert traffic.failed == []
    assert traffic.wrong == []


def test_a_cache_says_once_that_redis_is_gone_and_uses_it_again_when_it_is_back(
    own_server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    cache = RedisCache(own_server.url)
    model = ScriptedModel(["four"], cache=cache, when_exhausted="repeat_last")
    model.invoke("2 + 2?")
    own_server.kill()
    with caplog.at_level(logging.WARNING):
        started = time.monotonic()
        assert [model.invoke("2 + 2?").text for _ in range(100)] == ["four"] * 100
        took_s = time.monotonic() - started
    assert len([r for r in caplog.records if "calls go on without it" in r.message]) == 1
    assert cache.stats().errors == 1
    assert cache.stats().entries is None
    assert took_s < 2

    own_server.start()
    again = RedisCache(own_server.url)
    ScriptedModel(["five"], cache=again).invoke("2 + 3?")
    assert again.stats().writes == 1
    assert again.stats().entries == 1
    cache.close()
    again.close()


def test_a_server_that_hangs_costs_one_timeout_a_call(own_server: Server) -> None:
    store = RedisStore(own_server.url, timeout_s=0.2)
    store.put({key(1): b""}, ttl_s=None)
    own_server.pause()

    started = time.monotonic()
    with pytest.raises(StoreError, match="TimeoutError"):
        store.get([key(1)])
    assert time.monotonic() - started < 1
    own_server.resume()
    store.close()


def test_an_idle_connection_that_the_server_closed_costs_no_error(own_server: Server) -> None:
    store = RedisStore(own_server.url)
    store.put({key(1): b""}, ttl_s=None)
    own_server.restart()

    store.put({key(1): b"again"}, ttl_s=None)
    assert store.get([key(1)]) == {key(1): b"again"}
    store.close()


async def test_the_same_holds_for_an_asynchronous_one(own_server: Server) -> None:
    store = RedisStore(own_server.url)
    await store.aput({key(1): b""}, ttl_s=None)
    await asyncio.to_thread(own_server.restart)

    await store.aput({key(1): b"again"}, ttl_s=None)
    assert await store.aget([key(1)]) == {key(1): b"again"}
    await store.aclose()


def test_a_server_that_refuses_to_write_is_a_store_error(own_server: Server) -> None:
    store = RedisStore(own_server.url)
    own_server.admin.config_set("maxmemory", 1)

    with pytest.raises(StoreError, match=r"OOM|used memory"):
        store.put({key(1): b"x" * 1_000}, ttl_s=None)
    store.close()


class Host:
    """A host's memory before the shared Redis, told of changes."""

    def __init__(self, server: Server) -> None:
        self.store = TieredStore([MemoryStore(), RedisStore(server.url, timeout_s=0.2)])
        self.listener = Invalidations(
            server.url, self.store.drop_copies, heartbeat_s=0.2, timeout_s=0.2
        ).start()
        assert self.listener.wait(5)

    def close(self) -> None:
        self.listener.close()
        self.store.close()


@pytest.fixture
def hosts(own_server: Server) -> Iterator[list[Host]]:
    with ExitStack() as closing:
        made = []
        for _ in range(2):
            made.append(Host(own_server))
            closing.callback(made[-1].close)
        yield made


@pytest.mark.parametrize("trouble", [kill_and_restart, empty])
def test_nothing_stale_is_served_after_a_redis_came_back_empty(
    own_server: Server, until: Until, hosts: list[Host], trouble: Callable[[Server], None]
) -> None:
    one, two = hosts
    one.store.put({key(n): b"old" for n in range(50)}, ttl_s=60)
    until(lambda: len(two.store.get([key(n) for n in range(50)])) == 50)

    trouble(own_server)
    until(lambda: one.listener.stats().following and two.listener.stats().following)

    keys = [key(n) for n in range(50)]
    until(lambda: one.store.get(keys) == {} and two.store.get(keys) == {})


def test_what_was_changed_while_a_host_was_cut_off_is_not_served_there(
    own_server: Server, until: Until, hosts: list[Host]
) -> None:
    one, two = hosts
    one.store.put({key(1): b"old"}, ttl_s=60)
    until(lambda: two.store.get([key(1)]) == {key(1): b"old"})

    for n in range(20):
        own_server.admin.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        one.store.put({key(1): b"new %d" % n}, ttl_s=60)

    until(lambda: two.store.get([key(1)]) == {key(1): b"new 19"})
    until(lambda: one.store.get([key(1)]) == {key(1): b"new 19"})
    until(lambda: two.listener.stats().reconnects >= 1)
