"""`tokenopt lint`: find what breaks providers' prompt caches in LangChain code."""

import argparse
import json
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from langchain_tokenopt._version import __version__
from langchain_tokenopt.errors import ConfigurationError
from langchain_tokenopt.linting import RULES, FileReport, lint
from langchain_tokenopt.linting.rules import BY_CODE

_LEVELS = {"warning": "warning", "info": "note"}
_OPTIONS = ("select", "ignore", "exclude")


def add_to(commands: Any) -> None:
    """Add the command to `tokenopt`'s."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "lint",
        help="find what breaks providers' prompt caches in your code",
        description="Reads Python files and notebooks, without running them, and tells what makes "
        "a prompt's beginning differ from request to request. Exit status 1 if there are warnings. "
        "Silence a line with `# noqa: TOK101`; set select, ignore and exclude in pyproject.toml "
        "under [tool.tokenopt.lint].",
    )
    parser.add_argument("paths", nargs="*", type=Path, metavar="PATH", help="default: here")
    for name in ("select", "ignore"):
        parser.add_argument(f"--{name}", type=_codes, metavar="CODES", help="such as TOK101,TOK103")
    parser.add_argument("--exclude", action="append", metavar="GLOB", help="may be repeated")
    parser.add_argument("--format", choices=("text", "json", "github", "sarif"), default="text")
    parser.add_argument("--rules", action="store_true", help="print the rules with examples")
    parser.set_defaults(run=run)


def run(chosen: argparse.Namespace) -> int:
    """Lint, print, and return 1 if there are warnings or files that cannot be read."""
    if chosen.rules:
        _print_rules()
        return 0
    options = _configured()
    options |= {name: value for name in _OPTIONS if (value := getattr(chosen, name)) is not None}
    reports = list(lint(chosen.paths or [Path()], **options))
    try:
        _PRINT[chosen.format](reports)
        sys.stdout.flush()
    except BrokenPipeError:  # `tokenopt lint | head`
        sys.stderr.close()
    return int(any(map(_fails, reports)))


def _fails(report: FileReport) -> bool:
    warned = any(BY_CODE[finding.code].level == "warning" for finding in report.findings)
    return warned or report.problem is not None


def _codes(text: str) -> list[str]:
    return [code.strip().upper() for code in text.split(",") if code.strip()]


def _configured() -> dict[str, Sequence[str]]:
    """Return the options in pyproject.toml.

    Raises:
        ConfigurationError: They are wrong.
    """
    path = Path("pyproject.toml")
    if not path.is_file():
        return {}
    try:
        told = tomllib.loads(path.read_text(encoding="utf-8")).get("tool", {}).get("tokenopt", {})
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} cannot be read: {error}") from error
    given = told.get("lint", {})
    for name, value in given.items():
        listed = isinstance(value, list) and all(isinstance(each, str) for each in value)
        if name not in _OPTIONS or not listed:
            message = (
                f"[tool.tokenopt.lint] takes lists of texts named {', '.join(_OPTIONS)}, "
                f"got {name} = {value!r}"
            )
            raise ConfigurationError(message)
    return dict(given)


def _print_text(reports: Sequence[FileReport]) -> None:
    count = {"warning": 0, "info": 0}
    for report in reports:
        if report.problem is not None:
            sys.stdout.write(f"{report.path}: cannot be read: {report.problem}\n")
        for finding in report.findings:
            count[BY_CODE[finding.code].level] += 1
            sys.stdout.write(f"{report.place(finding)}: {finding.code} {finding.message}\n")
    told = f"{count['warning']} warnings, {count['info']} notes in {len(reports)} files"
    sys.stdout.write(f"{told}\n")


def _print_json(reports: Sequence[FileReport]) -> None:
    found = [
        {
            "path": str(report.path),
            "line": finding.line,
            "column": finding.column,
            "code": finding.code,
            "level": BY_CODE[finding.code].level,
            "message": finding.message,
        }
        for report in reports
        for finding in report.findings
    ]
    problems = [
        {"path": str(report.path), "problem": report.problem}
        for report in reports
        if report.problem is not None
    ]
    sys.stdout.write(json.dumps({"findings": found, "problems": problems}, indent=2) + "\n")


def _print_github(reports: Sequence[FileReport]) -> None:
    for report in reports:
        if report.problem is not None:
            sys.stdout.write(f"::error file={report.path}::{_escaped(report.problem)}\n")
        for finding in report.findings:
            level = "warning" if BY_CODE[finding.code].level == "warning" else "notice"
            place = f"file={report.path},line={finding.line},col={finding.column}"
            told = _escaped(f"{finding.code} {finding.message}")
            sys.stdout.write(f"::{level} {place}::{told}\n")


def _print_sarif(reports: Sequence[FileReport]) -> None:
    rules = [
        {"id": rule.code, "shortDescription": {"text": rule.title}, "help": {"text": rule.advice}}
        for rule in RULES
    ]
    results = [
        {
            "ruleId": finding.code,
            "level": _LEVELS[BY_CODE[finding.code].level],
            "message": {"text": finding.message},
            "locations": [
                {
                    "physicalLocation": {
                        "artifactLocation": {"uri": report.path.as_posix()},
                        "region": {"startLine": finding.line, "startColumn": finding.column},
                    }
                }
            ],
        }
        for report in reports
        for finding in report.findings
    ]
    driver = {"name": "tokenopt lint", "version": __version__, "rules": rules}
    sarif = {
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{"tool": {"driver": driver}, "results": results}],
    }
    sys.stdout.write(json.dumps(sarif, indent=2) + "\n")


def _escaped(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _print_rules() -> None:
    for rule in RULES:
        sys.stdout.write(f"{rule.code} ({rule.level}): {rule.title}; {rule.advice}\n")
        for name, example in (("bad", rule.bad), ("good", rule.good)):
            shown = example.replace("\n", "\n        ")
            sys.stdout.write(f"  {name:<4}  {shown}\n")


_PRINT = {
    "text": _print_text,
    "json": _print_json,
    "github": _print_github,
    "sarif": _print_sarif,
}
