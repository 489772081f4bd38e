"""Audits: who is sampled, when the alarm is raised, and how often for nothing."""

import random
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_tokenopt.errors import ConfigurationError
from langchain_tokenopt.routing.drift import (
    DriftMonitor,
    DriftReport,
    DriftState,
    evidence,
    rate_interval,
)


def audited(losses: list[bool]) -> DriftState:
    state = DriftState()
    for lost in losses:
        state = state.after(lost=lost)
    return state


def alarm_after(draws: random.Random, rates: list[float], *, max_loss: float = 0.05) -> int | None:
    monitor = DriftMonitor(max_loss=max_loss, share=1.0)
    for rate in rates:
        monitor.record(lost=draws.random() < rate)
        if monitor.state.alarmed_at is not None:
            break
    return monitor.state.alarmed_at


def test_about_the_asked_share_of_requests_is_audited() -> None:
    monitor = DriftMonitor(max_loss=0.05, share=0.03, random_source=random.Random(3))

    due = sum(monitor.observe(accepted=True) for _ in range(20_000))

    assert 500 < due < 700


def test_an_escalated_request_is_an_audit_without_a_loss_and_without_a_call() -> None:
    monitor = DriftMonitor(max_loss=0.05, share=1.0)

    assert not monitor.observe(accepted=False)
    assert (monitor.state.audits, monitor.state.total_losses) == (1, 0)


def test_an_accepted_request_waits_for_its_audit() -> None:
    monitor = DriftMonitor(max_loss=0.05, share=1.0)

    assert monitor.observe(accepted=True)
    assert monitor.state.audits == 0
    monitor.record(lost=True)
    assert (monitor.state.audits, monitor.state.total_losses) == (1, 1)


def test_a_promise_that_just_holds_raises_an_alarm_in_at_most_delta_of_all_runs() -> None:
    draws = random.Random(5)

    alarms = sum(alarm_after(draws, [0.05] * 400) is not None for _ in range(200))

    assert alarms / 200 <= 0.05


def test_a_rate_of_twice_the_promise_is_noticed() -> None:
    draws = random.Random(6)

    found = [alarm_after(draws, [0.15] * 1_000) for _ in range(50)]

    assert all(found)
    assert sorted(each or 0 for each in found)[25] < 200


def test_a_change_after_a_long_good_time_is_noticed() -> None:
    draws = random.Random(7)

    found = [alarm_after(draws, [0.01] * 1_500 + [0.2] * 400) for _ in range(10)]

    assert all(each is not None and each > 1_500 for each in found)


def test_the_alarm_is_told_once_and_stays() -> None:
    told: list[DriftReport] = []
    monitor = DriftMonitor(max_loss=0.05, share=1.0, on_alarm=told.append)
    for lost in [True] * 10 + [False] * 500:
        monitor.record(lost=lost)

    assert len(told) == 1
    assert told[0].is_alarmed
    assert monitor.report().is_alarmed
    assert "the promise is broken" in str(told[0])


def test_a_monitor_goes_on_from_a_saved_state() -> None:
    losses = [n % 12 == 0 for n in range(130)]
    whole = audited(losses)
    first = DriftMonitor(max_loss=0.2, share=1.0)
    for lost in losses[:60]:
        first.record(lost=lost)
    second = DriftMonitor(max_loss=0.2, share=1.0, state=first.state)
    for lost in losses[60:]:
        second.record(lost=lost)

    assert second.state == whole
    assert second.report().evidence == evidence(whole, 0.2)


@given(st.lists(st.booleans(), max_size=160), st.floats(0.01, 0.6), st.floats(0.0, 1.0))
def test_the_bet_is_fair_at_the_promised_rate_and_loses_below_it(
    losses: list[bool], max_loss: float, below: float
) -> None:
    state = audited(losses)
    now = evidence(state, max_loss)
    rate = below * max_loss

    expected = rate * evidence(state.after(lost=True), max_loss) + (1 - rate) * evidence(
        state.after(lost=False), max_loss
    )

    assert expected <= now * (1 + 1e-9)


def test_bounds_hold_at_all_times_together() -> None:
    draws = random.Random(8)
    missed = 0
    for _ in range(200):
        losses, outside = 0, False
        for audits in range(1, 300):
            losses += draws.random() < 0.1
            low, high = rate_interval(losses, audits, delta=0.1)
            outside |= not low <= 0.1 <= high
        missed += outside

    assert missed / 200 <= 0.1


@given(st.integers(0, 200), st.integers(0, 200))
def test_bounds_are_around_what_was_seen(losses: int, others: int) -> None:
    low, high = rate_interval(losses, losses + others)

    seen = losses / (losses + others) if losses + others else 0.5
    assert 0 <= low <= seen <= high <= 1


def test_audits_of_many_threads_are_all_counted() -> None:
    monitor = DriftMonitor(max_loss=0.5, share=1.0)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: monitor.record(lost=n % 4 == 0), range(400)))

    assert (monitor.state.audits, monitor.state.total_losses) == (400, 100)


@pytest.mark.parametrize("bad", [{"max_loss": 0}, {"delta": 1}, {"share": 0}, {"share": 1.1}])
def test_shares_that_cannot_be_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ConfigurationError, match="shares between 0 and 1"):
        DriftMonitor(**{"max_loss": 0.05, **bad})
