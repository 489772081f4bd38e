"""Calls as OpenTelemetry metrics and spans, by the semantic conventions for generative AI.

Needs the extra `otel`. Names and buckets are those of the conventions ("Development"), see
https://github.com/open-telemetry/semantic-conventions-genai; money and savings, for which there is
no convention, stand under `tokenopt.`.
"""

import os
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, Literal, get_args

from langchain_tokenopt._version import __version__
from langchain_tokenopt.accounting.records import CallRecord
from langchain_tokenopt.errors import ConfigurationError, MissingExtraError

try:
    from opentelemetry import metrics, trace
    from opentelemetry.trace import SpanKind, Status, StatusCode
except ImportError as error:
    raise MissingExtraError(package="opentelemetry-api", extra="otel") from error

Attribute = Literal["feature", "endpoint", "tenant", "node"]
Conventions = Literal["default", "latest", "both"]

_SCOPE = "langchain_tokenopt"
_OPT_IN = "OTEL_SEMCONV_STABILITY_OPT_IN"
_TOKENS = [4**n for n in range(14)]
_SECONDS = [0.01 * 2**n for n in range(14)]
_FIRST_CHUNK = [
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
]  # fmt: skip
# LangChain's provider names, where the conventions have another.
_PROVIDERS = {
    "amazon_bedrock": "aws.bedrock",
    "anthropic_bedrock": "aws.bedrock",
    "azure": "azure.ai.openai",
    "azure_openai": "azure.ai.openai",
    "bedrock": "aws.bedrock",
    "bedrock_converse": "aws.bedrock",
    "google_genai": "gcp.gemini",
    "google_vertexai": "gcp.vertex_ai",
    "mistralai": "mistral_ai",
    "ibm": "ibm.watsonx.ai",
    "xai": "x_ai",
}


class OpenTelemetryMetrics:
    """A ledger's listener that counts each call: `UsageLedger(listeners=[OpenTelemetryMetrics()])`.

    Tokens are those that a provider bills: hits of a response cache are only in `tokenopt.*`.

    Args:
        provider: The meter provider; by default the global one.
        attributes: What of a call's metadata stands on the metrics, as `tokenopt.feature` and so
            on. Every value makes a time series: leave out what has many.
        conventions: `"default"` for `gen_ai.client.token.usage` and its like, `"latest"` for the
            newer `gen_ai.client.inference.*`, or both. By default what
            `OTEL_SEMCONV_STABILITY_OPT_IN` says when this is made.

    Raises:
        ConfigurationError: An attribute or the conventions are not known.
    """

    def __init__(
        self,
        *,
        provider: metrics.MeterProvider | None = None,
        attributes: Sequence[Attribute] = ("feature",),
        conventions: Conventions | None = None,
    ) -> None:
        self._attributes = _checked(attributes)
        chosen = conventions or _opted_in()
        if chosen not in get_args(Conventions):
            known = ", ".join(get_args(Conventions))
            raise ConfigurationError(f"conventions must be one of {known}, got {chosen!r}")
        meter = metrics.get_meter(_SCOPE, __version__, meter_provider=provider)
        self._duration = meter.create_histogram(
            "gen_ai.client.operation.duration",
            unit="s",
            description="GenAI operation duration.",
            explicit_bucket_boundaries_advisory=_SECONDS,
        )
        self._first_chunk = meter.create_histogram(
            "gen_ai.client.operation.time_to_first_chunk",
            unit="s",
            description="Time to receive the first chunk.",
            explicit_bucket_boundaries_advisory=_FIRST_CHUNK,
        )
        self._usage = None if chosen == "latest" else _token_usage(meter)
        self._inference = None if chosen == "default" else _Inference(meter)
        self._own = _Own(meter)

    def __call__(self, record: CallRecord) -> None:
        """Count one call."""
        own = _metadata(record, self._attributes)
        self._own.count(record, own)
        if record.kind == "cache_hit":
            return  # no provider was called
        told = {**_call(record), **own}
        if record.kind != "batch":  # it waits for hours, which is no latency of a request
            self._duration.record(record.latency_s, told)
        if record.first_token_s is not None:
            self._first_chunk.record(record.first_token_s, told)
        if self._usage is not None and record.usage.total_tokens:
            kinds = {"input": record.usage.input_tokens}
            if record.kind != "embedding":
                kinds["output"] = record.usage.output
            for kind, tokens in kinds.items():
                self._usage.record(tokens, {**told, "gen_ai.token.type": kind})
        if self._inference is not None:
            self._inference.count(record, told)


class OpenTelemetrySpans:
    """A ledger's listener that makes a span of each call, below the span that is open.

    For an application that has no other instrumentation of its models: two would make two spans. A
    hit of a response cache gets an internal span, for no provider was called.

    Args:
        provider: The tracer provider; by default the global one.
    """

    def __init__(self, *, provider: trace.TracerProvider | None = None) -> None:
        self._tracer = trace.get_tracer(_SCOPE, __version__, tracer_provider=provider)

    def __call__(self, record: CallRecord) -> None:
        """Make the span of one call."""
        ended = record.started_at + timedelta(seconds=record.latency_s)
        hit = record.kind == "cache_hit"
        span = self._tracer.start_span(
            f"{_operation(record)} {record.model_asked or record.model}",
            kind=SpanKind.INTERNAL if hit else SpanKind.CLIENT,
            start_time=round(record.started_at.timestamp() * 1e9),
            attributes={**_call(record), **_span(record)},
        )
        if record.error is not None:
            span.set_status(Status(StatusCode.ERROR, record.error))
        span.end(end_time=round(ended.timestamp() * 1e9))


class _Inference:
    """The newer metrics: totals as counters, subsets apart, one operation as a histogram."""

    def __init__(self, meter: metrics.Meter) -> None:
        self._counters = {
            name: meter.create_counter(f"gen_ai.client.inference.usage.{name}", unit="{token}")
            for name in (
                "input_tokens", "output_tokens", "cache_read.input_tokens",
                "cache_write.input_tokens", "reasoning.output_tokens",
            )
        }  # fmt: skip
        self._histograms = {
            name: meter.create_histogram(
                f"gen_ai.client.inference.operation.{name}",
                unit="{token}",
                explicit_bucket_boundaries_advisory=_TOKENS,
            )
            for name in ("input_tokens", "output_tokens")
        }

    def count(self, record: CallRecord, told: Mapping[str, Any]) -> None:
        """Count one call; one that failed without usage counts 0 of an unknown modality."""
        usage = record.usage
        if record.kind == "error" and not usage.total_tokens:
            unknown = {**told, "gen_ai.token.modality": "unknown"}
            for name in ("input_tokens", "output_tokens"):
                self._counters[name].add(0, unknown)
            return
        written = usage.cache_write + usage.cache_write_1h + usage.cache_write_12h
        counts = (
            ("input_tokens", "text", usage.input_tokens - usage.input_audio),
            ("input_tokens", "audio", usage.input_audio),
            ("output_tokens", "text", usage.output - usage.output_audio),
            ("output_tokens", "audio", usage.output_audio),
            # Shares of the above, not additions to it.
            ("cache_read.input_tokens", "text", usage.cache_read),
            ("cache_write.input_tokens", "text", written),
            ("reasoning.output_tokens", "text", usage.reasoning),
        )
        for name, modality, tokens in counts:
            if tokens:
                self._counters[name].add(tokens, {**told, "gen_ai.token.modality": modality})
        self._histograms["input_tokens"].record(usage.input_tokens, told)
        if record.kind != "embedding":
            self._histograms["output_tokens"].record(usage.output, told)


class _Own:
    """What no convention has: money, savings, and what is not known."""

    def __init__(self, meter: metrics.Meter) -> None:
        def counter(name: str, unit: str, description: str) -> metrics.Counter:
            return meter.create_counter(f"tokenopt.{name}", unit=unit, description=description)

        self._calls = counter("calls", "{call}", "Calls by kind.")
        self._cost = counter("cost", "{USD}", "Dollars that priced calls cost.")
        self._saved = counter("saved", "{USD}", "Dollars that response caches saved.")
        self._saved_tokens = counter(
            "saved_tokens", "{token}", "Tokens that response caches served instead of a provider."
        )
        self._unpriced = counter("calls.unpriced", "{call}", "Calls whose price is not known.")
        self._estimated = counter("calls.estimated", "{call}", "Calls whose usage was estimated.")

    def count(self, record: CallRecord, own: Mapping[str, Any]) -> None:
        """Count one call."""
        told = {**own, "gen_ai.response.model": record.model}
        kind = {**told, "tokenopt.kind": record.kind}
        if record.cache is not None:
            kind["tokenopt.cache"] = record.cache
        self._calls.add(1, kind)
        if record.kind == "cache_hit":
            self._saved_tokens.add(record.usage.total_tokens, kind)
            if record.saved is not None:
                self._saved.add(float(record.saved), kind)
        elif record.cost:
            self._cost.add(float(record.cost), told)
        if record.cost is None or record.saved is None:
            self._unpriced.add(1, told)
        if record.estimated:
            self._estimated.add(1, told)


def _token_usage(meter: metrics.Meter) -> metrics.Histogram:
    return meter.create_histogram(
        "gen_ai.client.token.usage",
        unit="{token}",
        description="Number of input and output tokens used.",
        explicit_bucket_boundaries_advisory=_TOKENS,
    )


def _operation(record: CallRecord) -> str:
    return "embeddings" if record.kind == "embedding" else "chat"


def _call(record: CallRecord) -> dict[str, Any]:
    told = {
        "gen_ai.operation.name": _operation(record),
        "gen_ai.provider.name": _PROVIDERS.get(record.provider or "", record.provider) or "unknown",
        "gen_ai.request.model": record.model_asked or record.model,
        "gen_ai.response.model": record.model,
    }
    if record.error is not None:
        told["error.type"] = record.error
    return told


def _metadata(record: CallRecord, attributes: Sequence[Attribute]) -> dict[str, Any]:
    told = ((name, getattr(record, name)) for name in attributes)
    return {f"tokenopt.{name}": value for name, value in told if value is not None}


def _span(record: CallRecord) -> dict[str, Any]:
    usage = record.usage
    written = usage.cache_write + usage.cache_write_1h + usage.cache_write_12h
    told: dict[str, Any] = {
        **_metadata(record, get_args(Attribute)),
        "tokenopt.kind": record.kind,
        "tokenopt.estimated": record.estimated,
        "gen_ai.usage.input_tokens": usage.input_tokens,
        "gen_ai.usage.output_tokens": usage.output,
        "gen_ai.usage.cache_read.input_tokens": usage.cache_read,
        "gen_ai.usage.cache_creation.input_tokens": written,
        "gen_ai.usage.reasoning.output_tokens": usage.reasoning,
    }
    if record.kind == "cache_hit":
        # What was not sent must not look like usage to whoever sums spans.
        told = {name: value for name, value in told.items() if not name.startswith("gen_ai.")}
        told["tokenopt.cache"] = record.cache or "unknown"
        told["tokenopt.saved_tokens"] = usage.total_tokens
    if record.tier is not None:
        told["gen_ai.openai.response.service_tier"] = record.tier
    if record.first_token_s is not None:
        told["gen_ai.response.time_to_first_chunk"] = record.first_token_s
    for name, amount in (("cost", record.cost), ("saved", record.saved)):
        if amount is not None:
            told[f"tokenopt.{name}"] = float(amount)
    return told


def _checked(attributes: Sequence[Attribute]) -> tuple[Attribute, ...]:
    unknown = set(attributes) - set(get_args(Attribute))
    if unknown or isinstance(attributes, str):
        message = f"attributes are of {', '.join(get_args(Attribute))}, got {attributes!r}"
        raise ConfigurationError(message)
    return tuple(attributes)


def _opted_in() -> Conventions:
    chosen = {each.strip() for each in os.environ.get(_OPT_IN, "").split(",")}
    if "gen_ai_latest_experimental/dup" in chosen:
        return "both"
    return "latest" if "gen_ai_latest_experimental" in chosen else "default"
