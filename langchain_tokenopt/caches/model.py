"""A chat model with a cache around it that also serves streams and calls in flight."""

import logging
from collections.abc import AsyncIterator, Hashable, Iterator, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    aclosing,
    closing,
)
from dataclasses import dataclass
from functools import partial
from typing import Any

from langchain_core.caches import BaseCache
from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.load import dumps
from langchain_core.messages import BaseMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from pydantic import BaseModel, PrivateAttr
from typing_extensions import override

from langchain_tokenopt.caches.control import current_control
from langchain_tokenopt.caches.exact import ExactCache
from langchain_tokenopt.caches.keys import Keyed, KeyMaker, canonical_prompt
from langchain_tokenopt.caches.lead import Answers, Lead, Leads, Leases
from langchain_tokenopt.caches.replay import is_likeness, restore_parsed, served, settled
from langchain_tokenopt.caches.store import Tally
from langchain_tokenopt.wrapping import (
    WrappedChatModel,
    acall,
    astream_of,
    call,
    check_kind,
    copied,
    merged,
    replay,
    stream_of,
)

_LOG = logging.getLogger(__name__)
_IN_FLIGHT = "in_flight"
_key_of = KeyMaker()
# How an answer is transported does not change it.
_TRANSPORT = frozenset({"stream", "stream_usage", "stream_options"})


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    """One request as a cache knows it."""

    prompt: str
    llm_string: str
    key: Hashable
    """Equal for requests that may share an answer."""
    schema: Any
    """What was asked for as `response_format`."""


class CachedChatModel(WrappedChatModel):
    """Answers from a cache where it can, with one call for any number of identical ones in flight.

    Stands wherever the wrapped model stood: `invoke`, `batch`, `stream`, their async twins,
    `bind_tools` and `with_structured_output`, agents and graphs. A served answer has an id of its
    own, is marked (see `messages.cache_source`; `in_flight` where an identical call made it), and a
    served stream comes in chunks. Streams that the caller abandons are not kept. The wrapped
    model's own cache and the global one are not asked. A cache that raises is logged once, counted
    in `cache_failures`, and the call goes to the model.

    Identical calls wait for the first of them. If it fails or is cancelled, the next one makes
    the call; so with a model that is down every caller gets its own error.

    Args:
        model: The model to ask.
        cache: Any LangChain cache; those of this package also partition by tenant.
        lease: A `Lease` in Redis, so that other processes wait for an identical call too; for a
            cache that they share.

    >>> from langchain_tokenopt.caches import MemoryCache
    >>> from langchain_tokenopt.testing import ScriptedModel
    >>> upstream = ScriptedModel(["four"])
    >>> model = CachedChatModel(upstream, cache=MemoryCache())
    >>> model.invoke("2 + 2?").text, "".join(chunk.text for chunk in model.stream("2 + 2?"))
    ('four', 'four')
    >>> upstream.calls
    1
    """

    response_cache: BaseCache

    _tally: Tally = PrivateAttr(default_factory=Tally)
    _lease: Leases | None = PrivateAttr(default=None)
    _leads: Leads = PrivateAttr()
    _keyed: Keyed | None = PrivateAttr()

    def __init__(
        self,
        model: BaseChatModel,
        *,
        cache: BaseCache,
        lease: Leases | None = None,
        **keywords: Any,
    ) -> None:
        check_kind(cache, BaseCache, "pass a LangChain cache, such as MemoryCache()")
        super().__init__(model, **{**keywords, "response_cache": cache})
        self._lease = lease
        self._leads = Leads(cache, lease=lease)
        self._keyed = cache if isinstance(cache, Keyed) else None  # slow to ask each time

    @property
    def cache_failures(self) -> int:
        """How often the cache raised; the calls went on without it."""
        return self._tally.of("failures")

    @override
    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        request = self._request(messages, stop, kwargs)
        found = self._lookup(request)
        if found is not None:
            return ChatResult(generations=found)
        with self._lead(request) as lead:
            spared = self._spared(lead, request)
            if spared is not None:
                return ChatResult(generations=spared)
            result = call(self.model, messages, stop, run_manager, kwargs)
            self._share(lead, request, result)
            return result

    @override
    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        request = self._request(messages, stop, kwargs)
        found = await self._alookup(request)
        if found is not None:
            return ChatResult(generations=found)
        async with self._alead(request) as lead:
            spared = self._spared(lead, request)
            if spared is not None:
                return ChatResult(generations=spared)
            result = await acall(self.model, messages, stop, run_manager, kwargs)
            await self._ashare(lead, request, result)
            return result

    @override
    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        request = self._request(messages, stop, kwargs)
        found = self._lookup(request)
        if found is not None:
            yield from replay(found[0])
            return
        with self._lead(request, streams=True) as lead:
            spared = self._spared(lead, request)
            if spared is not None:
                yield from replay(spared[0])
                return
            chunks = []
            with closing(stream_of(self.model, messages, stop, self._call, kwargs)) as stream:
                for chunk in stream:
                    chunks.append(copied(chunk))
                    lead.pause()
                    yield chunk
                    lead.resume()
            self._share(lead, request, merged(chunks))

    @override
    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        request = self._request(messages, stop, kwargs)
        found = await self._alookup(request)
        if found is not None:
            for chunk in replay(found[0]):
                yield chunk
            return
        async with self._alead(request, streams=True) as lead:
            spared = self._spared(lead, request)
            if spared is not None:
                for chunk in replay(spared[0]):
                    yield chunk
                return
            chunks = []
            async with aclosing(
                astream_of(self.model, messages, stop, self._call, kwargs)
            ) as stream:
                async for chunk in stream:
                    chunks.append(copied(chunk))
                    lead.pause()
                    yield chunk
                    lead.resume()
            await self._ashare(lead, request, merged(chunks))

    @override
    def _around(self, model: BaseChatModel) -> BaseChatModel:
        return type(self)(model, cache=self.response_cache, lease=self._lease)

    def _lead(self, request: _Request, *, streams: bool = False) -> AbstractContextManager[Lead]:
        return self._leads.take(
            request.key, again=partial(self._lookup, request, again=True), streams=streams
        )

    def _alead(
        self, request: _Request, *, streams: bool = False
    ) -> AbstractAsyncContextManager[Lead]:
        return self._leads.atake(
            request.key, again=partial(self._alookup, request, again=True), streams=streams
        )

    def _spared(self, lead: Lead, request: _Request) -> Answers | None:
        """Return what makes the call needless, `None` if it is to be made."""
        if lead.found is not None:
            return lead.found
        return self._served(lead.shared, request, source=_IN_FLIGHT)

    def _request(
        self, messages: Sequence[BaseMessage], stop: list[str] | None, kwargs: dict[str, Any]
    ) -> _Request:
        asked = {k: _stable(v) for k, v in kwargs.items() if k not in _TRANSPORT}
        llm_string = self.model._get_llm_string(stop=stop, **asked)
        prompt = dumps([_without_id(message) for message in messages])
        if self._keyed is not None:
            make_key = self._keyed.key
        else:  # a cache that would miss a conversation once it was served
            prompt, make_key = canonical_prompt(prompt), _key_of
        return _Request(
            prompt=prompt,
            llm_string=llm_string,
            # A request that asks for a fresh answer leads, and waits for nobody.
            key=object() if current_control().no_cache else make_key(prompt, llm_string),
            schema=kwargs.get("response_format"),
        )

    def _lookup(self, request: _Request, *, again: bool = False) -> Answers | None:
        if self._skips_lookup():
            return None
        cache = self.response_cache
        look = self._keyed.lookup_again if again and self._keyed else cache.lookup
        try:
            found = look(request.prompt, request.llm_string)
            return self._served(found, request)
        except Exception as error:  # noqa: BLE001 - no cache may break the call
            self._failed(error)
            return None

    async def _alookup(self, request: _Request, *, again: bool = False) -> Answers | None:
        if self._skips_lookup():
            return None
        cache = self.response_cache
        look = self._keyed.alookup_again if again and self._keyed else cache.alookup
        try:
            found = await look(request.prompt, request.llm_string)
            return self._served(found, request)
        except Exception as error:  # noqa: BLE001 - no cache may break the call
            self._failed(error)
            return None

    def _skips_lookup(self) -> bool:
        """Return whether a cache that does not know `cache_control` must not be asked."""
        return current_control().no_cache and not isinstance(self.response_cache, ExactCache)

    def _share(self, lead: Lead, request: _Request, result: ChatResult) -> None:
        """Hand an answer to those who wait, and to the cache for those who come later."""
        if not result.generations:
            return
        answers = settled(result)
        lead.turn.deliver(answers)
        if current_control().no_store or is_likeness(result.generations):
            return
        try:
            self.response_cache.update(request.prompt, request.llm_string, answers)
        except Exception as error:  # noqa: BLE001 - no cache may break the call
            self._failed(error)

    async def _ashare(self, lead: Lead, request: _Request, result: ChatResult) -> None:
        if not result.generations:
            return
        answers = settled(result)
        lead.turn.deliver(answers)
        if current_control().no_store or is_likeness(result.generations):
            return
        try:
            await self.response_cache.aupdate(request.prompt, request.llm_string, answers)
        except Exception as error:  # noqa: BLE001 - no cache may break the call
            self._failed(error)

    def _failed(self, error: Exception) -> None:
        self._tally.add("failures")
        if self._tally.of("failures") == 1:
            _LOG.warning("the cache failed, calls go on without it: %r", error)

    def _served(
        self, found: Sequence[Any] | None, request: _Request, *, source: str | None = None
    ) -> Answers | None:
        if not found:
            return None
        if source is None and isinstance(self.response_cache, ExactCache):
            answers = _without_ids(found)  # fresh and marked already
        else:
            answers = served(found, source=source or type(self.response_cache).__name__)
        restore_parsed(answers, schema=request.schema)
        return answers


def _without_id(message: BaseMessage) -> BaseMessage:
    return message if message.id is None else message.model_copy(update={"id": None})


def _without_ids(found: Sequence[Any]) -> Answers:
    """Leave the ids to LangChain, which names messages after their run."""
    for answer in found:
        answer.message.id = None
    return list(found)


def _stable(value: Any) -> Any:
    """Return a value as it may stand in a key: classes by their schema, not by their address."""
    if isinstance(value, type) and issubclass(value, BaseModel):
        return {"schema": value.model_json_schema(), "name": value.__name__}
    return value
