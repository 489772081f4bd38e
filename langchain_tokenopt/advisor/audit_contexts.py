"""Conversations that are longer than they need be: what a window of some tokens would leave out."""

from dataclasses import dataclass, field

from langchain_tokenopt.advisor.audit_evidence import Example, example
from langchain_tokenopt.advisor.audit_facts import CallFacts
from langchain_tokenopt.advisor.audit_prefixes import Reads

_MOST_EXAMPLES = 3


@dataclass(slots=True)
class ContextReplay:
    """Says what of each call a window would leave out.

    A window cuts deeper, to about half, and then rests; it is taken here to cut to `max_tokens`
    only. The static start and the last question always stay. What follows the cut is no longer
    read from the provider's cache, which can cost more than the cut saves.
    """

    max_tokens: int
    calls: int = 0
    left_out: int = 0
    longest: int = 0
    _examples: list[Example] = field(default_factory=list)

    def left(self, call: CallFacts) -> int:
        """Return the input tokens that would be left."""
        self.longest = max(self.longest, call.input)
        over = min(call.input - self.max_tokens, call.tokens(call.history))
        if over <= 0:
            return call.input
        self.calls += 1
        self.left_out += over
        if len(self._examples) < _MOST_EXAMPLES:
            told = f"{call.input:,} tokens of input, {over:,} left out: {call.question}"
            self._examples.append(example(call.line, told))
        return call.input - over

    @staticmethod
    def reads(call: CallFacts, now: Reads, *, left: int) -> Reads:
        """Return what is still read from the provider's cache: the static start."""
        if left == call.input:
            return now
        return Reads(min(now.read, call.tokens(call.static)), min(now.written, left))

    @property
    def examples(self) -> tuple[Example, ...]:
        """Calls that would be cut."""
        return tuple(self._examples)
