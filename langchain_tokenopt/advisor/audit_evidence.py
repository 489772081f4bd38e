"""Examples of calls for a report: short, and with secrets masked."""

import re
from dataclasses import dataclass

_MOST = 110
_SECRETS: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (name, re.compile(pattern, re.IGNORECASE))
    for name, pattern in (
        ("key", r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*-----|$)"),
        ("token", r"\beyJ[\w-]{8,}\.[\w-]+\.[\w-]*"),
        ("key", r"\b(?:sk|pk|rk|ghp|gho|ghs|glpat|xox[abprs]|hf|AKIA|ASIA|AIza)[-_]?[\w-]{12,}"),
        ("secret", r"(?<=\bbearer )[\w.~+/=-]{8,}"),
        ("password", r"(?<=://)[^\s/:@]+:[^\s/@]+(?=@)"),
        (
            "secret",
            (
                r"\b(?:pass(?:word|wd|phrase)?|pwd|secret|api[_ -]?key|token)\b['\"]?"
                r"\s*(?:is|[:=])\s*['\"]?[^\s'\",;]+"
            ),
        ),
        ("email", r"\b[\w.+-]+@[\w-]+(?:\.[\w-]+)+"),
        ("number", r"\b[A-Z]{2}\d{2}(?: ?[A-Z\d]{4}){3,7}(?: ?[A-Z\d]{1,3})?\b"),
        ("number", r"(?<![\w.])\+?\d(?:[ ()./-]{0,2}\d){8,}(?!\w|\.\d)"),
        ("key", r"\b(?=[\w-]*\d)(?=[\w-]*[a-z])[\w-]{32,}\b"),
    )
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A call that shows what a finding rests on."""

    line: int
    """Of the log."""
    text: str


def example(line: int, text: str) -> Example:
    """Return an example that may be shown to others.

    >>> example(7, "My key is sk-abcdefghijklmnop1234, mail me at ann@example.com").text
    'My key is [key], mail me at [email]'
    """
    # Cut late, so that no half of a secret is left over, and early enough for very long texts.
    masked = mask(" ".join(text[: 20 * _MOST].split()))
    return Example(line=line, text=masked if len(masked) <= _MOST else f"{masked[:_MOST]}...")


def mask(text: str) -> str:
    """Return a text with marks for keys, tokens, passwords, addresses and long numbers.

    Masks by their look: names, and secrets that look like words, stay.
    """
    for name, pattern in _SECRETS:
        text = pattern.sub(f"[{name}]", text)
    return text
