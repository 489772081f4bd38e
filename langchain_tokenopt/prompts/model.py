"""A chat model that tells its provider what to cache."""

from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, closing
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import BaseMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from pydantic import PrivateAttr
from typing_extensions import override

from langchain_tokenopt.prompts.hints import CacheHints, hinted, model_and_provider
from langchain_tokenopt.wrapping import WrappedChatModel, acall, astream_of, call, stream_of


class HintedChatModel(WrappedChatModel):
    """Sends each request with its tools sorted and with the hints that its provider takes.

    Stands wherever the wrapped model stood; what it adds is on no message that the caller sees, so
    falling back to a model of another provider needs nothing else:
    `HintedChatModel(openai).with_fallbacks([HintedChatModel(anthropic)])`. A key, a mark or an
    option that the caller gave for another provider is taken off.

    Args:
        model: The model to ask.
        hints: What to tell.

    >>> from langchain_tokenopt.testing import ScriptedModel
    >>> upstream = ScriptedModel(["four"], model_name="gpt-5-mini", provider="openai")
    >>> HintedChatModel(upstream).invoke("2 + 2?").text
    'four'
    >>> upstream.keywords[0]["prompt_cache_key"].startswith("tokenopt-")
    True
    """

    _hints: CacheHints = PrivateAttr()

    def __init__(
        self, model: BaseChatModel, *, hints: CacheHints | None = None, **keywords: Any
    ) -> None:
        super().__init__(model, **keywords)
        self._hints = hints or CacheHints()

    @override
    def _around(self, model: BaseChatModel) -> BaseChatModel:
        return type(self)(model, hints=self._hints)

    @property
    @override
    def _reads_call(self) -> bool:
        return super()._reads_call or self._hints.shard_by is not None

    def _hinted(
        self, messages: list[BaseMessage], run_manager: Any, kwargs: dict[str, Any]
    ) -> tuple[list[BaseMessage], dict[str, Any]]:
        model, provider = model_and_provider(self.model)
        request = hinted(
            messages,
            kwargs,
            model=model,
            provider=provider,
            hints=self._hints,
            metadata=self._call_of(run_manager).metadata,
        )
        return request.messages, request.keywords

    @override
    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        told, keywords = self._hinted(messages, run_manager, kwargs)
        return call(self.model, told, stop, run_manager, keywords)

    @override
    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        told, keywords = self._hinted(messages, run_manager, kwargs)
        return await acall(self.model, told, stop, run_manager, keywords)

    @override
    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        told, keywords = self._hinted(messages, run_manager, kwargs)
        with closing(stream_of(self.model, told, stop, self._call, keywords)) as stream:
            yield from stream

    @override
    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        told, keywords = self._hinted(messages, run_manager, kwargs)
        async with aclosing(astream_of(self.model, told, stop, self._call, keywords)) as stream:
            async for chunk in stream:
                yield chunk
