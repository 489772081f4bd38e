"""Measure a runnable on labelled samples: how often it is right, and for how many tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from langchain_core.runnables import Runnable, RunnableConfig

from langchain_tokenopt.calls import Usage
from langchain_tokenopt.reasoning.bench import Bench, EvaluatedSample
from langchain_tokenopt.reasoning.jobs import Work, arun, run
from langchain_tokenopt.reasoning.metrics import LabelledSample, Metric
from langchain_tokenopt.reasoning.result import ReasoningUsage
from langchain_tokenopt.reasoning.sequential import (
    Interval,
    check_confidence,
    mean_interval,
    wilson_interval,
)
from langchain_tokenopt.reasoning.spending import Purse

Ended = Literal["finished", "budget", "decided"]
"""Why no more samples were measured: all were, or the budget ended, or a choice was made."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What a runnable scored and used.

    The intervals are for the number of samples that was measured; where a measurement ended early
    because of what it found, they are narrower than they should be.
    """

    name: str
    rows: tuple[EvaluatedSample, ...]
    """In the order of the samples."""
    samples: int
    """How many were given; fewer rows are there if the budget ended."""
    spent: Usage
    """Of all calls, those of samples included that the budget did not let end."""
    stop_reason: Ended
    confidence: float = 0.95

    @cached_property
    def score(self) -> float | None:
        """The mean score, the accuracy where scores are 0 or 1; `None` without a row."""
        return sum(row.score for row in self.rows) / len(self.rows) if self.rows else None

    @cached_property
    def score_interval(self) -> Interval:
        """Wilson's interval of the mean score."""
        total = sum(row.score for row in self.rows)
        return wilson_interval(total, len(self.rows), confidence=self.confidence)

    @cached_property
    def tokens(self) -> float | None:
        """Tokens for each question, input and output; `None` without a row."""
        return sum(row.tokens for row in self.rows) / len(self.rows) if self.rows else None

    @cached_property
    def tokens_interval(self) -> Interval | None:
        """Student's interval of the tokens for each question; `None` for fewer than two rows."""
        return mean_interval([row.tokens for row in self.rows], confidence=self.confidence)

    @cached_property
    def usage(self) -> ReasoningUsage:
        """What the rows used, by model."""
        return ReasoningUsage.of(use for row in self.rows for use in row.usage.rows)

    @property
    def failures(self) -> int:
        """Rows without an output."""
        return sum(row.error is not None for row in self.rows)

    def report(self) -> str:
        """Return a Markdown table, and what must be known to read it."""
        return _report(self)

    def __str__(self) -> str:
        return self.report()


def evaluate(
    runnable: Runnable[Any, Any],
    samples: Sequence[LabelledSample],
    *,
    metric: Metric | None = None,
    budget: int | None = None,
    name: str | None = None,
    confidence: float = 0.95,
    config: RunnableConfig | None = None,
) -> Evaluation:
    """Return what a runnable scores on labelled samples, and the tokens it uses.

    Failures are rows that score 0. The first sample goes alone, so that a wrong set-up fails before
    the others are paid for; then as many at once as `max_concurrency` of the config allows.

    Args:
        runnable: Returns a `ReasoningResult`, a message, text or a value.
        samples: To ask, in this order.
        metric: Scores an output; by default `typed_equality()` of the text.
        budget: Tokens, input and output of all calls, that may be used. A call that may need more
            than what is left is not made: its input is counted, its output taken to be no longer
            than the cap of the call, else than twice the longest one so far.
        name: In the report; by default the runnable's.
        confidence: Of the intervals.
        config: For all calls.

    Raises:
        ConfigurationError: A value cannot be used, or the runnable cannot take the samples.

    >>> from langchain_tokenopt.testing import ScriptedModel
    >>> model = ScriptedModel(["4", "5"])
    >>> found = evaluate(model, [LabelledSample("2 + 2?", "4"), LabelledSample("3 + 3?", "6")])
    >>> found.score, found.tokens
    (0.5, 5.0)
    """
    bench = Bench(samples, metric=metric, purse=Purse(budget))
    work = _evaluation(bench, runnable, name, confidence)
    return run(work, purse=bench.purse, config=config)


async def aevaluate(
    runnable: Runnable[Any, Any],
    samples: Sequence[LabelledSample],
    *,
    metric: Metric | None = None,
    budget: int | None = None,
    name: str | None = None,
    confidence: float = 0.95,
    config: RunnableConfig | None = None,
) -> Evaluation:
    """Do what `evaluate` does without blocking the event loop."""
    bench = Bench(samples, metric=metric, purse=Purse(budget))
    work = _evaluation(bench, runnable, name, confidence)
    return await arun(work, purse=bench.purse, config=config)


def _evaluation(
    bench: Bench, runnable: Runnable[Any, Any], name: str | None, confidence: float
) -> Work[Evaluation]:
    check_confidence(confidence)
    named = name or runnable.get_name()
    yield from bench.measure({named: runnable}, until=len(bench.samples))
    return evaluation_of(bench, named, decided=False, confidence=confidence)


def evaluation_of(bench: Bench, name: str, *, decided: bool, confidence: float) -> Evaluation:
    """Return what a bench knows of one of its runnables."""
    rows = tuple(bench.rows.get(name, ()))
    stop_reason: Ended = "decided" if decided else "budget"
    return Evaluation(
        name=name,
        rows=rows,
        samples=len(bench.samples),
        spent=bench.spent.get(name, Usage()),
        stop_reason="finished" if len(rows) == len(bench.samples) else stop_reason,
        confidence=confidence,
    )


def table_of(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def measured(evaluation: Evaluation) -> tuple[str, str, str]:
    """Return the cells of a table for samples, score and tokens, the last two with intervals."""
    score, tokens, between = evaluation.score, evaluation.tokens, evaluation.tokens_interval
    if score is None or tokens is None:
        return ("0", "-", "-")
    sure = evaluation.score_interval
    shown = f"{tokens:,.0f}" + (f" ({between.low:,.0f} to {between.high:,.0f})" if between else "")
    return (
        f"{len(evaluation.rows)} of {evaluation.samples}",
        f"{score:.1%} ({sure.low:.1%} to {sure.high:.1%})",
        shown,
    )


def remarks(evaluations: Sequence[Evaluation]) -> list[str]:
    """Return what a reader of the figures must know: failures, cached and estimated calls."""
    lines = []
    for found in evaluations:
        if found.failures:
            first = next(row.error for row in found.rows if row.error is not None)
            lines.append(f"{found.name}: {found.failures} samples failed, such as {first:.200}")
        if found.usage.cached_calls:
            calls = found.usage.cached_calls
            lines.append(f"{found.name}: a cache served {calls} calls, which count no tokens")
        if found.usage.estimated_calls:
            calls = found.usage.estimated_calls
            lines.append(f"{found.name}: the tokens of {calls} calls are estimates")
    return lines


def _report(evaluation: Evaluation) -> str:
    cells = [evaluation.name, *measured(evaluation), f"{evaluation.spent.total_tokens:,}"]
    head = ["name", "samples", "score", "tokens a question", "tokens in all"]
    sure = f"Intervals are {evaluation.confidence:.0%}."
    ended = ["The budget ended before the samples."] if evaluation.stop_reason == "budget" else []
    return "\n".join([table_of(head, [cells]), "", sure, *ended, *remarks([evaluation])])
