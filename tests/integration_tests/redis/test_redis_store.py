"""What the suite of the other stores checks, on a real Redis; then what is Redis's own."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_tests.integration_tests import AsyncCacheTestSuite, SyncCacheTestSuite

from langchain_tokenopt.caches import Held, MemoryStore, StoreError, TieredStore
from langchain_tokenopt.caches.redis import RedisCache, RedisStore
from langchain_tokenopt.errors import ConfigurationError
from langchain_tokenopt.testing import ScriptedModel

MakeStore = Callable[..., RedisStore]
Server = Any


def key(n: int) -> bytes:
    return n.to_bytes(8, "little") + bytes(24)


@pytest.fixture
def make_store(redis_server: Server, namespace: str) -> Iterator[MakeStore]:
    made: list[RedisStore] = []

    def make(**options: Any) -> RedisStore:
        store = RedisStore(redis_server.url, **{"namespace": namespace, **options})
        made.append(store)
        return store

    yield make
    for store in made:
        store.close()


# --- as the other stores ----------------------------------------------------------------------


def test_entries_are_found_overwritten_deleted_and_cleared(make_store: MakeStore) -> None:
    store = make_store()
    store.put({key(1): b"one", key(2): b"two"}, ttl_s=None)
    store.put({key(2): b"zwei"}, ttl_s=None)

    assert store.get([key(1), key(2), key(3)]) == {key(1): b"one", key(2): b"zwei"}
    store.delete([key(1), key(9)])
    assert store.get([key(1), key(2)]) == {key(2): b"zwei"}
    store.clear()
    assert store.get([key(2)]) == {}
    assert (store.size().entries, store.size().bytes) == (0, 0)


async def test_the_async_twins_do_the_same(make_store: MakeStore) -> None:
    store = make_store()
    await store.aput({key(1): b"one", key(2): b"two"}, ttl_s=20, tags=["a"])
    await store.adelete([key(2)])

    assert await store.aget([key(1), key(2)]) == {key(1): b"one"}
    assert (await store.aheld([key(1)]))[key(1)].tags == {"a"}
    await store.aclear()
    assert await store.aget([key(1)]) == {}
    await store.aclose()


def test_nothing_asked_for_is_nothing_sent(make_store: MakeStore) -> None:
    store = make_store()
    store.put({}, ttl_s=None, tags=["a"])
    store.delete([])

    assert (store.get([]), store.held([]), store.invalidate([])) == ({}, {}, 0)


def test_an_entry_expires(make_store: MakeStore, until: Callable[..., Any]) -> None:
    store = make_store()
    store.put({key(1): b"soon"}, ttl_s=0.05)
    store.put({key(2): b"later"}, ttl_s=60)
    store.put({key(3): b"never"}, ttl_s=None)

    until(lambda: key(1) not in store.get([key(1)]))
    assert set(store.get([key(1), key(2), key(3)])) == {key(2), key(3)}


def test_writing_an_entry_again_gives_it_its_new_life(make_store: MakeStore) -> None:
    store = make_store()
    store.put({key(1): b"a"}, ttl_s=60)
    store.put({key(1): b"b"}, ttl_s=None)
    store.put({key(2): b"a"}, ttl_s=None)
    store.put({key(2): b"b"}, ttl_s=60)

    held = store.held([key(1), key(2)])
    assert held[key(1)] == Held(value=b"b", ttl_s=None)
    assert held[key(2)].ttl_s == pytest.approx(60, abs=5)


def test_an_entry_tells_its_remaining_life_and_tags(
    make_store: MakeStore, redis_server: Server, namespace: str
) -> None:
    store = make_store()
    store.put({key(1): b"one"}, ttl_s=1_000, tags=["a", "b"])
    store.put({key(2): b"two"}, ttl_s=None)
    redis_server.admin.pexpire(f"{namespace}:1:{key(1).hex()}", 600_000)  # as if time had passed

    held = store.held([key(1), key(2), key(3)])

    assert held[key(1)].value == b"one"
    assert held[key(1)].tags == {"a", "b"}
    assert held[key(1)].ttl_s == pytest.approx(600, abs=5)
    assert held[key(2)] == Held(value=b"two", ttl_s=None)
    assert key(3) not in held


async def test_entries_are_invalidated_by_tag(make_store: MakeStore) -> None:
    store = make_store()
    store.put({key(1): b"", key(2): b""}, ttl_s=None, tags=["a", "a"])
    store.put({key(3): b""}, ttl_s=None, tags=["a", "b"])
    store.put({key(4): b""}, ttl_s=None, tags=["c"])
    store.put({key(5): b""}, ttl_s=None)
    store.put({key(1): b"again"}, ttl_s=None)  # and so without a tag

    assert await store.ainvalidate(["b", "unknown"]) == 1
    assert store.invalidate(["a"]) == 1
    assert store.invalidate(["a"]) == 0
    assert set(await store.aget([key(n) for n in range(6)])) == {key(1), key(4), key(5)}
    assert store.size().entries == 3
    await store.aclose()


def test_an_entry_with_two_of_the_tags_counts_once(make_store: MakeStore) -> None:
    store = make_store()
    store.put({key(1): b"", key(2): b""}, ttl_s=60, tags=["a", "b"])

    assert store.invalidate(["a", "b"]) == 2


def test_more_entries_than_a_batch_are_invalidated_and_cleared(make_store: MakeStore) -> None:
    store = make_store()
    store.put({key(n): b"" for n in range(2_500)}, ttl_s=60, tags=["a"])
    store.put({key(n): b"" for n in range(3_000, 5_500)}, ttl_s=None)

    assert store.invalidate(["a"]) == 2_500
    assert store.size().entries == 2_500
    store.clear()
    assert store.size().entries == 0


async def test_more_entries_than_a_batch_and_none_at_all_are_cleared_in_the_loop(
    make_store: MakeStore,
) -> None:
    store = make_store()
    await store.aclear()
    await store.aput({key(n): b"" for n in range(2_500)}, ttl_s=60)

    await store.aclear()

    assert store.size().entries == 0


def test_a_size_that_took_long_to_count_is_given_again_until_something_is_cleared(
    make_store: MakeStore,
) -> None:
    now = iter([0.0, 1.0, 1.0, 5.0, 11.0, 11.0, 11.0, 12.0, 12.0])
    store = make_store(clock=lambda: next(now))
    store.put({key(1): b""}, ttl_s=None)

    first = store.size().entries  # takes a second
    store.put({key(2): b""}, ttl_s=None)
    again, later = store.size().entries, store.size().entries
    store.clear()

    assert (first, again, later) == (1, 1, 2)
    assert store.size().entries == 0


def test_the_size_counts_keys_and_values(make_store: MakeStore) -> None:
    store = make_store()
    store.put({key(1): b"12345", key(2): b""}, ttl_s=None)
    store.put({key(1): b"1"}, ttl_s=None)

    assert (store.size().entries, store.size().bytes) == (2, 32 + 1 + 32)


@settings(max_examples=30, deadline=None)
@given(operations=st.lists(st.tuples(st.sampled_from("pdtic"), st.integers(0, 5), st.binary())))
def test_it_behaves_as_memory_does(redis_server: Server, operations: list[Any]) -> None:
    ours, model = RedisStore(redis_server.url, namespace="law"), MemoryStore()
    ours.clear()
    for operation, n, value in operations:
        for store in (ours, model):
            if operation == "p":
                store.put({key(n): value}, ttl_s=None)
            elif operation == "t":
                store.put({key(n): value}, ttl_s=None, tags=["even" if n % 2 == 0 else "ödd"])
            elif operation == "d":
                store.delete([key(n)])
            elif operation == "c" and n == 0:
                store.clear()
        if operation == "i":
            assert ours.invalidate(["ödd"]) == model.invalidate(["ödd"])
        keys = [key(m) for m in range(6)]
        assert ours.held(keys) == model.held(keys)
    assert ours.size().entries == model.size().entries
    ours.close()


def test_eight_threads_lose_nothing(make_store: MakeStore) -> None:
    store = make_store()

    def work(thread: int) -> None:
        for n in range(50):
            store.put({key(thread * 50 + n): b"%d" % n}, ttl_s=None, tags=["t"])
            assert store.get([key(thread * 50 + n)]) == {key(thread * 50 + n): b"%d" % n}

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))

    assert store.size().entries == 400
    assert store.invalidate(["t"]) == 400


async def test_a_thousand_tasks_share_a_few_connections(
    make_store: MakeStore, redis_server: Server
) -> None:
    store = make_store()
    await store.aput({key(n): b"%d" % n for n in range(1_000)}, ttl_s=60)

    found = await asyncio.gather(*(store.aget([key(n)]) for n in range(1_000)))

    assert found == [{key(n): b"%d" % n} for n in range(1_000)]
    assert redis_server.admin.info("clients")["connected_clients"] <= 80
    await store.aclose()


async def test_a_cancelled_read_never_gives_its_reply_to_another(make_store: MakeStore) -> None:
    store = make_store()
    await store.aput({key(n): b"%d" % n * 1_000 for n in range(50)}, ttl_s=60)

    async def read(n: int) -> None:
        assert await store.aget([key(n % 50)]) == {key(n % 50): b"%d" % (n % 50) * 1_000}

    for turn in range(200):
        task = asyncio.create_task(read(turn))
        for _ in range(turn % 7):
            await asyncio.sleep(0)
        task.cancel()
        results = await asyncio.gather(task, read(turn + 1), return_exceptions=True)
        assert results[1] is None
        assert results[0] is None or isinstance(results[0], asyncio.CancelledError)
    await store.aclose()


# --- Redis ------------------------------------------------------------------------------------


def test_clear_leaves_what_is_not_of_the_namespace(
    make_store: MakeStore, redis_server: Server, namespace: str
) -> None:
    one, two = make_store(), make_store(namespace=f"{namespace}-2")
    redis_server.admin.set("someone-else", "x")
    one.put({key(1): b"one"}, ttl_s=None, tags=["a"])
    two.put({key(1): b"two"}, ttl_s=None)

    one.clear()

    assert two.get([key(1)]) == {key(1): b"two"}
    assert redis_server.admin.get("someone-else") == b"x"
    assert redis_server.admin.keys(f"{namespace}:*") == []


def test_the_record_of_a_tag_forgets_expired_entries_and_goes_with_the_last(
    make_store: MakeStore, redis_server: Server, namespace: str, until: Callable[..., Any]
) -> None:
    store = make_store()
    store.put({key(n): b"" for n in range(100)}, ttl_s=0.001, tags=["a"])
    (record,) = redis_server.admin.keys(f"{namespace}:1:tag:*")
    assert redis_server.admin.zcard(record) == 100

    def forgot() -> bool:  # an entry's record outlives it by a second
        store.put({key(200): b""}, ttl_s=0.001, tags=["a"])
        members = redis_server.admin.zrange(record, 0, -1)
        return {member[:32] for member in members} == {key(200)}

    until(forgot)
    until(lambda: not redis_server.admin.exists(record))


def test_what_another_program_wrote_under_a_key_is_absent(
    make_store: MakeStore, redis_server: Server, namespace: str
) -> None:
    store = make_store()
    for n, value in enumerate(
        [b"", b"short", b"\x00" * 8 + b"\xff" * 20, b"\x00" * 11 + b"\x04{]a"]
    ):
        redis_server.admin.set(f"{namespace}:1:{key(n).hex()}", value)

    assert store.get([key(0), key(1), key(3)]) == {}
    assert key(1) not in store.held([key(1)])


def test_a_wrong_type_under_a_key_is_a_store_error(
    make_store: MakeStore, redis_server: Server, namespace: str
) -> None:
    redis_server.admin.rpush(f"{namespace}:1:{key(1).hex()}", "x")

    with pytest.raises(StoreError, match="WRONGTYPE"):
        make_store().get([key(1)])


def test_a_server_that_is_not_there_is_a_store_error_without_the_password() -> None:
    store = RedisStore("redis://user:secret@127.0.0.1:1/0")

    with pytest.raises(StoreError, match=r"127\.0\.0\.1:1") as caught:
        store.get([key(1)])
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "http://somewhere",
        "redis://secret@host:port",
        "redis+sentinel://secret@host:26379",
        "redis+sentinel:///mymaster",
        "redis+other://secret@host",
        "redis://host?decode_responses=true",
        "not a url",
    ],
)
def test_a_url_that_cannot_be_read_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(ConfigurationError, match="expected the URL of a Redis") as caught:
        RedisStore(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("namespace", ["", "a*", "a b", "{a}", "[x]"])
def test_a_namespace_that_is_a_pattern_is_refused(namespace: str) -> None:
    with pytest.raises(ConfigurationError, match="a namespace has letters"):
        RedisStore("redis://any", namespace=namespace)


def test_a_client_that_decodes_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="decode_responses=True"):
        RedisStore(redis.Redis(decode_responses=True))


async def test_a_given_client_is_used_in_threads_and_left_open(
    redis_server: Server, namespace: str
) -> None:
    client = redis.Redis.from_url(redis_server.url)
    store = RedisStore(client, namespace=namespace)
    await store.aput({key(1): b"one"}, ttl_s=60)

    assert await store.aget([key(1)]) == store.get([key(1)]) == {key(1): b"one"}
    await store.aclear()
    await store.aclose()
    assert client.ping()
    client.close()


async def test_a_given_async_client_is_made_once_a_loop(
    redis_server: Server, namespace: str
) -> None:
    made: list[redis.asyncio.Redis] = []

    def make() -> redis.asyncio.Redis:
        made.append(redis.asyncio.Redis.from_url(redis_server.url))
        return made[-1]

    client = redis.Redis.from_url(redis_server.url)
    store = RedisStore(client, namespace=namespace, async_client=make)
    await asyncio.gather(*(store.aget([key(n)]) for n in range(10)))

    assert len(made) == 1
    await store.aclose()
    client.close()


def test_every_event_loop_has_its_own_connections_and_closes_them(
    make_store: MakeStore, redis_server: Server, until: Callable[..., Any]
) -> None:
    store = make_store()
    store.put({key(1): b"one"}, ttl_s=60)
    before = redis_server.admin.info("clients")["connected_clients"]

    for _ in range(5):
        assert asyncio.run(store.aget([key(1)])) == {key(1): b"one"}
    threads = [threading.Thread(target=asyncio.run, args=(store.aget([key(1)]),)) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    until(lambda: redis_server.admin.info("clients")["connected_clients"] <= before)


async def test_a_closed_store_may_be_used_again(make_store: MakeStore) -> None:
    store = make_store()
    await store.aput({key(1): b"one"}, ttl_s=60)
    store.close()

    assert store.get([key(1)]) == await store.aget([key(1)]) == {key(1): b"one"}
    await store.aclose()
    assert await store.aget([key(1)]) == {key(1): b"one"}
    await store.aclose()


def test_a_copy_in_memory_lives_no_longer_than_the_entry(make_store: MakeStore) -> None:
    memory, shared = MemoryStore(), make_store()
    shared.put({key(1): b"one"}, ttl_s=30, tags=["a"])

    TieredStore([memory, shared]).get([key(1)])

    copy = memory.held([key(1)])[key(1)]
    assert copy.ttl_s is not None
    assert 20 < copy.ttl_s <= 30
    assert copy.tags == {"a"}


# --- the cache --------------------------------------------------------------------------------


class TestSync(SyncCacheTestSuite):
    @pytest.fixture
    def cache(self, redis_server: Server, namespace: str) -> Iterator[RedisCache]:
        made = RedisCache(redis_server.url, namespace=namespace)
        yield made
        made.close()


class TestAsync(AsyncCacheTestSuite):
    @pytest.fixture
    async def cache(self, redis_server: Server, namespace: str) -> Any:
        made = RedisCache(redis_server.url, namespace=namespace)
        yield made
        made.close()


def test_two_tenants_never_share_an_answer(redis_server: Server, namespace: str) -> None:
    answers = {}
    for tenant in ("a", "b"):
        cache = RedisCache(redis_server.url, namespace=namespace, tenant=tenant, ttl_s=60)
        model = ScriptedModel([f"for {tenant}"], cache=cache)
        answers[tenant] = [model.invoke("same question").text for _ in range(2)]
        cache.close()

    assert answers == {"a": ["for a"] * 2, "b": ["for b"] * 2}


def test_an_entry_that_was_signed_with_another_key_is_a_miss(
    redis_server: Server, namespace: str
) -> None:
    theirs = RedisCache(redis_server.url, namespace=namespace, signing_key=b"theirs")
    ours = RedisCache(redis_server.url, namespace=namespace, signing_key=b"ours")
    ScriptedModel(["forged"], cache=theirs).invoke("question")

    assert ScriptedModel(["true"], cache=ours).invoke("question").text == "true"
    assert ours.stats().unreadable == 1
    theirs.close()
    ours.close()
