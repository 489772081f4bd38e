"""Put marks in the place of secrets and personal data: the extra `finetune`.

Secrets are found by Yelp's detect-secrets, telephone numbers by Google's phonenumbers, and the
check digits of cards, bank accounts and social security numbers are judged by python-stdnum; e-mail
and IP addresses have a shape of their own. `NOT_FOUND` says what all of them miss.
"""

import ipaddress
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from langchain_tokenopt.errors import ConfigurationError, MissingExtraError

NOT_FOUND = (
    "names, postal addresses, dates of birth, health and other matters told in plain words; "
    "numbers of customers, orders and passports; passwords in a sentence; secrets of a form that "
    "no rule knows; anything in images, sound and files"
)
"""What redaction cannot find: have somebody read the export before it leaves the house."""

# A word that nobody wrote: long, with letters and digits. What its entropy is decides.
_TOKEN = re.compile(r"[A-Za-z0-9+/_=-]{24,}")
_KEY_BLOCK = re.compile(
    r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY[A-Z ]*-----.*?(?:-----END [A-Z0-9 ]*-----|\Z)", re.DOTALL
)
# `password: ...`, `"api_key": "..."`, `pwd=...`
_NAMED = r"""(?:{words})\w*["']?\s*[:=]+>?\s*(?:(["'`])(?P<quoted>.+?)\1|(?P<plain>[^\s"'`,;]+))"""
_REST = re.compile(r"[A-Za-z0-9+/_=.-]*")
# Each begins where no word goes on, so that a text of one long word is still read once.
_EMAIL = re.compile(r"(?<![\w.+%'-])[\w.+%'-]+@[\w-]+(?:\.[\w-]+)+")
_CARD = re.compile(r"(?<![\w.])\d(?:[ -]?\d){12,18}(?!\w)")
_IBAN = re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b")
_SSN = re.compile(r"(?<![\w-])\d{3}-\d{2}-\d{4}(?![\w-])")
_ADDRESS = re.compile(
    r"(?<![\w:.])(?:\d{1,3}(?:\.\d{1,3}){3}|(?=[0-9A-Fa-f]*:)[0-9A-Fa-f:]{2,39})(?![\w:])"
)
_LEAST_REPEATED = 5
"""Characters of a secret that is looked for elsewhere too."""
_Span = tuple[int, int, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Redacted:
    """Texts without what was found, and how much that was."""

    texts: tuple[str, ...]
    found: Mapping[str, int]
    """By kind: different values."""


class Redactor:
    r"""Replaces secrets and personal data by marks such as `[EMAIL_1]`.

    The same value gets the same mark in all texts that are given together, so that a conversation
    stays one. It is rather too thorough: an order number with a card's check digit goes too.

    Args:
        region: Country whose telephone numbers are written without a prefix, `None` for none.
        patterns: Others of your own, by kind: `{"CUSTOMER": re.compile(r"C-\d{8}")}`.

    Raises:
        ConfigurationError: The region or the name of a kind cannot be used.
        MissingExtraError: The extra `finetune` is not installed.

    >>> Redactor().redact(["Write to ann@example.org.", "To ann@example.org?"]).texts
    ('Write to [EMAIL_1].', 'To [EMAIL_1]?')
    """

    def __init__(
        self, *, region: str | None = "US", patterns: Mapping[str, re.Pattern[str]] | None = None
    ) -> None:
        self._phones = _load("phonenumbers", package="phonenumbers")
        if region is not None and region not in self._phones.SUPPORTED_REGIONS:
            message = f"expected a region as two capital letters such as DE, got {region!r}"
            raise ConfigurationError(message)
        wrong = [kind for kind in patterns or {} if not re.fullmatch(r"[A-Z][A-Z_]*", kind)]
        if wrong:
            message = f"expected kinds in capital letters such as CUSTOMER, got {wrong}"
            raise ConfigurationError(message)
        self._region = region
        self._patterns = dict(patterns or {})
        self._secrets = _secret_patterns()
        self._entropy = _load(
            "detect_secrets.plugins.high_entropy_strings", package="detect-secrets"
        ).Base64HighEntropyString(limit=4.5)
        words = _load("detect_secrets.plugins.keyword", package="detect-secrets").DENYLIST
        self._named = re.compile(_NAMED.format(words="|".join(words)), re.IGNORECASE)
        self._checks: dict[re.Pattern[str], tuple[str, Callable[[str], bool]]] = {
            _IBAN: ("IBAN", _load("stdnum.iban", package="python-stdnum").is_valid),
            _CARD: ("CARD", _load("stdnum.luhn", package="python-stdnum").is_valid),
            _SSN: ("SSN", _load("stdnum.us.ssn", package="python-stdnum").is_valid),
        }

    def redact(self, texts: Sequence[str]) -> Redacted:
        """Return the texts with marks for what was found, numbered over all of them."""
        spans = [list(self._spans(text)) for text in texts]
        # A password that one line tells by name may stand without it in another.
        told = {
            text[start:end]
            for text, some in zip(texts, spans, strict=True)
            for start, end, kind in some
            if kind == "SECRET" and end - start >= _LEAST_REPEATED
        }
        marks: dict[tuple[str, str], str] = {}
        counts: Counter[str] = Counter()
        clean = []
        for text, some in zip(texts, spans, strict=True):
            again = (m.span() for each in told for m in re.finditer(re.escape(each), text))
            some += [(*span, "SECRET") for span in again]
            parts, end = [], 0
            for start, stop, kind in _apart(sorted(some, key=_first_longest)):
                value = text[start:stop]
                if (kind, value) not in marks:
                    counts[kind] += 1
                    marks[kind, value] = f"[{kind}_{counts[kind]}]"
                parts += [text[end:start], marks[kind, value]]
                end = stop
            clean.append("".join((*parts, text[end:])))
        return Redacted(texts=tuple(clean), found=dict(counts))

    def _spans(self, text: str) -> Iterator[_Span]:
        for kind, pattern in self._patterns.items():
            yield from ((*match.span(), kind) for match in pattern.finditer(text) if match[0])
        yield from ((*match.span(), "SECRET") for match in _KEY_BLOCK.finditer(text))
        for start, end in self._secret_spans(text):
            # A rule may know the beginning of a token alone.
            yield start, _REST.match(text, end).end(), "SECRET"  # type: ignore[union-attr] # may be empty
        yield from ((*match.span(), "EMAIL") for match in _EMAIL.finditer(text))
        for pattern, (kind, is_valid) in self._checks.items():
            for match in pattern.finditer(text):
                if is_valid(re.sub(r"[ -]", "", match[0])):
                    yield (*match.span(), kind)
        for match in _ADDRESS.finditer(text):
            if _is_address(match[0]):
                yield (*match.span(), "IP")
        phones = self._phones
        for found in phones.PhoneNumberMatcher(text, self._region, phones.Leniency.VALID):
            yield found.start, found.end, "PHONE"

    def _secret_spans(self, text: str) -> Iterator[tuple[int, int]]:
        for pattern in self._secrets:
            yield from (match.span() for match in pattern.finditer(text))
        for match in self._named.finditer(text):
            # Without quotes a value may as well be a word of a sentence; a digit makes it none.
            if match["quoted"] or re.search(r"\d", match["plain"]):
                yield match.span("quoted" if match["quoted"] else "plain")
        for match in _TOKEN.finditer(text):
            mixed = re.search(r"\d", match[0]) and re.search(r"[A-Za-z]", match[0])
            entropy = self._entropy.calculate_shannon_entropy(match[0])
            if mixed and entropy > self._entropy.entropy_limit:
                yield match.span()


# What of detect-secrets is for its own, other kinds, or told apart above.
_OTHERS = {"base", "high_entropy_strings", "ip_public", "keyword", "private_key", "__init__"}


def _secret_patterns() -> list[re.Pattern[str]]:
    """Return detect-secrets' rules for the tokens of known services."""
    plugins = _load("detect_secrets.core.plugins.util", package="detect-secrets")
    found = plugins.get_mapping_from_secret_type_to_class().values()
    ruled = [kind for kind in found if kind.__module__.rsplit(".", 1)[-1] not in _OTHERS]
    return [pattern for kind in ruled for pattern in kind.denylist]


def _load(module: str, *, package: str) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        raise MissingExtraError(package=package, extra="finetune") from error


def _is_address(text: str) -> bool:
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        return False
    return not (found.is_loopback or found.is_unspecified)


def _first_longest(span: _Span) -> tuple[int, int]:
    return span[0], -span[1]


def _apart(spans: Sequence[_Span]) -> Iterator[_Span]:
    """Yield spans that do not touch: of two that do, one over both, of the first one's kind."""
    current: _Span | None = None
    for span in spans:
        if current is None or span[0] > current[1]:
            if current is not None:
                yield current
            current = span
        else:
            current = (current[0], max(current[1], span[1]), current[2])
    if current is not None:
        yield current
