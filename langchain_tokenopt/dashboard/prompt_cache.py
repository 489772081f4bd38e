"""What the provider's own prompt cache brought in: reads against what the writes cost more."""

from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal

from langchain_tokenopt.accounting import Price, PriceSource, Totals, Usage
from langchain_tokenopt.accounting.prices import MILLION
from langchain_tokenopt.accounting.rollup_query import LedgerReader
from langchain_tokenopt.dashboard.views import Selection, Step, shown

_WRITES = ("cache_write", "cache_write_1h", "cache_write_12h")


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptCachePoint:
    """Input tokens of an hour or a day, in the parts that a prompt cache is about."""

    at: datetime
    read: int
    written: int
    other: int

    @property
    def cached_share(self) -> float:
        """Tokens read from the cache of all input."""
        total = self.read + self.written + self.other
        return self.read / total if total else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptCacheRow:
    """What the prompt cache did for one model.

    Money is at list prices of the standard tier and of short prompts, day by day.
    """

    model: str
    provider: str
    input_tokens: int
    read: int
    written: int
    saved_by_reads: Decimal | None
    """Dollars less than the same tokens uncached; `None` if no price is known."""
    extra_for_writes: Decimal | None
    """Dollars more than the same tokens uncached; `None` if no price is known."""

    @property
    def cached_share(self) -> float:
        """Tokens read from the cache of all input."""
        return self.read / self.input_tokens if self.input_tokens else 0.0

    @property
    def net(self) -> Decimal | None:
        """Dollars gained; below zero the writes cost more than the reads saved."""
        if self.saved_by_reads is None or self.extra_for_writes is None:
            return None
        return self.saved_by_reads - self.extra_for_writes


def prompt_cache_over_time(
    reader: LedgerReader, selection: Selection, *, step: Step
) -> tuple[PromptCachePoint, ...]:
    """Return the input that was sent, by time."""
    groups = reader.spend_by([step], within=selection.within, where=selection.where)
    return tuple(
        PromptCachePoint(
            at=datetime.fromisoformat(at).replace(tzinfo=UTC),
            read=totals.usage.cache_read,
            written=_written(totals.usage),
            other=totals.usage.input_tokens - totals.usage.cache_read - _written(totals.usage),
        )
        for (at,), totals in groups.items()
        if totals.usage.input_tokens
    )


def prompt_cache_rows(
    reader: LedgerReader, selection: Selection, *, prices: PriceSource
) -> tuple[PromptCacheRow, ...]:
    """Return what the prompt cache did for each model, the most input first."""
    groups = reader.spend_by(
        ["model", "provider", "day"], within=selection.within, where=selection.where
    )
    rows: dict[tuple[str, str], PromptCacheRow] = {}
    for (model, provider, day), totals in groups.items():
        if not totals.usage.input_tokens:
            continue
        price = prices(
            model=model,
            provider=provider or None,
            tier=None,
            usage=Usage(),
            at=datetime.fromisoformat(day).replace(tzinfo=UTC),
        )
        row = _row(model, provider, totals, price)
        before = rows.get((model, provider))
        rows[model, provider] = row if before is None else _sum(before, row)
    return tuple(sorted(rows.values(), key=lambda row: (-row.input_tokens, row.model)))


def _row(model: str, provider: str, totals: Totals, price: Price | None) -> PromptCacheRow:
    usage = totals.usage
    saved = extra = None
    if price is not None:
        plain = price.rate("input")
        saved = usage.cache_read * (plain - price.rate("cache_read")) / MILLION
        extra = sum(
            (getattr(usage, part) * (price.rate(part) - plain) / MILLION for part in _WRITES),
            Decimal(0),
        )
    return PromptCacheRow(
        model=shown(model),
        provider=shown(provider),
        input_tokens=usage.input_tokens,
        read=usage.cache_read,
        written=_written(usage),
        saved_by_reads=saved,
        extra_for_writes=extra,
    )


def _sum(one: PromptCacheRow, other: PromptCacheRow) -> PromptCacheRow:
    return PromptCacheRow(
        model=one.model,
        provider=one.provider,
        input_tokens=one.input_tokens + other.input_tokens,
        read=one.read + other.read,
        written=one.written + other.written,
        saved_by_reads=_known_sum(one.saved_by_reads, other.saved_by_reads),
        extra_for_writes=_known_sum(one.extra_for_writes, other.extra_for_writes),
    )


def _known_sum(one: Decimal | None, other: Decimal | None) -> Decimal | None:
    return None if one is None or other is None else one + other


def _written(usage: Usage) -> int:
    return sum(getattr(usage, part) for part in _WRITES)
