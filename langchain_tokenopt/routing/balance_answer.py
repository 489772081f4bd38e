"""The answer of a deployment: a stream's first token, and whose answer it is."""

from collections.abc import AsyncGenerator, Generator
from typing import Any

from langchain_core.messages import BaseMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult

from langchain_tokenopt.routing.balance_board import Turn
from langchain_tokenopt.routing.balance_race import Begun
from langchain_tokenopt.wrapping import copied

_DEPLOYMENT = "deployment"


def opened(turn: Turn, stream: Generator[ChatGenerationChunk]) -> Begun:
    """Return a stream that gave its first token."""
    chunks: list[ChatGenerationChunk] = []
    for chunk in stream:
        chunks.append(chunk)
        if _says_something(chunk):
            break
    return Begun(turn=turn, stream=stream, chunks=_named_first(chunks, turn))


async def aopened(turn: Turn, stream: AsyncGenerator[ChatGenerationChunk]) -> Begun:
    """Do what `opened` does without blocking the event loop."""
    chunks: list[ChatGenerationChunk] = []
    async for chunk in stream:
        chunks.append(chunk)
        if _says_something(chunk):
            break
    return Begun(turn=turn, astream=stream, chunks=_named_first(chunks, turn))


def named(begun: Begun) -> ChatResult:
    """Return an answer that says which deployment gave it."""
    result = begun.result
    assert result is not None  # noqa: S101 - a stream is not named as a whole
    for generation in result.generations:
        generation.message = _named(generation.message, begun.turn)
    return result


def _named_first(chunks: list[ChatGenerationChunk], turn: Turn) -> list[ChatGenerationChunk]:
    """Name the deployment once: LangChain joins the metadata of all chunks."""
    if not chunks:
        return []
    first = copied(chunks[0])
    first.message = _named(first.message, turn)
    return [first, *chunks[1:]]


def _named(message: Any, turn: Turn) -> Any:
    served = {**message.response_metadata, _DEPLOYMENT: turn.deployment.name}
    return message.model_copy(update={"response_metadata": served})


def _says_something(chunk: ChatGenerationChunk) -> bool:
    """Return whether a chunk holds more than the beginning of a message."""
    message: BaseMessage = chunk.message
    return bool(
        message.content
        or message.additional_kwargs
        or getattr(message, "tool_call_chunks", None)
        or getattr(message, "usage_metadata", None)
    )
