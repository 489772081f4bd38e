"""What tool definitions cost in tokens.

OpenAI sends a definition to the model as a typed declaration of its own. The constants are those
of its cookbook (How to count tokens with tiktoken, section 7), which agree with the API's counts
for the example there; nested schemas, which the cookbook leaves out, are counted alike.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from langchain_core.utils.function_calling import convert_to_openai_tool

CountText = Callable[[str], int]

_TOOL = 7
_TOOL_CL100K = 10
_PROPERTIES = 3
_PROPERTY = 3
_ENUM = -3
_CHOICE = 3
_END = 12


def tools_tokens(tools: Sequence[Any], *, count_text: CountText, encoding: str) -> int:
    """Return the tokens of the definitions of `tools`, in any form that `bind_tools` takes."""
    if not tools:
        return 0
    start = _TOOL_CL100K if encoding == "cl100k_base" else _TOOL
    return _END + sum(_tool(tool, start=start, count_text=count_text) for tool in tools)


def _tool(tool: Any, *, start: int, count_text: CountText) -> int:
    if isinstance(tool, dict) and "type" in tool and "function" not in tool:
        # A tool that the provider runs itself, web search for one: no formula is known.
        return start + count_text(json.dumps(tool, ensure_ascii=False, default=str))
    function = convert_to_openai_tool(tool)["function"]
    line = f"{function['name']}:{_without_stop(function.get('description'))}"
    parameters = function.get("parameters") or {}
    return (
        start
        + count_text(line)
        + (_PROPERTIES if parameters.get("properties") else 0)
        + sum(_property(*named, count_text) for named in _properties_of(parameters))
    )


def _property(name: str, schema: dict[str, Any], count_text: CountText) -> int:
    line = f"{name}:{_type_of(schema)}:{_without_stop(schema.get('description'))}"
    count = _PROPERTY + count_text(line)
    choices = schema.get("enum") or ()
    if choices:
        count += _ENUM + sum(_CHOICE + count_text(str(choice)) for choice in choices)
    return count + sum(_property(*named, count_text) for named in _properties_of(schema))


def _properties_of(schema: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the named properties of an object, and of the objects in a list or a union."""
    for name, inner in (schema.get("properties") or {}).items():
        if isinstance(inner, dict):
            yield name, inner
    nested = [schema.get("items"), *(schema.get("anyOf") or ())]
    for inner in nested:
        if isinstance(inner, dict):
            yield from _properties_of(inner)


def _type_of(schema: dict[str, Any]) -> str:
    kind = schema.get("type")
    if kind is None and schema.get("anyOf"):
        kind = [_type_of(choice) for choice in schema["anyOf"] if isinstance(choice, dict)]
    return " | ".join(map(str, kind)) if isinstance(kind, list) else str(kind or "object")


def _without_stop(description: Any) -> str:
    return str(description or "").removesuffix(".")
