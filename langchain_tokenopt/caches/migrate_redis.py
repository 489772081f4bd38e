"""Serve what other LangChain caches keep in Redis, and keep it under our keys from then on."""

import asyncio
import hashlib
import json
import logging
from typing import Any, Literal

from langchain_core.caches import RETURN_VAL_TYPE
from langchain_core.outputs import Generation
from typing_extensions import override

from langchain_tokenopt.caches.codec import UnencodableError, UnreadableError
from langchain_tokenopt.caches.control import current_control
from langchain_tokenopt.caches.exact import ExactCache
from langchain_tokenopt.caches.migrate import old_answers
from langchain_tokenopt.caches.store import Store, StoreError, Tally
from langchain_tokenopt.errors import ConfigurationError
from langchain_tokenopt.redis_client import RedisClients, SyncClient

_LOG = logging.getLogger(__name__)


class OldRedis:
    """Reads what langchain-community's or langchain-redis's `RedisCache` keeps.

    Both keep digests instead of prompts, so entries can only be found by those who ask for them;
    see `MovingCache`. What is there is not altered.

    Args:
        url_or_client: See `RedisClients`.
        layout: Whose entries these are: `langchain-community` or `langchain-redis`.
        prefix: Of langchain-redis's keys.
    """

    def __init__(
        self,
        url_or_client: str | SyncClient,
        *,
        layout: Literal["langchain-community", "langchain-redis"],
        prefix: str = "redis",
        timeout_s: float = 0.5,
    ) -> None:
        if layout not in ("langchain-community", "langchain-redis"):
            message = f"layout must be langchain-community or langchain-redis, got {layout!r}"
            raise ConfigurationError(message)
        self._clients = RedisClients(url_or_client, timeout_s=timeout_s)
        self._layout = layout
        self._prefix = prefix

    def find(self, prompt: str, llm_string: str) -> tuple[list[Generation], float | None] | None:
        """Return the answers to a request and their remaining life in seconds.

        Raises:
            StoreError: Redis cannot be asked.
            UnreadableError: What is there is no answer.
        """
        if self._layout == "langchain-community":
            name = _md5(prompt + llm_string)
            found, life_ms = self._clients.send([("HGETALL", name), ("PTTL", name)])
            texts = _in_order(found)
        else:
            name = f"{self._prefix}:{_md5(prompt)}:{_md5(llm_string)}"
            found, life_ms = self._clients.send([("JSON.GET", name), ("PTTL", name)])
            value = None if found is None else json.loads(found)
            values = value if isinstance(value, list) else [] if value is None else [value]
            texts = [json.dumps(one) for one in values]
        if not texts:
            return None
        return old_answers(texts), life_ms / 1000 if life_ms >= 0 else None

    def close(self) -> None:
        """Close the connections."""
        self._clients.close()


class MovingCache(ExactCache):
    """An exact cache that looks into an old one on a miss, and keeps what it finds.

    Leave the old entries to expire, or delete them when `moved` stands still. An old Redis that
    fails, or an entry that cannot be read, is a miss.

    >>> from langchain_tokenopt.caches import MemoryStore
    >>> old = OldRedis("redis://localhost:6379", layout="langchain-redis")
    >>> cache = MovingCache(MemoryStore(), old=old)

    Args:
        store: Where entries live from now on.
        old: What is looked into.
        options: Those of `ExactCache`.
    """

    def __init__(self, store: Store, *, old: OldRedis, **options: Any) -> None:
        super().__init__(store, **options)
        self._old = old
        self._moves = Tally()

    @property
    def moved(self) -> int:
        """How many requests were answered from the old cache, and so moved."""
        return self._moves.of("moved")

    @property
    def left(self) -> int:
        """How often an old entry could not be read, or the old cache not be asked."""
        return self._moves.of("left")

    @override
    def lookup(self, prompt: str, llm_string: str) -> RETURN_VAL_TYPE | None:
        found = super().lookup(prompt, llm_string)
        if found is not None or current_control().no_cache or not self._move(prompt, llm_string):
            return found
        self._tally.add("misses", -1)  # both look-ups are one
        return super().lookup(prompt, llm_string)

    @override
    async def alookup(self, prompt: str, llm_string: str) -> RETURN_VAL_TYPE | None:
        found = await super().alookup(prompt, llm_string)
        if found is not None or current_control().no_cache:
            return found
        if not await asyncio.to_thread(self._move, prompt, llm_string):
            return None
        self._tally.add("misses", -1)
        return await super().alookup(prompt, llm_string)

    def _move(self, prompt: str, llm_string: str) -> bool:
        try:
            found = self._old.find(prompt, llm_string)
            if found is None:
                return False
            self.keep(prompt, llm_string, found[0], ttl_s=found[1])
        except (StoreError, UnreadableError, UnencodableError, ValueError) as error:
            self._moves.add("left")
            if self._moves.of("left") == 1:
                _LOG.warning("an old entry cannot be moved, calls go on without it: %s", error)
            return False
        self._moves.add("moved")
        return True

    @override
    def close(self) -> None:
        self._old.close()
        super().close()


def _in_order(found: Any) -> list[str]:
    """Return the fields of a hash by their numbers."""
    pairs = found.items() if isinstance(found, dict) else zip(found[::2], found[1::2], strict=True)
    numbered = {int(name): text for name, text in pairs if name.isdigit()}
    return [numbered[number].decode("utf-8", "replace") for number in sorted(numbered)]


def _md5(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()
