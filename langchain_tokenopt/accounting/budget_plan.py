"""The most that a model call can use, known before it is made."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any

from langchain_core.messages import BaseMessage

from langchain_tokenopt.accounting.amounts import Amounts
from langchain_tokenopt.accounting.prices import Price, PriceSource, cost_of
from langchain_tokenopt.calls.usage import Usage
from langchain_tokenopt.tokens import counter_for

# What is counted with another model's vocabulary may be more.
_ESTIMATE_MARGIN = Decimal("1.25")
_CAPS = ("max_tokens", "max_completion_tokens", "max_output_tokens", "max_tokens_to_sample")
_TIERS = ("flex", "priority", "batch")


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedCall:
    """A call that is about to be made."""

    model: str
    messages: Sequence[BaseMessage]
    provider: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """LangChain's `invocation_params`: token cap, tools, `n`, service tier."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """Where the budgets find their keys."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """What a call uses."""

    most: Amounts
    floor: Amounts
    """Its input: what is used as soon as it is sent."""
    priced: bool


class Planner:
    """Says what a call may use; `output_tokens` is taken for one without a cap of its own."""

    def __init__(self, *, prices: PriceSource, output_tokens: int, dollars: bool) -> None:
        self._prices = prices
        self._output_tokens = output_tokens
        self._dollars = dollars

    def need(self, call: PlannedCall, *, at: datetime) -> Need:
        """Return the most and the least that a call uses if it is made."""
        counter = counter_for(call.model)
        read = counter.count_messages(call.messages, tools=call.parameters.get("tools") or ())
        if counter.estimated:
            read = int(read * _ESTIMATE_MARGIN) + 1
        written = self._cap(call.parameters)
        price = self._price(call, Usage(plain_input=read, output=written), at)
        most = floor = Decimal(0)
        if price is not None:
            # The provider may write all of the input to its cache, and bill that.
            dearest = max(price.input, price.rate(_write_part(call.parameters)))
            most = (dearest * read + price.output * written) / 1_000_000
            floor = cost_of(Usage(plain_input=read), price).total
        return Need(
            most=Amounts(tokens=read + written, calls=1, dollars=most),
            floor=Amounts(tokens=read, calls=1, dollars=floor),
            priced=price is not None or not self._dollars,
        )

    def _cap(self, parameters: Mapping[str, Any]) -> int:
        caps = (parameters.get(name) for name in _CAPS)
        cap = next((cap for cap in caps if isinstance(cap, int) and cap > 0), self._output_tokens)
        n = parameters.get("n")
        return cap * n if isinstance(n, int) and n > 1 else cap

    def _price(self, call: PlannedCall, usage: Usage, at: datetime) -> Price | None:
        if not self._dollars:
            return None
        tier = call.parameters.get("service_tier")
        return self._prices(
            model=call.model,
            provider=call.provider,
            tier=tier if tier in _TIERS else None,
            usage=usage,
            at=at,
        )


def _write_part(parameters: Mapping[str, Any]) -> str:
    for holder in ("prompt_cache_options", "cache_control"):
        options = parameters.get(holder)
        ttl = options.get("ttl") if isinstance(options, dict) else None
        if ttl in ("1h", "12h"):
            return f"cache_write_{ttl}"
    return "cache_write"
