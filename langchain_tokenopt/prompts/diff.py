"""Why a request could not use the cached prefix of an earlier one: where they part, and why.

Works offline for every provider. The reasons are those that OpenAI's cache diagnostics name
(`prompt_cache_options.comparison_response_id`), and finer ones for changed input.
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from langchain_tokenopt.prompts.shape import Part, RequestShape
from langchain_tokenopt.tokens import counter_for

Reason = Literal[
    "model_changed",
    "service_tier_changed",
    "prompt_cache_key_changed",
    "tools_changed",
    "tools_reordered",
    "text_format_changed",
    "reasoning_effort_changed",
    "verbosity_changed",
    "context_compacted",
    "time_in_prefix",
    "random_id_in_prefix",
    "unordered_in_prefix",
    "whitespace_changed",
    "input_changed",
]

CountText = Callable[[str], int]

_SETTINGS: tuple[tuple[str, Reason], ...] = (
    ("text_format", "text_format_changed"),
    ("reasoning_effort", "reasoning_effort_changed"),
    ("verbosity", "verbosity_changed"),
)
_ADVICE: dict[Reason, str] = {
    "model_changed": "prefixes are cached by model: send one conversation to one model",
    "service_tier_changed": "prefixes are cached by service tier: keep to one",
    "prompt_cache_key_changed": "keep prompt_cache_key equal for requests that share a prefix",
    "tools_changed": "give every request the same tools; leave the choice to tool_choice",
    "tools_reordered": "give the tools in a fixed order, sorted by name",
    "text_format_changed": "keep the response schema equal, or ask for another one at the end",
    "reasoning_effort_changed": "keep the reasoning effort equal within a conversation",
    "verbosity_changed": "keep the verbosity equal within a conversation",
    "context_compacted": "edit the history rarely, and much of it at once",
    "time_in_prefix": "move the time behind all that stays equal, or round it",
    "random_id_in_prefix": "move the id behind all that stays equal, or leave it out",
    "unordered_in_prefix": "sort what comes from sets, dicts or listings",
    "whitespace_changed": "build the text the same way every time",
    "input_changed": "move what changes behind all that stays equal",
}

_TIME = re.compile(
    r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d)?|\b\d{1,2}:\d\d(:\d\d)?\b|\b\d{1,2}[./]\d{1,2}[./]\d{2,4}\b|"
    r"\b(mon|tues|wednes|thurs|fri|satur|sun)day\b|"
    r"\b(jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*\.? \d{1,2}\b|"
    r"\b1[5-9]\d{8}(\.\d+|\d{3})?\b",
    re.IGNORECASE,
)
_RANDOM_ID = re.compile(
    r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b|"
    r"\b(?=[0-9a-f]*\d)(?=[0-9a-f]*[a-f])[0-9a-f]{12,}\b|\b0x[0-9a-f]{6,}\b",
    re.IGNORECASE,
)
_CHANGING: tuple[tuple[Reason, re.Pattern[str]], ...] = (
    ("time_in_prefix", _TIME),
    ("random_id_in_prefix", _RANDOM_ID),
)
_SHOWN = 40
_AROUND = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class Divergence:
    """Where a request parts from an earlier one, and why."""

    reason: Reason
    where: str
    """The tool, the message or the setting: `message 1 (system)`, `tool:search`, `model`."""
    before: str
    after: str
    """What stood there, shortened around the first difference."""
    shared_tokens: int
    """Tokens in front of it, which are equal; 0 where a setting makes the whole prefix another."""
    lost_tokens: int
    """Tokens of the later request behind it that the earlier one had too, moved or not."""
    advice: str

    def __str__(self) -> str:
        return (
            f"{self.reason} at {self.where}, after {self.shared_tokens:,} equal tokens: "
            f"{self.before!r} became {self.after!r}; {self.advice}"
        )


def first_divergence(before: RequestShape, after: RequestShape) -> Divergence | None:
    """Return where `after` parts from `before`, `None` if it only continues it.

    >>> from langchain_core.messages import HumanMessage, SystemMessage
    >>> def asked(at: str) -> RequestShape:
    ...     told = [SystemMessage(f"It is {at}. Be brief."), HumanMessage("2 + 2?")]
    ...     return RequestShape.of(told, model="gpt-5-mini")
    >>> first_divergence(asked("10:31"), asked("10:32")).reason
    'time_in_prefix'
    """
    whole = _settings_differ(before, after)
    if whole is not None:
        return whole
    at = _equal_parts(before.parts, after.parts)
    if at == len(before.parts):
        return None
    old = before.parts[at]
    new = after.parts[at] if at < len(after.parts) else Part("(the end)", "")
    if _same_message_continued(old, new, before=before, after=after, at=at):
        return None
    reason = _reason(before, after, at, old, new)
    offset = _equal_characters(old.text, new.text) if old.name == new.name else 0
    count = counter_for(after.model).count_text
    equal = "\n".join(part.text for part in after.parts[:at]) + new.text[:offset]
    return Divergence(
        reason=reason,
        where=_where(after, at, new),
        before=_excerpt(old.text, offset),
        after=_excerpt(new.text, offset),
        shared_tokens=count(equal),
        lost_tokens=_lost(before, after, at, offset, count),
        advice=_ADVICE[reason],
    )


def _settings_differ(before: RequestShape, after: RequestShape) -> Divergence | None:
    """Return a difference that makes the whole prefix another one."""
    pairs: list[tuple[str, Reason, str | None, str | None]] = [
        ("model", "model_changed", before.model, after.model),
        (
            "service_tier",
            "service_tier_changed",
            before.setting("service_tier"),
            after.setting("service_tier"),
        ),
        ("prompt_cache_key", "prompt_cache_key_changed", before.key, after.key),
    ]
    pairs += [
        (name, reason, before.setting(name), after.setting(name)) for name, reason in _SETTINGS
    ]
    for where, reason, old, new in pairs:
        if old == new:
            continue
        count = counter_for(after.model).count_text
        return Divergence(
            reason=reason,
            where=where,
            before=_excerpt(old or "(none)", 0),
            after=_excerpt(new or "(none)", 0),
            shared_tokens=0,
            lost_tokens=sum(
                count(a.text) for a, b in zip(after.parts, before.parts, strict=False) if a == b
            ),
            advice=_ADVICE[reason],
        )
    return None


def _reason(before: RequestShape, after: RequestShape, at: int, old: Part, new: Part) -> Reason:
    if at < max(len(before.tools), len(after.tools)):
        if Counter(before.tools) == Counter(after.tools):
            return "tools_reordered"
        if old.name != new.name:
            return "tools_changed"
    elif _compacted(before, after, at):
        return "context_compacted"
    return _text_reason(old, new)


def _text_reason(old: Part, new: Part) -> Reason:
    was, became = _changed(old.text, new.text)
    found: Reason | None = next(
        (reason for reason, pattern in _CHANGING if _only_differ_in(pattern, old.text, new.text)),
        None,
    )
    if found is not None:
        return found
    if old.text.split() == new.text.split():
        return "whitespace_changed"
    if old.name == new.name and _same_pieces(old.text, new.text):
        return "unordered_in_prefix"
    if old.name.startswith("tool:"):
        return "tools_changed"
    both = (r for r, pattern in _CHANGING if pattern.search(was) and pattern.search(became))
    return next(both, "input_changed")


def _only_differ_in(pattern: re.Pattern[str], old: str, new: str) -> bool:
    return (
        old != new and bool(pattern.search(old)) and pattern.sub("#", old) == pattern.sub("#", new)
    )


def _same_pieces(old: str, new: str) -> bool:
    """Return whether the texts have the same words or lines in another order."""
    for split in (r"\n", r"[\s,;{}\[\]()]+"):
        if Counter(re.split(split, old)) == Counter(re.split(split, new)):
            return True
    return False


def _compacted(before: RequestShape, after: RequestShape, at: int) -> bool:
    """Return whether history was dropped or put in fewer words: the rest follows further down."""
    old, new = before.parts[at], after.parts[at] if at < len(after.parts) else Part("", "")
    kept = {part for part in before.parts[at + 1 :] if part.text}
    if not any(part in kept for part in after.parts[at:]):
        return False
    cleared = old.name == new.name == "tool result" and len(new.text) < len(old.text) / 2
    return cleared or len(after.messages) < len(before.messages)


def _same_message_continued(
    old: Part, new: Part, *, before: RequestShape, after: RequestShape, at: int
) -> bool:
    """Return whether the last message of `before` is the beginning of the one in `after`."""
    last = at == len(before.parts) - 1
    return last and old.name == new.name and new.text.startswith(old.text)


def _equal_parts(before: Sequence[Part], after: Sequence[Part]) -> int:
    n = 0
    while n < min(len(before), len(after)) and before[n] == after[n]:
        n += 1
    return n


def _equal_characters(before: str, after: str) -> int:
    low, high = 0, min(len(before), len(after))
    while low < high:
        middle = (low + high + 1) // 2
        if before[:middle] == after[:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _changed(before: str, after: str) -> tuple[str, str]:
    """Return the differing middles of two texts, with the word around them."""
    start = _equal_characters(before, after)
    end = _equal_characters(before[start:][::-1], after[start:][::-1])
    first = max(start - 12, 0)
    return (
        before[first : len(before) - max(end - 12, 0)],
        after[first : len(after) - max(end - 12, 0)],
    )


def _excerpt(text: str, offset: int) -> str:
    start = max(offset - _AROUND, 0)
    shown = text[start : offset + _SHOWN]
    return f"{'...' if start else ''}{shown}{'...' if offset + _SHOWN < len(text) else ''}"


def _where(after: RequestShape, at: int, new: Part) -> str:
    if new.name.startswith("tool:"):
        return new.name
    return f"message {at - len(after.tools) + 1} ({new.name})"


def _lost(before: RequestShape, after: RequestShape, at: int, offset: int, count: CountText) -> int:
    """Return the tokens that would have been read, had the difference stood at the end."""
    earlier = Counter(before.parts[at:])
    lost = 0
    for n, part in enumerate(after.parts[at:]):
        if earlier[part] > 0:
            earlier[part] -= 1
            lost += count(part.text)
        elif n == 0 and at < len(before.parts) and part.name == before.parts[at].name:
            old = before.parts[at].text
            tail = _equal_characters(old[offset:][::-1], part.text[offset:][::-1])
            lost += count(part.text[len(part.text) - tail :]) if tail else 0
    return lost
