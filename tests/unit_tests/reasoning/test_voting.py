"""Counting votes, when they are enough, and how many to ask for."""

from fractions import Fraction
from math import comb

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_tokenopt.errors import ConfigurationError
from langchain_tokenopt.reasoning import Sample, TokenWeights
from langchain_tokenopt.reasoning.extract import number
from langchain_tokenopt.reasoning.voting import (
    confidence_weights,
    leads,
    least_decisive,
    least_more,
    tally,
)
from langchain_tokenopt.reasoning.waves import cheapest_wave

counts = st.integers(0, 30)


def samples_of(answers: list[object]) -> list[Sample]:
    return [Sample(index=n, answer=answer) for n, answer in enumerate(answers)]


def test_votes_compare_values_and_not_strings() -> None:
    texts = ["3.5", "35", "-5", "5", "1,000", "1000.0"]

    votes = tally(samples_of([number(text) for text in texts]), number.same)

    assert (str(votes[0].answer), votes[0].votes) == ("1000", 2)
    assert len(votes) == 5


def test_a_sample_without_an_answer_casts_no_vote() -> None:
    assert [vote.votes for vote in tally(samples_of([None, "a", None]), str.__eq__)] == [1]


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=30))
def test_the_most_frequent_answer_wins_and_of_equals_the_first_named(answers: list[str]) -> None:
    winner = tally(samples_of(list(answers)), str.__eq__)[0]

    most = max(map(answers.count, answers))
    assert winner.votes == most
    assert winner.answer == next(answer for answer in answers if answers.count(answer) == most)


@given(counts, counts)
def test_the_lead_is_that_of_the_beta_distribution(first: int, second: int) -> None:
    """P(X > 1/2), X ~ Beta(a + 1, b + 1), by integrating its density term by term."""
    a, b = first, second
    norm = Fraction(comb(a + b, a) * (a + b + 1))
    above_half = sum(
        norm * comb(b, k) * (-1) ** k * (1 - Fraction(1, 2 ** (a + k + 1))) / (a + k + 1)
        for k in range(b + 1)
    )

    assert leads(first, second) == pytest.approx(float(above_half), abs=1e-12)


@given(counts, counts, st.floats(0.6, 0.999))
def test_no_fewer_votes_for_the_leader_would_do(first: int, second: int, confidence: float) -> None:
    first, second = max(first, second), min(first, second)
    more = least_more(first, second, confidence=confidence)

    assert leads(first + more, second) >= confidence
    if more:
        assert leads(first + more - 1, second) < confidence


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=25), st.integers(0, 25))
def test_a_lossless_stop_gives_the_answer_of_all_samples(answers: list[str], at: int) -> None:
    seen = answers[:at]
    votes = tally(samples_of(list(seen)), str.__eq__)
    first, second = [*(int(vote.votes) for vote in votes), 0, 0][:2]

    if seen and least_decisive(first, second, remaining=len(answers) - len(seen)) == 0:
        assert votes[0].answer == tally(samples_of(list(answers)), str.__eq__)[0].answer


def test_weights_need_every_confidence_and_sum_to_the_number_of_votes() -> None:
    sure, unsure = Sample(index=0, answer="a", confidence=-0.1), Sample(index=1, answer="b")
    known = [sure, unsure.model_copy(update={"confidence": -0.5})]

    assert confidence_weights([sure, unsure], softness=0.1) is None
    weights = confidence_weights(known, softness=0.1)
    assert weights is not None
    assert sum(weights) == pytest.approx(2)
    assert weights[0] > weights[1]


@given(st.integers(0, 12), st.integers(0, 12), st.floats(0.001, 1_000))
def test_a_wave_is_never_smaller_than_what_could_end_the_sampling(
    first: int, second: int, ask_cost: float
) -> None:
    first, second = max(first, second), min(first, second)
    wave = cheapest_wave(
        first, second, drawn=first + second, n=40, confidence=0.95, ask_cost=ask_cost
    )

    assert min(least_more(first, second, confidence=0.95), 40) <= max(wave, 1)
    assert wave <= 40 - first - second


def test_waves_grow_with_the_prompt() -> None:
    waves = [
        cheapest_wave(0, 0, drawn=0, n=40, confidence=0.95, ask_cost=ask)
        for ask in (0.01, 10, 30, 100, 1_000)
    ]

    assert waves == sorted(waves)
    assert (waves[0], waves[-1]) == (4, 40)


def test_weights_that_are_no_prices_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="above 0 for output"):
        TokenWeights(output=0)
