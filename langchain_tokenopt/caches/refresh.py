"""Asking again, before it is asked for, what is likely to be asked when its answer has expired."""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from threading import Lock
from typing import Any
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.load import dumps
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, LLMResult
from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.runnables.config import merge_configs
from typing_extensions import override

from langchain_tokenopt.caches.control import cache_control
from langchain_tokenopt.caches.keys import canonical_prompt
from langchain_tokenopt.caches.recurrence import Due, Recurrence
from langchain_tokenopt.caches.warming import WarmReport, awarm, warm
from langchain_tokenopt.messages import is_cache_hit
from langchain_tokenopt.tokens import counter_for

_MOST_RUNNING = 1_000
_refreshing: ContextVar[bool] = ContextVar("refreshing", default=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class RefreshReport:
    """What one refresh did."""

    due: int
    """Prompts that were worth it."""
    warmed: WarmReport
    expected_saving: float
    """Tokens' worth that it is estimated to save, its own price taken off."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RefreshStats:
    """What all refreshes came to."""

    refreshed: int
    """Answers that were asked for ahead."""
    used: int
    """Of those, how many were served after the old answer would have expired."""
    spent_tokens: int
    saved_tokens: int
    """What the calls would have taken that were spared so."""


@dataclass(frozen=True, slots=True)
class _Running:
    prompt: list[BaseMessage]
    ahead: bool
    """Whether nobody asked for it yet."""


class Refresher(BaseCallbackHandler):
    """Learns what is asked when, and asks ahead what would expire just before.

    Pass it among the callbacks of the calls to learn from, and call `refresh` now and then: at
    night through a cheaper tier, or before the morning's first users, who then need not wait. It
    notes prompts of chat models as they are asked, from the cache or not; its own calls are not
    noted. See `Recurrence` for how chances are estimated.

    >>> from langchain_tokenopt.caches import CachedChatModel, MemoryCache
    >>> from langchain_tokenopt.testing import ScriptedModel
    >>> model = CachedChatModel(ScriptedModel(["four"]), cache=MemoryCache(ttl_s=3600))
    >>> refresher = Refresher(ttl_s=3600)
    >>> model.invoke("2 + 2?", {"callbacks": [refresher]}).text
    'four'
    >>> refresher.refresh(model, budget_tokens=10_000).due  # asked once is no habit
    0

    Args:
        ttl_s: How long the cache keeps an answer, in seconds.
        refresh_price: Price of a refresh, as a share of what the call would cost.
        zone: In which hours and weekdays are meant.
        max_prompts: Most prompts to follow; the longest unseen is forgotten.
        release: Says which release of the application is out; a new one may bring other questions.
        clock: Now, with a time zone.
    """

    run_inline = True  # in the order of the calls

    def __init__(
        self,
        *,
        ttl_s: float,
        refresh_price: float = 0.5,
        zone: tzinfo = UTC,
        max_prompts: int = 10_000,
        release: Callable[[], str] = str,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._recurrence = Recurrence(
            ttl_s=ttl_s, refresh_price=refresh_price, zone=zone, max_keys=max_prompts
        )
        self._life = timedelta(seconds=ttl_s)
        self._max_prompts = max_prompts
        self._release = release
        self._clock = clock
        self._counter = counter_for(None)
        self._lock = Lock()
        self._running: OrderedDict[UUID, _Running] = OrderedDict()
        self._prompts: OrderedDict[bytes, list[BaseMessage]] = OrderedDict()
        self._due_at: dict[bytes, datetime] = {}
        """When the answers expire that are being asked for anew."""
        self._ahead: OrderedDict[bytes, tuple[datetime, datetime]] = OrderedDict()
        """When the old answer of what was refreshed expires, and when the new one."""
        self._refreshed = self._used = self._spent = self._saved = 0

    @override
    def on_chat_model_start(
        self,
        serialized: dict[str, Any],
        messages: list[list[BaseMessage]],
        *,
        run_id: UUID,
        **kwargs: Any,
    ) -> None:
        with self._lock:  # LangChain tells of each prompt by itself
            self._running[run_id] = _Running(messages[0], ahead=_refreshing.get())
            if len(self._running) > _MOST_RUNNING:  # some end without a word
                self._running.popitem(last=False)

    @override
    def on_llm_end(self, response: LLMResult, *, run_id: UUID, **kwargs: Any) -> None:
        with self._lock:
            running = self._running.pop(run_id, None)
        answer = _answer_of(response)
        if running is None or answer is None:
            return
        now, key = self._clock(), _key_of(running.prompt)
        tokens = self._tokens(running.prompt, answer)
        with self._lock:
            if running.ahead:
                self._note_refreshed(now, key, tokens)
            else:
                self._note_asked(now, key, tokens, running.prompt, hit=is_cache_hit(answer))

    def _note_refreshed(self, now: datetime, key: bytes, tokens: int) -> None:
        self._recurrence.refreshed(now, key)
        self._refreshed += 1
        self._spent += tokens
        self._ahead[key] = (self._due_at.get(key, now), now + self._life)
        self._ahead.move_to_end(key)
        if len(self._ahead) > self._max_prompts:
            self._ahead.popitem(last=False)

    def _note_asked(
        self, now: datetime, key: bytes, tokens: int, prompt: list[BaseMessage], *, hit: bool
    ) -> None:
        self._prompts[key] = prompt
        self._prompts.move_to_end(key)
        if len(self._prompts) > self._max_prompts:
            self._prompts.popitem(last=False)
        self._recurrence.observe(now, key, tokens=tokens, release=self._release())
        old, new = self._ahead.get(key, (now, now))
        if hit and old <= now < new:
            del self._ahead[key]
            self._used += 1
            self._saved += tokens

    @override
    def on_llm_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        with self._lock:
            self._running.pop(run_id, None)

    def refresh(
        self,
        model: Runnable[Any, Any],
        *,
        budget_tokens: int | None = None,
        horizon_s: float = 3_600.0,
        concurrency: int = 4,
        config: RunnableConfig | None = None,
    ) -> RefreshReport:
        """Ask anew what is worth it, within a budget; failures are counted and stop nothing.

        Args:
            model: What was called: with the same tools and options, and the cache.
            budget_tokens: Most tokens to spend; what saves most for each goes first.
            horizon_s: How far to look ahead, in seconds; best the time to the next refresh.
            concurrency: Most calls at once.
            config: For each call.
        """
        due, prompts = self._due(horizon_s, budget_tokens)
        with _asking_anew():
            warmed = warm(
                model,
                prompts,
                budget_tokens=budget_tokens,
                concurrency=concurrency,
                config=merge_configs(config, {"callbacks": [self]}),
            )
        return _report(due, warmed)

    async def arefresh(
        self,
        model: Runnable[Any, Any],
        *,
        budget_tokens: int | None = None,
        horizon_s: float = 3_600.0,
        concurrency: int = 4,
        config: RunnableConfig | None = None,
    ) -> RefreshReport:
        """Do what `refresh` does without blocking the event loop."""
        due, prompts = self._due(horizon_s, budget_tokens)
        with _asking_anew():
            warmed = await awarm(
                model,
                prompts,
                budget_tokens=budget_tokens,
                concurrency=concurrency,
                config=merge_configs(config, {"callbacks": [self]}),
            )
        return _report(due, warmed)

    def stats(self) -> RefreshStats:
        """Return what all refreshes came to until now."""
        return RefreshStats(
            refreshed=self._refreshed,
            used=self._used,
            spent_tokens=self._spent,
            saved_tokens=self._saved,
        )

    def _due(
        self, horizon_s: float, budget: int | None
    ) -> tuple[list[Due], list[list[BaseMessage]]]:
        with self._lock:
            found = self._recurrence.due(
                self._clock(), horizon_s, budget_tokens=budget, release=self._release()
            )
            prompts = {one.key: self._prompts.get(_bytes(one.key)) for one in found}
            due = [one for one in found if prompts[one.key] is not None]
            self._due_at = {_bytes(one.key): one.expires for one in due}
            return due, [prompt for prompt in prompts.values() if prompt is not None]

    def _tokens(self, prompt: Sequence[BaseMessage], answer: AIMessage) -> int:
        if answer.usage_metadata is not None:
            return answer.usage_metadata["total_tokens"]
        return self._counter.count_messages([*prompt, answer])


@contextmanager
def _asking_anew() -> Iterator[None]:
    token = _refreshing.set(True)
    try:
        with cache_control(no_cache=True):
            yield
    finally:
        _refreshing.reset(token)


def _report(due: Sequence[Due], warmed: WarmReport) -> RefreshReport:
    return RefreshReport(
        due=len(due), warmed=warmed, expected_saving=sum(one.saving for one in due)
    )


def _answer_of(response: LLMResult) -> AIMessage | None:
    if len(response.generations) == 1 and len(response.generations[0]) == 1:
        (answer,) = response.generations[0]
        if isinstance(answer, ChatGeneration) and isinstance(answer.message, AIMessage):
            return answer.message
    return None


def _key_of(prompt: Sequence[BaseMessage]) -> bytes:
    text = canonical_prompt(dumps(list(prompt)))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def _bytes(key: Hashable) -> bytes:
    assert isinstance(key, bytes)  # noqa: S101 - `_key_of` made it
    return key
