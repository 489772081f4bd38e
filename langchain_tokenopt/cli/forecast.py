"""`tokenopt forecast`: what each feature will cost in the days to come, with an interval."""

import argparse
import json
import sys
from contextlib import closing
from datetime import date
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from langchain_tokenopt.accounting.rollup_query import ROLLUP_FIELDS, LedgerReader
from langchain_tokenopt.advisor.forecast import ForecastReport, forecast_all, read_spend


def add_to(commands: Any) -> None:
    """Add the command to `tokenopt`'s."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "forecast",
        help="say what each feature will cost, with an interval",
        description="Forecasts the spend of each feature from the days of a ledger; today, which "
        "is not over, is left out. Needs the extra `forecast`.",
    )
    parser.add_argument("ledger", type=Path, metavar="LEDGER", help="the file of a UsageLedger")
    fields = [name for name in ROLLUP_FIELDS if name not in ("day", "hour")]
    parser.add_argument("--by", choices=fields, default="feature", help="default: feature")
    parser.add_argument("--days", type=int, default=30, help="default: 30")
    parser.add_argument("--confidence", type=float, default=0.8, help="default: 0.8")
    parser.add_argument(
        "--until", type=date.fromisoformat, metavar="DAY", help="the first day that is left out"
    )
    parser.add_argument(
        "--gap",
        type=date.fromisoformat,
        action="append",
        default=[],
        metavar="DAY",
        help="a day of which the ledger knows nothing; may be given again",
    )
    parser.add_argument("--format", choices=("table", "json"), default="table")
    parser.set_defaults(run=run)


def run(chosen: argparse.Namespace) -> ForecastReport:
    """Print the forecasts and return them."""
    with closing(LedgerReader(chosen.ledger)) as reader:
        reader.check()
        series = read_spend(reader, by=chosen.by, until=chosen.until, gaps=chosen.gap)
    report = forecast_all(series, days=chosen.days, confidence=chosen.confidence)
    if chosen.format == "json":
        sys.stdout.write(json.dumps(_as_json(report), indent=2) + "\n")
    else:
        _print_table(report, by=chosen.by, days=chosen.days, confidence=chosen.confidence)
    return report


def _print_table(report: ForecastReport, *, by: str, days: int, confidence: float) -> None:
    console = Console()
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), title_justify="left")
    table.title = f"Spend in the next {days} days, estimated"
    table.add_column(by, overflow="fold")
    for head in ("median", f"{confidence:.0%} interval"):
        table.add_column(head, justify="right", no_wrap=True)
    table.add_column("by", overflow="fold")
    for name, found in report.forecasts.items():
        table.add_row(
            escape(name or "(none)"),
            f"${found.expected:,.2f}",
            f"${found.low:,.2f} to ${found.high:,.2f}",
            escape("; ".join((found.method, *found.notes))),
        )
    if report.forecasts:
        console.print(table)
    for name, reason in report.skipped.items():
        console.print(f"{name or '(none)'}: no forecast, {reason}", markup=False, highlight=False)
    if not report.forecasts and not report.skipped:
        console.print("no calls before today: nothing to forecast")


def _as_json(report: ForecastReport) -> dict[str, Any]:
    return {
        "estimated": True,
        "forecasts": {
            name: {
                "expected": str(found.expected),
                "low": str(found.low),
                "high": str(found.high),
                "confidence": found.confidence,
                "method": found.method,
                "notes": list(found.notes),
                "days": [
                    {
                        "day": day.day.isoformat(),
                        "expected": str(day.expected),
                        "low": str(day.low),
                        "high": str(day.high),
                    }
                    for day in found.days
                ],
            }
            for name, found in report.forecasts.items()
        },
        "skipped": dict(report.skipped),
    }
