"""What the other parts need to know of LangChain messages.

A cache marks the answers that it serves, and accounting reads the mark: the two never import
each other, they meet here.
"""

from collections.abc import Sequence
from typing import Any, TypedDict, TypeVar

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage

CACHE_MARK = "tokenopt_cache"
"""Key in `response_metadata` under which a served answer says that no model was called."""

MessageT = TypeVar("MessageT", bound=AIMessage)


class CacheMark(TypedDict):
    """How a served answer came about."""

    source: str
    """`memory`, `sqlite`, ... or `in_flight` for an answer shared with an identical call."""


def mark_cache_hit(message: MessageT, *, source: str) -> MessageT:
    """Return a copy of `message` that says it was served without a model call.

    LangChain's own marker, `usage_metadata["total_cost"] == 0`, is set as well, so that every
    handler that knows it (LangSmith's among them) agrees.

    >>> from langchain_core.messages import AIMessage
    >>> is_cache_hit(mark_cache_hit(AIMessage("4"), source="memory"))
    True
    """
    usage = dict(message.usage_metadata) if message.usage_metadata else None
    marked = message.model_copy(
        update={"usage_metadata": usage, "response_metadata": {**message.response_metadata}}
    )
    set_cache_mark(marked, source=source)
    return marked


def set_cache_mark(message: AIMessage, *, source: str) -> None:
    """Do what `mark_cache_hit` does to a message that nobody else holds."""
    message.response_metadata[CACHE_MARK] = CacheMark(source=source)
    usage: Any = message.usage_metadata
    if usage:
        usage["total_cost"] = 0


def cache_source(message: BaseMessage) -> str | None:
    """Return the cache that served `message`, `None` if a model answered.

    `langchain` stands for an answer served by any LangChain cache that leaves only core's marker.
    """
    mark = message.response_metadata.get(CACHE_MARK)
    if mark:
        return str(mark["source"]) if isinstance(mark, dict) and "source" in mark else "unknown"
    usage: Any = message.usage_metadata if isinstance(message, AIMessage) else None
    return "langchain" if usage and usage.get("total_cost") == 0 else None


def is_cache_hit(message: BaseMessage) -> bool:
    """Return whether `message` was served by a cache, ours or any LangChain one."""
    return cache_source(message) is not None


def last_human_text(messages: Sequence[BaseMessage]) -> str:
    """Return the text of the last human turn, "" if there is none."""
    for message in reversed(messages):
        if isinstance(message, HumanMessage):
            return str(message.text)
    return ""
