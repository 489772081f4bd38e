"""`tokenopt doctor`: look at an installation, and say what is missing or old."""

import argparse
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
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
    console = Console()
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), show_header=False)
    for found in findings:
        table.add_row(escape(found.subject), _SHOWN[found.status], escape(found.told))
    console.print(table)
    for found in findings:
        if found.advice:  # on a line of its own, to be copied
            told = f"{found.subject}: {found.advice}"
            console.print(told, markup=False, highlight=False, soft_wrap=True)
    return int(any(found.status == "bad" for found in findings))
