"""Middleware that changes what an agent's model is asked, and neither answer nor state."""

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from typing import Any

from langchain.agents.middleware import AgentMiddleware, ModelRequest, ModelResponse
from typing_extensions import override

from langchain_tokenopt.middleware.order import inside


class RewritingMiddleware(AgentMiddleware[Any, Any, Any], ABC):
    """Sends the handler what `_rewritten` makes of a request."""

    @override
    def wrap_model_call(
        self,
        request: ModelRequest[Any],
        handler: Callable[[ModelRequest[Any]], ModelResponse[Any]],
    ) -> ModelResponse[Any]:
        with inside(self):
            return handler(self._rewritten(request))

    @override
    async def awrap_model_call(
        self,
        request: ModelRequest[Any],
        handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]],
    ) -> ModelResponse[Any]:
        with inside(self):
            return await handler(await self._arewritten(request))

    @abstractmethod
    def _rewritten(self, request: ModelRequest[Any]) -> ModelRequest[Any]:
        """Return what the model is sent instead."""

    async def _arewritten(self, request: ModelRequest[Any]) -> ModelRequest[Any]:
        """Return the same on an event loop; to be overridden where it would block."""
        return self._rewritten(request)
