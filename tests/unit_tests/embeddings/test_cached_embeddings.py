"""Vectors that are computed once."""

import asyncio
import logging
import math
import os
import struct
import sys
import threading
import time
from array import array
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.embeddings import Embeddings

from langchain_tokenopt.caches import MemoryStore, SqliteStore
from langchain_tokenopt.embeddings import CachedEmbeddings, claims
from langchain_tokenopt.embeddings.entry import decode, encode, intact, keys_of
from langchain_tokenopt.errors import ConfigurationError

FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)
OPERATIONS = ("embed_documents", "aembed_documents")


class Counted(Embeddings):
    """A vector for each text, and what it was asked for."""

    def __init__(self, *, dimensions: int = 3) -> None:
        self.dimensions = dimensions
        self.batches: list[list[str]] = []
        self.failing = 0
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()

    def vector(self, text: str) -> list[float]:
        return [float(len(text)), *map(float, text.encode(errors="replace")), *[0.1] * 9][
            : self.dimensions
        ]

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        self.batches.append(list(texts))
        self.entered.set()
        assert self.gate.wait(timeout=30)
        if self.failing:
            self.failing -= 1
            raise RuntimeError("the service is down")
        return [self.vector(text) for text in texts]

    def embed_query(self, text: str) -> list[float]:
        return [-value for value in self.embed_documents([text])[0]]

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        self.batches.append(list(texts))
        self.entered.set()
        if not self.gate.is_set():
            assert await asyncio.to_thread(self.gate.wait, 30)
        if self.failing:
            self.failing -= 1
            raise RuntimeError("the service is down")
        return [self.vector(text) for text in texts]

    async def aembed_query(self, text: str) -> list[float]:
        return [-value for value in (await self.aembed_documents([text]))[0]]

    @property
    def asked(self) -> list[str]:
        return [text for batch in self.batches for text in batch]


class BrokenStore(MemoryStore):
    """A store whose disk or network is gone."""

    def get(self, keys: Any) -> Any:
        raise OSError("gone")

    def put(self, entries: Any, **options: Any) -> None:
        raise OSError("gone")


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    made: Any = MemoryStore() if request.param == "memory" else SqliteStore(tmp_path / "vectors")
    yield made
    made.close()


async def ask(cached: CachedEmbeddings, operation: str, texts: list[str]) -> list[list[float]]:
    """Embed by either twin."""
    if operation == "embed_documents":
        return cached.embed_documents(texts)
    return await cached.aembed_documents(texts)


def single(vector: list[float]) -> list[float]:
    return array("f", vector).tolist()


def until(condition: Callable[[], bool], *, within_s: float = 20.0) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def hold(cached: CachedEmbeddings, text: str) -> bool:
    (key,) = keys_of([text], name="m", kind="document")
    return cached._claims.waiting_for(key)


# --- what is embedded -------------------------------------------------------------------------


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_only_what_is_not_kept_is_embedded_and_the_order_is_kept(
    store: Any, operation: str
) -> None:
    model = Counted()
    cached = CachedEmbeddings(model, store, name="m")
    await ask(cached, operation, ["b", "d"])

    found = await ask(cached, operation, ["a", "b", "c", "d", "e"])

    assert model.batches == [["b", "d"], ["a", "c", "e"]]
    assert found == [single(model.vector(text)) for text in "abcde"]


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_equal_texts_in_one_call_are_embedded_once(store: Any, operation: str) -> None:
    model = Counted()
    cached = CachedEmbeddings(model, store, name="m")

    found = await ask(cached, operation, ["a", "b", "a", "a"])

    assert model.asked == ["a", "b"]
    assert found == [single(model.vector(text)) for text in "abaa"]
    assert (cached.stats().misses, cached.stats().shared, cached.stats().hits) == (2, 2, 0)


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_no_batch_is_longer_than_allowed(store: Any, operation: str) -> None:
    model = Counted()

    await ask(CachedEmbeddings(model, store, name="m", max_batch=2), operation, list("abcde"))

    assert model.batches == [["a", "b"], ["c", "d"], ["e"]]


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_no_texts_ask_nothing(store: Any, operation: str) -> None:
    model = Counted()

    assert await ask(CachedEmbeddings(model, store, name="m"), operation, []) == []
    assert model.batches == []


async def test_queries_and_documents_do_not_share_vectors(store: Any) -> None:
    model = Counted()
    cached = CachedEmbeddings(model, store, name="m")

    (document,) = cached.embed_documents(["a"])

    assert cached.embed_query("a") == [-value for value in document]
    assert await cached.aembed_query("a") == cached.embed_query("a")
    assert len(model.asked) == 2


def test_models_of_different_names_never_share_vectors(store: Any) -> None:
    one, other = Counted(), Counted(dimensions=2)
    CachedEmbeddings(one, store, name="m/3").embed_documents(["a"])

    (vector,) = CachedEmbeddings(other, store, name="m/2").embed_documents(["a"])

    assert len(vector) == 2
    assert other.asked == ["a"]


def test_another_cache_of_the_same_name_finds_the_vectors(tmp_path: Path) -> None:
    first, second = Counted(), Counted()
    store = SqliteStore(tmp_path / "vectors")
    kept = CachedEmbeddings(first, store, name="m").embed_documents(["a", "\ud800", ""])
    store.close()

    again = SqliteStore(tmp_path / "vectors")
    found = CachedEmbeddings(second, again, name="m").embed_documents(["a", "\ud800", ""])
    again.close()

    assert found == kept
    assert second.asked == []


def test_a_vector_is_kept_for_its_time() -> None:
    now = [0.0]
    model = Counted()
    store = MemoryStore(clock=lambda: now[0])
    cached = CachedEmbeddings(model, store, name="m", ttl_s=10)

    cached.embed_documents(["a"])
    now[0] = 9.0
    cached.embed_documents(["a"])
    assert model.asked == ["a"]
    now[0] = 10.0
    cached.embed_documents(["a"])

    assert model.asked == ["a", "a"]


# --- laws -------------------------------------------------------------------------------------


@given(st.lists(FINITE, max_size=40))
def test_what_is_encoded_is_decoded(vector: list[float]) -> None:
    assert intact(encode(vector))
    assert decode(encode(vector)) == vector


@given(st.lists(FINITE, max_size=8), st.data())
def test_an_entry_with_any_altered_byte_is_not_intact(vector: list[float], data: Any) -> None:
    entry = bytearray(encode(vector))
    place = data.draw(st.integers(0, len(entry) - 1))
    entry[place] ^= data.draw(st.integers(1, 255))

    assert not intact(bytes(entry))


@given(st.lists(FINITE, max_size=8), st.binary(max_size=40))
def test_a_cut_lengthened_or_foreign_entry_is_not_intact(vector: list[float], rest: bytes) -> None:
    entry = encode(vector)

    assert all(not intact(entry[:length]) for length in range(len(entry)))
    assert not intact(entry + b"\0" + rest)
    assert not intact(rest)


@given(st.tuples(st.text(), st.text()), st.tuples(st.text(), st.text()))
def test_keys_are_equal_only_for_equal_names_and_texts(
    one: tuple[str, str], other: tuple[str, str]
) -> None:
    keys = [
        keys_of([text], name=name, kind=kind)[0]
        for name, text in (one, other)
        for kind in ("document", "query")
    ]

    assert len(set(keys)) == (2 if one == other else 4)


@given(st.lists(st.lists(st.sampled_from("abcdefg"), max_size=8), max_size=5), st.integers(1, 3))
def test_both_twins_give_what_the_embeddings_give(calls: list[list[str]], most: int) -> None:
    model = Counted()
    cached, acached = (
        CachedEmbeddings(model, MemoryStore(), name="m", max_batch=most) for _ in range(2)
    )

    for texts in calls:
        expected = [single(model.vector(text)) for text in texts]
        assert cached.embed_documents(texts) == expected
        assert asyncio.run(acached.aembed_documents(texts)) == expected

    stats = cached.stats()
    assert stats == acached.stats()
    assert stats.hits + stats.misses + stats.shared == sum(map(len, calls))


# --- damage and failure -----------------------------------------------------------------------


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_an_altered_entry_is_a_miss_and_is_written_anew(store: Any, operation: str) -> None:
    model = Counted()
    cached = CachedEmbeddings(model, store, name="m")
    await ask(cached, operation, ["a"])
    (key,) = keys_of(["a"], name="m", kind="document")
    store.put({key: store.get([key])[key][:-1] + b"x"}, ttl_s=None)

    assert await ask(cached, operation, ["a"]) == [single(model.vector("a"))]
    assert await ask(cached, operation, ["a"]) == [single(model.vector("a"))]
    assert model.asked == ["a", "a"]
    assert cached.stats().altered == 1


def test_vectors_of_other_dimensions_under_the_same_name_are_not_served_beside_new_ones(
    store: Any,
) -> None:
    CachedEmbeddings(Counted(dimensions=5), store, name="m").embed_documents(["a", "b"])
    model = Counted(dimensions=3)
    cached = CachedEmbeddings(model, store, name="m")

    found = cached.embed_documents(["a", "new", "a"])

    assert [len(vector) for vector in found] == [3, 3, 3]
    assert sorted(model.asked) == ["a", "new"]
    assert len(cached.embed_documents(["b"])[0]) == 3
    assert (cached.stats().altered, cached.stats().hits) == (2, 0)


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_a_store_that_fails_is_counted_logged_once_and_does_without(
    operation: str, caplog: pytest.LogCaptureFixture
) -> None:
    model = Counted()
    cached = CachedEmbeddings(model, BrokenStore(), name="m")

    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert await ask(cached, operation, ["a"]) == [single(model.vector("a"))]

    assert cached.stats().failures >= 6
    assert cached.stats().misses == 3
    assert [record.levelname for record in caplog.records] == ["WARNING"]


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_embeddings_that_fail_raise_and_what_came_before_stays_kept(
    store: Any, operation: str
) -> None:
    model = Counted()
    cached = CachedEmbeddings(model, store, name="m", max_batch=1)
    await ask(cached, operation, ["a"])
    model.failing = 1

    with pytest.raises(RuntimeError, match="the service is down"):
        await ask(cached, operation, ["a", "b", "c"])
    assert await ask(cached, operation, ["b"]) == [single(model.vector("b"))]
    assert not hold(cached, "b")


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_too_few_vectors_are_refused(store: Any, operation: str) -> None:
    class Short(Counted):
        def vector(self, text: str) -> Any:
            return [1.0]

        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            return super().embed_documents(texts)[1:]

        async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
            return (await super().aembed_documents(texts))[1:]

    with pytest.raises(ConfigurationError, match="1 vectors for 2 texts"):
        await ask(CachedEmbeddings(Short(), store, name="m"), operation, ["a", "b"])


def test_a_vector_that_is_no_number_is_returned_but_not_kept(store: Any) -> None:
    class Hiccup(Counted):
        def vector(self, text: str) -> list[float]:
            return [math.nan, 1e300, 0.0] if len(self.batches) == 1 else [1.0, 2.0, 3.0]

    cached = CachedEmbeddings(Hiccup(), store, name="m")

    assert math.isnan(cached.embed_documents(["a"])[0][0])
    assert cached.embed_documents(["a"]) == [[1.0, 2.0, 3.0]]


@pytest.mark.parametrize(
    "option", [{"name": ""}, {"max_batch": 0}, {"ttl_s": 0}, {"patience_s": math.inf}]
)
def test_an_option_that_cannot_be_is_refused(option: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(option))):
        CachedEmbeddings(Counted(), MemoryStore(), **{"name": "m", **option})


# --- at the same time -------------------------------------------------------------------------


def test_threads_that_ask_for_the_same_text_share_one_call(store: Any) -> None:
    model = Counted()
    model.gate.clear()
    cached = CachedEmbeddings(model, store, name="m")

    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(cached.embed_documents, ["a", "b"]) for _ in range(8)]
        assert model.entered.wait(timeout=20)
        model.gate.set()
        found = [future.result(timeout=30) for future in asked]

    assert sorted(model.asked) == ["a", "b"]
    assert all(vectors == found[0] for vectors in found)
    assert cached.stats().misses == 2
    assert cached.stats().hits + cached.stats().shared == 14


async def test_tasks_that_ask_for_the_same_text_share_one_call(store: Any) -> None:
    model = Counted()
    cached = CachedEmbeddings(model, store, name="m")

    found = await asyncio.gather(*(cached.aembed_documents(["a", "b"]) for _ in range(20)))

    assert sorted(model.asked) == ["a", "b"]
    assert all(vectors == found[0] for vectors in found)


@pytest.mark.parametrize("kind", ["threads", "tasks"])
async def test_overlapping_lists_are_embedded_once_each_without_a_deadlock(
    store: Any, kind: str
) -> None:
    model = Counted()
    cached = CachedEmbeddings(model, store, name="m", max_batch=2)
    lists = [list("abcdef"[turn:] + "abcdef"[:turn]) for turn in range(6)]

    if kind == "tasks":
        found = await asyncio.gather(*map(cached.aembed_documents, lists))
    else:
        with ThreadPoolExecutor(6) as pool:
            found = list(pool.map(cached.embed_documents, lists))

    assert sorted(model.asked) == list("abcdef")
    for texts, vectors in zip(lists, found, strict=True):
        assert vectors == [single(model.vector(text)) for text in texts]


async def test_threads_that_wait_for_a_task_do_not_starve_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    go = asyncio.Event()

    class NeedsThread(Counted):
        async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
            self.entered.set()
            await go.wait()
            return await asyncio.to_thread(self.embed_documents, texts)

    monkeypatch.setattr(claims, "_MOST_FOR_A_TASK_S", 0.1)
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
    model = NeedsThread()
    cached = CachedEmbeddings(model, MemoryStore(), name="m")

    owner = asyncio.create_task(cached.aembed_documents(["a"]))
    await asyncio.to_thread(model.entered.wait, 20)
    waits = asyncio.create_task(asyncio.to_thread(cached.embed_documents, ["a"]))
    await asyncio.sleep(0)  # the only thread is taken
    go.set()

    async with asyncio.timeout(20):
        assert await owner == await waits == [single(model.vector("a"))]


async def test_a_thread_and_a_task_share_one_call(store: Any) -> None:
    model = Counted()
    model.gate.clear()
    cached = CachedEmbeddings(model, store, name="m")

    leading = asyncio.create_task(cached.aembed_documents(["a"]))
    await asyncio.to_thread(until, lambda: hold(cached, "a"))
    following = asyncio.create_task(asyncio.to_thread(cached.embed_documents, ["a"]))
    await asyncio.sleep(0)
    model.gate.set()

    assert await leading == await following
    assert model.asked == ["a"]


async def test_when_the_one_that_embeds_fails_another_tries(store: Any) -> None:
    model = Counted()
    model.gate.clear()
    model.failing = 1
    cached = CachedEmbeddings(model, store, name="m")

    asked = [asyncio.create_task(cached.aembed_documents(["a"])) for _ in range(4)]
    await asyncio.to_thread(model.entered.wait, 20)
    model.gate.set()
    found = await asyncio.gather(*asked, return_exceptions=True)

    assert [isinstance(result, RuntimeError) for result in found].count(True) == 1
    assert model.asked == ["a", "a"]


async def test_when_the_one_that_embeds_is_cancelled_another_tries(store: Any) -> None:
    model = Counted()
    model.gate.clear()
    cached = CachedEmbeddings(model, store, name="m")

    first = asyncio.create_task(cached.aembed_documents(["a"]))
    await asyncio.to_thread(model.entered.wait, 20)
    second = asyncio.create_task(cached.aembed_documents(["a"]))
    await asyncio.sleep(0)
    first.cancel()
    model.gate.set()

    assert await second == [single(model.vector("a"))]
    with pytest.raises(asyncio.CancelledError):
        await first


async def test_one_that_waits_and_is_cancelled_disturbs_nobody(store: Any) -> None:
    model = Counted()
    model.gate.clear()
    cached = CachedEmbeddings(model, store, name="m")

    first = asyncio.create_task(cached.aembed_documents(["a"]))
    await asyncio.to_thread(model.entered.wait, 20)
    waits = asyncio.create_task(cached.aembed_documents(["a"]))
    third = asyncio.create_task(cached.aembed_documents(["a"]))
    await asyncio.sleep(0)
    waits.cancel()
    model.gate.set()

    assert await first == await third
    assert model.asked == ["a"]


async def test_a_blocking_call_inside_the_loop_that_embeds_does_not_wait_for_it() -> None:
    model = Counted()
    model.gate.clear()
    cached = CachedEmbeddings(model, MemoryStore(), name="m")

    slow = asyncio.create_task(cached.aembed_documents(["a"]))
    await asyncio.to_thread(model.entered.wait, 20)
    model.gate.set()
    found = cached.embed_documents(["a"])

    assert await slow == found
    assert model.asked == ["a", "a"]


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_one_that_embeds_for_too_long_is_not_waited_for(operation: str) -> None:
    model = Counted()
    model.gate.clear()
    cached = CachedEmbeddings(model, MemoryStore(), name="m", patience_s=0.05)

    with ThreadPoolExecutor(1) as pool:
        stuck = pool.submit(cached.embed_documents, ["a"])
        until(lambda: hold(cached, "a"))
        (key,) = keys_of(["a"], name="m", kind="document")
        held = cached._claims._held[key]

        async def open_when_overtaken() -> None:
            await asyncio.to_thread(until, lambda: cached._claims._held.get(key) is not held)
            model.gate.set()

        if operation == "embed_documents":
            asking = asyncio.create_task(asyncio.to_thread(cached.embed_documents, ["a"]))
        else:
            asking = asyncio.create_task(cached.aembed_documents(["a"]))
        await open_when_overtaken()

        assert await asking == stuck.result(timeout=20)
    assert model.asked == ["a", "a"]


def test_a_text_that_was_just_embedded_is_looked_for_again() -> None:
    model = Counted()

    class Slow(MemoryStore):
        """Tells that nothing was there, just before it is there."""

        late = True

        def get(self, keys: Any) -> Any:
            found = super().get(keys)
            if self.late and not found and len(model.asked) == 0:
                self.late = False
                CachedEmbeddings.embed_documents(cached, ["a"])
            return found

    cached = CachedEmbeddings(model, Slow(), name="m")

    assert cached.embed_documents(["a"]) == [single(model.vector("a"))]
    assert model.asked == ["a"]


async def test_an_async_question_is_embedded_once_as_a_question(store: Any) -> None:
    inner = Counted()
    cached = CachedEmbeddings(inner, store=store, name="m")

    first = await cached.aembed_query("one")

    assert first == single([-value for value in inner.vector("one")])
    assert await cached.aembed_query("one") == first == cached.embed_query("one")
    assert inner.asked == ["one"]


def test_of_what_was_just_embedded_the_latest_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "_LATELY", 2)
    made = claims.Claims()
    for key in (b"a", b"b", b"c"):
        with made.claim([key], blocking=True) as claimed:
            claimed.deliver({key: b"vector"})

    with made.claim([b"a", b"b", b"c"], blocking=True) as claimed:
        assert claimed.lately == [b"b", b"c"]


def test_a_forked_child_waits_for_none_of_its_parents_calls(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = claims.Claims()
    with made.claim([b"a"], blocking=True):
        monkeypatch.setattr(os, "getpid", lambda: -1)  # as after a fork
        assert not made.claim([b"b"], blocking=True).lately
        assert not made.waiting_for(b"a")


def test_a_machine_that_stores_the_high_byte_first_turns_the_bytes_around(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    turned = array("f", [0.5, -2.0])
    turned.byteswap()
    monkeypatch.setattr(sys, "byteorder", "big")

    entry = encode([0.5, -2.0])

    assert entry[12:] == turned.tobytes()
    assert intact(entry)
    assert decode(entry) == [0.5, -2.0]


def test_the_header_tells_the_dimensions() -> None:
    assert struct.unpack("<4sI", encode([1.0, 2.0])[:8]) == (b"tov1", 2)
