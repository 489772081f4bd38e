"""What an answer cost, and what it spared against asking the last tier alone."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage
from langchain_core.runnables.base import RunnableBindingBase

from langchain_tokenopt.accounting import PriceSource, cost_of
from langchain_tokenopt.calls import Usage, normalise_usage


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """The money of one answer."""

    cost: Decimal | None
    """`None` if a price is not known."""
    saved: Decimal | None
    """An estimate; negative where drafts were paid for in vain."""
    unpriced: tuple[str, ...]


def account_of(
    calls: Iterable[Mapping[str, Any]],
    answer: AIMessage,
    *,
    against: str | None,
    prices: PriceSource,
    at: datetime,
) -> Account:
    """Return what the calls cost, and what the answer would have cost at the model `against`."""
    cost = Decimal(0)
    unpriced: dict[str, None] = {}
    for call in calls:
        if call["kind"] == "cache_hit":
            continue
        price = _price(prices, call["model"], call["service_tier"], Usage(**call["usage"]), at)
        if price is None:
            unpriced[call["model"]] = None
        else:
            cost += price
    reported: Any = answer.usage_metadata
    alone = None
    if against is not None and reported:
        alone = _price(prices, against, None, normalise_usage(reported).usage, at)
    known = None if unpriced else cost
    return Account(
        cost=known,
        saved=None if alone is None or known is None else alone - known,
        unpriced=tuple(unpriced),
    )


def _price(
    prices: PriceSource, model: str, tier: str | None, usage: Usage, at: datetime
) -> Decimal | None:
    if not usage.total_tokens:
        return Decimal(0)
    price = prices(model=model, provider=None, tier=tier, usage=usage, at=at)
    return None if price is None else cost_of(usage, price).total


def model_name(model: Any) -> str | None:
    """Return the name of the model behind a chat model or one with options bound."""
    while isinstance(model, RunnableBindingBase):
        model = model.bound
    if not isinstance(model, BaseChatModel):
        return None
    return model._get_ls_params().get("ls_model_name")
