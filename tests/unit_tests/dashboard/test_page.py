"""The page, run by Streamlit's own test harness."""

import argparse
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("streamlit", reason="the extra dashboard is not installed")

from streamlit.testing.v1 import AppTest

from langchain_tokenopt.accounting import UsageLedger
from langchain_tokenopt.accounting.amounts import Amounts
from langchain_tokenopt.accounting.budget import Budget, Hold
from langchain_tokenopt.accounting.budget_sqlite import SqliteBudgets
from langchain_tokenopt.cli import dashboard
from langchain_tokenopt.dashboard import serve
from langchain_tokenopt.errors import ConfigurationError, LedgerFileError, MissingExtraError

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
    import socket

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
