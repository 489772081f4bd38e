"""Runs named runnables over labelled samples in one order, as far as a purse pays for."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from langchain_core.runnables import Runnable

from langchain_tokenopt.calls import Usage
from langchain_tokenopt.errors import ConfigurationError
from langchain_tokenopt.reasoning.jobs import Job, Outcome, Work
from langchain_tokenopt.reasoning.metrics import LabelledSample, Metric, typed_equality
from langchain_tokenopt.reasoning.result import ReasoningUsage
from langchain_tokenopt.reasoning.spending import Purse


@dataclass(frozen=True, kw_only=True)
class EvaluatedSample:
    """What came of one sample."""

    sample: LabelledSample
    score: float
    """0 where the call failed."""
    output: Any = None
    error: str | None = None
    """Why there is no output."""
    usage: ReasoningUsage

    @cached_property
    def tokens(self) -> int:
        """Input and output of all its calls; what a cache served counts nothing."""
        return self.usage.total.total_tokens


class Bench:
    """Keeps the rows of every runnable, each for the first so many samples: they are paired.

    The first sample of a runnable goes alone: a wrong set-up fails before more is paid for, and
    what it used tells how many others fit.

    Args:
        samples: In the order in which they are asked.
        metric: Scores an output.
        purse: Pays for the calls.
    """

    def __init__(
        self, samples: Sequence[LabelledSample], *, metric: Metric | None, purse: Purse
    ) -> None:
        if not samples:
            raise ConfigurationError("expected at least one labelled sample, got none")
        self.samples = list(samples)
        self.purse = purse
        self.rows: dict[str, list[EvaluatedSample]] = {}
        self.spent: dict[str, Usage] = {}
        """Of all calls of a runnable, those of samples that were not finished included."""
        self.unpaid: set[str] = set()
        """Runnables whose first sample the budget could not pay for."""
        self.ended = False
        """Whether the last measurement ended because the budget could not pay for more."""
        self._metric = metric or typed_equality()
        self._held: dict[str, int] = {}

    def measure(self, runnables: Mapping[str, Runnable[Any, Any]], *, until: int) -> Work[None]:
        """Bring the runnables as far as sample `until`, or to the end of the budget."""
        self.ended = False
        while jobs := self._next(runnables, until):
            outcomes = yield [
                Job(runnable=runnables[name], input=self.samples[index].input, step=name)
                for name, index in jobs
            ]
            self._book(jobs, outcomes)

    def _next(self, names: Mapping[str, Any], until: int) -> list[tuple[str, int]]:
        if self.ended:
            return []
        known = {name: len(self.rows.get(name, ())) for name in names if name not in self.unpaid}
        new = [(name, 0) for name in known if name not in self._held]
        if new:
            return new if self.purse.tokens is None else new[:1]
        left = self.purse.left
        found: list[tuple[str, int]] = []
        for index in range(min(known.values(), default=until), until):
            for name in (name for name, done in known.items() if done <= index):
                if left is not None:
                    left -= self._held[name]
                    if left < 0:
                        self.ended = not found
                        return found
                found.append((name, index))
        return found

    def _book(self, jobs: Sequence[tuple[str, int]], outcomes: Sequence[Outcome]) -> None:
        cut: set[str] = set()
        for (name, index), outcome in zip(jobs, outcomes, strict=True):
            self.spent[name] = self.spent.get(name, Usage()) + outcome.usage.total
            if outcome.out_of_budget and index == 0:
                self.unpaid.add(name)
            elif outcome.out_of_budget:
                self.ended = True
                cut.add(name)
            else:
                used = outcome.usage.total
                # As much again as it wrote is set aside while it runs.
                held = used.total_tokens + used.output
                self._held[name] = max(self._held.get(name, 0), held)
                # A row after one that is missing would be paired with the wrong sample.
                if name not in cut:
                    self.rows.setdefault(name, []).append(self._row(index, outcome))

    def _row(self, index: int, outcome: Outcome) -> EvaluatedSample:
        sample, error = self.samples[index], outcome.error
        if error is not None:
            why = f"{type(error).__name__}: {error}"
            return EvaluatedSample(sample=sample, score=0.0, error=why, usage=outcome.usage)
        score = float(self._metric(outcome.output, sample.gold))
        if not (math.isfinite(score) and 0 <= score <= 1):
            raise ConfigurationError(f"a metric returns a score from 0 to 1, got {score}")
        return EvaluatedSample(
            sample=sample, score=score, output=outcome.output, usage=outcome.usage
        )
