"""What the ledger keeps of each call."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Literal
from uuid import UUID

from langchain_tokenopt.calls.usage import Usage

Kind = Literal["live", "cache_hit", "error", "abandoned", "embedding", "batch"]
KINDS: tuple[Kind, ...] = ("live", "cache_hit", "error", "abandoned", "embedding", "batch")


@dataclass(frozen=True, slots=True, kw_only=True)
class CallRecord:
    """One model call, never changed once written; `run_id` is its key."""

    run_id: UUID
    started_at: datetime
    """Aware UTC."""
    kind: Kind
    model: str
    """The model that served the call; the one asked for if the answer names none."""
    usage: Usage
    """Of a cache hit: the tokens that were not sent."""
    cost: Decimal | None
    """Dollars; `None` if no price is known. A cache hit costs 0."""
    saved: Decimal | None = Decimal(0)
    """Dollars that a cache hit would have cost; `None` if no price is known."""
    latency_s: float
    first_token_s: float | None = None
    """Seconds to the first streamed token; `None` if the call did not stream."""
    parent_id: UUID | None = None
    model_asked: str | None = None
    provider: str | None = None
    tier: str | None = None
    """Service tier that served the call, `None` for the standard one."""
    feature: str | None = None
    endpoint: str | None = None
    tenant: str | None = None
    node: str | None = None
    """The LangGraph node that made the call."""
    tags: tuple[str, ...] = field(default_factory=tuple)
    cache: str | None = None
    """The cache that served a hit: `memory`, `sqlite`, `in_flight`, `langchain`, ..."""
    error: str | None = None
    """Class of the exception of a failed call."""
    overhead: bool = False
    """Whether the call served the application itself: a summary of its history, a judge."""
    estimated: bool = False
    """Whether the usage was counted here because the provider reported none."""


RecordListener = Callable[[CallRecord], None]
"""Told of each call once it is booked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """Sums over calls. Spend and savings are apart: their sum is what no cache would have cost."""

    calls: int
    live: int
    cache_hits: int
    errors: int
    abandoned: int
    usage: Usage
    """Tokens that were sent and received."""
    cached_usage: Usage
    """Tokens that caches served instead."""
    cost: Decimal
    """Dollars of the priced calls."""
    saved: Decimal
    """Dollars of the priced cache hits."""
    unpriced_calls: int
    """Calls that used tokens but whose model has no known price: not in `cost`."""
    unpriced_tokens: int
    unpriced_models: tuple[str, ...]
    estimated_calls: int
    latency_p50_s: float | None
    latency_p95_s: float | None
    first_token_p50_s: float | None
    first_token_p95_s: float | None

    @property
    def priced_share(self) -> float:
        """The share of tokens with a known price, 1.0 for no tokens at all."""
        total = self.usage.total_tokens + self.cached_usage.total_tokens
        return 1.0 - self.unpriced_tokens / total if total else 1.0
