"""LangChain caches over a store: the same request gets the same answer."""

import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from langchain_core.caches import RETURN_VAL_TYPE, BaseCache
from langchain_core.outputs import Generation
from typing_extensions import override

from langchain_tokenopt.caches.codec import (
    Codec,
    UnencodableError,
    UnreadableError,
    settled,
)
from langchain_tokenopt.caches.control import CacheControl, current_control
from langchain_tokenopt.caches.keys import CacheKey, KeyMaker, Tenant
from langchain_tokenopt.caches.store import Store, Tally
from langchain_tokenopt.caches.template import Template, served
from langchain_tokenopt.errors import ConfigurationError

_LOG = logging.getLogger(__name__)
# After a failure the store is left alone for a moment: not every call should wait for it.
_REST_S = 5.0
_MOST_DECODED = 1_000
_LONG_ENTRY = 32_768


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheStats:
    """What a cache did since it was made, and what it holds."""

    hits: int
    misses: int
    writes: int
    errors: int
    """Look-ups and writes that the store failed; the calls went on without it."""
    unreadable: int
    """Entries that were altered, or written by another version or key. Each is a miss too."""
    rejected: int
    """Answers that could not be kept without loss."""
    bypassed: int
    """Requests that asked for a fresh answer (`cache_control(no_cache=True)`)."""
    too_old: int
    """Entries that were older than the request's `max_age_s`. Each is a miss too."""
    evicted: int
    expired: int
    entries: int | None
    """`None` if the store cannot say now."""
    bytes: int | None

    @property
    def hit_rate(self) -> float:
        """Hits of all look-ups, 0.0 before the first."""
        looked = self.hits + self.misses
        return self.hits / looked if looked else 0.0


class ExactCache(BaseCache):
    """A LangChain cache that finds a request again when nothing that matters has changed.

    What matters is the messages without their ids, counts and marks, and the model's own
    description. A served message has a new id and says that it was served (see `messages.py`).
    A store that fails is logged once, counted, and left alone for five seconds; calls go on.

    Args:
        store: Where entries live.
        ttl_s: How long an answer may be served, in seconds; `None` for as long as it is kept.
        key_fields: See `KeyMaker`.
        tenant: Whose entries these are, or a function that says so for the current call. No
            tenant ever gets another's entry.
        signing_key: A secret; entries that were not written with it are misses.
    """

    def __init__(
        self,
        store: Store,
        *,
        ttl_s: float | None = None,
        key_fields: Sequence[str] | None = None,
        tenant: Tenant = "",
        signing_key: bytes | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        if ttl_s is not None and ttl_s <= 0:
            message = f"ttl_s must be more than 0 seconds, or None for no limit, got {ttl_s}"
            raise ConfigurationError(message)
        self.store = store
        self._ttl_s = ttl_s
        self._key = KeyMaker(tenant=tenant, key_fields=key_fields)
        self._codec = Codec(signing_key=signing_key)
        self._clock = clock
        self._wall_clock = wall_clock
        self._tally = Tally()
        self._decoded: OrderedDict[tuple[str, bytes], list[Template] | None] = OrderedDict()
        self._rests_until = 0.0
        self._warned = False

    def key(self, prompt: str, llm_string: str) -> CacheKey:
        """Return the key of a request, for tenants and single flight."""
        return self._key(prompt, llm_string)

    @override
    def lookup(self, prompt: str, llm_string: str) -> RETURN_VAL_TYPE | None:
        key = self._key.digest(prompt, llm_string)
        control = current_control()
        if not self._looks(control):
            return None
        try:
            data, source = self._fetch(key)
        except OSError as error:
            self._failed(error)
            return None
        return self._read(data, source, control)

    @override
    async def alookup(self, prompt: str, llm_string: str) -> RETURN_VAL_TYPE | None:
        key = self._key.digest(prompt, llm_string)
        control = current_control()
        if not self._looks(control):
            return None
        try:
            data, source = await self._afetch(key)
        except OSError as error:
            self._failed(error)
            return None
        return self._read(data, source, control)

    def lookup_again(self, prompt: str, llm_string: str) -> RETURN_VAL_TYPE | None:
        """Look once more for a request that was just missed; both count as one look-up."""
        self._tally.add("misses", -1)
        return self.lookup(prompt, llm_string)

    async def alookup_again(self, prompt: str, llm_string: str) -> RETURN_VAL_TYPE | None:
        """Do what `lookup_again` does without blocking the event loop."""
        self._tally.add("misses", -1)
        return await self.alookup(prompt, llm_string)

    @override
    def update(self, prompt: str, llm_string: str, return_val: RETURN_VAL_TYPE) -> None:
        data = self._written(return_val)
        if data is None:
            return
        control = current_control()
        try:
            self.store.put(
                {self._key.digest(prompt, llm_string): data},
                ttl_s=self._life(control),
                tags=control.tags,
            )
        except OSError as error:
            self._failed(error, looked=False)
        else:
            self._tally.add("writes")

    @override
    async def aupdate(self, prompt: str, llm_string: str, return_val: RETURN_VAL_TYPE) -> None:
        data = self._written(return_val)
        if data is None:
            return
        control = current_control()
        try:
            await self.store.aput(
                {self._key.digest(prompt, llm_string): data},
                ttl_s=self._life(control),
                tags=control.tags,
            )
        except OSError as error:
            self._failed(error, looked=False)
        else:
            self._tally.add("writes")

    def keep(
        self,
        prompt: str,
        llm_string: str,
        answers: RETURN_VAL_TYPE,
        *,
        ttl_s: float | None = None,
        written_at: float = 0.0,
    ) -> None:
        """Keep answers from elsewhere; unlike `update` it says when it cannot.

        Args:
            prompt: As LangChain hands it to a cache.
            llm_string: The same.
            answers: At least one.
            ttl_s: What is left of their life, in seconds.
            written_at: Unix time; by default they count as old.

        Raises:
            UnencodableError: They cannot be kept without loss.
            StoreError: The store cannot be written.
        """
        lives = [life for life in (self._ttl_s, ttl_s) if life is not None]
        data = self._codec.encode(settled(answers), written_at=written_at)
        digest = self._key.digest(prompt, llm_string)
        self.store.put({digest: data}, ttl_s=min(lives) if lives else None)
        self._tally.add("writes")

    def invalidate(self, tags: Collection[str]) -> int:
        """Forget the answers that were kept with one of the tags; return how many they were.

        Raises:
            StoreError: The store cannot be written now, so they may still be served.
        """
        return self.store.invalidate(tags)

    async def ainvalidate(self, tags: Collection[str]) -> int:
        """Do what `invalidate` does without blocking the event loop."""
        return await self.store.ainvalidate(tags)

    @override
    def clear(self, **kwargs: Any) -> None:
        self.store.clear()

    @override
    async def aclear(self, **kwargs: Any) -> None:
        await self.store.aclear()

    def stats(self) -> CacheStats:
        """Return the counts so far."""
        try:
            size = self.store.size()
        except OSError:
            size = None
        events = self.store.events()
        return CacheStats(
            hits=self._tally.of("hits"),
            misses=self._tally.of("misses"),
            writes=self._tally.of("writes"),
            errors=self._tally.of("errors"),
            unreadable=self._tally.of("unreadable"),
            rejected=self._tally.of("rejected"),
            bypassed=self._tally.of("bypassed"),
            too_old=self._tally.of("too_old"),
            evicted=events.evicted,
            expired=events.expired,
            entries=None if size is None else size.entries,
            bytes=None if size is None else size.bytes,
        )

    def close(self) -> None:
        """Release what the store holds open; the cache may be used again."""
        self.store.close()

    def _fetch(self, key: bytes) -> tuple[bytes | None, str]:
        """Return an entry and the name of what holds it."""
        return self.store.get([key]).get(key), self.store.source

    async def _afetch(self, key: bytes) -> tuple[bytes | None, str]:
        return (await self.store.aget([key])).get(key), self.store.source

    def _looks(self, control: CacheControl) -> bool:
        """Return whether the store should be asked; if not, that is counted."""
        if control.no_cache:
            self._tally.add("bypassed")
            return False
        if self._clock() < self._rests_until:
            self._missed()
            return False
        return True

    def _life(self, control: CacheControl) -> float | None:
        lives = [ttl_s for ttl_s in (self._ttl_s, control.ttl_s) if ttl_s is not None]
        return min(lives) if lives else None

    def _missed(self) -> None:
        self._tally.add("misses")

    def _failed(self, error: OSError, *, looked: bool = True) -> None:
        self._tally.add("errors")
        if looked:
            self._tally.add("misses")
        self._rests_until = self._clock() + _REST_S
        if not self._warned:
            self._warned = True
            _LOG.warning(
                "the %s cache failed, calls go on without it: %s", self.store.source, error
            )

    def _read(
        self, data: bytes | None, source: str, control: CacheControl
    ) -> list[Generation] | None:
        if data is None:
            self._missed()
            return None
        found = (source, data)
        templates = self._decoded.get(found)
        answers: list[Generation] = []
        if templates is None:
            try:
                answers = self._codec.decode(data)
            except UnreadableError:
                self._tally.add("unreadable")
                self._missed()
                return None
        oldest_s = control.max_age_s
        if oldest_s is not None and self._wall_clock() - Codec.written_at(data) > oldest_s:
            self._tally.add("too_old")
            self._missed()
            return None
        self._tally.add("hits")
        if templates is not None:
            return [template.fresh() for template in templates]
        self._remember(found, answers)
        return [served(answer, source=source) for answer in answers]

    def _remember(self, found: tuple[str, bytes], answers: list[Generation]) -> None:
        """Keep what bytes that come up again decode to: they need not be checked again."""
        if len(found[1]) > _LONG_ENTRY:
            return
        again = found in self._decoded
        source = found[0]
        self._decoded[found] = [Template(a, source=source) for a in answers] if again else None
        if len(self._decoded) > _MOST_DECODED:
            with suppress(KeyError):  # another thread emptied it
                self._decoded.popitem(last=False)

    def _written(self, answers: RETURN_VAL_TYPE) -> bytes | None:
        """Return the entry to write, `None` if none should be."""
        if current_control().no_store or self._clock() < self._rests_until:
            return None
        try:
            return self._codec.encode(settled(answers), written_at=self._wall_clock())
        except UnencodableError:
            self._tally.add("rejected")
            return None
