"""Watches the provider's prompt cache: what it should have read, what it did, and why not."""

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import LLMResult
from typing_extensions import override

from langchain_tokenopt.accounting import GenaiPrices, PriceSource, Usage, normalise_usage
from langchain_tokenopt.accounting.report import dollars
from langchain_tokenopt.messages import is_cache_hit
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
from langchain_tokenopt.prompts.prefixes import PrefixIndex

_MOST_OPEN = 20_000
_MOST_GROUPS = 1_000
_MOST_INTERVALS = 10_000
_MOST_SHOWN = 200
# Two questions end in the same words now and then; that is no prefix that was lost.
_LEAST_LOST = 64
_DOLLARS = Decimal(1_000_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefixReport:
    """One group of calls to one model: what its prefix cost and could have cost."""

    group: str
    model: str
    calls: int
    input_tokens: int
    predicted_tokens: int
    """Input that the provider's rule says was cached: seen before, long enough, not too old."""
    read_tokens: int
    """Input that the provider read from its cache."""
    written_tokens: int
    saved: Decimal | None
    """Dollars that reading saved; `None` if the model has no known price."""
    write_loss: Decimal | None
    """Dollars that writing cost over plain input."""
    reuse_interval_s: float | None
    """Median time from one use of the prefix to the next; `None` of one that was used once."""
    lifetime: LifetimeAdvice | None
    """Which lifetime pays at the intervals seen; `None` where the rules are not known."""
    reasons: dict[str, int]
    """How often requests parted from the one before, by reason."""
    latest: Divergence | None
    """The latest that lost tokens."""

    @property
    def predicted_share(self) -> float:
        """Of the input."""
        return self.predicted_tokens / self.input_tokens if self.input_tokens else 0.0

    @property
    def read_share(self) -> float:
        """Of the input."""
        return self.read_tokens / self.input_tokens if self.input_tokens else 0.0

    @property
    def net(self) -> Decimal | None:
        """Dollars saved, less what writing cost."""
        if self.saved is None or self.write_loss is None:
            return None
        return self.saved - self.write_loss

    def __str__(self) -> str:
        read = f"{self.read_share:.0%} of input read from the provider's cache"
        who = f"{self.group or '(all)'}, {self.model}: {self.calls} calls"
        lines = [f"{who}, {read}, {self.predicted_share:.0%} predicted"]
        if self.net is not None and self.write_loss is not None:
            lines.append(f"  net {dollars(self.net)}, writes cost {dollars(self.write_loss)} extra")
        if self.reasons:
            told = ", ".join(f"{reason} {n}" for reason, n in self.reasons.items())
            lines.append(f"  prefixes parted: {told}")
        if self.latest is not None:
            lines.append(f"  latest: {self.latest}")
        if self.lifetime is not None and len(self.lifetime.cost_per_use) > 2:
            lines.append(f"  lifetime: {self.lifetime}")
        return "\n".join(lines)


@dataclass(slots=True)
class _Group:
    calls: int = 0
    usage: Usage = field(default_factory=Usage)
    predicted: int = 0
    saved: Decimal | None = Decimal(0)
    write_loss: Decimal | None = Decimal(0)
    intervals: deque[float] = field(default_factory=lambda: deque(maxlen=_MOST_INTERVALS))
    reasons: dict[str, int] = field(default_factory=dict)
    latest: Divergence | None = None
    used_at: float | None = None
    before: RequestShape | None = None
    provider: str | None = None


@dataclass(frozen=True, slots=True)
class _Open:
    shape: RequestShape
    group: str
    thread: str
    provider: str | None
    at: float
    shared: float
    parameters: Mapping[str, Any]


class PromptCacheMonitor(BaseCallbackHandler):
    """Compares what the provider's prompt cache should have read with what it did.

    A callback for any chain, graph or agent. It keeps hashes of the prompts, and of each
    conversation the latest request, to say where and why the next one parts from it. It never
    changes a request. Predictions follow the provider's published rule for this process's own
    requests: others that share the prefix, or a key whose requests overflow to other machines, make
    the real share differ.

    Args:
        group_by: The key in the call's metadata by which calls are told apart.
        prices: Where prices come from.
        rules: How providers cache.
        clock: Seconds, for tests.

    >>> from langchain_tokenopt.testing import ScriptedModel
    >>> monitor = PromptCacheMonitor()
    >>> model = ScriptedModel(["four"], model_name="gpt-5-mini", provider="openai")
    >>> model.invoke("2 + 2?", config={"callbacks": [monitor]}).text
    'four'
    >>> monitor.reports()[0].calls
    1
    """

    run_inline = True

    def __init__(
        self,
        *,
        group_by: str = "feature",
        prices: PriceSource | None = None,
        rules: CacheRules | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._group_by = group_by
        self._prices = prices or GenaiPrices()
        self._rules = rules or bundled_rules()
        self._clock = clock
        self._lock = threading.Lock()
        self._open: OrderedDict[UUID, _Open] = OrderedDict()
        self._groups: OrderedDict[tuple[str, str], _Group] = OrderedDict()
        self._latest: OrderedDict[str, RequestShape] = OrderedDict()
        self._prefixes = PrefixIndex(clock=clock)
        self._divergences: deque[Divergence] = deque(maxlen=_MOST_SHOWN)

    @override
    def on_chat_model_start(
        self,
        serialized: dict[str, Any] | None,
        messages: list[list[BaseMessage]],
        *,
        run_id: UUID,
        metadata: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        about = metadata or {}
        parameters = kwargs.get("invocation_params") or {}
        asked = about.get("ls_model_name") or parameters.get("model") or "unknown"
        provider = about.get("ls_provider")
        shape = RequestShape.of(messages[0], model=str(asked), parameters=parameters)
        group = str(about.get(self._group_by) or "")
        rule = self._rules.find(shape.model, provider=provider)
        lives = _lifetime_s(rule, parameters)
        with self._lock:
            self._open[run_id] = _Open(
                shape=shape,
                group=group,
                thread=str(about.get("thread_id") or f"{group}\n{shape.model}"),
                provider=None if provider is None else str(provider),
                at=self._clock(),
                shared=self._prefixes.shared(shape, lifetime_s=lives) if rule else 0.0,
                parameters=parameters,
            )
            if len(self._open) > _MOST_OPEN:
                self._open.popitem(last=False)

    @override
    def on_llm_end(self, response: LLMResult, *, run_id: UUID, **kwargs: Any) -> None:
        with self._lock:
            call = self._open.pop(run_id, None)
        generation = next((g for group in response.generations for g in group), None)
        message = getattr(generation, "message", None)
        if call is None or not isinstance(message, AIMessage) or is_cache_hit(message):
            return  # the provider has not seen a request that a response cache served
        reported: Any = message.usage_metadata or {}
        usage = normalise_usage(reported, cache_write_ttl=_ttl(call.parameters)).usage
        rule = self._rules.find(call.shape.model, provider=call.provider)
        predicted = rule.rounded(round(call.shared * usage.input_tokens)) if rule else 0
        with self._lock:
            before = self._latest.get(call.thread)
            self._latest[call.thread] = call.shape
            self._latest.move_to_end(call.thread)
            if len(self._latest) > _MOST_GROUPS:
                self._latest.popitem(last=False)
            self._prefixes.add(call.shape)
        parted = first_divergence(before, call.shape) if before is not None else None
        with self._lock:
            self._book(call, usage, predicted, parted)

    @override
    def on_llm_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        with self._lock:
            self._open.pop(run_id, None)

    def reports(self) -> list[PrefixReport]:
        """Return what was seen, the largest input first."""
        with self._lock:
            found = [
                self._report(name, model, group) for (name, model), group in self._groups.items()
            ]
        return sorted(found, key=lambda report: -report.input_tokens)

    @property
    def divergences(self) -> Sequence[Divergence]:
        """The latest places where requests parted from the one before, and lost tokens by it."""
        with self._lock:
            return tuple(self._divergences)

    def report(self) -> str:
        """Return what was seen as text."""
        return "\n".join(map(str, self.reports())) or "no call was seen"

    def _book(self, call: _Open, usage: Usage, predicted: int, parted: Divergence | None) -> None:
        group = self._groups.setdefault((call.group, call.shape.model), _Group())
        if len(self._groups) > _MOST_GROUPS:
            self._groups.popitem(last=False)
        group.calls += 1
        group.usage += usage
        group.predicted += predicted
        group.provider = call.provider
        if group.used_at is not None:
            group.intervals.append(max(call.at - group.used_at, 0.0))
        group.used_at = call.at
        self._book_money(group, call, usage)
        if parted is not None and parted.lost_tokens >= _LEAST_LOST:
            group.reasons[parted.reason] = group.reasons.get(parted.reason, 0) + 1
            group.latest = parted
            self._divergences.append(parted)

    def _book_money(self, group: _Group, call: _Open, usage: Usage) -> None:
        try:
            price = self._prices(
                model=call.shape.model,
                provider=call.provider,
                tier=None,
                usage=usage,
                at=datetime.now(UTC),
            )
        except Exception:  # noqa: BLE001 - shown as unpriced
            price = None
        if price is None or group.saved is None or group.write_loss is None:
            group.saved = group.write_loss = None
            return
        group.saved += (price.input - price.rate("cache_read")) * usage.cache_read / _DOLLARS
        for part in ("cache_write", "cache_write_1h", "cache_write_12h"):
            extra = price.rate(part) - price.input
            group.write_loss += extra * getattr(usage, part) / _DOLLARS

    def _report(self, name: str, model: str, group: _Group) -> PrefixReport:
        rule = self._rules.find(model, provider=group.provider)
        intervals = sorted(group.intervals)
        usage = group.usage
        return PrefixReport(
            group=name,
            model=model,
            calls=group.calls,
            input_tokens=usage.input_tokens,
            predicted_tokens=group.predicted,
            read_tokens=usage.cache_read,
            written_tokens=usage.cache_write + usage.cache_write_1h + usage.cache_write_12h,
            saved=group.saved,
            write_loss=group.write_loss,
            reuse_interval_s=intervals[len(intervals) // 2] if intervals else None,
            lifetime=lifetime_advice(rule, intervals) if rule else None,
            reasons=dict(sorted(group.reasons.items(), key=lambda pair: -pair[1])),
            latest=group.latest,
        )


def _ttl(parameters: Mapping[str, Any]) -> str | None:
    for holder in ("prompt_cache_options", "cache_control"):
        options = parameters.get(holder)
        if isinstance(options, dict) and options.get("ttl"):
            return str(options["ttl"])
    retention = parameters.get("prompt_cache_retention")
    return None if retention is None else str(retention)


def _lifetime_s(rule: CacheRule | None, parameters: Mapping[str, Any]) -> float:
    if rule is None:
        return 0.0
    asked = _ttl(parameters)
    known = {lifetime.name: lifetime.seconds for lifetime in rule.lifetimes}
    return known.get(asked or "", rule.lifetimes[0].seconds)
