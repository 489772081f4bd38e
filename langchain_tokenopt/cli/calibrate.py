"""`tokenopt calibrate`: from labelled drafts to a routing policy with a promised loss."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from langchain_core.messages import AIMessage
from langchain_core.runnables import Runnable, RunnableLambda
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from langchain_tokenopt.errors import ConfigurationError
from langchain_tokenopt.reasoning import extract
from langchain_tokenopt.routing.agreement import SecondOpinion
from langchain_tokenopt.routing.calibrate import calibrate, split_labels
from langchain_tokenopt.routing.gate import Gate
from langchain_tokenopt.routing.gate_features import AnswerReader
from langchain_tokenopt.routing.judging import CorrectnessJudge
from langchain_tokenopt.routing.labels import LabelFile, LabelledDraft, read_labels
from langchain_tokenopt.routing.planner import Interval, PlanOption
from langchain_tokenopt.routing.policy import RoutingPolicy
from langchain_tokenopt.routing.risk import labels_needed, least_escalated

_MOST_SHOWN = 10
_LEAST_FITTED = 30
_READERS: dict[str, AnswerReader] = {
    "number": extract.number,
    "boolean": extract.boolean,
    "text": extract.text,
}
"""How answers are compared, by the name on the command line."""


def add_to(commands: Any) -> None:
    """Add the command to `tokenopt`'s."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "calibrate",
        help="choose when a small model's answer is good enough, for a promised loss",
        description="Reads labelled drafts (JSON lines with `question`, `weak`, and `strong` or "
        "`weak_correct` and `strong_correct`; optionally `reference`, `opinions`, `judged`, "
        "`logprobs`, `weak_cost`, `strong_cost`, `gate_cost`), fits a gate on one part, promises "
        "on the other, and says whether a cascade pays. Exit status 1 if it does not, or if "
        "nothing can be promised.",
    )
    parser.add_argument("labels", type=Path, metavar="LABELS")
    parser.add_argument("--max-loss", type=_share, default=0.05, metavar="5%")
    parser.add_argument(
        "--delta",
        type=_share,
        metavar="10%",
        help="promise the loss itself but for this chance; default: promise its mean",
    )
    parser.add_argument(
        "--answers",
        default="text",
        metavar="KIND",
        help="number, boolean, text, or option:ABCD (default: text)",
    )
    parser.add_argument("--fit-share", type=_share, default=0.5, metavar="50%")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the policy there")
    parser.add_argument("--format", choices=("table", "json"), default="table")
    parser.set_defaults(run=run)


def run(chosen: argparse.Namespace) -> int:
    """Calibrate, print, and return 1 if the policy is not to cascade."""
    reader = _reader(chosen.answers)
    found = read_labels(chosen.labels, reader=reader)
    fitted, held = split_labels(found.items, fit_share=chosen.fit_share, seed=chosen.seed)
    gate = _gate(found.items, reader)
    if len(fitted) >= _LEAST_FITTED:
        from langchain_tokenopt.routing.fit import fit_gate  # noqa: PLC0415 - of an extra

        gate = fit_gate(gate, fitted)
    elif gate.second_opinion is None and gate.judged_by is None:
        message = (
            f"{len(fitted)} labels are too few to fit a gate on, and there is no opinion or "
            f"judge's score to go by; give at least {_LEAST_FITTED / chosen.fit_share:.0f} labels"
            if chosen.fit_share
            else "nothing is left to fit a gate on; give a --fit-share above 0"
        )
        raise ConfigurationError(message)
    else:
        held = found.items
    policy = calibrate(gate, held, max_loss=chosen.max_loss, delta=chosen.delta)
    if chosen.output is not None:
        policy.save(chosen.output)
    _PRINT[chosen.format](policy, found)
    return 0 if policy.choice == "cascade" else 1


def _share(text: str) -> float:
    try:
        value = float(text.removesuffix("%"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a share such as 5%, got {text!r}") from None
    return value / 100 if text.endswith("%") else value


def _reader(kind: str) -> AnswerReader:
    name, _, labels = kind.partition(":")
    if name == "option" and labels:
        return extract.option(labels)
    if kind not in _READERS:
        message = f"expected number, boolean, text or option:ABCD as --answers, got {kind!r}"
        raise ConfigurationError(message)
    return _READERS[kind]


def _gate(items: Sequence[LabelledDraft], reader: AnswerReader) -> Gate:
    """Return a gate that asks for what the labels have, and is only given what they recorded."""
    model: Runnable[Any, AIMessage] = RunnableLambda(_never_asked)
    opinions = max(len(item.draft.opinions) for item in items)
    is_judged = any(item.draft.judged is not None for item in items)
    return Gate(
        reader=reader,
        second_opinion=SecondOpinion(model=model, samples=opinions) if opinions else None,
        judged_by=CorrectnessJudge(model=model) if is_judged else None,
    )


def _never_asked(request: Any) -> AIMessage:
    raise ConfigurationError(f"calibration asks no model, yet was to ask {request!r:.60}")


def _print_table(policy: RoutingPolicy, found: LabelFile) -> None:
    console = Console()
    table = Table(title="What each way comes to", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.title_justify = "left"
    table.add_column("", no_wrap=True)
    for name in ("quality, %", "% of strong's cost", "for 1,000"):
        table.add_column(name, justify="right", no_wrap=True)
    for option in policy.plan.options:
        table.add_row(*_cells(option, is_chosen=option.name == policy.choice))
    console.print(table)
    for line in _told(policy, found):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _cells(option: PlanOption, *, is_chosen: bool) -> tuple[str, str, str, str]:
    name = f"{option.name} (advised)" if is_chosen else option.name
    share = "-" if option.cost_share is None else _short(option.cost_share)
    cost = "-" if option.cost is None else f"${1000 * option.cost:.4f}"
    return name, _short(option.quality), share, cost


def _short(interval: Interval) -> str:
    """Return percent with the interval: "88.0 (84.5 to 91.4)"."""
    low, mean, high = (100 * each for each in (interval.low, interval.mean, interval.high))
    return f"{mean:.1f} ({low:.1f} to {high:.1f})"


def _told(policy: RoutingPolicy, found: LabelFile) -> list[str]:
    promise, data = policy.promise, policy.data
    least = least_escalated(data.loss_rate, promise.max_loss)
    lines = [
        f"advice: {policy.plan}",
        f"promise: {promise}",
        f"threshold: {promise.threshold:.4f}",
        f"drafts accepted: {promise.accepted_share:.1%} of the labels",
        f"losses: {promise.losses_seen} seen, {max(promise.losses_allowed, 0)} allowed",
        f"labels: {data.calibrated} calibrated on, {data.fitted} others fitted on",
        "qualities and costs are estimates on the former, with 95% intervals",
    ]
    if least:
        lines.append(f"any gate must escalate at least {least:.1%} of requests for this promise")
    if not promise.is_certified:
        needed = labels_needed(promise.max_loss, delta=promise.delta)
        lines.append(f"labels needed if none of them is a loss: {needed}")
    lines += [f"not read, {problem}" for problem in found.problems[:_MOST_SHOWN]]
    if len(found.problems) > _MOST_SHOWN:
        lines.append(f"not read: {len(found.problems) - _MOST_SHOWN} lines more")
    return lines


def _print_json(policy: RoutingPolicy, found: LabelFile) -> None:
    sys.stdout.write(policy.as_json())


_PRINT = {"table": _print_table, "json": _print_json}
