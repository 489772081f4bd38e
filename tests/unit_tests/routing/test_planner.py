"""Whether a cascade pays, and which single model dominates."""

from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_tokenopt.errors import ConfigurationError
from langchain_tokenopt.routing.planner import (
    Measured,
    Outcome,
    dominating,
    plan_cascade,
)

CENT = Decimal("0.01")
RIGHT = Outcome(
    weak_quality=1.0,
    strong_quality=1.0,
    weak_cost=CENT,
    strong_cost=20 * CENT,
    gate_cost=CENT,
    accepted=True,
)
WRONG = replace(RIGHT, weak_quality=0.0, accepted=False)


def test_a_cascade_is_advised_where_accepted_drafts_save_more_than_all_drafts_cost() -> None:
    plan = plan_cascade([RIGHT] * 60 + [WRONG] * 40)

    assert plan.choice == "cascade"
    assert plan.best.cost == CENT * 2 + Decimal("0.4") * 20 * CENT
    assert plan.best.quality.mean == 1.0
    assert plan.best.cost_share is not None
    assert plan.best.cost_share.mean == pytest.approx(0.5)


def test_a_hopeless_small_model_is_refused() -> None:
    plan = plan_cascade([WRONG] * 100)

    assert plan.choice == "strong"
    assert plan.best.cost_share is not None
    assert plan.best.cost_share.mean == 1.0
    assert plan.best.quality.mean == 1.0
    assert "would cost 110.0% of the strong model" in plan.reason


def test_a_saving_that_may_be_chance_is_refused() -> None:
    plan = plan_cascade([RIGHT] * 3 + [WRONG] * 17)

    assert plan.choice == "strong"
    assert "no sure saving" in plan.reason


def test_a_small_model_that_is_as_good_is_asked_alone() -> None:
    assert plan_cascade([RIGHT] * 50).choice == "weak"
    assert plan_cascade([RIGHT] * 50, among=("cascade",)).choice == "cascade"


def test_few_requests_are_not_enough_to_ask_the_small_model_alone() -> None:
    assert plan_cascade([RIGHT] * 29).choice == "cascade"


def test_a_small_model_may_lack_what_is_tolerated() -> None:
    outcomes = [RIGHT] * 98 + [WRONG] * 2

    assert plan_cascade(outcomes, tolerance=0.1).choice == "weak"
    assert plan_cascade(outcomes).choice == "cascade"


def test_a_small_model_that_costs_more_is_refused() -> None:
    plan = plan_cascade([replace(WRONG, weak_cost=30 * CENT)] * 50)

    assert (plan.choice, plan.reason) == (
        "strong",
        "the small model costs more than the strong one",
    )


@pytest.mark.parametrize("name", ["weak_cost", "strong_cost", "gate_cost"])
def test_a_cost_that_is_not_known_is_not_taken_for_nothing(name: str) -> None:
    plan = plan_cascade([replace(RIGHT, **{name: None})] * 50)

    assert plan.choice == "strong"
    assert plan.best.cost is None


def test_free_models_do_not_divide_by_zero() -> None:
    free = replace(RIGHT, weak_cost=Decimal(0), strong_cost=Decimal(0), gate_cost=Decimal(0))

    plan = plan_cascade([free] * 5 + [replace(free, weak_quality=0.0)] * 5)

    assert plan.choice == "strong"
    assert plan.best.cost_share is None


def test_a_plan_needs_a_request() -> None:
    with pytest.raises(ConfigurationError, match="at least one labelled request"):
        plan_cascade([])


@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_an_advised_cascade_costs_less_than_the_strong_model_on_its_labels(
    rows: list[tuple[bool, bool, bool]],
) -> None:
    outcomes = [
        replace(RIGHT, weak_quality=float(weak), strong_quality=float(strong), accepted=accepted)
        for weak, strong, accepted in rows
    ]
    plan = plan_cascade(outcomes)

    assert plan.best.cost is not None
    strong = next(option for option in plan.options if option.name == "strong")
    assert strong.cost is not None
    assert plan.best.cost <= strong.cost
    for option in plan.options:
        assert option.quality.low <= option.quality.mean + 1e-9
        assert option.quality.mean <= option.quality.high + 1e-9


def measured(*right: bool, cost: str) -> list[Measured]:
    return [Measured(float(each), Decimal(cost)) for each in right]


def test_the_cheaper_and_better_model_dominates() -> None:
    good = measured(*[True] * 90, *[False] * 10, cost="0.001")
    bad = measured(*[True] * 60, *[False] * 40, cost="0.004")

    assert dominating({"haiku": bad, "flash": good}) == "flash"


def test_no_model_dominates_where_the_better_one_costs_more() -> None:
    good = measured(*[True] * 90, *[False] * 10, cost="0.004")
    bad = measured(*[True] * 60, *[False] * 40, cost="0.001")

    assert dominating({"haiku": bad, "flash": good}) is None


def test_no_model_dominates_on_a_few_requests() -> None:
    assert dominating({"a": measured(True, cost="1"), "b": measured(False, cost="2")}) is None


def test_models_must_have_answered_the_same_requests() -> None:
    with pytest.raises(ConfigurationError, match="answered the same requests"):
        dominating({"a": measured(True, cost="1"), "b": measured(True, True, cost="1")})
    with pytest.raises(ConfigurationError, match="at least two models"):
        dominating({"a": measured(True, cost="1")})
