"""A Grafana dashboard for the metrics of `PrometheusMetrics`, ready to import."""

from collections.abc import Sequence
from typing import Any

_WIDTH, _HEIGHT = 24, 8
_OVERFLOW = "tokenopt_label_overflow_total"
_FEATURE = 'feature=~"$feature",model=~"$model"'


def grafana_dashboard(*, title: str = "LLM spend and savings") -> dict[str, Any]:
    """Return the dashboard as JSON values, for Grafana 10 or later.

    It asks for the data source when it is imported, and has variables for feature and model. Print
    it with `tokenopt grafana`.
    """
    rows = (
        (
            _stat("Spend, last 24 hours", _increase("cost_dollars", "24h"), unit="currencyUSD"),
            _stat("Saved, last 24 hours", _increase("saved_dollars", "24h"), unit="currencyUSD"),
            _stat("Response cache hits", _hit_share("1h"), unit="percentunit"),
            _stat("Provider cache, share of input", _cached_share("1h"), unit="percentunit"),
            _stat("Unpriced calls, 24 hours", _increase("unpriced_calls", "24h"), unit="short"),
            _stat("Errors", _error_share("1h"), unit="percentunit"),
        ),
        (
            _series("Spend by feature", [(_rate("cost_dollars", "feature"), "{{feature}}")]),
            _series("Spend by model", [(_rate("cost_dollars", "model"), "{{model}}")]),
        ),
        (
            _series(
                "Spend and savings",
                [(_rate("cost_dollars"), "spent"), (_rate("saved_dollars"), "saved")],
            ),
            _series("Calls by kind", [(_per_s("calls", "kind"), "{{kind}}")], unit="reqps"),
        ),
        (
            _series(
                "Tokens by part",
                [(_per_s("tokens", "direction, part"), "{{direction}} {{part}}")],
                unit="short",
            ),
            _series(
                "Caches",
                [
                    (_hit_share("$__rate_interval"), "response cache, share of calls"),
                    (_cached_share("$__rate_interval"), "provider cache, share of input"),
                ],
                unit="percentunit",
            ),
        ),
        (
            _series("Latency", _quantiles("latency_seconds"), unit="s"),
            _series("Time to first token", _quantiles("first_token_seconds"), unit="s"),
        ),
        (
            _series("Errors by kind", [(_per_s("errors", "error"), "{{error}}")], unit="reqps"),
            _series(
                "What is not known",
                [
                    (_per_s("unpriced_calls"), "unpriced"),
                    (_per_s("estimated_calls"), "estimated"),
                    (
                        "sum(rate(tokenopt_label_overflow_total[$__rate_interval]))",
                        "label overflow",
                    ),
                ],
                unit="reqps",
            ),
        ),
    )
    return {
        "__inputs": [
            {
                "name": "DS_PROMETHEUS",
                "label": "Prometheus",
                "type": "datasource",
                "pluginId": "prometheus",
                "pluginName": "Prometheus",
            }
        ],
        "uid": "langchain-tokenopt",
        "title": title,
        "tags": ["llm", "langchain"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "refresh": "1m",
        "time": {"from": "now-24h", "to": "now"},
        "timezone": "browser",
        "templating": {"list": [_source(), _variable("feature"), _variable("model")]},
        "panels": _placed(rows),
    }


def _source() -> dict[str, Any]:
    return {
        "name": "datasource",
        "type": "datasource",
        "query": "prometheus",
        "current": {"text": "${DS_PROMETHEUS}", "value": "${DS_PROMETHEUS}"},
    }


def _variable(label: str) -> dict[str, Any]:
    query = f"label_values(tokenopt_calls_total, {label})"
    return {
        "name": label,
        "type": "query",
        "datasource": {"type": "prometheus", "uid": "${datasource}"},
        "definition": query,
        "query": {"query": query, "refId": label},
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": ["All"], "value": ["$__all"]},
    }


def _placed(rows: Sequence[Sequence[dict[str, Any]]]) -> list[dict[str, Any]]:
    panels: list[dict[str, Any]] = []
    y = 0
    for row in rows:
        width = _WIDTH // len(row)
        height = 4 if row[0]["type"] == "stat" else _HEIGHT
        for n, panel in enumerate(row):
            place = {"x": n * width, "y": y, "w": width, "h": height}
            panels.append({**panel, "id": len(panels) + 1, "gridPos": place})
        y += height
    return panels


def _stat(title: str, expression: str, *, unit: str) -> dict[str, Any]:
    return {
        **_panel("stat", title, [(expression, title)], unit=unit),
        "options": {
            "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
            "colorMode": "value",
            "graphMode": "area",
        },
    }


def _series(
    title: str, queries: Sequence[tuple[str, str]], *, unit: str = "currencyUSD"
) -> dict[str, Any]:
    described = "Dollars an hour." if unit == "currencyUSD" else ""
    return {
        **_panel("timeseries", title, queries, unit=unit),
        "description": described,
        "options": {
            "legend": {"displayMode": "table", "placement": "bottom", "calcs": ["lastNotNull"]},
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
    }


def _panel(
    kind: str, title: str, queries: Sequence[tuple[str, str]], *, unit: str
) -> dict[str, Any]:
    source = {"type": "prometheus", "uid": "${datasource}"}
    return {
        "type": kind,
        "title": title,
        "datasource": source,
        "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
        "targets": [
            {"refId": chr(ord("A") + n), "datasource": source, "expr": query, "legendFormat": name}
            for n, (query, name) in enumerate(queries)
        ],
    }


def _increase(name: str, window: str) -> str:
    return f"sum(increase(tokenopt_{name}_total{{{_FEATURE}}}[{window}]))"


def _rate(name: str, by: str = "") -> str:
    return f"3600 * {_per_s(name, by)}"


def _per_s(name: str, by: str = "") -> str:
    grouped = f" by ({by})" if by else ""
    return f"sum{grouped} (rate(tokenopt_{name}_total{{{_FEATURE}}}[$__rate_interval]))"


def _hit_share(window: str) -> str:
    calls = f"tokenopt_calls_total{{{_FEATURE}"
    hits = f'sum(rate({calls},kind="cache_hit"}}[{window}]))'
    return f"{hits} / sum(rate({calls}}}[{window}]))"


def _error_share(window: str) -> str:
    calls = f"tokenopt_calls_total{{{_FEATURE}"
    return f'sum(rate({calls},kind="error"}}[{window}])) / sum(rate({calls}}}[{window}]))'


def _cached_share(window: str) -> str:
    tokens = f'tokenopt_tokens_total{{{_FEATURE},direction="input"'
    return f'sum(rate({tokens},part="cache_read"}}[{window}])) / sum(rate({tokens}}}[{window}]))'


def _quantiles(name: str) -> list[tuple[str, str]]:
    buckets = f"sum by (le) (rate(tokenopt_{name}_bucket{{{_FEATURE}}}[$__rate_interval]))"
    return [
        (f"histogram_quantile({share}, {buckets})", label)
        for share, label in ((0.5, "p50"), (0.95, "p95"), (0.99, "p99"))
    ]
