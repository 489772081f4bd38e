"""Clients of one Redis: one for all threads, one for each event loop, made when first used."""

import asyncio
import re
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from typing import Any
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary

import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.asyncio.sentinel import Sentinel as AsyncSentinel
from redis.backoff import NoBackoff
from redis.connection import parse_url
from redis.exceptions import RedisClusterException, RedisError
from redis.retry import Retry
from redis.sentinel import Sentinel

from langchain_tokenopt.errors import ConfigurationError, StoreError

Command = tuple[Any, ...]
SyncClient = redis.Redis | redis.RedisCluster
AsyncClient = redis.asyncio.Redis | redis.asyncio.RedisCluster

REDIS_ERRORS = (RedisError, RedisClusterException, OSError)
_TIMEOUT_S = 0.5
_MOST_CONNECTIONS = 64
_BATCH = 1_000
# What has no meaning in a key pattern, and makes no hash tag in a cluster.
_NAMESPACE = re.compile(r"[A-Za-z0-9_.:/-]+")


def checked_namespace(namespace: str) -> str:
    """Return a namespace that can begin a key."""
    if not _NAMESPACE.fullmatch(namespace):
        message = f"a namespace has letters, digits and any of _.:/- in it, got {namespace!r}"
        raise ConfigurationError(message)
    return namespace


class RedisClients:
    """Sends commands to a standalone Redis, a Sentinel's master or a Cluster.

    A command that could not be sent because an idle connection was closed is sent once more; one
    that is not answered in time is not.

    Args:
        url_or_client: `redis://`, `rediss://` (TLS), `unix://`,
            `redis+sentinel://user:password@host:port,host:port/service/db` or
            `redis+cluster://host:port` (`rediss+...` with TLS), each with the options of redis-py
            after a `?`; or a client of redis-py, which is not closed here.
        async_client: Makes an asynchronous client, for each event loop one. Without it a given
            client is used in threads.
        timeout_s: How long to wait for a connection, and for an answer, if the URL does not say.

    Raises:
        ConfigurationError: The URL cannot be read, or the client decodes what it reads.
    """

    def __init__(
        self,
        url_or_client: str | SyncClient,
        *,
        async_client: Callable[[], AsyncClient] | None = None,
        timeout_s: float = _TIMEOUT_S,
    ) -> None:
        if timeout_s <= 0:
            raise ConfigurationError(f"timeout_s must be more than 0 seconds, got {timeout_s}")
        self._make: Callable[[], SyncClient]
        self._amake: Callable[[], AsyncClient] | None
        if isinstance(url_or_client, str):
            self.where, address = _address(url_or_client, timeout_s)
            self.clustered = isinstance(address, _Cluster)
            self._sentinels = isinstance(address, _Sentinels)
            self._make, self._amake = address.client, address.async_client
            self._owned = True
        else:
            if url_or_client.get_encoder().decode_responses:
                message = "expected a client that returns bytes, got one with decode_responses=True"
                raise ConfigurationError(message)
            given = url_or_client
            self.where = "the given client"
            self.clustered = isinstance(given, redis.RedisCluster)
            self._sentinels = bool(_sentinels_of(given))
            self._make, self._amake = lambda: given, async_client
            self._owned = False
        self._lock = threading.Lock()
        self._client: SyncClient | None = None
        self._aclients: WeakKeyDictionary[asyncio.AbstractEventLoop, _OfLoop] = WeakKeyDictionary()

    def client(self) -> SyncClient:
        """Return the client for threads; that of a cluster asks for its nodes when it is made."""
        with self._lock:
            if self._client is None:
                self._client = self._make()
            return self._client

    async def _aclient(self, amake: Callable[[], AsyncClient]) -> AsyncClient:
        loop = asyncio.get_running_loop()
        with self._lock:
            for other in [other for other in self._aclients if other.is_closed()]:
                del self._aclients[other]
            mine = self._aclients.get(loop)
            if mine is not None:
                return mine.client
            mine = self._aclients[loop] = _OfLoop(amake())
        await mine.guard()
        return mine.client

    def send(self, commands: Sequence[Command], *, atomic: bool = False) -> list[Any]:
        """Return the replies; `atomic` commands run as one, except on a cluster.

        Raises:
            StoreError: Redis cannot be reached, is too slow, or refuses a command.
        """
        try:
            client: Any = self.client()
            if len(commands) == 1:
                return [client.execute_command(*commands[0])]
            with client.pipeline(transaction=atomic and not self.clustered) as pipeline:
                for command in commands:
                    pipeline.execute_command(*command)
                return list(pipeline.execute())
        except REDIS_ERRORS as error:
            raise self._failed(error) from error

    async def asend(self, commands: Sequence[Command], *, atomic: bool = False) -> list[Any]:
        """Do what `send` does without blocking the event loop."""
        if self._amake is None:
            return await asyncio.to_thread(self.send, commands, atomic=atomic)
        try:
            client = await self._aclient(self._amake)
            try:
                return await self._areplies(client, commands, atomic=atomic)
            except redis.ConnectionError:
                if not self._sentinels:
                    raise
                # redis-py itself would try the old master once more, not ask for the new one.
                return await self._areplies(client, commands, atomic=atomic)
        except REDIS_ERRORS as error:
            raise self._failed(error) from error

    async def _areplies(
        self, client: Any, commands: Sequence[Command], *, atomic: bool
    ) -> list[Any]:
        if len(commands) == 1:
            return [await client.execute_command(*commands[0])]
        async with client.pipeline(transaction=atomic and not self.clustered) as pipeline:
            for command in commands:
                pipeline.execute_command(*command)
            return list(await pipeline.execute())

    def scan(self, pattern: str) -> Iterator[list[bytes]]:
        """Yield the keys that match, in batches.

        Raises:
            StoreError: As `send`.
        """
        try:
            batch: list[bytes] = []
            for key in self.client().scan_iter(match=pattern, count=_BATCH):
                batch.append(key)
                if len(batch) >= _BATCH:
                    yield batch
                    batch = []
        except REDIS_ERRORS as error:
            raise self._failed(error) from error
        if batch:
            yield batch

    async def ascan(self, pattern: str) -> AsyncIterator[list[bytes]]:
        """Do what `scan` does without blocking the event loop."""
        if self._amake is None:
            for found in await asyncio.to_thread(lambda: list(self.scan(pattern))):
                yield found
            return
        try:
            client: Any = await self._aclient(self._amake)
            batch: list[bytes] = []
            async for key in client.scan_iter(match=pattern, count=_BATCH):
                batch.append(key)
                if len(batch) >= _BATCH:
                    yield batch
                    batch = []
        except REDIS_ERRORS as error:
            raise self._failed(error) from error
        if batch:
            yield batch

    def close(self) -> None:
        """Close the connections of threads; those of an event loop close when it ends.

        The next command connects again.
        """
        with self._lock:
            client, self._client = self._client, None
        if client is not None and self._owned:
            for each in (client, *_sentinels_of(client)):
                each.close()

    async def aclose(self) -> None:
        """Close the connections, those of this event loop before this returns."""
        with self._lock:
            mine = self._aclients.pop(asyncio.get_running_loop(), None)
        if mine is not None:
            await mine.close()
        await asyncio.to_thread(self.close)

    def _failed(self, error: Exception) -> StoreError:
        return StoreError(f"{self.where}: {type(error).__name__}: {error}")


class _OfLoop:
    """The client of one event loop.

    Its connections must be closed on that loop. The end of a loop ends the asynchronous generators
    that were begun on it, so one of these closes the client.
    """

    def __init__(self, client: AsyncClient) -> None:
        self.client = client
        self._end = _closing(client)

    async def guard(self) -> None:
        await anext(self._end)

    async def close(self) -> None:
        await self._end.aclose()


async def _closing(client: AsyncClient) -> AsyncGenerator[None]:
    try:
        yield
    finally:
        for each in (client, *_sentinels_of(client)):
            await each.aclose()


def _sentinels_of(client: Any) -> list[Any]:
    pool = getattr(client, "connection_pool", None)  # a cluster's has none
    manager = getattr(pool, "sentinel_manager", None)
    return [] if manager is None else list(manager.sentinels)


class _Standalone:
    def __init__(self, url: str, options: dict[str, Any], *, timeout_s: float) -> None:
        self._url, self._options, self._timeout_s = url, options, timeout_s

    def client(self) -> SyncClient:
        # Bounded, and waited for: redis-py's own pool refuses the hundred-and-first thread.
        pool = redis.BlockingConnectionPool.from_url(
            self._url,
            max_connections=_MOST_CONNECTIONS,
            timeout=self._timeout_s,
            retry=_again(Retry),
            **self._options,
        )
        return redis.Redis.from_pool(pool)

    def async_client(self) -> AsyncClient:
        # Bounded: a burst of tasks should not open a connection for each of them.
        pool = redis.asyncio.BlockingConnectionPool.from_url(
            self._url,
            max_connections=_MOST_CONNECTIONS,
            timeout=self._timeout_s,
            retry=_again(AsyncRetry),
            **self._options,
        )
        return redis.asyncio.Redis.from_pool(pool)


class _Cluster:
    def __init__(self, url: str, options: dict[str, Any]) -> None:
        self._url, self._options = url, options

    def client(self) -> SyncClient:
        return redis.RedisCluster.from_url(self._url, retry=_again(Retry), **self._options)

    def async_client(self) -> AsyncClient:
        return redis.asyncio.RedisCluster.from_url(
            self._url, retry=_again(AsyncRetry), **self._options
        )


class _Sentinels:
    def __init__(self, hosts: list[tuple[str, int]], service: str, options: dict[str, Any]) -> None:
        self._hosts, self._service, self._options = hosts, service, options

    def client(self) -> SyncClient:
        sentinel = _untyped(Sentinel)(self._hosts, **self._options)
        client: SyncClient = sentinel.master_for(self._service, retry=_again(Retry))
        return client

    def async_client(self) -> AsyncClient:
        sentinel = _untyped(AsyncSentinel)(self._hosts, **self._options)
        once = AsyncRetry(NoBackoff(), 0)
        client: AsyncClient = sentinel.master_for(self._service, retry=once)
        return client


def _untyped(function: Any) -> Any:
    """Return what redis-py has not annotated."""
    return function


def _again(kind: type[Any]) -> Any:
    return kind(NoBackoff(), 1, supported_errors=(redis.ConnectionError,))


def _address(url: str, timeout_s: float) -> tuple[str, _Standalone | _Cluster | _Sentinels]:
    """Return how a URL may be named in messages, without its password, and how to connect."""
    options: dict[str, Any] = {
        "socket_timeout": timeout_s,
        "socket_connect_timeout": timeout_s,
        "protocol": 2,  # the same on every server and through every proxy
    }
    try:
        parts = urlsplit(url)
        scheme, _, kind = parts.scheme.partition("+")
        hosts = parts.netloc.rpartition("@")[2]
        where = f"{parts.scheme}://{hosts}{parts.path}"
        plain = scheme + url[len(parts.scheme) :]
        if kind == "sentinel" and scheme in ("redis", "rediss"):
            return where, _sentinels(plain, hosts, options)
        _parsed(plain)
        if kind == "cluster":
            return where, _Cluster(plain, options)
        if kind:
            raise ValueError(f"unknown kind {kind!r}, expected sentinel or cluster")
        return where, _Standalone(plain, options, timeout_s=timeout_s)
    except ValueError as error:
        # The URL itself stays out of the message: it may hold a password.
        raise ConfigurationError(f"expected the URL of a Redis: {error}") from None


def _parsed(url: str) -> dict[str, Any]:
    known: dict[str, Any] = _untyped(parse_url)(url)
    if "decode_responses" in known:
        raise ValueError("entries are bytes, so decode_responses cannot be used")
    return known


def _sentinels(url: str, hosts: str, options: dict[str, Any]) -> _Sentinels:
    parts = urlsplit(url)
    service, _, db = parts.path.lstrip("/").partition("/")
    if not service:
        raise ValueError("the path of a Sentinel URL names the service, as in /mymaster")
    user = parts.netloc.rpartition("@")[0]
    single = parts._replace(netloc=f"{user}@any" if user else "any", path=f"/{db}")
    known = _parsed(single.geturl())
    for unused in ("host", "connection_class"):
        known.pop(unused, None)
    if parts.scheme == "rediss":
        known["ssl"] = True
    pairs = [_host(host) for host in hosts.split(",")]
    return _Sentinels(pairs, service, {**options, **known})


def _host(text: str) -> tuple[str, int]:
    single = urlsplit(f"//{text}")
    if not single.hostname:
        raise ValueError(f"a Sentinel is host:port, got {text!r}")
    return single.hostname, single.port or 26379
