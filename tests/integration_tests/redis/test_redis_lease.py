"""One holder of a lease among threads, tasks and processes, on a real Redis."""

import asyncio
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from langchain_tokenopt.caches.lease import Claim, Lease
from langchain_tokenopt.caches.redis import RedisStore
from langchain_tokenopt.errors import ConfigurationError

Server = Any
Until = Callable[..., Any]
MakeLease = Callable[..., Lease]
KEY = b"k" * 32


@pytest.fixture
def make_lease(redis_server: Server, namespace: str) -> Iterator[MakeLease]:
    made: list[Lease] = []

    def make(**options: Any) -> Lease:
        lease = Lease(redis_server.url, **{"namespace": namespace, **options})
        made.append(lease)
        return lease

    yield make
    for lease in made:
        lease.close()


def test_one_holds_the_lease_until_its_block_ends(make_lease: MakeLease) -> None:
    one, two = make_lease(), make_lease(wait_s=0.05)
    with one.take(KEY) as mine, two.take(KEY) as theirs, two.take(b"other") as another:
        assert (mine, theirs, another) == (Claim.HELD, Claim.WITHOUT, Claim.HELD)
    with two.take(KEY) as claim:
        assert claim is Claim.HELD


async def test_the_async_twins_do_the_same(make_lease: MakeLease) -> None:
    one, two = make_lease(), make_lease(wait_s=0.05)
    async with one.atake(KEY) as mine, two.atake(KEY) as theirs:
        assert (mine, theirs) == (Claim.HELD, Claim.WITHOUT)
    async with two.atake(KEY) as claim:
        assert claim is Claim.HELD
    await one.aclose()
    await two.aclose()


def test_who_waits_learns_that_it_was_let_go(make_lease: MakeLease, until: Until) -> None:
    lease, claims = make_lease(), []

    def wait() -> None:
        with lease.take(KEY) as claim:
            claims.append(claim)

    with lease.take(KEY):
        waiting = threading.Thread(target=wait)
        waiting.start()
        assert not claims
    waiting.join()
    assert claims[0] in (Claim.FREED, Claim.HELD)


def test_many_threads_make_one_call(make_lease: MakeLease) -> None:
    made: dict[str, str] = {}
    calls = []

    def make() -> str:
        calls.append(1)
        time.sleep(0.05)  # a call takes its time
        made["answer"] = "four"
        return "four"

    leases = [make_lease() for _ in range(4)]
    with ThreadPoolExecutor(16) as pool:
        answers = pool.map(
            lambda n: leases[n % 4].once(KEY, look=lambda: made.get("answer"), make=make),
            range(16),
        )
        assert list(answers) == ["four"] * 16
    assert len(calls) == 1


async def test_many_tasks_make_one_call(make_lease: MakeLease) -> None:
    made: dict[str, str] = {}
    calls = []

    async def look() -> str | None:
        return made.get("answer")

    async def make() -> str:
        calls.append(1)
        await asyncio.sleep(0.05)
        made["answer"] = "four"
        return "four"

    leases = [make_lease() for _ in range(4)]
    answers = await asyncio.gather(
        *(leases[n % 4].aonce(KEY, look=look, make=make) for n in range(40))
    )

    assert answers == ["four"] * 40
    assert len(calls) == 1
    for lease in leases:
        await lease.aclose()


def test_a_call_that_fails_is_followed_by_the_next(make_lease: MakeLease) -> None:
    lease = make_lease()
    made: list[str] = []
    calls: list[int] = []

    def make() -> str:
        calls.append(1)
        if len(calls) == 1:
            raise ValueError("overloaded")
        made.append("four")
        return "four"

    def ask(_: int) -> str:
        try:
            return lease.once(KEY, look=lambda: made[0] if made else None, make=make)
        except ValueError as error:
            return str(error)

    with ThreadPoolExecutor(8) as pool:
        answers = sorted(pool.map(ask, range(8)))

    assert answers == ["four"] * 7 + ["overloaded"]
    assert len(calls) == 2


async def test_a_task_whose_call_fails_is_followed_by_the_next(make_lease: MakeLease) -> None:
    lease, calls, made = make_lease(), [], {}
    holding, others = asyncio.Event(), asyncio.Event()

    async def look() -> str | None:
        others.set()  # somebody waited, and looks
        return made.get("answer")

    async def fail() -> str:
        holding.set()
        await asyncio.sleep(0.05)
        raise ValueError("overloaded")

    async def make() -> str:
        calls.append(1)
        made["answer"] = "four"
        return "four"

    first = asyncio.create_task(lease.aonce(KEY, look=look, make=fail))
    await holding.wait()
    rest = await asyncio.gather(*(lease.aonce(KEY, look=look, make=make) for _ in range(3)))

    with pytest.raises(ValueError, match="overloaded"):
        await first
    assert rest == ["four"] * 3
    assert (len(calls), others.is_set()) == (1, True)
    await lease.aclose()


async def test_a_cancelled_holder_lets_go(make_lease: MakeLease) -> None:
    lease, holding = make_lease(), asyncio.Event()

    async def hold() -> None:
        async with lease.atake(KEY):
            holding.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(hold())
    await holding.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with lease.atake(KEY) as claim:
        assert claim is Claim.HELD
    await lease.aclose()


def test_a_lease_is_renewed_while_it_is_held(
    make_lease: MakeLease, redis_server: Server, namespace: str, until: Until
) -> None:
    lease, name = make_lease(life_s=0.6), f"{namespace}:lease:{KEY.hex()}"
    with lease.take(KEY):
        token = redis_server.admin.get(name)
        began = time.monotonic()
        until(lambda: time.monotonic() > began + 1.5)  # more than two lives
        assert redis_server.admin.get(name) == token
    assert not redis_server.admin.exists(name)


def test_a_holder_that_hangs_is_overtaken(make_lease: MakeLease) -> None:
    hanging, next_one = make_lease(life_s=0.1, longest_s=0.2), make_lease()
    with hanging.take(KEY), next_one.take(KEY) as claim:
        assert claim is Claim.FREED


def test_a_lease_that_was_lost_is_not_taken_from_who_has_it_now(
    make_lease: MakeLease, redis_server: Server, namespace: str
) -> None:
    one, two = make_lease(), make_lease()
    with one.take(KEY):
        redis_server.admin.delete(f"{namespace}:lease:{KEY.hex()}")
        held_by_two = two.take(KEY)
        assert held_by_two.__enter__() is Claim.HELD
    assert redis_server.admin.exists(f"{namespace}:lease:{KEY.hex()}")
    held_by_two.__exit__(None, None, None)


def test_a_redis_that_is_down_costs_one_try_in_five_seconds() -> None:
    now = 0.0
    lease = Lease("redis://127.0.0.1:1", clock=lambda: now)

    assert [lease.once(KEY, look=lambda: None, make=lambda: "four") for _ in range(50)] == [
        "four"
    ] * 50
    assert lease.failures == 1
    now = 6.0
    lease.once(KEY, look=lambda: None, make=lambda: "four")
    assert lease.failures == 2
    lease.close()


def test_a_redis_that_stops_while_one_holds_and_one_waits_stops_no_call(
    own_server: Server, until: Until
) -> None:
    lease = Lease(own_server.url)
    answers: list[str] = []

    def ask() -> None:
        answers.append(lease.once(KEY, look=lambda: None, make=lambda: "four"))

    with lease.take(KEY) as claim:
        assert claim is Claim.HELD
        waiting = threading.Thread(target=ask)
        waiting.start()
        assert not answers
        own_server.kill()
        waiting.join(10)
    assert answers == ["four"]
    lease.close()


CALLER = """
import sys, time
from langchain_tokenopt.caches.lease import Lease
from langchain_tokenopt.caches.redis import RedisStore

url, namespace, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])
store, lease = RedisStore(url, namespace=namespace), Lease(url, namespace=namespace, life_s=0.5)
store.get([bytes(32)])
print("ready", flush=True)
sys.stdin.readline()
for n in range(20):
    key = n.to_bytes(32, "big")

    def make():
        print("call", n, flush=True)
        time.sleep(seconds)
        store.put({key: b"answer"}, ttl_s=60)
        return b"answer"

    assert lease.once(key, look=lambda: store.get([key]).get(key), make=make) == b"answer"
"""


def start(server: Server, namespace: str, *, seconds: float) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", CALLER, server.url, namespace, str(seconds)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def go(process: "subprocess.Popen[str]") -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def test_four_processes_make_each_call_once(redis_server: Server, namespace: str) -> None:
    processes = [start(redis_server, namespace, seconds=0.02) for _ in range(4)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        go(process)
    calls = [
        line for process in processes for line in process.communicate(timeout=60)[0].split("\n")
    ]

    assert [process.returncode for process in processes] == [0] * 4
    assert sorted(filter(None, calls)) == sorted(f"call {n}" for n in range(20))


def test_a_killed_holder_is_followed_when_its_lease_ends(
    redis_server: Server, namespace: str, make_lease: MakeLease
) -> None:
    store = RedisStore(redis_server.url, namespace=namespace)
    first = (0).to_bytes(32, "big")
    with start(redis_server, namespace, seconds=600) as process:
        assert process.stdout is not None
        process.stdout.readline()
        go(process)
        assert process.stdout.readline() == "call 0\n"
        process.send_signal(signal.SIGKILL)
    started = time.monotonic()

    answer = make_lease().once(
        first, look=lambda: store.get([first]).get(first), make=lambda: b"ours"
    )

    assert answer == b"ours"
    assert time.monotonic() - started < 5
    store.close()


@pytest.mark.parametrize("name", ["life_s", "wait_s", "longest_s"])
def test_a_duration_of_nothing_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{name} must be more than 0 seconds, got 0"):
        Lease("redis://any", **{name: 0})
