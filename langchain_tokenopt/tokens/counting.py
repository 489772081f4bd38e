"""Counting the tokens of texts, messages and tools as the provider bills them."""

import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from typing import Any, Protocol

from langchain_core.messages import AIMessage, BaseMessage, ChatMessage, ToolMessage
from langchain_core.utils.function_calling import convert_to_openai_tool

from langchain_tokenopt.tokens import bpe, estimate
from langchain_tokenopt.tokens.encodings import encoding_of
from langchain_tokenopt.tokens.images import image_tokens


class TokenCounter(Protocol):
    """Counts for one model."""

    @property
    def name(self) -> str:
        """What counts, for a report: `toktok-rs/o200k_base`, `tiktoken/o200k_base`, `estimate`."""
        ...

    @property
    def estimated(self) -> bool:
        """Whether the counts are estimates: no vocabulary, or not the provider's own."""
        ...

    def count_text(self, text: str) -> int:
        """Return the tokens of a text; special tokens in it count as ordinary text."""
        ...

    def count_messages(self, messages: Sequence[BaseMessage], *, tools: Sequence[Any] = ()) -> int:
        """Return the input tokens of a request with these messages and tools."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class _Counter:
    name: str
    estimated: bool
    model: str | None
    count: Callable[[str], int]

    def count_text(self, text: str) -> int:
        try:
            return self.count(text)
        except UnicodeEncodeError:
            # Lone surrogates: counted as the replacement character, as tiktoken does.
            clean = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
            return self.count(clean)

    def count_messages(self, messages: Sequence[BaseMessage], *, tools: Sequence[Any] = ()) -> int:
        # OpenAI's cookbook: three tokens frame a message, three prime the answer.
        count = 3 + sum(self._message(message) for message in messages)
        return count + (self._tools(tools) if tools else 0)

    def _message(self, message: BaseMessage) -> int:
        count = 3 + self.count_text(_role(message))
        if message.name:
            count += 1 + self.count_text(message.name)
        count += self._content(message.content)
        if isinstance(message, ToolMessage):
            count += 3
        if isinstance(message, AIMessage):
            for call in message.tool_calls:
                arguments = json.dumps(call["args"], ensure_ascii=False)
                count += self.count_text(call["name"]) + self.count_text(arguments)
        return count

    def _content(self, content: str | list[Any]) -> int:
        if isinstance(content, str):
            return self.count_text(content)
        return sum(self._block(block) for block in content)

    def _block(self, block: Any) -> int:
        if isinstance(block, str):
            return self.count_text(block)
        kind = block.get("type")
        if kind in ("image_url", "image", "input_image"):
            return image_tokens(block, model=self.model).tokens
        if kind in ("tool_use", "tool_call", "function_call"):
            return 0  # counted by the message's `tool_calls`
        text = block.get("text") or block.get("reasoning") or block.get("thinking")
        return self.count_text(text) if isinstance(text, str) else 0

    def _tools(self, tools: Sequence[Any]) -> int:
        """Count tool schemas; OpenAI documents no formula, so this is close, not exact.

        A schema is sent as a typed declaration. The constants are those of OpenAI's cookbook
        (How to count tokens with tiktoken, section 7).
        """
        small = encoding_of(self.model).name == "cl100k_base"
        start, key, end = (10 if small else 7), 3, 12
        return end + sum(self._tool(convert_to_openai_tool(tool), start, key) for tool in tools)

    def _tool(self, tool: dict[str, Any], start: int, key: int) -> int:
        function = tool.get("function") or {}
        described = f"{function.get('name', '')}:{(function.get('description') or '').rstrip('.')}"
        count = start + self.count_text(described)
        properties = (function.get("parameters") or {}).get("properties") or {}
        return count + (key if properties else 0) + self._properties(properties, key)

    def _properties(self, properties: dict[str, Any], key: int) -> int:
        count = 0
        for name, schema in properties.items():
            if not isinstance(schema, dict):
                continue
            kind = schema.get("type", "object")
            described = str(schema.get("description") or "").rstrip(".")
            count += key + self.count_text(f"{name}:{kind}:{described}")
            for choice in schema.get("enum") or ():
                count += 3 + self.count_text(str(choice))
            inner = schema.get("properties") or (schema.get("items") or {})
            inner = inner.get("properties", inner) if isinstance(inner, dict) else {}
            nested = {k: v for k, v in inner.items() if isinstance(v, dict)}
            count += self._properties(nested, key)
        return count


_LOCK = threading.Lock()


def counter_for(model: str | None = None) -> TokenCounter:
    """Return what counts best for `model` on this machine.

    In order: toktok-rs (the extra `fast`), tiktoken if its vocabulary is on this machine, a
    labelled estimate. Nothing is ever downloaded. Counts of models that are not OpenAI's are
    labelled as estimates too, whatever counts them.

    >>> counter_for("claude-sonnet-4-5").estimated
    True
    """
    encoding = encoding_of(model)
    backend = _backend(encoding.name)
    return _Counter(
        name=backend.name,
        estimated=not (backend.exact and encoding.exact),
        model=model,
        count=backend.count,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Backend:
    name: str
    exact: bool
    count: Callable[[str], int]


def _backend(encoding: str) -> _Backend:
    with _LOCK:  # a vocabulary takes a third of a second to load: once is enough
        return _load(encoding)


@lru_cache(maxsize=8)
def _load(encoding: str) -> _Backend:
    if find_spec("toktok") is not None:
        from langchain_tokenopt.tokens import fast  # noqa: PLC0415 - needs its extra

        count = fast.load(encoding)
        if count is not None:
            return _Backend(name=f"toktok-rs/{encoding}", exact=True, count=count)
    count = bpe.load(encoding)
    if count is not None:
        return _Backend(name=f"tiktoken/{encoding}", exact=True, count=count)
    return _Backend(name="estimate", exact=False, count=estimate.count)


def _role(message: BaseMessage) -> str:
    if isinstance(message, ChatMessage):
        return message.role
    return {"human": "user", "ai": "assistant"}.get(message.type, message.type)
