"""`tokenopt experiment`: plan an A/B test, and look at one as often as you like."""

import argparse
from contextlib import closing
from pathlib import Path
from typing import Any

from rich.console import Console

from langchain_tokenopt.accounting import UsageLedger
from langchain_tokenopt.advisor.experiment import COST, QUALITY
from langchain_tokenopt.advisor.experiment_log import ExperimentLog
from langchain_tokenopt.advisor.experiment_plan import plan_experiment
from langchain_tokenopt.advisor.experiment_results import read_experiment, stop_breaches
from langchain_tokenopt.errors import ConfigurationError


def add_to(commands: Any) -> None:
    """Add the command to `tokenopt`'s."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "experiment",
        help="plan an A/B test of prompts or models, or show how one stands",
        description="Plans an A/B test, or shows one whose requests an ExperimentBranch assigned. "
        "Intervals hold however often one looks.",
    )
    ways = parser.add_subparsers(title="ways", required=True, metavar="WAY")

    show = ways.add_parser(
        "show",
        help="print how experiments stand",
        description="Prints each experiment of a log. Exit status 1 if one is not sound, or a "
        "variant is worse than its guard allows.",
    )
    show.add_argument("log", type=Path, metavar="LOG", help="the file of an ExperimentLog")
    show.add_argument("--ledger", type=Path, metavar="LEDGER", help="for cost, latency and errors")
    show.add_argument("--name", metavar="NAME", help="one experiment alone")
    show.add_argument("--stop", action="store_true", help="stop variants that guards speak against")
    show.set_defaults(run=run_show)

    plan = ways.add_parser("plan", help="say how many requests find a difference")
    plan.add_argument("--effect", type=float, required=True, help="least difference that matters")
    spread = plan.add_mutually_exclusive_group(required=True)
    spread.add_argument("--deviation", type=float, help="standard deviation of one outcome")
    spread.add_argument("--rate", type=float, help="share of right answers, such as 0.8")
    plan.add_argument("--share", type=float, default=0.5, help="that gets the variant")
    plan.add_argument("--requests-a-day", type=float, metavar="N")
    plan.add_argument("--confidence", type=float, default=0.95)
    plan.add_argument("--power", type=float, default=0.8)
    plan.add_argument("--comparisons", type=int, default=1, metavar="N", help="variants compared")
    plan.set_defaults(run=run_plan)


def run_plan(chosen: argparse.Namespace) -> None:
    """Print how many requests find a difference."""
    deviation, metric = chosen.deviation, COST
    if deviation is None:
        if not 0 < chosen.rate < 1:
            message = f"expected a --rate between 0 and 1 such as 0.8, got {chosen.rate}"
            raise ConfigurationError(message)
        deviation, metric = (chosen.rate * (1 - chosen.rate)) ** 0.5, QUALITY
    plan = plan_experiment(
        effect=chosen.effect,
        deviation=deviation,
        metric=metric,
        share=chosen.share,
        requests_a_day=chosen.requests_a_day,
        confidence=chosen.confidence,
        power=chosen.power,
        comparisons=chosen.comparisons,
    )
    Console().print(str(plan), markup=False, highlight=False, soft_wrap=True)


def run_show(chosen: argparse.Namespace) -> int:
    """Print how experiments stand; 1 if one is not sound or a guard speaks against a variant."""
    for file in (chosen.log, chosen.ledger):
        if file is not None and not file.is_file():
            raise ConfigurationError(f"expected a file that exists, got {file}")
    console, worst = Console(), 0
    with closing(ExperimentLog(chosen.log)) as log:
        names = [chosen.name] if chosen.name else list(log.definitions())
        if not names:
            raise ConfigurationError(f"no experiment in {chosen.log}; run an ExperimentBranch")
        for name in names:
            if chosen.ledger is None:
                results = read_experiment(log, name)
            else:
                with UsageLedger(chosen.ledger) as ledger:
                    results = read_experiment(log, name, ledger=ledger)
            console.print(str(results), markup=False, highlight=False, soft_wrap=True)
            stops = stop_breaches(log, results) if chosen.stop else results.breaches()
            word = "stopped" if chosen.stop and results.is_sound else "to be stopped"
            for variant, reason in stops.items():
                console.print(f"{word}: {variant}, {reason}", markup=False, highlight=False)
            worst = max(worst, int(bool(stops) or not results.is_sound))
    return worst
