"""The account as one HTML file that needs nothing else: no script, no network."""

from collections.abc import Callable, Mapping
from datetime import date, timedelta
from decimal import Decimal
from html import escape

from langchain_tokenopt.accounting import Totals, dollars, seconds
from langchain_tokenopt.dashboard.account import Account, range_shown
from langchain_tokenopt.html_page import page

_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP = 860, 240, 84, 30, 14
_MOST_BARS = 20
_SPENT, _SAVED, _ERRORS = "#2f6fed", "#0f9d6e", "#c92a2a"


def account_as_html(account: Account) -> str:
    """Return the account as a page: sums, what is not known, charts by day, and each group."""
    totals = account.totals
    title = f"Account of {account.ledger}"
    notices = "".join(f"<p class=notice>{escape(told)}</p>" for told in account.notices)
    content = f"""<p class=range>{escape(range_shown(account.within))}</p>
<p class=headline>{escape(dollars(totals.cost))} spent, {escape(dollars(totals.saved))} saved by
caches, {totals.calls:,} calls</p>{notices}
<h2>By day</h2>{_days(account)}
<h2>Spent by {escape(account.by)}</h2>{_bars(account.groups)}
<h2>Every {escape(account.by)}</h2>{_table(account)}
<p class=range>Percentiles are within 2% of the exact ones, over calls that were answered, cache
hits among them. Cached share: input that the provider's own prompt cache served.</p>"""
    return page(title, content, style=_STYLE)


def _table(account: Account) -> str:
    heads = (
        "calls", "hits", "errors", "input", "cached share", "output", "p50", "p95", "unpriced",
        "spent", "saved",
    )  # fmt: skip
    rows = "".join(_row(name or "(none)", totals) for name, totals in account.groups.items())
    head = "".join(f"<th>{text}</th>" for text in heads)
    return (
        f"<div class=wide><table><thead><tr><th>{escape(account.by)}</th>{head}</tr></thead>"
        f"<tbody>{rows}</tbody><tfoot>{_row('all', account.totals)}</tfoot></table></div>"
    )


def _row(name: str, totals: Totals) -> str:
    usage = totals.usage
    share = f"{usage.cache_read / usage.input_tokens:.0%}" if usage.input_tokens else "-"
    cells = (
        f"{totals.calls:,}", f"{totals.cache_hits:,}", f"{totals.errors:,}",
        f"{usage.input_tokens:,}", share, f"{usage.output:,}", seconds(totals.latency_p50_s),
        seconds(totals.latency_p95_s), f"{totals.unpriced_calls:,}", dollars(totals.cost),
        dollars(totals.saved),
    )  # fmt: skip
    marked = "".join(
        f"<td{' class=loud' if n == 8 and totals.unpriced_calls else ''}>{escape(cell)}</td>"
        for n, cell in enumerate(cells)
    )
    return f"<tr><th>{escape(name)}</th>{marked}</tr>"


def _bars(groups: Mapping[str, Totals]) -> str:
    top = max((totals.cost for totals in groups.values()), default=Decimal(0))
    if not top:
        return "<p>Nothing was spent, or nothing of it is priced.</p>"
    shown = list(groups.items())[:_MOST_BARS]
    lines = "".join(
        f"<div class=bar><span>{escape(name or '(none)')}</span>"
        f"<i><u style='width:{float(totals.cost / top) * 100:.1f}%'></u></i>"
        f"<b>{escape(dollars(totals.cost))}</b></div>"
        for name, totals in shown
    )
    more = len(groups) - len(shown)
    return lines + (f"<p class=range>and {more:,} more, in the table below</p>" if more else "")


def _days(account: Account) -> str:
    if not account.days:
        return "<p>There are no calls in this range.</p>"
    days = account.days
    return (
        _chart("Spent", _SPENT, {day: float(t.cost) for day, t in days.items()}, _money)
        + _chart(
            "Saved by caches", _SAVED, {day: float(t.saved) for day, t in days.items()}, _money
        )
        + _chart("Errors", _ERRORS, {day: float(t.errors) for day, t in days.items()}, _count)
    )


def _chart(
    title: str,
    colour: str,
    values: Mapping[str, float],
    marks: Callable[[float], Callable[[float], str]],
) -> str:
    first = date.fromisoformat(min(values))
    count = (date.fromisoformat(max(values)) - first).days + 1
    highest = max(values.values())
    if not highest:
        return f"<h3>{escape(title)}</h3><p>None.</p>"
    top = _round_up(highest)
    shown = marks(top)
    wide, high = _WIDTH - _LEFT - 16, _HEIGHT - _BOTTOM - _TOP
    slot = wide / count
    bars, labels = [], []
    every = max(-(-count // 8), 1)
    for day, value in values.items():
        n = (date.fromisoformat(day) - first).days
        x, height = _LEFT + n * slot, high * value / top
        bars.append(
            f"<rect x='{x + slot * 0.1:.1f}' y='{_TOP + high - height:.1f}' "
            f"width='{slot * 0.8:.1f}' height='{height:.1f}' fill='{colour}'>"
            f"<title>{day}: {escape(shown(value))}</title></rect>"
        )
    for n in range(0, count, every):
        at = first + timedelta(days=n)
        labels.append(
            f"<text x='{_LEFT + (n + 0.5) * slot:.1f}' y='{_HEIGHT - 8}' text-anchor='middle'>"
            f"{at:%b %d}</text>"
        )
    grid = "".join(
        f"<line x1='{_LEFT}' x2='{_WIDTH - 16}' y1='{y:.1f}' y2='{y:.1f}' class='grid' />"
        f"<text x='{_LEFT - 8}' y='{y + 4:.1f}' text-anchor='end'>{escape(mark)}</text>"
        for share in (0.0, 0.5, 1.0)
        for y, mark in ((_TOP + high * (1 - share), shown(top * share)),)
    )
    return (
        f"<h3>{escape(title)}</h3><svg viewBox='0 0 {_WIDTH} {_HEIGHT}' role='img' "
        f"aria-label='{escape(title)} by day'>{grid}{''.join(bars)}{''.join(labels)}</svg>"
    )


def _round_up(value: float) -> float:
    """Return the next 1, 2, 4, 6 or 8 times a power of ten: halves of it read well.

    >>> _round_up(3.58), _round_up(73.0)
    (4.0, 80.0)
    """
    power = Decimal(10) ** Decimal(str(value)).adjusted()
    steps = (power * step for step in (1, 2, 4, 6, 8, 10))
    return float(next(step for step in steps if step >= Decimal(str(value))))


def _count(_: float) -> Callable[[float], str]:
    return lambda value: f"{value:,.0f}"


def _money(top: float) -> Callable[[float], str]:
    """Return how marks of an axis up to `top` dollars are shown, all with the same digits."""
    digits = 0 if top >= 20 else 2 if top >= 0.1 else 6
    return lambda value: f"${value:,.{digits}f}"


_STYLE = """.loud{color:#b4570c;font-weight:700}
.bar{display:grid;grid-template-columns:minmax(120px,240px) 1fr 110px;gap:10px;margin:6px 0;
align-items:center}.bar span{overflow:hidden;text-overflow:ellipsis;white-space:nowrap}
.bar u{display:block;height:18px;background:#2f6fed;border-radius:3px;min-width:2px}
.bar b{font-weight:500;text-align:right;font-variant-numeric:tabular-nums}
.grid{stroke:#e3e8f0}
"""
