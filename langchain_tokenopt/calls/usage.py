"""One split of token usage for every provider, from LangChain's `usage_metadata`."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

TIERS = ("flex", "priority")

_NO_COUNT = 10**12  # no request has as many tokens, and sums of them would not fit 64 bits


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens of one call or of many, in parts that are priced apart and never overlap.

    `input_tokens` is the sum of the input parts, so cache reads are inside it, as in LangChain.
    Reasoning and audio output are shares of `output`, not additions to it.

    >>> day = Usage(plain_input=100, cache_read=900, output=50) + Usage(plain_input=10, output=5)
    >>> day.input_tokens, day.output, day.total_tokens
    (1010, 55, 1065)
    """

    plain_input: int = 0
    """Input that was neither read from nor written to the provider's prompt cache."""
    cache_read: int = 0
    cache_write: int = 0
    """Written with the provider's default life: 5 minutes at Anthropic, 30 at OpenAI."""
    cache_write_1h: int = 0
    cache_write_12h: int = 0
    input_audio: int = 0
    output: int = 0
    """All output, reasoning and audio included."""
    reasoning: int = 0
    """The share of `output` that was reasoning."""
    output_audio: int = 0
    """The share of `output` that was audio."""

    @property
    def input_tokens(self) -> int:
        """All input, whatever its price."""
        return (
            self.plain_input
            + self.cache_read
            + self.cache_write
            + self.cache_write_1h
            + self.cache_write_12h
            + self.input_audio
        )

    @property
    def total_tokens(self) -> int:
        """Input and output."""
        return self.input_tokens + self.output

    def __add__(self, other: "Usage") -> "Usage":
        if not isinstance(other, Usage):
            return NotImplemented
        return Usage(**{name: getattr(self, name) + getattr(other, name) for name in USAGE_FIELDS})

    def __radd__(self, other: int) -> Self:
        if other != 0:
            return NotImplemented
        return self  # so that sum(usages) works


USAGE_FIELDS = tuple(field.name for field in fields(Usage))


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportedUsage:
    """What a provider said of one call: the split, and the service tier if the counts name one."""

    usage: Usage
    tier: str | None


def normalise_usage(
    metadata: Mapping[str, Any], *, cache_write_ttl: str | None = None
) -> ReportedUsage:
    """Return the split of a message's `usage_metadata`.

    LangChain's totals are inclusive, and its details differ by provider: OpenAI's flex and
    priority tiers prefix every key (`flex_cache_read`) and repeat writes inside `details["flex"]`;
    Anthropic sets `cache_creation` to 0 where it breaks writes down by life. Plain input is what
    the total leaves. Details larger than the total are clamped, reads first; where the total count
    shows that a provider keeps cached tokens outside of `input_tokens`, they are added.

    Args:
        metadata: `usage_metadata` of an `AIMessage`.
        cache_write_ttl: Life asked for in the request ("1h", "12h"): the only place where a
            12-hour write shows.

    >>> flex = {"input_tokens": 10, "output_tokens": 5, "total_tokens": 15,
    ...         "input_token_details": {"flex": 1, "flex_cache_read": 9}}
    >>> reported = normalise_usage(flex)
    >>> reported.usage.plain_input, reported.usage.cache_read, reported.tier
    (1, 9, 'flex')
    """
    into = metadata.get("input_token_details") or {}
    out = metadata.get("output_token_details") or {}
    tier = _tier(into, out)

    def detail(details: Mapping[str, Any], name: str) -> int:
        return _count(details.get(name)) or (
            _count(details.get(f"{tier}_{name}")) if tier is not None else 0
        )

    input_tokens = _count(metadata.get("input_tokens"))
    output = _count(metadata.get("output_tokens"))
    read, audio = detail(into, "cache_read"), detail(into, "audio")
    write_5m = _count(into.get("ephemeral_5m_input_tokens"))
    write_1h = _count(into.get("ephemeral_1h_input_tokens"))
    creation = detail(into, "cache_creation")
    # `cache_creation` beside a break-down is its sum, not a further write.
    write = write_5m + max(creation - write_5m - write_1h, 0)
    cached = read + write + write_1h
    if cached and _count(metadata.get("total_tokens")) >= input_tokens + output + cached:
        input_tokens += cached
    left = input_tokens
    read, left = _take(read, left)
    write_1h, left = _take(write_1h, left)
    write, left = _take(write, left)
    audio, left = _take(audio, left)
    write_12h = 0
    if cache_write_ttl == "12h":
        write, write_12h = 0, write
    elif cache_write_ttl == "1h" and not write_5m:
        write, write_1h = 0, write_1h + write
    usage = Usage(
        plain_input=left,
        cache_read=read,
        cache_write=write,
        cache_write_1h=write_1h,
        cache_write_12h=write_12h,
        input_audio=audio,
        output=output,
        reasoning=min(detail(out, "reasoning"), output),
        output_audio=min(detail(out, "audio"), output),
    )
    return ReportedUsage(usage=usage, tier=tier)


def _tier(into: Mapping[str, Any], out: Mapping[str, Any]) -> str | None:
    for tier in TIERS:
        if any(key == tier or key.startswith(f"{tier}_") for key in (*into, *out)):
            return tier
    return None


def _count(value: Any) -> int:
    """Return a token count; what is no count (`None`, a negative, text, infinity) is 0."""
    return int(value) if isinstance(value, int | float) and 0 < value < _NO_COUNT else 0


def _take(wanted: int, left: int) -> tuple[int, int]:
    taken = min(wanted, left)
    return taken, left - taken
