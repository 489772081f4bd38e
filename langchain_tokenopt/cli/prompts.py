"""`tokenopt prompts`: list, show, compare, check and export prompt templates."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from langchain_tokenopt.errors import ConfigurationError
from langchain_tokenopt.prompts.library import PromptLibrary
from langchain_tokenopt.prompts.library_diff import TemplateDiff
from langchain_tokenopt.prompts.library_files import as_mapping
from langchain_tokenopt.prompts.library_template import LibraryTemplate

_REFERENCE = "a name, or name@version; the first digits of a version are enough"


def add_to(commands: Any) -> None:
    """Add the command to `tokenopt`'s."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "prompts",
        help="list, show, compare, check and export prompt templates",
        description="Works on the templates that come with the package, or on those in the files "
        "and folders given by --from (Markdown, YAML, JSON).",
    )
    actions = parser.add_subparsers(title="actions", required=True, metavar="ACTION")
    action = _action(actions, "list", _list, "print names, versions and tokens")
    _add_format(action)
    action = _action(actions, "show", _show, "print a template with its variables")
    action.add_argument("reference", metavar="NAME", help=_REFERENCE)
    _add_format(action)
    action = _action(actions, "diff", _diff, "compare two versions; exit status 1 if they differ")
    action.add_argument("before", metavar="BEFORE", help=f"{_REFERENCE}; or a file with one")
    action.add_argument("after", metavar="AFTER")
    _add_format(action)
    action = _action(
        actions, "check", _check, "look for what costs tokens; exit status 1 if there is anything"
    )
    _add_format(action)
    action = _action(actions, "export", _export, "write templates to one file")
    action.add_argument("output", type=Path, metavar="FILE", help="ends in .yaml, .yml or .json")
    action.add_argument("names", nargs="*", metavar="NAME", help="default: all")


def _action(actions: Any, name: str, run: Any, told: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = actions.add_parser(
        name, help=told, description=f"{told[0].upper()}{told[1:]}."
    )
    parser.add_argument(
        "--from",
        dest="sources",
        action="append",
        type=Path,
        metavar="PATH",
        help="a file or a folder; may be repeated",
    )
    if name != "export":
        parser.add_argument(
            "--model", default="gpt-5-mini", help="whose tokens are counted; default: gpt-5-mini"
        )
    parser.set_defaults(run=run)
    return parser


def _add_format(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--format", choices=("text", "json"), default="text", help="default: text")


def _library(chosen: argparse.Namespace) -> PromptLibrary:
    return PromptLibrary.load(*chosen.sources) if chosen.sources else PromptLibrary.bundled()


def _list(chosen: argparse.Namespace) -> int:
    library = _library(chosen)
    every = [
        (each, each is library.get(name)) for name in library.names()
        for each in library.versions(name)
    ]  # fmt: skip
    if chosen.format == "json":
        _print_json([_summary(each, chosen.model, current=current) for each, current in every])
        return 0
    table = Table(box=SIMPLE_HEAD, padding=(0, 0, 0, 1), pad_edge=False)
    table.add_column("template", no_wrap=True)
    table.add_column("static", justify="right", no_wrap=True)
    table.add_column("variables", overflow="fold")
    table.add_column("for", overflow="fold")
    for template, current in every:
        table.add_row(
            f"{template.reference}{'' if current else ' (not current)'}",
            f"{template.static_tokens(chosen.model):,}",
            escape(
                ", ".join(n + ("" if v.required else "?") for n, v in template.variables.items())
            ),
            escape(template.description),
        )
    Console().print(table)
    return 0


def _show(chosen: argparse.Namespace) -> int:
    template = _library(chosen).get(chosen.reference)
    if chosen.format == "json":
        told = _summary(template, chosen.model, current=None) | {"template": as_mapping(template)}
        _print_json(told)
        return 0
    lines = [template.reference, template.description, ""]
    for name, variable in template.variables.items():
        limits = [
            f"one of {', '.join(variable.choices)}" if variable.choices else variable.type,
            "required" if variable.required else "optional",
            f"at most {variable.max_chars:,} characters" if variable.max_chars else "",
            f"at most {variable.max_tokens:,} tokens" if variable.max_tokens else "",
            f"default {variable.default!r}" if variable.default is not None else "",
        ]
        lines.append(f"{name} ({'; '.join(filter(None, limits))}): {variable.description}")
    lines += ["", f"static tokens ({chosen.model}): {template.static_tokens(chosen.model):,}"]
    for part in template.outline():
        lines += ["", f"[{part.name}]", part.text]
    _print_text("\n".join(lines))
    return 0


def _diff(chosen: argparse.Namespace) -> int:
    library = _library(chosen)
    before, after = (_named(library, each) for each in (chosen.before, chosen.after))
    compared = PromptLibrary([before, after]).diff(
        before.reference, after.reference, model=chosen.model
    )
    if chosen.format == "json":
        _print_json(_diff_as_mapping(compared))
    else:
        _print_text(str(compared))
    return int(bool(compared))


def _named(library: PromptLibrary, told: str) -> LibraryTemplate:
    """Return a template by its reference, or the one in a file."""
    if told in library or not Path(told).is_file():
        return library.get(told)
    found = list(PromptLibrary.load(told))
    if len(found) != 1:
        names = ", ".join(template.name for template in found) or "none"
        message = f"expected a file with one template, got {told} with {names}; use --from"
        raise ConfigurationError(message)
    return found[0]


def _check(chosen: argparse.Namespace) -> int:
    library = _library(chosen)
    found = library.check(model=chosen.model)
    if chosen.format == "json":
        told = [{"template": f.template, "code": f.code, "message": f.message} for f in found]
        _print_json(told)
        return int(bool(found))
    for finding in found:
        _print_text(str(finding))
    _print_text(f"{len(found)} findings in {len(library)} templates")
    return int(bool(found))


def _export(chosen: argparse.Namespace) -> int:
    _library(chosen).export(chosen.output, names=chosen.names or None)
    Console().print(f"prompts: {chosen.output}", markup=False, highlight=False, soft_wrap=True)
    return 0


def _summary(template: LibraryTemplate, model: str, *, current: bool | None) -> dict[str, Any]:
    told: dict[str, Any] = {
        "name": template.name,
        "version": template.version,
        "description": template.description,
        "variables": {
            n: {"required": v.required, "type": v.type} for n, v in template.variables.items()
        },
        "model": model,
        "static_tokens": template.static_tokens(model),
    }
    return told if current is None else told | {"current": current}


def _diff_as_mapping(compared: TemplateDiff) -> dict[str, Any]:
    parted = compared.divergence
    return {
        "before": compared.before,
        "after": compared.after,
        "messages": list(compared.messages),
        "variables": {
            "added": list(compared.added),
            "removed": list(compared.removed),
            "changed": {name: list(pair) for name, pair in compared.changed.items()},
        },
        "answer_changed": compared.answer_changed,
        "static_tokens": {"before": compared.static_before, "after": compared.static_after},
        "prefix_kept": compared.prefix_kept,
        "divergence": None if parted is None else {"where": parted.where, "reason": parted.reason},
    }


def _print_text(text: str) -> None:
    """Print what may come from somebody else's file: no signs that steer a terminal."""
    shown = "".join(
        each if each.isprintable() or each in "\n\t" else "\N{REPLACEMENT CHARACTER}"
        for each in text
    )
    sys.stdout.write(f"{shown}\n")


def _print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")
