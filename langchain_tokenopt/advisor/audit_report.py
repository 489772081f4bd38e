"""What an audit found, as values, JSON and text."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from decimal import Decimal
from typing import Literal

from langchain_tokenopt.accounting import dollars
from langchain_tokenopt.advisor.audit_evidence import Example
from langchain_tokenopt.advisor.audit_intervals import Share
from langchain_tokenopt.advisor.log import LogProblem

Technique = Literal[
    "exact_cache", "semantic_cache", "context", "prompt_cache", "smaller_model", "batch", "errors"
]
Kind = Literal["replayed", "at least", "at most"]
"""`replayed` on the whole log; a lower bound; an upper bound, which more than a log must decide."""
Unit = Literal["dollars", "tokens"]
"""What is summed up: tokens where no model of the log has a known price."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What one technique would save, and what that rests on."""

    technique: Technique
    kind: Kind
    calls: int
    """That it would act on, of those that were looked at."""
    tokens: int
    """That it would spare; of a prompt cache, tokens that become cheaper."""
    share: Share
    """Of the spend, with this technique alone."""
    saved: Decimal
    """Of the whole log, with this technique alone; in the report's unit."""
    added: Decimal | None
    """What it adds to those before it; `None` where it is no part of the combination."""
    sampled: float = 1.0
    """The share of calls that was looked at."""
    notes: tuple[str, ...] = ()
    examples: tuple[Example, ...] = ()

    @property
    def is_combined(self) -> bool:
        """Whether it is a part of the combined saving."""
        return self.added is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class UnpricedModel:
    """Calls of a model without a known price: they are in no sum, unless that is of tokens."""

    model: str
    calls: int
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditReport:
    """What was spent, what each technique would save, and what all of them would together."""

    source: str
    calls: int
    since: datetime | None
    until: datetime | None
    """`None` where the log has no times."""
    cost: Decimal
    """In `unit`, estimated where the log has no counts; in dollars, of priced calls."""
    findings: tuple[Finding, ...]
    """In the order in which the techniques act on a request; bounds last."""
    combined: Share
    combined_saved: Decimal
    unpriced: tuple[UnpricedModel, ...]
    estimated_calls: int
    """Calls whose tokens were counted here."""
    notes: tuple[str, ...]
    problems: tuple[LogProblem, ...]
    """The first lines that could not be read."""
    problem_count: int
    settings: str
    """A `tokenopt.toml` with what is worth having."""
    unit: Unit = "dollars"
    """Of `cost` and of all that is saved."""

    def finding(self, technique: Technique) -> Finding | None:
        """Return one finding, `None` if there is none of its kind."""
        return next((each for each in self.findings if each.technique == technique), None)

    def amount(self, value: Decimal) -> str:
        """Return an amount of this report with its unit."""
        return dollars(value) if self.unit == "dollars" else f"{value:,.0f} tokens"

    def as_json(self) -> str:
        """Return the report as JSON; money is text, so that no digit is lost."""
        return json.dumps(asdict(self), indent=2, default=str) + "\n"

    def __str__(self) -> str:
        lines = [
            f"{self.source}: {self.calls:,} calls, {self.amount(self.cost)}",
            f"combined: {self.combined} less, {self.amount(self.combined_saved)}",
        ]
        lines += [
            f"{TITLES[each.technique]}: {each.kind} {each.share} ({self.amount(each.saved)})"
            for each in self.findings
        ]
        return "\n".join((*lines, *self.notes))


TITLES: Mapping[Technique, str] = {
    "exact_cache": "Same requests",
    "semantic_cache": "Like questions",
    "context": "Over-long contexts",
    "prompt_cache": "Provider's prompt cache",
    "smaller_model": "Smaller model",
    "batch": "Batch API",
    "errors": "Failed calls",
}
HOW_SURE = (
    "Intervals: 95%, for another log of this length from the same traffic, starting with empty "
    "caches: a bootstrap over blocks of time; of a provider's prompt cache, wider by one step of "
    "its rounding. 'At most' is a bound that more than a log must decide, and no part of the whole."
)
