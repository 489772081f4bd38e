"""A cluster of two, a master that Sentinels replace, a password, TLS and a socket file."""

import asyncio
import contextlib
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import redis

from langchain_tokenopt.accounting import Amounts, Budget, Hold
from langchain_tokenopt.accounting.budget_redis import RedisBudgets
from langchain_tokenopt.caches import StoreError, TieredCache
from langchain_tokenopt.caches.lease import Claim, Lease
from langchain_tokenopt.caches.redis import RedisCache, RedisStore
from langchain_tokenopt.caches.sync import Invalidations
from langchain_tokenopt.redis_client import _address
from langchain_tokenopt.testing import ScriptedModel

Server = Any
Until = Callable[..., Any]
MakeServer = Callable[..., Server]
SLOTS = 16_384


def key(n: int) -> bytes:
    return n.to_bytes(8, "little") + bytes(24)


async def use(store: RedisStore) -> None:
    """Go once through all that a store does."""
    keys = [key(n) for n in range(100)]
    store.put({k: k for k in keys}, ttl_s=60, tags=["all", "sync"])
    assert store.get(keys) == await store.aget(keys) == {k: k for k in keys}
    held = store.held(keys[:1])[keys[0]]
    assert (held.value, held.tags) == (keys[0], {"all", "sync"})
    assert held.ttl_s == pytest.approx(60, abs=10)
    assert await store.ainvalidate(["sync"]) == 100
    await store.aput(dict.fromkeys(keys, b"again"), ttl_s=60, tags=["all"])
    assert (await store.aheld(keys))[keys[0]].tags == {"all"}
    store.delete(keys[:10])
    await store.adelete(keys[10:20])
    assert store.size().entries == 80
    assert store.invalidate(["all"]) == 80
    store.put({k: k for k in keys}, ttl_s=None)
    store.clear()
    assert store.get(keys) == {}
    await store.aput({k: k for k in keys}, ttl_s=None)
    await store.aclear()
    assert store.size().entries == 0
    store.close()
    await store.aclose()


@pytest.fixture
def cluster(make_server: MakeServer, until: Until) -> list[Server]:
    nodes = [
        make_server("--cluster-enabled", "yes", "--cluster-config-file", f"nodes-{n}.conf")
        for n in range(2)
    ]
    half = SLOTS // 2
    nodes[0].admin.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, half - 1)
    nodes[1].admin.execute_command("CLUSTER", "ADDSLOTSRANGE", half, SLOTS - 1)
    nodes[0].admin.execute_command("CLUSTER", "MEET", "127.0.0.1", nodes[1].port)

    def agreed() -> bool:
        told = [node.admin.execute_command("CLUSTER", "INFO") for node in nodes]
        return all(b"cluster_state:ok" in info for info in told)

    until(agreed, within_s=30)
    return nodes


async def test_a_store_on_a_cluster(cluster: list[Server]) -> None:
    await use(RedisStore(f"redis+cluster://127.0.0.1:{cluster[0].port}"))


async def test_a_cache_and_a_lease_on_a_cluster(cluster: list[Server]) -> None:
    url = f"redis+cluster://127.0.0.1:{cluster[1].port}"
    cache, lease = RedisCache(url), Lease(url)
    model = ScriptedModel(["one", "two"], cache=cache)

    assert [model.invoke("q").text, (await model.ainvoke("q")).text] == ["one", "one"]
    with lease.take(key(1)) as claim:
        assert claim is Claim.HELD
    async with lease.atake(key(2)) as claim:
        assert claim is Claim.HELD
    await lease.aclose()
    await cache.store.aclose()
    cache.close()


def test_tiers_before_a_cluster_keep_copies_for_a_moment_since_nobody_is_told(
    cluster: list[Server],
) -> None:
    url = f"redis+cluster://127.0.0.1:{cluster[0].port}"
    short, longer = TieredCache.default(url), TieredCache.default(url, memory_ttl_s=60)

    for n, (cache, at_most) in enumerate(((short, 5), (longer, 60))):
        assert cache.listener is None
        cache.store.put({key(n): b"one"}, ttl_s=None)
        copy = cache.store._circuits[0].store.held([key(n)])[key(n)]  # type: ignore[attr-defined]  # tiers
        assert copy.ttl_s is not None
        assert at_most - 5 < copy.ttl_s <= at_most
    short.close()
    longer.close()


async def test_budgets_on_a_cluster(cluster: list[Server]) -> None:
    now = datetime.now(UTC)
    store = RedisBudgets(f"redis+cluster://127.0.0.1:{cluster[1].port}")
    budget = Budget("b", calls=2, per="feature", every="day")

    def hold(name: str, feature: str) -> Hold:
        return Hold(
            id=name,
            accounts=(budget.account({"feature": feature}, now=now),),
            amounts=Amounts(calls=1),
            floor=Amounts(),
            expires_at=now + timedelta(minutes=1),
        )

    for n, feature in enumerate(("faq", "search", "faq")):
        assert store.reserve(hold(f"{n}", feature), now=now).refused_by is None
    assert (await store.areserve(hold("3", "faq"), now=now)).refused_by is not None
    store.settle(hold("0", "faq"), Amounts(calls=1))
    await store.asettle(hold("1", "search"), Amounts())

    spent = {status.key: (status.spent.calls, status.reserved.calls) for status in store.statuses()}
    assert spent == {"faq": (1, 1), "search": (0, 0)}
    await store.aclose()


async def test_a_cluster_of_which_a_node_is_gone_is_a_store_error(cluster: list[Server]) -> None:
    store = RedisStore(f"redis+cluster://127.0.0.1:{cluster[0].port}")
    keys = [key(n) for n in range(100)]
    await store.aput({k: k for k in keys}, ttl_s=60)
    store.put({k: k for k in keys}, ttl_s=60)
    cluster[1].kill()

    with pytest.raises(StoreError):
        store.get(keys)
    with pytest.raises(StoreError):
        await store.aget(keys)
    store.close()
    await store.aclose()


async def test_changes_are_heard_from_each_primary_of_a_cluster(
    cluster: list[Server], until: Until
) -> None:
    heard: set[bytes] = set()
    listeners = [
        Invalidations(node.url, lambda keys: heard.update(keys or ())).start() for node in cluster
    ]
    assert all(listener.wait(5) for listener in listeners)
    store = RedisStore(f"redis+cluster://127.0.0.1:{cluster[0].port}")
    store.put({key(n): b"" for n in range(50)}, ttl_s=60)

    until(lambda: len(heard) == 50)
    for listener in listeners:
        listener.close()
    store.close()


@pytest.fixture
def sentinel(make_server: MakeServer, tmp_path: Path, until: Until) -> Any:
    master = make_server()
    replica = make_server("--replicaof", "127.0.0.1", str(master.port))
    until(lambda: replica.admin.info("replication")["master_link_status"] == "up", within_s=30)
    settings = tmp_path / "sentinel.conf"
    settings.write_text(
        f"sentinel monitor main 127.0.0.1 {master.port} 1\n"
        "sentinel down-after-milliseconds main 300\n"
        "sentinel failover-timeout main 2000\n"
    )
    watcher = make_server(config=settings)
    until(lambda: watcher.admin.sentinel_slaves("main"), within_s=30)
    return master, replica, f"redis+sentinel://127.0.0.1:{watcher.port}/main"


async def test_a_store_finds_the_new_master_that_sentinels_choose(
    sentinel: Any, until: Until
) -> None:
    master, replica, url = sentinel
    await use(RedisStore(url))
    store = RedisStore(url)
    resets: list[None] = []
    heard: set[bytes] = set()

    def told(keys: set[bytes] | None) -> None:
        resets.append(None) if keys is None else heard.update(keys)

    with Invalidations(url, told) as listener:
        assert listener.wait(5)
        await store.aput({key(1): b"before"}, ttl_s=None)
        until(lambda: key(1) in heard)
        until(lambda: replica.admin.dbsize() == 1)
        master.kill()

        def writes_again() -> bool:
            try:
                store.put({key(2): b"after"}, ttl_s=None)
            except StoreError:
                return False
            return True

        until(writes_again, within_s=30)
        assert store.get([key(1), key(2)]) == {key(1): b"before", key(2): b"after"}
        assert await store.aget([key(2)]) == {key(2): b"after"}
        assert replica.admin.info("replication")["role"] == "master"
        until(lambda: listener.stats().following, within_s=30)
        store.put({key(3): b""}, ttl_s=None)
        until(lambda: key(3) in heard)
    store.close()
    await store.aclose()


async def test_a_store_behind_a_password(make_server: MakeServer) -> None:
    server = make_server("--requirepass", "secret", password="secret")
    await use(RedisStore(f"redis://:secret@127.0.0.1:{server.port}/3"))

    refused = RedisStore(f"redis://:wrong@127.0.0.1:{server.port}")
    with pytest.raises(StoreError) as caught:
        refused.get([key(1)])
    assert "wrong@" not in str(caught.value)
    refused.close()


async def test_a_store_behind_a_socket_file(make_server: MakeServer, tmp_path: Path) -> None:
    make_server("--unixsocket", str(tmp_path / "s"))
    await use(RedisStore(f"unix://{tmp_path}/s?db=1"))


async def test_a_store_with_the_newer_protocol(redis_server: Server, namespace: str) -> None:
    await use(RedisStore(f"{redis_server.url}?protocol=3", namespace=namespace))


def test_changes_are_heard_through_a_client_with_the_newer_protocol(
    redis_server: Server, namespace: str, until: Until
) -> None:
    client = redis.Redis.from_url(redis_server.url, protocol=3)
    heard: set[bytes] = set()
    store = RedisStore(client, namespace=namespace)
    with Invalidations(
        client, lambda keys: heard.update(keys or ()), namespace=namespace
    ) as listener:
        assert listener.wait(5)
        store.put({key(1): b""}, ttl_s=None)
        until(lambda: key(1) in heard)
    client.close()


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    subprocess.run(
        [
            "openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "key.pem",
            "-out", "cert.pem", "-days", "1", "-subj", "/CN=127.0.0.1",
            "-addext", "subjectAltName=IP:127.0.0.1",
        ],
        cwd=tmp_path, check=True, capture_output=True,
    )  # fmt: skip
    return tmp_path / "cert.pem"


@pytest.fixture
def tls_port(redis_server: Server, certificate: Path) -> Iterator[int]:
    """The port of a proxy that ends TLS: not every server is built with it."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, certificate.with_name("key.pem"))
    ready: Future[tuple[int, asyncio.AbstractEventLoop, asyncio.Event]] = Future()

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65_536):
                writer.write(data)
        writer.close()

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there = await asyncio.open_connection("127.0.0.1", redis_server.port)
        await asyncio.gather(copy(reader, there[1]), copy(there[0], writer))

    async def serve() -> None:
        ended = asyncio.Event()
        async with await asyncio.start_server(pass_on, "127.0.0.1", 0, ssl=context) as server:
            port = server.sockets[0].getsockname()[1]
            ready.set_result((port, asyncio.get_running_loop(), ended))
            await ended.wait()

    proxy = threading.Thread(target=asyncio.run, args=(serve(),))
    proxy.start()
    port, loop, ended = ready.result(10)
    yield port
    loop.call_soon_threadsafe(ended.set)
    proxy.join()


async def test_a_store_behind_tls(tls_port: int, certificate: Path, namespace: str) -> None:
    url = f"rediss://127.0.0.1:{tls_port}"
    await use(RedisStore(f"{url}?ssl_ca_certs={certificate}", namespace=namespace))

    stranger = RedisStore(url)
    with pytest.raises(StoreError, match="CERTIFICATE"):
        stranger.get([key(1)])
    stranger.close()


def test_a_sentinel_url_of_tls_asks_for_tls_and_keeps_its_options() -> None:
    url = "rediss+sentinel://user:secret@one:26379,two/main/3?ssl_cert_reqs=none"
    where, sentinels = _address(url, 2.0)
    client: Any = sentinels.client()

    told = client.connection_pool.connection_kwargs
    assert where == "rediss+sentinel://one:26379,two/main/3"
    assert issubclass(client.connection_pool.connection_class, redis.SSLConnection)
    assert (told["db"], told["username"], told["password"]) == (3, "user", "secret")
    client.close()
