"""Calls as Prometheus metrics, scraped over HTTP, and the Grafana dashboard that shows them."""

import itertools
import json
import os
import re
import subprocess
import sys
import urllib.request
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import uuid4

import promql_parser
import pytest
from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.parser import text_string_to_metric_families

from langchain_tokenopt.accounting import CallRecord, Usage, UsageLedger
from langchain_tokenopt.accounting.grafana import grafana_dashboard
from langchain_tokenopt.accounting.prometheus import PrometheusMetrics
from langchain_tokenopt.cli import main
from langchain_tokenopt.errors import ConfigurationError
from langchain_tokenopt.testing import ScriptedModel

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)


def record(**fields: Any) -> CallRecord:
    return CallRecord(
        **{
            "run_id": uuid4(), "started_at": NOW, "kind": "live", "model": "gpt-5-mini",
            "usage": Usage(plain_input=100, cache_read=900, output=50, reasoning=20),
            "cost": Decimal("0.01"), "latency_s": 1.5, "provider": "openai", "feature": "faq",
            **fields,
        }
    )  # fmt: skip


def everything() -> list[CallRecord]:
    """One call of each kind, so that each metric has a value."""
    return [
        record(first_token_s=0.2, estimated=True),
        record(kind="cache_hit", cost=Decimal(0), saved=Decimal("0.02"), cache="memory"),
        record(kind="error", usage=Usage(), cost=Decimal(0), error="RateLimitError"),
        record(cost=None),
    ]


def scraped(registry: CollectorRegistry) -> dict[str, list[Any]]:
    """Samples by name, as Prometheus itself would read them."""
    server, thread = start_http_server(0, addr="127.0.0.1", registry=registry)
    url = f"http://127.0.0.1:{server.server_address[1]}/metrics"
    with urllib.request.urlopen(url) as answer:
        text = answer.read().decode()
    server.shutdown()
    server.server_close()
    thread.join()
    samples: dict[str, list[Any]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            samples.setdefault(sample.name, []).append(sample)
    return samples


def value(samples: dict[str, list[Any]], name: str, **labels: str) -> float:
    chosen = [s.value for s in samples.get(name, ()) if labels.items() <= s.labels.items()]
    return float(sum(chosen))


def test_a_scrape_shows_what_the_ledger_holds() -> None:
    registry = CollectorRegistry()
    ledger = UsageLedger(listeners=[PrometheusMetrics(registry=registry)])
    for each in everything():
        ledger.append(each)
    samples, totals = scraped(registry), ledger.totals()

    assert value(samples, "tokenopt_cost_dollars_total") == float(totals.cost)
    assert value(samples, "tokenopt_saved_dollars_total", cache="memory") == float(totals.saved)
    assert value(samples, "tokenopt_tokens_total") == totals.usage.total_tokens
    assert value(samples, "tokenopt_tokens_total", direction="input", part="cache_read") == 1_800
    assert value(samples, "tokenopt_tokens_total", direction="output", part="reasoning") == 40
    assert value(samples, "tokenopt_saved_tokens_total") == totals.cached_usage.total_tokens
    assert value(samples, "tokenopt_calls_total", kind="cache_hit", feature="faq") == 1
    assert value(samples, "tokenopt_errors_total", error="RateLimitError") == 1
    assert value(samples, "tokenopt_unpriced_calls_total") == 1
    assert value(samples, "tokenopt_estimated_calls_total") == 1
    assert value(samples, "tokenopt_latency_seconds_count") == 3
    assert value(samples, "tokenopt_first_token_seconds_sum") == 0.2
    assert ledger.listener_failures == 0


def test_real_calls_are_counted() -> None:
    registry = CollectorRegistry()
    ledger = UsageLedger(listeners=[PrometheusMetrics(registry=registry)])
    model = ScriptedModel(["four"], model_name="gpt-5-mini", provider="openai")
    model.invoke("2 + 2?", {"callbacks": [ledger], "metadata": {"feature": "sums"}})

    samples = scraped(registry)
    assert value(samples, "tokenopt_calls_total", feature="sums", model="gpt-5-mini") == 1


def test_too_many_values_are_counted_together_and_that_is_seen() -> None:
    registry = CollectorRegistry()
    listener = PrometheusMetrics(registry=registry, labels=("tenant",), max_label_sets=3)
    for n in range(10):
        listener(record(tenant=f"t{n}"))
    listener(record(tenant="t1"))

    samples = scraped(registry)
    assert {s.labels["tenant"] for s in samples["tokenopt_calls_total"]} == {
        "t0", "t1", "t2", "other",
    }  # fmt: skip
    assert value(samples, "tokenopt_calls_total", tenant="other") == 7
    assert value(samples, "tokenopt_calls_total", tenant="t1") == 2
    assert value(samples, "tokenopt_label_overflow_total") == 7


def test_wrong_labels_and_a_second_set_of_metrics_are_refused() -> None:
    registry = CollectorRegistry()
    PrometheusMetrics(registry=registry)
    with pytest.raises(ConfigurationError, match="a registry for each"):
        PrometheusMetrics(registry=registry)
    with pytest.raises(ConfigurationError, match=r"got .'user'"):
        PrometheusMetrics(registry=CollectorRegistry(), labels=("user",))  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="at least 1, got 0"):
        PrometheusMetrics(registry=CollectorRegistry(), max_label_sets=0)


SCRIPT = """
import sys
from decimal import Decimal
from datetime import datetime, UTC
from uuid import uuid4
from langchain_tokenopt.accounting import CallRecord, Usage
from langchain_tokenopt.accounting.prometheus import PrometheusMetrics
from prometheus_client import CollectorRegistry, generate_latest, multiprocess
if sys.argv[1] == "count":
    PrometheusMetrics()(CallRecord(
        run_id=uuid4(), started_at=datetime.now(UTC), kind="live", model="m",
        usage=Usage(plain_input=5), cost=Decimal(1), latency_s=1.0))
else:
    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry)
    print(generate_latest(registry).decode())
"""


def test_processes_are_added_up_in_multiprocess_mode(tmp_path: Path) -> None:
    env = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}

    def run(what: str) -> str:
        command = [sys.executable, "-c", SCRIPT, what]
        return subprocess.run(command, env=env, check=True, capture_output=True, text=True).stdout

    run("count")
    run("count")
    text = run("show")
    assert re.search(r'tokenopt_cost_dollars_total\{.*model="m".*\} 2\.0', text)


# --- Grafana ----------------------------------------------------------------------------------


def selectors(node: Any) -> list[Any]:
    """Every vector selector of a parsed expression."""
    if isinstance(node, promql_parser.VectorSelector):
        return [node]
    parts = [getattr(node, name, None) for name in ("lhs", "rhs", "expr", "vector_selector")]
    parts += list(getattr(node, "args", None) or ())
    return list(itertools.chain.from_iterable(selectors(p) for p in parts if p is not None))


def test_every_expression_of_the_dashboard_reads_what_is_exposed() -> None:
    registry = CollectorRegistry()
    listener = PrometheusMetrics(registry=registry)
    for each in everything():
        listener(each)
    exposed = {
        name: set().union(*(sample.labels for sample in samples))
        for name, samples in scraped(registry).items()
    }
    dashboard = grafana_dashboard()
    expressions = [t["expr"] for panel in dashboard["panels"] for t in panel["targets"]]
    seen = set()
    for expression in expressions:
        parsed = promql_parser.parse(
            expression.replace("$__rate_interval", "5m").replace("$feature", ".*")
        )
        found = selectors(parsed)
        assert found, expression
        for selector in found:
            assert selector.name in exposed, expression
            labels = {matcher.name for matcher in selector.matchers.matchers}
            assert labels <= exposed[selector.name], expression
            seen.add(selector.name)
    assert len(expressions) >= 20
    assert {name for name in exposed if name.endswith("_total")} - seen == {
        "tokenopt_saved_tokens_total"
    }


def test_panels_do_not_overlap_and_name_no_data_source_of_their_own() -> None:
    dashboard = grafana_dashboard()
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        cells = set(
            itertools.product(
                range(place["x"], place["x"] + place["w"]),
                range(place["y"], place["y"] + place["h"]),
            )
        )
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells
        assert panel["datasource"]["uid"] == "${datasource}"
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])


def test_the_command_writes_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["grafana"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert main(["grafana", "--output", str(tmp_path / "d.json")]) == 0
    assert json.loads((tmp_path / "d.json").read_text()) == printed == grafana_dashboard()
    assert main(["grafana", "--output", str(tmp_path / "none" / "d.json")]) == 2


def test_a_hit_whose_saving_is_unknown_counts_its_tokens_alone() -> None:
    registry = CollectorRegistry()
    metrics = PrometheusMetrics(registry=registry)
    metrics(record(kind="cache_hit", cost=Decimal(0), saved=None, cache="memory"))

    samples = scraped(registry)
    tokens = [s.value for name, found in samples.items() if "saved_tokens" in name for s in found]
    money = [s.value for name, found in samples.items() if "saved_dollars" in name for s in found]
    assert 1_050 in tokens
    assert not any(money)
