"""The dashboard's views of sums, drawn."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from importlib import import_module
from pathlib import Path
from typing import Any

from langchain_tokenopt.accounting import PriceSource, dollars
from langchain_tokenopt.accounting.amounts import BudgetStatus
from langchain_tokenopt.accounting.rollup_query import LedgerReader
from langchain_tokenopt.dashboard import prompt_cache, views
from langchain_tokenopt.dashboard.views import STACKS, Selection, Step
from langchain_tokenopt.errors import MissingExtraError

try:
    import streamlit as st

    from langchain_tokenopt.dashboard import charts

    # Altair looks whether pandas is loaded, and would meet it half loaded by another session.
    import_module("pandas")
except ImportError as error:
    raise MissingExtraError(package="streamlit", extra="dashboard") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What a view is drawn from."""

    path: Path
    reader: LedgerReader
    selection: Selection
    step: Step
    prices: PriceSource


def spend_view(look: Look) -> None:
    """Draw spend and savings over time, apart."""
    by = st.segmented_control("Stacked by", STACKS, default="feature", key="stack") or "feature"
    points = views.spend_over_time(look.reader, look.selection, by=by, step=look.step)
    st.subheader(f"Spent by {by}, each {look.step}")
    if any(point.cost for point in points):
        _draw(charts.spend_chart(points, money="cost", step=look.step))
    else:
        st.info("Nothing was spent, or nothing of it is priced.")
    st.subheader(f"Saved by our caches, by {by}, each {look.step}")
    if any(point.saved for point in points):
        _draw(charts.spend_chart(points, money="saved", step=look.step))
    else:
        st.info("Our caches saved nothing here.")
    groups = views.spend_rows(look.reader, look.selection, by=by)
    _table(
        [
            {
                by: row.group,
                "spent": row.cost,
                "saved": row.saved,
                "calls": row.calls,
                "unpriced calls": row.unpriced_calls,
            }
            for row in groups
        ]
    )


def cache_view(look: Look) -> None:
    """Draw what our response caches answered and saved."""
    points = views.cache_over_time(look.reader, look.selection, step=look.step)
    if not any(point.hits for point in points):
        st.info("No call was answered by one of our caches.")
        return
    left, right = st.columns(2)
    with left:
        st.subheader("Hits of all calls")
        _draw(charts.hit_chart(points, step=look.step))
    with right:
        st.subheader("Dollars saved")
        _draw(charts.saved_chart(points, step=look.step))
    st.subheader("By cache")
    _table(
        [
            {
                "cache": row.cache,
                "hits": row.hits,
                "saved": row.saved,
                "tokens not sent": row.tokens,
                "unpriced hits": row.unpriced_hits,
                "p50 (s)": row.latency_p50_s,
                "p95 (s)": row.latency_p95_s,
            }
            for row in views.cache_rows(look.reader, look.selection)
        ]
    )


def latency_view(look: Look) -> None:
    """Draw latency and errors of the calls that were sent."""
    points = views.latency_over_time(look.reader, look.selection, step=look.step)
    if not points:
        st.info("No call was sent: all were answered by caches.")
        return
    left, right = st.columns(2)
    with left:
        st.subheader("Latency of calls that were sent")
        if any(point.latency_p50_s is not None for point in points):
            _draw(charts.latency_chart(points, step=look.step))
        else:
            st.info("No call was answered.")
    with right:
        st.subheader("Errors and abandoned calls")
        if any(point.errors or point.abandoned for point in points):
            _draw(charts.error_chart(points, step=look.step))
        else:
            st.success("No call failed or was abandoned.")
    st.subheader("By model")
    _table(
        [
            {
                "model": row.model,
                "calls sent": row.calls,
                "errors": row.errors,
                "errors (%)": 100 * row.errors / row.calls,
                "abandoned": row.abandoned,
                "p50 (s)": row.latency_p50_s,
                "p95 (s)": row.latency_p95_s,
            }
            for row in views.latency_rows(look.reader, look.selection)
        ]
    )
    st.caption("Cache hits are left out. Percentiles are within 2% of the exact ones.")


def prompt_cache_view(look: Look) -> None:
    """Draw what the provider's prompt cache read and wrote, and whether that paid."""
    points = prompt_cache.prompt_cache_over_time(look.reader, look.selection, step=look.step)
    if not points:
        st.info("No input was sent.")
        return
    left, right = st.columns(2)
    with left:
        st.subheader("Cached share of input")
        _draw(charts.cached_share_chart(points, step=look.step))
    with right:
        st.subheader("Input tokens")
        _draw(charts.input_chart(points, step=look.step))
    rows = prompt_cache.prompt_cache_rows(look.reader, look.selection, prices=look.prices)
    st.subheader("Net gain by model")
    _table(
        [
            {
                "model": row.model,
                "provider": row.provider,
                "input tokens": row.input_tokens,
                "cached (%)": 100 * row.cached_share,
                "tokens written": row.written,
                "saved by reads": row.saved_by_reads,
                "extra for writes": row.extra_for_writes,
                "net gain": row.net,
            }
            for row in rows
        ],
        unknown="no price",
    )
    for row in rows:
        if row.net is not None and row.net < 0:
            st.warning(
                f"**{row.model}: writing to the prompt cache cost {dollars(-row.net)} more than "
                "reading from it saved.** Write only what is read again before it expires."
            )
    st.caption(
        "Against the same tokens uncached, at list prices of the standard tier and of short "
        "prompts. Storage that some providers bill by the hour is not in it."
    )


def budget_view(look: Look) -> None:
    """Draw how each budget in the file stands; range and filters do not apply."""
    found = views.budgets(look.path)
    if not found:
        st.info("No budgets are kept in this file.", icon=":material/savings:")
        return
    st.caption("How the budgets stand now; the time range and the filters do not apply.")
    for status in found:
        title = " · ".join(part for part in (status.name, status.key, status.window) if part)
        with st.container(border=True):
            st.markdown(f"**{_plain(title)}**: {status.used_share:.0%} used")
            st.progress(min(max(status.used_share, 0.0), 1.0))
            st.write(_plain("; ".join(_standing(status))))
            if status.refused:
                st.error(f"Refused calls: {status.refused:,}", icon=":material/block:")


def _standing(status: BudgetStatus) -> list[str]:
    spent, held, limits = status.spent, status.reserved, status.limits
    told = []
    if limits.dollars is not None:
        told.append(
            f"{dollars(spent.dollars)} of {dollars(limits.dollars)} spent, "
            f"{dollars(held.dollars)} held for calls in flight"
        )
    if limits.tokens is not None:
        told.append(f"{spent.tokens:,} of {limits.tokens:,} tokens, {held.tokens:,} held")
    if limits.calls is not None:
        told.append(f"{spent.calls:,} of {limits.calls:,} calls, {held.calls:,} held")
    if status.resets_at is not None:
        told.append(f"resets {status.resets_at:%Y-%m-%d %H:%M} UTC")
    return told or ["no limits"]


def alert_view(look: Look) -> None:
    """Draw the alerts of the range, the newest first."""
    found = views.alerts(look.path, look.selection.within)
    if not found:
        st.success("No alerts in this range.", icon=":material/notifications:")
        return
    st.caption("The time range applies; the filters do not.")
    _table(
        [
            {
                "when (UTC)": f"{alert.at:%Y-%m-%d %H:%M}",
                "rule": alert.rule,
                "about": alert.group or "all calls",
                "measure": alert.measure,
                "message": alert.message,
            }
            for alert in found
        ]
    )


def _draw(chart: Any) -> None:
    st.altair_chart(chart, width="stretch")


Cell = str | int | float | Decimal | None


def _table(rows: Sequence[Mapping[str, Cell]], *, unknown: str = "-") -> None:
    """Draw rows whose numbers sort as numbers; `unknown` stands for `None`."""
    formats = {name: _format(name, [row[name] for row in rows]) for name in rows[0]}
    st.dataframe(
        {name: [_cell(row[name]) for row in rows] for name in rows[0]},
        width="stretch",
        hide_index=True,
        placeholder=unknown,
        column_config={
            name: st.column_config.NumberColumn(format=shape)
            for name, shape in formats.items()
            if shape is not None
        },
    )


def _cell(value: Cell) -> str | int | float | None:
    return float(value) if isinstance(value, Decimal) else value


def _format(name: str, values: Sequence[Cell]) -> str | None:
    """Return how a column's numbers are shown, `None` for text."""
    numbers = [value for value in values if isinstance(value, int | float | Decimal)]
    if any(isinstance(value, Decimal) for value in numbers):
        most = max(abs(float(value)) for value in numbers)
        return "dollar" if most >= 1 or not most else "$%.6f"
    if any(isinstance(value, float) for value in numbers):
        return "%.2f" if name.endswith("(%)") else "%.3f"
    return "localized" if numbers else None


def _plain(text: str) -> str:
    """Return text that Markdown shows as it is: two dollar signs would begin a formula."""
    return "".join(f"\\{c}" if c in r"\`*_{}[]<>()#+!|$~:" else c for c in text)
