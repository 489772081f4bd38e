"""Per-request control: in chains, in threads and tasks, for every kind of cache."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain_core.caches import BaseCache, InMemoryCache
from langchain_core.language_models import BaseChatModel

from langchain_tokenopt.caches import CachedChatModel, MemoryCache, SqliteCache, cache_control
from langchain_tokenopt.errors import ConfigurationError
from langchain_tokenopt.testing import ScriptedModel


@pytest.fixture(params=["core's seam", "wrapped", "wrapped with langchain's"])
def model(request: pytest.FixtureRequest) -> BaseChatModel:
    """A model whose answers are 1, 2, 3, ..., behind a cache in each way."""
    answers = [str(n) for n in range(1, 100)]
    if request.param == "core's seam":
        return ScriptedModel(answers, cache=MemoryCache())
    cache: BaseCache = MemoryCache() if request.param == "wrapped" else InMemoryCache()
    return CachedChatModel(ScriptedModel(answers), cache=cache)


def ask(model: BaseChatModel, text: str = "hi") -> str:
    return model.invoke(text).text


def test_no_cache_asks_and_keeps_the_new_answer(model: BaseChatModel) -> None:
    assert [ask(model), ask(model)] == ["1", "1"]
    with cache_control(no_cache=True):
        assert [ask(model), ask(model)] == ["2", "3"]
    assert ask(model) == "3"


def test_no_store_keeps_nothing(model: BaseChatModel) -> None:
    with cache_control(no_store=True):
        assert [ask(model), ask(model)] == ["1", "2"]
    assert [ask(model), ask(model)] == ["3", "3"]


def test_no_store_may_be_served(model: BaseChatModel) -> None:
    ask(model)
    with cache_control(no_store=True):
        assert ask(model) == "1"


async def test_control_reaches_tasks_streams_and_batches() -> None:
    model = CachedChatModel(ScriptedModel([str(n) for n in range(50)]), cache=MemoryCache())
    first = await model.ainvoke("hi")
    with cache_control(no_cache=True):
        answers = [answer.text for answer in model.batch(["hi"] * 3)]
        answers += [a.text for a in await asyncio.gather(*(model.ainvoke("hi") for _ in range(3)))]
        answers.append("".join([chunk.text async for chunk in model.astream("hi")]))

    assert first.text not in answers
    assert len(set(answers)) == 7


@pytest.fixture(params=["memory", "sqlite"])
def timed(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Any, list[float]]]:
    now = [1_000.0]
    cache = (
        MemoryCache(clock=lambda: now[0])
        if request.param == "memory"
        else SqliteCache(tmp_path / "c.sqlite", clock=lambda: now[0])
    )
    cache._wall_clock = lambda: now[0]
    yield cache, now
    cache.close()


def test_max_age_serves_nothing_older(timed: tuple[Any, list[float]]) -> None:
    cache, now = timed
    model = ScriptedModel(["1", "2"], cache=cache)
    ask(model)
    now[0] += 60

    with cache_control(max_age_s=61):
        assert ask(model) == "1"
    with cache_control(max_age_s=59):
        assert ask(model) == "2"
    assert cache.stats().too_old == 1


def test_a_request_may_give_its_answer_a_shorter_life(timed: tuple[Any, list[float]]) -> None:
    cache, now = timed
    model = ScriptedModel(["1", "2"], cache=cache)
    with cache_control(ttl_s=10):
        ask(model)
    now[0] += 9
    assert ask(model) == "1"
    now[0] += 2
    assert ask(model) == "2"


def test_answers_are_invalidated_by_tag(timed: tuple[Any, list[float]]) -> None:
    cache, _ = timed
    model = ScriptedModel(["1", "2", "3"], cache=cache)
    with cache_control(tags=["prices"]), cache_control(tags=["v2"]):
        ask(model)
    ask(model, "other")

    assert cache.invalidate(["v2"]) == 1
    assert [ask(model), ask(model, "other")] == ["3", "2"]
    assert asyncio.run(cache.ainvalidate(["prices"])) == 0


def test_an_inner_block_adds_to_the_outer_one() -> None:
    outer = cache_control(no_store=True, max_age_s=5, tags=["a"])
    with outer, cache_control(no_cache=True, max_age_s=9, ttl_s=1, tags=["b"]) as inner:
        assert (inner.no_store, inner.no_cache) == (True, True)
        assert (inner.max_age_s, inner.ttl_s) == (5, 1)
        assert inner.tags == {"a", "b"}


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"max_age_s": 0}, "max_age_s must be more than 0"),
        ({"ttl_s": -1}, "ttl_s must be more than 0"),
        ({"tags": "prices"}, "collection of texts"),
    ],
)
def test_what_cannot_be_meant_is_refused(options: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigurationError, match=told), cache_control(**options):
        pass
