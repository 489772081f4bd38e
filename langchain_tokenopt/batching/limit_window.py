"""What was used in the last minute: in this process, or in a Redis for all."""

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol
from uuid import uuid4

from langchain_tokenopt.errors import StoreError
from langchain_tokenopt.redis_client import AsyncClient, RedisClients, SyncClient, checked_namespace

WINDOW_S = 60
# A process that waits asks at least as often; one that does not is taken to be gone.
LONGEST_WAIT_S = 1.0
_GONE_MS = 5_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """What a minute allows; `None` for no limit."""

    tokens: int | None
    requests: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """The answer to who wants to send a request."""

    second: int | None
    """When it was counted; `None` if there is no room yet."""
    wait_s: float = 0.0
    """After which there may be room."""


class Window(Protocol):
    """Counts what was used, second by second, for the last minute."""

    @property
    def blocks(self) -> bool:
        """Whether asking takes so long that an event loop must not wait for it."""

    def take(self, waiter: str, tokens: int, rates: Rates) -> Taken:
        """Count a request if there is room for it, and nobody who came earlier waits."""

    def correct(self, second: int, tokens: int, requests: int) -> None:
        """Add to what was counted in a second, or take from it."""

    def pause(self, seconds: float) -> None:
        """Let nobody send for a while."""

    def leave(self, waiter: str) -> None:
        """Forget somebody who waited."""


class MemoryWindow:
    """The window of one process.

    Sixty seconds and the one that has begun are counted, so that no sixty seconds anywhere hold
    more than is allowed.
    """

    blocks = False

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._used: dict[int, tuple[int, int]] = {}
        self._paused_until = -math.inf

    def take(self, waiter: str, tokens: int, rates: Rates) -> Taken:
        """Count a request if there is room for it."""
        with self._lock:
            now = self._clock()
            if now < self._paused_until:
                return Taken(second=None, wait_s=self._paused_until - now)
            second = math.floor(now)
            self._used = {at: n for at, n in self._used.items() if at >= second - WINDOW_S}
            need_tokens = _excess(sum(n for n, _ in self._used.values()) + tokens, rates.tokens)
            need_requests = _excess(sum(n for _, n in self._used.values()) + 1, rates.requests)
            if need_tokens <= 0 and need_requests <= 0:
                self._count(second, tokens, 1)
                return Taken(second=second)
            for at in sorted(self._used):
                freed_tokens, freed_requests = self._used[at]
                need_tokens -= freed_tokens
                need_requests -= freed_requests
                if need_tokens <= 0 and need_requests <= 0:
                    return Taken(second=None, wait_s=at + WINDOW_S + 1 - now)
            return Taken(second=None, wait_s=LONGEST_WAIT_S)

    def correct(self, second: int, tokens: int, requests: int) -> None:
        """Add to what was counted in a second, or take from it."""
        with self._lock:
            if second in self._used:
                self._count(second, tokens, requests)

    def pause(self, seconds: float) -> None:
        """Let nobody send for a while."""
        with self._lock:
            self._paused_until = max(self._paused_until, self._clock() + seconds)

    def leave(self, waiter: str) -> None:
        """Forget somebody who waited: here nobody is remembered."""

    def _count(self, second: int, tokens: int, requests: int) -> None:
        before_tokens, before_requests = self._used.get(second, (0, 0))
        self._used[second] = (
            max(before_tokens + tokens, 0),
            max(before_requests + requests, 0),
        )


def _excess(used: int, most: int | None) -> int:
    return 0 if most is None else used - most


# A hash of tokens and requests by second; who waits, by when they came and when last heard of.
_TAKE = f"""
local used, waiting, heard, paused = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local time = redis.call('TIME')
local second, ms = tonumber(time[1]), tonumber(time[1]) * 1000 + math.floor(time[2] / 1000)
local pause = redis.call('PTTL', paused)
if pause > 0 then return {{0, pause}} end
for _, gone in ipairs(redis.call('ZRANGEBYSCORE', heard, '-inf', ms - {_GONE_MS})) do
  redis.call('ZREM', heard, gone)
  redis.call('ZREM', waiting, gone)
end
local seconds, tokens, requests = {{}}, 0, 0
local flat = redis.call('HGETALL', used)
for i = 1, #flat, 2 do
  local at, of = tonumber(string.sub(flat[i], 2)), string.sub(flat[i], 1, 1)
  if at < second - {WINDOW_S} then
    redis.call('HDEL', used, flat[i])
  else
    local known = seconds[at] or {{0, 0}}
    if of == 't' then known[1] = tonumber(flat[i + 1]) else known[2] = tonumber(flat[i + 1]) end
    seconds[at] = known
  end
end
for _, n in pairs(seconds) do tokens, requests = tokens + n[1], requests + n[2] end
local need_tokens, need_requests = 0, 0
if ARGV[3] ~= '' then need_tokens = tokens + tonumber(ARGV[2]) - tonumber(ARGV[3]) end
if ARGV[4] ~= '' then need_requests = requests + 1 - tonumber(ARGV[4]) end
local first = redis.call('ZRANGE', waiting, 0, 0)[1]
local turn = first == nil or first == ARGV[1]
if turn and need_tokens <= 0 and need_requests <= 0 then
  redis.call('HINCRBY', used, 't' .. second, ARGV[2])
  redis.call('HINCRBY', used, 'r' .. second, 1)
  redis.call('EXPIRE', used, {2 * WINDOW_S})
  redis.call('ZREM', waiting, ARGV[1])
  redis.call('ZREM', heard, ARGV[1])
  return {{1, second}}
end
redis.call('ZADD', waiting, 'NX', ms, ARGV[1])
redis.call('ZADD', heard, ms, ARGV[1])
redis.call('EXPIRE', waiting, {WINDOW_S})
redis.call('EXPIRE', heard, {WINDOW_S})
if not turn then return {{0, 50}} end
local order = {{}}
for at in pairs(seconds) do table.insert(order, at) end
table.sort(order)
for _, at in ipairs(order) do
  need_tokens, need_requests = need_tokens - seconds[at][1], need_requests - seconds[at][2]
  if need_tokens <= 0 and need_requests <= 0 then
    return {{0, (at + {WINDOW_S} + 1) * 1000 - ms}}
  end
end
return {{0, 1000}}
"""
_CORRECT = """
for i, of in ipairs({'t', 'r'}) do
  local field = of .. ARGV[1]
  if redis.call('HEXISTS', KEYS[1], field) == 1 then
    if redis.call('HINCRBY', KEYS[1], field, ARGV[i + 1]) < 0 then
      redis.call('HSET', KEYS[1], field, 0)
    end
  end
end
return 1
"""
_PAUSE = """
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[1]) then
  redis.call('SET', KEYS[1], 1, 'PX', ARGV[1])
end
return 1
"""


class RedisWindow:
    """The window of all processes and hosts that share a Redis, by its clock.

    Who came first is served first, whichever process they are in. Redis 5 or later, or Valkey.

    Args:
        url_or_client: See `RedisClients`.
        name: Of what is limited: the account and the model, say.
        namespace: Begins every key.
        async_client: See `RedisClients`.
        timeout_s: How long to wait for a connection, and for an answer.

    Raises:
        ConfigurationError: The URL, the name or the namespace cannot be used.
    """

    blocks = True

    def __init__(
        self,
        url_or_client: str | SyncClient,
        *,
        name: str = "default",
        namespace: str = "tokenopt",
        async_client: Callable[[], AsyncClient] | None = None,
        timeout_s: float = 0.5,
    ) -> None:
        self._clients = RedisClients(url_or_client, async_client=async_client, timeout_s=timeout_s)
        prefix = f"{{{checked_namespace(namespace)}:rate:{checked_namespace(name)}}}"
        parts = ("used", "waiting", "heard", "paused")
        self._used, self._waiting, self._heard, self._paused = (f"{prefix}:{p}" for p in parts)
        self._process = uuid4().hex

    def take(self, waiter: str, tokens: int, rates: Rates) -> Taken:
        """Count a request if there is room for it, and nobody who came earlier waits."""
        keys = (self._used, self._waiting, self._heard, self._paused)
        limits = ("" if most is None else most for most in (rates.tokens, rates.requests))
        (reply,) = self._clients.send(
            [("EVAL", _TAKE, len(keys), *keys, self._name_of(waiter), tokens, *limits)]
        )
        try:
            granted, value = map(int, reply)
        except (TypeError, ValueError) as error:
            raise StoreError(f"unexpected reply of the rate script: {reply!r:.200}") from error
        if granted:
            return Taken(second=value)
        return Taken(second=None, wait_s=value / 1000)

    def correct(self, second: int, tokens: int, requests: int) -> None:
        """Add to what was counted in a second, or take from it."""
        self._clients.send([("EVAL", _CORRECT, 1, self._used, second, tokens, requests)])

    def pause(self, seconds: float) -> None:
        """Let nobody send for a while."""
        self._clients.send([("EVAL", _PAUSE, 1, self._paused, max(round(seconds * 1000), 1))])

    def leave(self, waiter: str) -> None:
        """Forget somebody who waited."""
        name: Any = self._name_of(waiter)
        self._clients.send([("ZREM", self._waiting, name), ("ZREM", self._heard, name)])

    def close(self) -> None:
        """Close the connections; the next use opens them again."""
        self._clients.close()

    def _name_of(self, waiter: str) -> str:
        return f"{self._process}:{waiter}"
