"""The arithmetic that an answer writes down, read and computed again.

A small model's mistakes show here without a reference: a product that is wrong, a number that
comes from nowhere, a result that nothing uses.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

# More digits are an identifier, and longer expressions are no arithmetic a model writes.
_NUMBER = r"(?:\d{1,3}(?:,\d{3}){1,4}|\d{1,15})(?:\.\d{1,15})?|\.\d{1,15}"
_LONGEST_EXPRESSION = 80
_MOST_WORDS = 4  # between a number and an operator: "3 cups of tea * 4"
_TOKEN = re.compile(
    rf"(?P<number>{_NUMBER})|(?P<operator>[-+*/\u00d7\u00b7\u00f7\u2212()]|\bx\b)|(?P<equals>=)"
    r"|(?P<word>[^\W\d_]+)|(?P<end>[.;:?!\n])"
)
_PLAIN = {"\u00d7": "*", "\u00b7": "*", "x": "*", "\u00f7": "/", "\u2212": "-"}
# Training data of grade-school sums repeats each sum for a calculator: <<2*3=6>>.
_CALCULATOR = re.compile(r"<<[^<>]*>>")
_RESULT = re.compile(rf"\s*[$€£]?\s*(?P<sign>-?)\s*[$€£]?\s*(?P<number>{_NUMBER})")
_GOES_ON = re.compile(r"\s*%?\s*(?:[*+/\u00d7\u00f7]|x\b|-\s*\d)\s*[\d$(]")
_SCALES = (1.0, 0.01, 100.0)  # "30 / 100 * 50%" and the like
_WORDS = {
    word: float(value)
    for value, word in enumerate(
        "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
        "fifteen sixteen seventeen eighteen nineteen twenty".split()
    )
} | {"half": 0.5, "twice": 2.0, "double": 2.0, "triple": 3.0, "dozen": 12.0, "hundred": 100.0}


@dataclass(frozen=True, slots=True)
class Step:
    """An equation as it was written, such as `3 * 4 = 13`."""

    operands: tuple[float, ...]
    value: float | None
    """What the left side comes to, `None` if it cannot be computed."""
    result: float
    """What was written on the right side."""

    @property
    def is_wrong(self) -> bool:
        """Whether the two sides differ by more than rounding or a percent sign."""
        if self.value is None:
            return False
        return not any(_is_rounded(self.value * scale, self.result) for scale in _SCALES)


def steps_of(text: str) -> tuple[Step, ...]:
    """Return the equations in a text, in order; units and words between numbers are skipped.

    >>> first, second = steps_of("3 bags x $4 = $12, and with tax 12 + 2 = 15 dollars.")
    >>> first.result, first.is_wrong, second.value, second.is_wrong
    (12.0, False, 14.0, True)
    """
    return tuple(_steps(_CALCULATOR.sub(" ", text).replace("\\*", "*")))


def numbers_in(text: str) -> tuple[float, ...]:
    """Return the numbers written in digits, in order.

    >>> numbers_in("1,200 apples at $.50")
    (1200.0, 0.5)
    """
    return tuple(map(_float, re.findall(_NUMBER, _CALCULATOR.sub(" ", text))))


def numbers_given(question: str) -> frozenset[float]:
    """Return the numbers that a question gives, small ones in words too.

    >>> sorted(numbers_given("Two friends share half of 30 sweets."))
    [0.5, 2.0, 30.0]
    """
    words = re.findall(r"[a-z]+", question.lower())
    return frozenset(numbers_in(question)) | {_WORDS[word] for word in words if word in _WORDS}


def _steps(text: str) -> Iterator[Step]:
    tokens: list[tuple[str, str]] = []
    for match in _TOKEN.finditer(text):
        kind = match.lastgroup or ""
        if kind == "equals":
            result = _RESULT.match(text, match.end())
            expression = _expression_before(tokens)
            # In "2 * 3 * 4 = 6 * 4 = 24" the middle is no result.
            if result and expression and not _GOES_ON.match(text, result.end()):
                operands = tuple(_float(part) for part in expression if part[-1].isdigit())
                written = _float(result["number"])
                yield Step(operands, _computed(expression), -written if result["sign"] else written)
            tokens = []
        else:
            tokens.append((kind, match[0]))


def _expression_before(tokens: Sequence[tuple[str, str]]) -> list[str]:
    """Return the numbers and operators that end a list of tokens, none if there is no operator."""
    found: list[str] = []
    words = 0
    for kind, text in reversed(tokens[-4 * _LONGEST_EXPRESSION :]):
        if kind == "word":
            words += 1
            if words > _MOST_WORDS:
                break
            continue
        if kind == "end" or (kind == "number" and found and found[-1][-1].isdigit()):
            break
        found.append(_PLAIN.get(text, text))
        words = 0
    found.reverse()
    while found and found[0] in "+*/)":
        del found[0]
    is_sum = sum(part[-1].isdigit() for part in found) > 1 and any(p in "+-*/" for p in found)
    return found if is_sum and len(found) <= _LONGEST_EXPRESSION else []


def _computed(expression: Sequence[str]) -> float | None:
    try:
        value, rest = _sum(expression)
    except (ValueError, ZeroDivisionError):
        return None
    return None if rest else value


def _sum(parts: Sequence[str]) -> tuple[float, Sequence[str]]:
    value, parts = _product(parts)
    while parts and parts[0] in "+-":
        other, rest = _product(parts[1:])
        value, parts = (value + other if parts[0] == "+" else value - other), rest
    return value, parts


def _product(parts: Sequence[str]) -> tuple[float, Sequence[str]]:
    value, parts = _atom(parts)
    while parts and parts[0] in "*/":
        other, rest = _atom(parts[1:])
        value, parts = (value * other if parts[0] == "*" else value / other), rest
    return value, parts


def _atom(parts: Sequence[str]) -> tuple[float, Sequence[str]]:
    if not parts:
        raise ValueError
    first, rest = parts[0], parts[1:]
    if first == "-":
        value, rest = _atom(rest)
        return -value, rest
    if first == "(":
        value, rest = _sum(rest)
        if not rest or rest[0] != ")":
            raise ValueError
        return value, rest[1:]
    return _float(first), rest


def _is_rounded(value: float, written: float) -> bool:
    """Return whether a value was written with some rounding; whole numbers need none."""
    room = 1e-9 * abs(value) if value == round(value) else max(0.006, 0.006 * abs(written))
    return abs(value - written) <= room


def _float(text: str) -> float:
    return float(text.replace(",", ""))
