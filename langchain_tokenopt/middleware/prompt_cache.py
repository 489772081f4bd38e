"""Lays out an agent's requests for the provider's prompt cache, and tells it what to cache."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from langchain.agents.middleware import ModelRequest
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import BaseMessage, HumanMessage, SystemMessage
from langgraph.config import get_config
from typing_extensions import override

from langchain_tokenopt.errors import ConfigurationError
from langchain_tokenopt.middleware.rewriting import RewritingMiddleware
from langchain_tokenopt.prompts.hints import CacheHints, hinted, model_and_provider


class PromptCacheMiddleware(RewritingMiddleware):
    """Does for OpenAI, Anthropic and any other provider what each needs to cache an agent's prefix.

    Tools are sorted by name. OpenAI gets a `prompt_cache_key` that changes only when the prefix
    does, and, from gpt-5.6 on, a breakpoint and options that keep it from writing what is asked
    once; Anthropic gets `cache_control` on the system prompt and, in a conversation, on its end.
    A prefix below the provider's minimum is not marked. Marks and options of another provider are
    taken off: list it after a `ModelFallbackMiddleware`, so that it sees each model that is tried.

    Args:
        hints: What to tell.
        volatile: Regular expressions of lines in the system prompt that change from request to
            request (`r"^Current time:"`). They are moved in front of the last human turn, where
            they break no prefix.

    Raises:
        ConfigurationError: An expression is wrong.
    """

    def __init__(self, hints: CacheHints | None = None, *, volatile: Sequence[str] = ()) -> None:
        super().__init__()
        self._hints = hints or CacheHints()
        try:
            self._volatile = [re.compile(pattern) for pattern in volatile]
        except re.error as error:
            message = f"expected regular expressions, got {volatile!r}: {error}"
            raise ConfigurationError(message) from error

    @override
    def _rewritten(self, request: ModelRequest[Any]) -> ModelRequest[Any]:
        system, messages = self._settled(request.system_message, list(request.messages))
        model: Any = request.model
        if not isinstance(model, BaseChatModel):  # one that is chosen by the config
            return request
        name, provider = model_and_provider(model)
        told = hinted(
            [*([system] if system else []), *messages],
            {**request.model_settings, "tools": request.tools},
            model=name,
            provider=provider,
            hints=self._hints,
            metadata=_metadata(),
        )
        keywords = dict(told.keywords)
        tools = keywords.pop("tools", request.tools)
        first = told.messages[0] if told.messages else None
        if system is not None and isinstance(first, SystemMessage):
            system, messages = first, list(told.messages[1:])
        else:
            messages = list(told.messages)
        return request.override(
            system_message=system,
            messages=messages,
            tools=tools,
            model_settings=keywords,
        )

    def _settled(
        self, system: SystemMessage | None, messages: list[Any]
    ) -> tuple[SystemMessage | None, list[Any]]:
        """Move the lines that change behind what does not."""
        if system is None or not self._volatile or not isinstance(system.content, str):
            return system, messages
        lines = system.content.split("\n")
        moved = [line for line in lines if any(each.search(line) for each in self._volatile)]
        last = next(
            (n for n in reversed(range(len(messages))) if isinstance(messages[n], HumanMessage)),
            None,
        )
        if not moved or last is None:
            return system, messages
        kept = "\n".join(line for line in lines if line not in moved)
        messages[last] = _with_context(messages[last], "\n".join(moved))
        return system.model_copy(update={"content": kept}), messages


def _with_context(message: BaseMessage, context: str) -> BaseMessage:
    told = f"<context>\n{context}\n</context>"
    content: Any = message.content
    if isinstance(content, str):
        content = f"{told}\n\n{content}"
    else:
        content = [{"type": "text", "text": told}, *content]
    return message.model_copy(update={"content": content})


def _metadata() -> Mapping[str, Any]:
    try:
        config = get_config()
    except RuntimeError:  # outside of a graph
        return {}
    return {**(config.get("configurable") or {}), **(config.get("metadata") or {})}
