"""Read templates from Markdown, YAML and JSON files and folders; write a library to one file."""

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from langchain_tokenopt.errors import ConfigurationError, StoreError
from langchain_tokenopt.files import write_whole
from langchain_tokenopt.prompts.library_source import Source, read_json, read_yaml, template_from
from langchain_tokenopt.prompts.library_template import LibraryTemplate

SUFFIXES = (".md", ".yaml", ".yml", ".json")
_WRITTEN_BY = "tokenopt_prompts"
_FORMAT = 1
_MOST_BYTES = 16 * 1024 * 1024

_SECTION = re.compile(r"## +(system|human|ai|messages: *(\w+)) *", re.IGNORECASE)
_ESCAPED = re.compile(r"\\(\\*## +(?:system|human|ai|messages: *\w+) *)", re.IGNORECASE)
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")


@dataclass(frozen=True, slots=True)
class Loaded:
    """A template out of a file."""

    template: LibraryTemplate
    current: bool
    """Whether it was the one in use when it was written; a file of its own always is."""


def read_path(path: Path) -> list[Loaded]:
    """Return the templates of a file, or of the files in a folder and those below it.

    Hidden files and READMEs are left out.

    Raises:
        ConfigurationError: A file cannot be used; the message says where and why.
        StoreError: It cannot be read.
    """
    if not path.is_dir():
        return list(_read_file(path))
    files = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES)
    shown = [file for file in files if not _is_hidden(file.relative_to(path)) and file.is_file()]
    if not shown:
        message = f"expected files that end in {', '.join(SUFFIXES)} in {path}, got none"
        raise ConfigurationError(message)
    return [loaded for file in shown for loaded in _read_file(file)]


def write_library(path: Path, templates: Iterable[tuple[LibraryTemplate, bool]]) -> None:
    """Write templates, each with whether it is the current one, to one YAML or JSON file.

    The file appears whole or not at all.

    Raises:
        ConfigurationError: The name says neither YAML nor JSON, or its folder does not exist.
        StoreError: It cannot be written.
    """
    told = [
        {**as_mapping(template), **({} if current else {"current": False})}
        for template, current in templates
    ]
    document = {_WRITTEN_BY: _FORMAT, "templates": told}
    if path.suffix.lower() == ".json":
        text = json.dumps(document, ensure_ascii=False, indent=2) + "\n"
    elif path.suffix.lower() in (".yaml", ".yml"):
        text = yaml.dump(document, Dumper=_Dumper, allow_unicode=True, sort_keys=False, width=100)
    else:
        raise ConfigurationError(f"expected a file that ends in .yaml, .yml or .json, got {path}")
    try:
        write_whole(path, text.encode())
    except OSError as error:
        raise StoreError(f"{path} cannot be written: {error}") from error


def as_mapping(template: LibraryTemplate) -> dict[str, Any]:
    """Return what `template_from` reads."""
    told: dict[str, Any] = {"name": template.name, "version": template.version}
    if template.description:
        told["description"] = template.description
    if template.template_format != "f-string":
        told["format"] = template.template_format
    if template.variables:
        told["variables"] = {
            name: _listed(variable.as_mapping()) for name, variable in template.variables.items()
        }
    if template.answer_schema is not None:
        told["answer_schema"] = template.answer_schema
    told["messages"] = [{message.role: _listed(message.content)} for message in template.messages]
    return told


def _read_file(path: Path) -> Iterator[Loaded]:
    suffix, label = path.suffix.lower(), str(path)
    if suffix not in SUFFIXES:
        message = f"expected a folder or a file that ends in {', '.join(SUFFIXES)}, got {path}"
        raise ConfigurationError(message)
    text = _text(path)
    if suffix == ".md":
        data, source = read_markdown(text, label)
    else:
        data, source = read_json(text, label) if suffix == ".json" else read_yaml(text, label)
    if isinstance(data, dict) and "templates" in data:
        yield from _read_export(data, source)
    else:
        yield Loaded(template_from(data, source, name=path.stem), current=True)


def _read_export(data: dict[str, Any], source: Source) -> Iterator[Loaded]:
    if data.get(_WRITTEN_BY, _FORMAT) != _FORMAT:
        message = (
            f"expected the format {_FORMAT}, got {data[_WRITTEN_BY]!r}; install a newer version"
        )
        source.refuse(message, _WRITTEN_BY)
    unknown = next((key for key in data if key not in (_WRITTEN_BY, "templates")), None)
    if unknown is not None:
        source.refuse("this field is not known beside templates", str(unknown))
    if not isinstance(data["templates"], list):
        source.refuse(f"expected a list, got {data['templates']!r:.60}", "templates")
    for n, told in enumerate(data["templates"]):
        here = source.inside("templates", n)
        if not isinstance(told, dict):
            here.refuse(f"expected fields with values, got {told!r:.60}")
        current = told.get("current", True)
        if not isinstance(current, bool):
            here.refuse(f"expected true or false, got {current!r:.60}", "current")
        rest = {key: value for key, value in told.items() if key != "current"}
        yield Loaded(template_from(rest, here), current=current)


def read_markdown(text: str, label: str) -> tuple[Any, Source]:
    """Return the fields of a Markdown file: its front matter, and its sections as messages.

    Sections begin with `## system`, `## human`, `## ai` or `## messages: history`; without any, all
    of it is one human message. Headings inside fenced code are text, and so are those after a
    backslash. Blank lines around a section do not belong to it.

    Raises:
        ConfigurationError: The front matter cannot be read, or text stands before the sections.
    """
    lines = text.split("\n")
    data: Any = {}
    source = Source(label)
    body = 0
    if lines[0].rstrip() == "---":
        end = next((n for n, line in enumerate(lines[1:], 1) if line.rstrip() == "---"), None)
        if end is None:
            raise ConfigurationError(f"{label}:1: expected --- at the end of the front matter")
        front, source = read_yaml("\n".join(lines[1:end]), label, first_line=2)
        data = {} if front is None else front
        body = end + 1
    if not isinstance(data, dict):
        source.refuse(f"expected fields with values as front matter, got {data!r:.60}")
    if "messages" in data:
        source.refuse("messages are the sections of a Markdown file, no field", "messages")
    return {**data, "messages": _sections(lines[body:], label, first_line=body + 1)}, source


def _sections(lines: list[str], label: str, *, first_line: int) -> list[dict[str, str]]:
    found: list[tuple[str, list[str]]] = [("", [])]
    fence = ""
    for line in lines:
        fence = _fence_after(line, fence)
        heading = None if fence else _SECTION.fullmatch(line)
        if heading is None:
            found[-1][1].append(line if fence else _ESCAPED.sub(r"\1", line))
        else:
            found.append((heading[2] or heading[1].lower(), []))
            if heading[2]:
                found[-1] = (f"messages {heading[2]}", [])
    (_, before), *sections = found
    told = "\n".join(before).strip("\n")
    if not sections:
        return [{"human": told}]
    if told.strip():
        at = first_line + next(n for n, line in enumerate(before) if line.strip())
        message = f"expected a section such as `## system` first, got {told.strip()!r:.60}"
        raise ConfigurationError(f"{label}:{at}: {message}")
    return [_message(role, lines) for role, lines in sections]


def _fence_after(line: str, fence: str) -> str:
    """Return the fence that is open after a line, "" for none."""
    found = _FENCE.match(line)
    if found is None:
        return fence
    if not fence:
        return found[1]
    closes = found[1].startswith(fence) and not line.strip().strip(fence[0])
    return "" if closes else fence


def _message(role: str, lines: list[str]) -> dict[str, str]:
    if role.startswith("messages "):
        return {"messages": role.removeprefix("messages ")}
    return {role: "\n".join(lines).strip("\n")}


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise ConfigurationError(f"{path}: expected at most 16 MiB of prompts")
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path}: expected UTF-8, got: {error}") from None
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error}") from error


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts) or path.stem.lower() == "readme"


def _listed(value: Any) -> Any:
    """Return a value with lists for tuples, and copies throughout: no anchors in YAML."""
    if isinstance(value, dict):
        return {key: _listed(each) for key, each in value.items()}
    return [_listed(each) for each in value] if isinstance(value, list | tuple) else value


class _Dumper(yaml.SafeDumper):
    """Writes texts of several lines as blocks, and never an anchor."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text_of(dumper: Any, text: str) -> Any:
    return dumper.represent_scalar(
        "tag:yaml.org,2002:str", text, style="|" if "\n" in text else None
    )


_Dumper.add_representer(str, _text_of)
