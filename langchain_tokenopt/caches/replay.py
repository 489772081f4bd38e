"""Answers on their way into a cache and out again: settled in, fresh copies out."""

from collections.abc import Sequence
from typing import Any

from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, message_chunk_to_message
from langchain_core.outputs import ChatGeneration, ChatResult
from pydantic import BaseModel, ValidationError

from langchain_tokenopt.caches.codec import copied
from langchain_tokenopt.messages import CACHE_MARK, SEMANTIC, mark_cache_hit


def settled(result: ChatResult) -> list[ChatGeneration]:
    """Return copies of the answers of a model as they should be kept.

    A chunk has become a message. Ids and marks of an earlier hit are gone, for both belong to one
    call. What the model says about the whole call stands in the message, where LangChain puts it.
    A `parsed` object is left out: `restore_parsed` makes it again from the text.
    """
    single = len(result.generations) == 1
    called = (result.llm_output or {}) if single else {}
    return [_settle(generation, called) for generation in result.generations]


def _settle(generation: ChatGeneration, called: dict[str, Any]) -> ChatGeneration:
    info = generation.generation_info
    message = generation.message
    if isinstance(message, AIMessageChunk):
        message = message_chunk_to_message(message)
    metadata = {**called, **_public(info), **message.response_metadata}
    metadata.pop(CACHE_MARK, None)
    extras = {
        name: value
        for name, value in message.additional_kwargs.items()
        if not (name == "parsed" and isinstance(value, BaseModel))
    }
    changed: dict[str, Any] = {
        "id": None,
        "response_metadata": copied(metadata),
        "additional_kwargs": copied(extras),
        "content": copied(message.content),
    }
    if isinstance(message, AIMessage):
        usage: dict[str, Any] = dict(message.usage_metadata or {})
        if usage.get("total_cost") == 0:
            del usage["total_cost"]
        changed["usage_metadata"] = copied(usage) or None
        changed["tool_calls"] = copied(message.tool_calls)
        changed["invalid_tool_calls"] = copied(message.invalid_tool_calls)
    return ChatGeneration(message=message.model_copy(update=changed), generation_info=copied(info))


def _public(info: dict[str, Any] | None) -> dict[str, Any]:
    # LangChain keeps what it traces about gateways out of messages, so this does too.
    return {k: v for k, v in (info or {}).items() if k != "lc_gateway_metadata"}


def served(generations: Sequence[Any], *, source: str) -> list[ChatGeneration]:
    """Return fresh copies that say where they come from; ids are left to the run they are for.

    A mark that names a source is kept: the cache that found the answer knows better.
    """
    return [_serve(generation, source) for generation in generations]


def _serve(generation: Any, source: str) -> ChatGeneration:
    info = copied(generation.generation_info)
    if not isinstance(generation, ChatGeneration):  # what a cache for plain models gives back
        message: BaseMessage = AIMessage(generation.text)
    else:
        message = _settle(generation, {}).message
    if isinstance(message, AIMessage):
        message = mark_cache_hit(message, source=source)
        mark = _mark_of(generation)
        if mark is not None:
            message.response_metadata[CACHE_MARK] = copied(mark)
    return ChatGeneration(message=message, generation_info=info)


def is_likeness(generations: Sequence[Any]) -> bool:
    """Return whether a semantic cache served this, so that it must not be kept as an answer."""
    return any((_mark_of(each) or {}).get("source") == SEMANTIC for each in generations)


def _mark_of(generation: Any) -> dict[str, Any] | None:
    if not isinstance(generation, ChatGeneration):
        return None
    mark = generation.message.response_metadata.get(CACHE_MARK)
    return mark if isinstance(mark, dict) and "source" in mark else None


def restore_parsed(generations: Sequence[ChatGeneration], *, schema: Any) -> None:
    """Put the `parsed` object back that a model makes of its text when asked for `schema`.

    `schema` is what was asked for as `response_format`; all but pydantic classes need nothing.
    """
    if not (isinstance(schema, type) and issubclass(schema, BaseModel)):
        return
    for generation in generations:
        message = generation.message
        text = str(message.text)
        if not text or message.additional_kwargs.get("parsed") is not None:
            continue
        try:
            message.additional_kwargs["parsed"] = schema.model_validate_json(text)
        except ValidationError:
            continue  # the model's own call had nothing parsed to show either
