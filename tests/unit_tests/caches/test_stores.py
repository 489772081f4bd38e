"""Stores: one suite for both, then what each promises of its own."""

import asyncio
import contextlib
import logging
import multiprocessing
import os
import resource
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_tokenopt.caches import Held, MemoryStore, SqliteCache, SqliteStore, StoreError
from langchain_tokenopt.caches.store import Store
from langchain_tokenopt.errors import ConfigurationError
from langchain_tokenopt.testing import ScriptedModel

MakeStore = Callable[..., Any]


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def key(n: int) -> bytes:
    # The first bytes are the row's id in SQLite, so they must differ as a digest's do.
    return n.to_bytes(8, "little") + bytes(24)


@pytest.fixture(params=["memory", "sqlite"])
def make_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MakeStore]:
    made: list[Store] = []

    def make(**options: Any) -> Store:
        store: Store = (
            MemoryStore(**options)
            if request.param == "memory"
            else SqliteStore(tmp_path / "store.sqlite", **options)
        )
        made.append(store)
        return store

    yield make
    for store in made:
        store.close()


# --- both -------------------------------------------------------------------------------------


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
    await store.aput({key(1): b"one", key(2): b"two"}, ttl_s=None)
    await store.adelete([key(2)])

    assert await store.aget([key(1), key(2)]) == {key(1): b"one"}
    await store.aclear()
    assert await store.aget([key(1)]) == {}


def test_an_entry_expires(make_store: MakeStore) -> None:
    clock = Clock()
    store = make_store(clock=clock)
    store.put({key(1): b"soon"}, ttl_s=10)
    store.put({key(2): b"later"}, ttl_s=20)
    store.put({key(3): b"never"}, ttl_s=None)

    clock.now += 10
    assert set(store.get([key(1), key(2), key(3)])) == {key(2), key(3)}
    clock.now += 1_000_000
    assert set(store.get([key(1), key(2), key(3)])) == {key(3)}
    assert store.events().expired >= 2


def test_writing_an_entry_again_gives_it_its_new_life(make_store: MakeStore) -> None:
    clock = Clock()
    store = make_store(clock=clock)
    store.put({key(1): b"a"}, ttl_s=10)
    clock.now += 9
    store.put({key(1): b"b"}, ttl_s=10)
    clock.now += 9

    assert store.get([key(1)]) == {key(1): b"b"}


def test_an_entry_tells_its_remaining_life_and_tags(make_store: MakeStore) -> None:
    clock = Clock()
    store = make_store(clock=clock)
    store.put({key(1): b"one"}, ttl_s=10, tags=["a", "b"])
    store.put({key(2): b"two"}, ttl_s=None)
    clock.now += 4

    assert store.held([key(1), key(2), key(3)]) == {
        key(1): Held(value=b"one", ttl_s=6, tags=frozenset({"a", "b"})),
        key(2): Held(value=b"two", ttl_s=None),
    }


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


def test_the_size_counts_keys_and_values(make_store: MakeStore) -> None:
    store = make_store()
    store.put({key(1): b"12345", key(2): b""}, ttl_s=None)
    store.put({key(1): b"1"}, ttl_s=None)

    assert (store.size().entries, store.size().bytes) == (2, 32 + 1 + 32)


def test_the_bytes_stay_below_their_bound_and_the_last_written_stays(
    make_store: MakeStore,
) -> None:
    store = make_store(max_bytes=10_000)

    for n in range(200):
        store.put({key(n): b"x" * 100}, ttl_s=None)
        assert store.size().bytes <= 10_000

    assert store.get([key(199)])
    assert store.events().evicted == 200 - store.size().entries


@given(operations=st.lists(st.tuples(st.sampled_from("pdg"), st.integers(0, 5), st.binary())))
def test_a_store_behaves_as_a_dictionary(
    operations: list[tuple[str, int, bytes]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path_factory.mktemp("law") / "s.sqlite"
    for store in (MemoryStore(), SqliteStore(file)):
        model: dict[bytes, bytes] = {}
        for operation, n, value in operations:
            if operation == "p":
                store.put({key(n): value}, ttl_s=None)
                model[key(n)] = value
            elif operation == "d":
                store.delete([key(n)])
                model.pop(key(n), None)
            assert store.get([key(m) for m in range(6)]) == model
        assert store.size().entries == len(model)
        assert store.size().bytes == sum(32 + len(value) for value in model.values())
        store.close()


def test_eight_threads_lose_nothing(make_store: MakeStore) -> None:
    store = make_store()

    def work(thread: int) -> None:
        for n in range(50):
            store.put({key(thread * 50 + n): b"%d" % n}, ttl_s=None)
            assert store.get([key(thread * 50 + n)]) == {key(thread * 50 + n): b"%d" % n}

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))

    assert store.size().entries == 400
    assert len(store.get([key(n) for n in range(400)])) == 400


def test_eight_threads_may_open_a_new_file_at_once(tmp_path: Path) -> None:
    start = threading.Barrier(8)

    def work(store: SqliteStore, n: int) -> None:
        start.wait(30)
        store.put({key(n): b""}, ttl_s=None)

    with ThreadPoolExecutor(8) as pool:
        for attempt in range(20):
            store = SqliteStore(tmp_path / f"{attempt}.sqlite")
            for done in [pool.submit(work, store, n) for n in range(8)]:
                done.result(30)
            assert store.size().entries == 8
            store.close()


@pytest.mark.parametrize("bound", [0, -1])
def test_a_bound_below_one_is_refused(make_store: MakeStore, bound: int) -> None:
    with pytest.raises(ConfigurationError, match=f"max_bytes must be at least 1.*got {bound}"):
        make_store(max_bytes=bound)


# --- memory -----------------------------------------------------------------------------------


def test_the_least_recently_used_makes_room() -> None:
    store = MemoryStore(max_entries=3)
    store.put({key(n): b"" for n in range(3)}, ttl_s=None)
    store.get([key(0)])
    store.put({key(3): b""}, ttl_s=None)

    assert set(store.get([key(n) for n in range(4)])) == {key(0), key(2), key(3)}
    assert store.events().evicted == 1


def test_an_entry_larger_than_all_is_not_kept_and_pushes_nothing_out() -> None:
    store = MemoryStore(max_bytes=100)
    store.put({key(1): b"a"}, ttl_s=None)
    store.put({key(2): b"x" * 1_000}, ttl_s=None)

    assert set(store.get([key(1), key(2)])) == {key(1)}


# --- SQLite -----------------------------------------------------------------------------------


def test_the_least_recently_read_makes_room_in_a_file(tmp_path: Path) -> None:
    clock = Clock()
    store = SqliteStore(tmp_path / "s.sqlite", max_bytes=40 * 132, clock=clock)
    for n in range(40):
        store.put({key(n): b"x" * 100}, ttl_s=None)
        clock.now += 1
    clock.now += 100
    store.get([key(0)])

    store.put({key(99): b"x" * 100}, ttl_s=None)

    assert set(store.get([key(0), key(1), key(99)])) == {key(0), key(99)}
    store.close()


def test_a_restart_finds_what_was_written(tmp_path: Path) -> None:
    for _ in range(2):
        store = SqliteStore(tmp_path / "s.sqlite")
        store.put({key(1): b"one"}, ttl_s=None)
        store.close()

    again = SqliteStore(tmp_path / "s.sqlite")
    assert again.get([key(1)]) == {key(1): b"one"}
    again.close()


def test_two_keys_with_one_row_id_are_told_apart(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "s.sqlite")
    one, two = bytes(32), bytes(31) + b"\x01"
    store.put({one: b"one"}, ttl_s=None)

    assert store.get([one, two]) == {one: b"one"}
    store.delete([two])
    assert store.get([one]) == {one: b"one"}
    store.close()


def put_range(path: str, first: int) -> None:
    store = SqliteStore(path, busy_timeout_s=60)
    for n in range(first, first + 200):
        store.put({key(n): b"%d" % n}, ttl_s=None)
    store.close()


def test_four_processes_that_write_at_once_lose_nothing(tmp_path: Path) -> None:
    path = str(tmp_path / "s.sqlite")
    spawn = multiprocessing.get_context("spawn")
    workers = [spawn.Process(target=put_range, args=(path, n * 200)) for n in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)

    store = SqliteStore(path)
    assert store.get([key(n) for n in range(800)]) == {key(n): b"%d" % n for n in range(800)}
    assert store.size().entries == 800
    store.close()


WRITER = """
import sys
from langchain_tokenopt.caches import SqliteStore
store = SqliteStore(sys.argv[1])
for n in range(1_000_000):
    store.put({n.to_bytes(8, "little") + bytes(24): b"%d" % n}, ttl_s=None)
    print(n, flush=True)
"""


def test_a_killed_process_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    path = str(tmp_path / "s.sqlite")
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, path], stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout is not None
        acknowledged = [int(next(writer.stdout)) for _ in range(300)]
        writer.send_signal(signal.SIGKILL)
        acknowledged += [int(line) for line in writer.stdout if line.endswith("\n")]

    store = SqliteStore(path)
    assert len(store.get([key(n) for n in acknowledged])) == len(acknowledged) >= 300
    check = sqlite3.connect(path)
    assert check.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    check.close()
    store.close()


def test_a_forked_child_opens_the_file_for_itself(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "s.sqlite")
    store.put({key(1): b"parent"}, ttl_s=None)

    child = os.fork()
    if child == 0:  # no assertion may leave the child
        try:
            store.put({key(2): b"child"}, ttl_s=None)
            os._exit(0)
        except BaseException:  # noqa: BLE001
            os._exit(1)

    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert store.get([key(1), key(2)]) == {key(1): b"parent", key(2): b"child"}
    store.close()


def test_a_store_may_be_closed_while_it_is_read(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "s.sqlite")
    store.put({key(1): b"one", key(2): b"two"}, ttl_s=None)

    def keys() -> Iterator[bytes]:
        yield key(1)
        store.close()
        yield key(2)

    assert store.get(keys()) == {key(1): b"one", key(2): b"two"}
    assert store.get([key(1)]) == {key(1): b"one"}
    store.close()


def test_a_write_that_breaks_off_leaves_all_as_it_was(tmp_path: Path) -> None:
    file = tmp_path / "s.sqlite"
    store = SqliteStore(file)
    store.put({key(1): b"one"}, ttl_s=None)

    def tags() -> Iterator[str]:
        yield "a"
        raise LookupError("no more tags")

    with pytest.raises(LookupError, match="no more tags"):
        store.invalidate(tags())
    with contextlib.closing(sqlite3.connect(file)) as other:
        for n, word in enumerate(("ABORT", "ROLLBACK")):  # as a full disk does, by SQLite's choice
            other.execute(
                f"CREATE TRIGGER refuse{n} BEFORE INSERT ON entries WHEN NEW.value = x'0{n}'"
                f" BEGIN SELECT RAISE({word}, 'refused'); END"
            )
    for n in range(2):
        with pytest.raises(StoreError, match="refused"):
            store.put({key(1): b"new", key(2): bytes([n])}, ttl_s=None)

    assert store.get([key(1), key(2)]) == {key(1): b"one"}
    store.put({key(2): b"two"}, ttl_s=None)
    assert store.size().entries == 2
    store.close()


def test_threads_that_come_and_go_leave_no_connection_behind(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "s.sqlite")
    store.get([key(1)])
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(50):
        thread = threading.Thread(target=store.get, args=([key(1)],))
        thread.start()
        thread.join()

    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 2
    store.close()


async def test_a_slow_file_does_not_block_the_event_loop(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "s.sqlite", busy_timeout_s=30)
    store.put({key(1): b"one"}, ttl_s=None)
    other = sqlite3.connect(tmp_path / "s.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")

    writing = asyncio.create_task(store.aput({key(2): b"two"}, ttl_s=None))
    reads = [await store.aget([key(1)]) for _ in range(10)]  # reads run beside the writer
    assert reads == [{key(1): b"one"}] * 10
    assert not writing.done()
    other.execute("COMMIT")
    other.close()
    await writing

    assert store.get([key(2)]) == {key(2): b"two"}
    store.close()


@pytest.mark.parametrize("where", ["nowhere/s.sqlite", "."])
def test_a_path_that_cannot_be_a_file_is_refused(tmp_path: Path, where: str) -> None:
    with pytest.raises(ConfigurationError, match="create the folder or choose another path"):
        SqliteStore(tmp_path / where)


def a_text(path: Path) -> None:
    path.write_bytes(b"this is a text and no database " * 100)


def a_later_version(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.commit()
    connection.close()


def a_torn_file(path: Path) -> None:
    store = SqliteStore(path)
    for n in range(200):
        store.put({key(n): os.urandom(500)}, ttl_s=None)
    store.close()
    content = bytearray(path.read_bytes())
    content[4096:] = os.urandom(len(content) - 4096)
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("damage", [a_text, a_later_version, a_torn_file])
def test_a_file_that_cannot_be_used_is_a_store_error(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    damage(tmp_path / "s.sqlite")
    store = SqliteStore(tmp_path / "s.sqlite")

    def use() -> None:
        for n in range(200):
            store.get([key(n)])
            store.put({key(n): b"x" * 500}, ttl_s=None)

    with pytest.raises(StoreError, match=r"s\.sqlite"):
        use()
    store.close()


@pytest.mark.parametrize("damage", [a_text, a_later_version, a_torn_file])
def test_a_cache_on_such_a_file_leaves_calls_working_and_says_so_once(
    tmp_path: Path, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    damage(tmp_path / "s.sqlite")
    cache = SqliteCache(tmp_path / "s.sqlite")
    model = ScriptedModel(["four"], cache=cache, when_exhausted="repeat_last")

    with caplog.at_level(logging.WARNING):
        answers = [model.invoke(f"question {n}").text for n in range(20)]

    assert answers == ["four"] * 20
    assert cache.stats().errors >= 1
    assert cache.stats().misses == 20
    assert len([r for r in caplog.records if "calls go on without it" in r.message]) == 1
    cache.close()


FULL = """
import resource, sys
from langchain_tokenopt.caches import SqliteCache
from langchain_tokenopt.testing import ScriptedModel
cache = SqliteCache(sys.argv[1])
model = ScriptedModel(["x" * 5000], cache=cache, when_exhausted="repeat_last")
model.invoke("first")
limit = 200_000
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
for n in range(200):
    assert len(model.invoke(f"question {n}").text) == 5000
stats = cache.stats()
print(stats.errors, stats.writes, model.invoke("first").text[:1])
"""


def test_a_full_disk_leaves_calls_working(tmp_path: Path) -> None:
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] != 200_000
    preload = "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"

    done = subprocess.run(
        [sys.executable, "-c", preload + FULL, str(tmp_path / "s.sqlite")],
        capture_output=True,
        text=True,
        check=True,
    )

    errors, writes, first = done.stdout.split()
    assert int(errors) >= 1
    assert 0 < int(writes) < 200
    assert first == "x"
    assert done.stderr.count("calls go on without it") == 1
