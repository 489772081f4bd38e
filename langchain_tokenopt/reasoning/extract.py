r"""Read typed answers out of what a model wrote, and tell whether two of them are the same.

An extractor is called with a text and returns the answer, or `None` where there is none or more
than one: an abstention, not a guess. `same` compares answers the way votes do.

>>> number("7 * 2 = 14, so she has $1,014.50 left. The answer is $1,014.50.")
Decimal('1014.50')
>>> number.same(number("3.5"), number("35")), number.same(number("1,000"), number("1000.0"))
(False, True)
>>> option("ABCDE")("It is (B) or (C)."), option({"A": "red", "B": "blue"})("The answer is blue.")
(None, 'B')
>>> boolean("Answer: yes, since no fish can fly"), date("So the answer is 5/1/2021.")
(True, datetime.date(2021, 5, 1))
>>> text("Think.\nAnswer: The Beatles."), text.same("the beatles", "The Beatles")
('The Beatles', True)
"""

import datetime
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, localcontext
from typing import Any, Generic, Protocol, TypeVar

from langchain_tokenopt.errors import ConfigurationError
from langchain_tokenopt.reasoning.extract_text import (
    announced,
    answer_parts,
    cleaned,
    first_line,
    last_line,
    plain_key,
)

T = TypeVar("T")


class Extractor(Protocol):
    """What reads the answer out of a text; `None` is an abstention.

    If it has a method `same(one, other)`, votes compare by it, otherwise by `==`.
    """

    def __call__(self, text: str, /) -> Any:
        """Return the answer."""
        ...


@dataclass(frozen=True, slots=True)
class Answers(Generic[T]):
    """Answers of one kind: how to read one, and when two are the same."""

    kind: str
    read: Callable[[str], T | None]
    same: Callable[[T, T], bool]

    def __call__(self, text: str, /) -> T | None:
        """Return the answer in `text`, `None` if there is none or more than one."""
        return self.read(cleaned(text))


def same_answer(extractor: Extractor) -> Callable[[Any, Any], bool]:
    """Return how answers of an extractor are compared."""
    same: Callable[[Any, Any], bool] = getattr(extractor, "same", _equal)
    return same


def _equal(one: Any, other: Any) -> bool:
    return bool(one == other)


_MARKS = r"[$€£¥₹]"
_NUMBER = re.compile(
    rf"""
    (?P<not>\d{{1,4}}([/.\-])\d{{1,2}}\2\d{{1,4}}(?!\d)|\d+(?::\d+)+|\d+\s?/\s?0+(?![\d.]))
    |(?P<sign>(?<![\w)])[-+]\s?)?(?:{_MARKS}\s?(?P<inner>-)?)?(?<![\w.])(?<![A-Za-z]-)
    (?:(?P<whole>\d+)\s)?(?P<top>\d+)\s?/\s?(?P<under>\d*[1-9]\d*)(?![\d/.])
    |(?P<sign2>(?<![\w)])[-+]\s?)?(?:{_MARKS}\s?(?P<inner2>-)?)?(?<![\w.])(?<![A-Za-z]-)
    (?P<digits>\d{{1,3}}(?:[,_\u00a0\u202f]\d{{2,3}})*[,_\u00a0\u202f]\d{{3}}(?!\d)(?:\.\d+)?
      |\d{{1,3}}(?:\s\d{{3}})*\s0\d\d(?:\s\d{{3}})*(?!\d)(?:\.\d+)?
      |\d+(?:\.\d+)?|\.\d+)
    (?P<power>[eE][+-]?\d{{1,3}}(?!\w))?
    (?:\s*(?P<scale>thousand|million|billion|trillion)\b)?
    """,
    re.VERBOSE | re.IGNORECASE,
)
_SCALES = {"thousand": 3, "million": 6, "billion": 9, "trillion": 12}
_SUBTRACTS = re.compile(r"[\d)]\s*$")


def _number(text: str) -> Decimal | None:
    for part in answer_parts(text):
        _, equals, result = part.rpartition("=")
        for found in (_last_number(result) if equals else None, _last_number(part)):
            if found is not None:
                return found
    return None


def _last_number(text: str) -> Decimal | None:
    last = None
    for match in _NUMBER.finditer(text):
        if match["not"] is None:
            last = match
    return None if last is None else _value(last, text)


def _value(match: re.Match[str], text: str) -> Decimal:
    sign = (match["sign"] or match["sign2"] or "").strip()
    subtracts = bool(sign) and _SUBTRACTS.search(text[: match.start()]) is not None
    negative = (sign == "-" and not subtracts) or bool(match["inner"] or match["inner2"])
    if match["top"] is not None:
        value = Decimal(match["whole"] or 0) + Decimal(match["top"]) / Decimal(match["under"])
    else:
        digits = re.sub(r"[,_\s]", "", match["digits"])
        value = Decimal(digits + (match["power"] or ""))
        if match["scale"]:
            value = value.scaleb(_SCALES[match["scale"].lower()])
    return -value if negative else value


_LEAST_DECIMALS = 4
_ROUNDED = Decimal("1.01e-5")


def _same_number(one: Decimal, other: Decimal) -> bool:
    """Compare exactly, but for a long decimal fraction that one of them rounds or cuts."""
    if one == other:
        return True
    coarse, fine = sorted((Decimal(one), Decimal(other)), key=_decimals)
    places = _decimals(coarse)
    if places < _LEAST_DECIMALS or places == _decimals(fine):
        return False
    with localcontext(prec=60):
        unit = Decimal(1).scaleb(-places)
        forms = {fine.quantize(unit), fine.quantize(unit, rounding="ROUND_DOWN")}
        return coarse in forms and abs(one - other) <= _ROUNDED * max(abs(one), abs(other))


def _decimals(value: Decimal) -> int:
    exponent = value.normalize().as_tuple().exponent
    return max(-exponent, 0) if isinstance(exponent, int) else 0


number: Answers[Decimal] = Answers("number", _number, _same_number)
"""The last number of the final answer, after the last "=" if there is one.

Currency signs, thousands separators, percent signs and units are dropped; the sign, fractions
(`3/4`, `1 1/2`), exponents and "1.5 million" are kept. Dates and times are no numbers. Two numbers
are the same if their values are; a fraction of four or more decimals also equals its longer form
(0.33333 and 1/3), and nothing else is rounded.
"""

_YES = {"yes": True, "true": True, "no": False, "false": False}
_TRUTH = re.compile(r"(\bnot\s+|n't\s+)?\b(yes|no|true|false)\b", re.IGNORECASE)
_TRUTH_ALONE = re.compile(_TRUTH.pattern + r"(?=\W*$|[*\"')]*[.,;:!])", re.IGNORECASE)
_OPENING = " \"'*(`[{"


def _boolean(text: str) -> bool | None:
    span = announced(text)
    line = last_line(text) if span is None else first_line(span)
    if (at_once := _TRUTH.match(line.lstrip(_OPENING))) is not None:
        return _truth(at_once)
    named = {_truth(match) for match in _TRUTH.finditer(line)}
    if named:
        return named.pop() if len(named) == 1 else None
    at_once = _TRUTH_ALONE.match(first_line(text).lstrip(_OPENING))
    return _truth(at_once) if at_once is not None else None


def _truth(match: re.Match[str]) -> bool:
    return _YES[match[2].lower()] is (match[1] is None)


boolean: Answers[bool] = Answers("boolean", _boolean, _equal)
"""Yes, no, true or false, from the final answer and not from the chain before it."""

_MONTHS = {
    name: number
    for number, names in enumerate(
        "january/jan february/feb march/mar april/apr may june/jun july/jul august/aug "
        "september/sep/sept october/oct november/nov december/dec".split(),
        start=1,
    )
    for name in names.split("/")
}
_MONTH = "(" + "|".join(sorted(_MONTHS, key=len, reverse=True)) + r")\b\.?"
_DATE = re.compile(
    rf"""(?<![\d/.\-])(?:
    (?P<y>\d{{4}})[-/.](?P<m>\d{{1,2}})[-/.](?P<d>\d{{1,2}})
    |(?P<first>\d{{1,2}})([/.\-])(?P<second>\d{{1,2}})\5(?P<year>\d{{4}}|\d{{2}})
    |(?P<name>{_MONTH})\s+(?P<day>\d{{1,2}})(?:st|nd|rd|th)?,?\s+(?P<year2>\d{{4}})
    |(?P<day3>\d{{1,2}})(?:st|nd|rd|th)?\s+(?:of\s+)?(?P<name3>{_MONTH}),?\s+(?P<year3>\d{{4}})
    )(?![\d/]|[-.]\d)""",
    re.VERBOSE | re.IGNORECASE,
)
_CENTURY_TURNS = 69
_MONTHS_A_YEAR = 12


def dates(*, day_first: bool = False) -> Answers[datetime.date]:
    """Return an extractor of dates.

    Args:
        day_first: Whether 5/1/2021 is the 5th of January; where only one reading is a date, that
            one is taken.
    """

    def read(text: str) -> datetime.date | None:
        at_once = _DATE.match((announced(text) or "").lstrip(_OPENING))
        if at_once is not None:
            return _day(at_once, day_first=day_first)
        for part in answer_parts(text):
            found = list(_DATE.finditer(part))
            if found:
                return _day(found[-1], day_first=day_first)
        return None

    return Answers("date", read, _equal)


def _day(match: re.Match[str], *, day_first: bool) -> datetime.date | None:
    if match["y"]:
        return _checked(match["y"], int(match["m"]), int(match["d"]))
    if match["name"]:
        return _checked(match["year2"], _month(match["name"]), int(match["day"]))
    if match["name3"]:
        return _checked(match["year3"], _month(match["name3"]), int(match["day3"]))
    month, day = int(match["first"]), int(match["second"])
    if day_first:
        month, day = day, month
    if month > _MONTHS_A_YEAR >= day:
        month, day = day, month
    return _checked(match["year"], month, day)


def _month(name: str) -> int:
    return _MONTHS[name.lower().rstrip(".")]


def _checked(year: str, month: int, day: int) -> datetime.date | None:
    full = int(year)
    if len(year) == 2:
        full += 2000 if full < _CENTURY_TURNS else 1900
    try:
        return datetime.date(full, month, day)
    except ValueError:
        return None


date = dates()
"""The date that the final answer begins with, else its last one, month first.

5/1/2021, 05/01/2021, 2021-05-01 and May 1, 2021 are the same.
"""


def option(options: Sequence[str] | Mapping[str, str]) -> Answers[str]:
    """Return an extractor of the label that a text chooses.

    `(B)`, `B)`, `B.` and a lone `B` name the option; where none is named, the only option whose
    text is in the final answer is meant. Two different options named are no answer.

    Args:
        options: The labels ("ABCDE"), or their texts by label.
    """
    labels = list(options)
    texts = dict(options) if isinstance(options, Mapping) else {}
    if not labels or any(not label.strip() for label in labels):
        message = f"expected labels of options such as 'ABCDE', got {options!r}"
        raise ConfigurationError(message)
    either = "|".join(map(re.escape, sorted(labels, key=len, reverse=True)))
    one = rf"(?:\(({either})\)|(?<![\w'-])({either})(?![\w'-]))"
    named = re.compile(rf"(?<!\bnot\s){one}")
    at_once = re.compile(rf"[\s\"'*]*{one}(?!\W*(?:(?:or|and)\b\W*|[,/&]\s*){one})")

    alone = re.compile(rf"\W*?{one}\W*$")

    def names(part: str) -> set[str]:
        matches = (match for match in named.finditer(part) if not _is_article(match, part))
        return {match[1] or match[2] for match in matches}

    def read(text: str) -> str | None:
        span = announced(text)
        line = first_line(text)
        first = alone.match(line) if span is None else at_once.match(span)
        if first is not None and not _is_article(first, line if span is None else span):
            return first[1] or first[2]
        for part in answer_parts(text):
            found = names(part)
            if not found:
                found = {label for label, meant in texts.items() if _means(part, meant)}
            if found:
                return found.pop() if len(found) == 1 else None
        return None

    return Answers("option", read, _equal)


_AFTER_AN_OPTION = re.compile(
    r"\s+(?:and|as|because|but|for|is|or|since|with|would)\b|(?!\s+[a-z])"
)


def _is_article(match: re.Match[str], text: str) -> bool:
    """Return whether an `A` or `I` begins a sentence: "A dog", but not "A or B", "A." or "(A)"."""
    return match[2] in ("A", "I") and not _AFTER_AN_OPTION.match(text, match.end())


def _means(text: str, meant: str) -> bool:
    key = plain_key(meant)
    return bool(key) and re.search(rf"(?<!\w){re.escape(key)}(?!\w)", plain_key(text)) is not None


def _text(text: str) -> str | None:
    found = answer_parts(text)[0].removesuffix(".")
    if len(found) > 1 and found[0] == found[-1] and found[0] in "\"'*`":
        found = found.strip(found[0])
    return found.removesuffix(".").strip() or None


def _same_text(one: str, other: str) -> bool:
    return plain_key(one) == plain_key(other)


text: Answers[str] = Answers("text", _text, _same_text)
"""The final answer as it was written, without quotes around it and without its full stop.

Two texts are the same if they differ in case, quotes, spaces or Unicode form only: no article and
no inner punctuation is dropped, so "A" stays an answer and 3.5 is not 35.
"""
