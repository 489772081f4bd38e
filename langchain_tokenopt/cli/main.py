"""Read the command line and run one command."""

import argparse
from collections.abc import Sequence

from rich.console import Console

from langchain_tokenopt._version import __version__
from langchain_tokenopt.cli import (
    audit,
    calibrate,
    dashboard,
    demo,
    doctor,
    experiment,
    finetune,
    forecast,
    grafana,
    lint,
    prompts,
    reconcile,
    report,
)
from langchain_tokenopt.errors import TokenOptError


def parser_of() -> argparse.ArgumentParser:
    """Return the parser of the command line; what it reads has `run`, to call with it."""
    parser = argparse.ArgumentParser(
        prog="tokenopt", description="Spend fewer tokens in LangChain applications, and prove it."
    )
    parser.add_argument("--version", action="version", version=f"tokenopt {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for command in (
        demo,
        audit,
        report,
        dashboard,
        reconcile,
        lint,
        prompts,
        calibrate,
        experiment,
        forecast,
        finetune,
        grafana,
        doctor,
    ):
        command.add_to(commands)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status.

    0 if all is well, 1 if the command found what it looks for, 2 with the reason on standard error.
    """
    chosen = parser_of().parse_args(arguments)
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
