"""Whether a cached prefix pays: break-even, the life to ask for, and padding to the minimum."""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import ROUND_FLOOR, Decimal
from typing import Literal

from langchain_tokenopt.errors import ConfigurationError
from langchain_tokenopt.prompts.cache_rules import CacheRule


def break_even_uses(*, write_factor: Decimal, read_factor: Decimal) -> int | None:
    """Return after how many uses of one written prefix caching has cost less than not caching.

    `None` if it never does. The factors are times the plain input price.

    >>> break_even_uses(write_factor=Decimal("1.25"), read_factor=Decimal("0.1"))
    2
    >>> break_even_uses(write_factor=Decimal(2), read_factor=Decimal("0.1"))
    3
    """
    if write_factor <= 1:
        return 1 if write_factor < 1 or read_factor < 1 else None
    if read_factor >= 1:
        return None
    # w + (n - 1) r < n  <=>  n > (w - r) / (1 - r)
    uses = (write_factor - read_factor) / (1 - read_factor)
    return int(uses.to_integral_value(ROUND_FLOOR)) + 1


def needed_hit_share(*, write_factor: Decimal, read_factor: Decimal) -> Decimal | None:
    """Return the share of uses that must be reads for caching to lose nothing.

    >>> round(needed_hit_share(write_factor=Decimal("1.25"), read_factor=Decimal("0.1")), 2)
    Decimal('0.22')
    """
    if write_factor <= 1:
        return Decimal(0)
    if read_factor >= 1:
        return None
    return (write_factor - 1) / (write_factor - read_factor)


@dataclass(frozen=True, slots=True, kw_only=True)
class LifetimeAdvice:
    """What the prefix costs for each use, with a lifetime, at the intervals that were seen."""

    lifetime: str | None
    """The cheapest; `None` for not caching."""
    cost_per_use: dict[str, Decimal]
    """By lifetime, times the price of the plain prefix; `none` is not caching, 1."""
    hit_share: dict[str, float]
    """By lifetime: the share of uses within it."""
    uses: int

    def __str__(self) -> str:
        costs = ", ".join(f"{name} {cost:.2f}" for name, cost in self.cost_per_use.items())
        best = self.lifetime or "no caching"
        return (
            f"{best} is cheapest; cost of the prefix a use, plain is 1: {costs} ({self.uses} uses)"
        )


def lifetime_advice(rule: CacheRule, intervals_s: Sequence[float]) -> LifetimeAdvice:
    """Return which lifetime is cheapest for a prefix that was used again after these intervals.

    Every use renews the prefix. The first use writes it. With an automatic cache that does not
    charge for writes, not caching is never cheaper.

    Raises:
        ConfigurationError: An interval is negative.
    """
    if any(interval < 0 for interval in intervals_s):
        raise ConfigurationError(f"intervals are 0 seconds or more, got {min(intervals_s)}")
    uses = len(intervals_s) + 1
    costs: dict[str, Decimal] = {"none": Decimal(1)}
    shares: dict[str, float] = {"none": 0.0}
    for lifetime in rule.lifetimes:
        hits = sum(interval <= lifetime.seconds for interval in intervals_s)
        share = Decimal(hits) / uses
        costs[lifetime.name] = share * rule.read_factor + (1 - share) * lifetime.write_factor
        shares[lifetime.name] = hits / uses
    # Of two that cost the same the first holds, the provider's default before longer ones.
    named = [lifetime.name for lifetime in rule.lifetimes]
    best = min([*named, "none"], key=lambda name: costs[name])
    return LifetimeAdvice(
        lifetime=None if best == "none" else best, cost_per_use=costs, hit_share=shares, uses=uses
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SizeAdvice:
    """What to do about a prefix's size, with the arithmetic; tokens per use at the plain price."""

    action: Literal["cached", "pad", "leave"]
    """It is long enough; it pays to pad it with more examples or documents; it does not."""
    tokens: int
    minimum_tokens: int
    cost_now: Decimal
    """What the prefix costs each use as it is, in tokens at the plain input price."""
    cost_padded: Decimal
    """What it would cost padded to the minimum; `cost_now` if it is long enough."""
    hit_share: float

    def __str__(self) -> str:
        if self.action == "cached":
            return f"{self.tokens} tokens are enough for the minimum of {self.minimum_tokens}"
        arithmetic = (
            f"{self.tokens} tokens cost {self.cost_now:.0f} a use uncached; padded to "
            f"{self.minimum_tokens}, with {self.hit_share:.0%} of uses read from the cache, "
            f"{self.cost_padded:.0f}"
        )
        pays = "it pays to pad it" if self.action == "pad" else "it does not pay to pad it"
        return f"{pays}: {arithmetic}"


def size_advice(
    rule: CacheRule, *, tokens: int, hit_share: float, lifetime: str | None = None
) -> SizeAdvice:
    """Return whether a prefix is long enough, and if not, whether padding it would pay.

    Pad with what helps the answer, more examples for one, not with filler.

    Args:
        rule: How the provider caches.
        tokens: Of the static prefix.
        hit_share: The share of uses that come while the prefix lives, 0 to 1; observed, as
            `lifetime_advice` says.
        lifetime: The one asked for.

    >>> from langchain_tokenopt.prompts import rule_for
    >>> str(size_advice(rule_for("gpt-5"), tokens=700, hit_share=0.9))[:21]
    'it pays to pad it: 70'
    >>> size_advice(rule_for("gpt-4o"), tokens=400, hit_share=0.9).action
    'leave'
    """
    if not 0 <= hit_share <= 1 or tokens < 0:
        message = f"hit_share is a share and tokens are 0 or more, got {hit_share} and {tokens}"
        raise ConfigurationError(message)
    share = Decimal(str(hit_share))
    factor = share * rule.read_factor + (1 - share) * rule.lifetime(lifetime).write_factor
    enough = tokens >= rule.minimum_tokens
    padded = rule.minimum_tokens * factor
    now = tokens * factor if enough else Decimal(tokens)
    return SizeAdvice(
        action="cached" if enough else "pad" if padded < now else "leave",
        tokens=tokens,
        minimum_tokens=rule.minimum_tokens,
        cost_now=now,
        cost_padded=now if enough else padded,
        hit_share=hit_share,
    )
