"""Traffic that comes in bursts of one kind of prompt: what a Batch API would charge for it."""

from dataclasses import dataclass, field

from langchain_tokenopt.advisor.audit_evidence import Example, example
from langchain_tokenopt.advisor.audit_facts import CallFacts

_MINUTE_S = 60
_MOST_EXAMPLES = 3
_MOST_OPEN = 10_000


@dataclass(slots=True)
class _Burst:
    minute: int
    calls: int = 0
    unpriced: int = 0
    first: CallFacts | None = None
    saved: dict[int, int] = field(default_factory=dict)


@dataclass(slots=True)
class BatchableReplay:
    """Finds minutes in which one kind of prompt was asked often, without a conversation.

    Whether somebody waits for the answers is not in a log, so this is a bound.

    Args:
        least: Calls of one kind in a minute that count as a burst.
        blocks: How many blocks of time there are.
    """

    least: int
    blocks: int
    calls: int = 0
    unpriced: int = 0
    """Of them, calls without a known batch price: nothing is claimed for them."""
    saved: list[int] = field(init=False)
    """By block, where a batch price is known."""
    _open: dict[tuple[str, bytes], _Burst] = field(default_factory=dict)
    _examples: list[Example] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Make the sums."""
        self.saved = [0] * self.blocks

    def add(self, call: CallFacts, *, cost: int, block: int) -> None:
        """Note a call; calls come in order of time."""
        if call.history or call.key is None:
            return
        minute, kind = int(call.at // _MINUTE_S), (call.feature, call.template)
        burst = self._open.get(kind)
        if burst is None or burst.minute != minute:
            if burst is not None:
                self._close(burst)
            elif len(self._open) >= _MOST_OPEN:
                self.finish()
            burst = self._open[kind] = _Burst(minute, first=call)
        burst.calls += 1
        burst.unpriced += call.batch_cost is None
        saving = 0 if call.batch_cost is None else max(cost - call.batch_cost, 0)
        burst.saved[block] = burst.saved.get(block, 0) + saving

    def finish(self) -> None:
        """Count the bursts that are still open."""
        for burst in self._open.values():
            self._close(burst)
        self._open.clear()

    def _close(self, burst: _Burst) -> None:
        if burst.calls < self.least:
            return
        self.calls += burst.calls
        self.unpriced += burst.unpriced
        for block, saving in burst.saved.items():
            self.saved[block] += saving
        if burst.first is not None and len(self._examples) < _MOST_EXAMPLES:
            told = f"{burst.calls} such calls in a minute: {burst.first.question}"
            self._examples.append(example(burst.first.line, told))

    @property
    def examples(self) -> tuple[Example, ...]:
        """The first calls of some bursts."""
        return tuple(self._examples)
