"""Calls as OpenTelemetry metrics and spans, with the real SDK, and over OTLP."""

import gzip
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.messages import AIMessage
from langchain_openai import ChatOpenAI
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, PeriodicExportingMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.semconv._incubating.metrics import gen_ai_metrics
from opentelemetry.trace import SpanKind

from langchain_tokenopt.accounting import CallRecord, Usage, UsageLedger
from langchain_tokenopt.accounting.telemetry import OpenTelemetryMetrics, OpenTelemetrySpans
from langchain_tokenopt.caches import CachedChatModel, MemoryCache
from langchain_tokenopt.errors import ConfigurationError
from langchain_tokenopt.testing import LoopbackServer, ScriptedModel, ServerError

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)


def record(**fields: Any) -> CallRecord:
    return CallRecord(
        **{
            "run_id": uuid4(), "started_at": NOW, "kind": "live", "model": "gpt-5-mini",
            "usage": Usage(plain_input=100, cache_read=900, output=50, reasoning=20),
            "cost": Decimal("0.01"), "latency_s": 1.5, "provider": "openai", **fields,
        }
    )  # fmt: skip


class Collected:
    """Metrics of an in-memory reader, looked up by name and attributes."""

    def __init__(self, **options: Any) -> None:
        self.reader = InMemoryMetricReader()
        self.provider = MeterProvider(metric_readers=[self.reader])
        self.listener = OpenTelemetryMetrics(provider=self.provider, **options)

    def points(self, name: str) -> list[Any]:
        data: Any = self.reader.get_metrics_data()
        return [
            point
            for resource in (data.resource_metrics if data else ())
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == name
            for point in metric.data.data_points
        ]

    def total(self, name: str, **attributes: str) -> float:
        """The sum over points that have these attributes; `_` stands for a dot."""
        wanted = {key.replace("__", "."): value for key, value in attributes.items()}
        chosen = (p for p in self.points(name) if wanted.items() <= dict(p.attributes).items())
        return float(sum(getattr(p, "sum", None) or getattr(p, "value", 0) for p in chosen))

    def names(self) -> set[str]:
        data: Any = self.reader.get_metrics_data()
        return {m.name for r in data.resource_metrics for s in r.scope_metrics for m in s.metrics}


def test_a_call_is_counted_under_the_names_of_the_conventions() -> None:
    seen = Collected()
    seen.listener(record(first_token_s=0.2, feature="faq"))

    assert seen.names() == {
        gen_ai_metrics.GEN_AI_CLIENT_TOKEN_USAGE,
        gen_ai_metrics.GEN_AI_CLIENT_OPERATION_DURATION,
        gen_ai_metrics.GEN_AI_CLIENT_OPERATION_TIME_TO_FIRST_CHUNK,
        "tokenopt.calls",
        "tokenopt.cost",
    }
    assert seen.total("gen_ai.client.token.usage", gen_ai__token__type="input") == 1_000
    assert seen.total("gen_ai.client.token.usage", gen_ai__token__type="output") == 50
    (duration,) = seen.points("gen_ai.client.operation.duration")
    assert duration.sum == 1.5
    assert duration.explicit_bounds[:3] == (0.01, 0.02, 0.04)
    assert dict(duration.attributes) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "gpt-5-mini",
        "gen_ai.response.model": "gpt-5-mini",
        "tokenopt.feature": "faq",
    }
    assert seen.total("tokenopt.cost", tokenopt__feature="faq") == 0.01


def test_the_newer_names_come_where_they_are_opted_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SEMCONV_STABILITY_OPT_IN", "http, gen_ai_latest_experimental")
    seen = Collected()
    usage = Usage(plain_input=90, cache_read=900, cache_write_1h=10, output=50, reasoning=20,
                  input_audio=7, output_audio=5)  # fmt: skip
    seen.listener(record(usage=usage))

    prefix = "gen_ai.client.inference.usage"
    assert "gen_ai.client.token.usage" not in seen.names()
    assert seen.total(f"{prefix}.input_tokens") == 1_007  # cache and reasoning are inside
    assert seen.total(f"{prefix}.input_tokens", gen_ai__token__modality="audio") == 7
    assert seen.total(f"{prefix}.output_tokens", gen_ai__token__modality="text") == 45
    assert seen.total(f"{prefix}.cache_read.input_tokens") == 900
    assert seen.total(f"{prefix}.cache_write.input_tokens") == 10
    assert seen.total(f"{prefix}.reasoning.output_tokens") == 20
    assert seen.points("gen_ai.client.inference.operation.input_tokens")[0].sum == 1_007


def test_both_kinds_of_names_can_be_had() -> None:
    seen = Collected(conventions="both")
    seen.listener(record())
    assert {"gen_ai.client.token.usage", "gen_ai.client.inference.usage.input_tokens"} <= (
        seen.names()
    )


def test_a_call_that_failed_counts_nothing_of_an_unknown_modality() -> None:
    seen = Collected(conventions="both")
    seen.listener(record(kind="error", usage=Usage(), cost=Decimal(0), error="RateLimitError"))

    (point, *_) = seen.points("gen_ai.client.inference.usage.input_tokens")
    assert (point.value, point.attributes["gen_ai.token.modality"]) == (0, "unknown")
    assert seen.points("gen_ai.client.token.usage") == []
    assert seen.points("gen_ai.client.operation.duration")[0].attributes["error.type"] == (
        "RateLimitError"
    )


def test_a_hit_of_our_cache_is_no_usage_of_a_provider() -> None:
    seen = Collected(conventions="both")
    seen.listener(record(kind="cache_hit", cost=Decimal(0), saved=Decimal("0.01"), cache="memory"))

    assert seen.names() == {"tokenopt.calls", "tokenopt.saved", "tokenopt.saved_tokens"}
    assert seen.total("tokenopt.saved_tokens", tokenopt__cache="memory") == 1_050


def test_what_is_not_known_is_counted() -> None:
    seen = Collected()
    seen.listener(record(cost=None, estimated=True))

    assert seen.total("tokenopt.calls.unpriced") == 1
    assert seen.total("tokenopt.calls.estimated") == 1
    assert "tokenopt.cost" not in seen.names()


def test_what_has_many_values_stands_on_metrics_only_when_asked_for() -> None:
    few, many = Collected(), Collected(attributes=("tenant",))
    for seen in (few, many):
        seen.listener(record(tenant="acme", feature="faq"))

    assert "tokenopt.tenant" not in few.points("tokenopt.calls")[0].attributes
    assert many.points("tokenopt.calls")[0].attributes["tokenopt.tenant"] == "acme"
    with pytest.raises(ConfigurationError, match=r"got .'user'"):
        OpenTelemetryMetrics(attributes=("user",))  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="got 'old'"):
        OpenTelemetryMetrics(conventions="old")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("langchain", "convention"),
    [
        ("azure", "azure.ai.openai"), ("google_genai", "gcp.gemini"), ("anthropic", "anthropic"),
        ("bedrock_converse", "aws.bedrock"), ("own", "own"), (None, "unknown"),
    ],
)  # fmt: skip
def test_providers_have_the_names_of_the_conventions(
    langchain: str | None, convention: str
) -> None:
    seen = Collected()
    seen.listener(record(provider=langchain))
    point = seen.points("gen_ai.client.operation.duration")[0]
    assert point.attributes["gen_ai.provider.name"] == convention


KINDS = st.sampled_from(["live", "cache_hit", "error", "abandoned", "embedding", "batch"])
TOKENS = st.integers(0, 10_000)


@settings(deadline=None, max_examples=30)
@given(calls=st.lists(st.tuples(KINDS, TOKENS, TOKENS, st.integers(0, 10**9)), max_size=20))
def test_the_metrics_add_up_to_the_ledger(calls: list[Any]) -> None:
    seen = Collected(conventions="both")
    ledger = UsageLedger(listeners=[seen.listener])
    for kind, read, written, nano in calls:
        dollars = Decimal(nano) / 10**9
        hit = kind == "cache_hit"
        output = 0 if kind == "embedding" else written
        ledger.append(
            record(
                kind=kind, usage=Usage(plain_input=read, output=output),
                cost=Decimal(0) if hit else dollars, saved=dollars if hit else Decimal(0),
            )
        )  # fmt: skip
    totals = ledger.totals()

    for name in ("gen_ai.client.token.usage", "gen_ai.client.inference.usage.{}_tokens"):
        old = name.endswith("usage")
        for kind, tokens in (("input", totals.usage.input_tokens), ("output", totals.usage.output)):
            told = {"gen_ai__token__type": kind} if old else {}
            assert seen.total(name.format(kind), **told) == tokens
    assert seen.total("tokenopt.calls") == totals.calls
    assert seen.total("tokenopt.cost") == pytest.approx(float(totals.cost))
    assert seen.total("tokenopt.saved") == pytest.approx(float(totals.saved))
    assert ledger.listener_failures == 0


# --- spans ------------------------------------------------------------------------------------


@pytest.fixture
def spans() -> Iterator[tuple[TracerProvider, InMemorySpanExporter]]:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    yield provider, exporter
    provider.shutdown()


def test_a_call_is_a_span_below_the_one_that_is_open(spans: Any) -> None:
    provider, exporter = spans
    ledger = UsageLedger(listeners=[OpenTelemetrySpans(provider=provider)])
    with LoopbackServer(["four", ServerError(status=400, message="no")]) as server:
        chat = ChatOpenAI(
            model="gpt-5-mini", base_url=server.base_url, api_key="any", max_retries=0
        )
        config: Any = {"callbacks": [ledger], "metadata": {"feature": "faq", "tenant": "acme"}}
        with provider.get_tracer("app").start_as_current_span("request") as parent:
            chat.invoke("2 + 2?", config)
            with pytest.raises(Exception, match="no"):
                chat.invoke("2 + 2?", config)

    good, bad, _ = exporter.get_finished_spans()
    assert (good.name, good.kind) == ("chat gpt-5-mini", SpanKind.CLIENT)
    assert good.parent.span_id == parent.get_span_context().span_id
    (first, failed) = ledger.records()
    assert good.start_time == round(first.started_at.timestamp() * 1e9)
    assert (good.end_time - good.start_time) / 1e9 == pytest.approx(first.latency_s, abs=1e-5)
    assert good.attributes["gen_ai.usage.input_tokens"] == first.usage.input_tokens
    assert good.attributes["tokenopt.tenant"] == "acme"
    assert not bad.status.is_ok
    assert bad.attributes["error.type"] == failed.error


def test_parts_of_the_usage_stand_on_the_span_and_a_hit_is_none(spans: Any) -> None:
    provider, exporter = spans
    listener = OpenTelemetrySpans(provider=provider)
    listener(record(usage=Usage(plain_input=1, cache_read=2, cache_write=3, output=4), tier="flex"))
    listener(record(kind="cache_hit", cost=Decimal(0), saved=Decimal("0.5"), cache="redis"))

    live, hit = exporter.get_finished_spans()
    assert live.attributes["gen_ai.usage.cache_read.input_tokens"] == 2
    assert live.attributes["gen_ai.usage.cache_creation.input_tokens"] == 3
    assert live.attributes["gen_ai.openai.response.service_tier"] == "flex"
    assert hit.kind == SpanKind.INTERNAL
    assert not [name for name in hit.attributes if name.startswith("gen_ai.usage")]
    assert hit.attributes["tokenopt.saved"] == 0.5


def test_a_cached_agent_call_end_to_end(spans: Any) -> None:
    provider, exporter = spans
    seen = Collected()
    listeners = [OpenTelemetrySpans(provider=provider), seen.listener]
    ledger = UsageLedger(listeners=listeners)
    call = {"name": "add", "args": {"a": 1}, "id": "1", "type": "tool_call"}
    upstream = ScriptedModel([AIMessage("", tool_calls=[call])], model_name="gpt-5-mini")
    model = CachedChatModel(upstream, cache=MemoryCache())
    list(model.stream("add", {"callbacks": [ledger]}))
    model.invoke("add", {"callbacks": [ledger]})

    assert [span.attributes["tokenopt.kind"] for span in exporter.get_finished_spans()] == [
        "live", "cache_hit",
    ]  # fmt: skip
    assert seen.total("tokenopt.calls", tokenopt__kind="cache_hit") == 1
    assert len(seen.points("gen_ai.client.operation.time_to_first_chunk")) == 1


# --- over the wire ----------------------------------------------------------------------------


def test_metrics_arrive_over_otlp() -> None:
    received: list[ExportMetricsServiceRequest] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            received.append(ExportMetricsServiceRequest.FromString(body))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Collector)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_address[1]}/v1/metrics"
    reader = PeriodicExportingMetricReader(
        OTLPMetricExporter(endpoint=url), export_interval_millis=60_000
    )
    provider = MeterProvider(metric_readers=[reader])
    OpenTelemetryMetrics(provider=provider)(record(started_at=NOW - timedelta(seconds=2)))
    provider.shutdown()
    server.shutdown()
    server.server_close()

    names = {
        metric.name
        for request in received
        for resource in request.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    }
    assert {"gen_ai.client.token.usage", "tokenopt.cost"} <= names


@pytest.mark.parametrize(
    ("told", "newer", "older"),
    [
        ("gen_ai_latest_experimental/dup", 1, 1),
        ("gen_ai_latest_experimental", 1, 0),
        ("http", 0, 1),
    ],
)
def test_both_names_come_where_both_are_opted_in(
    monkeypatch: pytest.MonkeyPatch, told: str, newer: int, older: int
) -> None:
    monkeypatch.setenv("OTEL_SEMCONV_STABILITY_OPT_IN", told)
    seen = Collected()
    seen.listener(record())
    names = seen.names()

    monkeypatch.setenv("OTEL_SEMCONV_STABILITY_OPT_IN", "gen_ai_latest_experimental")
    latest = Collected()
    latest.listener(record())
    monkeypatch.delenv("OTEL_SEMCONV_STABILITY_OPT_IN")
    default = Collected()
    default.listener(record())

    assert (latest.names() <= names) == bool(newer)
    assert (default.names() <= names) == bool(older)
