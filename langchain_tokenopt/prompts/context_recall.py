"""Brings back what a question asks for from what was left out, where it breaks no cached prefix."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from langchain_core.messages import BaseMessage, HumanMessage, ToolMessage

from langchain_tokenopt.errors import ConfigurationError
from langchain_tokenopt.prompts.context_edit import Edit
from langchain_tokenopt.prompts.context_history import History
from langchain_tokenopt.prompts.context_strategy import CommonWords
from langchain_tokenopt.tokens import TokenCounter

_SENTENCE = re.compile(r"(?<=[.!?])\s+|\n+")
_HEADER = re.compile(r"^.*\[\d+\]\{[^}]*\}:$")
_LONGEST = 400  # characters of a passage


@dataclass(frozen=True, slots=True, kw_only=True)
class Recall:
    """Puts passages of what was left out in front of the question that they help to answer.

    They stand with the human message, behind everything that the provider has cached, and stay
    there for as long as that message does.

    Args:
        max_tokens: Of the passages for one question.
        least: How relevant a passage must be, 0 to 1: the share of the question's words that it
            holds, rare ones counting more; with embeddings the mean of that and the cosine.

    Raises:
        ConfigurationError: A value cannot be used.
    """

    max_tokens: int = 300
    least: float = 0.3

    def __post_init__(self) -> None:
        if self.max_tokens < 1 or not 0 <= self.least <= 1:
            message = (
                "expected max_tokens of at least 1 and least from 0 to 1, got "
                f"{self.max_tokens} and {self.least}"
            )
            raise ConfigurationError(message)


def within(recall: Recall, keep_tokens: int) -> Recall:
    """Return it with so few tokens that passages do not take the room of the conversation."""
    return replace(recall, max_tokens=min(recall.max_tokens, keep_tokens // 4 or 1))


@dataclass(frozen=True, slots=True)
class Passage:
    """A sentence, a line or a row of a table, with where it was said."""

    index: int
    """Of its message."""
    place: int
    """Number of the passage in its message."""
    text: str
    header: str | None = None
    """The names of the columns, for a row."""


class Hidden:
    """All that an edit hides, in pieces, read once."""

    def __init__(self, history: History, edit: Edit) -> None:
        self.passages = [
            Passage(index, place, text, header)
            for index, message in enumerate(history.messages)
            if edit.hidden(index) and str(message.text).strip()
            for place, (text, header) in enumerate(_pieces(message))
        ]
        self.texts = [f"{each.header or ''} {each.text}" for each in self.passages]
        self.words = CommonWords(self.texts)


def _pieces(message: BaseMessage) -> list[tuple[str, str | None]]:
    pieces: list[tuple[str, str | None]] = []
    header: str | None = None
    for line in _SENTENCE.split(str(message.text)):
        if not line.strip():
            continue
        if isinstance(message, ToolMessage) and _HEADER.match(line):
            header = line.strip()
        elif header is not None and line.startswith(" "):
            pieces.append((line.strip(), header))
        else:
            header = None
            pieces.extend((line[at : at + _LONGEST], None) for at in range(0, len(line), _LONGEST))
    return pieces


def recalled(
    found: Sequence[Passage],
    relevance: Sequence[float],
    history: History,
    *,
    recall: Recall,
    counter: TokenCounter,
) -> str:
    """Return the most relevant passages as a text, in the order in which they were said."""
    order = sorted(range(len(found)), key=lambda n: (-relevance[n], -found[n].index))
    chosen: list[Passage] = []
    room = recall.max_tokens
    for n in order:
        if relevance[n] < recall.least or relevance[n] == 0:
            break
        tokens = counter.count_text(_line(found[n], history)) + 1
        if tokens <= room:
            chosen.append(found[n])
            room -= tokens
    return _written(chosen, history)


def _written(chosen: Sequence[Passage], history: History) -> str:
    lines, shown = [], None
    for passage in sorted(chosen, key=lambda each: (each.index, each.place)):
        again = shown == (passage.index, passage.header)
        if passage.header and again:
            lines.append(f"  {passage.text}")
        else:
            lines.append(_line(passage, history))
        shown = (passage.index, passage.header)
    return "\n".join(lines)


def _line(passage: Passage, history: History) -> str:
    message = history.messages[passage.index]
    who = "user" if isinstance(message, HumanMessage) else "assistant"
    if isinstance(message, ToolMessage):
        who = f"result of {message.name}" if message.name else "result of a tool"
    header = f"{passage.header}\n  " if passage.header else ""
    return f"{who}: {header}{passage.text}"


def asked_since(history: History, edit: Edit) -> Iterator[int]:
    """Yield the human messages from the one that was the last when the edit was made."""
    for index, message in enumerate(history.messages):
        if index >= edit.asked and isinstance(message, HumanMessage) and not edit.hidden(index):
            yield index
