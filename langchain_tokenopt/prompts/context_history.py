"""A conversation as what may be left out of it: groups that stay together, or go together."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, Literal, TypeVar

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)

from langchain_tokenopt.errors import ConfigurationError
from langchain_tokenopt.prompts.hints import STATIC, without_hints
from langchain_tokenopt.prompts.tables import TableWriter

CONTEXT_MARK = "tokenopt_context"
"""Key in `response_metadata` under which a message says how much it matters."""

MISSING_RESULT = "[no result of this call was recorded]"

MessageT = TypeVar("MessageT", bound=BaseMessage)
GroupKind = Literal["static", "human", "answer", "tools"]


def pinned(message: MessageT) -> MessageT:
    """Return a copy of `message` that a context window never leaves out.

    >>> pinned(HumanMessage("I am allergic to nuts.")).response_metadata
    {'tokenopt_context': {'pinned': True}}
    """
    return _marked(message, pinned=True)


def weighted(message: MessageT, *, importance: float) -> MessageT:
    """Return a copy of `message` that says how much it matters: 0 for nothing, 1 for most.

    Raises:
        ConfigurationError: It is not between 0 and 1.
    """
    if not 0 <= importance <= 1:
        raise ConfigurationError(f"expected an importance from 0 to 1, got {importance!r}")
    return _marked(message, importance=importance)


def _marked(message: MessageT, **told: Any) -> MessageT:
    mark = {**message.response_metadata.get(CONTEXT_MARK, {}), **told}
    return message.model_copy(
        update={"response_metadata": {**message.response_metadata, CONTEXT_MARK: mark}}
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Messages that belong together: one message, or a model's calls with their results."""

    kind: GroupKind
    indices: tuple[int, ...]
    turn: int
    """Number of the human turn that it belongs to, from 1; 0 before the first."""
    tokens: int
    text: str
    pinned: bool = False
    importance: float | None = None
    """What the user said of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """A conversation that was checked, with what is needed to shorten it."""

    messages: tuple[BaseMessage, ...]
    """As they were given, JSON of tools' results as tables; wrong ones put right."""
    tokens: tuple[int, ...]
    """Of each message."""
    digests: tuple[bytes, ...]
    """Of the conversation up to and with each message."""
    groups: tuple[Group, ...]
    problems: tuple[str, ...] = field(default_factory=tuple)
    """What was wrong with it."""
    table_tokens_saved: int = 0

    @property
    def last_human(self) -> int:
        """Index of the last human message, -1 if there is none."""
        return max(
            (n for n, each in enumerate(self.messages) if isinstance(each, HumanMessage)),
            default=-1,
        )

    @property
    def static(self) -> int:
        """How many messages at its start are the same in every conversation."""
        n = 0
        while n < len(self.messages) and is_static(self.messages[n]):
            n += 1
        return n


def is_static(message: BaseMessage) -> bool:
    """Return whether a message is the same in every conversation."""
    return isinstance(message, SystemMessage) or bool(message.response_metadata.get(STATIC))


def read_history(
    messages: Sequence[BaseMessage],
    *,
    count: Callable[[BaseMessage], int],
    tables: TableWriter | None,
) -> History:
    """Return a conversation ready to be shortened.

    Results of tools that no call asked for are left out, calls without a result get one that says
    so: providers refuse requests with either.

    Raises:
        ConfigurationError: There is no message.
    """
    if not messages:
        message = "expected at least one message, got none; give the question as a human message"
        raise ConfigurationError(message)
    checked, problems = _checked(messages)
    written = [tables.rewritten(each) for each in checked] if tables else checked
    tokens = [count(each) for each in written]
    saved = sum(
        count(old) - new
        for old, each, new in zip(checked, written, tokens, strict=True)
        if each is not old
    )
    return History(
        messages=tuple(written),
        tokens=tuple(tokens),
        digests=tuple(_digests(written)),
        groups=tuple(_groups(written, tokens)),
        problems=tuple(problems),
        table_tokens_saved=saved,
    )


def _checked(messages: Sequence[BaseMessage]) -> tuple[list[BaseMessage], list[str]]:
    checked: list[BaseMessage] = []
    problems: list[str] = []
    open_calls: dict[str, str] = {}

    def close_calls() -> None:
        for call, name in open_calls.items():
            problems.append(f"the call {call} of {name} has no result; one was put in that says so")
            checked.append(ToolMessage(MISSING_RESULT, tool_call_id=call, name=name))
        open_calls.clear()

    for message in without_hints(messages):
        if isinstance(message, ToolMessage):
            if open_calls.pop(message.tool_call_id, None) is None:
                problems.append(
                    f"a result of the call {message.tool_call_id} follows no such call, or is its "
                    "second one; it was left out"
                )
                continue
        else:
            close_calls()
        checked.append(message)
        if isinstance(message, AIMessage):
            open_calls = {str(call["id"]): call["name"] for call in message.tool_calls}
    # Calls at the very end are about to be answered.
    if any(isinstance(message, ToolMessage) for message in checked[-1:]):
        close_calls()
    return checked, problems


def _digests(messages: Sequence[BaseMessage]) -> Iterator[bytes]:
    """Yield a digest of all messages up to each: of what a model sees of them.

    Of those at the start that are the same in every conversation only the number counts: an edit
    never touches them, and one that tells the time must not make each request a new conversation.
    """
    chained, leading = b"", True
    for message in messages:
        leading = leading and is_static(message)
        if leading:
            chained = blake2b(chained + b"static", digest_size=16).digest()
            yield chained
            continue
        calls = message.tool_calls if isinstance(message, AIMessage) else ()
        seen = [
            message.type,
            message.name,
            message.content,
            [[call["name"], call["args"], call["id"]] for call in calls],
            getattr(message, "tool_call_id", None),
        ]
        text = json.dumps(seen, ensure_ascii=False, default=str)
        chained = blake2b(chained + text.encode(errors="replace"), digest_size=16).digest()
        yield chained


def _groups(messages: Sequence[BaseMessage], tokens: Sequence[int]) -> Iterator[Group]:
    turn, at = 0, 0
    while at < len(messages):
        message, end = messages[at], at + 1
        kind: GroupKind = "answer"
        if is_static(message):
            kind = "static"
        elif isinstance(message, HumanMessage):
            kind, turn = "human", turn + 1
        elif isinstance(message, AIMessage) and message.tool_calls:
            kind = "tools"
            while end < len(messages) and isinstance(messages[end], ToolMessage):
                end += 1
        inside = range(at, end)
        marks = [_mark(messages[n]) for n in inside]
        given = [mark["importance"] for mark in marks if "importance" in mark]
        yield Group(
            kind=kind,
            indices=tuple(inside),
            turn=turn,
            tokens=sum(tokens[n] for n in inside),
            text="\n".join(told(messages[n]) for n in inside),
            pinned=any(mark.get("pinned") for mark in marks),
            importance=max(given) if given else None,
        )
        at = end


def _mark(message: BaseMessage) -> dict[str, Any]:
    mark = message.response_metadata.get(CONTEXT_MARK)
    return mark if isinstance(mark, dict) else {}


def told(message: BaseMessage) -> str:
    """Return a message as a line of a transcript."""
    text = str(message.text)
    if isinstance(message, ToolMessage):
        return f"tool {message.name or message.tool_call_id}: {text}"
    if isinstance(message, AIMessage):
        calls = (
            f"{call['name']}({json.dumps(call['args'], ensure_ascii=False, default=str)})"
            for call in message.tool_calls
        )
        return "assistant: " + " ".join(part for part in (text, *calls) if part)
    return f"{'user' if isinstance(message, HumanMessage) else message.type}: {text}"
