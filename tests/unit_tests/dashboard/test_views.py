"""The dashboard's rows against the totals of the same records."""

from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from langchain_tokenopt.accounting import CallRecord, Price, Totals, UsageLedger
from langchain_tokenopt.accounting.alert import Alert
from langchain_tokenopt.accounting.alert_log import AlertLog
from langchain_tokenopt.accounting.rollup_query import LedgerReader
from langchain_tokenopt.accounting.rollup_range import CallFilter, HourRange
from langchain_tokenopt.accounting.totals import total, total_by
from langchain_tokenopt.dashboard import views
from langchain_tokenopt.dashboard.prompt_cache import prompt_cache_over_time, prompt_cache_rows
from langchain_tokenopt.dashboard.views import OTHERS, STACKS, Selection, SpendPoint

START = datetime(2026, 11, 2, tzinfo=UTC)
THREE_DAYS = HourRange(since=START + timedelta(hours=30), until=START + timedelta(hours=100))
SELECTIONS = [
    Selection(),
    Selection(within=THREE_DAYS),
    Selection(where=CallFilter(feature=("faq", ""), model=("gpt-5", "our-own"))),
    Selection(within=THREE_DAYS, where=CallFilter(tenant=("tenant 3", "tenant 6"))),
]


def chosen(records: Sequence[CallRecord], selection: Selection) -> list[CallRecord]:
    within, where = selection.within, selection.where
    return [
        record
        for record in records
        if (within.since is None or record.started_at >= within.since)
        and (within.until is None or record.started_at < within.until)
        and (not where.feature or (record.feature or "") in where.feature)
        and (not where.model or record.model in where.model)
        and (not where.tenant or record.tenant in where.tenant)
    ]


def money(totals: Totals) -> tuple[Decimal, Decimal, int]:
    return totals.cost, totals.saved, totals.calls


@pytest.mark.parametrize("selection", SELECTIONS)
def test_the_headline_is_the_total_of_the_selection(
    reader: LedgerReader, week: list[CallRecord], selection: Selection
) -> None:
    found, exact = views.headline(reader, selection), total(chosen(week, selection))

    assert money(found) == money(exact)
    assert (found.usage, found.cached_usage) == (exact.usage, exact.cached_usage)
    assert (found.unpriced_calls, found.unpriced_models, found.estimated_calls) == (
        exact.unpriced_calls,
        exact.unpriced_models,
        exact.estimated_calls,
    )


@pytest.mark.parametrize("selection", SELECTIONS)
@pytest.mark.parametrize("by", STACKS)
@pytest.mark.parametrize("step", ["day", "hour"])
def test_spend_over_time_adds_up(
    reader: LedgerReader, week: list[CallRecord], selection: Selection, by: Any, step: Any
) -> None:
    points = views.spend_over_time(reader, selection, by=by, step=step)
    exact = total(chosen(week, selection))

    assert sum(point.cost for point in points) == exact.cost
    assert sum(point.saved for point in points) == exact.saved
    assert sum(point.calls for point in points) == exact.calls
    assert sum(point.unpriced_calls for point in points) == exact.unpriced_calls


def test_spend_of_a_day_and_feature_is_that_of_its_calls(
    reader: LedgerReader, week: list[CallRecord]
) -> None:
    points = views.spend_over_time(reader, Selection(), by="feature", step="day")
    second = START + timedelta(days=1)
    calls = [r for r in week if r.started_at.date() == second.date() and r.feature is None]
    (point,) = (p for p in points if p.at == second and p.group == "(none)")

    assert (point.cost, point.saved, point.calls) == money(total(calls))


def test_small_groups_past_eight_are_one(reader: LedgerReader) -> None:
    points = views.spend_over_time(reader, Selection(), by="tenant", step="day")
    groups = {point.group for point in points}

    assert len(groups) == 8
    assert OTHERS in groups
    assert len({(point.at, point.group) for point in points}) == len(points)


@pytest.mark.parametrize("by", STACKS)
def test_every_group_has_its_row(reader: LedgerReader, week: list[CallRecord], by: Any) -> None:
    rows = views.spend_rows(reader, Selection(), by=by)
    exact = {name or "(none)": money(totals) for name, totals in total_by(week, by).items()}

    assert {row.group: (row.cost, row.saved, row.calls) for row in rows} == exact
    assert [row.cost for row in rows] == sorted((row.cost for row in rows), reverse=True)


def test_hits_and_savings_are_those_of_each_cache(
    reader: LedgerReader, week: list[CallRecord]
) -> None:
    hits = [record for record in week if record.kind == "cache_hit"]
    exact = total_by(hits, "cache")
    rows = {row.cache: row for row in views.cache_rows(reader, Selection())}
    points = views.cache_over_time(reader, Selection(), step="day")

    assert {name: (row.hits, row.saved) for name, row in rows.items()} == {
        name: (totals.cache_hits, totals.saved) for name, totals in exact.items()
    }
    assert {name: row.tokens for name, row in rows.items()} == {
        name: totals.cached_usage.total_tokens for name, totals in exact.items()
    }
    assert sum(point.hits for point in points) == len(hits)
    assert points[0].hit_share == points[0].hits / points[0].calls


def test_latency_is_of_the_calls_that_were_sent(
    reader: LedgerReader, week: list[CallRecord]
) -> None:
    sent = [record for record in week if record.kind != "cache_hit"]
    rows = {row.model: row for row in views.latency_rows(reader, Selection())}
    points = views.latency_over_time(reader, Selection(), step="day")

    for model, exact in total_by(sent, "model").items():
        assert rows[model].latency_p50_s == pytest.approx(exact.latency_p50_s, rel=0.02)
        assert rows[model].latency_p95_s == pytest.approx(exact.latency_p95_s, rel=0.02)
        assert (rows[model].calls, rows[model].errors) == (exact.calls, exact.errors)
    assert sum(point.errors for point in points) == total(sent).errors
    assert sum(point.abandoned for point in points) == total(sent).abandoned


def two_dollars(*, model: str, **_: Any) -> Price | None:
    """A read saves 1.80 a million, a write costs 0.50 more."""
    if model == "our-own":
        return None
    return Price(
        input=Decimal(2),
        output=Decimal(8),
        cache_read=Decimal("0.2"),
        cache_write=Decimal("2.5"),
        source="test",
    )


def test_the_prompt_cache_is_weighed_against_the_same_tokens_uncached(
    reader: LedgerReader, week: list[CallRecord]
) -> None:
    rows = {r.model: r for r in prompt_cache_rows(reader, Selection(), prices=two_dollars)}
    usage = total([r for r in week if r.model == "gpt-5" and r.kind != "cache_hit"]).usage
    row = rows["gpt-5"]

    assert (row.read, row.written, row.input_tokens) == (
        usage.cache_read,
        usage.cache_write,
        usage.input_tokens,
    )
    assert row.saved_by_reads == usage.cache_read * Decimal("1.8") / 10**6
    assert row.extra_for_writes == usage.cache_write * Decimal("0.5") / 10**6
    assert row.net == row.saved_by_reads - row.extra_for_writes


def test_a_prompt_cache_without_a_price_has_no_gain_rather_than_none(reader: LedgerReader) -> None:
    rows = {r.model: r for r in prompt_cache_rows(reader, Selection(), prices=two_dollars)}

    assert (rows["our-own"].net, rows["our-own"].saved_by_reads) == (None, None)


def test_a_model_that_was_sent_nothing_has_no_row_of_the_prompt_cache(
    week: list[CallRecord], tmp_path: Path
) -> None:
    with UsageLedger(tmp_path / "a.sqlite") as ledger:
        ledger.append(next(record for record in week if record.kind == "cache_hit"))
        ledger.append(next(r for r in week if r.kind == "live" and r.model == "gpt-5"))
    with closing(LedgerReader(tmp_path / "a.sqlite")) as reader:
        rows = prompt_cache_rows(reader, Selection(), prices=two_dollars)

    assert [row.model for row in rows] == ["gpt-5"]


@pytest.mark.parametrize(("dollars", "shape"), [("40", "$,.0f"), ("4", "$,.2f"), ("0.04", "$,.5f")])
def test_no_two_marks_of_an_axis_of_dollars_read_the_same(dollars: str, shape: str) -> None:
    charts = pytest.importorskip("langchain_tokenopt.dashboard.charts")
    point = SpendPoint(
        at=START, group="faq", cost=Decimal(dollars), saved=Decimal(0), calls=1, unpriced_calls=0
    )

    chart = charts.spend_chart([point], money="cost", step="day").to_dict()

    assert chart["encoding"]["y"]["axis"]["format"] == shape


def test_the_parts_of_the_input_add_up(reader: LedgerReader, week: list[CallRecord]) -> None:
    points = prompt_cache_over_time(reader, Selection(), step="day")

    assert sum(p.read + p.written + p.other for p in points) == total(week).usage.input_tokens
    assert points[0].cached_share == points[0].read / (
        points[0].read + points[0].written + points[0].other
    )


@pytest.mark.parametrize(("hours", "step"), [(72, "hour"), (73, "day")])
def test_three_days_are_shown_by_the_hour(reader: LedgerReader, hours: int, step: str) -> None:
    within = HourRange(since=START, until=START + timedelta(hours=hours))

    assert views.step_of(reader, within) == step


def test_a_file_without_budgets_or_alerts_shows_none(ledger_path: Path) -> None:
    assert list(views.budgets(ledger_path)) == []
    assert list(views.alerts(ledger_path, HourRange())) == []


def test_alerts_of_the_range_come_newest_first(tmp_path: Path) -> None:
    log = AlertLog(tmp_path / "a.sqlite")
    for hour in range(4):
        at = START + timedelta(hours=hour)
        log(
            Alert(
                at=at,
                rule=f"rule {hour}",
                measure="spend",
                group="faq",
                value=2.0,
                expected=1.0,
                limit=1.5,
                message="too much",
            )
        )
    within = HourRange(since=START + timedelta(hours=1), until=START + timedelta(hours=3))

    assert [a.rule for a in views.alerts(tmp_path / "a.sqlite", within)] == ["rule 2", "rule 1"]
