"""Do the extractors find the right answers, and which different answers do votes merge?

Two tables:

- Recorded GSM8K: gold solutions as they are ("#### 18"), without their last line, and the recorded
  answers of four models with their grading. Beside ours: the regular expression of OpenAI's
  grade-school-math, and what DSPy's GSM8K metric does (the digits of the last token that has one,
  cut at its first full stop; of the first line there, of the last one here, which is kinder).
- Votes: pairs of values that differ, and pairs that are one value written twice, 1,000 generated.
  Beside ours: equal strings, and equality after DSPy's `normalize_text` (lower case, without
  punctuation and articles), by which its `majority` votes.

Intervals are 95% (Wilson). Needs `--data` or TOKENOPT_DATA for the first.
"""

import datetime
import math
import random
import re
import string
import unicodedata
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

from measure import data_arguments, has_recorded, json_rows, table

from langchain_tokenopt.reasoning.extract import Answers, date, number, option, text

Read = Callable[[str], Decimal | None]


def main() -> None:
    """Print both tables."""
    given = data_arguments(__doc__)
    merges(200 if given.quick else 1_000)
    if not has_recorded(given.data, "reasoning"):
        return
    gsm8k(given.data / "reasoning", 100 if given.quick else 10_000)


def gsm8k(data: Path, most: int) -> None:
    """Print how often each way to read finds the recorded gold answer."""
    ways: dict[str, Read] = {"ours": number, "official regex": official, "DSPy's metric": of_dspy}
    golds = list(json_rows(data / "gold_gsm8k_test_dev.jsonl.gz"))[:most]
    runs = [
        (run["text"], gold_of(row), bool(run["is_correct"]))
        for row in list(json_rows(data / "mm_openai_gsm8k_4models_dev.jsonl.gz"))[:most]
        for run in row["models"].values()
    ]
    lines = []
    for name, read in ways.items():
        whole = [read(row["solution"]) == gold_of(row) for row in golds]
        chain = [read(row["solution"].rpartition("\n")[0]) == gold_of(row) for row in golds]
        graded = [(read(written) == gold, right) for written, gold, right in runs]
        lines.append(
            [
                name,
                share(whole),
                share(chain),
                str(sum(found and not right for found, right in graded)),
                str(sum(right and not found for found, right in graded)),
            ]
        )
    head = [
        "reader",
        f"gold found, {len(golds)} solutions",
        "without the last line",
        f"wrong taken for right, {len(runs):,} answers",
        "right missed",
    ]
    table("Recorded GSM8K", head, lines)


def official(written: str) -> Decimal | None:
    """Read as grade-school-math does."""
    match = re.search(r"#### (\-?[0-9\.\,]+)", written)
    return decimal(match[1].replace(",", "")) if match else None


def of_dspy(written: str) -> Decimal | None:
    """Read as DSPy's metric for GSM8K does, of the last line."""
    tokens = written.strip().rpartition("\n")[2].split()
    told = next((token for token in reversed(tokens) if any(map(str.isdigit, token))), "")
    return decimal("".join(filter(str.isdigit, told.partition(".")[0])))


def decimal(digits: str) -> Decimal | None:
    """Return the number, `None` if it is none."""
    try:
        return Decimal(digits.rstrip("."))
    except ArithmeticError:
        return None


def merges(cases: int) -> None:
    """Print which pairs each way to compare takes for one answer."""
    pairs = [*named(), *generated(cases)]
    ways: dict[str, Callable[[Answers[Any], str, str], bool]] = {
        "ours": same_to_us,
        "equal strings": lambda _, one, other: one == other,
        "DSPy's normalize_text": lambda _, one, other: plain(one) == plain(other),
    }
    lines = []
    for name, same in ways.items():
        wrong = [pair for pair in pairs if not pair[3] and same(*pair[:3])]
        missed = [pair for pair in pairs if pair[3] and not same(*pair[:3])]
        shown = ", ".join(f"{one!r} = {other!r}" for _, one, other, _ in wrong[:3])
        lines.append([name, str(len(wrong)), str(len(missed)), shown])
    differ = sum(not pair[3] for pair in pairs)
    head = [
        "comparison",
        f"wrong merges of {differ} pairs that differ",
        f"missed of {len(pairs) - differ} that are the same",
        "among them",
    ]
    table("Votes", head, lines)


Pair = tuple[Answers[Any], str, str, bool]


def named() -> Iterator[Pair]:
    """Yield the pairs that other comparisons are known to get wrong."""
    yield number, "3.5", "35", False
    yield number, "-5", "5", False
    yield number, "1,000", "1000.0", True
    yield date, "5/1/2021", "05/01/2021", True
    yield option("ABCDE"), "A", "(A)", True
    yield option("ABCDE"), "A", "B", False
    yield text, "the who", "who", False
    yield text, "Yes.", "yes", True


def generated(cases: int) -> Iterator[Pair]:
    """Yield pairs of numbers, dates and texts, half of them one value written twice."""
    rng = random.Random(0)
    for at in range(cases):
        alike = at % 2 == 0
        kind = rng.choice(["number", "number", "date", "text"])
        if kind == "number":
            one = Decimal(rng.randint(-(10**6), 10**6)).scaleb(-rng.choice([0, 0, 1, 2]))
            other = one if alike else rng.choice([-one, one * 10, one / 10, one + 1])
            yield number, number_form(one, rng), number_form(other, rng), one == other
        elif kind == "date":
            day = datetime.date(2000, 1, 1) + datetime.timedelta(days=rng.randint(0, 9_000))
            later = day if alike else day + datetime.timedelta(days=rng.choice([1, 9, 30, 365]))
            yield date, date_form(day, rng), date_form(later, rng), alike
        else:
            words = rng.sample(
                ["a", "the", "an", "vitamin", "C++", "C#", "U.S.", "us", "no-one"], 2
            )
            first = " ".join(words)
            forms = [first.upper(), f'"{first}"', f"{first}.", first]
            changed = [" ".join(reversed(words)), words[1], first.replace("+", "").replace("#", "")]
            other_text = rng.choice(forms if alike else [each for each in changed if each != first])
            yield text, first, other_text, alike


def number_form(value: Decimal, rng: random.Random) -> str:
    """Write a number in one of the ways that models do."""
    forms = [f"{value}", f"{value:,}", f"${abs(value):,}" if value >= 0 else f"-${abs(value):,}"]
    if value == value.to_integral_value():
        forms.append(f"{value}.0")
    return rng.choice(forms)


def date_form(day: datetime.date, rng: random.Random) -> str:
    """Write a date in one of the ways that models do."""
    forms = [f"{day:%m/%d/%Y}", f"{day.month}/{day.day}/{day.year}", f"{day:%Y-%m-%d}"]
    return rng.choice([*forms, f"{day:%B} {day.day}, {day.year}"])


def same_to_us(answers: Answers[Any], one: str, other: str) -> bool:
    """Return whether a vote counts both as one answer."""
    read = answers(one), answers(other)
    return None not in read and answers.same(*read)


def plain(written: str) -> str:
    """Return a text as DSPy compares it."""
    lower = unicodedata.normalize("NFD", written).lower()
    bare = "".join(letter for letter in lower if letter not in string.punctuation)
    return " ".join(word for word in bare.split() if word not in ("a", "an", "the"))


def gold_of(row: Any) -> Decimal:
    """Return the right answer."""
    return Decimal(row["gold"].replace(",", ""))


def share(found: list[bool]) -> str:
    """Return a share with its 95% interval (Wilson)."""
    n, p, z = len(found), sum(found) / len(found), 1.96
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return f"{p:.1%} ({max(middle - half, 0):.1%} to {min(middle + half, 1):.1%})"


if __name__ == "__main__":
    main()
