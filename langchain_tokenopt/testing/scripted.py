"""A chat model that answers by script: the paid model, and only that, replaced in tests."""

import asyncio
import json
import re
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from langchain_core.callbacks import (
    AsyncCallbackManagerForLLMRun,
    CallbackManagerForLLMRun,
)
from langchain_core.language_models import BaseChatModel, LangSmithParams, LanguageModelInput
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, UsageMetadata
from langchain_core.messages.ai import InputTokenDetails
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import ConfigDict, PrivateAttr

from langchain_tokenopt.errors import ConfigurationError, ScriptExhaustedError


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A scripted failure: `error` is raised, in a stream after `after_chunks` chunks of `text`."""

    error: BaseException
    after_chunks: int = 0
    text: str = ""


Answer = str | AIMessage | BaseException | Failure
Script = Answer | Callable[[list[BaseMessage]], Answer]


def count_words(text: str) -> int:
    """Return the number of words and punctuation marks: a count that a reader can check by eye.

    >>> count_words("2 + 2?")
    4
    """
    return len(re.findall(r"\w+|[^\w\s]", text))


class ScriptedModel(BaseChatModel):
    """Answer each call with the next entry of a script.

    An entry is a text, an `AIMessage` (its tool calls, usage and metadata are kept), an exception
    or `Failure` to raise, or a function of the messages that returns one of these. A message
    without usage gets one counted by `count_words`, unless `usage` is `"none"`. Streams yield a
    chunk a word, with the usage on the last.

    Args:
        answers: The script.
        model_name: Reported as the model asked and served.
        provider: Reported as LangChain's name of the provider: `openai`, `anthropic`, ...
        usage: `"counted"`, or `"none"` for a model that reports no usage.
        when_exhausted: What a call after the last answer gets: an error, the last answer again, or
            the script from the start.
        first_token_s: Wait before the first token, in seconds.
        latency_s: Wait of a whole call; a stream spreads the rest of it over its chunks.

    >>> model = ScriptedModel(["four"])
    >>> model.invoke("2 + 2?").text, model.calls
    ('four', 1)
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    answers: list[Any]
    model_name: str = "scripted"
    provider: str = "scripted"
    usage: Literal["counted", "none"] = "counted"
    when_exhausted: Literal["raise", "repeat_last", "cycle"] = "raise"
    first_token_s: float = 0.0
    latency_s: float = 0.0
    sleep: Callable[[float], None] = time.sleep
    async_sleep: Callable[[float], Awaitable[None]] = asyncio.sleep

    _lock: threading.Lock = PrivateAttr(default_factory=threading.Lock)
    _requests: list[list[BaseMessage]] = PrivateAttr(default_factory=list)
    _keywords: list[dict[str, Any]] = PrivateAttr(default_factory=list)

    def __init__(self, answers: Sequence[Script], **keywords: Any) -> None:
        if isinstance(answers, str) or not answers:
            message = f"expected a sequence with at least one answer, got {answers!r:.80}"
            raise ConfigurationError(message)
        super().__init__(**{"answers": list(answers), **keywords})

    @property
    def calls(self) -> int:
        """How often the model was asked, failed calls included."""
        return len(self._requests)

    @property
    def requests(self) -> list[list[BaseMessage]]:
        """The messages of each call, oldest first."""
        return [list(request) for request in self._requests]

    @property
    def keywords(self) -> list[dict[str, Any]]:
        """The bound and passed keyword arguments of each call: stop, tools, ..."""
        return [dict(keyword) for keyword in self._keywords]

    @property
    def _llm_type(self) -> str:
        return "scripted"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {"model_name": self.model_name}

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        del stop, kwargs
        return LangSmithParams(
            ls_provider=self.provider, ls_model_name=self.model_name, ls_model_type="chat"
        )

    def bind_tools(
        self, tools: Sequence[Any], *, tool_choice: Any = None, **kwargs: Any
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Return this model with `tools` bound in OpenAI's form."""
        chosen = {} if tool_choice is None else {"tool_choice": tool_choice}
        return self.bind(tools=[convert_to_openai_tool(tool) for tool in tools], **chosen, **kwargs)

    def _next(self, messages: list[BaseMessage], keywords: dict[str, Any]) -> AIMessage | Failure:
        with self._lock:
            turn = len(self._requests)
            self._requests.append(list(messages))
            self._keywords.append(keywords)
        if turn >= len(self.answers) and self.when_exhausted == "raise":
            message = (
                f"call {turn + 1} of a script with {len(self.answers)} answers; add answers or "
                'set when_exhausted to "repeat_last" or "cycle"'
            )
            raise ScriptExhaustedError(message)
        last = len(self.answers) - 1
        step = turn % (last + 1) if self.when_exhausted == "cycle" else min(turn, last)
        entry = self.answers[step]
        if callable(entry) and not isinstance(entry, BaseMessage):
            entry = entry(list(messages))
        if isinstance(entry, BaseException):
            return Failure(error=entry)
        if isinstance(entry, Failure):
            return entry
        answer = AIMessage(entry) if isinstance(entry, str) else entry
        served = {"model_name": self.model_name, **answer.response_metadata}
        counted = answer.usage_metadata or self._count(messages, answer)
        return answer.model_copy(update={"response_metadata": served, "usage_metadata": counted})

    def _count(self, messages: list[BaseMessage], answer: AIMessage) -> UsageMetadata | None:
        if self.usage == "none":
            return None
        read = sum(count_words(message.text) for message in messages)
        written = count_words(answer.text) + sum(
            count_words(f"{call['name']} {call['args']}") for call in answer.tool_calls
        )
        return UsageMetadata(
            input_tokens=read,
            output_tokens=written,
            total_tokens=read + written,
            input_token_details=InputTokenDetails(cache_read=0),
        )

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        answer = self._next(messages, {"stop": stop, **kwargs})
        if self._whole_wait_s:
            self.sleep(self._whole_wait_s)
        return _result(answer)

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        answer = self._next(messages, {"stop": stop, **kwargs})
        if self._whole_wait_s:
            await self.async_sleep(self._whole_wait_s)
        return _result(answer)

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        answer = self._next(messages, {"stop": stop, **kwargs})
        for wait_s, chunk in self._chunks(answer):
            if wait_s:
                self.sleep(wait_s)
            if run_manager:
                run_manager.on_llm_new_token(str(chunk.text), chunk=chunk)
            yield chunk

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        answer = self._next(messages, {"stop": stop, **kwargs})
        for wait_s, chunk in self._chunks(answer):
            if wait_s:
                await self.async_sleep(wait_s)
            if run_manager:
                await run_manager.on_llm_new_token(str(chunk.text), chunk=chunk)
            yield chunk

    @property
    def _whole_wait_s(self) -> float:
        return max(self.latency_s, self.first_token_s)

    def _chunks(self, answer: AIMessage | Failure) -> Iterator[tuple[float, ChatGenerationChunk]]:
        """Yield the wait before each chunk, and the chunk."""
        text = answer.text
        pieces = re.findall(r"\S+\s*|^\s+", text)
        if isinstance(answer, Failure):
            for piece in pieces[: answer.after_chunks]:
                yield 0.0, ChatGenerationChunk(message=AIMessageChunk(content=piece))
            raise answer.error
        later_s = max(self.latency_s - self.first_token_s, 0.0) / max(len(pieces), 1)
        wait_s = self.first_token_s
        for piece in pieces:
            yield wait_s, ChatGenerationChunk(message=AIMessageChunk(content=piece))
            wait_s = later_s
        yield (wait_s, _last_chunk(answer))


def _result(answer: AIMessage | Failure) -> ChatResult:
    if isinstance(answer, Failure):
        raise answer.error
    # A copy: callers may change what they are given, and the script must stay as written.
    message = answer.model_copy(deep=True)
    return ChatResult(
        generations=[ChatGeneration(message=message)],
        llm_output={"model_name": answer.response_metadata.get("model_name")},
    )


def _last_chunk(answer: AIMessage) -> ChatGenerationChunk:
    calls = [
        tool_call_chunk(
            name=call["name"], args=json.dumps(call["args"]), id=call["id"], index=index
        )
        for index, call in enumerate(answer.tool_calls)
    ]
    return ChatGenerationChunk(
        message=AIMessageChunk(
            content="",
            tool_call_chunks=calls,
            usage_metadata=answer.usage_metadata,
            response_metadata=answer.response_metadata,
            additional_kwargs=answer.additional_kwargs,
            chunk_position="last",
        )
    )
