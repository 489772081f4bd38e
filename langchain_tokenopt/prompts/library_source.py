"""Templates out of what a file holds, with the place of everything that is wrong in it.

YAML is read as plain data: no tags that make objects, no anchors (a few lines of them can stand
for gigabytes), no key twice.
"""

import json
import re
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from difflib import get_close_matches
from typing import Any, NoReturn

import yaml

from langchain_tokenopt.errors import ConfigurationError
from langchain_tokenopt.prompts.library_content import ROLES, TemplateMessage
from langchain_tokenopt.prompts.library_template import LibraryTemplate
from langchain_tokenopt.prompts.library_variables import Variable

FieldPath = tuple[str | int, ...]

_MOST_NESTED = 40
_TEMPLATE_FIELDS = (
    "name", "description", "format", "variables", "messages", "answer_schema", "version",
)  # fmt: skip
_VARIABLE_FIELDS = tuple(field.name for field in fields(Variable) if field.name != "name")
_VERSION = re.compile(r"[0-9a-f]{12}")


@dataclass(frozen=True, slots=True)
class Source:
    """A file, or a part of one, that templates are read from."""

    label: str
    node: Any = None
    """YAML's own tree, which knows lines; `None` where nothing does."""
    first_line: int = 1
    at: FieldPath = ()
    """The field that this part of the file is."""

    def inside(self, *path: str | int) -> "Source":
        """Return a part of this one."""
        return Source(self.label, self.node, self.first_line, (*self.at, *path))

    def refuse(self, message: str, *path: str | int) -> NoReturn:
        """Raise what is wrong with a field, with its file and line."""
        whole = (*self.at, *path)
        line = self._line(whole)
        place = f"{self.label}:{line}" if line else self.label
        field = "".join(f"[{e}]" if isinstance(e, int) else f".{e}" for e in whole).lstrip(".")
        raise ConfigurationError(f"{place}: {f'{field}: ' if field else ''}{message}")

    def _line(self, path: FieldPath) -> int | None:
        node = self.node
        if node is None:
            return None
        line = node.start_mark.line
        for step in path:
            node, line = _child(node, step, line)
            if node is None:
                break
        return int(line) + self.first_line


def _child(node: Any, step: str | int, line: int) -> tuple[Any, int]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value == str(step):
                return value, key.start_mark.line
    if isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
        return node.value[step], node.value[step].start_mark.line
    return None, line


def read_yaml(text: str, label: str, *, first_line: int = 1) -> tuple[Any, Source]:
    """Return the data of a YAML text and where it stands.

    Raises:
        ConfigurationError: It is no YAML, or has anchors, tags or a key twice.
    """
    try:
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            mark = event.start_mark
            line = (mark.line if mark else 0) + first_line
            if getattr(event, "anchor", None) is not None:
                message = "anchors and aliases (& and *) are not read; quote the text, or repeat it"
                raise ConfigurationError(f"{label}:{line}: {message}")
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        source = Source(label, node, first_line)
        _refuse_doubles(node, source)
        return yaml.safe_load(text), source
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{label}:{mark.line + first_line}" if mark is not None else label
        told = str(getattr(error, "problem", None) or error).replace("\n", " ")
        raise ConfigurationError(f"{place}: expected plain YAML, got: {told}") from None
    except (RecursionError, ValueError) as error:
        if isinstance(error, ConfigurationError):
            raise
        told = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise ConfigurationError(f"{label}: expected plain YAML, got: {told}") from None


def read_json(text: str, label: str) -> tuple[Any, Source]:
    """Return the data of a JSON text and where it stands.

    Raises:
        ConfigurationError: It is no JSON, or has a key twice.
    """
    try:
        return json.loads(text, object_pairs_hook=_object, parse_constant=_constant), Source(label)
    except json.JSONDecodeError as error:
        place = f"{label}:{error.lineno}"
        raise ConfigurationError(f"{place}: expected JSON, got: {error.msg}") from None
    except (RecursionError, ValueError) as error:
        told = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise ConfigurationError(f"{label}: expected JSON, got: {told}") from None


def template_from(data: Any, source: Source, *, name: str | None = None) -> LibraryTemplate:
    """Return the template that a mapping describes.

    Args:
        data: As it was read.
        source: Where it stands.
        name: If the mapping has none.

    Raises:
        ConfigurationError: Anything is missing, unknown or wrong; or the version that is given is
            not that of the content.
    """
    given = _mapping(data, source, _TEMPLATE_FIELDS)
    for field in ("name", "description", "format", "version"):
        value = given.get(field)
        if value is not None and not isinstance(value, str):
            hint = "quote it" if field == "version" else "write a text"
            source.refuse(f"expected a text, got {value!r:.60}; {hint}", field)
    if given.get("format") == "jinja2":
        source.refuse("jinja2 runs code; expected f-string or mustache, got 'jinja2'", "format")
    variables = list(_variables(given.get("variables"), source.inside("variables")))
    messages = list(_messages(given.get("messages"), source.inside("messages")))
    schema = given.get("answer_schema")
    if schema is not None:
        _mapping(schema, source.inside("answer_schema"))
        _refuse_odd(schema, source.inside("answer_schema"))
    try:
        template = LibraryTemplate(
            given.get("name") or name or "",
            messages,
            variables=variables,
            description=given.get("description") or "",
            template_format=given.get("format") or "f-string",
            answer_schema=schema,
        )
    except ConfigurationError as error:
        source.refuse(str(error), *_place_of(error))
    _check_version(given.get("version"), template, source)
    return template


def _check_version(version: str | None, template: LibraryTemplate, source: Source) -> None:
    if version is None or version == template.version:
        return
    if not _VERSION.fullmatch(version):
        message = f"expected 12 hexadecimal digits, got {version!r:.40}"
        source.refuse(message, "version")
    source.refuse(
        f"{template.name}: expected the version of the content, {template.version}, got {version}; "
        "the content was changed after it was written: take the version out to accept it",
        "version",
    )


def _place_of(error: ConfigurationError) -> FieldPath:
    """Return the message that an error of the template names, for its line."""
    found = re.search(r": message (\d+) \(", str(error))
    return ("messages", int(found[1]) - 1) if found else ()


def _variables(data: Any, source: Source) -> Iterator[Variable]:
    for name, told in _mapping({} if data is None else data, source).items():
        here = source.inside(name)
        # A text alone is the description.
        given = {"description": told} if isinstance(told, str) else told
        known = dict(_mapping(given, here, _VARIABLE_FIELDS))
        _refuse_odd(known, here)
        if "choices" in known:
            if not isinstance(known["choices"], list):
                here.refuse(f"expected a list of texts, got {known['choices']!r:.60}", "choices")
            known["choices"] = tuple(known["choices"])
        if known.get("default") is not None:
            known.setdefault("required", False)
        known.setdefault("description", "")
        try:
            yield Variable(name=name, **known)
        except ConfigurationError as error:
            here.refuse(str(error).partition(": ")[2])


def _messages(data: Any, source: Source) -> Iterator[TemplateMessage]:
    if not isinstance(data, list) or not data:
        source.refuse(f"expected a list of messages such as `- human: ...`, got {data!r:.60}")
    for n, told in enumerate(data):
        here = source.inside(n)
        given = _mapping(told, here, ROLES)
        if len(given) != 1:
            here.refuse(f"expected one role, got {', '.join(given) or 'none'}; begin each with `-`")
        ((role, content),) = given.items()
        _refuse_odd(content, here.inside(role))
        yield TemplateMessage(role, content)  # type: ignore[arg-type]  # one of ROLES, as was seen


def _mapping(data: Any, source: Source, known: Sequence[str] = ()) -> Mapping[str, Any]:
    if not isinstance(data, dict):
        source.refuse(f"expected fields with values, got {data!r:.60}")
    for key in data:
        if not isinstance(key, str):
            source.refuse(f"expected names of fields, got {key!r:.60}; quote it")
        if known and key not in known:
            near = get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
            source.refuse(f"this field is not known; {hint}", key)
    return data


def _refuse_odd(value: Any, source: Source, depth: int = 0) -> None:
    """Refuse what JSON does not have: YAML reads `2026-01-01` as a date and `.nan` as a number."""
    if depth > _MOST_NESTED:
        source.refuse("nested too deeply")
    if isinstance(value, dict):
        for key, each in _mapping(value, source).items():
            _refuse_odd(each, source.inside(key), depth + 1)
    elif isinstance(value, list):
        for n, each in enumerate(value):
            _refuse_odd(each, source.inside(n), depth + 1)
    elif not isinstance(value, str | int | float | None) or value in (float("inf"), -float("inf")):
        source.refuse(f"expected text, numbers, lists and fields, got {value!r:.60}; quote it")
    elif value != value:  # noqa: PLR0124 - so is NaN alone
        source.refuse("expected a number, got .nan")


def _refuse_doubles(node: Any, source: Source) -> None:
    if isinstance(node, yaml.SequenceNode):
        for n, each in enumerate(node.value):
            _refuse_doubles(each, source.inside(n))
    if isinstance(node, yaml.MappingNode):
        seen: set[Hashable] = set()
        for key, value in node.value:
            if key.value in seen if isinstance(key.value, Hashable) else False:
                source.refuse("this field is given twice; keep one", str(key.value))
            seen.add(key.value if isinstance(key.value, Hashable) else None)
            _refuse_doubles(value, source.inside(str(key.value)))


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the field {twice!r:.60} twice")
    return found


def _constant(text: str) -> NoReturn:
    raise ValueError(f"the number {text}")
