"""Ask a chat model without its own cache, the way LangChain asks it."""

from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from contextlib import aclosing, closing
from inspect import signature
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import BaseMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.outputs.chat_generation import merge_chat_generation_chunks

from langchain_tokenopt.wrapping.chunks import replay
from langchain_tokenopt.wrapping.model import Call, WrappedChatModel


def call(
    model: BaseChatModel,
    messages: list[BaseMessage],
    stop: list[str] | None,
    run_manager: CallbackManagerForLLMRun | None,
    kwargs: dict[str, Any],
) -> ChatResult:
    """Return the model's answer; its rate limit is kept."""
    if _always_streams(model):
        with closing(stream_of(model, messages, stop, None, kwargs)) as stream:
            return merged(list(stream))
    if model.rate_limiter is not None:
        model.rate_limiter.acquire(blocking=True)
    return model._generate(messages, stop, **_managed(model._generate, run_manager), **kwargs)


async def acall(
    model: BaseChatModel,
    messages: list[BaseMessage],
    stop: list[str] | None,
    run_manager: AsyncCallbackManagerForLLMRun | None,
    kwargs: dict[str, Any],
) -> ChatResult:
    """Return the model's answer; its rate limit is kept."""
    if _always_streams(model):
        async with aclosing(astream_of(model, messages, stop, None, kwargs)) as stream:
            return merged([chunk async for chunk in stream])
    if model.rate_limiter is not None:
        await model.rate_limiter.aacquire(blocking=True)
    managed = _managed(model._agenerate, run_manager)
    return await model._agenerate(messages, stop, **managed, **kwargs)


def stream_of(
    model: BaseChatModel,
    messages: list[BaseMessage],
    stop: list[str] | None,
    caller: Call | None,
    kwargs: dict[str, Any],
) -> Generator[ChatGenerationChunk]:
    """Yield the model's answer as it comes; whole, in chunks, from one that cannot stream."""
    if type(model)._stream is BaseChatModel._stream:
        yield from replay(call(model, messages, stop, None, kwargs).generations[0])
        return
    if model.rate_limiter is not None:
        model.rate_limiter.acquire(blocking=True)
    yield from model._stream(messages, stop, **_told(model, caller), **kwargs)


async def astream_of(
    model: BaseChatModel,
    messages: list[BaseMessage],
    stop: list[str] | None,
    caller: Call | None,
    kwargs: dict[str, Any],
) -> AsyncGenerator[ChatGenerationChunk]:
    """Yield the model's answer as it comes; whole, in chunks, from one that cannot stream."""
    if not _streams(model):
        result = await acall(model, messages, stop, None, kwargs)
        for chunk in replay(result.generations[0]):
            yield chunk
        return
    if model.rate_limiter is not None:
        await model.rate_limiter.aacquire(blocking=True)
    stream: Any = model._astream(messages, stop, **_told(model, caller), **kwargs)
    async with aclosing(stream):  # unlike `yield from`, `async for` leaves it open
        async for chunk in stream:
            yield chunk


def copied(chunk: ChatGenerationChunk) -> ChatGenerationChunk:
    """Return a chunk to keep: LangChain fills in the ones that it hands on."""
    return chunk.model_copy(update={"message": chunk.message.model_copy()})


def merged(chunks: Sequence[ChatGenerationChunk]) -> ChatResult:
    """Return the answer that the chunks add up to, without generations if there were none."""
    whole = merge_chat_generation_chunks(list(chunks))
    return ChatResult(generations=[] if whole is None else [whole])


def _streams(model: BaseChatModel) -> bool:
    kind = type(model)
    return kind._stream is not BaseChatModel._stream or kind._astream is not BaseChatModel._astream


def _managed(method: Callable[..., Any], run_manager: Any) -> dict[str, Any]:
    """Return the run manager for a method that takes it; not every model's does."""
    takes = "run_manager" in signature(method).parameters
    return {"run_manager": run_manager} if takes else {}


def _told(model: BaseChatModel, caller: Call | None) -> dict[str, Any]:
    """Return who calls, for a wrapper that reads it as it reads a run manager."""
    reads = isinstance(model, WrappedChatModel) and model._reads_call and caller is not None
    return {"run_manager": caller} if reads else {}


def _always_streams(model: BaseChatModel) -> bool:
    """Return whether the model was made with `streaming=True`: LangChain then never generates."""
    return "streaming" in model.model_fields_set and getattr(model, "streaming", None) is True
