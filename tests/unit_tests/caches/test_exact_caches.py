"""MemoryCache and SqliteCache behind LangChain's own cache seam."""

import asyncio
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.caches import BaseCache
from langchain_core.globals import set_llm_cache
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.outputs import ChatGeneration, Generation
from langchain_core.tools import tool

from langchain_tokenopt.caches import ExactCache, MemoryCache, SqliteCache, StoreError, StoreSize
from langchain_tokenopt.caches.memory import MemoryStore
from langchain_tokenopt.errors import ConfigurationError
from langchain_tokenopt.messages import cache_source
from langchain_tokenopt.testing import ScriptedModel


@pytest.fixture(params=["memory", "sqlite"])
def cache(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ExactCache]:
    made = MemoryCache() if request.param == "memory" else SqliteCache(tmp_path / "c.sqlite")
    yield made
    made.close()


@pytest.fixture
def as_global(cache: ExactCache) -> Iterator[ExactCache]:
    set_llm_cache(cache)
    yield cache
    set_llm_cache(None)


def test_the_global_cache_serves_calls_and_async_calls(as_global: ExactCache) -> None:
    model = ScriptedModel(["four"])

    answers = [model.invoke("2 + 2?"), asyncio.run(model.ainvoke("2 + 2?"))]

    assert [answer.text for answer in answers] == ["four", "four"]
    assert [cache_source(answer) for answer in answers] == [None, as_global.store.source]
    assert answers[0].id != answers[1].id
    assert model.calls == 1


def test_a_conversation_goes_on_being_served(as_global: ExactCache) -> None:
    model = ScriptedModel(["four", "eight"])
    for _ in range(3):
        first: Any = [HumanMessage("2 + 2?")]
        second = [*first, model.invoke(first), HumanMessage("doubled?")]
        assert model.invoke(second).text == "eight"

    assert model.calls == 2


def test_an_agent_is_served(as_global: ExactCache) -> None:
    @tool
    def double(number: int) -> int:
        """Double a number."""
        return 2 * number

    call = {"name": "double", "args": {"number": 2}, "id": "1", "type": "tool_call"}
    model = ScriptedModel([AIMessage("", tool_calls=[call]), "It is 4."])
    agent = create_agent(model, tools=[double])

    runs = [agent.invoke({"messages": [("user", "double 2")]}) for _ in range(2)]

    assert [run["messages"][-1].text for run in runs] == ["It is 4.", "It is 4."]
    assert model.calls == 2


def test_callers_that_change_an_answer_change_their_own(cache: ExactCache) -> None:
    given = ChatGeneration(message=AIMessage("four", additional_kwargs={"a": [1]}))
    cache.update("p", "m", [given])
    given.message.additional_kwargs["a"].append(2)

    first: Any = cache.lookup("p", "m")
    first[0].message.content = "five"
    first[0].message.additional_kwargs["a"].append(3)
    second: Any = cache.lookup("p", "m")

    assert isinstance(first, list)
    assert second[0].message.content == "four"
    assert second[0].message.additional_kwargs == {"a": [1]}


def test_tenants_never_share_an_answer(tmp_path: Path) -> None:
    one, two = (SqliteCache(tmp_path / "c.sqlite", tenant=name) for name in ("one", "two"))
    one.update("p", "m", [Generation(text="secret")])

    assert two.lookup("p", "m") is None
    assert one.lookup("p", "m") == [Generation(text="secret")]
    one.close()
    two.close()


def test_a_signed_cache_reads_no_strangers_entry(tmp_path: Path) -> None:
    stranger = SqliteCache(tmp_path / "c.sqlite")
    signed = SqliteCache(tmp_path / "c.sqlite", signing_key=b"secret")
    stranger.update("p", "m", [Generation(text="planted")])

    assert signed.lookup("p", "m") is None
    assert (signed.stats().unreadable, signed.stats().misses) == (1, 1)
    stranger.close()
    signed.close()


def test_an_answer_that_json_cannot_hold_is_counted_and_not_kept(cache: ExactCache) -> None:
    odd = ChatGeneration(message=AIMessage("a", additional_kwargs={"x": object()}))

    cache.update("p", "m", [odd])

    assert cache.lookup("p", "m") is None
    assert (cache.stats().rejected, cache.stats().writes) == (1, 0)


def test_the_stats_say_what_happened(cache: ExactCache) -> None:
    cache.lookup("p", "m")
    cache.update("p", "m", [Generation(text="a")])
    cache.lookup("p", "m")
    asyncio.run(cache.alookup("p", "m"))

    stats = cache.stats()

    assert (stats.hits, stats.misses, stats.writes, stats.entries) == (2, 1, 1, 1)
    assert stats.hit_rate == pytest.approx(2 / 3)
    assert stats.bytes is not None
    assert stats.bytes > 32


def test_an_answer_expires(tmp_path: Path) -> None:
    now = [0.0]
    caches: list[BaseCache] = [
        MemoryCache(ttl_s=60, clock=lambda: now[0]),
        SqliteCache(tmp_path / "c.sqlite", ttl_s=60, clock=lambda: now[0]),
    ]
    for cache in caches:
        now[0] = 0.0
        cache.update("p", "m", [Generation(text="a")])
        now[0] = 59.0
        assert cache.lookup("p", "m")
        now[0] = 60.0
        assert cache.lookup("p", "m") is None


class Failing(MemoryStore):
    """A store that is down until told otherwise."""

    down = True
    asked = 0

    def get(self, keys: Any) -> Any:
        self.asked += 1
        if self.down:
            raise StoreError("no store today")
        return super().get(keys)

    def put(self, entries: Any, **options: Any) -> None:
        self.asked += 1
        if self.down:
            raise StoreError("no store today")
        super().put(entries, **options)

    def size(self) -> StoreSize:
        if self.down:
            raise StoreError("no store today")
        return super().size()


def test_a_store_that_fails_is_left_alone_for_a_moment_and_tried_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    now = [100.0]
    store = Failing()
    cache = ExactCache(store, clock=lambda: now[0])

    with caplog.at_level(logging.WARNING):
        for _ in range(10):
            assert cache.lookup("p", "m") is None
            cache.update("p", "m", [Generation(text="a")])
        asked_while_down = store.asked
        store.down = False
        now[0] += 5
        cache.update("p", "m", [Generation(text="a")])

    assert asked_while_down == 1
    assert cache.lookup("p", "m") == [Generation(text="a")]
    assert (cache.stats().errors, cache.stats().misses) == (1, 10)
    assert len(caplog.records) == 1


def test_a_store_that_is_down_has_no_size() -> None:
    stats = ExactCache(Failing()).stats()

    assert (stats.entries, stats.bytes) == (None, None)


@pytest.mark.parametrize("ttl_s", [0, -1])
def test_a_life_of_no_time_is_refused(ttl_s: float) -> None:
    with pytest.raises(ConfigurationError, match="ttl_s must be more than 0"):
        MemoryCache(ttl_s=ttl_s)


def test_long_answers_and_more_than_a_thousand_are_served_as_others_are() -> None:
    cache = MemoryCache()
    texts = [f"answer {n}" for n in range(1_100)] + ["long " * 20_000]
    for n, text in enumerate(texts):
        chat = [ChatGeneration(message=AIMessage(text))]
        cache.update(f"p{n}", "m", chat if n % 2 else [Generation(text=text)])

    for n, text in enumerate(texts):
        found = [cache.lookup(f"p{n}", "m") for _ in range(3)]
        assert [each and each[0].text for each in found] == [text] * 3
    assert len(cache._decoded) <= 1_000
    assert cache.stats().hits == 3 * len(texts)
