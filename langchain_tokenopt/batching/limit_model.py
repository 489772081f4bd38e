"""A chat model that waits until its provider's limits leave room."""

import asyncio
import math
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import aclosing, closing
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from pydantic import PrivateAttr
from typing_extensions import override

from langchain_tokenopt.batching.limit import Lease, RateLimiter
from langchain_tokenopt.errors import ConfigurationError
from langchain_tokenopt.tokens import counter_for
from langchain_tokenopt.wrapping import WrappedChatModel, acall, astream_of, call, stream_of

_FIRST_OUTPUT = 500.0  # tokens that an answer is taken to have, until some were seen
_LEARN = 0.1
_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 120.0


class RateLimitedChatModel(WrappedChatModel):
    """Waits before each call until the limits leave room for its tokens.

    Room is taken for the counted input and for `max_tokens`, or without them for an answer as long
    as most were; after the call what was not used is given back. When the provider says that it
    has enough (status 429), all who share the limiter wait for as long as it says; the call itself
    fails as it would: see `with_retry`.

    Args:
        model: The model to ask.
        limiter: Knows the limits; share one between all models of the same account and limit.

    >>> from langchain_tokenopt.testing import ScriptedModel
    >>> limiter = RateLimiter(tokens_per_minute=90_000)
    >>> RateLimitedChatModel(ScriptedModel(["four"]), limiter=limiter).invoke("2 + 2?").text
    'four'
    """

    _limiter: RateLimiter = PrivateAttr()
    _output: "_Typical" = PrivateAttr()

    def __init__(self, model: BaseChatModel, *, limiter: RateLimiter, **keywords: Any) -> None:
        super().__init__(model, **keywords)
        self._limiter = limiter
        self._output = _Typical()

    @override
    def _around(self, model: BaseChatModel) -> BaseChatModel:
        return type(self)(model, limiter=self._limiter)

    def _needed(self, messages: list[BaseMessage], kwargs: Mapping[str, Any]) -> int:
        name = self.model._get_ls_params().get("ls_model_name")
        read = counter_for(name).count_messages(messages, tools=kwargs.get("tools") or ())
        most = self._limiter.rates.tokens
        if most is not None and read > most:
            message = (
                f"the request has {read:,} input tokens, {most:,} a minute are allowed: no wait is "
                "long enough; shorten it, or raise tokens_per_minute if the provider's limit is"
            )
            raise ConfigurationError(message)
        given = (
            kwargs.get("max_completion_tokens")
            or kwargs.get("max_tokens")
            or getattr(self.model, "max_tokens", None)
        )
        return read + (int(given) if given else self._output.tokens)

    def _used(self, message: Any) -> int | None:
        usage = message.usage_metadata if isinstance(message, AIMessage) else None
        if not usage:
            return None
        self._output.learn(int(usage.get("output_tokens") or 0))
        return int(usage.get("total_tokens") or 0)

    def _failed(self, lease: Lease, error: BaseException) -> None:
        headers = _headers_of(error)
        if headers is not None:
            self._limiter.pause(_pause_s(headers))
        # What the provider refused does not count; what was left under way may.
        if headers is not None or _was_refused(error):
            self._limiter.settle(lease, used=None)

    @override
    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        lease = self._limiter.take(self._needed(messages, kwargs))
        try:
            result = call(self.model, messages, stop, run_manager, kwargs)
        except BaseException as error:
            self._failed(lease, error)
            raise
        self._limiter.settle(lease, used=self._used_of(result, lease))
        return result

    @override
    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        lease = await self._limiter.atake(self._needed(messages, kwargs))
        try:
            result = await acall(self.model, messages, stop, run_manager, kwargs)
        except Exception as error:
            await self._aside(self._failed, lease, error)
            raise
        await self._aside(self._settle, lease, self._used_of(result, lease))
        return result

    @override
    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        lease, used = self._limiter.take(self._needed(messages, kwargs)), 0
        try:
            with closing(stream_of(self.model, messages, stop, self._call, kwargs)) as stream:
                for chunk in stream:
                    used = max(used, self._used(chunk.message) or 0)
                    yield chunk
        except Exception as error:
            self._failed(lease, error)
            raise
        self._limiter.settle(lease, used=used or lease.tokens)

    @override
    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        lease, used = await self._limiter.atake(self._needed(messages, kwargs)), 0
        try:
            stream = astream_of(self.model, messages, stop, self._call, kwargs)
            async with aclosing(stream):
                async for chunk in stream:
                    used = max(used, self._used(chunk.message) or 0)
                    yield chunk
        except Exception as error:
            await self._aside(self._failed, lease, error)
            raise
        await self._aside(self._settle, lease, used or lease.tokens)

    def _settle(self, lease: Lease, used: int) -> None:
        self._limiter.settle(lease, used=used)

    async def _aside(self, function: Any, *given: Any) -> None:
        if self._limiter.blocks:
            await asyncio.to_thread(function, *given)
        else:
            function(*given)

    def _used_of(self, result: ChatResult, lease: Lease) -> int:
        message = result.generations[0].message if result.generations else None
        used = self._used(message)
        return lease.tokens if used is None else used


class _Typical:
    """How many tokens most answers have: the mean and two deviations, of the latest more."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._mean: float | None = None
        self._variance = 0.0

    @property
    def tokens(self) -> int:
        """An answer's tokens."""
        with self._lock:
            if self._mean is None:
                return math.ceil(_FIRST_OUTPUT)
            return math.ceil(self._mean + 2 * math.sqrt(self._variance))

    def learn(self, tokens: int) -> None:
        """See an answer."""
        with self._lock:
            if self._mean is None:
                self._mean, self._variance = float(tokens), (tokens / 2) ** 2
                return
            off = tokens - self._mean
            self._mean += _LEARN * off
            self._variance = (1 - _LEARN) * (self._variance + _LEARN * off * off)


def _headers_of(error: BaseException | None) -> Mapping[str, str] | None:
    """Return the headers of a provider that has enough, `None` for any other error."""
    while error is not None:
        response = getattr(error, "response", None)
        status = getattr(error, "status_code", None) or getattr(response, "status_code", None)
        if status == 429:
            return getattr(response, "headers", None) or {}
        error = error.__cause__
    return None


def _pause_s(headers: Mapping[str, str]) -> float:
    """Return how long a provider says to wait: OpenAI's and Anthropic's headers are alike."""
    told = headers.get("retry-after-ms")
    seconds = _number(told)
    if seconds is not None:
        return _bounded(seconds / 1000)
    told = headers.get("retry-after")
    seconds = _number(told)
    if seconds is None and told:
        try:
            seconds = (parsedate_to_datetime(told) - datetime.now(UTC)).total_seconds()
        except (TypeError, ValueError):
            seconds = None
    return _bounded(_PAUSE_S if seconds is None else seconds)


def _number(text: str | None) -> float | None:
    try:
        number = float(text or "")
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _bounded(seconds: float) -> float:
    return min(max(seconds, 0.05), _LONGEST_PAUSE_S)


def _was_refused(error: BaseException) -> bool:
    status = getattr(error, "status_code", None)
    return isinstance(status, int) and 400 <= status < 500
