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
    lines = [
        f"spent {dollars(totals.cost)}, saved by caches {dollars(totals.saved)}",
        f"calls {totals.calls}: {totals.live} live, {totals.cache_hits} cache hits, "
        f"{totals.errors} errors, {totals.abandoned} abandoned",
        f"tokens: {usage.plain_input:,} input, {usage.cache_read:,} read from the provider's cache, "
        f"{usage.cache_write + usage.cache_write_1h + usage.cache_write_12h:,} written to it, "
        f"{usage.output:,} output ({usage.reasoning:,} reasoning)",
        f"latency p50 {seconds(totals.latency_p50_s)}, p95 {seconds(totals.latency_p95_s)}; "
        f"first token p50 {seconds(totals.first_token_p50_s)}, "
        f"p95 {seconds(totals.first_token_p95_s)}",
    ]
    if totals.unpriced_calls:
        models = ", ".join(totals.unpriced_models)
        lines.append(
            f"UNPRICED: {totals.unpriced_calls} calls with {totals.unpriced_tokens:,} tokens of "
            f"{models}; {totals.priced_share:.1%} of tokens are priced. Give prices in an override file."
        )
    if totals.estimated_calls:
        lines.append(f"estimated: the usage of {totals.estimated_calls} calls was counted here")
    if unsaved or lost:
        lines.append(f"NOT ON DISK: {unsaved} records in memory only, {lost} lost")
    width = max((len(name or "(none)") for name in groups), default=0)
    lines.extend(
        f"  {by} {name or '(none)':<{width}}  {t.calls:>6} calls  {t.usage.total_tokens:>12,} tokens  "
        f"spent {dollars(t.cost):>12}  saved {dollars(t.saved):>12}"
        for name, t in groups.items()
    )
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
