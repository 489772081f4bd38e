"""`tokenopt demo`: play traffic plain and optimised, and show the difference."""

import argparse
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from langchain_openai import ChatOpenAI
from pydantic import SecretStr
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.prompt import Confirm
from rich.table import Table

from langchain_tokenopt.accounting import GenaiPrices, PriceOverrides, UsageLedger, first_known
from langchain_tokenopt.advisor import CallLog, LoggedCall, read_log
from langchain_tokenopt.demo.apps import ModelFactory, Step, steps_for
from langchain_tokenopt.demo.comparison import Comparison, run_steps
from langchain_tokenopt.demo.html import write_html
from langchain_tokenopt.demo.local_model import LOCAL_MODEL, local_model_server
from langchain_tokenopt.demo.play import Outcome
from langchain_tokenopt.demo.rows import contribution, table_rows
from langchain_tokenopt.demo.traffic import (
    LARGE_MODEL,
    SMALL_MODEL,
    RecordedAnswers,
    bundled_traffic,
)
from langchain_tokenopt.errors import ConfigurationError
from langchain_tokenopt.testing import Latency, LoopbackServer, PromptCache
from langchain_tokenopt.tokens import counter_for

_WEIGHTS = Path(".models/smollm2.gguf")
# Simulated, and kept short so that the demo is: ratios are what they are there to show.
_LATENCIES = {
    LARGE_MODEL: Latency(first_token_s=0.12, per_token_s=0.002),
    SMALL_MODEL: Latency(first_token_s=0.06, per_token_s=0.001),
}
_MOST_PROBLEMS_SHOWN = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class _Source:
    """Where the answers come from, and what must be said about it."""

    models: ModelFactory
    calls: Sequence[LoggedCall]
    cascade: tuple[str, ...]
    notes: tuple[str, ...]


def add_to(commands: Any) -> None:
    """Add the command to `tokenopt`'s."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "demo",
        help="play traffic plain and optimised, and show the difference",
        description="Plays the bundled traffic, or a log of yours, first as it is and then with "
        "the package, and shows calls, tokens, dollars, wrong answers and latency side by side.",
    )
    parser.add_argument(
        "--log",
        type=Path,
        metavar="FILE",
        help="play this log: OpenAI-style JSON Lines, a LangSmith or a Langfuse export",
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--live",
        action="store_true",
        help="send them to your real endpoint (OPENAI_API_KEY, OPENAI_BASE_URL); costs money",
    )
    where.add_argument(
        "--local",
        action="store_true",
        help="send them to a real small model on this machine (first: make local-model)",
    )
    parser.add_argument(
        "--weights", type=Path, default=_WEIGHTS, metavar="FILE", help=f"default: {_WEIGHTS}"
    )
    parser.add_argument("--limit", type=_positive, metavar="N", help="play the first N requests")
    parser.add_argument("--workers", type=_positive, metavar="N", help="requests in flight")
    parser.add_argument("--small", metavar="MODEL", help="with --live: the cascade's small model")
    parser.add_argument("--prices", type=Path, metavar="FILE", help="your own prices (JSON)")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write the report there")
    parser.add_argument("--yes", action="store_true", help="do not ask before spending money")
    parser.set_defaults(run=run)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}")
    return int(text)


def run(chosen: argparse.Namespace, *, console: Console | None = None) -> Comparison:
    """Play, print and write what the arguments ask for, and return the comparison."""
    console = console or Console()
    log = read_log(chosen.log) if chosen.log else bundled_traffic()
    _print_problems(console, log)
    limit = chosen.limit or (24 if chosen.local else None)
    calls = log.calls[:limit]
    overrides = [PriceOverrides.load(chosen.prices)] if chosen.prices else []
    _warm_up()
    with _source(chosen, calls, console) as source:
        comparison = _play(
            console,
            source.calls,
            steps_for(source.models, cascade=source.cascade),
            prices=first_known(*overrides, GenaiPrices()),
            workers=chosen.workers or (1 if chosen.local else 16),
        )
    _print_comparison(console, comparison, notes=source.notes)
    if chosen.html:
        title = f"tokenopt demo: {chosen.log.name if chosen.log else 'the bundled traffic'}"
        written = write_html(chosen.html, comparison, title=title, notes=source.notes)
        console.print(f"report: {written}")
    return comparison


@contextmanager
def _source(
    chosen: argparse.Namespace, calls: Sequence[LoggedCall], console: Console
) -> Iterator[_Source]:
    with ExitStack() as stack:
        if chosen.live:
            yield _live(chosen, calls, console)
        elif chosen.local:
            url = stack.enter_context(local_model_server(chosen.weights))
            yield _local(url, calls)
        else:
            answered = [call for call in calls if call.answer is not None]
            replies = RecordedAnswers(answered, latencies={} if chosen.log else _LATENCIES)
            server = LoopbackServer(replies, prompt_cache=PromptCache())
            stack.enter_context(server)
            yield _recorded(chosen, server.base_url, answered, left_out=len(calls) - len(answered))


def _recorded(
    chosen: argparse.Namespace, url: str, calls: Sequence[LoggedCall], *, left_out: int
) -> _Source:
    counted = counter_for(LARGE_MODEL)
    exact = "estimated" if counted.estimated else "exact"
    notes = [
        (
            "Real: every request goes over HTTP through ChatOpenAI to a server on this machine; "
            "caches, cascade, ledger and failures are the package's own code."
        ),
        (
            f"Computed: tokens are counted by {counted.name} ({exact}); the provider's prompt "
            "cache is simulated by its published rule (1,024 tokens at least, steps of 128); "
            "dollars are list prices of the genai-prices snapshot for the models named."
        ),
    ]
    if chosen.log:
        notes.append(
            "Recorded: the answers are those of your log. It has no second model's answers and no "
            "grades, so only the caches are played; latency is that of this machine."
        )
        if left_out:
            notes.append(f"Left out: {left_out} requests without a recorded answer.")
    else:
        notes.append(
            "Written for this demo: the requests, both models' answers and the right answers. They "
            "show how the parts work together; they are no evidence of the models' quality."
        )
        notes.append(
            "Simulated: the server waits 0.12 s for the first token of the large model and 2 ms "
            "for each further one, half of that for the small model."
        )
    cascade = () if chosen.log else (SMALL_MODEL, LARGE_MODEL)
    return _Source(
        models=_models(url, SecretStr("loopback")), calls=calls, cascade=cascade, notes=tuple(notes)
    )


def _local(url: str, calls: Sequence[LoggedCall]) -> _Source:
    notes = (
        (
            f"Real: every request is answered by {LOCAL_MODEL} on this machine, and the tokens, "
            "cached ones among them, are what its server reports; so is the latency."
        ),
        (
            "A model of this size answers badly: its answers are graded all the same. There is no "
            "larger one here, so only the caches are played."
        ),
        "It has no price, so its calls are unpriced; give one with --prices.",
    )
    make = _models(url, SecretStr("local"), max_tokens=64, temperature=0.0)
    return _Source(models=lambda _: make(LOCAL_MODEL), calls=calls, cascade=(), notes=notes)


def _live(chosen: argparse.Namespace, calls: Sequence[LoggedCall], console: Console) -> _Source:
    if not os.environ.get("OPENAI_API_KEY"):
        message = "--live needs OPENAI_API_KEY (and OPENAI_BASE_URL for another endpoint), not set"
        raise ConfigurationError(message)
    named = {call.model for call in calls}
    if chosen.small and len(named) != 1:
        message = f"--small needs a log with one model, got {sorted(named)}"
        raise ConfigurationError(message)
    cascade = (chosen.small, *named) if chosen.small else ()
    sent = sum(counter_for(call.model).count_messages(call.messages) for call in calls)

    def models(name: str) -> ChatOpenAI:
        return ChatOpenAI(model=name)

    before_cascade = len(steps_for(models, cascade=()))
    in_cascade = len(steps_for(models, cascade=cascade)) - before_cascade
    times = before_cascade + len(cascade) * in_cascade  # a step may ask each model of the cascade
    asked = ", ".join(sorted({*named, *cascade}))
    question = (
        f"Send {len(calls)} requests up to {times} times to {asked}: about {sent * times:,} input "
        "tokens at most. Go on?"
    )
    if not chosen.yes and not Confirm.ask(question, console=console, default=False):
        raise ConfigurationError("nothing was sent; answer yes or pass --yes to go on")
    notes = (
        "Real: requests, answers, tokens and latency are your endpoint's.",
        "Computed: dollars are list prices of the genai-prices snapshot, not your bill.",
    )
    return _Source(models=models, calls=calls, cascade=cascade, notes=notes)


def _models(url: str, key: SecretStr, **parameters: Any) -> ModelFactory:
    return lambda name: ChatOpenAI(model=name, base_url=url, api_key=key, **parameters)


def _warm_up() -> None:
    """Load client, vocabulary and prices, or the first request would seem to take a second."""
    with LoopbackServer(["ready"]) as server:
        model = _models(server.base_url, SecretStr("loopback"))(LARGE_MODEL)
        model.invoke("ready?", {"callbacks": [UsageLedger()]})


def _play(
    console: Console, calls: Sequence[LoggedCall], steps: Sequence[Step], **keywords: Any
) -> Comparison:
    progress = Progress(
        TextColumn("{task.description:<16}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[failed]}"),
        console=console,
    )
    failed = 0
    with progress:

        def on_step(step: Step) -> None:
            nonlocal failed
            failed = 0
            progress.add_task(step.name, total=len(calls), failed="")

        def on_outcome(outcome: Outcome) -> None:
            nonlocal failed
            failed += outcome.error is not None
            shown = f"[red]{failed} failed[/]" if failed else ""
            progress.update(progress.task_ids[-1], advance=1, failed=shown)

        return run_steps(calls, steps, on_step=on_step, on_outcome=on_outcome, **keywords)


def _print_problems(console: Console, log: CallLog) -> None:
    if not log.problems:
        return
    lines = len(log.problems)
    console.print(f"[yellow]{lines} of {lines + len(log.calls)} lines could not be read:[/]")
    for problem in log.problems[:_MOST_PROBLEMS_SHOWN]:
        console.print(f"  {problem}", markup=False, highlight=False)
    if lines > _MOST_PROBLEMS_SHOWN:
        console.print(f"  and {lines - _MOST_PROBLEMS_SHOWN} more")


def _print_comparison(console: Console, comparison: Comparison, *, notes: Sequence[str]) -> None:
    table = Table(title="Before and after", title_justify="left")
    table.add_column("")
    for result in comparison.results:
        table.add_column(result.step.name, justify="right")
    table.add_column("change", justify="right", style="bold")
    for row in table_rows(comparison):
        table.add_row(row.label, *row.cells, row.change)
    console.print(table)
    console.print("What each technique saved:")
    for part in comparison.contributions():
        console.print(f"  {part.step.name}: {contribution(part, comparison)}", highlight=False)
        console.print(f"    [dim]{part.step.adds}[/]", highlight=False)
    for result in comparison.results:
        _print_failures(console, result.step.name, result.outcomes)
        if result.totals.unpriced_calls:
            models = ", ".join(result.totals.unpriced_models)
            console.print(f"[yellow]unpriced in {result.step.name}: the calls of {models}[/]")
    for note in notes:
        console.print(f"[dim]{note}[/]", highlight=False)


def _print_failures(console: Console, name: str, outcomes: Sequence[Outcome]) -> None:
    errors = [outcome.error for outcome in outcomes if outcome.error is not None]
    if errors:
        console.print(f"[red]{name}: {len(errors)} requests failed[/], the first with: ", end="")
        console.print(errors[0], markup=False, highlight=False)
