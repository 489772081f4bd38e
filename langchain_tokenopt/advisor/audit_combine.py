"""The replay: each call through the techniques, in the order in which they act on a request.

Same request, like question, context window, provider's prompt cache. What an earlier technique has
saved, a later one cannot save again: a served call never reaches the provider, so it keeps no
prefix warm there, and that loss is booked on the cache that served it. A window or a prompt cache
that would cost more than it saves is left out.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from langchain_tokenopt.advisor.audit_batchable import BatchableReplay
from langchain_tokenopt.advisor.audit_contexts import ContextReplay, Cut
from langchain_tokenopt.advisor.audit_duplicates import ExactReplay, NearReplay, Window
from langchain_tokenopt.advisor.audit_errors import ErrorReplay
from langchain_tokenopt.advisor.audit_facts import BLOCK, CallFacts, hashes_of
from langchain_tokenopt.advisor.audit_prefixes import (
    PrefixRules,
    Reads,
    SeenPrefixes,
    Templates,
    longest_free,
    now_read,
)
from langchain_tokenopt.advisor.audit_tasks import TaskReplay

_NEAR_BLOCKS = 40


@dataclass(slots=True)
class Sums:
    """What one technique does, by block of time; 1e-12 dollars."""

    blocks: int
    calls: int = 0
    tokens: int = 0
    alone: list[int] = field(init=False)
    """Saved if this technique is the only one."""
    after: list[int] = field(init=False)
    """Saved of what the techniques before it left; may be negative."""
    grain: int = 0
    """By how much the sum may be off because prefixes are compared and rounded in steps."""

    def __post_init__(self) -> None:
        """Make the sums."""
        self.alone, self.after = [0] * self.blocks, [0] * self.blocks


@dataclass(slots=True)
class Unpriced:
    """Calls of a model without a known price."""

    calls: int = 0
    tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Behind:
    """What the techniques behind the caches save by block; zeros for one that does not pay."""

    context: list[int]
    prompt: list[int]


@dataclass(slots=True, kw_only=True)
class Replay:
    """Plays calls in order of time and keeps sums, whose size does not depend on the log's.

    Args:
        count: How many calls there will be.
        blocks: Into how many blocks of time they are cut.
        windows: Which calls the semantic cache plays.
        counts_tokens: Whether sums are of tokens, whatever they cost.
    """

    count: int
    blocks: int
    windows: Sequence[Window]
    exact: ExactReplay
    near: NearReplay | None
    context: ContextReplay
    templates: Templates
    rules: PrefixRules
    tasks: TaskReplay | None
    batchable: BatchableReplay
    errors: ErrorReplay
    counts_tokens: bool = False
    cost: list[int] = field(init=False)
    """What the log cost, by block."""
    exact_sums: Sums = field(init=False)
    context_sums: Sums = field(init=False)
    prompt_sums: Sums = field(init=False)
    prompt_uncut: list[int] = field(init=False)
    """What the prompt cache saves, by block, of what the caches left, without a window."""
    near_saved: list[int] = field(init=False)
    """By block of the calls that the semantic cache played."""
    near_beyond: list[int] = field(init=False)
    """Of that, what the exact cache alone would not have saved."""
    near_cost: list[int] = field(init=False)
    near_tokens: int = 0
    calls: int = 0
    estimated: int = 0
    cache_hits: int = 0
    unknown_reads: int = 0
    unpriced: dict[str, Unpriced] = field(default_factory=dict)
    by_model: dict[str, int] = field(default_factory=dict)
    first_at: float | None = None
    last_at: float = 0.0
    _sent: SeenPrefixes = field(default_factory=SeenPrefixes)
    _sent_after: SeenPrefixes = field(default_factory=SeenPrefixes)
    _like: set[bytes | None] = field(default_factory=set)
    """Requests that the semantic cache served: the exact cache has no answer of theirs."""
    _played: int = 0

    def __post_init__(self) -> None:
        """Make the sums."""
        self.cost, self.prompt_uncut = [0] * self.blocks, [0] * self.blocks
        self.exact_sums, self.context_sums, self.prompt_sums = (Sums(self.blocks) for _ in range(3))
        self.near_saved, self.near_beyond, self.near_cost = ([0] * _NEAR_BLOCKS for _ in range(3))

    def play(self, calls: Iterable[CallFacts]) -> None:
        """Play all calls, in order of time."""
        for n, call in enumerate(calls):
            self._one(call, n * self.blocks // self.count, self._in_window(n))
        for part in (self.batchable, self.errors, *([self.tasks] if self.tasks else ())):
            part.finish()

    def _in_window(self, n: int) -> bool:
        return any(window.first <= n < window.end for window in self.windows)

    def _one(self, call: CallFacts, block: int, in_window: bool) -> None:
        self.calls += 1
        self.first_at = call.at if self.first_at is None else self.first_at
        self.last_at = call.at
        if call.kind == "cache_hit":
            self.cache_hits += 1
            return
        self.estimated += call.estimated
        if call.cost is None and call.input + call.output:
            unpriced = self.unpriced.setdefault(call.model, Unpriced())
            unpriced.calls += 1
            unpriced.tokens += call.input + call.output
        if self.counts_tokens:
            call = call.in_tokens()
        paths = _Paths(call, self._sent, self._sent_after, self.rules, self.templates)
        base = paths.now.cost(call)
        self.unknown_reads += not call.reads_known
        self.cost[block] += base
        self.by_model[call.model] = self.by_model.get(call.model, 0) + base
        self.errors.add(call, cost=base, block=block)
        self.batchable.add(call, cost=base, block=block)
        if self.tasks is not None:
            self.tasks.add(call, cost=base, read=paths.now.read, block=block)
        cut = self.context.cut(call)
        self._alone(call, block, paths, base=base, cut=cut)
        self._together(call, block, paths, base=base, cut=cut, in_window=in_window)
        self.templates.add(call, shared=paths.shared)
        self._sent.add(call, paths.hashes)

    def _alone(self, call: CallFacts, block: int, paths: "_Paths", *, base: int, cut: Cut) -> None:
        if cut.left < call.input:
            reads = self.context.reads(call, paths.now, cut)
            self.context_sums.alone[block] += base - reads.cost(call, input_tokens=cut.left)
            self.context_sums.calls += 1
            self.context_sums.tokens += call.input - cut.left
        best = paths.best(paths.now, shared=paths.long, left=call.input)
        self.prompt_sums.alone[block] += base - best.cost(call)
        if best.read > paths.now.read:
            self.prompt_sums.calls += 1
            self.prompt_sums.tokens += best.read - paths.now.read
            self.prompt_sums.grain += paths.step * (call.input_rate - call.read_rate)

    def _together(
        self, call: CallFacts, block: int, paths: "_Paths", *, base: int, cut: Cut,
        in_window: bool,
    ) -> None:  # fmt: skip
        now = paths.now_after
        # What served calls kept warm at the provider is now paid by those that follow.
        colder = base - now.cost(call)
        is_same = self.exact.serves(call)
        self.exact_sums.alone[block] += base if is_same else colder
        if is_same:
            self.exact_sums.calls += 1
            self.exact_sums.tokens += call.input + call.output
            if not in_window or call.key not in self._like:
                self.exact_sums.after[block] += base
                return
        self.exact_sums.after[block] += colder
        if in_window and self._serves_like(call, now.cost(call), is_same=is_same):
            return
        whole = paths.best(now, shared=paths.long_after, left=call.input)
        uncut = now.cost(call) - whole.cost(call)
        self.prompt_uncut[block] += uncut
        if cut.left == call.input:
            self.prompt_sums.after[block] += uncut
        else:
            reads = self.context.reads(call, now, cut)
            shorter = reads.cost(call, input_tokens=cut.left)
            self.context_sums.after[block] += now.cost(call) - shorter
            best = paths.best(reads, shared=paths.long_after, left=cut.left)
            self.prompt_sums.after[block] += shorter - best.cost(call, input_tokens=cut.left)
        self._sent_after.add(call, paths.hashes)

    def _serves_like(self, call: CallFacts, cost: int, *, is_same: bool) -> bool:
        if self.near is None:
            return False
        total = sum(window.end - window.first for window in self.windows)
        block = min(self._played * _NEAR_BLOCKS // max(total, 1), _NEAR_BLOCKS - 1)
        self._played += 1
        self.near_cost[block] += cost
        if not self.near.serves(call):
            self._like.discard(call.key)
            self.near_beyond[block] -= cost * is_same
            return False
        self._like.add(call.key)
        self.near_saved[block] += cost
        self.near_beyond[block] += cost * (not is_same)
        self.near_tokens += call.input + call.output
        return True

    def behind(self) -> Behind:
        """Return what the window and the prompt cache save of what the caches left."""
        none = [0] * self.blocks
        context, prompt = self.context_sums.after, self.prompt_sums.after
        if sum(self.context_sums.alone) < 0 or sum(context) < 0:
            context, prompt = none, self.prompt_uncut
        return Behind(context=context, prompt=prompt if sum(prompt) >= 0 else none)


class _Paths:
    """What of one call is read from the provider's cache: as it is, and after our caches."""

    def __init__(
        self,
        call: CallFacts,
        sent: SeenPrefixes,
        sent_after: SeenPrefixes,
        rules: PrefixRules,
        templates: Templates,
    ) -> None:
        self._call = call
        self._rule = rule = rules(call.model)
        self._fixed = 0
        self.step = BLOCK // 4 if rule is None else max(rule.step_tokens, BLOCK // 4)
        self.hashes = hashes_of(call.blocks)
        self.shared = self.long = self.long_after = after = 0
        if rule is None or not call.input:
            self.now = self.now_after = Reads(call.read, call.written)
            return
        if not rule.automatic:  # only what is marked is written: the static start
            self.hashes = self.hashes[: call.static * len(self.hashes) // max(call.characters, 1)]
        default, longest = rule.lifetimes[0].seconds, longest_free(rule).seconds
        lives = (default, longest)
        self.shared, self.long = sent.shared(call, self.hashes, lifetimes=lives)
        after, self.long_after = sent_after.shared(call, self.hashes, lifetimes=lives)
        self._fixed = templates.fixable(call, lifetime_s=longest)
        self.now = now_read(call, rule, self.shared)
        if not call.reads_known:
            self.now_after = now_read(call, rule, after)
            return
        lost = rule.rounded(call.tokens(self.shared)) - rule.rounded(call.tokens(after))
        lost = min(max(lost, 0), call.read)
        written = call.written + (lost if call.written else 0)
        self.now_after = Reads(call.read - lost, written)

    def best(self, now: Reads, *, shared: int, left: int) -> Reads:
        """Return what is read once requests are laid out and marked for the provider's cache.

        Args:
            now: What is read otherwise.
            shared: Characters that were sent within the longest lifetime.
            left: Input tokens that the context window leaves.
        """
        rule, call = self._rule, self._call
        if rule is None or not call.input:
            return now
        most = call.input if left == call.input else call.tokens(call.static)
        read = max(now.read, min(rule.rounded(call.tokens(max(shared, self._fixed))), most))
        if rule.automatic or now.read or now.written:
            return Reads(read, max(now.written - (read - now.read), 0))
        marked = min(rule.rounded(call.tokens(call.static)), most)
        return Reads(read, max(marked - read, 0))
