"""`tokenopt finetune`: find tasks worth tuning a model for, say when it pays, export examples."""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console

from langchain_tokenopt.accounting import GenaiPrices, PriceOverrides, PriceSource, first_known
from langchain_tokenopt.accounting.ledger import UsageLedger
from langchain_tokenopt.advisor.finetune import (
    PaidCall,
    break_even,
    calls_of_ledger,
    calls_of_log,
)
from langchain_tokenopt.advisor.finetune_candidates import Candidate, find_candidates
from langchain_tokenopt.advisor.finetune_export import TrainingSet, training_set
from langchain_tokenopt.advisor.finetune_prices import TuningPrices, bundled_tuning_prices
from langchain_tokenopt.advisor.log import LoggedCall, read_log
from langchain_tokenopt.advisor.redaction import Redactor
from langchain_tokenopt.embeddings import StaticEmbeddings
from langchain_tokenopt.errors import ConfigurationError

_SQLITE = b"SQLite format 3\x00"


def add_to(commands: Any) -> None:
    """Add the command to `tokenopt`'s."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "finetune",
        help="say whether a fine-tuned model would pay, and export what to train it on",
        description="Finds tasks of a call log that a fine-tuned model might take over, computes "
        "when its training is paid for, and exports examples without secrets.",
    )
    ways = parser.add_subparsers(title="ways", required=True, metavar="WAY")

    find = ways.add_parser("candidates", help="list the tasks of a call log, the dearest first")
    find.add_argument("log", type=Path, metavar="LOG")
    find.add_argument("--least-calls", type=int, default=50, metavar="N", help="default: 50")
    find.add_argument("--least-likeness", type=float, default=0.0, metavar="0.3")
    _add_prices(find)
    find.set_defaults(run=run_candidates)

    pays = ways.add_parser(
        "break-even",
        help="say when training a model is paid for",
        description="Computes when training is paid for. Exit status 1 if it surely is not, or if "
        "a price is unknown.",
    )
    pays.add_argument("calls", type=Path, metavar="CALLS", help="a ledger's file, or a call log")
    pays.add_argument("--model", required=True, help="the base model to tune")
    pays.add_argument("--training-tokens", type=int, required=True, metavar="N")
    pays.add_argument("--epochs", type=int, default=3, help="default: 3")
    pays.add_argument("--needless-tokens", type=int, default=0, metavar="N", help="of each input")
    pays.add_argument("--horizon-days", type=int, default=180, metavar="N", help="default: 180")
    pays.add_argument("--retrain-every-days", type=int, metavar="N")
    pays.add_argument("--feature", help="the calls of one feature alone")
    pays.add_argument("--now", metavar="MODEL", help="the calls of one model alone")
    _add_prices(pays)
    pays.set_defaults(run=run_break_even)

    export = ways.add_parser("export", help="write training.jsonl and validation.jsonl")
    export.add_argument("log", type=Path, metavar="LOG")
    export.add_argument("folder", type=Path, metavar="FOLDER")
    export.add_argument("--model", required=True, help="the base model to tune")
    export.add_argument("--feature", help="the calls of one feature alone")
    export.add_argument("--instruction", help="a shorter system prompt to tune for")
    export.add_argument("--validation-share", type=float, default=0.1, metavar="0.1")
    export.add_argument("--epochs", type=int, default=3, help="default: 3")
    export.add_argument("--region", default="US", help="of telephone numbers, default: US")
    export.add_argument("--seed", type=int, default=0)
    _add_prices(export)
    export.set_defaults(run=run_export)


def _add_prices(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--prices", type=Path, metavar="FILE", help="your prices of calls")
    parser.add_argument("--tuning-prices", type=Path, metavar="FILE", help="yours of tuning")


def run_candidates(chosen: argparse.Namespace) -> list[Candidate]:
    """Print the tasks of a log and return them."""
    found = find_candidates(
        read_log(chosen.log).calls,
        embeddings=StaticEmbeddings(),
        least_calls=chosen.least_calls,
        least_likeness=chosen.least_likeness,
        prices=_prices(chosen),
    )
    for each in found:
        _print(str(each))
    if not found:
        _print(f"no task has {chosen.least_calls} calls or more that are alike enough")
    return found


def run_break_even(chosen: argparse.Namespace) -> int:
    """Print when training is paid for; 1 if it surely is not, or nobody knows."""
    found = break_even(
        _paid_calls(chosen),
        model=chosen.model,
        training_tokens=chosen.training_tokens,
        epochs=chosen.epochs,
        needless_tokens=chosen.needless_tokens,
        horizon_days=chosen.horizon_days,
        retrain_every_days=chosen.retrain_every_days,
        prices=_tuning_prices(chosen),
    )
    _print(str(found))
    return int(found.verdict in ("does not pay", "unknown"))


def run_export(chosen: argparse.Namespace) -> TrainingSet:
    """Write the examples of a log, print what was left out, and return them."""
    if not chosen.folder.is_dir():
        raise ConfigurationError(f"expected a folder that exists, got {chosen.folder}")
    found = training_set(
        _of_feature(chosen),
        model=chosen.model,
        redactor=Redactor(region=chosen.region),
        instruction=chosen.instruction,
        validation_share=chosen.validation_share,
        epochs=chosen.epochs,
        seed=chosen.seed,
        prices=_tuning_prices(chosen),
    )
    paths = found.write(chosen.folder)
    _print(str(found))
    _print(f"written: {', '.join(map(str, paths))}")
    return found


def _of_feature(chosen: argparse.Namespace) -> list[LoggedCall]:
    path = chosen.log if "log" in chosen else chosen.calls
    calls = read_log(path).calls
    return [call for call in calls if chosen.feature in (None, call.metadata.get("feature"))]


def _paid_calls(chosen: argparse.Namespace) -> Iterator[PaidCall]:
    """Yield the calls of a ledger's file, told by its first bytes, or of a call log."""
    if _is_ledger(chosen.calls):
        with UsageLedger(chosen.calls) as ledger:
            yield from calls_of_ledger(ledger.records(), feature=chosen.feature, model=chosen.now)
        return
    calls = (call for call in _of_feature(chosen) if chosen.now in (None, call.model))
    yield from calls_of_log(calls, prices=_prices(chosen))


def _is_ledger(path: Path) -> bool:
    if not path.is_file():
        raise ConfigurationError(f"expected a ledger or a call log that exists, got {path}")
    with path.open("rb") as file:
        return file.read(len(_SQLITE)) == _SQLITE


def _prices(chosen: argparse.Namespace) -> PriceSource:
    if chosen.prices is None:
        return GenaiPrices()
    return first_known(PriceOverrides.load(chosen.prices), GenaiPrices())


def _tuning_prices(chosen: argparse.Namespace) -> TuningPrices:
    if chosen.tuning_prices is None:
        return bundled_tuning_prices()
    return TuningPrices.load(chosen.tuning_prices)


def _print(text: str) -> None:
    Console().print(text, markup=False, highlight=False, soft_wrap=True)
