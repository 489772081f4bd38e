"""Accounts of budgets in Redis, for all processes and hosts that share it."""

import hashlib
import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from langchain_tokenopt.accounting.amounts import Amounts, BudgetStatus, Limits
from langchain_tokenopt.accounting.budget import Account, Hold
from langchain_tokenopt.accounting.budget_store import (
    Counts,
    Outcome,
    Row,
    counts,
    limit_counts,
    status_of,
)
from langchain_tokenopt.errors import StoreError
from langchain_tokenopt.redis_client import AsyncClient, RedisClients, SyncClient, checked_namespace

_LATE_MS = round(timedelta(days=1).total_seconds() * 1000)
_FOR_EVER = ""
_FIELDS = (
    "spent_tokens", "spent_calls", "spent_nano",
    "reserved_tokens", "reserved_calls", "reserved_nano",
    "granted_tokens", "granted_calls", "granted_nano", "refused",
)  # fmt: skip

# An account is a hash. A hold is a field of the hash of holds: its amounts, its floor, whether it
# has expired, and its accounts. Redis adds in 64-bit integers; Lua only compares, in doubles, which
# are exact up to nine million dollars.
_COMMON = """
local units = {'tokens', 'calls', 'nano'}
local function values(account)
  return redis.call('HMGET', account, 'spent_tokens', 'spent_calls', 'spent_nano',
    'reserved_tokens', 'reserved_calls', 'reserved_nano',
    'granted_tokens', 'granted_calls', 'granted_nano', 'refused')
end
local function move(account, freed, used)
  if redis.call('EXISTS', account) == 0 then return end
  for i, unit in ipairs(units) do
    if freed[i] ~= 0 then redis.call('HINCRBY', account, 'reserved_' .. unit, -freed[i]) end
    if used[i] ~= 0 then redis.call('HINCRBY', account, 'spent_' .. unit, used[i]) end
  end
end
local function know(account, about, keep)
  redis.call('HSET', account, 'about', about)
  if keep ~= '' then redis.call('PEXPIREAT', account, keep) end
end
"""
_RESERVE = f"""{_COMMON}
local holds, ends, now = KEYS[1], KEYS[2], tonumber(ARGV[1])
for _, id in ipairs(redis.call('ZRANGEBYSCORE', ends, '-inf', now, 'LIMIT', 0, 100)) do
  local packed = redis.call('HGET', holds, id)
  if packed then
    local hold = cjson.decode(packed)
    if hold.expired then
      redis.call('HDEL', holds, id)
      redis.call('ZREM', ends, id)
    else
      for _, account in ipairs(hold.accounts) do move(account, hold.amounts, hold.floor) end
      hold.expired = true
      redis.call('HSET', holds, id, cjson.encode(hold))
      redis.call('ZADD', ends, now + {_LATE_MS}, id)
    end
  else
    redis.call('ZREM', ends, id)
  end
end
local asked = {{tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])}}
local accounts, standing = {{}}, {{}}
for n = 3, #KEYS do
  local at = 7 + (n - 3) * 5
  accounts[n - 2] = KEYS[n]
  know(KEYS[n], ARGV[at], ARGV[at + 1])
  local found = values(KEYS[n])
  for i = 1, 3 do
    local most = ARGV[at + 1 + i]
    if most ~= '' then
      local used = (tonumber(found[i]) or 0) + (tonumber(found[i + 3]) or 0) + asked[i]
      if used > tonumber(most) + (tonumber(found[i + 6]) or 0) then
        redis.call('HINCRBY', KEYS[n], 'refused', 1)
        return {{n - 2, values(KEYS[n])}}
      end
    end
  end
end
local more = {{-asked[1], -asked[2], -asked[3]}}
for _, account in ipairs(accounts) do move(account, more, {{0, 0, 0}}) end
redis.call('HSET', holds, ARGV[2], ARGV[#ARGV])
redis.call('ZADD', ends, ARGV[3], ARGV[2])
for n, account in ipairs(accounts) do standing[n] = values(account) end
return {{0, standing}}
"""
_SETTLE = f"""{_COMMON}
local packed = redis.call('HGET', KEYS[1], ARGV[1])
if not packed then return 0 end
redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('ZREM', KEYS[2], ARGV[1])
local hold = cjson.decode(packed)
local used = {{tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])}}
local freed = hold.amounts
if hold.expired then
  freed = {{0, 0, 0}}
  for i = 1, 3 do used[i] = used[i] - hold.floor[i] end
end
for _, account in ipairs(hold.accounts) do move(account, freed, used) end
return 1
"""
_ADD = f"""{_COMMON}
know(KEYS[1], ARGV[1], ARGV[2])
for i, unit in ipairs(units) do
  if ARGV[3 + i] ~= '0' then redis.call('HINCRBY', KEYS[1], ARGV[3] .. unit, ARGV[3 + i]) end
end
return 1
"""


class RedisBudgets:
    """Accounts in a Redis that processes and hosts share: each step is one script there.

    The accounts of a namespace lie on one node of a cluster. Redis 5 or later, or Valkey.

    Args:
        url_or_client: See `RedisClients`.
        namespace: Begins every key.
        async_client: See `RedisClients`.
        timeout_s: How long to wait for a connection, and for an answer.

    Raises:
        ConfigurationError: The URL or the namespace cannot be used.

    >>> budgets = RedisBudgets("redis://localhost:6379/0")  # connects when it is first used
    """

    blocks = True

    def __init__(
        self,
        url_or_client: str | SyncClient,
        *,
        namespace: str = "tokenopt",
        async_client: Callable[[], AsyncClient] | None = None,
        timeout_s: float = 0.5,
    ) -> None:
        self._clients = RedisClients(url_or_client, async_client=async_client, timeout_s=timeout_s)
        self._prefix = f"{{{checked_namespace(namespace)}:budgets}}"
        self._holds, self._ends = f"{self._prefix}:holds", f"{self._prefix}:ends"

    def reserve(self, hold: Hold, *, now: datetime) -> Outcome:
        """Set `hold.amounts` aside on each account, if each has that much left."""
        (reply,) = self._clients.send([self._reserving(hold, now)])
        return _outcome(hold, reply)

    async def areserve(self, hold: Hold, *, now: datetime) -> Outcome:
        """Do what `reserve` does without blocking the event loop."""
        (reply,) = await self._clients.asend([self._reserving(hold, now)])
        return _outcome(hold, reply)

    def settle(self, hold: Hold, spent: Amounts) -> None:
        """Book what a call used, instead of what was set aside; a second time does nothing."""
        self._clients.send([self._settling(hold, spent)])

    async def asettle(self, hold: Hold, spent: Amounts) -> None:
        """Do what `settle` does without blocking the event loop."""
        await self._clients.asend([self._settling(hold, spent)])

    def charge(self, accounts: tuple[Account, ...], spent: Amounts, *, now: datetime) -> None:
        """Book what was used without asking, whatever is left."""
        for account in accounts:
            self._add(account, "spent_", spent, now)

    def grant(self, account: Account, more: Amounts, *, now: datetime) -> None:
        """Allow an account more than its limits."""
        self._add(account, "granted_", more, now)

    def statuses(self) -> tuple[BudgetStatus, ...]:
        """Return every account that is kept."""
        pattern = f"{self._prefix}:account:*"
        keys = sorted(key for batch in self._clients.scan(pattern) for key in batch)
        replies = (
            self._clients.send([("HMGET", key, "about", *_FIELDS) for key in keys]) if keys else []
        )
        known = (_account(about) for about, *_ in replies)
        return tuple(
            status_of(account, _row(values))
            for account, (_, *values) in zip(known, replies, strict=True)
            if account is not None
        )

    def close(self) -> None:
        """Close the connections; the next use opens them again."""
        self._clients.close()

    async def aclose(self) -> None:
        """Close the connections, those of this event loop before this returns."""
        await self._clients.aclose()

    def _reserving(self, hold: Hold, now: datetime) -> tuple[Any, ...]:
        keys = [self._key(account) for account in hold.accounts]
        of_accounts: list[Any] = []
        for account in hold.accounts:
            most = ("" if limit is None else limit for limit in limit_counts(account))
            of_accounts += [*_known(account, now), *most]
        packed = _json(
            {
                "amounts": counts(hold.amounts),
                "floor": counts(hold.floor),
                "accounts": keys,
            }
        )
        return (
            "EVAL", _RESERVE, 2 + len(keys), self._holds, self._ends, *keys,
            _ms(now), hold.id, _ms(hold.expires_at), *counts(hold.amounts), *of_accounts, packed,
        )  # fmt: skip

    def _settling(self, hold: Hold, spent: Amounts) -> tuple[Any, ...]:
        return ("EVAL", _SETTLE, 2, self._holds, self._ends, hold.id, *counts(spent))

    def _add(self, account: Account, what: str, amounts: Amounts, now: datetime) -> None:
        key, about = self._key(account), _known(account, now)
        self._clients.send([("EVAL", _ADD, 1, key, *about, what, *counts(amounts))])

    def _key(self, account: Account) -> str:
        # Keys and names are the user's: hashed, they are short and hold no brace or space.
        digest = hashlib.sha256(_json(account.id).encode()).hexdigest()[:32]
        return f"{self._prefix}:account:{digest}"


def _outcome(hold: Hold, reply: Any) -> Outcome:
    try:
        refused, values = reply
        if refused:
            status = status_of(hold.accounts[refused - 1], _row(values))
            return Outcome(refused_by=status, standing=())
        standing = (status_of(a, _row(v)) for a, v in zip(hold.accounts, values, strict=True))
        return Outcome(refused_by=None, standing=tuple(standing))
    except (TypeError, ValueError) as error:
        raise StoreError(f"unexpected reply of the budget script: {reply!r:.200}") from error


def _row(values: Sequence[Any]) -> Row:
    numbers = [int(value or 0) for value in values]
    return Row(
        spent=Counts(*numbers[:3]),
        reserved=Counts(*numbers[3:6]),
        granted=Counts(*numbers[6:9]),
        refused=numbers[9],
    )


def _known(account: Account, now: datetime) -> tuple[str, int | str]:
    """Return what the account is, for those who only read it, and until when it is kept."""
    limits, keep_until = account.limits, account.keep_until(now)
    about = {
        "id": account.id,
        "tokens": limits.tokens,
        "calls": limits.calls,
        "dollars": None if limits.dollars is None else str(limits.dollars),
        "resets_at": account.resets_at.timestamp() if account.resets_at else None,
        "per": account.per,
    }
    return _json(about), _FOR_EVER if keep_until is None else _ms(keep_until)


def _account(about: Any) -> Account | None:
    """Return the account that `about` tells of; what others wrote there is left out."""
    try:
        told = json.loads(about)
        name, key, window = told["id"]
        dollars, resets_at = told["dollars"], told["resets_at"]
        return Account(
            name=str(name),
            key=str(key),
            window=str(window),
            limits=Limits(
                tokens=None if told["tokens"] is None else int(told["tokens"]),
                calls=None if told["calls"] is None else int(told["calls"]),
                dollars=None if dollars is None else Decimal(dollars),
            ),
            resets_at=None if resets_at is None else datetime.fromtimestamp(resets_at, UTC),
            per=told["per"],
        )
    except (ArithmeticError, KeyError, OSError, TypeError, ValueError):
        return None


def _ms(at: datetime) -> int:
    return round(at.timestamp() * 1000)


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))
