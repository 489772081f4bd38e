"""Rules that send a request straight to a tier, before any model is called."""

import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal, TypeAlias, get_args

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage

from langchain_tokenopt.errors import ConfigurationError
from langchain_tokenopt.messages import last_human_text
from langchain_tokenopt.tokens import TokenCounter, counter_for

AttachmentKind: TypeAlias = Literal["image", "audio", "video", "file"]

Script: TypeAlias = Literal[
    "Arabic", "Armenian", "Bengali", "CJK", "Cyrillic", "Devanagari", "Ethiopic", "Georgian",
    "Greek", "Gujarati", "Hangul", "Hebrew", "Hiragana", "Kannada", "Katakana", "Khmer", "Lao",
    "Latin", "Malayalam", "Myanmar", "Sinhala", "Tamil", "Telugu", "Thai",
]  # fmt: skip
"""How Unicode calls them; Japanese is written in CJK, Hiragana and Katakana."""

_LETTERS_READ = 1_000
_PROVIDERS_OWN = re.compile(rf"(?:input_)?({'|'.join(get_args(AttachmentKind))})(?:_url)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """Start at `tier` where the rule applies."""

    tier: str
    reason: str
    """Shown with the attempt: why the request went there."""
    applies: Callable[[Sequence[BaseMessage]], bool]


def longer_than(tokens: int, *, tier: str, counter: TokenCounter | None = None) -> Rule:
    """Send requests of more than `tokens` input tokens to `tier`.

    >>> from langchain_core.messages import HumanMessage
    >>> longer_than(100, tier="large").applies([HumanMessage("2 + 2?")])
    False
    """
    if tokens < 1:
        message = f"tokens must be at least 1, got {tokens}"
        raise ConfigurationError(message)
    counts = counter or counter_for()
    return Rule(
        tier=tier,
        reason=f"the request is longer than {tokens} tokens",
        applies=lambda messages: counts.count_messages(messages) > tokens,
    )


def mentions(*words: str, tier: str) -> Rule:
    """Send requests whose last human turn has one of the words or phrases to `tier`.

    Whole words in any case: "contract" is not in "contraction".

    >>> from langchain_core.messages import HumanMessage
    >>> mentions("refund", tier="large").applies([HumanMessage("A REFUND, please")])
    True
    """
    if not words or not all(word.strip() for word in words):
        message = f"expected at least one word, none of them empty, got {words!r}"
        raise ConfigurationError(message)
    either = "|".join(re.escape(word.strip()) for word in words)
    found = re.compile(rf"(?<!\w)(?:{either})(?!\w)", re.IGNORECASE)
    return Rule(
        tier=tier,
        reason=f"the question mentions {' or '.join(repr(word) for word in words)}",
        applies=lambda messages: found.search(last_human_text(messages)) is not None,
    )


def has_attachment(*kinds: AttachmentKind, tier: str) -> Rule:
    """Send requests with an image, a sound, a video or a file in any message to `tier`.

    Args:
        kinds: Those that count; without, all do.
        tier: Where to start.

    >>> from langchain_core.messages import HumanMessage
    >>> shown = HumanMessage([{"type": "image", "url": "https://example.com/map.png"}])
    >>> has_attachment("image", tier="large").applies([shown])
    True
    """
    _check_known(kinds, get_args(AttachmentKind), "kind of attachment")
    wanted = frozenset(kinds or get_args(AttachmentKind))
    return Rule(
        tier=tier,
        reason=f"the request has an attachment: {' or '.join(sorted(wanted))}",
        applies=lambda messages: any(
            not wanted.isdisjoint(_attachments(each)) for each in messages
        ),
    )


def uses_tools(*names: str, tier: str) -> Rule:
    """Send requests in whose last turn tools were called to `tier`.

    Tools that are only offered do not count: they are options of the call, not messages.

    Args:
        names: The tools that count; without, all do.
        tier: Where to start.

    >>> from langchain_core.messages import HumanMessage, ToolMessage
    >>> found = ToolMessage("2 rows", name="query", tool_call_id="1")
    >>> uses_tools("query", tier="large").applies([HumanMessage("How many?"), found])
    True
    """
    if not all(name.strip() for name in names):
        raise ConfigurationError(f"expected names of tools, none of them empty, got {names!r}")
    wanted = frozenset(names)
    return Rule(
        tier=tier,
        reason="tools were called" + (f": {' or '.join(sorted(wanted))}" if wanted else ""),
        applies=lambda messages: any(
            not wanted or name in wanted for name in _tools_called(messages)
        ),
    )


def written_in(*scripts: Script, tier: str) -> Rule:
    """Send requests whose last human turn is mostly written in one of the scripts to `tier`.

    A script is no language: it tells Greek from English, but not French from English. At least half
    of the letters must be of the scripts; the first thousand are read.

    >>> from langchain_core.messages import HumanMessage
    >>> written_in("Cyrillic", tier="large").applies([HumanMessage("Где мой заказ 42?")])
    True
    """
    if not scripts:
        raise ConfigurationError("expected at least one script, got none")
    _check_known(scripts, get_args(Script), "script")
    wanted = frozenset(script.upper() for script in scripts)

    def applies(messages: Sequence[BaseMessage]) -> bool:
        text = last_human_text(messages)
        letters = list(islice(filter(str.isalpha, text), _LETTERS_READ))
        of_them = sum(not wanted.isdisjoint(_scripts_of(letter)) for letter in letters)
        return bool(letters) and 2 * of_them >= len(letters)

    return Rule(
        tier=tier,
        reason=f"the question is written in {' or '.join(scripts)} letters",
        applies=applies,
    )


def _check_known(given: Sequence[str], known: Sequence[str], what: str) -> None:
    unknown = [each for each in given if each not in known]
    if unknown:
        message = f"no {what} is called {', '.join(map(repr, unknown))}; known are {list(known)}"
        raise ConfigurationError(message)


def _scripts_of(letter: str) -> list[str]:
    # The sign that lengthens Japanese vowels is named "KATAKANA-HIRAGANA PROLONGED SOUND MARK".
    return unicodedata.name(letter, "").split(" ")[0].split("-")


def _attachments(message: BaseMessage) -> set[str]:
    return {_kind_of(block) for block in message.content_blocks if block["type"] != "text"}


def _kind_of(block: Mapping[str, Any]) -> str:
    if block["type"] == "text-plain":
        return "file"
    if block["type"] != "non_standard":
        return str(block["type"])
    # A provider's own form says what it is by a mime type, as Google's `media`, or by its own type,
    # as OpenAI's `input_image` and `video_url`.
    value = block["value"]
    kind, _, rest = str(value.get("mime_type") or "").partition("/")
    if rest:
        return kind if kind in get_args(AttachmentKind) else "file"
    named = _PROVIDERS_OWN.fullmatch(str(value.get("type") or ""))
    return named[1] if named else ""


def _tools_called(messages: Sequence[BaseMessage]) -> list[str]:
    """Return the names of the tools that were called since the last human turn."""
    names = []
    for message in reversed(messages):
        if isinstance(message, HumanMessage):
            break
        if isinstance(message, AIMessage):
            names += [call["name"] for call in message.tool_calls]
        if isinstance(message, ToolMessage):
            names.append(message.name or "")
    return names
