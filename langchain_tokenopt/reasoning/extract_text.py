"""Where in a text its final answer stands."""

import re
import unicodedata

_TRIGGER = re.compile(
    r"####|(?:^|(?<=\n))\s*\**A\s*:\**(?=\s)"
    r"|\banswer\**(?:\s+\(arabic numerals\))?\s*(?:is\b|:|=)\**:?",
    re.IGNORECASE,
)
_VULGAR = re.compile(r"(?<=\d)(?=[\u00bc-\u00be\u2150-\u215e])")
_FRACTION = re.compile(r"\\d?t?frac\s*\{\s*(-?[\d.]+)\s*\}\s*\{\s*(-?[\d.]+)\s*\}")
_WRAPPED = re.compile(r"\\(?:text|mathrm|mathbf|textbf|mbox)\s*\{([^{}]*)\}")
_BOXED = re.compile(r"\\boxed\s*\{")
_QUOTES = "\"'`*\u2018\u2019\u201c\u201d\u00ab\u00bb"


def cleaned(text: str) -> str:
    """Return a text with one form of each minus, fraction, space and LaTeX number."""
    text = unicodedata.normalize("NFKC", _VULGAR.sub(" ", text))
    text = text.replace("\u2212", "-").replace("\u2044", "/")
    text = _WRAPPED.sub(r"\1", _FRACTION.sub(r"\1/\2", text))
    return text.replace("{,}", ",").replace("\\$", "$").replace("\\%", "%").replace("\\,", "")


def announced(text: str) -> str | None:
    """Return what stands after the last announcement of the answer, `None` without one.

    >>> announced("2 + 2 is four. So the answer is 4."), announced("2 + 2 is four.")
    ('4.', None)
    """
    boxed = _last_box(text)
    if boxed is not None:
        return boxed
    for match in reversed(list(_TRIGGER.finditer(text))):
        span = text[match.end() :].strip()
        if span:
            return span
    return None


def answer_parts(text: str) -> tuple[str, ...]:
    """Return where to look for the answer, in this order: what is announced, else the last line."""
    span = announced(text)
    return (last_line(text), text) if span is None else (first_line(span), span, text)


def first_line(text: str) -> str:
    """Return the first line that is not empty."""
    return next((line.strip() for line in text.splitlines() if line.strip()), "")


def last_line(text: str) -> str:
    """Return the last line that is not empty."""
    return first_line("\n".join(reversed(text.splitlines())))


def plain_key(text: str) -> str:
    """Return what free texts are compared by."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    key = " ".join(folded.split()).strip(_QUOTES + " ")
    return key.removesuffix(".").strip(_QUOTES + " ")


def _last_box(text: str) -> str | None:
    boxes = list(_BOXED.finditer(text))
    if not boxes:
        return None
    depth, start = 1, boxes[-1].end()
    for at in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[at], 0)
        if depth == 0:
            return text[start:at].strip()
    return text[start:].strip()
