"""What tokens cost: prices with their source, and the explained cost of a usage.

Prices come from genai-prices' snapshot, which is inside its package and needs no network, and
from the user's own file (`overrides.py`). An unknown price is `None`, never 0.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import lru_cache
from importlib.metadata import version
from typing import Any, Protocol

from langchain_tokenopt.calls.usage import Usage

MILLION = Decimal(1_000_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """Dollars per million tokens. A part without a price of its own costs what its direction does.

    >>> Price(input=Decimal("1.25"), output=Decimal("10"), source="example").rate("cache_read")
    Decimal('1.25')
    """

    input: Decimal
    output: Decimal
    cache_read: Decimal | None = None
    cache_write: Decimal | None = None
    cache_write_1h: Decimal | None = None
    cache_write_12h: Decimal | None = None
    input_audio: Decimal | None = None
    output_audio: Decimal | None = None
    source: str
    """Where the price is from, for the reader of a report."""

    def rate(self, part: str) -> Decimal:
        """Return the dollars per million tokens of one part of a `Usage`."""
        own: Decimal | None = getattr(self, part, None)
        if own is not None:
            return own
        if part in ("cache_write_1h", "cache_write_12h") and self.cache_write is not None:
            return self.cache_write
        return self.output if part.startswith("output") else self.input


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """An explained cost: dollars for each part, and the price they were computed from."""

    parts: dict[str, Decimal]
    price: Price

    @property
    def total(self) -> Decimal:
        """Dollars."""
        return sum(self.parts.values(), Decimal(0))


class PriceSource(Protocol):
    """Knows prices: `None` stands for a model, a provider or a tier that it does not know."""

    def __call__(
        self, *, model: str, provider: str | None, tier: str | None, usage: Usage, at: datetime
    ) -> Price | None:
        """Return the price that held for a call at `at` (aware UTC) with `usage`."""
        ...


def cost_of(usage: Usage, price: Price) -> Cost:
    """Return what `usage` costs at `price`, part by part.

    >>> price = Price(input=Decimal(2), output=Decimal(8), cache_read=Decimal(1), source="me")
    >>> cost_of(Usage(plain_input=1000, cache_read=2000, output=100), price).total
    Decimal('0.0048')
    """
    counts = {
        "input": usage.plain_input,
        "cache_read": usage.cache_read,
        "cache_write": usage.cache_write,
        "cache_write_1h": usage.cache_write_1h,
        "cache_write_12h": usage.cache_write_12h,
        "input_audio": usage.input_audio,
        "output": usage.output - usage.output_audio,
        "output_audio": usage.output_audio,
    }
    parts = {part: price.rate(part) * n / MILLION for part, n in counts.items() if n}
    return Cost(parts=parts, price=price)


def first_known(*sources: PriceSource) -> PriceSource:
    """Return a source that asks each of `sources` in turn and takes the first price."""

    def price(
        *, model: str, provider: str | None, tier: str | None, usage: Usage, at: datetime
    ) -> Price | None:
        for source in sources:
            found = source(model=model, provider=provider, tier=tier, usage=usage, at=at)
            if found is not None:
                return found
        return None

    return price


# LangChain's provider names, where genai-prices has another.
_PROVIDERS = {
    "amazon_bedrock": "aws",
    "azure": "azure",
    "azure_openai": "azure",
    "bedrock": "aws",
    "bedrock_converse": "aws",
    "google_genai": "google",
    "google_vertexai": "google",
    "mistralai": "mistral",
    "xai": "x-ai",
    "fireworks": "fireworks",
    "together": "together",
}
# OpenAI bills a write that lives 12 hours at 2.5 times the input; genai-prices has no such unit.
_WRITE_12H_FACTOR = Decimal("2.5")
_PARTS = {
    "cache_read": "cache_read_mtok",
    "cache_write": "cache_write_mtok",
    "cache_write_1h": "cache_write_1h_mtok",
    "input_audio": "input_audio_mtok",
    "output_audio": "output_audio_mtok",
}


class GenaiPrices:
    """Prices of the installed genai-prices snapshot: dated, by tier, with long-context steps.

    Fine-tuned OpenAI models (`ft:...`), batch processing (`tier="batch"`) and the flex and
    priority tiers are priced as such. A tier that the snapshot does not know for a model leaves
    the call unpriced, since the standard price would be wrong; so does audio of an OpenAI model
    whose audio price it does not know, which is up to 16 times the price of text.
    """

    def __call__(
        self, *, model: str, provider: str | None, tier: str | None, usage: Usage, at: datetime
    ) -> Price | None:
        """Return the price of `model` at `at`, `None` if the snapshot does not have it."""
        known = _PROVIDERS.get(provider, provider) if provider else None
        standard = None if tier in (None, "default", "standard", "auto") else tier
        minute = at.replace(second=0, microsecond=0)
        # Google's SDKs say "models/gemini-2.5-pro".
        rates = _rates(model.removeprefix("models/"), known, standard, minute)
        if rates is None or (usage.output and not rates.has_output):
            return None
        price = rates.at_length(usage.input_tokens)
        heard = usage.input_audio and price.input_audio is None
        spoken = usage.output_audio and price.output_audio is None
        return None if rates.audio_apart and (heard or spoken) else price


@dataclass(frozen=True, slots=True)
class _Rates:
    at_length: Callable[[int], Price]
    has_output: bool
    """Whether output has a price: that of an embedding model has none, and there is none."""
    audio_apart: bool
    """Whether the provider always bills audio at a price of its own."""


@lru_cache(maxsize=4096)
def _rates(model: str, provider: str | None, tier: str | None, at: datetime) -> _Rates | None:
    """Return how the price of a model depends on the length of the input."""
    import genai_prices  # noqa: PLC0415 - takes 0.2 s, paid by the first priced call

    def model_price(context: Any) -> Any:
        return genai_prices.calc_price(
            genai_prices.Usage(),
            model,
            provider_id=provider,
            genai_request_timestamp=at,
            price_context=context,
        )

    try:
        found = model_price(_context(tier))
        if tier is not None and found.model_price == model_price(None).model_price:
            return None  # the snapshot ignores a tier that it has no price for
    except (LookupError, ValueError):
        return None
    prices, name = found.model_price, f"genai-prices {version('genai-prices')}: {found.model.id}"
    if prices.input_mtok is None:
        return None
    has_output = prices.output_mtok is not None
    of_openai = found.provider.id in ("openai", "azure")

    @lru_cache(maxsize=64)
    def at_thresholds(input_tokens: int) -> Price:
        values = {
            part: _at_length(getattr(prices, key), input_tokens) for part, key in _PARTS.items()
        }
        plain = _at_length(prices.input_mtok, input_tokens)
        output = _at_length(prices.output_mtok, input_tokens) if has_output else Decimal(0)
        if plain is None or output is None:  # checked above; a tier never lacks its price
            raise LookupError(model)
        long_write = plain * _WRITE_12H_FACTOR if of_openai else None
        return Price(input=plain, output=output, cache_write_12h=long_write, source=name, **values)

    steps = _steps(prices)
    return _Rates(
        lambda input_tokens: at_thresholds(
            max((start + 1 for start in steps if input_tokens > start), default=0)
        ),
        has_output,
        audio_apart=of_openai,
    )


def _context(tier: str | None) -> Any:
    if tier is None:
        return None
    return {"processing": "batch"} if tier == "batch" else {"service_tier": tier}


def _at_length(price: Any, input_tokens: int) -> Decimal | None:
    """Return the price at this length: a step up applies to the whole request."""
    if price is None or isinstance(price, Decimal):
        return price
    value: Decimal = price.base
    for tier in sorted(price.tiers, key=lambda tier: int(tier.start)):
        if input_tokens > tier.start:
            value = tier.price
    return value


def _steps(prices: Any) -> list[int]:
    keys = ("input_mtok", "output_mtok", *_PARTS.values())
    tiered = (getattr(prices, key) for key in keys)
    return sorted({int(t.start) for price in tiered for t in getattr(price, "tiers", ())})


def warn_if_stale(
    snapshot: datetime, *, now: datetime | None = None, after: timedelta = timedelta(days=60)
) -> None:
    """Warn if a price snapshot is older than `after`: prices change, and models appear."""
    age = (now or datetime.now(UTC)) - snapshot
    if age > after:
        message = (
            f"the price table is {age.days} days old; upgrade genai-prices, or give the prices "
            "that changed in an override file"
        )
        warnings.warn(message, stacklevel=2)
