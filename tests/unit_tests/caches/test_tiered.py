"""Stores in a row: who is asked, what is promoted, and what happens when one is down."""

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_tokenopt.caches import (
    CachedChatModel,
    CacheTier,
    Held,
    MemoryStore,
    SqliteStore,
    StoreError,
    TieredCache,
    TieredStore,
    cache_control,
)
from langchain_tokenopt.errors import ConfigurationError
from langchain_tokenopt.messages import cache_source
from langchain_tokenopt.testing import ScriptedModel


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


class Named(MemoryStore):
    """A store that can be down, and notes what it is asked."""

    def __init__(self, source: str, **options: Any) -> None:
        super().__init__(**options)
        self.source = source
        self.down = False
        self.asked: list[str] = []

    def _ask(self, what: str) -> None:
        self.asked.append(what)
        if self.down:
            raise StoreError(f"{self.source} is down")

    def held(self, keys: Iterable[bytes]) -> dict[bytes, Held]:
        self._ask("held")
        return super().held(keys)

    def put(self, entries: Mapping[bytes, bytes], **options: Any) -> None:
        self._ask("put")
        super().put(entries, **options)

    def delete(self, keys: Iterable[bytes]) -> None:
        self._ask("delete")
        super().delete(keys)

    def invalidate(self, tags: Iterable[str]) -> int:
        self._ask("invalidate")
        return super().invalidate(tags)

    def clear(self) -> None:
        self._ask("clear")
        super().clear()


def key(n: int) -> bytes:
    return n.to_bytes(8, "little") + bytes(24)


class Rig:
    """Two tiers on one clock, used by the synchronous or the asynchronous methods."""

    def __init__(self, *, asynchronous: bool, **options: Any) -> None:
        self.clock = Clock()
        self.quick = Named("quick", clock=self.clock)
        self.slow = Named("slow", clock=self.clock)
        tiers = options.pop("tiers", [self.quick, self.slow])
        self.store = TieredStore(tiers, clock=self.clock, **options)
        self._asynchronous = asynchronous

    def do(self, name: str, *arguments: Any, **options: Any) -> Any:
        if self._asynchronous:
            return asyncio.run(getattr(self.store, f"a{name}")(*arguments, **options))
        return getattr(self.store, name)(*arguments, **options)


@pytest.fixture(params=[False, True], ids=["sync", "async"])
def make_rig(request: pytest.FixtureRequest) -> Callable[..., Rig]:
    return lambda **options: Rig(asynchronous=request.param, **options)


def test_a_write_goes_to_every_tier_and_the_first_answers(make_rig: Any) -> None:
    rig = make_rig()
    rig.do("put", {key(1): b"one"}, ttl_s=None)

    found = rig.do("locate", [key(1), key(2)])

    assert found.keys() == {key(1)}
    assert found[key(1)].tier == "quick"
    assert rig.slow.get([key(1)]) == {key(1): b"one"}
    assert rig.slow.asked.count("held") == 1  # for key 2 alone


def test_a_promoted_copy_keeps_the_remaining_life_and_the_tags(make_rig: Any) -> None:
    rig = make_rig()
    rig.slow.put({key(1): b"one"}, ttl_s=60, tags=["a"])
    rig.clock.now += 50

    assert rig.do("locate", [key(1)])[key(1)].tier == "slow"
    assert rig.quick.held([key(1)]) == {key(1): Held(value=b"one", ttl_s=10, tags=frozenset({"a"}))}
    rig.clock.now += 9
    assert rig.do("locate", [key(1)])[key(1)].tier == "quick"
    rig.clock.now += 1
    assert rig.do("get", [key(1)]) == {}


def test_a_tier_may_keep_entries_for_less(make_rig: Any) -> None:
    rig = make_rig()
    rig.store = TieredStore(
        [CacheTier(rig.quick, ttl_s=5), CacheTier(rig.slow, ttl_s=100)], clock=rig.clock
    )
    rig.do("put", {key(1): b"one"}, ttl_s=50)

    assert rig.quick.held([key(1)])[key(1)].ttl_s == 5
    assert rig.slow.held([key(1)])[key(1)].ttl_s == 50
    rig.clock.now += 6
    assert rig.do("locate", [key(1)])[key(1)].tier == "slow"
    assert rig.quick.held([key(1)])[key(1)].ttl_s == 5


def test_deletions_tags_and_clearing_reach_every_tier(make_rig: Any) -> None:
    rig = make_rig()
    for n, tags in ((1, []), (2, ["a"]), (3, [])):
        rig.do("put", {key(n): b""}, ttl_s=None, tags=tags)

    rig.do("delete", [key(1)])
    assert rig.do("invalidate", ["a"]) == 1
    assert set(rig.quick.get([key(n) for n in range(4)])) == {key(3)}
    assert set(rig.slow.get([key(n) for n in range(4)])) == {key(3)}
    rig.do("clear")
    assert (rig.quick.size().entries, rig.slow.size().entries) == (0, 0)


def test_a_tier_that_is_down_is_skipped_counted_and_told_once(
    make_rig: Any, caplog: pytest.LogCaptureFixture
) -> None:
    rig = make_rig()
    rig.slow.down = True
    with caplog.at_level(logging.WARNING):
        for n in range(20):
            rig.do("put", {key(n): b"x"}, ttl_s=None)
            assert rig.do("get", [key(n)]) == {key(n): b"x"}
            assert rig.do("get", [key(100 + n)]) == {}

    slow = rig.store.tiers()[1]
    assert len(rig.slow.asked) == 1
    assert (slow.name, slow.errors, slow.resting, slow.entries) == ("slow", 1, True, None)
    assert slow.skipped == 39
    assert len([r for r in caplog.records if "slow tier failed" in r.message]) == 1


def test_a_tier_is_tried_again_with_growing_pauses(make_rig: Any) -> None:
    rig = make_rig()
    rig.slow.down = True
    tried_after = []
    for second in range(200):
        before = len(rig.slow.asked)
        rig.do("get", [key(1)])
        if len(rig.slow.asked) > before:
            tried_after.append(second)
        rig.clock.now += 1

    pauses = [later - earlier for earlier, later in pairwise(tried_after)]
    assert pauses[:5] == sorted(pauses[:5])
    assert pauses[0] <= 2
    assert all(45 <= pause <= 60 for pause in pauses[6:])


def test_nothing_stale_comes_back_with_a_tier(make_rig: Any) -> None:
    rig = make_rig()
    for n in range(4):
        rig.do("put", {key(n): b"old"}, ttl_s=None, tags=["v1"] if n == 3 else [])
    rig.slow.down = True
    rig.do("delete", [key(0)])
    rig.do("put", {key(1): b"new"}, ttl_s=None)
    rig.do("invalidate", ["v1"])
    rig.slow.down = False
    rig.quick.clear()
    rig.clock.now += 60

    assert rig.do("get", [key(n) for n in range(4)]) == {key(2): b"old"}
    assert not rig.store.tiers()[1].resting


def test_clearing_a_tier_that_is_down_clears_it_when_it_is_back(make_rig: Any) -> None:
    rig = make_rig()
    rig.do("put", {key(1): b"old"}, ttl_s=None)
    rig.slow.down = True
    rig.do("clear")
    rig.slow.down = False
    rig.clock.now += 60

    assert rig.do("get", [key(1)]) == {}


def test_when_every_tier_fails_that_is_an_error(make_rig: Any) -> None:
    rig = make_rig()
    rig.quick.down = rig.slow.down = True

    with pytest.raises(StoreError, match=r"every tier failed.*quick, slow"):
        rig.do("get", [key(1)])
    with pytest.raises(StoreError, match="every tier failed"):
        rig.do("put", {key(1): b""}, ttl_s=None)
    with pytest.raises(StoreError, match="no tier can be asked"):
        rig.store.size()


def test_an_absent_entry_is_remembered_until_it_is_written(make_rig: Any) -> None:
    rig = make_rig(negative_ttl_s=10)
    for _ in range(5):
        assert rig.do("get", [key(1)]) == {}
    assert rig.slow.asked == ["held"]
    rig.do("put", {key(1): b"one"}, ttl_s=None)
    assert rig.do("get", [key(1)]) == {key(1): b"one"}


def test_an_absent_entry_is_asked_for_again_in_time_and_on_word_from_another_host(
    make_rig: Any,
) -> None:
    rig = make_rig(negative_ttl_s=10)
    rig.do("get", [key(1)])
    rig.do("get", [key(2)])
    rig.slow.put({key(1): b"one", key(2): b"two"}, ttl_s=None)
    assert rig.do("get", [key(1), key(2)]) == {}

    rig.store.drop_copies([key(2)])
    assert rig.do("get", [key(1), key(2)]) == {key(2): b"two"}
    rig.clock.now += 10
    assert rig.do("get", [key(1)]) == {key(1): b"one"}


def test_of_ten_thousand_absent_entries_the_oldest_is_asked_for_again(make_rig: Any) -> None:
    rig = make_rig(negative_ttl_s=1_000)
    rig.do("get", [key(0)])
    rig.do("get", [key(n) for n in range(1, 10_001)])
    asked = len(rig.slow.asked)

    assert rig.do("get", [key(n) for n in range(1, 10_001)]) == {}
    assert len(rig.slow.asked) == asked
    rig.do("get", [key(0)])
    assert len(rig.slow.asked) == asked + 1


def test_the_size_is_that_of_the_last_tier_that_can_say(tmp_path: Path) -> None:
    slow = SqliteStore(tmp_path / "s.sqlite")
    quick = MemoryStore()
    store = TieredStore([quick, slow])
    store.put({key(1): b"one", key(2): b"two"}, ttl_s=None)
    quick.delete([key(1)])
    assert store.size().entries == 2
    store.close()
    (tmp_path / "s.sqlite").write_bytes(b"this is no database but a text of some length" * 50)

    assert store.size().entries == 1
    store.close()


def test_what_a_tier_that_is_down_may_have_is_not_called_absent(make_rig: Any) -> None:
    rig = make_rig(negative_ttl_s=1_000)
    rig.slow.put({key(1): b"one"}, ttl_s=None)
    rig.slow.down = True
    rig.do("get", [key(1)])
    rig.slow.down = False
    rig.clock.now += 60

    assert rig.do("get", [key(1)]) == {key(1): b"one"}


def test_copies_are_dropped_and_the_last_tier_is_left_alone() -> None:
    rig = Rig(asynchronous=False)
    rig.store.put({key(1): b"a", key(2): b"b"}, ttl_s=None)
    rig.slow.put({key(1): b"changed elsewhere"}, ttl_s=None)

    rig.store.drop_copies([key(1)])
    assert rig.store.get([key(1)]) == {key(1): b"changed elsewhere"}
    rig.store.drop_copies(None)
    assert rig.quick.size().entries == 0
    assert rig.slow.size().entries == 2


operations = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.integers(0, 3), st.binary(max_size=2)),
        st.tuples(st.just("delete"), st.integers(0, 3), st.just(b"")),
        st.tuples(st.just("quick"), st.booleans(), st.just(b"")),
        st.tuples(st.just("slow"), st.booleans(), st.just(b"")),
        st.tuples(st.just("wait"), st.integers(0, 100), st.just(b"")),
    ),
    max_size=40,
)


@given(operations)
def test_whatever_fails_nothing_old_is_ever_served(made: list[tuple[str, Any, bytes]]) -> None:
    rig = Rig(asynchronous=False)
    last: dict[int, bytes | None] = {}
    for name, argument, value in made:
        if name in ("quick", "slow"):
            getattr(rig, name).down = argument
        elif name == "wait":
            rig.clock.now += argument
        elif name == "delete":
            rig.store.delete([key(argument)])
            last[argument] = None
        else:
            try:
                rig.store.put({key(argument): value}, ttl_s=None)
                last[argument] = value
            except StoreError:
                last[argument] = None  # kept nowhere: the old value must be gone too
        for n in range(4):
            try:
                found = rig.store.get([key(n)])
            except StoreError:
                continue
            assert found.get(key(n)) in (last.get(n), None)


# --- the cache --------------------------------------------------------------------------------


def test_hits_name_their_tier_and_survive_a_restart(tmp_path: Path) -> None:
    sources = []
    for _ in range(2):
        cache = TieredCache.default(tmp_path / "c.sqlite")
        model = CachedChatModel(ScriptedModel(["four", "x"]), cache=cache)
        sources += [cache_source(model.invoke("2 + 2?")) for _ in range(2)]
        cache.close()

    assert sources == [None, "memory", "sqlite", "memory"]


async def test_the_async_path_names_them_too(tmp_path: Path) -> None:
    cache = TieredCache([MemoryStore(), SqliteStore(tmp_path / "c.sqlite")])
    model = ScriptedModel(["four"], cache=cache)

    answers = [await model.ainvoke("2 + 2?") for _ in range(2)]
    cache.store.drop_copies(None)
    answers.append(await model.ainvoke("2 + 2?"))

    assert [cache_source(answer) for answer in answers] == [None, "memory", "sqlite"]
    assert [tier.hits for tier in cache.tiers()] == [1, 1]
    cache.close()


def test_control_and_tenants_hold_in_tiers(tmp_path: Path) -> None:
    tenant = ["a"]
    cache = TieredCache.default(tmp_path / "c.sqlite", tenant=lambda: tenant[0], ttl_s=60)
    model = ScriptedModel(["1", "2", "3"], cache=cache)
    with cache_control(tags=["t"]):
        model.invoke("hi")
    tenant[0] = "b"
    assert model.invoke("hi").text == "2"
    tenant[0] = "a"
    assert model.invoke("hi").text == "1"
    assert cache.invalidate(["t"]) == 1
    assert model.invoke("hi").text == "3"
    cache.close()


def test_a_model_answers_while_every_tier_is_down() -> None:
    quick, slow = Named("quick"), Named("slow")
    cache = TieredCache([quick, slow])
    model = ScriptedModel(["four"], cache=cache, when_exhausted="repeat_last")
    quick.down = slow.down = True

    assert [model.invoke("2 + 2?").text for _ in range(3)] == ["four"] * 3
    assert cache.stats().errors >= 1


@pytest.mark.parametrize(
    ("tiers", "options", "told"),
    [
        ([], {}, "at least one tier"),
        ([MemoryStore()], {"negative_ttl_s": 0}, "negative_ttl_s must be more than 0"),
    ],
)
def test_tiers_that_cannot_be_are_refused(
    tiers: list[Any], options: dict[str, Any], told: str
) -> None:
    with pytest.raises(ConfigurationError, match=told):
        TieredStore(tiers, **options)
