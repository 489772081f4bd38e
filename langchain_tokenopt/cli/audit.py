"""`tokenopt audit`: what each technique would save on a log, as a table, JSON, HTML or settings."""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from langchain_tokenopt.accounting import (
    GenaiPrices,
    PriceOverrides,
    PriceSource,
    first_known,
)
from langchain_tokenopt.advisor.audit import AuditOptions, audit
from langchain_tokenopt.advisor.audit_html import report_as_html
from langchain_tokenopt.advisor.audit_report import HOW_SURE, TITLES, AuditReport, Finding
from langchain_tokenopt.errors import ConfigurationError

_DEFAULT = AuditOptions()


def add_to(commands: Any) -> None:
    """Add the command to `tokenopt`'s."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "audit",
        help="say what each technique would save on a log of yours",
        description="Reads a log (OpenAI-style JSON lines, a LangSmith or Langfuse export, plain "
        "or as .gz, or the file of a UsageLedger), replays the techniques on it, and says what "
        "each would save, all of them together, and what that rests on. No model is asked.",
    )
    parser.add_argument("log", type=Path, metavar="LOG")
    parser.add_argument("--small", metavar="MODEL", help="a smaller model to compare prices with")
    parser.add_argument("--prices", type=Path, metavar="FILE", help="your own prices (JSON)")
    parser.add_argument(
        "--ttl",
        type=float,
        default=_DEFAULT.ttl_s,
        metavar="SECONDS",
        help="how long a cache may serve an answer; 0 for ever (default: a day)",
    )
    parser.add_argument(
        "--max-error-rate",
        type=float,
        default=_DEFAULT.max_error_rate,
        metavar="SHARE",
        help="wrong answers that like questions may get, of all (default: 0.01)",
    )
    parser.add_argument(
        "--max-context",
        type=int,
        default=_DEFAULT.max_context_tokens,
        metavar="TOKENS",
        help=f"above it a conversation is over-long (default: {_DEFAULT.max_context_tokens})",
    )
    parser.add_argument("--settings", type=Path, metavar="FILE", help="write a tokenopt.toml there")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write the report there")
    parser.add_argument("--format", choices=("table", "json"), default="table")
    parser.add_argument("--examples", action="store_true", help="show example calls in the table")
    parser.set_defaults(run=run)


def run(chosen: argparse.Namespace, *, console: Console | None = None) -> int:
    """Audit, print and write what the arguments ask for."""
    for path in (chosen.settings, chosen.html):
        if path is not None and not path.parent.is_dir():
            raise ConfigurationError(f"expected a file in a folder that exists, got {path}")
        if path is not None and chosen.log.exists() and path.exists() and path.samefile(chosen.log):
            raise ConfigurationError(f"expected a file besides the log, which stays, got {path}")
    options = replace(
        _DEFAULT,
        small=chosen.small,
        prices=_prices(chosen.prices),
        ttl_s=chosen.ttl or None,
        max_error_rate=chosen.max_error_rate,
        max_context_tokens=chosen.max_context,
    )
    report = audit(chosen.log, options)
    console = console or Console()
    if chosen.format == "json":
        console.file.write(report.as_json())  # not through rich, which would cut lines
    else:
        _print(console, report, with_examples=chosen.examples)
    for path, text in (
        (chosen.settings, report.settings),
        (chosen.html, report_as_html(report) if chosen.html else ""),
    ):
        if path is not None:
            path.write_text(text, encoding="utf-8")
            if chosen.format == "table":
                console.print(f"written: {path}", markup=False, highlight=False)
    return 0


def _prices(path: Path | None) -> PriceSource | None:
    return None if path is None else first_known(PriceOverrides.load(path), GenaiPrices())


def _print(console: Console, report: AuditReport, *, with_examples: bool) -> None:
    table = Table(
        title=escape(f"{report.source}: {report.calls:,} calls, {report.amount(report.cost)}"),
        title_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        show_footer=True,
    )
    table.add_column("", footer="together, by replay", no_wrap=True)
    table.add_column("calls", justify="right")
    table.add_column("how", no_wrap=True)
    table.add_column("alone, % (95%)", footer=percent(report.combined), justify="right")
    table.add_column(
        "adds", footer=report.amount(report.combined_saved), justify="right", no_wrap=True
    )
    for finding in report.findings:
        table.add_row(*_cells(finding, report))
    console.print(table)
    for line in _told(report, with_examples=with_examples):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _cells(finding: Finding, report: AuditReport) -> tuple[str, ...]:
    added = "-" if finding.added is None else report.amount(finding.added)
    return (
        TITLES[finding.technique],
        f"{finding.calls:,}",
        finding.kind,
        percent(finding.share),
        added,
    )


def percent(share: Any) -> str:
    """Return a share in percent with its interval: "12.3 (10.1 to 14.5)"."""
    if share.low is None:
        return f"{100 * share.value:.1f}"
    return f"{100 * share.value:.1f} ({100 * share.low:.1f} to {100 * share.high:.1f})"


def _told(report: AuditReport, *, with_examples: bool) -> list[str]:
    lines = [HOW_SURE]
    lines += [
        f"UNPRICED: {each.model}, {each.calls:,} calls, {each.tokens:,} tokens"
        + (": in no sum here" if report.unit == "dollars" else "")
        for each in report.unpriced
    ]
    if report.estimated_calls:
        lines.append(f"estimated: tokens of {report.estimated_calls:,} calls were counted here")
    lines += report.notes
    for finding in report.findings:
        lines.append(f"\n{TITLES[finding.technique]}")
        lines += [f"  {note}" for note in finding.notes]
        if with_examples:
            lines += [f"  line {each.line}: {each.text}" for each in finding.examples]
    if report.problem_count:
        lines.append(f"\n{report.problem_count:,} lines could not be read:")
        lines += [f"  {problem}" for problem in report.problems]
    return lines
