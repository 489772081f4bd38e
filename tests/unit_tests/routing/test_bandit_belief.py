"""What a bandit believes of its arms, and what it may stake on them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_tokenopt.routing.bandit_belief import Belief, LossBudget
from langchain_tokenopt.routing.bandit_state import ArmSums

LARGE = Belief(good=800, bad=200, price=0.0)


def sums(weight: float, quality: float, cost: float = 0.0) -> ArmSums:
    return ArmSums(weight=weight, quality=weight * quality, cost=weight * cost)


@pytest.mark.parametrize(
    ("arm", "gains"),
    [
        (Belief(good=9, bad=1, price=0.0), 0.054),  # 0.1 more, give or take 0.09
        (Belief(good=900, bad=100, price=0.0), 0.092),
        (Belief(good=4, bad=1, price=0.0), 0.0),
        (Belief(good=4.3, bad=1, price=0.0), 0.0),  # more by the mean, and unsure
        (Belief(good=900, bad=100, price=0.2), 0.0),
    ],
)
def test_a_gain_counts_as_far_as_it_is_likely(arm: Belief, gains: float) -> None:
    assert arm.likely_gain(LARGE) == pytest.approx(gains, abs=0.001)


def test_an_arm_without_rewards_at_a_task_is_as_dear_and_as_good_as_at_others() -> None:
    belief = Belief.of(ArmSums(), sums(500, 0.9, cost=0.3), price_weight=2.0)

    assert belief.price == pytest.approx(0.6)
    assert belief.quality == pytest.approx(0.82, abs=0.01)
    assert Belief.of(ArmSums(), ArmSums(), price_weight=2.0).value == 0.5


def test_an_unsure_arm_may_yet_reach_a_floor_that_a_sure_one_does_not() -> None:
    unsure, sure = Belief(good=3, bad=2, price=0.0), Belief(good=600, bad=400, price=0.0)

    assert unsure.upper_quality > 0.7 > sure.upper_quality > sure.quality


ROUNDS = st.lists(
    st.tuples(st.floats(0, 1), st.floats(-0.5, 1), st.floats(-0.5, 1), st.floats(0, 0.2)),
    min_size=1,
    max_size=50,
)


@given(ROUNDS, st.floats(0, 0.1))
def test_no_more_is_risked_than_was_allowed_and_gained(
    rounds: list[tuple[float, float, float, float]], allowed: float
) -> None:
    budget = LossBudget(allowed)
    left = 0.0
    for wanted, small, large, gain in rounds:
        values, gained = np.array([[small, large]]), np.array([gain, 0.0])

        shares = budget.kept(np.array([wanted, 1 - wanted]), values, gained, baseline=1)

        assert shares.sum() == pytest.approx(1)
        assert -1e-12 <= shares[0] <= wanted + 1e-12
        left += allowed * max(large, 0.0) - shares[0] * max(large - small, 0.0)
        assert left >= -1e-9
        left += shares[0] * gain


def test_a_long_calm_pays_for_no_long_storm() -> None:
    budget = LossBudget(0.1)
    for _ in range(2_000):
        budget.kept(np.array([0.0, 1.0]), np.array([[0.0, 1.0]]), np.zeros(2), baseline=1)

    storm = [
        budget.kept(np.array([1.0, 0.0]), np.array([[0.0, 1.0]]), np.zeros(2), baseline=1)[0]
        for _ in range(200)
    ]

    assert storm[:50] == [1.0] * 50
    assert storm[-1] == pytest.approx(0.1)
