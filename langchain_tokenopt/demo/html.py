"""The comparison as one HTML file that needs nothing else: no script, no network."""

from collections.abc import Sequence
from decimal import Decimal
from html import escape
from pathlib import Path

from langchain_tokenopt.accounting import Totals, dollars
from langchain_tokenopt.demo.comparison import Comparison
from langchain_tokenopt.demo.rows import contribution, table_rows

_COLOURS = ("#8a94a6", "#2f6fed", "#0f9d6e", "#b4570c", "#7a3ff2")
_WIDTH, _HEIGHT, _PAD = 860, 260, 84


def write_html(
    path: str | Path, comparison: Comparison, *, title: str, notes: Sequence[str]
) -> Path:
    """Write the report and return its path. `notes` say what is recorded, real and computed."""
    target = Path(path)
    target.write_text(html_report(comparison, title=title, notes=notes), encoding="utf-8")
    return target


def html_report(comparison: Comparison, *, title: str, notes: Sequence[str]) -> str:
    """Return the report as text."""
    results = comparison.results
    heads = "".join(f"<th>{escape(result.step.name)}</th>" for result in results)
    rows = "".join(
        f"<tr><th>{escape(row.label)}</th>"
        + "".join(f"<td>{escape(cell)}</td>" for cell in row.cells)
        + f"<td class=change>{escape(row.change)}</td></tr>"
        for row in table_rows(comparison)
    )
    steps = "".join(
        f"<li><b>{escape(result.step.name)}</b>: {escape(result.step.adds)}</li>"
        for result in results
    )
    contributed = _bars(
        [
            (part.step.name, part.saved, contribution(part, comparison))
            for part in comparison.contributions()
        ],
        total=comparison.plain.totals.cost,
    )
    features = _feature_table(comparison)
    remarks = "".join(f"<li>{escape(note)}</li>" for note in notes)
    headline = f"{comparison.saved_share:.0%} less spent"
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>{_STYLE}</style></head><body><main>
<h1>{escape(title)}</h1>
<p class=headline>{escape(headline)}: {escape(dollars(comparison.plain.totals.cost))} before,
{escape(dollars(comparison.optimised.totals.cost))} after, {len(comparison.plain.outcomes):,}
requests</p>
<h2>Before and after</h2>
<table><thead><tr><th></th>{heads}<th>change</th></tr></thead><tbody>{rows}</tbody></table>
<ul>{steps}</ul>
<h2>What each technique saved</h2>{contributed}
<h2>Spend as the traffic plays</h2>{_spend_chart(comparison)}
<h2>Cost by feature</h2>{features}
<h2>What is recorded, what is real, what is computed</h2><ul>{remarks}</ul>
</main></body></html>
"""


def _bars(parts: Sequence[tuple[str, Decimal, str]], *, total: Decimal) -> str:
    lines = []
    for label, saved, told in parts:
        share = float(saved / total) if total else 0.0
        width = max(min(share, 1.0), 0.0) * 100
        lines.append(
            f"<div class=bar><span>{escape(label)}</span><i style='width:{width:.1f}%'></i>"
            f"<b>{escape(told)}</b></div>"
        )
    return "".join(lines)


def _feature_table(comparison: Comparison) -> str:
    names = sorted({name for result in comparison.results for name in result.by_feature})
    heads = "".join(f"<th>{escape(result.step.name)}</th>" for result in comparison.results)

    def cell(totals: Totals | None) -> str:
        return dollars(totals.cost) if totals is not None else "-"

    rows = "".join(
        f"<tr><th>{escape(name or '(none)')}</th>"
        + "".join(f"<td>{escape(cell(r.by_feature.get(name)))}</td>" for r in comparison.results)
        + "</tr>"
        for name in names
    )
    return f"<table><thead><tr><th></th>{heads}</tr></thead><tbody>{rows}</tbody></table>"


def _spend_chart(comparison: Comparison) -> str:
    """Draw the running spend of each step against the share of its calls."""
    top = float(max((r.spent_after[-1] for r in comparison.results if r.spent_after), default=0))
    if not top:
        return "<p>Nothing was priced, so there is no curve to draw.</p>"
    inner_w, inner_h = _WIDTH - _PAD - 20, _HEIGHT - 54
    most = max(len(result.spent_after) for result in comparison.results)
    lines, labels = [], []
    for result, colour in zip(comparison.results, _COLOURS, strict=False):
        spent = (Decimal(0), *result.spent_after)
        points = " ".join(
            f"{_PAD + inner_w * n / most:.1f},{inner_h + 14 - inner_h * float(value) / top:.1f}"
            for n, value in enumerate(spent)
        )
        lines.append(f"<polyline points='{points}' fill=none stroke='{colour}' stroke-width=2.5 />")
        labels.append(
            f"<span><i style='background:{colour}'></i>{escape(result.step.name)} "
            f"{escape(dollars(result.totals.cost))}</span>"
        )
    marks = "".join(
        f"<line x1={_PAD} x2={_WIDTH - 20} y1={y:.1f} y2={y:.1f} class=grid />"
        f"<text x={_PAD - 8} y={y + 4:.1f} text-anchor=end>{dollars(Decimal(share * top))}</text>"
        for share in (0.0, 0.5, 1.0)
        for y in (inner_h + 14 - inner_h * share,)
    )
    axis = (
        f"<text x={_WIDTH / 2} y={_HEIGHT - 8} text-anchor=middle>calls, cache hits included</text>"
    )
    picture = f"<svg viewBox='0 0 {_WIDTH} {_HEIGHT}' role=img>{marks}{''.join(lines)}{axis}</svg>"
    return f"{picture}<p class=legend>{''.join(labels)}</p>"


_STYLE = """
body{font:16px/1.5 system-ui,sans-serif;color:#1c2330;background:#f5f7fa;margin:0}
main{max-width:920px;margin:0 auto;padding:32px 20px}
h1{font-size:28px;margin:0 0 4px}h2{font-size:19px;margin:36px 0 10px}
.headline{font-size:18px;color:#0b7a55}
table{border-collapse:collapse;width:100%;background:#fff;border:1px solid #dde3ec}
th,td{padding:7px 12px;text-align:right;border-bottom:1px solid #edf0f5;
font-variant-numeric:tabular-nums}
th:first-child{text-align:left;font-weight:500}thead th{background:#eef2f8;font-weight:600}
.change{font-weight:600}
.bar{display:grid;grid-template-columns:130px 1fr 400px;gap:10px;align-items:center;margin:6px 0}
.bar i{display:block;height:18px;background:#2f6fed;border-radius:3px;min-width:2px}
.bar b{font-weight:500;font-variant-numeric:tabular-nums}
svg{width:100%;background:#fff;border:1px solid #dde3ec}svg text{font-size:12px;fill:#5a6474}
.grid{stroke:#e3e8f0}
.legend span{margin-right:24px}.legend i{display:inline-block;width:14px;height:4px;
margin-right:7px;vertical-align:middle}
@media(max-width:640px){.bar{grid-template-columns:1fr}}
"""
