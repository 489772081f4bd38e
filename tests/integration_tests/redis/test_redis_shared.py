"""What processes share through one Redis: copies that follow, and one call for all."""

import gc
import multiprocessing
import subprocess
import sys
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from langchain_core.messages import HumanMessage

from langchain_tokenopt.caches import CachedChatModel, TieredCache, cache_control
from langchain_tokenopt.caches.lease import Lease
from langchain_tokenopt.caches.redis import RedisCache
from langchain_tokenopt.testing import LoopbackServer, ScriptedModel
from langchain_tokenopt.testing.wire import Latency

Server = Any
Until = Callable[..., Any]


@pytest.fixture
def make_cache(redis_server: Server, namespace: str) -> Iterator[Callable[..., TieredCache]]:
    made: list[TieredCache] = []

    def make(**options: Any) -> TieredCache:
        cache = TieredCache.default(redis_server.url, namespace=namespace, **options)
        assert cache.listener is not None
        assert cache.listener.wait(5)
        made.append(cache)
        return cache

    yield make
    for cache in made:
        cache.close()


def asked(cache: TieredCache, said: str = "new") -> str:
    """Ask a model through a cache; what it says if the cache has nothing."""
    return str(ScriptedModel([said], cache=cache, model_name="m").invoke("2 + 2?").text)


@pytest.fixture(autouse=True)
def one_description(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let scripted models with different answers be the same model to a cache."""
    monkeypatch.setattr(ScriptedModel, "_get_llm_string", lambda *_, **__: "the model")


def test_an_answer_of_one_host_is_served_by_another(
    make_cache: Callable[..., TieredCache], until: Until
) -> None:
    one, two = make_cache(), make_cache()
    assert asked(one, "four") == "four"
    assert asked(two) == "four"
    assert [tier.hits for tier in two.tiers()] == [0, 1]
    # Word that the entry was written may come late, and takes the first copy away.
    until(lambda: [asked(two), two.tiers()[0].hits > 0] == ["four", True])


def test_a_copy_goes_when_another_host_invalidates_or_overwrites(
    make_cache: Callable[..., TieredCache], until: Until
) -> None:
    one, two = make_cache(), make_cache()
    with cache_control(tags=["sums"]):
        asked(one, "four")
    until(lambda: [asked(two), two.tiers()[0].hits > 0] == ["four", True])  # a copy in memory
    one.invalidate(["sums"])
    until(lambda: two.lookup(*_request()) is None)

    asked(one, "4")
    until(lambda: [asked(two), two.tiers()[0].entries] == ["4", 1])
    with cache_control(no_cache=True):
        asked(one, "IV")
    until(lambda: asked(two) == "IV")


def _request() -> tuple[str, str]:
    from langchain_core.load import dumps

    return dumps([HumanMessage("2 + 2?")]), "the model"


def test_a_copy_ends_after_its_time_when_no_word_gets_through(
    make_cache: Callable[..., TieredCache],
) -> None:
    cache = make_cache()
    held = cache.store._circuits[0]
    assert held.life(None) == 60.0


def test_the_listener_ends_with_its_cache(redis_server: Server, namespace: str) -> None:
    cache = TieredCache.default(redis_server.url, namespace=namespace)
    listener = cache.listener
    assert listener is not None
    thread = listener._thread
    gone = weakref.ref(cache)
    cache.store._circuits[1].store.close()
    del cache
    gc.collect()
    assert gone() is None
    assert thread is not None
    thread.join(5)
    assert not thread.is_alive()


def _fork_and_follow(results: Any) -> None:
    """Run in a forked child that inherits the parent's cache."""
    listener = _INHERITED[0].listener
    assert listener is not None
    results.put(listener.wait(5))
    results.put(asked(_INHERITED[0]))
    end = time.monotonic() + 5
    while asked(_INHERITED[0], "?") != "five" and time.monotonic() < end:
        time.sleep(0.005)
    results.put(asked(_INHERITED[0], "?"))


_INHERITED: list[TieredCache] = []


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_follows_too(make_cache: Callable[..., TieredCache]) -> None:
    cache = make_cache()
    asked(cache, "four")
    asked(cache)
    _INHERITED[:] = [cache]
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    child = context.Process(target=_fork_and_follow, args=(results,))
    child.start()
    assert results.get(timeout=10) is True
    assert results.get(timeout=10) == "four"
    with cache_control(no_cache=True):
        asked(cache, "five")
    assert results.get(timeout=10) == "five"
    child.join(10)
    assert child.exitcode == 0


# --- one call for all processes ---------------------------------------------------------------

ASK = """
import asyncio, sys
from langchain_openai import ChatOpenAI
from langchain_tokenopt.caches import CachedChatModel
from langchain_tokenopt.caches.lease import Lease
from langchain_tokenopt.caches.redis import RedisCache

redis, namespace, provider, way = sys.argv[1:]
cache = RedisCache(redis, namespace=namespace)
upstream = ChatOpenAI(model="gpt-5-mini", base_url=provider, api_key="none", max_retries=0)
model = CachedChatModel(upstream, cache=cache, lease=Lease(redis, namespace=namespace))

async def stream(question):
    return "".join([chunk.text async for chunk in model.astream(question)])

async def ask_all(question):
    return await asyncio.gather(*(
        stream(question) if way == "astream" else model.ainvoke(question) for _ in range(5)
    ))

loop = asyncio.Runner()  # an HTTP client belongs to one
print("ready", flush=True)
for line in sys.stdin:
    question = line.strip()
    if way == "invoke":
        answers = [answer.text for answer in model.batch([question] * 5)]
    elif way == "stream":
        answers = ["".join(chunk.text for chunk in model.stream(question)) for _ in range(5)]
    else:
        answers = [getattr(a, "text", a) for a in loop.run(ask_all(question))]
    print(*sorted(set(answers)), sep="|", flush=True)
"""


@pytest.mark.parametrize("way", ["invoke", "ainvoke", "stream", "astream"])
def test_two_processes_that_ask_the_same_at_once_make_one_call(
    redis_server: Server, namespace: str, way: str
) -> None:
    with LoopbackServer(lambda _: "four", latency=Latency(first_token_s=0.3)) as provider:
        command = [sys.executable, "-c", ASK, redis_server.url, namespace, provider.base_url, way]
        with (
            subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            ) as one,
            subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            ) as two,
        ):
            processes = (one, two)
            for process in processes:
                assert process.stdout is not None
                assert process.stdout.readline() == "ready\n"
            for n in range(3):
                for process in processes:
                    assert process.stdin is not None
                    process.stdin.write(f"question {n}\n")
                    process.stdin.flush()
                said = [process.stdout.readline().strip() for process in processes]  # type: ignore[union-attr]
                assert said == ["four", "four"]
            for process in processes:
                assert process.stdin is not None
                process.stdin.close()
        assert len(provider.requests) == 3


def test_a_stream_that_nobody_reads_keeps_other_processes_waiting_for_a_moment_only(
    redis_server: Server, namespace: str
) -> None:
    def model(life_s: float) -> tuple[ScriptedModel, CachedChatModel]:
        upstream = ScriptedModel(["one two three"])
        lease = Lease(redis_server.url, namespace=namespace, life_s=life_s)
        cache = RedisCache(redis_server.url, namespace=namespace)
        return upstream, CachedChatModel(upstream, cache=cache, lease=lease)

    first, one = model(0.3)
    second, two = model(0.3)
    stream = one.stream("2 + 2?")
    next(stream)  # and then its consumer thinks about it
    assert two.invoke("2 + 2?").text == "one two three"
    assert "".join(chunk.text for chunk in stream)
    assert (first.calls, second.calls) == (1, 1)


def test_a_redis_that_is_down_costs_the_lease_and_the_cache_but_no_call(
    own_server: Server,
) -> None:
    upstream = ScriptedModel(["four"], when_exhausted="repeat_last")
    lease = Lease(own_server.url)
    model = CachedChatModel(upstream, cache=RedisCache(own_server.url), lease=lease)
    own_server.kill()
    assert [model.invoke("2 + 2?").text for _ in range(3)] == ["four"] * 3
    assert (upstream.calls, lease.failures) == (3, 1)


def test_waiting_for_another_process_counts_as_one_look_up(
    redis_server: Server, namespace: str
) -> None:
    cache = RedisCache(redis_server.url, namespace=namespace)
    lease = Lease(redis_server.url, namespace=namespace)
    model = CachedChatModel(ScriptedModel(["four"]), cache=cache, lease=lease)
    assert [model.invoke("2 + 2?").text for _ in range(2)] == ["four", "four"]
    stats = cache.stats()
    assert (stats.hits, stats.misses) == (1, 1)
