"""`tokenopt doctor`: look at an installation, and say what is missing or old."""

import argparse
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from langchain_tokenopt.advisor.doctor import examine

_SHOWN = {"good": "[green]good[/]", "note": "[yellow]note[/]", "bad": "[bold red]bad[/]"}


def add_to(commands: Any) -> None:
    """Add the command to `tokenopt`'s."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "doctor",
        help="look at this installation, and say what is missing or old",
        description="Looks at versions, extras, the token counter and the age of the prices, at a "
        "Redis and a settings file if they are named. Ends with 1 if something is bad.",
    )
    parser.add_argument("--redis", metavar="URL", help="a Redis to look at")
    parser.add_argument("--settings", type=Path, metavar="FILE", help="a settings file to check")
    parser.set_defaults(run=run)


def run(chosen: argparse.Namespace) -> int:
    """Print what was found; 1 if something is bad."""
    findings = examine(redis=chosen.redis, settings=chosen.settings)
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for head in ("", "", "", "advice"):
        table.add_column(head, overflow="fold")
    for found in findings:
        table.add_row(found.subject, _SHOWN[found.status], found.told, found.advice)
    Console().print(table)
    return int(any(found.status == "bad" for found in findings))
