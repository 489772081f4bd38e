"""Read the command line and run one command."""

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

from rich.console import Console

from langchain_tokenopt._version import __version__
from langchain_tokenopt.errors import TokenOptError

COMMANDS = (
    "demo",
    "audit",
    "report",
    "dashboard",
    "reconcile",
    "lint",
    "prompts",
    "calibrate",
    "experiment",
    "forecast",
    "finetune",
    "grafana",
    "doctor",
)


def parser_of(commands: Sequence[str] = COMMANDS) -> argparse.ArgumentParser:
    """Return the parser of the command line; what it reads has `run`, to call with it.

    Args:
        commands: Those to know; each is loaded with all that it needs.
    """
    parser = argparse.ArgumentParser(
        prog="tokenopt", description="Spend fewer tokens in LangChain applications, and prove it."
    )
    parser.add_argument("--version", action="version", version=f"tokenopt {__version__}")
    subparsers = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for name in commands:
        import_module(f"langchain_tokenopt.cli.{name}").add_to(subparsers)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status.

    0 if all is well, 1 if the command found what it looks for, 2 with the reason on standard error.
    """
    given = sys.argv[1:] if arguments is None else arguments
    known = given[:1] if given and given[0] in COMMANDS else COMMANDS
    chosen = parser_of(known).parse_args(given)
    try:
        status = chosen.run(chosen)
    except (TokenOptError, OSError) as error:
        console = Console(stderr=True)
        console.print("[bold red]error:[/]", end=" ")
        console.print(str(error), markup=False, highlight=False, soft_wrap=True)
        return 2
    except KeyboardInterrupt:
        Console(stderr=True).print("stopped")
        return 130
    return status if isinstance(status, int) else 0  # some return what they made
