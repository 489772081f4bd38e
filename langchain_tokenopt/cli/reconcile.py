"""`tokenopt reconcile`: compare a provider's bill with the ledger."""

import argparse
import csv
import json
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from langchain_tokenopt.accounting import UsageLedger, dollars
from langchain_tokenopt.accounting.bill import read_bill
from langchain_tokenopt.accounting.reconcile import Difference, Reconciliation, Side, reconcile
from langchain_tokenopt.errors import ConfigurationError

_MOST_SHOWN = 10


def add_to(commands: Any) -> None:
    """Add the command to `tokenopt`'s."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "reconcile",
        help="compare a provider's bill with the ledger",
        description="Compares a usage or cost export of OpenAI or Anthropic (CSV of the console, "
        "JSON of the admin API) with the ledger, by model and day. Exit status 1 if something "
        "differs by more than the tolerance.",
    )
    parser.add_argument("export", type=Path, metavar="USAGE", help="the provider's export")
    parser.add_argument("--ledger", type=Path, required=True, metavar="FILE")
    parser.add_argument("--provider", choices=("openai", "anthropic"), help="default: told by it")
    parser.add_argument("--tolerance", type=_share, default=0.005, metavar="0.5%")
    parser.add_argument("--timezone", type=_zone, default=ZoneInfo("UTC"), metavar="ZONE")
    parser.add_argument("--format", choices=("table", "json", "csv"), default="table")
    parser.set_defaults(run=run)


def run(chosen: argparse.Namespace) -> int:
    """Compare, print, and return 1 if something is beyond the tolerance."""
    if not chosen.ledger.is_file():
        raise ConfigurationError(f"there is no ledger {chosen.ledger}")
    bill = read_bill(chosen.export, provider=chosen.provider, timezone=chosen.timezone)
    with UsageLedger(chosen.ledger) as ledger:
        found = reconcile(bill, ledger, tolerance=chosen.tolerance, timezone=chosen.timezone)
    _PRINT[chosen.format](found)
    return 0 if found.agrees else 1


def _share(text: str) -> float:
    try:
        value = float(text.removesuffix("%"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a share such as 0.5%, got {text!r}") from None
    return value / 100 if text.endswith("%") else value


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError):
        raise argparse.ArgumentTypeError(f"no such time zone: {name!r}") from None


def _print_table(found: Reconciliation) -> None:
    console = Console()
    table = Table(
        title=f"{found.bill.provider}: billed and booked", box=SIMPLE_HEAD, padding=(0, 1, 0, 0)
    )
    table.title_justify = "left"
    table.add_column("day", no_wrap=True)
    table.add_column("model", overflow="fold")
    table.add_column("")
    for name in ("calls", "tokens", "dollars"):
        table.add_column(name, justify="right", no_wrap=True)
    for each in found.differences:
        _add_rows(table, each)
    console.print(table)
    for each in found.differences:
        if each.reason is not None:
            console.print(
                f"{each.day} {each.model}: {each.reason}",
                markup=False,
                highlight=False,
                soft_wrap=True,
            )
    for problem in found.bill.problems[:_MOST_SHOWN]:
        console.print(f"not read, {problem}", markup=False, highlight=False, soft_wrap=True)
    if len(found.bill.problems) > _MOST_SHOWN:
        console.print(f"not read: {len(found.bill.problems) - _MOST_SHOWN} rows more")
    if found.bill.unknown_columns:
        console.print(f"columns not read: {', '.join(found.bill.unknown_columns)}", markup=False)


def _add_rows(table: Table, each: Difference) -> None:
    """Add one line where all is equal, else what was billed, what was booked and the difference."""
    billed, booked = each.billed, each.booked
    place = (each.day.isoformat(), escape(each.model))
    if not each.dollars and (each.tokens is None or billed.usage == booked.usage):
        table.add_row(*place, "equal", *_cells(billed if each.tokens is not None else booked))
        return
    verdict = "[red]differs[/]" if each.beyond else "within"
    requests = "-" if billed.requests is None else f"{billed.requests - (booked.requests or 0):+,}"
    tokens = "-" if each.tokens is None else _signed(f"{each.tokens:+,}", each.token_share)
    money = "-" if each.dollars is None else _signed(f"{each.dollars:+.4f}", each.dollar_share)
    calls, written, paid = _cells(billed)
    table.add_row(*place, "billed", calls, "-" if each.tokens is None else written, paid)
    table.add_row("", "", "booked", *_cells(booked))
    table.add_row("", "", verdict, requests, tokens, money)


def _cells(side: Side) -> tuple[str, str, str]:
    requests = "-" if side.requests is None else f"{side.requests:,}"
    return requests, f"{side.usage.total_tokens:,}", _money(side.dollars)


def _signed(difference: str, share: float | None) -> str:
    return difference if share is None else f"{difference} ({share:+.1%})"


def _money(amount: Decimal | None) -> str:
    return "-" if amount is None else dollars(amount)


def _row(each: Difference) -> dict[str, Any]:
    return {
        "day": each.day.isoformat(),
        "model": each.model,
        **{f"billed_{name}": value for name, value in _side(each.billed).items()},
        **{f"booked_{name}": value for name, value in _side(each.booked).items()},
        "tokens_difference": each.tokens,
        "tokens_share": each.token_share,
        "dollars_difference": None if each.dollars is None else str(each.dollars),
        "dollars_share": each.dollar_share,
        "differs": each.beyond,
        "reason": each.reason,
    }


def _side(side: Side) -> dict[str, Any]:
    usage = side.usage
    return {
        "requests": side.requests,
        "input": usage.input_tokens,
        "cache_read": usage.cache_read,
        "cache_write": usage.cache_write + usage.cache_write_1h + usage.cache_write_12h,
        "output": usage.output,
        "dollars": None if side.dollars is None else str(side.dollars),
    }


def _print_json(found: Reconciliation) -> None:
    told = {
        "provider": found.bill.provider,
        "agrees": found.agrees,
        "tolerance": found.tolerance,
        "differences": [_row(each) for each in found.differences],
        "problems": list(found.bill.problems),
        "unknown_columns": list(found.bill.unknown_columns),
    }
    sys.stdout.write(json.dumps(told, indent=2) + "\n")


def _print_csv(found: Reconciliation) -> None:
    rows = [_row(each) for each in found.differences]
    writer = csv.DictWriter(sys.stdout, list(rows[0]) if rows else ["day", "model"])
    writer.writeheader()
    writer.writerows(rows)


_PRINT = {"table": _print_table, "json": _print_json, "csv": _print_csv}
