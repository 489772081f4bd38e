"""What a template wants to be given: each variable with its kind, its limits and an example."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from decimal import Decimal
from typing import Any, Literal, get_args

from langchain_core.messages import BaseMessage, convert_to_messages

from langchain_tokenopt.errors import ConfigurationError
from langchain_tokenopt.prompts.library_text import is_name
from langchain_tokenopt.prompts.shape import canonical_json
from langchain_tokenopt.tokens import counter_for

VariableType = Literal["text", "number", "choice", "list", "messages"]
_TYPES: tuple[str, ...] = get_args(VariableType)
# LangChain keeps the first for itself; the others are fields of its image template.
_RESERVED = frozenset({"stop", "url", "path", "detail"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Variable:
    """A variable of a template.

    Raises:
        ConfigurationError: The fields contradict each other.

    >>> language = Variable(name="language", description="Of the code.", example="Python")
    >>> language.problem_with(3)
    'expected a text, got 3 (int)'
    """

    name: str
    description: str
    type: VariableType = "text"
    """A list is written as JSON; messages take the place of a placeholder."""
    required: bool = True
    default: Any = None
    """Given where nothing is; nothing at all is written as an empty text."""
    choices: tuple[str, ...] = ()
    max_chars: int | None = None
    max_tokens: int | None = None
    """As `o200k_base` counts; of messages, all their tokens."""
    example: Any = None
    """A value as it may come: shown to people, and measured where no other value is known."""

    def __post_init__(self) -> None:
        problem = self._problem()
        if problem is not None:
            raise ConfigurationError(f"variable {self.name!r}: {problem}")

    def _problem(self) -> str | None:
        given: Any = self  # from a file, where anything may stand
        if not is_name(given.name) or given.name in _RESERVED:
            reserved = ", ".join(sorted(_RESERVED))
            return f"expected a name of letters, digits and _, and none of {reserved}"
        if not isinstance(given.description, str) or not given.description.strip():
            return f"expected a description of what it is, got {given.description!r}"
        if self.type not in _TYPES:
            return f"expected a type out of {', '.join(_TYPES)}, got {self.type!r}"
        if not isinstance(given.required, bool):
            return f"expected required to be true or false, got {self.required!r}"
        if self.required and self.default is not None:
            return f"a required variable has no default, got {self.default!r}; set required: false"
        return self._problem_of_limits() or self._problem_of_values()

    def _problem_of_limits(self) -> str | None:
        if bool(self.choices) is not (self.type == "choice"):
            return f"choices belong to the type choice, got {self.type} and {list(self.choices)}"
        choices: Any = self.choices
        if not all(isinstance(each, str) and each for each in choices):
            return f"expected texts as choices (quote yes, no and numbers), got {self.choices!r}"
        for name in ("max_chars", "max_tokens"):
            limit = getattr(self, name)
            if limit is not None and (type(limit) is not int or limit < 1):
                return f"expected a whole number from 1 as {name}, got {limit!r}"
        if self.max_chars is not None and self.type == "messages":
            return "messages are limited by max_tokens, got max_chars"
        return None

    def _problem_of_values(self) -> str | None:
        for name in ("default", "example"):
            value = getattr(self, name)
            told = None if value is None else self.problem_with(value)
            if told is not None:
                return f"its {name} does not fit: {told}"
        return None

    def problem_with(self, value: Any) -> str | None:
        """Return why a value cannot be used, `None` if it can."""
        told = _KINDS[self.type](value)
        if told is not None:
            return f"expected {told}, got {_seen(value)}"
        if self.choices and value not in self.choices:
            return f"expected one of {', '.join(self.choices)}, got {value!r}"
        return self._too_long(value)

    def _too_long(self, value: Any) -> str | None:
        if self.max_chars is None and self.max_tokens is None:
            return None
        written = self.written(value)
        if isinstance(written, list):
            tokens = counter_for(None).count_messages(written) if written else 0
        elif self.max_chars is not None and len(written) > self.max_chars:
            return f"expected at most {self.max_chars:,} characters, got {len(written):,}"
        elif self.max_tokens is None or len(written.encode(errors="replace")) <= self.max_tokens:
            return None  # no token is shorter than a byte: most values need not be counted
        else:
            tokens = counter_for(None).count_text(written)
        if self.max_tokens is not None and tokens > self.max_tokens:
            return f"expected at most {self.max_tokens:,} tokens, got {tokens:,}; shorten it"
        return None

    def written(self, value: Any) -> str | list[BaseMessage]:
        """Return a value that fits as it goes into the prompt; `None` stands for the default."""
        given = self.default if value is None else value
        if self.type == "messages":
            return convert_to_messages([] if given is None else given)
        if given is None:
            return ""
        if self.type == "list":
            return canonical_json(list(given))
        return str(given)

    def as_mapping(self) -> dict[str, Any]:
        """Return the fields that are not at their defaults, the name apart."""
        told = {field.name: getattr(self, field.name) for field in fields(self)}
        usual = {field.name: field.default for field in fields(self)}
        kept = {key: value for key, value in told.items() if value != usual[key] and key != "name"}
        return {
            key: list(value) if isinstance(value, tuple) else value for key, value in kept.items()
        }

    def contract(self) -> dict[str, Any]:
        """Return what callers depend on: all but description and example."""
        given = self.as_mapping()
        return {key: value for key, value in given.items() if key not in ("description", "example")}


def _text(value: Any) -> str | None:
    if not isinstance(value, str):
        return "a text"
    try:
        value.encode()
    except UnicodeEncodeError:
        return "a text that can be encoded as UTF-8"
    return None


def _number(value: Any) -> str | None:
    known = isinstance(value, int | float | Decimal) and not isinstance(value, bool)
    return None if known and math.isfinite(value) else "a number"


def _list(value: Any) -> str | None:
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Sequence):
        return "a list"
    # What is not JSON would be written as Python shows it, with addresses in memory perhaps.
    return None if all(map(_is_json, value)) else "a list of what JSON can hold"


def _is_json(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(isinstance(key, str) for key in value) and all(map(_is_json, value.values()))
    if isinstance(value, list | tuple):
        return all(map(_is_json, value))
    if isinstance(value, float):
        return math.isfinite(value)
    return value is None or isinstance(value, str | int | bool)


def _messages(value: Any) -> str | None:
    told = "a list of messages"
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Sequence):
        return told
    try:
        convert_to_messages(list(value))
    except (ValueError, TypeError, KeyError, NotImplementedError):
        return told
    return None


_KINDS = {
    "text": _text,
    "number": _number,
    "choice": _text,
    "list": _list,
    "messages": _messages,
}


def _seen(value: Any) -> str:
    return f"{value!r:.60} ({type(value).__name__})"
