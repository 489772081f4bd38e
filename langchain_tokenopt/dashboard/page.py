"""The page of the dashboard: a time range, filters, and one view at a time."""

from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path

from langchain_tokenopt.accounting import GenaiPrices, PriceSource, Totals, dollars
from langchain_tokenopt.accounting.rollup_query import LedgerReader
from langchain_tokenopt.accounting.rollup_range import CallFilter, HourRange
from langchain_tokenopt.dashboard import drawing, views
from langchain_tokenopt.dashboard.calls import calls_view
from langchain_tokenopt.dashboard.drawing import Look
from langchain_tokenopt.dashboard.views import STACKS, Selection, shown
from langchain_tokenopt.errors import MissingExtraError, TokenOptError

try:
    import streamlit as st
except ImportError as error:
    raise MissingExtraError(package="streamlit", extra="dashboard") from error

_RANGES: dict[str, timedelta | None] = {
    "Everything": None,
    "Last 24 hours": timedelta(hours=24),
    "Last 7 days": timedelta(days=7),
    "Last 30 days": timedelta(days=30),
}
_BETWEEN = "Between two days"
_VIEWS: dict[str, Callable[[Look], None]] = {
    "Spend": drawing.spend_view,
    "Caches and savings": drawing.cache_view,
    "Latency and errors": drawing.latency_view,
    "Provider's prompt cache": drawing.prompt_cache_view,
    "Budgets": drawing.budget_view,
    "Alerts": drawing.alert_view,
    "Calls": calls_view,
}


def show(
    path: str | Path,
    *,
    prices: PriceSource | None = None,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> None:
    """Draw the page for the ledger at `path`; what cannot be read is said in words."""
    # An emoji is drawn by the browser; a Material icon here would be fetched from the network.
    st.set_page_config(
        page_title=f"tokenopt: {Path(path).name}",
        page_icon="🧾",
        layout="wide",
    )
    try:
        _show(Path(path), prices or GenaiPrices(), clock)
    except TokenOptError as error:
        st.error(f"**This ledger cannot be shown.** {error}", icon=":material/block:")


@st.cache_resource(show_spinner=False)
def _reader(path: str) -> LedgerReader:
    return LedgerReader(path)


def _show(path: Path, prices: PriceSource, clock: Callable[[], datetime]) -> None:
    reader = _reader(str(path.resolve()))
    st.sidebar.title("tokenopt")
    st.sidebar.caption(f"Ledger `{path.name}`, times in UTC")
    view = st.sidebar.radio("View", list(_VIEWS), key="view")
    with st.spinner("Adding up the calls..."):
        extent = reader.extent()
    if extent is None:
        st.info(
            "**This ledger is empty.** No call has been booked yet: pass "
            f"`UsageLedger({path.name!r})` as a callback, and calls show here.",
            icon=":material/inbox:",
        )
        if view not in ("Budgets", "Alerts"):
            return
    selection = _selection(reader, extent or HourRange(), clock)
    look = Look(
        path=path,
        reader=reader,
        selection=selection,
        step=views.step_of(reader, selection.within),
        prices=prices,
    )
    st.header(view)
    if view in ("Budgets", "Alerts"):
        _VIEWS[view](look)
        return
    totals = views.headline(reader, selection)
    _headline(totals)
    if not totals.calls:
        st.info("No call is in this range with these filters; choose a longer range or fewer.")
        return
    _VIEWS[view](look)


def _selection(reader: LedgerReader, extent: HourRange, clock: Callable[[], datetime]) -> Selection:
    st.sidebar.divider()
    chosen = st.sidebar.selectbox("Time range", [*_RANGES, _BETWEEN], key="range")
    within = HourRange()
    if chosen == _BETWEEN:
        within = _between(extent)
    elif (length := _RANGES[chosen]) is not None:
        until = clock().replace(minute=0, second=0, microsecond=0) + timedelta(hours=1)
        within = HourRange(since=until - length, until=until)
    names = {
        field: tuple(
            st.sidebar.multiselect(
                field.capitalize(),
                reader.names(field),
                format_func=shown,
                placeholder="all",
                key=f"filter_{field}",
            )
        )
        for field in STACKS
    }
    return Selection(within=within, where=CallFilter(**names))


def _between(extent: HourRange) -> HourRange:
    first = (extent.since or datetime.now(UTC)).date()
    last = ((extent.until or datetime.now(UTC)) - timedelta(seconds=1)).date()
    chosen: tuple[date, ...] = st.sidebar.date_input(
        "Days, both included", (first, last), key="days"
    )
    if not chosen:  # while the first of the two days is being chosen
        return HourRange()
    return HourRange(since=_midnight(chosen[0]), until=_midnight(chosen[-1]) + timedelta(days=1))


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)


def _headline(totals: Totals) -> None:
    hits = f"{totals.cache_hits / totals.calls:.1%} of calls" if totals.calls else None
    errors = f"{totals.errors / totals.calls:.1%} of calls" if totals.calls else None
    columns = st.columns(5)
    columns[0].metric("Spent", dollars(totals.cost))
    columns[1].metric("Saved by caches", dollars(totals.saved))
    columns[2].metric("Calls", f"{totals.calls:,}")
    columns[3].metric(
        "Cache hits", f"{totals.cache_hits:,}", hits, delta_color="off", delta_arrow="off"
    )
    columns[4].metric("Errors", f"{totals.errors:,}", errors, delta_color="off", delta_arrow="off")
    if totals.unpriced_calls:
        models = ", ".join(shown(model) for model in totals.unpriced_models)
        st.warning(
            f"**{totals.unpriced_calls:,} calls are unpriced and in no sum of dollars here:** "
            f"{totals.unpriced_tokens:,} tokens of {models}. Give prices in an override file.",
            icon=":material/warning:",
        )
    if totals.estimated_calls:
        st.warning(
            f"**{totals.estimated_calls:,} calls are estimated:** their provider reported no "
            "usage, so it was counted here.",
            icon=":material/straighten:",
        )
