"""Keeps an agent's requests within a number of tokens; its state keeps the whole conversation."""

from typing import Any

from langchain.agents.middleware import ModelRequest
from langchain_core.messages import SystemMessage
from typing_extensions import override

from langchain_tokenopt.middleware.rewriting import RewritingMiddleware
from langchain_tokenopt.prompts.context import ContextWindow
from langchain_tokenopt.prompts.context_report import FittedContext


class ContextMiddleware(RewritingMiddleware):
    """Shortens what an agent's model is sent, by a `ContextWindow`; tools and system prompt count.

    Nothing is removed from the agent's state: what is left out of one request can come back in a
    later one, and a checkpoint holds all of it. List it before a `PromptCacheMiddleware`, which
    marks what is sent.

    Args:
        window: Shortens; share one between agents, it keeps nothing of theirs apart from what it
            decided.

    Raises:
        ContextOverflowError: On a call: the request cannot be made to fit.

    >>> from langchain.agents import create_agent
    >>> from langchain_tokenopt.testing import ScriptedModel
    >>> window = ContextWindow("gpt-5-mini", max_tokens=8_000)
    >>> agent = create_agent(ScriptedModel(["four"]), middleware=[ContextMiddleware(window)])
    >>> agent.invoke({"messages": [("user", "2 + 2?")]})["messages"][-1].text
    'four'
    """

    def __init__(self, window: ContextWindow) -> None:
        super().__init__()
        self._window = window

    @override
    def _rewritten(self, request: ModelRequest[Any]) -> ModelRequest[Any]:
        return _with(request, self._window.fit(_all_of(request), tools=request.tools))

    @override
    async def _arewritten(self, request: ModelRequest[Any]) -> ModelRequest[Any]:
        return _with(request, await self._window.afit(_all_of(request), tools=request.tools))


def _all_of(request: ModelRequest[Any]) -> list[Any]:
    system = [request.system_message] if request.system_message else []
    return [*system, *request.messages]


def _with(request: ModelRequest[Any], fitted: FittedContext) -> ModelRequest[Any]:
    messages: list[Any] = list(fitted.messages)
    if request.system_message and messages and isinstance(messages[0], SystemMessage):
        messages = messages[1:]  # it is never changed
    return request.override(messages=messages)
