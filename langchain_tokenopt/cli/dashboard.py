"""`tokenopt dashboard`: look at a ledger in the browser, on this machine alone."""

import argparse
import webbrowser
from contextlib import closing
from pathlib import Path
from typing import Any

from rich.console import Console

from langchain_tokenopt.accounting.overrides import PriceOverrides
from langchain_tokenopt.accounting.rollup_query import LedgerReader
from langchain_tokenopt.dashboard.serve import served
from langchain_tokenopt.errors import StoreError


def add_to(commands: Any) -> None:
    """Add the command to `tokenopt`'s."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "dashboard",
        help="look at a ledger in the browser",
        description="Serves a page on this machine with what a ledger says: spend, savings, "
        "latency, errors, the provider's prompt cache, budgets, alerts and single calls. "
        'Needs pip install "langchain-tokenopt[dashboard]".',
    )
    parser.add_argument("ledger", type=Path, metavar="LEDGER", help="the file of a UsageLedger")
    parser.add_argument("--port", type=_port, default=8501, help="default: 8501")
    parser.add_argument(
        "--host",
        default="localhost",
        help="default: localhost; the page has no password, whoever reaches it sees the ledger",
    )
    parser.add_argument("--prices", type=Path, metavar="FILE", help="your own prices (JSON)")
    parser.add_argument("--no-browser", action="store_true", help="only print the address")
    parser.set_defaults(run=run)


def _port(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 65_535:
        raise argparse.ArgumentTypeError(f"expected a port from 1 to 65535, got {text!r}")
    return int(text)


def run(chosen: argparse.Namespace, *, console: Console | None = None) -> None:
    """Serve the page until it is stopped.

    Raises:
        LedgerFileError: The ledger cannot be read.
        StoreError: The server ended by itself.
    """
    console = console or Console()
    with closing(LedgerReader(chosen.ledger)) as reader:
        reader.check()
    if chosen.prices:
        PriceOverrides.load(chosen.prices)
    address = f"http://{chosen.host}:{chosen.port}"
    with served(chosen.ledger, host=chosen.host, port=chosen.port, prices=chosen.prices) as process:
        console.print(f"{chosen.ledger} at [bold]{address}[/], stop with Ctrl-C", highlight=False)
        if not chosen.no_browser:
            webbrowser.open(address)
        status = process.wait()
    if status:
        message = f"the dashboard's server ended with status {status}; what it said is above"
        raise StoreError(message)
