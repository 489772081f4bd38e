"""`tokenopt report`: the table, JSON, CSV and HTML of a ledger."""

import argparse
import csv
import io
import json
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from rich.console import Console

from langchain_tokenopt.accounting import CallRecord, UsageLedger
from langchain_tokenopt.accounting.rollup_query import ROLLUP_FIELDS, LedgerReader
from langchain_tokenopt.accounting.rollup_range import HourRange
from langchain_tokenopt.accounting.totals import total, total_by
from langchain_tokenopt.cli import report
from langchain_tokenopt.dashboard.account import account_as_csv, account_as_json, account_of
from langchain_tokenopt.dashboard.html_report import account_as_html
from langchain_tokenopt.errors import LedgerFileError


def run(*arguments: str | Path, width: int = 80) -> str:
    parser = argparse.ArgumentParser()
    report.add_to(parser.add_subparsers())
    chosen = parser.parse_args(["report", *map(str, arguments)])
    console = Console(file=io.StringIO(), width=width)
    report.run(chosen, console=console)
    return console.file.getvalue()


def write(path: Path, week: list[CallRecord], **changes: Any) -> Path:
    with UsageLedger(path) as ledger:
        for record in week[:20]:
            ledger.append(replace(record, run_id=uuid4(), **changes))
    return path


def test_the_table_fits_eighty_columns_and_shows_every_group_and_the_sum(
    ledger_path: Path, week: list[CallRecord]
) -> None:
    shown = run(ledger_path)

    assert max(map(len, shown.splitlines())) <= 80
    for text in ("gpt-5", "our-own", "all", f"${total(week).cost:,.2f}", "400"):
        assert text in shown
    assert "…" not in shown


def test_what_is_unpriced_or_estimated_is_told_in_every_form(ledger_path: Path) -> None:
    for form in ("table", "json", "html"):
        shown = run(ledger_path, "--format", form, width=400)
        assert "UNPRICED: 133 calls" in shown
        assert "ESTIMATED: the usage of 8 calls" in shown
    lines = list(csv.DictReader(io.StringIO(run(ledger_path, "--format", "csv"))))
    assert {line["model"]: line["unpriced_calls"] for line in lines}["our-own"] == "133"


@pytest.mark.parametrize("by", ROLLUP_FIELDS)
def test_the_ledger_is_reported_by_every_field(ledger_path: Path, by: str) -> None:
    found = json.loads(run(ledger_path, "--by", by, "--format", "json"))

    assert sum(group["calls"] for group in found["groups"].values()) == 400


def test_json_has_the_digits_of_the_ledger(ledger_path: Path, week: list[CallRecord]) -> None:
    found = json.loads(run(ledger_path, "--by", "feature", "--format", "json"))

    assert {name: group["cost"] for name, group in found["groups"].items()} == {
        name: str(totals.cost.quantize(totals.cost.__class__("1E-12")))
        for name, totals in total_by(week, "feature").items()
    }


def test_a_range_is_cut_at_its_hours(ledger_path: Path, week: list[CallRecord]) -> None:
    found = json.loads(
        run(ledger_path, "--since", "2026-11-03T06:00", "--until", "2026-11-05", "--format", "json")
    )
    since, until = datetime(2026, 11, 3, 6, tzinfo=UTC), datetime(2026, 11, 5, tzinfo=UTC)

    assert found["totals"]["calls"] == sum(since <= r.started_at < until for r in week)
    assert (found["since"], found["until"]) == (since.isoformat(), until.isoformat())


@pytest.mark.parametrize("when", ["2026-11-03T06:30", "yesterday", "2026-13-01"])
def test_a_time_that_sums_cannot_answer_is_refused(
    ledger_path: Path, when: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        run(ledger_path, "--since", when)

    assert "expected a day or a full hour in UTC" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", " =cmd|' /C calc'!A0"])
def test_no_cell_of_a_csv_is_a_formula(tmp_path: Path, week: list[CallRecord], name: str) -> None:
    path = write(tmp_path / "a.sqlite", week, feature=name, model=name)
    for by in ("feature", "model"):
        lines = list(csv.reader(io.StringIO(run(path, "--by", by, "--format", "csv"))))
        cells = [cell for line in lines for cell in line]

        assert f"'{name}" in cells
        assert not [cell for cell in cells if cell.lstrip().startswith(("=", "+", "-", "@"))]


class Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [
            value or "" for name, value in attrs if name in ("src", "href", "xlink:href")
        ]


def test_the_html_file_has_charts_and_needs_no_network(ledger_path: Path, tmp_path: Path) -> None:
    target = tmp_path / "report.html"
    told = run(ledger_path, "--by", "feature", "--format", "html", "--output", target, width=400)
    text = target.read_text(encoding="utf-8")
    page = Page()
    page.feed(text)

    assert str(target) in told
    assert page.tags.count("svg") == 3
    assert page.links == []
    assert not {"script", "link", "img", "iframe"} & set(page.tags)
    assert "url(" not in text
    assert "http" not in text


def test_names_in_the_html_file_are_text(tmp_path: Path, week: list[CallRecord]) -> None:
    path = write(tmp_path / "a.sqlite", week, model="<script>alert(1)</script>", feature="<b>")
    for by in ("model", "feature"):
        shown = run(path, "--by", by, "--format", "html", width=4_000)
        assert "<script" not in shown
        assert "<b>&lt;" not in shown
        assert "&lt;" in shown


def test_names_in_the_table_are_no_markup(tmp_path: Path, week: list[CallRecord]) -> None:
    path = write(tmp_path / "a.sqlite", week, feature="[red]x[/]")

    assert "[red]x[/]" in run(path, "--by", "feature")


def test_every_form_is_written_to_a_file(ledger_path: Path, tmp_path: Path) -> None:
    with closing(LedgerReader(ledger_path)) as reader:
        account = account_of(reader, by="model", within=HourRange())
    forms = {"json": account_as_json, "csv": account_as_csv, "html": account_as_html}
    for form, text_of in forms.items():
        run(ledger_path, "--format", form, "--output", tmp_path / form)
        assert (tmp_path / form).read_text(encoding="utf-8") == text_of(account)
    run(ledger_path, "--output", tmp_path / "table")
    assert "gpt-5" in (tmp_path / "table").read_text(encoding="utf-8")


def test_a_range_or_a_ledger_without_calls_says_so(ledger_path: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.sqlite").touch()

    assert "no calls in this range" in run(ledger_path, "--since", "2030-01-01")
    assert "no calls" in run(tmp_path / "empty.sqlite")
    for form in ("json", "csv", "html"):
        assert run(tmp_path / "empty.sqlite", "--format", form)


def test_a_file_that_is_no_ledger_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.sqlite").write_text("a letter, and no database" * 100)

    with pytest.raises(LedgerFileError, match="is no ledger"):
        run(tmp_path / "a.sqlite")
