"""Hear from Redis which entries other processes changed."""

import logging
import os
import random
import threading
import time
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol

from langchain_tokenopt.caches.redis import entry_prefix
from langchain_tokenopt.caches.store import Tally
from langchain_tokenopt.errors import ConfigurationError
from langchain_tokenopt.redis_client import RedisClients, SyncClient

_LOG = logging.getLogger(__name__)
_CHANNEL = "__redis__:invalidate"
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 5.0
_LOOKS_UP_S = 0.1  # how long `close` waits at most
_DIGEST_HEX = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class InvalidationStats:
    """What a listener did."""

    following: bool
    """Whether changes are being heard now."""
    reports: int
    """Calls of `on_change`."""
    changed: int
    """Keys that were reported."""
    reconnects: int
    failed_reports: int
    """Calls of `on_change` that raised."""


class HasCopies(Protocol):
    """What keeps copies of entries, such as a `TieredStore`."""

    def drop_copies(self, keys: Iterable[bytes] | None) -> None:
        """Forget copies, `None` for all of them."""
        ...


def follow(url: str, copies: HasCopies, *, namespace: str = "tokenopt") -> "Invalidations":
    """Have `copies` dropped whenever anyone changes their entries, as long as they are used.

    Raises:
        ConfigurationError: See `Invalidations`.
    """
    used = weakref.ref(copies)

    def drop(keys: set[bytes] | None) -> None:
        found = used()
        if found is not None:
            found.drop_copies(keys)

    listener = Invalidations(url, drop, namespace=namespace)
    weakref.finalize(copies, listener.stop)
    return listener.start()


class Invalidations:
    """Calls `on_change` with the keys that anyone changed or deleted, or that expired.

    `None` means that anything may have changed: the listener has just connected, has lost the
    server or is closed, or the server was emptied. Changes of this process are reported too. A
    server that does not answer within `heartbeat_s` and a timeout counts as lost; it is tried again
    for ever.

    The listener is a thread: `start` it, or use it in a `with` block. A forked child starts its
    own.

    >>> from langchain_tokenopt.caches import MemoryStore, TieredStore
    >>> from langchain_tokenopt.caches.redis import RedisStore
    >>> url = "redis://localhost:6379/0"
    >>> store = TieredStore([MemoryStore(), RedisStore(url)])
    >>> invalidations = Invalidations(url, store.drop_copies)  # and then .start()

    Args:
        url_or_client: Of a standalone Redis 6 or later, of Valkey, or of Sentinels; see
            `RedisClients`. On a cluster each primary tells of its own keys only: follow each by
            its own URL.
        on_change: Called in the listener's thread; what it raises is logged and counted.
        namespace: That of the `RedisStore`.
        heartbeat_s: How often a silent server is asked whether it is still there.
        timeout_s: How long to wait for a connection, and for an answer.

    Raises:
        ConfigurationError: The URL or the namespace cannot be used, or it is a cluster's.
    """

    def __init__(
        self,
        url_or_client: str | SyncClient,
        on_change: Callable[[set[bytes] | None], None],
        *,
        namespace: str = "tokenopt",
        heartbeat_s: float = 2.0,
        timeout_s: float = 0.5,
    ) -> None:
        self._clients = RedisClients(url_or_client, timeout_s=timeout_s)
        if self._clients.clustered:
            message = "a cluster's nodes each tell of their own keys: give the URL of each primary"
            raise ConfigurationError(message)
        self._on_change = on_change
        self._prefix = entry_prefix(namespace)
        self._heartbeat_s = heartbeat_s
        self._timeout_s = timeout_s
        self._tally = Tally()
        self._closed = threading.Event()
        self._following = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> "Invalidations":
        """Begin to listen; a listener that was closed begins again."""
        if self._thread is None or not self._thread.is_alive():
            self._closed.clear()
            self._thread = threading.Thread(
                target=self._run, name="tokenopt-invalidations", daemon=True
            )
            self._thread.start()
            _started.add(self)
        return self

    def wait(self, timeout_s: float) -> bool:
        """Return whether changes are heard, after at most `timeout_s` seconds."""
        return self._following.wait(timeout_s)

    def stats(self) -> InvalidationStats:
        """Return the counts so far."""
        return InvalidationStats(
            following=self._following.is_set(),
            reports=self._tally.of("reports"),
            changed=self._tally.of("changed"),
            reconnects=max(0, self._tally.of("connects") - 1),
            failed_reports=self._tally.of("failed_reports"),
        )

    def stop(self) -> None:
        """Ask the thread to end, and wait for nothing."""
        self._closed.set()
        _started.discard(self)

    def close(self) -> None:
        """Stop listening; returns when the thread has ended, unless called from it."""
        self._closed.set()
        _started.discard(self)
        thread, self._thread = self._thread, None
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def __enter__(self) -> "Invalidations":
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _run(self) -> None:
        pause_s = _FIRST_PAUSE_S
        warned = False
        while not self._closed.is_set():
            connection: Any = None
            try:
                connection = self._connect()
                pause_s = _FIRST_PAUSE_S
                warned = False
                self._follow(connection)
            except Exception as error:  # noqa: BLE001 - a listener that ends leaves stale copies
                if not warned:
                    warned = True
                    _LOG.warning("changes of others are not heard until Redis is back: %s", error)
            finally:
                if connection is not None:
                    connection.disconnect()
                if self._following.is_set():
                    self._following.clear()
                    # What is copied from now on may be changed without a word.
                    self._report(None)
            self._closed.wait(pause_s * random.uniform(0.5, 1.0))  # noqa: S311 - no secret
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
        self._clients.close()

    def _connect(self) -> Any:
        # One connection both asks to be told and is told, so neither half can be lost alone.
        client: Any = self._clients.client()
        pool = client.connection_pool
        options = {
            name: value
            for name, value in pool.connection_kwargs.items()
            if "maint_notifications" not in name  # they need the newer protocol
        }
        connection = pool.connection_class(**{**options, "protocol": 2})
        try:
            connection.connect()
            connection.send_command("CLIENT", "ID")
            me = connection.read_response()
            for command in (
                ("CLIENT", "TRACKING", "ON", "REDIRECT", me, "BCAST", "PREFIX", self._prefix),
                ("SUBSCRIBE", _CHANNEL),
            ):
                connection.send_command(*command)
                connection.read_response()
        except BaseException:
            connection.disconnect()
            raise
        self._tally.add("connects")
        self._report(None)
        self._following.set()
        return connection

    def _follow(self, connection: Any) -> None:
        heard = asked = time.monotonic()
        while not self._closed.is_set():
            if connection.can_read(timeout=_LOOKS_UP_S):
                self._told(connection.read_response())
                heard = time.monotonic()
                continue
            now = time.monotonic()
            if asked > heard and now - asked > self._timeout_s:
                raise TimeoutError(f"no answer within {self._timeout_s} s")
            if now - max(heard, asked) > self._heartbeat_s:
                connection.send_command("PING")
                asked = time.monotonic()

    def _told(self, message: Any) -> None:
        if message[0] != b"message":  # the answer to a PING
            return
        if message[2] is None:
            self._report(None)
            return
        begin = len(self._prefix)
        names = (name.decode("utf-8", "replace")[begin:] for name in message[2])
        keys = {key for name in names if (key := _key(name)) is not None}
        if keys:
            self._report(keys)

    def _report(self, keys: set[bytes] | None) -> None:
        self._tally.add("reports")
        self._tally.add("changed", len(keys or ()))
        try:
            self._on_change(keys)
        except Exception:  # noqa: BLE001 - whatever it raises, the next change must be heard
            self._tally.add("failed_reports")
            _LOG.exception("what hears of changed entries failed; it is told of the next ones")


_started: "weakref.WeakSet[Invalidations]" = weakref.WeakSet()


def _start_again() -> None:
    for listener in list(_started):
        listener.start()  # its thread stayed behind in the parent


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_start_again)


def _key(name: str) -> bytes | None:
    """Return an entry's key, `None` for the record of a tag."""
    if len(name) != _DIGEST_HEX:
        return None
    try:
        return bytes.fromhex(name)
    except ValueError:
        return None
