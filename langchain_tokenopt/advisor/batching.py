"""Whether many small prompts cost less together, with a cached prefix, or through a Batch API."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal

from langchain_core.language_models import BaseChatModel

from langchain_tokenopt.accounting import GenaiPrices, PriceSource, Usage, cost_of
from langchain_tokenopt.errors import ConfigurationError
from langchain_tokenopt.prompts import CacheRule, CacheRules, bundled_rules
from langchain_tokenopt.prompts.hints import model_and_provider

DAY_S = 86_400.0
# What a combined request adds: how to answer, once; an id and JSON around each item and answer.
_HOW_TOKENS = 110
_ITEM_TOKENS = 16
_ANSWER_TOKENS = 15


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchingOption:
    """One way to ask, and what an item costs so."""

    name: str
    """`single`, `combined`, `batch`, or `combined batch`."""
    items_a_request: int
    cost: Decimal | None
    """Dollars an item; `None` if no price is known."""
    cached_share: float
    """Of the input: read from the provider's cache."""
    waits: bool
    """Whether answers may take a day."""

    def __str__(self) -> str:
        many = f" of {self.items_a_request}" if self.items_a_request > 1 else ""
        cost = "unpriced" if self.cost is None else f"${1000 * self.cost:.4f} for 1,000"
        return f"{self.name}{many}: {cost}"


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchingPlan:
    """What is advised, and what each way costs."""

    best: BatchingOption
    single: BatchingOption
    """One prompt a request, with what the provider's cache serves of it."""
    options: tuple[BatchingOption, ...]
    """The cheapest first."""
    reason: str

    @property
    def saving(self) -> Decimal:
        """The share of the cost that the advised way saves, 0 to 1."""
        if self.best.cost is None or not self.single.cost:
            return Decimal(0)
        return 1 - self.best.cost / self.single.cost

    @property
    def pays(self) -> bool:
        """Whether anything is better than one prompt a request."""
        return self.best is not self.single

    def __str__(self) -> str:
        return f"{self.best} ({self.reason})"


def plan_batching(
    model: str | BaseChatModel,
    *,
    prefix_tokens: int,
    item_tokens: int,
    output_tokens: int,
    items: int,
    every_s: float = 1.0,
    may_wait_s: float = 0.0,
    sizes: Sequence[int] = (4, 8, 16, 32),
    echo_tokens: int = 4,
    retry_share: float = 0.02,
    least_saving: float = 0.1,
    prices: PriceSource | None = None,
    rules: CacheRules | None = None,
    at: datetime | None = None,
) -> BatchingPlan:
    """Return the cheapest way to ask for many items, or that none is worth it.

    It compares one item a request, whose prefix the provider's cache may serve; several items a
    request (`CombinedBatch`); the provider's Batch API (`ProviderBatch`), without its cache, which
    is not promised there; and both. Answers can get worse when items share a request: what that
    costs is not in here, measure it on labelled items before you take a larger size.

    Args:
        model: The model, or its name.
        prefix_tokens: Of the instruction, equal for all items.
        item_tokens: Of one item.
        output_tokens: Of one answer.
        items: How many there are.
        every_s: Seconds between items.
        may_wait_s: How long an answer may take; a Batch API needs a day.
        sizes: Items a request to compare.
        echo_tokens: What an answer repeats of its item.
        retry_share: Of the items of a combined request: asked again alone.
        least_saving: The share that a way must save to be advised.
        prices: Where prices come from.
        rules: How providers cache.
        at: When; prices have dates.

    Raises:
        ConfigurationError: A value cannot be used.

    >>> plan = plan_batching(
    ...     "gpt-5-mini", prefix_tokens=2_000, item_tokens=40, output_tokens=5, items=10_000
    ... )
    >>> plan.best.name, plan.best.items_a_request
    ('combined', 32)
    """
    counts = (prefix_tokens, item_tokens, output_tokens)
    if min(counts) < 0 or items < 1 or every_s <= 0 or not 0 <= retry_share <= 1 or not sizes:
        message = (
            "expected tokens of at least 0, items of at least 1, every_s above 0, retry_share from "
            f"0 to 1 and some sizes, got {counts}, {items}, {every_s}, {retry_share} and {sizes}"
        )
        raise ConfigurationError(message)
    name, provider = (model, None) if isinstance(model, str) else model_and_provider(model)
    asked = _Asked(
        model=name,
        provider=provider,
        rule=(rules or bundled_rules()).find(name, provider=provider),
        prices=prices or GenaiPrices(),
        at=at or datetime.now(UTC),
        prefix=prefix_tokens,
        item=item_tokens,
        output=output_tokens,
        items=items,
        every_s=every_s,
    )
    single = asked.single("single", tier=None)
    options = [single]
    usable = [size for size in sorted(set(sizes)) if 1 < size <= items]
    ways: list[tuple[str, str | None]] = [("combined", None)]
    if may_wait_s >= DAY_S:
        options.append(asked.single("batch", tier="batch"))
        ways.append(("combined batch", "batch"))
    options += [
        asked.combined(way, size, echo_tokens, retry_share, tier)
        for way, tier in ways
        for size in usable
    ]
    priced = [option for option in options if option.cost is not None]
    priced.sort(key=lambda option: (option.cost or 0, option.items_a_request))
    if single.cost is None:
        return BatchingPlan(
            best=single,
            single=single,
            options=tuple(options),
            reason=f"no price of {name} is known: nothing can be compared; give prices=",
        )
    return _chosen(single, priced, least_saving)


def _chosen(
    single: BatchingOption, priced: Sequence[BatchingOption], least_saving: float
) -> BatchingPlan:
    best = priced[0]
    saved = 1 - (best.cost or Decimal(0)) / single.cost if single.cost else Decimal(0)
    if best is single:
        reason = "nothing costs less"
    elif saved < Decimal(str(least_saving)):
        reason = f"{best.name} would save {saved:.1%}, less than the {least_saving:.0%} asked for"
        best = single
    else:
        reason = f"saves {saved:.1%} of ${1000 * (single.cost or 0):.4f}"
        if single.cached_share > 0.5 and best.items_a_request > 1:
            reason += f", though the cache serves {single.cached_share:.0%} of the input already"
    return BatchingPlan(best=best, single=single, options=tuple(priced), reason=reason)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    model: str
    provider: str | None
    rule: CacheRule | None
    prices: PriceSource
    at: datetime
    prefix: int
    item: int
    output: int
    items: int
    every_s: float

    def single(self, name: str, *, tier: str | None) -> BatchingOption:
        """Return one item a request."""
        usage, share = self._usage(self.prefix, self.item, self.output, 1, tier)
        return BatchingOption(
            name=name,
            items_a_request=1,
            cost=self._cost(usage, tier),
            cached_share=share,
            waits=tier == "batch",
        )

    def combined(
        self, name: str, size: int, echo: int, retries: float, tier: str | None
    ) -> BatchingOption:
        """Return several items a request, some of them asked again alone."""
        usage, share = self._usage(
            self.prefix + _HOW_TOKENS,
            size * (self.item + _ITEM_TOKENS),
            size * (self.output + _ANSWER_TOKENS + echo),
            size,
            tier,
        )
        whole = self._cost(usage, tier)
        alone = self.single(name, tier=tier).cost
        cost = None
        if whole is not None and alone is not None:
            cost = whole / size + Decimal(str(retries)) * alone
        return BatchingOption(
            name=name,
            items_a_request=size,
            cost=cost,
            cached_share=share,
            waits=tier == "batch",
        )

    def _usage(
        self, prefix: int, rest: int, output: int, size: int, tier: str | None
    ) -> tuple[Usage, float]:
        """Return the mean usage of a request, and the share of its input that is cached."""
        cached, hit = 0, 0.0
        if self.rule is not None and tier is None:
            cached = self.rule.rounded(prefix)
            requests = max(self.items // size, 1)
            lasts = self.every_s * size <= self.rule.lifetime().seconds
            hit = (requests - 1) / requests if lasts else 0.0
        read = round(cached * hit)
        written = cached - read if self.rule and self.rule.lifetime().write_factor > 1 else 0
        usage = Usage(
            plain_input=prefix + rest - read - written,
            cache_read=read,
            cache_write=written,
            output=output,
        )
        return usage, read / (prefix + rest) if prefix + rest else 0.0

    def _cost(self, usage: Usage, tier: str | None) -> Decimal | None:
        price = self.prices(
            model=self.model, provider=self.provider, tier=tier, usage=usage, at=self.at
        )
        if price is None:
            return None
        if price.cache_write is None and usage.cache_write:
            usage = replace(usage, plain_input=usage.plain_input + usage.cache_write, cache_write=0)
        return cost_of(usage, price).total
