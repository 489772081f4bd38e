"""LangGraph's node cache over our stores."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import CachePolicy

from langchain_tokenopt.caches import MemoryStore, SqliteStore, StoreError, TieredStore
from langchain_tokenopt.caches.nodes import NodeCache

KEY = (("graph", "node"), "k")
OTHER = (("graph", "other"), "k")


@pytest.fixture(params=["memory", "sqlite", "tiered"])
def cache(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[NodeCache]:
    file = tmp_path / "nodes.sqlite"
    stores: dict[str, Any] = {
        "memory": MemoryStore,
        "sqlite": lambda: SqliteStore(file),
        "tiered": lambda: TieredStore([MemoryStore(), SqliteStore(file)]),
    }
    store = stores[request.param]()
    yield NodeCache(store)
    store.close()


async def test_values_come_back_by_both_ways(cache: NodeCache) -> None:
    messages = [HumanMessage("hi"), AIMessage("hello", id="1")]
    cache.set({KEY: ({"messages": messages}, None), OTHER: (4, 60)})

    assert cache.get([KEY, OTHER, (("x",), "y")]) == {KEY: {"messages": messages}, OTHER: 4}
    assert await cache.aget([OTHER]) == {OTHER: 4}
    await cache.aset({OTHER: (5, None)})
    assert cache.get([OTHER]) == {OTHER: 5}


async def test_namespaces_are_cleared_apart(cache: NodeCache) -> None:
    cache.set({KEY: (1, None), OTHER: (2, None)})

    cache.clear([("graph", "node")])
    assert cache.get([KEY, OTHER]) == {OTHER: 2}
    await cache.aclear([("graph",)])
    assert cache.get([OTHER]) == {OTHER: 2}
    await cache.aclear()
    assert cache.get([OTHER]) == {}
    cache.clear()


def test_names_do_not_run_into_each_other(cache: NodeCache) -> None:
    cache.set({(("a", "b"), "c"): (1, None)})

    assert cache.get([(("a",), "bc"), (("ab",), "c"), (("a", "b", "c"), "")]) == {}


def test_a_result_expires() -> None:
    now = [0.0]
    cache = NodeCache(MemoryStore(clock=lambda: now[0]))
    cache.set({KEY: (1, 10)})
    now[0] = 10.0

    assert cache.get([KEY]) == {}


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_a_graph_skips_a_node_that_it_ran_before(
    cache: NodeCache, asynchronous: bool
) -> None:
    ran = []

    def answer(state: MessagesState) -> dict[str, Any]:
        ran.append(1)
        return {"messages": [AIMessage("four", id="a")]}

    graph = StateGraph(MessagesState)
    graph.add_node(answer, cache_policy=CachePolicy(key_func=lambda state: b"same"))
    graph.add_edge(START, "answer")
    compiled = graph.compile(cache=cache)
    asked: Any = {"messages": [HumanMessage("2 + 2?", id="q")]}

    for _ in range(3):
        state = await compiled.ainvoke(asked) if asynchronous else compiled.invoke(asked)
        assert state["messages"][-1].text == "four"

    assert len(ran) == 1


@dataclass
class Mine:
    """A class of the application."""

    number: int


def test_only_allowed_classes_are_read_back() -> None:
    store = MemoryStore()
    strict, open_ = NodeCache(store), NodeCache(store, allowed=[Mine])
    open_.set({KEY: (Mine(4), None)})

    assert open_.get([KEY]) == {KEY: Mine(4)}
    assert strict.get([KEY]).get(KEY) != Mine(4)


def test_altered_and_foreign_entries_are_misses() -> None:
    store = MemoryStore()
    mine, theirs = NodeCache(store, signing_key=b"mine"), NodeCache(store, signing_key=b"theirs")
    theirs.set({KEY: (1, None)})
    assert mine.get([KEY]) == {}
    assert mine.unreadable == 1

    mine.set({KEY: (1, None)})
    ((key, sealed),) = [(k, e.value) for k, e in store._entries.items()]
    for hostile in (b"", b"TON1", sealed[:-1], sealed[:20] + b"\xff" + sealed[21:], b"x" * 50):
        store.put({key: hostile}, ttl_s=None)
        assert mine.get([KEY]) == {}
    assert mine.unreadable == 6


class Down(MemoryStore):
    """A store that is down."""

    def get(self, keys: Any) -> Any:
        raise StoreError("no store today")

    def put(self, entries: Any, **options: Any) -> None:
        raise StoreError("no store today")


async def test_a_store_that_is_down_lets_the_nodes_run(caplog: pytest.LogCaptureFixture) -> None:
    cache = NodeCache(Down())

    with caplog.at_level(logging.WARNING):
        cache.set({KEY: (1, None)})
        await cache.aset({KEY: (1, None)})
        assert cache.get([KEY]) == await cache.aget([KEY]) == {}

    assert cache.failures == 4
    assert len(caplog.records) == 1
