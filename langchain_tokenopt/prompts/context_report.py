"""What a context window did to a request, and what that costs."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from langchain_core.messages import BaseMessage

from langchain_tokenopt.prompts.cache_rules import CacheRule

Reason = Literal["left out", "shortened", "wrong"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Dropped:
    """A message that is not sent as it was."""

    index: int
    """In the messages that were given, wrong ones not counted."""
    type: str
    tokens: int
    reason: Reason


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextReport:
    """Tokens of a request before and after, and the price of the cached prefix that was broken.

    Costs are in tokens at the plain input price of the model: multiply by that for dollars. They
    follow from the provider's published rule, not from what it billed.
    """

    tokens_given: int
    """Of all that was given, tools included."""
    tokens: int
    """Of what is sent."""
    saved_by_tables: int = 0
    summary_tokens: int = 0
    recalled_tokens: int = 0
    edited: bool = False
    """Whether this request is the first with a new shortening."""
    kept_prefix_tokens: int = 0
    """Of an edited request: from its start, what the provider may still have cached."""
    break_cost: Decimal = Decimal(0)
    """Of an edited request: what sending the rest anew costs more than reading it."""
    saving_per_call: Decimal = Decimal(0)
    """Of an edited request: what each later call costs less than without the edit."""
    dropped: tuple[Dropped, ...] = ()
    problems: tuple[str, ...] = ()

    @property
    def saved_tokens(self) -> int:
        """Tokens that were given and are not sent."""
        return self.tokens_given - self.tokens

    @property
    def pays_after_calls(self) -> int | None:
        """After how many further calls the edit has paid for the prefix, `None` for never."""
        if self.saving_per_call <= 0:
            return None
        return math.ceil(self.break_cost / self.saving_per_call)

    def __str__(self) -> str:
        lines = [f"{self.tokens:,} of {self.tokens_given:,} tokens sent"]
        if self.saved_by_tables:
            lines.append(f"{self.saved_by_tables:,} saved by writing JSON as tables")
        if self.dropped:
            hidden = sum(each.tokens for each in self.dropped)
            lines.append(f"{len(self.dropped)} messages of {hidden:,} tokens left out or shortened")
        if self.edited:
            after = self.pays_after_calls
            lines.append(
                f"the cached prefix broke after {self.kept_prefix_tokens:,} tokens, which costs "
                f"{self.break_cost:,.0f} once, and {_saving(self.saving_per_call)}"
                + (f": pays after {after} calls" if after else "")
            )
        return "; ".join([*lines, *self.problems])


ReportListener = Callable[[ContextReport], None]
"""Told of each request with a new shortening."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedContext:
    """Messages that fit, and what was done to make them."""

    messages: Sequence[BaseMessage]
    report: ContextReport


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextStats:
    """What a context window did so far."""

    requests: int = 0
    edits: int = 0
    tokens_given: int = 0
    tokens_sent: int = 0
    break_cost: Decimal = Decimal(0)
    """Tokens at the plain input price."""
    summaries: int = 0
    failed_summaries: int = 0
    failed_embeddings: int = 0
    failed_stores: int = 0


def _saving(tokens: Decimal) -> str:
    if tokens > 0:
        return f"saves {tokens:,.0f} a call"
    return f"costs {-tokens:,.0f} more a call: what is left is too short for the provider's cache"


def cached_cost(rule: CacheRule | None, tokens: int) -> Decimal:
    """Return what a request costs whose prefix is cached, in tokens at the plain price."""
    if rule is None:
        return Decimal(tokens)
    cached = rule.rounded(tokens)
    return cached * rule.read_factor + tokens - cached


def break_cost(rule: CacheRule | None, *, tokens: int, prefix: int) -> Decimal:
    """Return what writing all but the prefix anew costs more than reading it."""
    if rule is None:
        return Decimal(0)
    lost = max(rule.rounded(tokens) - rule.rounded(prefix), 0)
    return lost * (rule.lifetime().write_factor - rule.read_factor)
