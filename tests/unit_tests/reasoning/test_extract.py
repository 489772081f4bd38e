"""What the extractors read, and which answers they call the same."""

import datetime
import gzip
import json
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_tokenopt.errors import ConfigurationError
from langchain_tokenopt.reasoning.extract import (
    boolean,
    date,
    dates,
    number,
    option,
    same_answer,
    text,
)

ABCDE = option("ABCDE")


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("The answer is 18.", "18"),
        ("#### 1,014", "1014"),
        ("A: 26", "26"),
        ("7 * 2 = 14 dollars\nSo she has $1,014.50 left.", "1014.50"),
        ("Answer: 16 - 3 = 13", "13"),
        ("It is \\boxed{\\frac{3}{4}}.", "0.75"),
        ("She ate 1 1/2 pies", "1.5"),
        ("The temperature is -5 degrees.", "-5"),
        ("The temperature is \u22125 degrees.", "-5"),
        ("She pays -$5", "-5"),
        ("It takes 2-3 = -1", "-1"),
        ("about 1.5 million people", "1500000"),
        ("6e3", "6000"),
        ("42%", "42"),
        ("\\boxed{1{,}000}", "1000"),
        ("On 5/1/2021 at 10:30 they counted 7 birds on 05-01-2021", "7"),
        (".5", "0.5"),
        ("The answer is 5.\nAnswer: ", "5"),
        ("It is \\boxed{42", "42"),
        ("It is \\boxed{\\frac{3}{4}", "0.75"),
    ],
)
def test_a_number_is_read(written: str, expected: str) -> None:
    assert number(written) == Decimal(expected)


@pytest.mark.parametrize("written", ["", "no number here", "model gpt-4o", "5/1/2021", "1/0"])
def test_without_a_number_there_is_no_answer(written: str) -> None:
    assert number(written) is None


@pytest.mark.parametrize(("one", "other"), [("3.5", "35"), ("-5", "5"), ("100", "1000")])
def test_different_numbers_are_not_merged(one: str, other: str) -> None:
    assert not number.same(Decimal(one), Decimal(other))


@pytest.mark.parametrize(("one", "other"), [("1,000", "1000.0"), ("1/3", "0.33333"), ("$5", "5.0")])
def test_one_number_written_twice_is_the_same(one: str, other: str) -> None:
    first, second = number(one), number(other)
    assert first is not None
    assert second is not None
    assert number.same(first, second)


@given(st.decimals(-(10**9), 10**9, places=3), st.decimals(-(10**9), 10**9, places=3))
def test_written_numbers_are_the_same_only_if_their_values_are(
    one: Decimal, other: Decimal
) -> None:
    forms = [f"The answer is {one}.", f"So it is ${one:,}" if one >= 0 else f"{one:,}"]
    read = [number(form) for form in forms]

    assert read == [one, one]
    assert number.same(read[0] or Decimal(0), other) is (one == other)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("The answer is (B).", "B"),
        ("Answer: (A) Because B is wrong", "A"),
        ("Answer: A. Not C, since C is blue.", "A"),
        ("**Answer:** **D** since A is wrong", "D"),
        ("C", "C"),
        ("(B)\nBecause A is wrong.", "B"),
        ("A is wrong and C is too.\nSo it is D.", "D"),
        ("B)", "B"),
        ("A dog barks, so the answer is E", "E"),
        ("Answer: A dog is what B shows", "B"),
        ("The answer is not B but C", "C"),
    ],
)
def test_an_option_is_read(written: str, expected: str) -> None:
    assert ABCDE(written) == expected


@pytest.mark.parametrize(
    "written",
    ["", "It is (B) or (C).", "The answer is B or C", "Answer: B, C", "Answer: A and D", "A dog"],
)
def test_two_options_or_none_are_no_answer(written: str) -> None:
    assert ABCDE(written) is None


def test_an_option_is_found_by_its_text() -> None:
    colours = option({"A": "red", "B": "light blue"})

    assert colours("So the answer is light blue.") == "B"
    assert colours("red or light blue") is None


def test_options_without_labels_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="expected labels"):
        option([])


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("The answer is yes.", True),
        ("No fish fly. Answer: Yes, since no fish can fly", True),
        ("Therefore it is not true", False),
        ("Is it? No.\nFalse", False),
        ("maybe", None),
        ("It is true that fish swim.\nSo no.", False),
        ("No fish fly.\nSo yes", True),
        ("Yes, because it swims.\nThat is what fish do.", True),
        ("Answer: yes and no? It is yes or no", True),
        ("It is yes or no", None),
    ],
)
def test_a_boolean_is_read_from_the_answer(written: str, expected: bool | None) -> None:
    assert boolean(written) is expected


@pytest.mark.parametrize(
    "written",
    ["5/1/2021", "05/01/2021", "2021-05-01", "May 1, 2021", "1 May 2021", "1st of May 2021"],
)
def test_one_date_in_every_form_is_the_same(written: str) -> None:
    assert date(f"So the answer is {written}.") == datetime.date(2021, 5, 1)


def test_a_day_may_stand_first_and_an_impossible_date_is_none() -> None:
    assert dates(day_first=True)("5/1/2021") == datetime.date(2021, 1, 5)
    assert date("31/12/2021") == datetime.date(2021, 12, 31)
    assert date("5/1/21") == datetime.date(2021, 5, 1)
    assert date("5/1/85") == datetime.date(1985, 5, 1)
    assert date("2/30/2021") is None
    assert date("no day") is None


@given(st.dates(datetime.date(1970, 1, 1), datetime.date(2060, 1, 1)))
def test_a_date_survives_being_written(day: datetime.date) -> None:
    for written in (f"{day:%m/%d/%Y}", f"{day:%Y-%m-%d}", f"{day:%B %d, %Y}"):
        assert date(f"Answer: {written}") == day


def test_texts_keep_articles_and_inner_punctuation() -> None:
    assert text("Answer: 'The Beatles'.") == "The Beatles"
    assert text.same("the beatles", "\u201cThe Beatles\u201d.")
    assert not text.same("A", "B")
    assert text("A") == "A"
    assert not text.same("3.5", "35")
    assert text("  ") is None


@given(st.text())
def test_no_text_breaks_an_extractor(written: str) -> None:
    for read in (number, boolean, date, text, ABCDE):
        read(written)


def test_an_extractor_of_ones_own_is_compared_by_equality() -> None:
    same = same_answer(len)

    assert same(3, 3)
    assert not same(3, 4)


def recorded(data: Path, name: str) -> Iterator[dict[str, Any]]:
    with gzip.open(data / "reasoning" / name, "rt") as file:
        for line in file:
            yield json.loads(line)


def test_numbers_agree_with_the_recorded_grading_of_gsm8k(recorded_data: Path) -> None:
    wrong = [
        run["text"]
        for row in recorded(recorded_data, "mm_openai_gsm8k_4models_dev.jsonl.gz")
        for run in row["models"].values()
        if (number(run["text"]) == Decimal(row["gold"].replace(",", ""))) is not run["is_correct"]
    ]

    assert wrong == []
