"""What of a request a provider's prompt cache sees, in the order in which it sees it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, ToolMessage
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import BaseModel

_ROLES = {"human": "user", "ai": "assistant"}
# They say how the prompt is cached, and are no part of it.
HINTS = ("cache_control", "prompt_cache_breakpoint")


def canonical_json(value: Any) -> str:
    """Return JSON that is equal for equal values: sorted keys, no spaces.

    >>> canonical_json({"b": 1, "a": {2, 1}})
    '{"a":[1,2],"b":1}'
    """
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=_plain
    )


def _plain(value: Any) -> Any:
    if isinstance(value, set | frozenset):
        return sorted(value, key=canonical_json)
    if isinstance(value, type) and issubclass(value, BaseModel):
        return value.model_json_schema()
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    return str(value)


@dataclass(frozen=True, slots=True)
class Part:
    """One tool or message as the cache compares it."""

    name: str
    """`tool:NAME`, or the role of a message."""
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestShape:
    """A request as a provider's prompt cache compares it with earlier ones."""

    model: str
    parts: tuple[Part, ...]
    """Tools in their order, then messages."""
    key: str | None = None
    """`prompt_cache_key`."""
    settings: tuple[tuple[str, str], ...] = ()
    """What else makes prefixes differ: service tier, response format, reasoning effort, ..."""

    @classmethod
    def of(
        cls,
        messages: Sequence[BaseMessage],
        *,
        model: str,
        parameters: Mapping[str, Any] | None = None,
    ) -> "RequestShape":
        """Return the shape of a request.

        Args:
            messages: Of the request, the system message among them.
            model: Name of the model.
            parameters: LangChain's `invocation_params`, or the keyword arguments of the call.
        """
        given = parameters or {}
        tools = (_tool(tool) for tool in given.get("tools") or ())
        reasoning = given.get("reasoning") or {}
        effort = given.get("reasoning_effort") or (
            reasoning.get("effort") if isinstance(reasoning, Mapping) else None
        )
        told = {
            "service_tier": given.get("service_tier"),
            "text_format": given.get("response_format") or given.get("text"),
            "reasoning_effort": effort,
            "verbosity": given.get("verbosity"),
        }
        key = given.get("prompt_cache_key")
        return cls(
            model=model,
            parts=(*tools, *(_message(message) for message in messages)),
            key=None if key is None else str(key),
            settings=tuple(
                (name, canonical_json(value)) for name, value in told.items() if value is not None
            ),
        )

    def setting(self, name: str) -> str | None:
        """Return one of the settings."""
        return dict(self.settings).get(name)

    @property
    def tools(self) -> tuple[Part, ...]:
        """The tools."""
        return tuple(part for part in self.parts if part.name.startswith("tool:"))

    @property
    def messages(self) -> tuple[Part, ...]:
        """The messages."""
        return tuple(part for part in self.parts if not part.name.startswith("tool:"))

    def text(self) -> str:
        """Return all of it in the order in which it is read."""
        return "\n".join(f"{part.name}\n{part.text}" for part in self.parts)


def version_of(parts: Sequence[Part]) -> str:
    """Return a name for parts that changes whenever any of them does: 12 hexadecimal digits."""
    content = canonical_json([[part.name, part.text] for part in parts])
    return sha256(content.encode(errors="surrogatepass")).hexdigest()[:12]


def _tool(tool: Any) -> Part:
    if isinstance(tool, Mapping):
        bare = {key: value for key, value in tool.items() if key not in HINTS}
        inner = bare.get("function")
        name = (inner or bare).get("name") if isinstance(inner or bare, Mapping) else None
        # The order of keys counts: providers compare what they are sent.
        text = json.dumps(bare, ensure_ascii=False, default=_plain)
        return Part(f"tool:{name or bare.get('type')}", text)
    schema = convert_to_openai_tool(tool)
    return Part(f"tool:{schema['function']['name']}", json.dumps(schema, ensure_ascii=False))


def _message(message: BaseMessage) -> Part:
    content = message.content
    text = content if isinstance(content, str) else "".join(map(_block, content))
    if isinstance(message, AIMessage) and message.tool_calls:
        calls = [{"name": call["name"], "args": call["args"]} for call in message.tool_calls]
        text += json.dumps(calls, ensure_ascii=False, default=_plain)
    role = _ROLES.get(message.type, message.type)
    return Part("tool result" if isinstance(message, ToolMessage) else role, text)


def _block(block: Any) -> str:
    if isinstance(block, str):
        return block
    if block.get("type") in ("text", "input_text", "output_text"):
        return str(block.get("text", ""))
    bare = {key: value for key, value in block.items() if key not in (*HINTS, "id", "index")}
    return json.dumps(bare, ensure_ascii=False, default=_plain)
