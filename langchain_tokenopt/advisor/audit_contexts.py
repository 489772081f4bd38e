"""Conversations that are longer than they need be: what a window of some tokens would leave out."""

from collections import OrderedDict
from dataclasses import dataclass, field
from math import ceil

from langchain_tokenopt.advisor.audit_evidence import Example, example
from langchain_tokenopt.advisor.audit_facts import CallFacts
from langchain_tokenopt.advisor.audit_prefixes import Reads
from langchain_tokenopt.prompts.context_fit import NOTE_TOKENS
from langchain_tokenopt.prompts.context_recall import Recall, within

_MOST_EXAMPLES = 3
_MOST_CONVERSATIONS = 100_000


@dataclass(frozen=True, slots=True)
class Cut:
    """What a window leaves of one call."""

    left: int
    """Input tokens."""
    is_new: bool = False
    """Whether more was left out than of the conversation's call before."""


@dataclass(slots=True)
class ContextReplay:
    """Says what of each call a window would leave out.

    Above `max_tokens` it cuts a conversation to half of them, in one step, and leaves out the same
    until it is above again, as a `ContextWindow` does by default: with some room kept free, and
    in whole turns, which are taken to be equally long. The static start and the last question
    always stay. Passages that a question needs again are not counted.
    """

    max_tokens: int
    calls: int = 0
    longest: int = 0
    _examples: list[Example] = field(default_factory=list)
    _left_out: OrderedDict[bytes, int] = field(default_factory=OrderedDict)

    def cut(self, call: CallFacts) -> Cut:
        """Return what is left of a call; calls come in order of time."""
        self.longest = max(self.longest, call.input)
        most = call.tokens(call.history)
        known = min(self._left_out.get(call.conversation, 0), most)
        out, is_new = known, False
        if call.input - known > self.max_tokens:
            half = self.max_tokens // 2
            least = call.input - half + NOTE_TOKENS + within(Recall(), half).max_tokens
            turn = most / max(call.turns / 2, 1)
            out = min(int(ceil(least / turn) * turn), most) if turn else 0
            is_new = out > known
        if out <= 0:
            return Cut(call.input)
        self._left_out[call.conversation] = out
        self._left_out.move_to_end(call.conversation)
        if len(self._left_out) > _MOST_CONVERSATIONS:
            self._left_out.popitem(last=False)
        self.calls += 1
        if len(self._examples) < _MOST_EXAMPLES:
            told = f"{call.input:,} tokens of input, {out:,} left out: {call.question}"
            self._examples.append(example(call.line, told))
        return Cut(call.input - out, is_new)

    @staticmethod
    def reads(call: CallFacts, now: Reads, cut: Cut) -> Reads:
        """Return what is still read from the provider's cache.

        What follows a new cut was never sent so; from the next call on it was.
        """
        if cut.left == call.input:
            return now
        static = min(now.read, call.tokens(call.static))
        kept = 0 if cut.is_new else now.read - (call.input - cut.left)
        return Reads(max(static, kept), min(now.written, cut.left))

    @property
    def examples(self) -> tuple[Example, ...]:
        """Calls that would be cut."""
        return tuple(self._examples)
