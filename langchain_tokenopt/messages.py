"""What the other parts need to know of LangChain messages.

A cache marks the answers that it serves, a batch those that came later, a template the messages
that it made; accounting reads the marks. They never import each other, they meet here.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, TypedDict, TypeVar

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage

CACHE_MARK = "tokenopt_cache"
"""Key in `response_metadata` under which a served answer says that no model was called."""

SEMANTIC = "semantic"
"""Source in the mark of an answer to another question, which means the same."""

BATCH_MARK = "tokenopt_batch"
"""Key in `response_metadata` of an answer that came through a provider's Batch API."""

TEMPLATE_MARK = "tokenopt_template"
"""Key in `response_metadata` of a message that a template made, with the template's name."""

SAMPLE_MARK = "tokenopt_sample"
"""Key in `additional_kwargs` of a message that is sent for one more answer to the same request."""

REPORTED_MARK = "tokenopt_reported"
"""Key in `response_metadata` of an answer whose model calls were told of by themselves."""

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


def mark_batch(
    message: MessageT, *, submitted_at: datetime, completed_at: datetime | None = None
) -> MessageT:
    """Return a copy of `message` that says it came through a provider's Batch API.

    Args:
        message: The answer.
        submitted_at: When its request was handed in; aware.
        completed_at: When it was answered, if that is known; aware.
    """
    mark = {
        "submitted_at": submitted_at.isoformat(),
        "completed_at": completed_at.isoformat() if completed_at else None,
    }
    metadata = {**message.response_metadata, BATCH_MARK: mark}
    return message.model_copy(update={"response_metadata": metadata})


def batch_times(message: BaseMessage) -> tuple[datetime, datetime | None] | None:
    """Return when a batch's answer was asked for and when it came, `None` for any other."""
    mark = message.response_metadata.get(BATCH_MARK)
    if not isinstance(mark, Mapping):
        return None
    submitted = _time(mark.get("submitted_at"))
    return None if submitted is None else (submitted, _time(mark.get("completed_at")))


def _time(text: object) -> datetime | None:
    try:
        found = datetime.fromisoformat(str(text))
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def templates_of(messages: Sequence[BaseMessage]) -> tuple[str, ...]:
    """Return the templates, as `name@version`, that made some of `messages`, each once."""
    marks = (message.response_metadata.get(TEMPLATE_MARK) for message in messages)
    return tuple(dict.fromkeys(mark for mark in marks if isinstance(mark, str)))


def mark_sample(messages: Sequence[BaseMessage], index: int) -> list[BaseMessage]:
    """Return a request as its `index`-th asking, so that a cache keeps the answers apart.

    The mark is in LangChain's dump of the messages, which keys are made of, and is not sent to any
    provider. The first asking, 0, is the request as it is.

    >>> from langchain_core.messages import HumanMessage
    >>> mark_sample([HumanMessage("2 + 2?")], 1)[0].additional_kwargs
    {'tokenopt_sample': 1}
    """
    if index == 0 or not messages:
        return list(messages)
    first = messages[0]
    marked = {**first.additional_kwargs, SAMPLE_MARK: index}
    return [first.model_copy(update={"additional_kwargs": marked}), *messages[1:]]


def mark_reported(message: MessageT) -> MessageT:
    """Return a copy of an answer that counts for nothing: the calls inside told of themselves.

    Its usage is taken out, so that handlers which know no mark do not count it twice either.
    """
    told = {**message.response_metadata, REPORTED_MARK: True}
    return message.model_copy(update={"response_metadata": told, "usage_metadata": None})


def is_reported(message: BaseMessage) -> bool:
    """Return whether the calls behind a message told of themselves."""
    return bool(message.response_metadata.get(REPORTED_MARK))
