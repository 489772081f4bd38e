"""The dashboard's view of single calls: filtered, paged, newest first, and one in full."""

import math
from decimal import Decimal

from langchain_tokenopt.accounting import CallRecord, dollars, seconds
from langchain_tokenopt.accounting.records import KINDS
from langchain_tokenopt.calls.usage import USAGE_FIELDS
from langchain_tokenopt.dashboard.drawing import Look
from langchain_tokenopt.errors import MissingExtraError

try:
    import streamlit as st
except ImportError as error:
    raise MissingExtraError(package="streamlit", extra="dashboard") from error

PAGE = 50


def calls_view(look: Look) -> None:
    """Draw a page of calls, and all of the call that is chosen there."""
    kinds = st.multiselect("Kind", KINDS, placeholder="all", key="kinds")
    where = look.selection.only(*kinds)
    total = look.reader.calls(within=look.selection.within, where=where, limit=0).total
    if not total:
        st.info("No call is of this kind.")
        return
    pages = math.ceil(total / PAGE)
    if st.session_state.get("page", 1) > pages:
        st.session_state["page"] = pages
    page = st.number_input(
        f"Page of {pages:,} ({total:,} calls, newest first)", 1, pages, key="page"
    )
    found = look.reader.calls(
        within=look.selection.within, where=where, offset=(int(page) - 1) * PAGE, limit=PAGE
    ).calls
    event = st.dataframe(
        [_line(record) for record in found],
        width="stretch",
        hide_index=True,
        on_select="rerun",
        selection_mode="single-row",
        key=f"calls_{page}",
        # Wide enough for every value, which the width of the first rows is not.
        column_config={name: st.column_config.Column(width=80) for name in ("cost", "saved")},
    )
    st.caption("Tick a row to see all of the call.")
    for row in event.selection.rows:
        if row < len(found):
            _detail(found[row])


def _line(record: CallRecord) -> dict[str, str]:
    return {
        "when (UTC)": f"{record.started_at:%Y-%m-%d %H:%M:%S}",
        "kind": record.kind,
        "model": record.model,
        "feature": record.feature or "",
        "tenant": record.tenant or "",
        "input": f"{record.usage.input_tokens:,}",
        "output": f"{record.usage.output:,}",
        "cost": _money(record.cost),
        "saved": _money(record.saved),
        "latency": seconds(record.latency_s),
        "error": record.error or "",
        "est.": "yes" if record.estimated else "",
    }


def _money(amount: Decimal | None) -> str:
    if amount is None:
        return "no price"
    return dollars(amount) if amount else "-"


def _detail(record: CallRecord) -> None:
    st.subheader("One call")
    left, right = st.columns(2)
    first = seconds(record.first_token_s) if record.first_token_s is not None else "not streamed"
    about = {
        "run": str(record.run_id),
        "parent run": str(record.parent_id) if record.parent_id else "",
        "began": record.started_at.isoformat(),
        "kind": record.kind,
        "served by": record.model,
        "asked for": record.model_asked or "",
        "provider": record.provider or "",
        "service tier": record.tier or "standard",
        "feature": record.feature or "",
        "endpoint": record.endpoint or "",
        "tenant": record.tenant or "",
        "graph node": record.node or "",
        "tags": ", ".join(record.tags),
        "cache": record.cache or "",
        "error": record.error or "",
        "for the application itself": "yes" if record.overhead else "no",
    }
    amounts = {
        "cost": "no price is known" if record.cost is None else f"${record.cost:f}",
        "saved": "no price is known" if record.saved is None else f"${record.saved:f}",
        "latency": seconds(record.latency_s),
        "first token": first,
        "counted here": "yes, estimated" if record.estimated else "no, reported",
        **{
            f"{name.replace('_', ' ')} tokens": f"{getattr(record.usage, name):,}"
            for name in USAGE_FIELDS
        },
    }
    for column, values in ((left, about), (right, amounts)):
        column.dataframe(
            [{"field": name, "value": value or "(none)"} for name, value in values.items()],
            width="stretch",
            hide_index=True,
            height="content",
            column_config={"value": st.column_config.Column(width=290)},
        )
