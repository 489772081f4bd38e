"""Whether an answer is wrong, as far as the log knows the right one."""

import re
from decimal import Decimal, InvalidOperation

_ANSWER = re.compile(r"answer\s*:\s*\$?\s*(-?[\d,]*\.?\d+)", re.IGNORECASE)


def stated_number(text: str) -> Decimal | None:
    r"""Return the number on the last "Answer:" line.

    >>> stated_number("3 x $4.00 = $12.00\nAnswer: 12.00")
    Decimal('12.00')
    """
    found = _ANSWER.findall(text)
    try:
        return Decimal(found[-1].replace(",", "")) if found else None
    except InvalidOperation:
        return None


def is_wrong(answer: str, *, expected: str | None) -> bool | None:
    """Return whether `answer` misses the `expected` number, `None` if there is none to compare.

    >>> is_wrong("Answer: 12", expected="12.00"), is_wrong("I do not know", expected="12")
    (False, True)
    >>> is_wrong("Standard delivery is free.", expected=None) is None
    True
    """
    if expected is None:
        return None
    return stated_number(answer) != Decimal(expected)
