"""What each step came to, and what each technique contributed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import pairwise

from langchain_core.runnables import RunnableConfig

from langchain_tokenopt.accounting import PriceSource, Totals, UsageLedger
from langchain_tokenopt.accounting.totals import percentile
from langchain_tokenopt.advisor import LoggedCall
from langchain_tokenopt.demo.apps import Step
from langchain_tokenopt.demo.play import Outcome, play


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """One application's outcomes and its account."""

    step: Step
    outcomes: tuple[Outcome, ...]
    totals: Totals
    by_model: dict[str, Totals]
    by_feature: dict[str, Totals]
    spent_after: tuple[Decimal, ...]
    """Dollars spent after each model call, in the order of the calls."""

    @property
    def model_calls(self) -> int:
        """Requests that reached a model."""
        return self.totals.live + self.totals.errors + self.totals.abandoned

    @property
    def wrong(self) -> int:
        """Answers that miss the known right one."""
        return sum(outcome.wrong is True for outcome in self.outcomes)

    @property
    def graded(self) -> int:
        """Requests whose right answer is known."""
        return sum(outcome.wrong is not None for outcome in self.outcomes)

    @property
    def failed(self) -> int:
        """Requests that got an error."""
        return sum(outcome.error is not None for outcome in self.outcomes)

    @property
    def changed(self) -> int:
        """Answers that differ from what the log recorded."""
        return sum(
            outcome.call.answer is not None and outcome.answer != outcome.call.answer.text
            for outcome in self.outcomes
        )

    def latency_s(self, share: float) -> float | None:
        """Return a percentile of the time a request took, in seconds."""
        answered = (o.latency_s for o in self.outcomes if o.error is None)
        return percentile(sorted(answered), share)


@dataclass(frozen=True, slots=True, kw_only=True)
class Contribution:
    """What one step saved over the step before it."""

    step: Step
    saved: Decimal
    """Dollars; negative if the step cost more."""
    calls: int
    """Model calls that were no longer made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """All steps on the same traffic; the first is the plain application."""

    results: tuple[StepResult, ...]

    @property
    def plain(self) -> StepResult:
        """The application as it was."""
        return self.results[0]

    @property
    def optimised(self) -> StepResult:
        """The application with every technique."""
        return self.results[-1]

    @property
    def saved_share(self) -> float:
        """The share of the plain cost that is no longer spent; 0.0 where nothing was priced."""
        plain = self.plain.totals.cost
        return float(1 - self.optimised.totals.cost / plain) if plain else 0.0

    def contributions(self) -> list[Contribution]:
        """Return what each step saved over the one before it."""
        return [
            Contribution(
                step=after.step,
                saved=before.totals.cost - after.totals.cost,
                calls=before.model_calls - after.model_calls,
            )
            for before, after in pairwise(self.results)
        ]


def run_steps(
    calls: Sequence[LoggedCall],
    steps: Sequence[Step],
    *,
    prices: PriceSource | None = None,
    workers: int = 16,
    on_step: Callable[[Step], None] | None = None,
    on_outcome: Callable[[Outcome], None] | None = None,
) -> Comparison:
    """Play the calls through each step, every step with a fresh ledger and fresh caches."""
    results = []
    for step in steps:
        if on_step is not None:
            on_step(step)
        ledger = UsageLedger(prices=prices)
        config = RunnableConfig(callbacks=[ledger])
        outcomes = play(calls, step.build(), config=config, workers=workers, on_outcome=on_outcome)
        spent, running = [], Decimal(0)
        for record in ledger.records():
            running += record.cost or 0
            spent.append(running)
        results.append(
            StepResult(
                step=step,
                outcomes=tuple(outcomes),
                totals=ledger.totals(),
                by_model=ledger.totals_by("model"),
                by_feature=ledger.totals_by("feature"),
                spent_after=tuple(spent),
            )
        )
    return Comparison(results=tuple(results))
