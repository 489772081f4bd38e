"""The ledger's account as text and as JSON values."""

from collections.abc import Mapping
from dataclasses import asdict
from decimal import Decimal
from typing import Any

from langchain_tokenopt.accounting.records import Totals


def dollars(amount: Decimal) -> str:
    """Return an amount for people: cents from a dollar on, six digits below.

    >>> dollars(Decimal("12.3456")), dollars(Decimal("0.0123456"))
    ('$12.35', '$0.012346')
    """
    return f"${amount:,.2f}" if amount >= 1 else f"${amount:.6f}"


def seconds(value: float | None) -> str:
    """Return a duration for people, "-" for none.

    >>> seconds(0.0421), seconds(2.5), seconds(None)
    ('42 ms', '2.50 s', '-')
    """
    if value is None:
        return "-"
    return f"{value * 1000:.0f} ms" if value < 1 else f"{value:.2f} s"


def report_text(
    totals: Totals, groups: Mapping[str, Totals], *, by: str, unsaved: int, lost: int
) -> str:
    """Return the account: what was spent, what was saved, and what is not known."""
    usage = totals.usage
    written = usage.cache_write + usage.cache_write_1h + usage.cache_write_12h
    calls = f"{totals.live} live, {totals.cache_hits} cache hits, {totals.errors} errors"
    cached = f"{usage.cache_read:,} read from the provider's cache, {written:,} written to it"
    latency = f"p50 {seconds(totals.latency_p50_s)}, p95 {seconds(totals.latency_p95_s)}"
    first = f"p50 {seconds(totals.first_token_p50_s)}, p95 {seconds(totals.first_token_p95_s)}"
    lines = [
        f"spent {dollars(totals.cost)}, saved by caches {dollars(totals.saved)}",
        f"calls {totals.calls}: {calls}, {totals.abandoned} abandoned",
        f"input {usage.plain_input:,}, {cached}",
        f"output {usage.output:,}, of it {usage.reasoning:,} reasoning",
        f"latency {latency}; first token {first}",
    ]
    if totals.unpriced_calls:
        models = ", ".join(totals.unpriced_models)
        unpriced = f"{totals.unpriced_calls} calls, {totals.unpriced_tokens:,} tokens of {models}"
        share = f"{totals.priced_share:.1%} of tokens are priced"
        lines.append(f"UNPRICED: {unpriced}; {share}. Give prices in an override file.")
    if totals.estimated_calls:
        lines.append(f"estimated: the usage of {totals.estimated_calls} calls was counted here")
    if unsaved or lost:
        lines.append(f"NOT ON DISK: {unsaved} records in memory only, {lost} lost")
    width = max((len(name or "(none)") for name in groups), default=0)
    for name, group in groups.items():
        shown = f"{by} {name or '(none)':<{width}}"
        tokens = f"{group.calls:>6} calls  {group.usage.total_tokens:>12,} tokens"
        money = f"spent {dollars(group.cost):>12}  saved {dollars(group.saved):>12}"
        lines.append(f"  {shown}  {tokens}  {money}")
    return "\n".join(lines)


def totals_as_json(totals: Totals) -> dict[str, Any]:
    """Return totals as JSON values, money as text."""
    values = asdict(totals)
    return {
        **values,
        "cost": str(totals.cost),
        "saved": str(totals.saved),
        "unpriced_models": list(totals.unpriced_models),
        "priced_share": totals.priced_share,
    }
