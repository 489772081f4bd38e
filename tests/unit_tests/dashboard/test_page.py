"""The page, run by Streamlit's own test harness."""

import argparse
import socket
import sqlite3
import sys
import webbrowser
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("streamlit", reason="the extra dashboard is not installed")

from streamlit.testing.v1 import AppTest

from langchain_tokenopt.accounting import Alert, AlertLog, CallRecord, Usage, UsageLedger
from langchain_tokenopt.accounting.amounts import Amounts
from langchain_tokenopt.accounting.budget import Budget, Hold
from langchain_tokenopt.accounting.budget_sqlite import SqliteBudgets
from langchain_tokenopt.cli import dashboard
from langchain_tokenopt.dashboard import serve
from langchain_tokenopt.errors import (
    ConfigurationError,
    LedgerFileError,
    MissingExtraError,
    StoreError,
)

VIEWS = (
    "Spend", "Caches and savings", "Latency and errors", "Provider's prompt cache", "Budgets",
    "Alerts", "Calls",
)  # fmt: skip


@pytest.fixture(autouse=True)
def _main_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    # AppTest leaves its script as `__main__`, which processes of other tests would then run.
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])


def script(path: str) -> None:
    from datetime import UTC, datetime

    from langchain_tokenopt.dashboard.page import show

    show(path, clock=lambda: datetime(2026, 11, 8, 22, 30, tzinfo=UTC))


def opened(path: Path) -> AppTest:
    page = AppTest.from_function(script, args=(str(path),), default_timeout=60).run()
    assert not page.exception
    return page


def booked(folder: Path, *records: CallRecord) -> Path:
    with UsageLedger(folder / "a.sqlite") as ledger:
        for record in records:
            ledger.append(record)
    return folder / "a.sqlite"


def seen(path: Path, view: str) -> AppTest:
    page = opened(path)
    page.sidebar.radio(key="view").set_value(view).run()
    assert not page.exception
    return page


def told(page: AppTest) -> str:
    parts = (page.error, page.warning, page.info, page.success, page.caption)
    return "\n".join(element.value for elements in parts for element in elements)


def metrics(page: AppTest) -> dict[str, str]:
    return {metric.label: metric.value for metric in page.metric}


@pytest.mark.parametrize("view", VIEWS)
def test_every_view_is_drawn(ledger_path: Path, view: str) -> None:
    page = opened(ledger_path)

    page.sidebar.radio(key="view").set_value(view).run()

    assert not page.exception
    assert not page.error
    assert [header.value for header in page.header] == [view]


def test_what_is_unpriced_or_estimated_is_said_on_the_page(ledger_path: Path) -> None:
    shown = told(opened(ledger_path))

    assert "133 calls are unpriced and in no sum of dollars here" in shown
    assert "8 calls are estimated" in shown


def test_a_filter_applies_to_the_headline_and_every_view(
    ledger_path: Path, week: list[Any]
) -> None:
    page = opened(ledger_path)
    chosen = sum(record.feature == "faq" and record.model == "gpt-5" for record in week)

    page.sidebar.multiselect(key="filter_feature").set_value(["faq"])
    page.sidebar.multiselect(key="filter_model").set_value(["gpt-5"]).run()
    first = metrics(page)["Calls"]
    page.sidebar.radio(key="view").set_value("Calls").run()

    assert (first, metrics(page)["Calls"]) == (str(chosen), str(chosen))


def test_a_time_range_ends_with_the_running_hour(ledger_path: Path, week: list[Any]) -> None:
    page = opened(ledger_path)
    until = datetime(2026, 11, 8, 23, tzinfo=UTC)
    chosen = sum(until - timedelta(hours=24) <= r.started_at < until for r in week)

    page.sidebar.selectbox(key="range").set_value("Last 24 hours").run()

    assert metrics(page)["Calls"] == str(chosen)


def test_two_days_are_both_included(ledger_path: Path, week: list[Any]) -> None:
    page = opened(ledger_path)
    page.sidebar.selectbox(key="range").set_value("Between two days").run()
    first, last = datetime(2026, 11, 3, tzinfo=UTC), datetime(2026, 11, 4, tzinfo=UTC)

    page.sidebar.date_input(key="days").set_value((first.date(), last.date())).run()

    inside = sum(first <= r.started_at < last + timedelta(days=1) for r in week)
    assert metrics(page)["Calls"] == str(inside)


def test_calls_are_paged_newest_first(ledger_path: Path, week: list[Any]) -> None:
    page = opened(ledger_path)
    page.sidebar.radio(key="view").set_value("Calls").run()
    newest = page.dataframe[0].value["when (UTC)"].iloc[0]

    page.number_input(key="page").set_value(8).run()

    assert newest == f"{week[-1].started_at:%Y-%m-%d %H:%M:%S}"
    assert page.dataframe[0].value["when (UTC)"].iloc[-1] == "2026-11-02 00:00:00"


def test_a_page_past_the_end_of_a_filter_becomes_its_last(ledger_path: Path) -> None:
    page = opened(ledger_path)
    page.sidebar.radio(key="view").set_value("Calls").run()
    page.number_input(key="page").set_value(8).run()

    page.multiselect(key="kinds").set_value(["error"]).run()

    assert not page.exception
    assert page.number_input(key="page").value == 1


def test_a_budget_shows_how_it_stands_and_what_it_refused(tmp_path: Path, week: list[Any]) -> None:
    path = tmp_path / "a.sqlite"
    with UsageLedger(path) as ledger:
        ledger.append(week[0])
    now = datetime.now(UTC)
    account = Budget("daily", tokens=1_000, per="feature").account({"feature": "faq"}, now=now)
    store = SqliteBudgets(path)
    for name in ("first", "second"):
        asked = Amounts(tokens=600)
        hold = Hold(
            id=name,
            accounts=(account,),
            amounts=asked,
            floor=Amounts(),
            expires_at=now + timedelta(hours=1),
        )
        store.reserve(hold, now=now)
    store.close()
    page = opened(path)
    page.sidebar.radio(key="view").set_value("Budgets").run()

    assert not page.exception
    assert "Refused calls: 1" in told(page)
    assert any("daily" in e.value and "60% used" in e.value for e in page.markdown)


def test_a_budget_tells_what_is_spent_held_and_when_it_starts_anew(
    tmp_path: Path, week: list[Any]
) -> None:
    path = tmp_path / "a.sqlite"
    with UsageLedger(path) as ledger:
        ledger.append(week[0])
    now = datetime(2026, 11, 8, 22, tzinfo=UTC)
    budgets = (Budget("money", dollars="5", every="day"), Budget("traffic", calls=4))
    with closing(SqliteBudgets(path)) as store:
        for budget in budgets:
            hold = Hold(
                id=budget.name,
                accounts=(budget.account({}, now=now),),
                amounts=Amounts(calls=1, dollars=Decimal("1.5")),
                floor=Amounts(),
                expires_at=now + timedelta(hours=1),
            )
            store.reserve(hold, now=now)
        store.settle(hold, Amounts(calls=1))

    page = seen(path, "Budgets")

    written = [element.value.replace("\\", "") for element in page.markdown]
    (money,) = (line for line in written if "of $5.00 spent" in line)
    assert money.endswith("$1.50 held for calls in flight; resets 2026-11-09 00:00 UTC")
    assert "1 of 4 calls, 0 held" in written
    assert "Refused calls" not in told(page)


def test_an_alert_is_shown_with_what_it_is_about(tmp_path: Path, week: list[Any]) -> None:
    path = booked(tmp_path, week[0])
    log = AlertLog(path)
    for rule, group in (("too dear", "faq"), ("too slow", "")):
        log(
            Alert(
                at=week[0].started_at,
                rule=rule,
                measure="spend",
                group=group,
                value=2.0,
                expected=1.0,
                limit=1.5,
                message=f"{rule}: look",
            )
        )

    table = seen(path, "Alerts").dataframe[0].value

    assert list(table["about"]) == ["faq", "all calls"]
    assert list(table["message"]) == ["too dear: look", "too slow: look"]


@pytest.mark.parametrize(
    ("view", "kind", "said"),
    [
        ("Spend", "error", "Nothing was spent, or nothing of it is priced."),
        ("Spend", "live", "Our caches saved nothing here."),
        ("Caches and savings", "live", "No call was answered by one of our caches."),
        (
            "Latency and errors",
            "cache_hit",
            "No call was sent: all were answered by caches.",
        ),
        ("Latency and errors", "error", "No call was answered."),
        ("Latency and errors", "live", "No call failed or was abandoned."),
        ("Provider's prompt cache", "cache_hit", "No input was sent."),
        ("Alerts", "live", "No alerts in this range."),
    ],
)
def test_a_view_that_has_nothing_to_draw_says_so(
    tmp_path: Path,
    week: list[Any],
    view: str,
    kind: str,
    said: str,
) -> None:
    record = next(record for record in week if record.kind == kind)
    free = replace(record, cost=Decimal(0)) if kind == "error" else record

    page = seen(booked(tmp_path, free), view)

    assert said in told(page)


def test_writes_to_the_prompt_cache_that_nothing_reads_are_warned_of(
    tmp_path: Path, week: list[Any]
) -> None:
    record = next(r for r in week if r.kind == "live" and r.model == "claude-sonnet-4-5")
    written = replace(record, usage=Usage(cache_write=100_000))

    page = seen(booked(tmp_path, written), "Provider's prompt cache")

    assert "claude-sonnet-4-5: writing to the prompt cache cost $" in told(page)


def test_budgets_of_a_ledger_without_calls_are_shown(tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite"
    now = datetime(2026, 11, 8, 22, tzinfo=UTC)
    with closing(SqliteBudgets(path)) as store:
        store.grant(Budget("daily", calls=4).account({}, now=now), Amounts(), now=now)

    page = seen(path, "Budgets")

    assert "This ledger is empty" in told(page)
    assert any("daily" in element.value for element in page.markdown)


def test_a_kind_of_which_there_is_no_call_says_so(ledger_path: Path) -> None:
    page = seen(ledger_path, "Calls")

    page.multiselect(key="kinds").set_value(["embedding"]).run()

    assert "No call is of this kind." in told(page)


def test_days_that_are_not_chosen_yet_cut_nothing_off(ledger_path: Path, week: list[Any]) -> None:
    page = opened(ledger_path)
    page.sidebar.selectbox(key="range").set_value("Between two days").run()

    page.sidebar.date_input(key="days").set_value(()).run()

    assert not page.exception
    assert metrics(page)["Calls"] == str(len(week))


def empty(path: Path) -> None:
    path.touch()


def letter(path: Path) -> None:
    path.write_text("a letter, and no database " * 100)


def songs(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE songs (title TEXT)")


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (empty, "This ledger is empty"),
        (letter, "is no ledger"),
        (songs, "is an SQLite file but no ledger"),
        (lambda path: None, "expected the file of a ledger, found none"),
    ],
)
def test_what_cannot_be_shown_is_said_in_words(
    tmp_path: Path, make: Callable[[Path], None], said: str
) -> None:
    make(tmp_path / "a.sqlite")

    assert said in told(opened(tmp_path / "a.sqlite"))


def test_a_locked_ledger_is_said_in_words(tmp_path: Path, week: list[Any]) -> None:
    path = tmp_path / "a.sqlite"
    with UsageLedger(path) as ledger:
        ledger.append(week[0])
    with closing(sqlite3.connect(path, isolation_level=None)) as holder:
        holder.execute("PRAGMA locking_mode = EXCLUSIVE")
        holder.execute("PRAGMA journal_mode = DELETE")
        holder.execute("BEGIN EXCLUSIVE")

        assert "is locked by another process" in told(opened(path))


def test_a_selection_without_calls_says_so(ledger_path: Path) -> None:
    page = opened(ledger_path)
    page.sidebar.multiselect(key="filter_feature").set_value(["faq"])
    page.sidebar.multiselect(key="filter_model").set_value(["our-own"]).run()

    assert "No call is in this range with these filters" in told(page)


def test_the_server_is_local_headless_and_sends_no_telemetry(tmp_path: Path) -> None:
    command = serve.command_of(tmp_path / "a.sqlite", host="localhost", port=9_000)
    options = dict(pairwise(command))

    assert options["--server.address"] == "localhost"
    assert options["--browser.gatherUsageStats"] == "false"
    assert options["--server.headless"] == "true"
    assert command[-1] == str(tmp_path / "a.sqlite")


def test_a_port_that_is_taken_is_told(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with (
            pytest.raises(ConfigurationError, match=f"expected a free port, got 127.0.0.1:{port}"),
            serve.served(tmp_path / "a.sqlite", host="127.0.0.1", port=port),
        ):
            pass


def test_the_command_refuses_a_file_that_is_no_ledger(tmp_path: Path) -> None:
    letter(tmp_path / "a.sqlite")

    for name, said in (("a.sqlite", "is no ledger"), ("b.sqlite", "found none at")):
        with pytest.raises(LedgerFileError, match=said):
            run_command(tmp_path / name, "--no-browser")


@pytest.mark.parametrize("port", ["0", "65536", "http"])
def test_the_command_refuses_what_is_no_port(
    ledger_path: Path, port: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        run_command(ledger_path, "--port", port)

    assert "expected a port from 1 to 65535" in capsys.readouterr().err


def test_a_file_of_prices_that_is_none_is_refused_before_anything_is_served(
    ledger_path: Path, tmp_path: Path
) -> None:
    prices = tmp_path / "prices.json"
    prices.write_text("a letter")

    with pytest.raises(ConfigurationError, match=r"prices\.json"):
        run_command(ledger_path, "--no-browser", "--prices", prices)


@pytest.fixture
def ends_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], list[str]]:
    """Let the command's server end at once with a status; gives the options of a free port."""

    def prepare(status: int) -> list[str]:
        # The process of the server finds this package before the real one.
        (tmp_path / "streamlit").mkdir()
        (tmp_path / "streamlit" / "__init__.py").touch()
        (tmp_path / "streamlit" / "__main__.py").write_text(f"raise SystemExit({status})")
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        with socket.create_server(("127.0.0.1", 0)) as free:
            return ["--host", "127.0.0.1", "--port", str(free.getsockname()[1])]

    return prepare


def test_the_command_prints_the_address_and_opens_it(
    ledger_path: Path,
    ends_with: Callable[[int], list[str]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    visited: list[str] = []
    monkeypatch.setattr(webbrowser, "open", visited.append)
    options = ends_with(0)

    run_command(ledger_path, *options)

    assert visited == [f"http://127.0.0.1:{options[-1]}"]
    assert visited[0] in capsys.readouterr().out.replace("\n", "")


def test_a_server_that_ends_by_itself_is_an_error_with_its_status(
    ledger_path: Path, ends_with: Callable[[int], list[str]]
) -> None:
    with pytest.raises(StoreError, match="ended with status 3"):
        run_command(ledger_path, "--no-browser", *ends_with(3))


def run_command(*arguments: str | Path) -> None:
    parser = argparse.ArgumentParser()
    dashboard.add_to(parser.add_subparsers())
    chosen = parser.parse_args(["dashboard", *map(str, arguments)])
    chosen.run(chosen)


def test_without_streamlit_the_install_line_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.delitem(sys.modules, "streamlit")

    with (
        pytest.raises(MissingExtraError, match=r'pip install "langchain-tokenopt\[dashboard\]"'),
        serve.served(tmp_path / "a.sqlite"),
    ):
        pass
