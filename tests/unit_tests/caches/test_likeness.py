"""What keeps two questions apart whatever a distance says."""

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_tokenopt.caches.likeness import WordWeights, read, veto
from langchain_tokenopt.caches.question import Question, cacheable


@pytest.mark.parametrize(
    ("asked", "cached", "why"),
    [
        ("Can I send 500 EUR?", "Can I send 50 EUR?", "other numbers"),
        ("What happened on 2026-01-02?", "What happened on 2026-01-03?", "other numbers"),
        ("Should I sell bonds?", "Should I buy bonds?", "opposites"),
        ("How do I disable 2FA?", "How do I enable 2FA?", "opposites"),
        ("Why can I not log in?", "How can I log in?", "negated"),
        ("My card doesn't work", "My card works", "negated"),
        ("What does `grep -v` do?", "What does `grep -c` do?", "other quoted text"),
        ("Is Visa accepted at ALDI?", "Is Visa accepted at LIDL?", "other names"),
        ("How do I move money from savings to checking?",
         "How do I move money from checking to savings?", "another order"),
        ("How do I transfer money to my account?", "How do I transfer money from my account?",
         "one says to"),
        ("Why do you need to verify my identity?", "How do I verify my identity?", "one asks why"),
        ("Who can close my account?", "How can I close my account?", "one asks who"),
        ("What is a stop-limit order?", "What is a stop-loss order?", "other words"),
        ("How are stock options taxed?", "How are dividends taxed?", "other words"),
    ],
)  # fmt: skip
def test_questions_that_differ_in_what_matters_are_kept_apart(
    asked: str, cached: str, why: str
) -> None:
    assert why in (veto(asked, cached) or "")
    assert veto(cached, asked) is not None


@pytest.mark.parametrize(
    ("asked", "cached"),
    [
        ("Where is my parcel?", "Where's my parcel"),
        ("How can I reset my password?", "I want to reset my password, how?"),
        ("Do you ship to Norway?", "Do you ship to Norway, please?"),
        ("What are your opening hours?", "Tell me your opening hours"),
        ("How long does a refund take?", "How long do refunds take?"),
        ("Why was the payment declined?", "What is the reason the payment was declined?"),
    ],
)
def test_the_same_question_in_other_words_is_not(asked: str, cached: str) -> None:
    assert veto(asked, cached) is None


@given(st.text(), st.text())
def test_any_two_texts_are_read(one: str, two: str) -> None:
    assert veto(one, one) is None
    assert (veto(one, two) is None) == (veto(two, one) is None)


def test_every_recorded_trap_is_kept_apart_and_most_paraphrases_are_not(
    recorded_data: Path,
) -> None:
    def rows(name: str) -> list[dict[str, str]]:
        with gzip.open(recorded_data / "cache" / name, "rt") as lines:
            return [json.loads(line) for line in lines]

    traps = rows("adversarial_finance.jsonl.gz")
    paraphrases = rows("gptcache_mock_pairs.jsonl.gz")

    assert [row for row in traps if veto(row["new"], row["cached"]) is None] == []
    free = sum(veto(row["new"], row["cached"]) is None for row in paraphrases)
    assert free >= 0.8 * len(paraphrases)


def test_rare_words_weigh_more() -> None:
    words = WordWeights()
    for n in range(10):
        words.add(f"common word {n}")

    assert words.weight("common") < words.weight("3") < words.weight("unseen") <= words.highest


@pytest.mark.parametrize(
    ("text", "asked_anew"),
    [
        ("What's in the news?", True),
        ("How is the weather in Ulm today?", True),
        ("Please cancel my order 12", True),
        ("Can you send me an invoice?", True),
        ("How do I cancel my order?", False),
        ("Can I cancel my order?", False),
        ("What is a refund?", False),
        ("I know the answer", False),
    ],
)
def test_what_is_about_the_present_or_a_command_is_asked_anew(text: str, asked_anew: bool) -> None:
    question = Question(text=text, partition=b"", temperature=None)

    assert (cacheable(question) is not None) is asked_anew


def test_a_model_told_to_vary_is_asked_anew() -> None:
    question = Question(text="Tell a story", partition=b"", temperature=1.3)

    assert "temperature" in (cacheable(question) or "")
    assert cacheable(question, max_temperature=1.5) is None


def test_a_question_is_taken_apart() -> None:
    taken = read('Why was my card "Gold" declined at 10:30?')

    assert taken.content == ("why", "card", "gold", "declined", "10", "30")[1:]
    assert taken.numbers == {"10:30"}
    assert taken.quoted == {"gold"}
    assert taken.negated
