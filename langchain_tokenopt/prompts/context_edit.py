"""One shortening of a conversation: what it leaves out, and what that does to the cached prefix."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from langchain_core.messages import BaseMessage, HumanMessage

from langchain_tokenopt.prompts.context_history import Group, History
from langchain_tokenopt.prompts.context_strategy import Strategy


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """A shortening, which holds for a conversation and for all that it grows into."""

    asked: int = 0
    """Index of what was the last human message."""
    dropped: frozenset[int] = frozenset()
    """Indices of messages that are left out."""
    replaced: Mapping[int, str] = field(default_factory=dict)
    """By index: what a result of a tool was shortened to."""
    summary: str | None = None
    summarised: int = 0
    """How many messages the summary is of."""

    def to_json(self) -> str:
        """Return the edit as text."""
        return json.dumps(
            {
                "asked": self.asked,
                "dropped": sorted(self.dropped),
                "replaced": {str(n): text for n, text in sorted(self.replaced.items())},
                "summary": self.summary,
                "summarised": self.summarised,
            }
        )

    @classmethod
    def from_json(cls, text: str) -> "Edit | None":
        """Return the edit that a text says, `None` if it says none."""
        try:
            told = json.loads(text)
            summary = told["summary"]
            return cls(
                asked=int(told["asked"]),
                dropped=frozenset(map(int, told["dropped"])),
                replaced={int(n): str(text) for n, text in told["replaced"].items()},
                summary=None if summary is None else str(summary),
                summarised=int(told["summarised"]),
            )
        except (ValueError, TypeError, KeyError, AttributeError):
            return None

    def fits(self, history: History) -> bool:
        """Return whether the edit can be of this conversation: stores hold what others wrote."""
        touched = (*self.dropped, *self.replaced)
        return (
            0 <= self.asked < len(history.messages)
            and all(history.static <= n < len(history.messages) for n in touched)
            and history.last_human not in touched
            and all(
                self.dropped.issuperset(group.indices) or self.dropped.isdisjoint(group.indices)
                for group in history.groups
            )
        )

    @property
    def until(self) -> int:
        """How many messages from the start are all that the edit is about."""
        return max((*self.dropped, *self.replaced), default=-1) + 1

    @property
    def hiding(self) -> int:
        """A number for what is hidden, the same in this process for the same."""
        return hash((self.dropped, tuple(sorted(self.replaced.items()))))

    def hidden(self, index: int) -> bool:
        """Return whether a message is not there as it was."""
        return index in self.dropped or index in self.replaced


NOTHING = Edit()


def view(
    history: History, edit: Edit, recalled: Mapping[int, str] | None = None
) -> list[BaseMessage]:
    """Return the messages that are sent."""
    sent: list[BaseMessage] = []
    for index, message in enumerate(history.messages):
        if index == history.static and edit.dropped:
            sent.append(note_of(edit))
        if index in edit.dropped:
            continue
        text = edit.replaced.get(index)
        if text is not None:
            message = message.model_copy(update={"content": text})  # noqa: PLW2901
        if recalled and index in recalled:
            message = _with_earlier(message, recalled[index])  # noqa: PLW2901
        sent.append(message)
    return sent


def note_of(edit: Edit) -> HumanMessage:
    """Return the message that stands for what was left out."""
    n = len(edit.dropped)
    text = f"[{n} earlier message{'s are' if n > 1 else ' is'} not shown.]"
    if edit.summary:
        text = f"{text}\nSummary of the earlier conversation:\n{edit.summary}"
    return HumanMessage(text, response_metadata={"tokenopt_context": {"note": True}})


def _with_earlier(message: BaseMessage, text: str) -> BaseMessage:
    told = f"<earlier>\n{text}\n</earlier>"
    content: Any = message.content
    if isinstance(content, str):
        content = f"{told}\n\n{content}"
    else:
        content = [{"type": "text", "text": told}, *content]
    return message.model_copy(update={"content": content})


def candidates(history: History, edit: Edit) -> list[Group]:
    """Return the groups that may be left out whole: finished turns, without what is pinned."""
    last = history.last_human
    return [
        group
        for group in history.groups
        if group.kind != "static"
        and not group.pinned
        and group.indices[0] not in edit.dropped
        and (group.indices[0] < last or last < 0)
        and group is not history.groups[-1]
    ]


def kept(
    groups: Sequence[Group],
    *,
    room: int,
    strategy: Strategy,
    relevance: Sequence[float] | None,
) -> list[Group]:
    """Return the groups that stay within `room` tokens."""
    values = strategy.values(groups, relevance)
    order = sorted(range(len(groups)), key=lambda n: (-values[n], -n))
    chosen: list[Group] = []
    for n in order:
        if groups[n].tokens <= room:
            chosen.append(groups[n])
            room -= groups[n].tokens
        elif strategy.contiguous:
            break
    return chosen


def stubs(history: History, edit: Edit, *, excess: int) -> dict[int, str]:
    """Return texts for results of tools in the turn that is under way, oldest first.

    All but the last calls' results become a line that says how large they were, until `excess`
    tokens are saved. The calls stay: the model is to know what it has done.
    """
    replaced: dict[int, str] = {}
    last = history.last_human
    for group in history.groups[:-1]:
        if group.kind != "tools" or group.pinned or group.indices[0] <= last:
            continue
        for index in group.indices[1:]:
            if excess <= 0:
                return replaced
            if edit.hidden(index) or history.tokens[index] <= _STUB_TOKENS:
                continue
            replaced[index] = (
                f"[a result of {history.tokens[index]:,} tokens was left out; "
                "call again if it is needed]"
            )
            excess -= history.tokens[index] - _STUB_TOKENS
    return replaced


def early_calls(history: History, edit: Edit, *, excess: int) -> frozenset[int]:
    """Return messages of the turn that is under way, its earliest calls with their results.

    As many as save `excess` tokens; the last calls always stay.
    """
    dropped: set[int] = set()
    for group in history.groups[:-1]:
        if group.kind != "tools" or group.pinned or group.indices[0] <= history.last_human:
            continue
        if excess <= 0:
            break
        if group.indices[0] not in edit.dropped:
            dropped.update(group.indices)
            excess -= sum(
                _STUB_TOKENS if n in edit.replaced else history.tokens[n] for n in group.indices
            )
    return frozenset(dropped)


def cuts(
    history: History, edit: Edit, *, excess: int, count_text: Callable[[str], int]
) -> dict[int, str]:
    """Return texts for the largest results that are still whole, without their middle."""
    replaced: dict[int, str] = {}
    whole = [
        index
        for group in history.groups
        if group.kind == "tools"
        for index in group.indices[1:]
        if not edit.hidden(index) and isinstance(history.messages[index].content, str)
    ]
    for index in sorted(whole, key=lambda n: -history.tokens[n]):
        if excess <= 0:
            break
        tokens = history.tokens[index]
        room = max(tokens - excess - _STUB_TOKENS, 0)
        replaced[index] = without_middle(
            str(history.messages[index].content), tokens=room, count_text=count_text
        )
        excess -= tokens - count_text(replaced[index])
    return replaced


def without_middle(text: str, *, tokens: int, count_text: Callable[[str], int]) -> str:
    r"""Return the start and the end of a text, together about `tokens`, and how much is missing.

    >>> without_middle("a b c d e f g h", tokens=4, count_text=lambda text: len(text.split()))
    'a b\n[... 4 tokens were left out ...]\ng h'
    """
    total = count_text(text)
    if total <= tokens:
        return text
    characters = len(text)
    while characters and count_text(text[:characters]) > tokens // 2:
        characters = characters * tokens // 2 // max(count_text(text[:characters]), 1)
    start, end = text[:characters], text[len(text) - characters :] if characters else ""
    missing = total - count_text(start) - count_text(end)
    return f"{start.rstrip()}\n[... {missing:,} tokens were left out ...]\n{end.lstrip()}"


_STUB_TOKENS = 25


def unchanged(one: Sequence[BaseMessage], other: Sequence[BaseMessage]) -> int:
    """Return how many messages two requests have in common from their start."""
    n = 0
    for before, after in zip(one, other, strict=False):
        if before is not after and before.content != after.content:
            break
        n += 1
    return n
