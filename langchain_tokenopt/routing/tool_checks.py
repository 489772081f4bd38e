"""Checks of structured answers: JSON of a schema, and arguments that the called tools take.

A tool call is no better for being one: a small model invents tools, leaves arguments out and gives
text for numbers.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from langchain_core.runnables import Runnable
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool
from langchain_core.utils.json_schema import dereference_refs
from pydantic import BaseModel, TypeAdapter, ValidationError

from langchain_tokenopt.errors import ConfigurationError
from langchain_tokenopt.routing.attempt import Attempt, Check, Verdict

_TYPES: dict[str, type | tuple[type, ...]] = {
    "object": Mapping,
    "array": list,
    "string": str,
    "number": (int, float),
    "integer": int,
    "boolean": bool,
    "null": type(None),
}


def matches(schema: type[Any]) -> Check:
    """Return a check that accepts an answer whose text is JSON of a pydantic or Python type.

    A fence of three backquotes around it is allowed.

    >>> from langchain_core.messages import AIMessage
    >>> from langchain_tokenopt.routing.attempt import attempt_of
    >>> check = matches(dict[str, int])
    >>> check("?", attempt_of(AIMessage('{"a": "one"}'), tier="small", latency_s=0)).accepted
    False
    """
    adapter = TypeAdapter(schema)

    def matches_schema(question: str, attempt: Attempt) -> Verdict:
        text = attempt["text"].strip()
        if text.startswith("```") and text.endswith("```"):
            text = text.removesuffix("```").partition("\n")[2]
        try:
            adapter.validate_json(text)
        except ValidationError as error:
            return Verdict(accepted=False, reason=f"the answer is no {_named(schema, error)}")
        return Verdict(accepted=True, reason="the answer matches the schema")

    return matches_schema


def tool_arguments(tools: Sequence[Any]) -> Check:
    """Return a check that accepts an answer whose tool calls all suit their tools.

    Of a JSON schema's rules these are checked: types, required and further properties, `enum`,
    `const`, items and `anyOf`; a tool with a pydantic model is checked by that.

    Args:
        tools: As they are bound: tools, functions, pydantic classes or dicts.

    >>> from langchain_core.messages import AIMessage
    >>> from langchain_tokenopt.routing.attempt import attempt_of
    >>> def add(a: int, b: int) -> int:
    ...     '''Add two numbers.'''
    ...     return a + b
    >>> call = {"name": "add", "args": {"a": 1}, "id": "1"}
    >>> draft = attempt_of(AIMessage("", tool_calls=[call]), tier="small", latency_s=0)
    >>> tool_arguments([add])("1 + 2?", draft).reason
    "the arguments of add do not fit: 'b' is missing"
    """
    known = dict(map(_schema_of, tools))

    def tool_arguments_fit(question: str, attempt: Attempt) -> Verdict:
        for call in attempt["tool_calls"]:
            name = call["name"]
            if name not in known:
                return Verdict(accepted=False, reason=f"there is no tool {name!r}")
            problem = _problem(call["args"], known[name])
            if problem is not None:
                reason = f"the arguments of {name} do not fit: {problem}"
                return Verdict(accepted=False, reason=reason)
        return Verdict(accepted=True, reason="every tool call suits its tool")

    return tool_arguments_fit


def bound_tools(model: Runnable[Any, Any]) -> list[Any]:
    """Return the tools bound to a model, none if there are none."""
    found = getattr(model, "kwargs", {}).get("tools") or []
    return list(found)


def _schema_of(tool: Any) -> tuple[str, Any]:
    written = convert_to_openai_tool(tool)
    function = written.get("function")
    if not isinstance(function, Mapping):
        message = f"expected a tool that a model can be given, got {tool!r:.80}"
        raise ConfigurationError(message)
    model = tool.tool_call_schema if isinstance(tool, BaseTool) else tool
    if isinstance(model, type) and issubclass(model, BaseModel):
        return str(function["name"]), model
    return str(function["name"]), dereference_refs(dict(function.get("parameters") or {}))


def _problem(value: Any, schema: Any) -> str | None:
    if isinstance(schema, type) and issubclass(schema, BaseModel):
        try:
            schema.model_validate(value)
        except ValidationError as error:
            return _first(error)
        return None
    return _broken_rule(value, schema, "the value")


def _broken_rule(value: Any, schema: Mapping[str, Any], name: str) -> str | None:
    if "anyOf" in schema:
        if any(_broken_rule(value, each, name) is None for each in schema["anyOf"]):
            return None
        return f"{name} is none of what is allowed"
    allowed = schema.get("enum", [schema["const"]] if "const" in schema else None)
    kind = schema.get("type") or []
    kinds = [kind] if isinstance(kind, str) else list(kind)
    if allowed is not None and value not in allowed:
        return f"{name} is not one of {', '.join(map(repr, allowed))}"
    if kinds and not any(_is(value, each) for each in kinds):
        return f"{name} is no {' or '.join(kinds)}"
    return _broken_part(value, schema, name)


def _broken_part(value: Any, schema: Mapping[str, Any], name: str) -> str | None:
    if isinstance(value, Mapping):
        return _broken_property(value, schema)
    if isinstance(value, list) and isinstance(schema.get("items"), Mapping):
        broken = (_broken_rule(item, schema["items"], f"an item of {name}") for item in value)
        return next((problem for problem in broken if problem is not None), None)
    return None


def _broken_property(value: Mapping[str, Any], schema: Mapping[str, Any]) -> str | None:
    properties = schema.get("properties", {})
    for name in schema.get("required", ()):
        if name not in value:
            return f"{name!r} is missing"
    for name, item in value.items():
        if name in properties:
            problem = _broken_rule(item, properties[name], repr(name))
            if problem is not None:
                return problem
        elif schema.get("additionalProperties") is False:
            return f"{name!r} is not known"
    return None


def _is(value: Any, kind: str) -> bool:
    # True is an int for Python, not for JSON.
    if isinstance(value, bool):
        return kind == "boolean"
    return isinstance(value, _TYPES.get(kind, object))


def _named(schema: Any, error: ValidationError) -> str:
    return f"{getattr(schema, '__name__', str(schema))}: {_first(error)}"


def _first(error: ValidationError) -> str:
    first = error.errors()[0]
    where = ".".join(map(str, first["loc"]))
    return f"{where}: {first['msg']}" if where else str(first["msg"])
