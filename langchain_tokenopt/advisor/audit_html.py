"""An audit as one HTML file that needs nothing else: no script, no network."""

from html import escape

from langchain_tokenopt.advisor.audit_intervals import Share
from langchain_tokenopt.advisor.audit_report import HOW_SURE, TITLES, AuditReport, Finding
from langchain_tokenopt.html_page import page

_WIDTH, _LEFT, _ROW = 860, 210, 34
_ADDED, _BOUND, _COMBINED = "#2f6fed", "#c3cad6", "#0f9d6e"


def report_as_html(report: AuditReport) -> str:
    """Return the report as a page: what would be saved, how sure that is, and the evidence."""
    title = f"Audit of {report.source}"
    rows = "".join(_row(each, report) for each in report.findings)
    content = f"""<p class=range>{escape(_range(report))}</p>
<p class=headline>{report.combined.value:.1%} less,
{escape(report.amount(report.combined_saved))} of {escape(report.amount(report.cost))},
{report.calls:,} calls</p>{_notices(report)}
<h2>What each technique would save, alone</h2>{_chart(report)}
<div class=wide><table><thead><tr><th>technique</th><th>calls</th><th>how</th><th>alone</th>
<th>saved alone</th><th>adds</th></tr></thead><tbody>{rows}</tbody>
<tfoot><tr><th>together, by replay</th><td></td><td></td><td>{escape(str(report.combined))}</td>
<td></td><td>{escape(report.amount(report.combined_saved))}</td></tr></tfoot></table></div>
<p class=range>{escape(HOW_SURE)}</p>
<h2>Evidence</h2>{"".join(map(_evidence, report.findings))}
<h2>Settings</h2><pre>{escape(report.settings)}</pre>{_problems(report)}"""
    return page(title, content, style=_STYLE)


def _range(report: AuditReport) -> str:
    if report.since is None or report.until is None:
        return "without times"
    return f"{report.since:%Y-%m-%d %H:%M} to {report.until:%Y-%m-%d %H:%M} UTC"


def _notices(report: AuditReport) -> str:
    told = [
        f"{each.model} has no known price: {each.calls:,} calls, {each.tokens:,} tokens"
        + (" are in no sum of dollars" if report.unit == "dollars" else "")
        for each in report.unpriced
    ]
    if report.estimated_calls:
        told.append(f"The tokens of {report.estimated_calls:,} calls were counted here.")
    return "".join(f"<p class=notice>{escape(each)}</p>" for each in (*told, *report.notes))


def _row(finding: Finding, report: AuditReport) -> str:
    added = "-" if finding.added is None else report.amount(finding.added)
    cells = (
        f"{finding.calls:,}",
        finding.kind,
        str(finding.share),
        report.amount(finding.saved),
        added,
    )
    marked = "".join(f"<td>{escape(cell)}</td>" for cell in cells)
    return f"<tr><th>{escape(TITLES[finding.technique])}</th>{marked}</tr>"


def _chart(report: AuditReport) -> str:
    bars = [
        (TITLES[each.technique], each.share, _ADDED if each.is_combined else _BOUND)
        for each in report.findings
    ]
    bars.append(("together", report.combined, _COMBINED))
    top = max((max(share.value, share.high or 0.0) for _, share, _ in bars), default=0.0)
    if top <= 0:
        return "<p>Nothing would be saved.</p>"
    drawn = "".join(_bar(n, *bar, top=top) for n, bar in enumerate(bars))
    return (
        f"<svg viewBox='0 0 {_WIDTH} {_ROW * len(bars) + 12}' role='img' "
        f"aria-label='savings by technique'>{drawn}</svg>"
        "<p class=range>Lines: intervals. Grey: bounds, no part of the whole.</p>"
    )


def _bar(n: int, name: str, share: Share, colour: str, *, top: float) -> str:
    y, wide = 10 + n * _ROW, _WIDTH - _LEFT - 90

    def x(value: float) -> float:
        return _LEFT + wide * max(value, 0.0) / top

    line = ""
    if share.low is not None and share.high is not None:
        line = (
            f"<line x1='{x(share.low):.1f}' x2='{x(share.high):.1f}' y1='{y + 10}' y2='{y + 10}' "
            "stroke='#1c2330' stroke-width='2' />"
        )
    return (
        f"<text x='{_LEFT - 10}' y='{y + 14}' text-anchor='end'>{escape(name)}</text>"
        f"<rect x='{_LEFT}' y='{y}' width='{x(share.value) - _LEFT:.1f}' height='20' "
        f"fill='{colour}'><title>{escape(str(share))}</title></rect>{line}"
        f"<text x='{max(x(share.value), x(share.high or 0)) + 8:.1f}' y='{y + 14}'>"
        f"{share.value:.1%}</text>"
    )


def _evidence(finding: Finding) -> str:
    notes = "".join(f"<li>{escape(note)}</li>" for note in finding.notes)
    examples = "".join(
        f"<li>line {each.line}: <code>{escape(each.text)}</code></li>" for each in finding.examples
    )
    return f"<h3>{escape(TITLES[finding.technique])}</h3><ul>{notes}{examples}</ul>"


def _problems(report: AuditReport) -> str:
    if not report.problem_count:
        return ""
    shown = "".join(f"<li>{escape(str(problem))}</li>" for problem in report.problems)
    return f"<h2>{report.problem_count:,} lines could not be read</h2><ul>{shown}</ul>"


_STYLE = """ul{margin:0;padding-left:20px;font-size:14px}
pre{background:#fff;border:1px solid #dde3ec;padding:12px;overflow-x:auto;font-size:13px}
code{overflow-wrap:anywhere}
"""
