"""What a technique returns: the answer, how it came about and what it cost."""

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from langchain_tokenopt.calls import Usage

StopReason = Literal[
    "answered", "confident", "unanimous", "halted", "solved", "accepted",
    "max_samples", "max_steps", "no_progress", "budget", "error",
]  # fmt: skip
"""Why a technique ended.

`answered`: its steps are done. `confident`: further samples would hardly change the vote, or could
not. `unanimous`: the same, and every sample agreed. `halted`: the halter saw the answer. `solved`:
the checker accepted it. `accepted`: a score reached the threshold. `max_samples`, `max_steps`: the
cap was reached. `no_progress`: nothing new could be found. `budget`: a call was refused for want
of budget. `error`: a call failed, and what was known before is returned.
"""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


class StepUsage(_Frozen):
    """What one step used of one model."""

    step: str
    model: str
    tier: str | None = None
    """Service tier that served, `None` for the standard one."""
    calls: int = 0
    """Calls that reached a model, failed ones included."""
    cached_calls: int = 0
    """Calls that a cache served; they used nothing."""
    failed_calls: int = 0
    estimated_calls: int = 0
    """Calls whose usage was counted here, because the provider reported none."""
    usage: Usage = Usage()


class ReasoningUsage(_Frozen):
    """What a technique used, by step and by model."""

    rows: tuple[StepUsage, ...] = ()

    @property
    def total(self) -> Usage:
        """The tokens of all calls."""
        return sum((row.usage for row in self.rows), Usage())

    @property
    def by_step(self) -> dict[str, Usage]:
        """Tokens by the name of the step."""
        return self._sums(lambda row: row.step)

    @property
    def by_model(self) -> dict[str, Usage]:
        """Tokens by the name of the model that served."""
        return self._sums(lambda row: row.model)

    @property
    def calls(self) -> int:
        """Calls that reached a model, failed ones included."""
        return sum(row.calls for row in self.rows)

    @property
    def cached_calls(self) -> int:
        """Calls that a cache served."""
        return sum(row.cached_calls for row in self.rows)

    @property
    def failed_calls(self) -> int:
        """Calls that failed."""
        return sum(row.failed_calls for row in self.rows)

    @property
    def estimated_calls(self) -> int:
        """Calls whose usage is an estimate."""
        return sum(row.estimated_calls for row in self.rows)

    def _sums(self, key: Callable[[StepUsage], str]) -> dict[str, Usage]:
        sums: dict[str, Usage] = defaultdict(Usage)
        for row in self.rows:
            sums[key(row)] += row.usage
        return dict(sums)

    @classmethod
    def of(cls, rows: Iterable[StepUsage]) -> "ReasoningUsage":
        """Return the rows, those of one step, model and tier added up."""
        found: dict[tuple[str, str, str | None], StepUsage] = {}
        for row in rows:
            key = (row.step, row.model, row.tier)
            found[key] = _added(found[key], row) if key in found else row
        return cls(rows=tuple(found.values()))


def _added(one: StepUsage, other: StepUsage) -> StepUsage:
    return one.model_copy(
        update={
            "calls": one.calls + other.calls,
            "cached_calls": one.cached_calls + other.cached_calls,
            "failed_calls": one.failed_calls + other.failed_calls,
            "estimated_calls": one.estimated_calls + other.estimated_calls,
            "usage": one.usage + other.usage,
        }
    )


class Sample(_Frozen):
    """One of several attempts at the answer."""

    index: int
    """Its place in the order in which the samples are counted."""
    text: str = ""
    answer: Any = None
    """What was read out of the text; `None` casts no vote."""
    confidence: float | None = None
    """Mean log probability of its tokens, where the provider gave them."""
    score: float | None = None
    """What a scorer gave it."""
    error: str | None = None
    """Why there is no text."""


class Vote(_Frozen):
    """An answer and the votes for it."""

    answer: Any
    votes: float
    """How many samples gave it, or the sum of their weights."""


class TraceStep(_Frozen):
    """A step on the way to the answer: a thought, a fact, a sub-question."""

    id: str
    step: str
    """What kind of step it is: `propose`, `infer`, `solve`, ..."""
    text: str
    answer: Any = None
    uses: tuple[str, ...] = ()
    """Ids of the steps and facts that it was made from."""
    score: float | None = None


class ReasoningResult(_Frozen):
    """The answer of a technique, how it came about and what it used."""

    answer: Any = None
    """As the extractor or schema gives it; `None` if `abstained`."""
    text: str = ""
    """What the answer was read out of."""
    abstained: bool = False
    """Whether no answer could be given."""
    confidence: float | None = None
    """The probability that the leading answer stays the leader, if the technique knows one."""
    stop_reason: StopReason | None = None
    """`None` while a stream goes on."""
    reason: str = ""
    """Says more about the stop reason, for a reader."""
    rounds: int | None = None
    """Rounds of samples, each waited for before the next, if the technique draws in rounds."""
    samples: tuple[Sample, ...] = ()
    votes: tuple[Vote, ...] = ()
    """Most votes first."""
    trace: tuple[TraceStep, ...] = ()
    usage: ReasoningUsage = Field(default_factory=ReasoningUsage)
