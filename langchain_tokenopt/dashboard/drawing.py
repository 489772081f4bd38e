"""The dashboard's views of sums, drawn."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from langchain_tokenopt.accounting import PriceSource, dollars, seconds
from langchain_tokenopt.accounting.amounts import BudgetStatus
from langchain_tokenopt.accounting.rollup_query import LedgerReader
from langchain_tokenopt.dashboard import prompt_cache, views
from langchain_tokenopt.dashboard.views import STACKS, Selection, Step
from langchain_tokenopt.errors import MissingExtraError

try:
    import streamlit as st

    from langchain_tokenopt.dashboard import charts
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
                "spent": dollars(row.cost),
                "saved": dollars(row.saved),
                "calls": f"{row.calls:,}",
                "unpriced calls": f"{row.unpriced_calls:,}",
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
                "hits": f"{row.hits:,}",
                "saved": dollars(row.saved),
                "tokens not sent": f"{row.tokens:,}",
                "unpriced hits": f"{row.unpriced_hits:,}",
                "p50": seconds(row.latency_p50_s),
                "p95": seconds(row.latency_p95_s),
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
                "calls sent": f"{row.calls:,}",
                "errors": f"{row.errors:,}",
                "error share": f"{row.errors / row.calls:.2%}",
                "abandoned": f"{row.abandoned:,}",
                "p50": seconds(row.latency_p50_s),
                "p95": seconds(row.latency_p95_s),
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
                "input tokens": f"{row.input_tokens:,}",
                "cached share": f"{row.cached_share:.1%}",
                "tokens written": f"{row.written:,}",
                "saved by reads": _signed(row.saved_by_reads),
                "extra for writes": _signed(row.extra_for_writes),
                "net gain": _signed(row.net),
            }
            for row in rows
        ]
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
        st.info("No budgets are kept in this file.", icon="💰")
        return
    st.caption("How the budgets stand now; the time range and the filters do not apply.")
    for status in found:
        title = " · ".join(part for part in (status.name, status.key, status.window) if part)
        with st.container(border=True):
            st.markdown(f"**{_plain(title)}**: {status.used_share:.0%} used")
            st.progress(min(max(status.used_share, 0.0), 1.0))
            st.write(_plain("; ".join(_standing(status))))
            if status.refused:
                st.error(f"{status.refused:,} calls were refused.", icon="🛑")


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
        st.success("No alerts in this range.", icon="🔔")
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


def _table(rows: Sequence[dict[str, str]]) -> None:
    st.dataframe(list(rows), width="stretch", hide_index=True)


def _signed(amount: Any) -> str:
    if amount is None:
        return "no price"
    return f"-{dollars(-amount)}" if amount < 0 else dollars(amount)


def _plain(text: str) -> str:
    """Return text that Markdown shows as it is: two dollar signs would begin a formula."""
    return "".join(f"\\{c}" if c in r"\`*_{}[]<>()#+!|$~:" else c for c in text)
