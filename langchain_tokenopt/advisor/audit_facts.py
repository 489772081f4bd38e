"""What an audit keeps of each call: numbers, hashes and a short text, never the whole prompt."""

import json
import re
import struct
from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from functools import lru_cache
from hashlib import blake2b
from typing import Any, NamedTuple

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage

from langchain_tokenopt.accounting import (
    GenaiPrices,
    Price,
    PriceSource,
    Usage,
    cost_of,
    normalise_usage,
)
from langchain_tokenopt.advisor.log import LoggedCall
from langchain_tokenopt.files import storable
from langchain_tokenopt.prompts import RequestShape
from langchain_tokenopt.prompts.shape import Part
from langchain_tokenopt.tokens import counter_for

PICO = Decimal(10) ** 12
BLOCK = 256  # characters, about 64 tokens: the grain at which prefixes are compared
LONGEST_TEXT = 2_000
_MOST_BLOCKS = 4_096
_NO_COST = 2**63  # nine million dollars: counts that are wrong, and no number for a file
# How an answer is transported does not change it.
_TRANSPORT = frozenset({"stream", "stream_options", "stream_usage", "timeout", "user"})
_CHANGING = re.compile(
    r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b"
    r"|\b(?=[a-f]*\d)[0-9a-f]{12,}\b|\d+"
    r"|\b(?:mon|tues|wednes|thurs|fri|satur|sun)day\b"
    r"|\b(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*\b(?= #?\d| \d)",
    re.IGNORECASE,
)


class CallFacts(NamedTuple):
    """One call; a tuple, because a million of them go into a file and back.

    Money is a whole number of 1e-12 dollars, `None` where no price is known.
    """

    at: float
    """Unix seconds; the line's number where the log has no times."""
    line: int
    id: str
    model: str
    feature: str
    kind: str
    """`answered`, `error`, `empty`, `truncated`, or `cache_hit`."""
    error: str
    key: bytes | None
    """Equal for requests that an exact cache takes for the same; `None` without a prompt."""
    partition: bytes | None
    """Equal where only the last question differs; `None` if there is no question to compare."""
    question: str
    answer: str
    calls_tools: int
    blocks: bytes
    """Hashes of the prompt's blocks, each of all before it too."""
    characters: int
    static: int
    """Characters of tools and system messages."""
    history: int
    """Characters of what stands between them and the last question."""
    turns: int
    """Messages that stand there."""
    conversation: bytes
    """Equal for calls of one conversation: its first messages are."""
    template: bytes
    """Equal for static parts that differ in numbers, times and ids only."""
    static_key: bytes
    """Equal for equal static parts."""
    input: int
    read: int
    """Input that the provider read from its cache."""
    written: int
    output: int
    reads_known: int
    """Whether the log says what was read."""
    estimated: int
    """Whether tokens were counted here."""
    cost: int | None
    input_rate: int
    read_rate: int
    write_rate: int
    small_cost: int | None
    small_read: int
    """What a token that is read costs less there than one that is not."""
    batch_cost: int | None

    def tokens(self, characters: int) -> int:
        """Return the tokens of a share of the prompt."""
        return self.input * characters // self.characters if self.characters else 0

    def in_tokens(self) -> "CallFacts":
        """Return the facts with each token, read, written or not, for one dollar."""
        one = int(PICO)
        return self._replace(
            cost=(self.input + self.output) * one,
            input_rate=one,
            read_rate=one,
            write_rate=one,
            batch_cost=None,
        )


class FactsOf:
    """Turns calls into facts.

    Args:
        prices: Where prices come from.
        small: The model whose prices are compared with.
    """

    def __init__(self, *, prices: PriceSource | None = None, small: str | None = None) -> None:
        self._prices = prices or GenaiPrices()
        self._small = small

    def __call__(self, call: LoggedCall) -> CallFacts:
        """Return the facts of one call."""
        shape = RequestShape.of(call.messages, model=call.model, parameters=call.parameters)
        static, between, question = _split(call.messages, shape)
        history = sum(len(part.name) + len(part.text) + 2 for part in between)
        usage, is_reported, tier = _usage(call, shape)
        money = self.money(
            call.model, usage, at=call.at, provider=call.metadata.get("ls_provider"), tier=tier
        )
        about = _about(call)
        start = "\n".join([shape.model, shape.key or "", *(f"{n}={v}" for n, v in shape.settings)])
        template, static_key = _static_keys(static, start)
        text = shape.text()
        told = call.answer.usage_metadata if call.answer is not None else None
        return CallFacts(
            at=call.at.timestamp() if call.at else float(call.line),
            line=call.line,
            id=storable(call.id),
            model=storable(call.model),
            feature=storable(str(call.metadata.get("feature") or "")),
            kind=_kind(call),
            error=storable(call.error or ""),
            key=_digest(about, *map(_canonical_message, call.messages)),
            partition=_partition(call, about, question),
            question=storable(question[:LONGEST_TEXT]),
            answer=storable(call.answer.text[:LONGEST_TEXT]) if call.answer is not None else "",
            calls_tools=int(bool(call.answer is not None and call.answer.tool_calls)),
            blocks=_blocks(start, text),
            characters=len(text),
            static=len(static),
            history=history,
            turns=len(between),
            conversation=_conversation(call, about) if history else b"",
            template=template,
            static_key=static_key,
            input=usage.input_tokens,
            read=usage.cache_read,
            written=usage.cache_write + usage.cache_write_1h + usage.cache_write_12h,
            output=usage.output,
            reads_known=int(is_reported and "input_token_details" in (told or {})),
            estimated=int(not is_reported),
            **money,
        )

    def money(
        self,
        model: str,
        usage: Usage,
        *,
        at: datetime | None,
        provider: Any = None,
        tier: str | None = None,
    ) -> dict[str, Any]:
        """Return what a call costs, its rates, and what it costs elsewhere."""
        # Prices change by the day; whole hours are looked up much faster.
        hour = (at or datetime.now(UTC)).replace(minute=0, second=0, microsecond=0)
        asked = None if provider is None else str(provider)

        def price(name: str, tier: str | None, by: str | None) -> Price | None:
            return self._prices(model=name, provider=by, tier=tier, usage=usage, at=hour)

        own = price(model, tier, asked)
        name = self._small
        small = price(name, None, None) if name is not None and name != model else None
        batch = price(model, "batch", asked) if tier is None else None
        return {
            "cost": _pico(usage, own),
            "input_rate": _rate(own, "input"),
            "read_rate": _rate(own, "cache_read"),
            "write_rate": _rate(own, "cache_write"),
            "small_cost": _pico(usage, small),
            "small_read": _rate(small, "input") - _rate(small, "cache_read"),
            "batch_cost": _pico(usage, batch),
        }


def _pico(usage: Usage, price: Price | None) -> int | None:
    if price is None:
        return None
    cost = int(cost_of(usage, price).total * PICO)
    return cost if cost < _NO_COST else None


def _rate(price: Price | None, part: str) -> int:
    """Return 1e-12 dollars a token: a price of six decimals is exact."""
    return 0 if price is None else int(price.rate(part) * 1_000_000)


def _usage(call: LoggedCall, shape: RequestShape) -> tuple[Usage, bool, str | None]:
    told: Any = call.answer.usage_metadata if call.answer is not None else None
    tier = call.parameters.get("service_tier")
    is_other = isinstance(tier, str) and tier not in ("default", "standard", "auto")
    standard = tier if is_other else None
    if told:
        reported = normalise_usage(told)
        return reported.usage, True, reported.tier or standard
    if call.error is not None and call.answer is None:
        return Usage(), True, standard  # a call that failed is taken for one that costs nothing
    counter = counter_for(call.model)
    written = counter.count_text(call.answer.text) if call.answer is not None else 0
    return Usage(plain_input=_counted(shape.text(), call.model), output=written), False, standard


def _counted(text: str, model: str) -> int:
    """Count by parts: the same instructions come again and again, and are counted once."""
    return sum(_count(part, model) for part in text.split("\n\n"))


@lru_cache(maxsize=4_096)
def _count(text: str, model: str) -> int:
    return counter_for(model).count_text(text)


def _kind(call: LoggedCall) -> str:
    if call.answer is None:
        return "error" if call.error else "answered"
    if call.error:
        return "error"
    if call.answer.response_metadata.get("finish_reason") in ("length", "max_tokens"):
        return "truncated"
    return "answered" if call.answer.text.strip() or call.answer.tool_calls else "empty"


def _split(messages: Sequence[BaseMessage], shape: RequestShape) -> tuple[str, Sequence[Part], str]:
    """Return the static start, what stands before the last question, and the question."""
    first = 0
    while first < len(messages) and messages[first].type == "system":
        first += 1
    kept = shape.parts[: len(shape.tools) + first]
    static = "\n".join(f"{part.name}\n{part.text}" for part in kept)
    is_asked = len(messages) > first and isinstance(messages[-1], HumanMessage)
    between = shape.messages[first : -1 if is_asked else None]
    return static, between, messages[-1].text.strip() if is_asked else ""


def _about(call: LoggedCall) -> str:
    """Return what besides the messages tells requests apart, as a cache's key does."""
    kept = {k: v for k, v in call.parameters.items() if k not in _TRANSPORT}
    told = json.dumps(kept, sort_keys=True, default=str) if kept else ""
    return f"{call.metadata.get('tenant') or ''}\n{call.model}\n{told}"


def _canonical_message(message: BaseMessage) -> str:
    content = message.content
    text = content if isinstance(content, str) else json.dumps(content, sort_keys=True, default=str)
    calls = json.dumps(message.tool_calls) if isinstance(message, AIMessage) else ""
    of = message.tool_call_id if isinstance(message, ToolMessage) else ""
    return f"{message.type}\0{message.name or ''}\0{of}\0{calls}\0{text}"


def _partition(call: LoggedCall, about: str, question: str) -> bytes | None:
    temperature = call.parameters.get("temperature")
    is_varied = isinstance(temperature, int | float) and temperature > 1
    if not question or len(question) > LONGEST_TEXT or is_varied:
        return None
    return _digest(about, *map(_canonical_message, call.messages[:-1]))


def _conversation(call: LoggedCall, about: str) -> bytes:
    first = next(n for n, message in enumerate(call.messages) if message.type != "system")
    return _digest(about, *map(_canonical_message, call.messages[: first + 1]))


def _digest(*parts: str) -> bytes:
    digest = blake2b(digest_size=16)
    for part in parts:
        data = part.encode(errors="surrogatepass")
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.digest()


def _blocks(start: str, text: str) -> bytes:
    chained = _digest(start)[:8]
    found = bytearray()
    for at in range(0, min(len(text) // BLOCK, _MOST_BLOCKS) * BLOCK, BLOCK):
        block = text[at : at + BLOCK].encode(errors="surrogatepass")
        chained = blake2b(chained + block, digest_size=8).digest()
        found += chained
    return bytes(found)


def hashes_of(blocks: bytes) -> tuple[int, ...]:
    """Return the hashes of a prompt's blocks."""
    return struct.unpack(f"<{len(blocks) // 8}q", blocks)


@lru_cache(maxsize=512)
def _static_keys(static: str, start: str) -> tuple[bytes, bytes]:
    return _digest(start, changing_masked(static))[:8], _digest(start, static)[:8]


def changing_masked(text: str) -> str:
    """Return a text with a mark for what changes by itself: numbers, times, ids.

    >>> changing_masked("It is Monday, 10:31, run 5f3c0a1b2d4e9f.")
    'It is #, #:#, run #.'
    """
    return _CHANGING.sub("#", text)
