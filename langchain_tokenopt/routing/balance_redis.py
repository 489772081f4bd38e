"""The state of deployments in a Redis, for all processes and hosts that share it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from langchain_tokenopt.errors import StoreError
from langchain_tokenopt.redis_client import (
    AsyncClient,
    Command,
    RedisClients,
    SyncClient,
    checked_namespace,
)
from langchain_tokenopt.routing.balance_board import Report
from langchain_tokenopt.routing.deployment import Deployment
from langchain_tokenopt.routing.deployment_state import SharedState, latest_of

# A process that dies with its one call under way stands in the way of others for so long.
_PROBE_MS = 30_000
_KEPT_S = 24 * 3600
_FADED_MS = 60_000
_NEW_COUNTS = 0.1

# A deployment is a hash: the `latest` calls, each with its time and `a` or `f`, the newest first;
# `until` when it cools in milliseconds, `half`, `probe` until when one call is under way, latencies
# in microseconds (`answer`, `first_token`) and when they were measured (`answer_at`, ...).
_NOW = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local function number(name) return tonumber(redis.call('HGET', KEYS[1], name) or '') or 0 end
"""
_READ = f"""{_NOW}
local replies = {{}}
for i, key in ipairs(KEYS) do
  local found = redis.call('HMGET', key, 'until', 'half', 'answer', 'answer_at', 'first_token',
    'first_token_at')
  for n = 1, 6 do found[n] = tonumber(found[n] or '') or 0 end
  local answer = now - found[4] < {_FADED_MS} and found[3] or 0
  local first = now - found[6] < {_FADED_MS} and found[5] or 0
  replies[i] = {{math.max(found[1] - now, 0), found[2], answer, first}}
end
return replies
"""
_REPORT = f"""{_NOW}
local outcome, tests, told = ARGV[1], ARGV[2] == '1', tonumber(ARGV[3])
local allowed, share, most = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local window, cooldown = tonumber(ARGV[7]), tonumber(ARGV[8])
local measure, latency, in_flight = ARGV[9], tonumber(ARGV[10]), tonumber(ARGV[11])
local function note(how)
  local latest = {{string.format('%.0f', now) .. how}}
  local calls, failed = 1, how == 'f' and 1 or 0
  for at, was in string.gmatch(redis.call('HGET', KEYS[1], 'latest') or '', '(%d+)([af])') do
    if calls < most and tonumber(at) > now - window then
      calls = calls + 1
      if was == 'f' then failed = failed + 1 end
      table.insert(latest, at .. was)
    end
  end
  redis.call('HSET', KEYS[1], 'latest', table.concat(latest))
  return calls, failed
end
local function cool(ms, half)
  local until_ms = math.max(number('until'), now + math.floor(ms))
  redis.call('HSET', KEYS[1], 'until', string.format('%.0f', until_ms), 'half', half)
end
if tests then redis.call('HDEL', KEYS[1], 'probe') end
if outcome == 'left' then return 1 end
if outcome == 'answered' then
  if latency >= 0 then
    local known = number(measure)
    if now - number(measure .. '_at') > {_FADED_MS} then known = latency end
    redis.call('HSET', KEYS[1], measure,
      string.format('%.0f', known + {_NEW_COUNTS} * (latency - known)),
      measure .. '_at', string.format('%.0f', now))
  end
  if tests then
    redis.call('HDEL', KEYS[1], 'until', 'half', 'latest')
  end
  note('a')
else
  local calls, failed = note('f')
  local half = number('half')
  if told >= 0 then
    cool(told, half)
  elseif tests then
    cool(cooldown, 1)
  elseif number('until') <= now and half == 0 then
    calls = calls + in_flight
    if outcome == 'rate_limited' or (failed > allowed and failed >= share * calls) then
      cool(cooldown, 1)
    end
  end
end
redis.call('EXPIRE', KEYS[1], {_KEPT_S})
return 1
"""
_PROBE = f"""{_NOW}
if number('half') == 0 then return 1 end
if number('probe') > now then return 0 end
redis.call('HSET', KEYS[1], 'probe', string.format('%.0f', now + {_PROBE_MS}))
return 1
"""


class RedisDeployments:
    """Cooldowns, failures and latencies of deployments, shared through a Redis, by its clock.

    A deployment that fails for one process cools for all, and one call of one process is the first
    to be made after it. Redis 5 or later, or Valkey.

    Args:
        url_or_client: See `RedisClients`.
        name: Of the model whose deployments these are; their names need only differ within it.
        namespace: Begins every key.
        async_client: See `RedisClients`.
        timeout_s: How long to wait for a connection, and for an answer.

    Raises:
        ConfigurationError: The URL, the name or the namespace cannot be used.

    >>> shared = RedisDeployments("redis://localhost:6379/0")  # connects when it is first used
    """

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
        self._prefix = f"{{{checked_namespace(namespace)}:balance:{checked_namespace(name)}}}"

    def read(self, deployments: Sequence[Deployment]) -> Mapping[str, SharedState]:
        """Return how each deployment stands."""
        (reply,) = self._clients.send([self._reading(deployments)])
        return _states(deployments, reply)

    async def aread(self, deployments: Sequence[Deployment]) -> Mapping[str, SharedState]:
        """Do what `read` does without blocking the event loop."""
        (reply,) = await self._clients.asend([self._reading(deployments)])
        return _states(deployments, reply)

    def report(self, report: Report) -> None:
        """Add what a call showed."""
        self._clients.send([self._reporting(report)])

    async def areport(self, report: Report) -> None:
        """Do what `report` does without blocking the event loop."""
        await self._clients.asend([self._reporting(report)])

    def probe(self, deployment: Deployment) -> bool:
        """Return whether this process may make the one call that a half-open deployment gets."""
        (reply,) = self._clients.send([("EVAL", _PROBE, 1, self._key(deployment))])
        return bool(reply)

    async def aprobe(self, deployment: Deployment) -> bool:
        """Do what `probe` does without blocking the event loop."""
        (reply,) = await self._clients.asend([("EVAL", _PROBE, 1, self._key(deployment))])
        return bool(reply)

    def close(self) -> None:
        """Close the connections; the next use opens them again."""
        self._clients.close()

    async def aclose(self) -> None:
        """Close the connections, those of this event loop before this returns."""
        await self._clients.aclose()

    def _key(self, deployment: Deployment) -> str:
        return f"{self._prefix}:{deployment.name}"

    def _reading(self, deployments: Sequence[Deployment]) -> Command:
        return ("EVAL", _READ, len(deployments), *(self._key(each) for each in deployments))

    def _reporting(self, report: Report) -> Command:
        mine, told_s = report.deployment, report.wait_s
        return (
            "EVAL",
            _REPORT,
            1,
            self._key(mine),
            report.outcome,
            int(report.tests),
            -1 if told_s is None else round(min(told_s, mine.longest_wait_s) * 1000),
            mine.failures_allowed,
            mine.failure_share,
            latest_of(mine),
            round(mine.window_s * 1000),
            round(mine.cooldown_s * 1000),
            report.measure,
            -1 if report.latency_s is None else round(report.latency_s * 1e6),
            report.in_flight,
        )


def _states(deployments: Sequence[Deployment], reply: Any) -> Mapping[str, SharedState]:
    try:
        rows = [tuple(map(int, row)) for row in reply]
        return {
            deployment.name: SharedState(
                cooling_s=cooling / 1000,
                half_open=bool(half),
                answer_s=answer / 1e6 if answer else None,
                first_token_s=first / 1e6 if first else None,
            )
            for deployment, (cooling, half, answer, first) in zip(deployments, rows, strict=True)
        }
    except (TypeError, ValueError) as error:
        raise StoreError(f"unexpected reply of the deployments' script: {reply!r:.200}") from error
