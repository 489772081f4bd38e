"""What a provider's prompt cache could read, by the provider's rule, and what keeps it from it."""

import re
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal

from langchain_tokenopt.accounting import dollars
from langchain_tokenopt.advisor.audit_evidence import mask
from langchain_tokenopt.advisor.audit_facts import BLOCK, PICO, CallFacts
from langchain_tokenopt.advisor.log import LoggedCall
from langchain_tokenopt.prompts import (
    CacheRule,
    CacheRules,
    Divergence,
    LifetimeAdvice,
    RequestShape,
    bundled_rules,
    first_divergence,
    lifetime_advice,
)
from langchain_tokenopt.prompts.cache_rules import Lifetime
from langchain_tokenopt.prompts.economics import break_even_uses
from langchain_tokenopt.prompts.shape import Part

_MOST_BLOCKS = 1_000_000
_MOST_TEMPLATES = 1_000
_MOST_INTERVALS = 1_000
_LEAST_STATIC = 4 * BLOCK
_AROUND = 1_000  # characters that are masked before an excerpt is cut from them


class SeenPrefixes:
    """When each prefix was last sent; the longest unused are forgotten."""

    def __init__(self) -> None:
        self._seen: OrderedDict[int, float] = OrderedDict()

    def shared(
        self, call: CallFacts, hashes: Sequence[int], *, lifetimes: Sequence[float]
    ) -> list[int]:
        """Return the characters, from the start, that were sent within each lifetime."""
        # The static part is known by its own hash too: its end lies in the middle of a block.
        age = call.at - self._seen.get(_whole(call), float("-inf"))
        found = [call.static if age <= lifetime else 0 for lifetime in lifetimes]
        open_ = set(range(len(lifetimes)))
        for n, block in enumerate(hashes, 1):
            age = call.at - self._seen.get(block, float("-inf"))
            open_ = {place for place in open_ if age <= lifetimes[place]}
            if not open_:
                break
            for place in open_:
                found[place] = max(found[place], n * BLOCK)
        return found

    def add(self, call: CallFacts, hashes: Sequence[int]) -> None:
        """Remember a request."""
        at = call.at
        for block in (_whole(call), *hashes):
            self._seen[block] = at
            self._seen.move_to_end(block)
        while len(self._seen) > _MOST_BLOCKS:
            self._seen.popitem(last=False)


def _whole(call: CallFacts) -> int:
    return int.from_bytes(call.static_key, "big")


@dataclass(frozen=True, slots=True)
class Reads:
    """What of a call's input is read from the provider's cache, and what is written to it."""

    read: int
    written: int

    def cost(self, call: CallFacts, *, input_tokens: int | None = None) -> int:
        """Return the cost of a call with these, 0 if its price is not known; 1e-12 dollars."""
        if call.cost is None:
            return 0
        fewer = 0 if input_tokens is None else call.input - input_tokens
        more_read, more_written = self.read - call.read, self.written - call.written
        plain = -fewer - more_read - more_written
        return (
            call.cost
            + plain * call.input_rate
            + more_read * call.read_rate
            + more_written * call.write_rate
        )


@dataclass(slots=True)
class _Template:
    """Requests whose static parts are equal but for numbers, times and ids."""

    feature: str
    model: str
    calls: int = 0
    input: int = 0
    shared: int = 0
    static: int = 0
    static_cost: int = 0
    broken: int = 0
    static_key: bytes = b""
    at: float = float("-inf")
    intervals: list[float] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateReport:
    """What one kind of prompt starts with, and whether a provider's cache can use it."""

    feature: str
    model: str
    calls: int
    static_share: float
    """Of the input: tools and system messages."""
    static_cost: Decimal
    """Dollars that the static part costs where none of it is read from the provider's cache."""
    shared_share: float
    """Of the input: equal to a prefix sent within the provider's default lifetime."""
    broken: int
    """Calls whose static part differed from the one before in a number, a time or an id."""
    breaks: Divergence | None
    """How, at the first place."""
    uses_to_pay: int | None
    """After how many uses a written prefix has paid for its writing; `None` for never."""
    lifetime: LifetimeAdvice | None

    def __str__(self) -> str:
        who = f"{self.feature or '(no feature)'}, {self.model}: {self.calls:,} calls"
        told = (
            f"{who}, {self.static_share:.0%} of the input is static "
            f"({dollars(self.static_cost)} unread), "
            f"{self.shared_share:.0%} was sent shortly before"
        )
        if self.breaks is not None:
            was, became = self.breaks.before, self.breaks.after
            told += (
                f"; {self.broken:,} broken by {self.breaks.reason} at {self.breaks.where} "
                f"({was!r} became {became!r}): {self.breaks.advice}"
            )
        if self.uses_to_pay is not None:
            told += f"; a written prefix pays from use {self.uses_to_pay} on"
        if self.lifetime is not None and len(self.lifetime.cost_per_use) > 2:
            told += f"; lifetime: {self.lifetime}"
        return told


class PrefixRules:
    """The providers' rules, by model, and the lifetimes that an audit compares."""

    def __init__(self, rules: CacheRules | None = None) -> None:
        self._rules = rules or bundled_rules()
        self._known: dict[str, CacheRule | None] = {}

    def __call__(self, model: str) -> CacheRule | None:
        """Return the rule for a model, `None` if there is none."""
        if model not in self._known:
            self._known[model] = self._rules.find(model)
        return self._known[model]


def longest_free(rule: CacheRule) -> Lifetime:
    """Return the longest lifetime whose writes cost no more than the default's."""
    default = rule.lifetimes[0]
    free = [each for each in rule.lifetimes if each.write_factor <= default.write_factor]
    return max(free, key=lambda each: each.seconds)


def now_read(call: CallFacts, rule: CacheRule | None, shared: int) -> Reads:
    """Return what is read today: what the log says, else what an automatic cache would read."""
    if call.reads_known or rule is None or not rule.automatic or not call.input:
        return Reads(call.read, call.written)
    read = min(rule.rounded(call.tokens(shared)), call.input)
    writes = rule.lifetimes[0].write_factor > 1
    return Reads(read, max(rule.rounded(call.input) - read, 0) if writes else 0)


class Templates:
    """Follows kinds of prompts, the first thousand of them; others count as never seen."""

    def __init__(self, breaks: "Breaks", rules: PrefixRules) -> None:
        self._breaks = breaks
        self._rules = rules
        self._known: dict[bytes, _Template] = {}
        self.skipped = 0
        """Calls of further kinds."""

    def fixable(self, call: CallFacts, *, lifetime_s: float) -> int:
        """Return the characters that would be shared if what changes stood behind them."""
        known = self._known.get(call.template)
        if known is None or call.static < _LEAST_STATIC or not self._breaks.of(call.template):
            return 0
        is_fresh = call.at - known.at <= lifetime_s
        return max(call.static - self._breaks.moved(call.template), 0) if is_fresh else 0

    def add(self, call: CallFacts, *, shared: int) -> None:
        """Note a call."""
        known = self._known.get(call.template)
        if known is None:
            if len(self._known) >= _MOST_TEMPLATES:
                self.skipped += 1
                return
            known = self._known[call.template] = _Template(call.feature, call.model)
        elif len(known.intervals) < _MOST_INTERVALS:
            known.intervals.append(max(call.at - known.at, 0.0))
        known.broken += known.calls > 0 and known.static_key != call.static_key
        known.calls += 1
        known.input += call.input
        known.static += call.tokens(call.static)
        known.static_cost += call.tokens(call.static) * call.input_rate
        known.shared += call.tokens(shared)
        known.static_key, known.at = call.static_key, call.at

    def reports(self, *, most: int = 10) -> list[TemplateReport]:
        """Return the kinds of prompts with the most input."""
        largest = sorted(self._known.items(), key=lambda pair: -pair[1].input)[:most]
        return [self._report(key, each) for key, each in largest]

    def _report(self, key: bytes, known: _Template) -> TemplateReport:
        rule = self._rules(known.model)
        return TemplateReport(
            feature=known.feature,
            model=known.model,
            calls=known.calls,
            static_share=known.static / known.input if known.input else 0.0,
            static_cost=known.static_cost / PICO,
            shared_share=known.shared / known.input if known.input else 0.0,
            broken=known.broken,
            breaks=self._breaks.of(key) if known.broken else None,
            uses_to_pay=None
            if rule is None
            else break_even_uses(
                write_factor=rule.lifetimes[0].write_factor, read_factor=rule.read_factor
            ),
            lifetime=lifetime_advice(rule, known.intervals) if rule else None,
        )

    @property
    def volatile(self) -> tuple[str, ...]:
        """Regular expressions of the lines that change, for `[prompt_cache]`."""
        return tuple(dict.fromkeys(self._breaks.lines.values()))


class Breaks:
    """Compares static parts while the prompts are at hand: the first two that differ of each kind.

    Keeps the first prompt of at most a thousand kinds.
    """

    def __init__(self) -> None:
        self._first: dict[bytes, tuple[bytes, RequestShape | None]] = {}
        self._found: dict[bytes, Divergence] = {}
        self._moved: dict[bytes, int] = {}
        self.lines: dict[bytes, str] = {}
        """Regular expressions of lines of system prompts that change, by template."""

    def of(self, template: bytes) -> Divergence | None:
        """Return what breaks the prefix of a kind of prompt."""
        return self._found.get(template)

    def moved(self, template: bytes) -> int:
        """Return the characters of the lines that would stand behind the rest."""
        return self._moved.get(template, 0)

    def look(self, call: LoggedCall, facts: CallFacts) -> None:
        """Compare a call with the first of its kind."""
        first = self._first.get(facts.template)
        if first is None:
            if len(self._first) < _MOST_TEMPLATES and facts.static >= _LEAST_STATIC:
                self._first[facts.template] = (facts.static_key, _static(call))
            return
        key, before = first
        if before is None or key == facts.static_key:
            return
        after = _static(call)
        found = first_divergence(before, after)
        self._first[facts.template] = (key, None)  # one is enough
        if found is not None:
            self._found[facts.template] = _masked(found, before, after)
            self._moved[facts.template] = _differing(before, after)
            line = _changing_line(before, after)
            if line is not None:
                self.lines[facts.template] = line


def _static(call: LoggedCall) -> RequestShape:
    first = 0
    while first < len(call.messages) and call.messages[first].type == "system":
        first += 1
    return RequestShape.of(call.messages[:first], model=call.model, parameters=call.parameters)


def _masked(found: Divergence, before: RequestShape, after: RequestShape) -> Divergence:
    """Return the divergence with excerpts that were masked before they were cut.

    A short excerpt may begin within a secret, or behind the word that tells one.
    """
    for old, new in zip(before.parts, after.parts, strict=False):
        if old != new:
            start = max(_same(old.text, new.text) - _AROUND, 0)
            cut = slice(start, start + 2 * _AROUND)
            shown = first_divergence(
                replace(before, parts=(Part(old.name, mask(old.text[cut])),)),
                replace(after, parts=(Part(new.name, mask(new.text[cut])),)),
            )
            if shown is None:
                return replace(found, before="[masked]", after="[masked]")
            return replace(found, before=shown.before, after=shown.after)
    return replace(found, before=mask(found.before), after=mask(found.after))


def _same(one: str, other: str) -> int:
    """Return how many characters are equal from the start."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((n for n, (a, b) in pairs if a != b), min(len(one), len(other)))


def _differing(before: RequestShape, after: RequestShape) -> int:
    """Return the characters of the lines of `after` that `before` has otherwise."""
    kept = set(before.text().split("\n"))
    return sum(len(line) + 1 for line in after.text().split("\n") if line not in kept)


def _changing_line(before: RequestShape, after: RequestShape) -> str | None:
    """Return an expression for the first line of a system message that differs."""
    for old, new in zip(before.messages, after.messages, strict=False):
        for was, became in zip(old.text.split("\n"), new.text.split("\n"), strict=False):
            if was == became:
                continue
            # Settings are shared: no part of a secret goes into them.
            same = min(_same(was, became), _same(was, mask(was[: 2 * _AROUND])))
            start = was[:same].rstrip("0123456789-:.T ")
            # A line that changes from its first word on cannot be told from others.
            return f"^{re.escape(start)}" if len(start) >= 3 else None
    return None
