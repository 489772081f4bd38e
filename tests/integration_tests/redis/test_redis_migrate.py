"""Entries that other caches keep in a real Redis, moved as they are asked for."""

import hashlib
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from langchain_core.load import dumps
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration, Generation

from langchain_tokenopt.caches import MemoryStore, cache_control
from langchain_tokenopt.caches.migrate_redis import MovingCache, OldRedis
from langchain_tokenopt.errors import ConfigurationError

Server = Any
ANSWERS = [ChatGeneration(message=AIMessage("four")), Generation(text="or IV")]


def md5(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


@pytest.fixture
def client(redis_server: Server) -> Iterator[Any]:
    with redis.Redis.from_url(redis_server.url) as made:
        yield made


@pytest.fixture
def old(redis_server: Server, client: Any, namespace: str) -> Any:
    """langchain-community's own cache with an entry of this test."""
    community = pytest.importorskip("langchain_community.cache", reason="needs extra community")
    cache = community.RedisCache(client)
    cache.update(f"prompt {namespace}", "model", ANSWERS)
    return cache


@pytest.fixture
def moving(redis_server: Server) -> Iterator[MovingCache]:
    reader = OldRedis(redis_server.url, layout="langchain-community")
    cache = MovingCache(MemoryStore(), old=reader)
    yield cache
    cache.close()


def test_an_old_entry_is_served_once_from_there_and_then_from_ours(
    old: Any, moving: MovingCache, client: Any, namespace: str
) -> None:
    prompt = f"prompt {namespace}"
    found = moving.lookup(prompt, "model")
    assert found is not None
    assert [answer.text for answer in found] == ["four", "or IV"]
    client.delete(md5(f"{prompt}model"))
    assert moving.lookup(prompt, "model")
    stats = moving.stats()
    assert (moving.moved, stats.hits, stats.misses) == (1, 2, 0)


async def test_the_async_twin_does_the_same(old: Any, moving: MovingCache, namespace: str) -> None:
    assert await moving.alookup(f"prompt {namespace}", "model")
    assert await moving.alookup("another", "model") is None
    stats = moving.stats()
    assert (moving.moved, stats.hits, stats.misses) == (1, 1, 1)


def test_an_old_entry_keeps_its_remaining_life(
    old: Any, moving: MovingCache, client: Any, namespace: str
) -> None:
    prompt = f"prompt {namespace}"
    client.pexpire(md5(f"{prompt}model"), 60_000)
    moving.lookup(prompt, "model")
    (held,) = moving.store.held([moving.key(prompt, "model").digest]).values()
    assert held.ttl_s is not None
    assert 55 < held.ttl_s <= 60


def test_a_request_for_a_fresh_answer_gets_no_old_one(
    old: Any, moving: MovingCache, namespace: str
) -> None:
    with cache_control(no_cache=True):
        assert moving.lookup(f"prompt {namespace}", "model") is None
    with cache_control(max_age_s=3600):  # nobody knows how old it is
        assert moving.lookup(f"prompt {namespace}", "model") is None


def test_another_tenants_or_models_entry_is_not_found(
    old: Any, moving: MovingCache, namespace: str
) -> None:
    assert moving.lookup(f"prompt {namespace}", "another model") is None


@pytest.mark.parametrize("kept", [b"\xff\xfe", b'{"lc": 1, "type": "secret", "id": ["HOME"]}'])
def test_a_hostile_entry_is_a_text_or_a_miss(
    moving: MovingCache, client: Any, namespace: str, kept: bytes
) -> None:
    prompt = f"prompt {namespace}"
    client.hset(md5(f"{prompt}model"), mapping={"0": kept, "x": b"y"})
    found = moving.lookup(prompt, "model")
    assert found is None or type(found[0]) is Generation


def test_an_old_redis_that_is_down_is_a_miss() -> None:
    cache = MovingCache(
        MemoryStore(), old=OldRedis("redis://127.0.0.1:1", layout="langchain-community")
    )
    started = time.monotonic()
    assert cache.lookup("prompt", "model") is None
    assert cache.left == 1
    assert time.monotonic() - started < 5
    cache.close()


def test_langchain_rediss_entries_are_found(
    client: Any, namespace: str, redis_server: Server
) -> None:
    prompt = f"prompt {namespace}"
    hashes = ":".join(md5(text) for text in (prompt, "model"))
    value = json.dumps([json.loads(dumps(answer)) for answer in ANSWERS])
    try:
        client.execute_command("JSON.SET", f"redis:{hashes}", "$", value)
    except redis.ResponseError:
        pytest.skip("this Redis has no JSON module, which langchain-redis needs")
    cache = MovingCache(MemoryStore(), old=OldRedis(redis_server.url, layout="langchain-redis"))
    found = cache.lookup(prompt, "model")
    assert found is not None
    assert [answer.text for answer in found] == ["four", "or IV"]
    cache.close()


def test_an_unknown_layout_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="langchain-community or langchain-redis"):
        OldRedis("redis://localhost", layout="other")  # type: ignore[arg-type]
