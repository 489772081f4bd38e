"""The dashboard's charts, drawn from the views' rows."""

from collections.abc import Callable, Sequence
from typing import Any

import altair as alt

from langchain_tokenopt.dashboard.prompt_cache import PromptCachePoint
from langchain_tokenopt.dashboard.views import (
    OTHERS,
    CachePoint,
    LatencyPoint,
    SpendPoint,
    Step,
)

COLOURS = (
    "#2f6fed", "#0f9d6e", "#e08a1e", "#7a3ff2", "#d6336c", "#13a3b8", "#8a6d3b", "#8a94a6",
)  # fmt: skip
_HEIGHT = 300
_UNITS: dict[Step, Any] = {"hour": "utcyearmonthdatehours", "day": "utcyearmonthdate"}
_SHOWN = {"hour": "%b %d, %H:00 UTC", "day": "%a, %b %d %Y"}


def spend_chart(points: Sequence[SpendPoint], *, money: str, step: Step) -> Any:
    """Return stacked bars of `money` ("cost" or "saved") by time and group."""
    sizes: dict[str, float] = {}
    for point in points:
        # By both, so that a group has the same colour in both charts.
        sizes[point.group] = sizes.get(point.group, 0.0) + float(point.cost + point.saved)
    groups = sorted(sizes, key=lambda name: (name == OTHERS, -sizes[name], name))
    rows = [
        {"at": _at(p.at), "group": p.group, "amount": float(getattr(p, money)), "calls": p.calls}
        for p in points
    ]
    order = {name: n for n, name in enumerate(groups)}
    for row in rows:
        row["order"] = order[str(row["group"])]
    top = _highest(rows, "amount")
    return (
        _chart(rows)
        .mark_bar()
        .encode(
            x=_time(step),
            y=alt.Y("sum(amount):Q", title="dollars", axis=alt.Axis(format=_dollars(top))),
            color=alt.Color(
                "group:N",
                title=None,
                sort=groups,
                scale=alt.Scale(domain=groups, range=list(COLOURS[: len(groups)])),
                legend=alt.Legend(orient="bottom", columns=4, labelLimit=220, symbolType="square"),
            ),
            order=alt.Order("order:Q"),
            tooltip=[
                _time_tip(step),
                alt.Tooltip("group:N", title="group"),
                alt.Tooltip("amount:Q", title=money, format="$,.4f"),
                alt.Tooltip("calls:Q", title="calls", format=","),
            ],
        )
    )


def hit_chart(points: Sequence[CachePoint], *, step: Step) -> Any:
    """Return the share of calls that a response cache answered."""
    rows = [
        {"at": _at(p.at), "share": p.hit_share, "hits": p.hits, "calls": p.calls} for p in points
    ]
    return _share(
        rows, step, title="hits of all calls", colour=COLOURS[1], counts=["hits", "calls"]
    )


def saved_chart(points: Sequence[CachePoint], *, step: Step) -> Any:
    """Return bars of what response caches saved."""
    rows = [{"at": _at(p.at), "saved": float(p.saved), "hits": p.hits} for p in points]
    return (
        _chart(rows)
        .mark_bar(color=COLOURS[1])
        .encode(
            x=_time(step),
            y=alt.Y(
                "saved:Q",
                title="dollars saved",
                axis=alt.Axis(format=_dollars(_highest(rows, "saved"))),
            ),
            tooltip=[
                _time_tip(step),
                alt.Tooltip("saved:Q", format="$,.4f"),
                alt.Tooltip("hits:Q", format=","),
            ],
        )
    )


def latency_chart(points: Sequence[LatencyPoint], *, step: Step) -> Any:
    """Return the median and the 95th percentile of the calls that were sent."""
    rows = [
        {"at": _at(p.at), "seconds": value, "percentile": name}
        for p in points
        for name, value in (("p50", p.latency_p50_s), ("p95", p.latency_p95_s))
        if value is not None
    ]
    return (
        _chart(rows)
        .mark_line(point=alt.OverlayMarkDef(size=28))
        .encode(
            x=_time(step),
            y=alt.Y("seconds:Q", title="seconds", scale=alt.Scale(zero=True)),
            color=alt.Color(
                "percentile:N",
                title=None,
                scale=alt.Scale(domain=["p50", "p95"], range=[COLOURS[0], COLOURS[2]]),
                legend=alt.Legend(orient="bottom"),
            ),
            tooltip=[
                _time_tip(step),
                alt.Tooltip("percentile:N"),
                alt.Tooltip("seconds:Q", format=",.3f"),
            ],
        )
    )


def error_chart(points: Sequence[LatencyPoint], *, step: Step) -> Any:
    """Return bars of failed and abandoned calls."""
    rows = [
        {"at": _at(p.at), "count": count, "what": what, "calls": p.calls}
        for p in points
        for what, count in (("errors", p.errors), ("abandoned", p.abandoned))
    ]
    return (
        _chart(rows)
        .mark_bar()
        .encode(
            x=_time(step),
            y=alt.Y("sum(count):Q", title="calls", axis=alt.Axis(tickMinStep=1, format=",d")),
            color=alt.Color(
                "what:N",
                title=None,
                scale=alt.Scale(domain=["errors", "abandoned"], range=["#c92a2a", "#8a94a6"]),
                legend=alt.Legend(orient="bottom"),
            ),
            tooltip=[
                _time_tip(step),
                alt.Tooltip("what:N", title="what"),
                alt.Tooltip("count:Q", format=","),
                alt.Tooltip("calls:Q", title="of calls sent", format=","),
            ],
        )
    )


def cached_share_chart(points: Sequence[PromptCachePoint], *, step: Step) -> Any:
    """Return the share of input that was read from the provider's prompt cache."""
    rows = [{"at": _at(p.at), "share": p.cached_share, "read": p.read} for p in points]
    return _share(rows, step, title="cached share of input", colour=COLOURS[0], counts=["read"])


def input_chart(points: Sequence[PromptCachePoint], *, step: Step) -> Any:
    """Return stacked bars of input tokens: read from the cache, written to it, neither."""
    parts: tuple[tuple[str, Callable[[PromptCachePoint], int]], ...] = (
        ("read from the cache", lambda p: p.read),
        ("written to it", lambda p: p.written),
        ("neither", lambda p: p.other),
    )
    names = [name for name, _ in parts]
    rows = [
        {"at": _at(p.at), "tokens": value(p), "part": name, "order": n}
        for p in points
        for n, (name, value) in enumerate(parts)
    ]
    return (
        _chart(rows)
        .mark_bar()
        .encode(
            x=_time(step),
            y=alt.Y("sum(tokens):Q", title="input tokens", axis=alt.Axis(format="~s")),
            color=alt.Color(
                "part:N",
                title=None,
                scale=alt.Scale(domain=names, range=[COLOURS[0], COLOURS[2], "#c9d1dd"]),
                legend=alt.Legend(orient="bottom", labelLimit=220),
            ),
            order=alt.Order("order:Q"),
            tooltip=[
                _time_tip(step),
                alt.Tooltip("part:N"),
                alt.Tooltip("tokens:Q", format=","),
            ],
        )
    )


def _share(
    rows: Sequence[dict[str, Any]], step: Step, *, title: str, colour: str, counts: Sequence[str]
) -> Any:
    tips = [alt.Tooltip(f"{name}:Q", format=",") for name in counts]
    return (
        _chart(rows)
        .mark_line(color=colour, point=alt.OverlayMarkDef(size=28, color=colour))
        .encode(
            x=_time(step),
            y=alt.Y(
                "share:Q",
                title=title,
                axis=alt.Axis(format=".0%", tickCount=5),
                scale=alt.Scale(zero=True),
            ),
            tooltip=[_time_tip(step), alt.Tooltip("share:Q", title=title, format=".1%"), *tips],
        )
    )


def _chart(rows: Sequence[dict[str, Any]]) -> alt.Chart:
    # Inline values: nothing is fetched, and no data frame is needed.
    return alt.Chart(alt.InlineData(values=list(rows))).properties(height=_HEIGHT)


def _time(step: Step) -> alt.X:
    shown = "%b %d %H:00" if step == "hour" else "%b %d"
    axis = alt.Axis(format=shown, labelOverlap=True, labelAngle=0, grid=False)
    return alt.X("at:T", timeUnit=_UNITS[step], title=None, axis=axis)


def _time_tip(step: Step) -> alt.Tooltip:
    return alt.Tooltip("at:T", timeUnit=_UNITS[step], title="when", format=_SHOWN[step])


def _at(at: Any) -> str:
    return f"{at:%Y-%m-%dT%H:%M:%SZ}"


def _highest(rows: Sequence[dict[str, Any]], name: str) -> float:
    """Return the tallest bar of stacked rows."""
    heights: dict[Any, float] = {}
    for row in rows:
        heights[row["at"]] = heights.get(row["at"], 0.0) + row[name]
    return max(heights.values(), default=0.0)


def _dollars(top: float) -> str:
    """Return the number format of an axis up to `top` dollars: no two marks may read the same."""
    if top >= 20:
        return "$,.0f"
    return "$,.2f" if top >= 0.1 else "$,.5f"
