"""Work that is written once for sync and async: a generator of jobs, run side by side.

A piece of work yields jobs and gets an outcome for each. One driver runs them in threads, the
other one as tasks; `max_concurrency` of the config limits both.
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.runnables.config import (
    ensure_config,
    get_executor_for_config,
    merge_configs,
)
from langchain_core.runnables.utils import gather_with_concurrency
from langgraph.constants import TAG_NOSTREAM
from langgraph.errors import GraphBubbleUp

from langchain_tokenopt.calls import heard_by
from langchain_tokenopt.errors import BudgetExceededError, ConfigurationError
from langchain_tokenopt.reasoning.result import ReasoningResult, ReasoningUsage, StepUsage
from langchain_tokenopt.reasoning.spending import Meter, Purse

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A runnable to call once."""

    runnable: Runnable[Any, Any]
    input: Any
    step: str
    """What it is for; names it in usage and traces."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of a job."""

    output: Any
    error: Exception | None
    usage: ReasoningUsage
    refused: bool
    """Whether the purse could not pay for all of it."""

    @property
    def out_of_budget(self) -> bool:
        """Whether it is incomplete for want of budget, of the purse or of the caller's own."""
        if self.refused or isinstance(self.error, BudgetExceededError):
            return True
        output = self.output
        return (
            isinstance(output, ReasoningResult)
            and output.stop_reason == "budget"
            and output.abstained
        )


Work = Generator[Sequence[Job], list[Outcome], T]


def run(work: Work[T], *, purse: Purse, config: RunnableConfig | None) -> T:
    """Run the jobs of a piece of work in threads, and return what it returns."""
    known = ensure_config(config)
    outcomes = None
    try:
        while True:
            jobs = work.send(outcomes) if outcomes is not None else next(work)
            with get_executor_for_config(known) as executor:
                outcomes = list(executor.map(lambda job: _outcome(job, purse, known), jobs))
            _raise_misuse(outcomes)
    except StopIteration as end:
        ended: T = end.value
        return ended
    finally:
        work.close()


async def arun(work: Work[T], *, purse: Purse, config: RunnableConfig | None) -> T:
    """Do what `run` does with tasks."""
    known = ensure_config(config)
    outcomes = None
    try:
        while True:
            jobs = work.send(outcomes) if outcomes is not None else next(work)
            outcomes = await gather_with_concurrency(
                known.get("max_concurrency"), *(_aoutcome(job, purse, known) for job in jobs)
            )
            _raise_misuse(outcomes)
    except StopIteration as end:
        ended: T = end.value
        return ended
    finally:
        work.close()


def _outcome(job: Job, purse: Purse, config: RunnableConfig) -> Outcome:
    meter = Meter(purse, job.step)
    output, failure = None, None
    try:
        output = job.runnable.invoke(job.input, _metered(config, meter, job))
    except Exception as error:  # noqa: BLE001 - kept: the work decides what a failure means
        failure = error
    finally:
        meter.close()
    return _read(meter, output, failure)


async def _aoutcome(job: Job, purse: Purse, config: RunnableConfig) -> Outcome:
    meter = Meter(purse, job.step)
    output, failure = None, None
    try:
        output = await job.runnable.ainvoke(job.input, _metered(config, meter, job))
    except Exception as error:  # noqa: BLE001 - kept: the work decides what a failure means
        failure = error
    finally:
        meter.close()
    return _read(meter, output, failure)


def _metered(config: RunnableConfig, meter: Meter, job: Job) -> RunnableConfig:
    about: RunnableConfig = {
        "tags": [f"step:{job.step}", TAG_NOSTREAM],
        "metadata": {"reasoning_step": job.step},
    }
    return heard_by(meter, merge_configs(config, about))


def _read(meter: Meter, output: Any, error: Exception | None) -> Outcome:
    return Outcome(
        output=output,
        error=error,
        usage=ReasoningUsage.of(StepUsage.model_validate(row) for row in meter.rows()),
        refused=meter.refused,
    )


def _raise_misuse(outcomes: Sequence[Outcome]) -> None:
    """Raise what is no failure of a model: a wrong set-up, or a graph that wants to pause."""
    for outcome in outcomes:
        if isinstance(outcome.error, ConfigurationError | GraphBubbleUp):
            raise outcome.error
