"""The before/after table as text cells, shared by the terminal and the HTML report."""

from collections.abc import Callable
from dataclasses import dataclass

from langchain_tokenopt.accounting import dollars, seconds
from langchain_tokenopt.demo.comparison import Comparison, Contribution, StepResult


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the table: a cell for each step, and the change from first to last."""

    label: str
    cells: tuple[str, ...]
    change: str


def table_rows(comparison: Comparison) -> list[Row]:
    """Return the lines of the table, from calls to latency."""
    last = comparison.optimised
    rows = [
        _counted(comparison, "requests answered", lambda r: len(r.outcomes) - r.failed),
        _counted(comparison, "model calls", lambda r: r.model_calls),
        _counted(comparison, "served by the cache", lambda r: r.totals.cache_hits),
        _counted(comparison, "input tokens, full price", lambda r: r.totals.usage.plain_input),
        _counted(comparison, "input tokens, provider cache", lambda r: r.totals.usage.cache_read),
        _counted(comparison, "output tokens", lambda r: r.totals.usage.output),
        _money(comparison),
    ]
    if comparison.plain.graded:
        label = f"wrong answers of {comparison.plain.graded} graded"
        rows.append(_counted(comparison, label, lambda r: r.wrong))
    if any(result.failed for result in comparison.results):
        rows.append(_counted(comparison, "requests that failed", lambda r: r.failed))
    for name, share in (("p50", 0.5), ("p95", 0.95)):
        cells = tuple(seconds(result.latency_s(share)) for result in comparison.results)
        before, after = comparison.plain.latency_s(share), last.latency_s(share)
        rows.append(Row(label=f"latency {name}", cells=cells, change=_change(before, after)))
    return rows


def contribution(part: Contribution, comparison: Comparison) -> str:
    """Return what a step saved over the one before it, in words."""
    plain = comparison.plain.totals.cost
    amount = dollars(part.saved) if part.saved >= 0 else f"-{dollars(-part.saved)}"
    share = f" ({part.saved / plain:.0%} of the plain cost)" if plain else ""
    way = "fewer" if part.calls >= 0 else "more"
    return f"{amount}{share}, {abs(part.calls):,} model calls {way}"


def _counted(comparison: Comparison, label: str, count: Callable[[StepResult], int]) -> Row:
    counts = [count(result) for result in comparison.results]
    cells = tuple(f"{n:,}" for n in counts)
    return Row(label=label, cells=cells, change=_change(counts[0], counts[-1]))


def _money(comparison: Comparison) -> Row:
    costs = [result.totals.cost for result in comparison.results]
    cells = tuple(
        dollars(result.totals.cost)
        + (f" + {result.totals.unpriced_calls} unpriced" if result.totals.unpriced_calls else "")
        for result in comparison.results
    )
    return Row(label="cost", cells=cells, change=_change(float(costs[0]), float(costs[-1])))


def _change(before: float | None, after: float | None) -> str:
    if before is None or after is None or before == after:
        return "="
    return f"{after / before - 1:+.0%}" if before else f"+{after:,.0f}"
