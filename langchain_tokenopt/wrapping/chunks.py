"""A whole answer as a stream of chunks."""

import json
import re
from collections.abc import Iterator

from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.messages.tool import ToolCallChunk, tool_call_chunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk

_MOST_CHUNKS = 64
_WORD = re.compile(r"\S{1,24}\s*|\s+")


def replay(generation: ChatGeneration) -> Iterator[ChatGenerationChunk]:
    """Yield an answer as a stream whose sum is the answer.

    Text comes a few words at a time, in at most 64 chunks: the boundaries of the first stream are
    not kept, since an answer may come from a call that did not stream. Tool calls, usage and
    metadata come whole, on the last chunk.
    """
    message = generation.message
    content = message.content
    if isinstance(content, str):
        for piece in _pieces(content):
            yield ChatGenerationChunk(message=AIMessageChunk(content=piece))
    elif content:
        yield ChatGenerationChunk(message=AIMessageChunk(content=content))
    called = message if isinstance(message, AIMessage) else AIMessage("")
    yield ChatGenerationChunk(
        message=AIMessageChunk(
            content="" if isinstance(content, str) else [],
            additional_kwargs=message.additional_kwargs,
            response_metadata=message.response_metadata,
            usage_metadata=called.usage_metadata,
            tool_call_chunks=_call_chunks(called),
            name=message.name,
            chunk_position="last",
        ),
        generation_info=generation.generation_info,
    )


def _pieces(text: str) -> Iterator[str]:
    words = _WORD.findall(text)
    step = max(1, -(-len(words) // (_MOST_CHUNKS - 1)))
    for start in range(0, len(words), step):
        yield "".join(words[start : start + step])


def _call_chunks(message: AIMessage) -> list[ToolCallChunk]:
    calls = [(call["name"], json.dumps(call["args"]), call["id"]) for call in message.tool_calls]
    broken = [(call["name"], call["args"], call["id"]) for call in message.invalid_tool_calls]
    return [
        tool_call_chunk(name=name, args=arguments, id=call_id, index=index)
        for index, (name, arguments, call_id) in enumerate([*calls, *broken])
    ]
