"""Calls as Prometheus metrics. Needs the extra `prometheus`; `grafana.py` has a dashboard for them.

Works in prometheus_client's multiprocess mode as well, for only counters and histograms are used.
"""

import threading
from collections.abc import Sequence
from typing import Literal, get_args

from langchain_tokenopt.accounting.records import CallRecord
from langchain_tokenopt.errors import ConfigurationError, MissingExtraError

try:
    from prometheus_client import REGISTRY, CollectorRegistry, Counter, Histogram
except ImportError as error:
    raise MissingExtraError(package="prometheus-client", extra="prometheus") from error

Label = Literal["feature", "model", "provider", "endpoint", "tenant", "node"]

OTHER = "other"
_LATENCY = (0.05, 0.1, 0.25, 0.5, 1, 2, 4, 8, 15, 30, 60, 120, 300)
_FIRST_TOKEN = (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 3, 5, 10, 20)


class PrometheusMetrics:
    """A ledger's listener that counts each call: `UsageLedger(listeners=[PrometheusMetrics()])`.

    Args:
        registry: Where the metrics are registered, once in each registry.
        labels: What tells calls apart. Every combination of values is a time series of its own, so
            name `tenant` only where tenants are few.
        max_label_sets: Further combinations are counted under `other`, and in
            `tokenopt_label_overflow_total`.

    Raises:
        ConfigurationError: A label is not known, or the registry has these metrics already.
    """

    def __init__(
        self,
        *,
        registry: CollectorRegistry = REGISTRY,
        labels: Sequence[Label] = ("feature", "model", "provider"),
        max_label_sets: int = 1_000,
    ) -> None:
        unknown = set(labels) - set(get_args(Label))
        if unknown or isinstance(labels, str):
            message = f"labels are of {', '.join(get_args(Label))}, got {labels!r}"
            raise ConfigurationError(message)
        if max_label_sets < 1:
            raise ConfigurationError(f"max_label_sets must be at least 1, got {max_label_sets}")
        self._labels = tuple(labels)
        self._most = max_label_sets
        self._lock = threading.Lock()
        self._known: set[tuple[str, ...]] = set()

        def counter(name: str, told: str, *more: str) -> Counter:
            return Counter(f"tokenopt_{name}", told, (*self._labels, *more), registry=registry)

        def histogram(name: str, told: str, buckets: Sequence[float]) -> Histogram:
            return Histogram(
                f"tokenopt_{name}", told, self._labels, buckets=buckets, registry=registry
            )

        try:
            self._calls = counter("calls", "Calls.", "kind")
            self._errors = counter("errors", "Calls that failed.", "error")
            self._tokens = counter(
                "tokens",
                "Tokens that providers bill, in parts that do not overlap.",
                "direction",
                "part",
            )
            self._cost = counter("cost_dollars", "Dollars that priced calls cost.")
            self._saved = counter("saved_dollars", "Dollars that response caches saved.", "cache")
            self._saved_tokens = counter(
                "saved_tokens", "Tokens that response caches served.", "cache"
            )
            self._unpriced = counter("unpriced_calls", "Calls whose price is not known.")
            self._estimated = counter("estimated_calls", "Calls whose usage was estimated.")
            self._latency = histogram("latency_seconds", "Time of an answered call.", _LATENCY)
            self._first = histogram(
                "first_token_seconds", "Time to the first streamed token.", _FIRST_TOKEN
            )
            self._overflow = Counter(
                "tokenopt_label_overflow",
                "Calls counted under other labels, because there were too many.",
                registry=registry,
            )
        except ValueError as error:
            message = (
                f"the registry has metrics of these names: {error}. Use one PrometheusMetrics "
                "for all ledgers of a process, or a registry for each"
            )
            raise ConfigurationError(message) from error

    def __call__(self, record: CallRecord) -> None:
        """Count one call."""
        told = self._told(record)
        self._calls.labels(*told, record.kind).inc()
        if record.cost is None or record.saved is None:
            self._unpriced.labels(*told).inc()
        if record.estimated:
            self._estimated.labels(*told).inc()
        if record.kind == "error":
            self._errors.labels(*told, record.error or "unknown").inc()
        if record.kind in ("live", "cache_hit", "embedding"):
            self._latency.labels(*told).observe(record.latency_s)
        if record.first_token_s is not None:
            self._first.labels(*told).observe(record.first_token_s)
        if record.kind == "cache_hit":
            cache = record.cache or "unknown"
            self._saved_tokens.labels(*told, cache).inc(record.usage.total_tokens)
            if record.saved is not None:
                self._saved.labels(*told, cache).inc(float(record.saved))
            return
        if record.cost is not None:
            self._cost.labels(*told).inc(float(record.cost))
        usage = record.usage
        for direction, part, tokens in (
            ("input", "plain", usage.plain_input),
            ("input", "cache_read", usage.cache_read),
            (
                "input",
                "cache_write",
                usage.cache_write + usage.cache_write_1h + usage.cache_write_12h,
            ),
            ("input", "audio", usage.input_audio),
            ("output", "reasoning", usage.reasoning),
            ("output", "answer", usage.output - usage.reasoning),
        ):
            if tokens:
                self._tokens.labels(*told, direction, part).inc(tokens)

    def _told(self, record: CallRecord) -> tuple[str, ...]:
        told = tuple(str(getattr(record, label) or "") for label in self._labels)
        with self._lock:
            if told in self._known:
                return told
            if len(self._known) < self._most:
                self._known.add(told)
                return told
        self._overflow.inc()
        return (OTHER,) * len(self._labels)
