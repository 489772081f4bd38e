"""What the log of a bandit tells of other policies, and what it cannot tell."""

import random
import tracemalloc
from dataclasses import replace
from typing import Any

import pytest

from langchain_tokenopt.errors import ConfigurationError
from langchain_tokenopt.routing.bandit import Decision, TierBandit
from langchain_tokenopt.routing.off_policy import evaluate_policy


def logged(rounds: int, *, seed: int = 0) -> list[Decision]:
    """Requests that were served by chance, 0.7 large."""
    rng = random.Random(seed)
    found = []
    for number in range(rounds):
        task = rng.choice(["easy", "hard"])
        arm = "large" if rng.random() < 0.7 else "small"
        right = 0.9 if arm == "large" else {"easy": 0.85, "hard": 0.2}[task]
        found.append(
            Decision(
                request_id=str(number),
                task=task,
                arm=arm,
                served=arm,
                propensities={"small": 0.3, "large": 0.7},
                quality=float(rng.random() < right),
                cost=float(arm == "large"),
            )
        )
    return found


def by_difficulty(task: str) -> dict[str, float]:
    return {"small": 1.0} if task == "easy" else {"large": 1.0}


@pytest.mark.parametrize("estimator", ["ips", "snips", "dr"])
def test_the_value_of_another_policy_is_within_its_interval(estimator: Any) -> None:
    covered = 0
    for seed in range(20):
        value = evaluate_policy(logged(800, seed=seed), by_difficulty, estimator=estimator)
        covered += value.low <= (0.85 + 0.9) / 2 <= value.high
        assert value.requests == 800
        assert value.effective < 800

    assert covered >= 16


def test_prices_count_in_the_value_of_a_policy() -> None:
    log = logged(2_000)

    free = evaluate_policy(log, lambda _: {"large": 1.0})
    priced = evaluate_policy(log, lambda _: {"large": 1.0}, price_weight=0.1)

    assert free.mean - priced.mean == pytest.approx(0.1, abs=0.01)


def test_a_log_that_tells_nothing_is_refused() -> None:
    shadow = Decision(
        request_id="a",
        task="",
        arm="small",
        served="large",
        propensities={"small": 1.0},
        quality=1.0,
    )

    like_it = replace(shadow, arm="large", propensities={"large": 1.0}, shadow=True)
    with pytest.raises(ConfigurationError, match="no decision with a reward"):
        evaluate_policy([], by_difficulty)
    with pytest.raises(ConfigurationError, match="was logged in shadow mode"):
        evaluate_policy([like_it], by_difficulty)
    with pytest.raises(ConfigurationError, match="was logged in shadow mode"):
        evaluate_policy([shadow], by_difficulty)
    with pytest.raises(ConfigurationError, match="estimator is 'ips', 'snips' or 'dr'"):
        evaluate_policy(logged(5), by_difficulty, estimator="best")  # type: ignore[arg-type]  # wrong on purpose


def test_a_log_in_shadow_mode_is_told_even_where_it_decided_for_the_baseline() -> None:
    learner = TierBandit(("small", "large"), baseline="large", mode="shadow", seed=0)
    for number in range(50):
        learner.decide("faq", request_id=str(number))
        assert learner.reward(str(number), quality=1.0)
    agreed = [decision for decision in learner.log if decision.arm == decision.served]

    assert agreed
    with pytest.raises(ConfigurationError, match="was logged in shadow mode"):
        evaluate_policy(agreed, by_difficulty)


def test_what_the_log_could_not_have_served_is_told() -> None:
    log = [replace(each, propensities={"small": 0.0, "large": 1.0}) for each in logged(200)]
    large = [each for each in log if each.served == "large"]

    value = evaluate_policy(large, lambda _: {"small": 0.25, "large": 0.75})

    assert value.unsupported == pytest.approx(0.25)
    assert evaluate_policy(large, lambda _: {"large": 1.0}).unsupported == 0
    with pytest.raises(ConfigurationError, match="nothing that the policy would have chosen"):
        evaluate_policy(large, lambda _: {"small": 1.0})


def test_a_log_whose_decisions_could_not_have_been_is_refused() -> None:
    log = [replace(each, propensities={"small": 0.0, "large": 1.0}) for each in logged(20)]

    with pytest.raises(ConfigurationError, match="served small with the probability 0"):
        evaluate_policy(log, by_difficulty)


def test_an_interval_takes_little_memory_however_long_the_log() -> None:
    log = logged(5_000)

    tracemalloc.start()
    evaluate_policy(log, by_difficulty)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert most < 5_000_000


@pytest.mark.parametrize(
    "shares", [{}, {"large": 0.5}, {"small": -0.5, "large": 1.5}, {"large": float("nan")}]
)
def test_a_policy_whose_probabilities_do_not_add_up_is_refused(shares: dict[str, float]) -> None:
    with pytest.raises(ConfigurationError, match="probabilities that add up to 1"):
        evaluate_policy(logged(20), lambda _: shares)
