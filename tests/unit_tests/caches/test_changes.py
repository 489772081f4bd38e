"""Copies of what changed while it was read."""

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from langchain_tokenopt.caches import MemoryStore, TieredStore
from langchain_tokenopt.caches.changes import Changes
from langchain_tokenopt.caches.store import Held

KEY, OTHER = b"k" * 32, b"o" * 32


class Slow(MemoryStore):
    """A shared store in which something happens between a read and its answer's arrival."""

    def __init__(self) -> None:
        super().__init__()
        self.meanwhile: Callable[[], Any] = lambda: None

    def held(self, keys: Iterable[bytes]) -> dict[bytes, Held]:
        found = super().held(keys)
        happens, self.meanwhile = self.meanwhile, lambda: None
        happens()
        return found

    async def aheld(self, keys: Iterable[bytes]) -> dict[bytes, Held]:
        return self.held(keys)


@pytest.fixture
def quick() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def shared() -> Slow:
    return Slow()


@pytest.fixture
def store(quick: MemoryStore, shared: Slow) -> TieredStore:
    shared.put({KEY: b"old", OTHER: b"other"}, ttl_s=None, tags=["a"])
    return TieredStore([quick, shared])


def drop_all(store: TieredStore) -> None:
    store.drop_copies(None)


CHANGES: dict[str, Callable[[TieredStore], object]] = {
    "put": lambda store: store.put({KEY: b"new"}, ttl_s=None),
    "delete": lambda store: store.delete([KEY]),
    "invalidate": lambda store: store.invalidate(["a"]),
    "clear": lambda store: store.clear(),
    "told": lambda store: store.drop_copies([KEY]),
    "told of all": drop_all,
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("way", ["sync", "async"])
def test_what_changed_while_it_was_read_is_not_copied(
    store: TieredStore, quick: MemoryStore, shared: Slow, change: str, way: str
) -> None:
    shared.meanwhile = lambda: CHANGES[change](store)
    found = asyncio.run(store.aget([KEY])) if way == "async" else store.get([KEY])
    assert found == {KEY: b"old"}  # as it was when it was asked for
    assert b"old" not in quick.get([KEY]).values()


def test_what_did_not_change_is_copied(
    store: TieredStore, quick: MemoryStore, shared: Slow
) -> None:
    shared.meanwhile = lambda: store.put({KEY: b"new"}, ttl_s=None)
    store.get([OTHER])
    assert quick.get([OTHER]) == {OTHER: b"other"}


def test_what_is_being_changed_counts_as_changed() -> None:
    changes = Changes()
    with changes.under_way([KEY]):
        mark = changes.mark()
        assert changes.since(mark, [KEY, OTHER]) == [KEY]
        with changes.under_way([KEY]):
            pass
        assert changes.since(changes.mark(), [KEY]) == [KEY]
    assert changes.since(mark, [KEY, OTHER]) == [KEY]
    assert changes.since(changes.mark(), [KEY]) == []


def test_all_being_changed_is_every_one() -> None:
    changes = Changes()
    with changes.under_way(None):
        mark = changes.mark()
        assert changes.since(mark, [KEY]) == [KEY]
    assert changes.since(mark, [OTHER]) == [OTHER]
    assert changes.since(changes.mark(), [OTHER]) == []


def test_changes_too_many_to_remember_count_as_changes_of_everything() -> None:
    changes = Changes()
    mark = changes.mark()
    changes.note([KEY])
    changes.note([n.to_bytes(32) for n in range(10_000)])
    assert changes.since(mark, [OTHER]) == [OTHER]
