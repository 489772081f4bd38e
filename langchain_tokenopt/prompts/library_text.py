"""What a text of a template is made of: words as they are, variables, and parts shown if one is.

Only plain names are variables. `{user.__class__}`, `{items[0]}`, `{x!r}` and `{x:>10}` are refused,
so that a file somebody else wrote cannot reach into the values it is given.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from string import Formatter
from typing import Literal, TypeAlias, TypeVar, cast

from langchain_core.utils.mustache import ChevronError, tokenize

from langchain_tokenopt.errors import ConfigurationError

TemplateFormat = Literal["f-string", "mustache"]
FORMATS: tuple[TemplateFormat, ...] = ("f-string", "mustache")

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# `{{name}}` would write `&lt;` for `<`: right for HTML, wrong for a model.
_ESCAPING = re.compile(r"(?<!\{)\{\{\s*([A-Za-z_][A-Za-z0-9_]*)\s*\}\}(?!\})")
_KNOWN_TAGS = frozenset({"variable", "no escape", "section", "inverted section"})
_SIGNS = {"partial": ">", "set delimiter": "=", "section": "#", "inverted section": "^"}
_HINT: dict[TemplateFormat, str] = {
    "f-string": "write braces that are no variable twice: {{ and }}",
    "mustache": "write {{name}}, or {{#name}}...{{/name}} for what is shown if it has a value",
}


@dataclass(frozen=True, slots=True)
class Field:
    """Where the value of a variable goes."""

    name: str


@dataclass(frozen=True, slots=True)
class Section:
    """What is shown only if a variable has a value; if it has none, where `inverted`."""

    name: str
    inverted: bool
    inner: "tuple[Segment, ...]"


Segment: TypeAlias = str | Field | Section
_SegmentT = TypeVar("_SegmentT", bound=Segment)


def is_name(text: object) -> bool:
    """Return whether a variable can have this name.

    >>> is_name("language"), is_name("user.name"), is_name("__class__")
    (True, False, False)
    """
    return isinstance(text, str) and bool(_NAME.fullmatch(text)) and not text.startswith("__")


def segments_of(text: str, template_format: TemplateFormat) -> tuple[Segment, ...]:
    """Return what a text is made of.

    Raises:
        ConfigurationError: It cannot be read, or names anything but a plain variable.

    >>> segments_of("Hello {name}, {{you}}", "f-string")
    ('Hello ', Field(name='name'), ', {you}')
    """
    try:
        parse = _parse_f_string if template_format == "f-string" else _parse_mustache
        found: list[Segment] = list(parse(text))
    except (ValueError, ChevronError) as error:
        if isinstance(error, ConfigurationError):
            raise
        told = str(error).replace("\n", ", ")
        message = f"a {template_format} template cannot be read: {told}; {_HINT[template_format]}"
        raise ConfigurationError(message) from None
    return tuple(_merged(found))


def for_langchain(text: str, template_format: TemplateFormat) -> str:
    """Return the text in the form in which LangChain puts in values as they are."""
    return _ESCAPING.sub(r"{{&\1}}", text) if template_format == "mustache" else text


def names_in(segments: Sequence[Segment]) -> set[str]:
    """Return the variables that the segments use."""
    found = set()
    for segment in segments:
        if isinstance(segment, Field | Section):
            found.add(segment.name)
        if isinstance(segment, Section):
            found |= names_in(segment.inner)
    return found


def shown(segments: Sequence[Segment], *, filled: frozenset[str]) -> tuple[str | Field, ...]:
    """Return the words and variables that are shown if the variables `filled` have a value."""
    return tuple(_merged(_shown(segments, filled)))


def filled_in(segments: Sequence[Segment], values: Mapping[str, str]) -> str:
    """Return the text with its values."""
    filled = frozenset(name for name, value in values.items() if value)
    return "".join(
        values.get(each.name, "") if isinstance(each, Field) else each
        for each in shown(segments, filled=filled)
    )


def outlined(segments: Sequence[Segment]) -> str:
    """Return the text with the names of its variables in braces, and all that may be shown."""
    told = []
    for segment in segments:
        if isinstance(segment, Field):
            told.append(f"{{{segment.name}}}")
        elif isinstance(segment, Section):
            sign = "^" if segment.inverted else "#"
            inner = outlined(segment.inner)
            told.append(f"{{{sign}{segment.name}}}{inner}{{/{segment.name}}}")
        else:
            told.append(segment)
    return "".join(told)


def as_plain(segments: Sequence[Segment]) -> list[object]:
    """Return lists and texts that are equal for equal segments, however they were written."""
    told: list[object] = []
    for segment in segments:
        if isinstance(segment, Field):
            told.append([segment.name])
        elif isinstance(segment, Section):
            sign = "^" if segment.inverted else "#"
            told.append([sign, segment.name, as_plain(segment.inner)])
        else:
            told.append(segment)
    return told


def _shown(segments: Sequence[Segment], filled: frozenset[str]) -> Iterator[str | Field]:
    for segment in segments:
        if not isinstance(segment, Section):
            yield segment
        elif (segment.name in filled) is not segment.inverted:
            yield from _shown(segment.inner, filled)


def _merged(segments: Iterable[_SegmentT]) -> Iterator[_SegmentT]:
    """Join texts that follow each other, and leave out empty ones."""
    texts: list[str] = []
    for segment in segments:
        if isinstance(segment, str):
            texts.append(segment)
            continue
        if any(texts):
            yield cast("_SegmentT", "".join(texts))
        texts = []
        yield segment
    if any(texts):
        yield cast("_SegmentT", "".join(texts))


def _parse_f_string(text: str) -> Iterator[Segment]:
    for literal, name, spec, conversion in Formatter().parse(text):
        yield literal
        if name is None:
            continue
        if spec or conversion or not is_name(name):
            sign = f"!{conversion}" if conversion else ""
            written = f"{{{name}{sign}{':' if spec else ''}{spec}}}"
            raise _refused(written, "f-string")
        yield Field(name)


def _parse_mustache(text: str) -> tuple[Segment, ...]:
    if text.endswith("{{"):
        raise ConfigurationError(f"a mustache template cannot end in {{{{; {_HINT['mustache']}")
    open_sections: list[tuple[str, bool, list[Segment]]] = [("", False, [])]
    for kind, told in tokenize(text):
        here = open_sections[-1][2]
        if kind == "literal":
            here.append(told)
        elif kind == "end":
            name, inverted, inner = open_sections.pop()
            section = Section(name, inverted=inverted, inner=tuple(_merged(inner)))
            open_sections[-1][2].append(section)
        elif kind not in _KNOWN_TAGS or not is_name(told):
            raise _refused(f"{{{{{_SIGNS.get(kind, '')}{told}}}}}", "mustache")
        elif kind in ("variable", "no escape"):
            here.append(Field(told))
        else:
            open_sections.append((told, kind == "inverted section", []))
    return tuple(open_sections[0][2])


def _refused(written: str, template_format: TemplateFormat) -> ConfigurationError:
    return ConfigurationError(
        f"expected the plain name of a variable in braces, got {written}; {_HINT[template_format]}"
    )
