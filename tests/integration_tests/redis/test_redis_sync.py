"""Copies in memory that are told what other processes changed, on a real Redis."""

import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from langchain_tokenopt.caches import MemoryStore, TieredStore
from langchain_tokenopt.caches.redis import RedisStore
from langchain_tokenopt.caches.sync import Invalidations
from langchain_tokenopt.errors import ConfigurationError

Server = Any
Until = Callable[..., Any]


def key(n: int) -> bytes:
    return n.to_bytes(8, "little") + bytes(24)


class Heard:
    """What a listener reported, with the times."""

    def __init__(self) -> None:
        self.reports: list[set[bytes] | None] = []
        self.at: dict[bytes, float] = {}

    def __call__(self, keys: set[bytes] | None) -> None:
        now = time.monotonic()
        self.reports.append(keys)
        self.at.update(dict.fromkeys(keys or (), now))

    @property
    def resets(self) -> int:
        return self.reports.count(None)

    def knows(self, n: int) -> bool:
        return key(n) in self.at


def test_changed_deleted_and_expired_entries_are_reported(
    redis_server: Server, namespace: str, until: Until
) -> None:
    heard, store = Heard(), RedisStore(redis_server.url, namespace=namespace)
    store.put({key(1): b"", key(2): b""}, ttl_s=None)
    with Invalidations(redis_server.url, heard, namespace=namespace) as listener:
        assert listener.wait(5)
        assert heard.reports == [None]
        store.put({key(1): b"new"}, ttl_s=None, tags=["a"])
        until(lambda: heard.knows(1))
        store.delete([key(2)])
        until(lambda: heard.knows(2))
        store.put({key(3): b""}, ttl_s=0.05)
        until(lambda: heard.knows(3))
        heard.at.clear()
        until(lambda: heard.knows(3))
        heard.at.clear()
        store.invalidate(["a"])
        until(lambda: heard.knows(1))
    assert set(heard.at) == {key(1)}
    store.close()


def test_another_namespace_is_not_reported(
    redis_server: Server, namespace: str, until: Until
) -> None:
    heard = Heard()
    ours, theirs = (RedisStore(redis_server.url, namespace=f"{namespace}{n}") for n in "12")
    with Invalidations(redis_server.url, heard, namespace=f"{namespace}1") as listener:
        assert listener.wait(5)
        theirs.put({key(1): b""}, ttl_s=None)
        ours.put({key(2): b""}, ttl_s=None)
        until(lambda: heard.knows(2))
    assert not heard.knows(1)
    ours.close()
    theirs.close()


WRITER = """
import sys, time
from langchain_tokenopt.caches.redis import RedisStore
store = RedisStore(sys.argv[1], namespace=sys.argv[2])
for line in sys.stdin:
    n = int(line)
    store.put({n.to_bytes(8, "little") + bytes(24): b"x"}, ttl_s=60)
    print(time.monotonic(), flush=True)
"""


def test_a_change_of_another_process_is_heard_within_fifty_milliseconds(
    redis_server: Server, namespace: str, until: Until
) -> None:
    heard = Heard()
    with (
        Invalidations(redis_server.url, heard, namespace=namespace) as listener,
        subprocess.Popen(
            [sys.executable, "-c", WRITER, redis_server.url, namespace],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as writer,
    ):
        assert listener.wait(5)
        assert writer.stdin is not None
        assert writer.stdout is not None
        delays = []
        for n in range(100):
            writer.stdin.write(f"{n}\n")
            writer.stdin.flush()
            written = float(writer.stdout.readline())
            until(lambda n=n: heard.knows(n))
            delays.append(heard.at[key(n)] - written)  # one clock for all processes of a host
        writer.stdin.close()

    assert sorted(delays)[len(delays) // 2] < 0.05


def test_copies_are_dropped_when_the_server_is_emptied_or_restarted(
    own_server: Server, until: Until
) -> None:
    heard, store = Heard(), RedisStore(own_server.url)
    with Invalidations(own_server.url, heard) as listener:
        assert listener.wait(5)
        store.put({key(1): b""}, ttl_s=None)
        own_server.admin.flushall()
        until(lambda: heard.resets == 2)

        own_server.kill()
        until(lambda: heard.resets == 3)
        assert not listener.stats().following
        own_server.start()
        until(lambda: heard.resets == 4)
        assert listener.wait(5)
        assert listener.stats().reconnects == 1
        store.put({key(2): b""}, ttl_s=None)
        until(lambda: heard.knows(2))
    store.close()


def test_a_server_that_hangs_counts_as_lost(own_server: Server, until: Until) -> None:
    heard = Heard()
    with Invalidations(own_server.url, heard, heartbeat_s=0.2, timeout_s=0.2) as listener:
        assert listener.wait(5)
        own_server.pause()
        until(lambda: heard.resets == 2)
        own_server.resume()
        until(lambda: listener.stats().following)
    assert heard.resets >= 3


def test_a_silent_server_that_answers_stays_followed(redis_server: Server, until: Until) -> None:
    heard = Heard()
    with Invalidations(redis_server.url, heard, heartbeat_s=0.01) as listener:
        assert listener.wait(5)
        before = redis_server.admin.info("stats")["total_commands_processed"]
        until(
            lambda: redis_server.admin.info("stats")["total_commands_processed"] > before + 50,
        )
        assert listener.stats().following
        assert heard.reports == [None]
    assert heard.reports == [None, None]  # from here on nothing is heard


def test_close_ends_the_thread_at_once_while_the_server_is_there_gone_or_hangs(
    own_server: Server, until: Until
) -> None:
    took = []
    for trouble in (lambda: None, own_server.pause, own_server.kill):
        listener = Invalidations(own_server.url, Heard()).start()
        listener.wait(0.5)
        trouble()
        started = time.monotonic()
        listener.close()
        took.append(time.monotonic() - started)
        if trouble == own_server.pause:
            own_server.resume()

    assert max(took) < 2
    assert not [t for t in threading.enumerate() if t.name == "tokenopt-invalidations"]


def test_a_listener_that_raises_is_told_of_the_next_change(
    redis_server: Server, namespace: str, until: Until, caplog: pytest.LogCaptureFixture
) -> None:
    store = RedisStore(redis_server.url, namespace=namespace)

    def fail(keys: set[bytes] | None) -> None:
        raise ValueError("not today")

    with (
        caplog.at_level(logging.ERROR),
        Invalidations(redis_server.url, fail, namespace=namespace) as listener,
    ):
        assert listener.wait(5)
        store.put({key(1): b""}, ttl_s=None)
        until(lambda: listener.stats().changed == 1)
        store.put({key(1): b""}, ttl_s=None)
        until(lambda: listener.stats().changed == 2)
    assert (
        listener.stats().failed_reports == 4
    )  # the first and the last say that it begins and ends
    assert "told of the next ones" in caplog.text
    store.close()


def test_two_hosts_with_copies_in_memory_see_each_others_changes(
    redis_server: Server, namespace: str, until: Until
) -> None:
    stores = [
        TieredStore([MemoryStore(), RedisStore(redis_server.url, namespace=namespace)])
        for _ in range(2)
    ]
    listeners = [
        Invalidations(redis_server.url, store.drop_copies, namespace=namespace).start()
        for store in stores
    ]
    assert all(listener.wait(5) for listener in listeners)
    one, two = stores
    one.put({key(1): b"old"}, ttl_s=60, tags=["a"])
    until(lambda: two.get([key(1)]) == {key(1): b"old"})

    one.put({key(1): b"new"}, ttl_s=60, tags=["a"])
    until(lambda: two.get([key(1)]) == {key(1): b"new"})
    two.invalidate(["a"])
    until(lambda: one.get([key(1)]) == {})

    for closing in (*listeners, *stores):
        closing.close()


def test_a_cluster_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="URL of each primary"):
        Invalidations("redis+cluster://host:7000", Heard())


def test_a_listener_is_started_and_closed_once_however_often_that_is_said(
    redis_server: Server, namespace: str
) -> None:
    heard = Heard()
    listener = Invalidations(redis_server.url, heard, namespace=namespace)
    listener.close()  # was never started
    listener.start()
    assert listener.start() is listener
    assert listener.wait(5)

    assert len([t for t in threading.enumerate() if t.name == "tokenopt-invalidations"]) == 1
    listener.close()
    listener.close()
    assert heard.reports == [None, None]


def test_a_listener_may_be_closed_by_what_it_tells(
    redis_server: Server, namespace: str, until: Until
) -> None:
    store = RedisStore(redis_server.url, namespace=namespace)

    def close(keys: set[bytes] | None) -> None:
        if keys:
            listener.close()

    listener = Invalidations(redis_server.url, close, namespace=namespace).start()
    assert listener.wait(5)
    store.put({key(1): b""}, ttl_s=None)

    until(lambda: not [t for t in threading.enumerate() if t.name == "tokenopt-invalidations"])
    assert not listener.stats().following
    store.close()
