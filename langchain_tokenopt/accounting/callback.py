"""Turns every model call that LangChain tells of into a record with its price."""

import logging
from collections.abc import Callable
from decimal import Decimal
from typing import Any

from typing_extensions import override

from langchain_tokenopt.accounting.prices import PriceSource, cost_of
from langchain_tokenopt.accounting.records import CallRecord
from langchain_tokenopt.accounting.totals import TEMPLATE_TAG
from langchain_tokenopt.calls import CallHandler, ObservedCall
from langchain_tokenopt.messages import templates_of

_LOG = logging.getLogger(__name__)


class RecordingHandler(CallHandler):
    """Give a `CallRecord` of each model call to `record`."""

    def __init__(self, *, record: Callable[[CallRecord], None], prices: PriceSource) -> None:
        super().__init__()
        self._record = record
        self._prices = prices
        self._price_failed = False

    @property
    def price_source(self) -> PriceSource:
        """Where prices come from, for others that book in the same account."""
        return self._prices

    @override
    def _observed(self, call: ObservedCall) -> None:
        metadata = call.metadata
        provider = _text(metadata.get("ls_provider"))
        price = self._price(call, provider)
        hit = call.kind == "cache_hit"
        self._record(
            CallRecord(
                run_id=call.run_id,
                started_at=call.started_at,
                kind=call.kind,
                model=call.model,
                usage=call.usage,
                cost=Decimal(0) if hit else price,
                saved=price if hit else Decimal(0),
                latency_s=call.latency_s,
                first_token_s=call.first_token_s,
                parent_id=call.parent_id,
                model_asked=call.model_asked,
                provider=provider,
                tier=call.tier,
                feature=_text(metadata.get("feature")),
                endpoint=_text(metadata.get("endpoint")),
                tenant=_text(metadata.get("tenant")),
                node=_text(metadata.get("langgraph_node")),
                tags=(*call.tags, *(TEMPLATE_TAG + name for name in templates_of(call.messages))),
                cache=call.cache,
                error=call.error,
                overhead=metadata.get("lc_source") == "summarization",
                estimated=call.estimated,
            )
        )

    def _price(self, call: ObservedCall, provider: str | None) -> Decimal | None:
        if not call.usage.total_tokens:
            return Decimal(0)
        try:
            price = self._prices(
                model=call.model,
                provider=provider,
                tier=call.tier,
                usage=call.usage,
                at=call.started_at,
            )
        except Exception as error:  # noqa: BLE001 - a broken price table must not lose the count
            if not self._price_failed:
                self._price_failed = True
                _LOG.warning("the price source failed, its calls are unpriced: %r", error)
            return None
        return cost_of(call.usage, price).total if price is not None else None


def _text(value: Any) -> str | None:
    return None if value is None else str(value)
