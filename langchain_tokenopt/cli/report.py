"""`tokenopt report`: the account of a ledger as a table, JSON, CSV or one HTML file."""

import argparse
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from langchain_tokenopt.accounting import Totals, dollars
from langchain_tokenopt.accounting.rollup_query import ROLLUP_FIELDS, LedgerReader
from langchain_tokenopt.accounting.rollup_range import HourRange
from langchain_tokenopt.dashboard.account import (
    Account,
    account_as_csv,
    account_as_json,
    account_of,
    range_shown,
)
from langchain_tokenopt.dashboard.html_report import account_as_html

_TEXTS: dict[str, Callable[[Account], str]] = {
    "json": account_as_json,
    "csv": account_as_csv,
    "html": account_as_html,
}


def add_to(commands: Any) -> None:
    """Add the command to `tokenopt`'s."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "report",
        help="print the account of a ledger",
        description="Prints what the calls in a ledger cost and what was saved, by model, feature, "
        "tenant, day and so on. Quick at millions of calls; the ledger is not changed.",
    )
    parser.add_argument("ledger", type=Path, metavar="LEDGER", help="the file of a UsageLedger")
    parser.add_argument("--by", choices=ROLLUP_FIELDS, default="model", help="default: model")
    when = "a day or a full hour in UTC: 2026-11-23 or 2026-11-23T14:00"
    parser.add_argument("--since", type=_hour, metavar="WHEN", help=f"from {when}")
    parser.add_argument("--until", type=_hour, metavar="WHEN", help=f"up to, not with, {when}")
    parser.add_argument(
        "--format", choices=["table", *_TEXTS], default="table", help="default: table"
    )
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="write there, not to the screen"
    )
    parser.set_defaults(run=run)


def _hour(text: str) -> datetime:
    expected = "expected a day or a full hour in UTC, such as 2026-11-23 or 2026-11-23T14:00"
    try:
        given = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{expected}, got {text!r}") from None
    at = given.replace(tzinfo=UTC) if given.tzinfo is None else given.astimezone(UTC)
    if at.minute or at.second or at.microsecond:
        raise argparse.ArgumentTypeError(f"{expected}, got {text!r}: sums are kept by the hour")
    return at


def run(chosen: argparse.Namespace, *, console: Console | None = None) -> Account:
    """Print or write what the arguments ask for, and return the account."""
    within = HourRange(since=chosen.since, until=chosen.until)
    with closing(LedgerReader(chosen.ledger)) as reader:
        account = account_of(reader, by=chosen.by, within=within)
    if chosen.output is None:
        console = console or Console()
        if chosen.format == "table":
            _print(console, account)
        else:
            # Not through rich, which would turn tabs into spaces and cut lines.
            console.file.write(_TEXTS[chosen.format](account))
        return account
    if chosen.format == "table":
        with chosen.output.open("w", encoding="utf-8") as file:
            _print(Console(file=file, width=140), account)
    else:
        chosen.output.write_text(_TEXTS[chosen.format](account), encoding="utf-8", newline="")
    (console or Console()).print(f"report: {chosen.output}", markup=False, highlight=False)
    return account


def _print(console: Console, account: Account) -> None:
    title = f"{account.ledger}, {range_shown(account.within)}"
    if not account.totals.calls:
        console.print(f"{title}: no calls in this range", markup=False, highlight=False)
        return
    table = Table(
        title=escape(title),
        title_justify="left",
        show_footer=True,
        box=SIMPLE_HEAD,
        padding=(0, 0, 0, 1),
        pad_edge=False,
    )
    cents = account.totals.cost >= 1 or account.totals.saved >= 1
    table.add_column(account.by, footer="all", overflow="fold")
    for name, value in _cells(account.totals, cents=cents).items():
        table.add_column(name, footer=value, justify="right", no_wrap=True)
    for name, group in account.groups.items():
        style = "yellow" if group.unpriced_calls or group.estimated_calls else ""
        cells = _cells(group, cents=cents).values()
        table.add_row(escape(name or "(none)"), *cells, style=style)
    console.print(table)
    for told in account.notices:
        console.print(f"[bold yellow]{escape(told)}[/]", highlight=False)


def _cells(totals: Totals, *, cents: bool) -> dict[str, str]:
    money = _in_cents if cents else dollars
    return {
        "calls": f"{totals.calls:,}",
        "hits": f"{totals.cache_hits:,}",
        "errors": f"{totals.errors:,}",
        "input": _short(totals.usage.input_tokens),
        "output": _short(totals.usage.output),
        "unpriced": f"{totals.unpriced_calls:,}",
        "spent": money(totals.cost),
        "saved": money(totals.saved),
    }


def _in_cents(amount: Decimal) -> str:
    return "<$0.01" if 0 < amount < Decimal("0.01") else f"${amount:,.2f}"


def _short(count: int) -> str:
    """Return a count in at most five characters up to trillions.

    >>> _short(950), _short(15_515_000), _short(999_999)
    ('950', '15.5M', '1.0M')
    """
    for size, unit in ((10**12, "T"), (10**9, "G"), (10**6, "M"), (10**3, "k")):
        if count >= size * 0.9995:
            return (
                f"{count / size:.1f}{unit}" if count < 100 * size else f"{count / size:.0f}{unit}"
            )
    return str(count)
