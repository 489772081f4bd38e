"""Calls that failed, came to nothing, or were made again because of that."""

from collections import Counter, OrderedDict
from dataclasses import dataclass, field

from langchain_tokenopt.advisor.audit_evidence import Example, example, mask
from langchain_tokenopt.advisor.audit_facts import CallFacts

_SOON_S = 120.0
_MINUTE_S = 60
_MOST_FAILED = 10_000
_MOST_EXAMPLES = 4
_LIMITED = ("rate", "429", "quota", "too many requests")


@dataclass(slots=True)
class ErrorReplay:
    """Counts failures, and what was paid for answers that nobody could use."""

    blocks: int
    kinds: Counter[str] = field(default_factory=Counter)
    """`error`, `empty` and `truncated` calls."""
    errors: Counter[str] = field(default_factory=Counter)
    retries: int = 0
    """The same request within two minutes of one that came to nothing."""
    wasted: list[int] = field(init=False)
    """By block: what the calls that came to nothing cost."""
    calm_tokens: int = 0
    """The most tokens in a minute in which no call was refused for its rate."""
    _minute: int = -1
    _tokens: int = 0
    _is_limited: bool = False
    limited: int = 0
    """Calls that were refused for their rate."""
    _failed: OrderedDict[bytes, float] = field(default_factory=OrderedDict)
    _examples: list[Example] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Make the sums."""
        self.wasted = [0] * self.blocks

    def add(self, call: CallFacts, *, cost: int, block: int) -> None:
        """Note a call; calls come in order of time."""
        if call.key is not None:
            failed_at = self._failed.pop(call.key, None)
            self.retries += failed_at is not None and call.at - failed_at <= _SOON_S
        limited = call.kind == "error" and any(w in call.error.lower() for w in _LIMITED)
        self._count_minute(call, limited=limited)
        if call.kind in ("answered", "cache_hit"):
            return
        self.kinds[call.kind] += 1
        if call.error:
            self.errors[mask(call.error)[:60]] += 1
            if len(self.errors) > 2 * _MOST_FAILED:
                self.errors = Counter(dict(self.errors.most_common(_MOST_FAILED)))
        self.wasted[block] += cost
        if call.key is not None:
            self._failed[call.key] = call.at
            if len(self._failed) > _MOST_FAILED:
                self._failed.popitem(last=False)
        if len(self._examples) < _MOST_EXAMPLES:
            told = f"{call.kind} {call.error}: {call.question}"
            self._examples.append(example(call.line, told))

    def _count_minute(self, call: CallFacts, *, limited: bool) -> None:
        minute = int(call.at // _MINUTE_S)
        if minute != self._minute:
            self.finish()
            self._minute = minute
        self._tokens += call.input + call.output
        self._is_limited = self._is_limited or limited
        self.limited += limited

    def finish(self) -> None:
        """Close the last minute."""
        if not self._is_limited:
            self.calm_tokens = max(self.calm_tokens, self._tokens)
        self._tokens, self._is_limited = 0, False

    @property
    def examples(self) -> tuple[Example, ...]:
        """Calls that came to nothing."""
        return tuple(self._examples)
