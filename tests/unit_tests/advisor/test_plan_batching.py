"""Whether batching pays: against the formula, and when nothing does."""

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_tokenopt.accounting import Price
from langchain_tokenopt.advisor import BatchingPlan, plan_batching
from langchain_tokenopt.errors import ConfigurationError

MILLION = Decimal(1_000_000)


def prices(*, tier: str | None, **_: Any) -> Price:
    half = Decimal("0.5") if tier == "batch" else Decimal(1)
    return Price(input=half, output=8 * half, cache_read=half / 10, source="made for the test")


def plan(**changes: Any) -> BatchingPlan:
    given: dict[str, Any] = {
        "prefix_tokens": 2_048, "item_tokens": 40, "output_tokens": 5, "items": 100_000,
        "prices": prices, **changes,
    }  # fmt: skip
    return plan_batching("gpt-5-mini", **given)


def cost_of(found: BatchingPlan, name: str, size: int) -> Decimal:
    (cost,) = (o.cost for o in found.options if (o.name, o.items_a_request) == (name, size))
    assert cost is not None
    return cost * MILLION


def test_costs_follow_the_formula() -> None:
    found = plan(echo_tokens=6, retry_share=0.0, may_wait_s=90_000)

    # One at a time, cached: 0.1 P + x + o y.
    single = Decimal("0.1") * 2_048 + 40 + 8 * 5
    assert cost_of(found, "single", 1) == pytest.approx(single)
    # Together, the prefix cached too: (0.1 P' + the rest + k (x + 16)) / k + o (y + 21).
    whole = 2_048 + 110
    cached = whole // 128 * 128
    together = (Decimal("0.1") * cached + whole - cached + 8 * (40 + 16)) / 8 + 8 * (5 + 21)
    assert float(cost_of(found, "combined", 8)) == pytest.approx(float(together), rel=0.001)
    # A Batch API: half of all, nothing cached.
    assert cost_of(found, "batch", 1) == (2_048 + 40 + 8 * 5) / Decimal(2)


def test_with_a_cached_prefix_and_short_items_combining_can_cost_more() -> None:
    found = plan(prefix_tokens=1_100, output_tokens=30, item_tokens=10, sizes=(4, 8))

    assert not found.pays
    assert found.best.name == "single"
    assert found.reason == "nothing costs less"


def test_without_a_cache_combining_shares_a_long_instruction() -> None:
    found = plan(every_s=3_600.0)

    assert found.best.name == "combined"
    assert found.saving > Decimal("0.5")


def test_a_small_saving_is_refused_with_its_size() -> None:
    found = plan(prefix_tokens=400, item_tokens=200, output_tokens=60, least_saving=0.9)

    assert not found.pays
    assert "less than the 90%" in found.reason


def test_a_batch_api_is_only_advised_where_answers_may_take_a_day() -> None:
    patient = plan(prefix_tokens=0, item_tokens=2_000, output_tokens=500, may_wait_s=100_000)
    hasty = plan(prefix_tokens=0, item_tokens=2_000, output_tokens=500)

    assert patient.best.name == "batch"
    assert patient.best.waits
    assert patient.saving > Decimal("0.4")
    assert not any(option.waits for option in hasty.options)


def test_an_unknown_price_is_said_and_nothing_is_advised() -> None:
    found = plan_batching(
        "nobody-knows-it", prefix_tokens=10, item_tokens=1, output_tokens=1, items=10
    )

    assert found.best.cost is None
    assert "no price of nobody-knows-it" in found.reason
    assert "unpriced" in str(found)


@given(
    prefix=st.integers(0, 10_000),
    item=st.integers(0, 2_000),
    output=st.integers(0, 2_000),
    items=st.integers(1, 10**6),
    every=st.floats(0.01, 10_000),
)
def test_the_advised_way_never_costs_more_than_one_at_a_time(
    prefix: int, item: int, output: int, items: int, every: float
) -> None:
    found = plan(
        prefix_tokens=prefix, item_tokens=item, output_tokens=output, items=items, every_s=every,
        may_wait_s=100_000,
    )  # fmt: skip

    assert found.single.cost is not None
    assert found.best.cost is not None
    assert found.best.cost <= found.single.cost
    assert 0 <= found.saving <= 1


@pytest.mark.parametrize(
    "wrong", [{"items": 0}, {"item_tokens": -1}, {"every_s": 0}, {"retry_share": 2}, {"sizes": ()}]
)
def test_wrong_values_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        plan(**wrong)


def test_writes_to_a_cache_without_a_price_of_their_own_are_plain_input() -> None:
    def of_anthropic(*, cache_write: Decimal | None) -> Any:
        def price(**_: Any) -> Price:
            return Price(
                input=Decimal(1), output=Decimal(8), cache_read=Decimal("0.1"),
                cache_write=cache_write, source="made for the test",
            )  # fmt: skip

        return price

    without, plain, dear = (
        plan_batching(
            "claude-sonnet-4-5", prefix_tokens=4_096, item_tokens=40, output_tokens=5, items=1_000,
            prices=of_anthropic(cache_write=price), every_s=3_600.0,
        )
        for price in (None, Decimal(1), Decimal(2))
    )  # fmt: skip

    assert without.options == plain.options
    assert cost_of(dear, "single", 1) >= cost_of(plain, "single", 1)
