"""Serves the steps of an agent that were answered before."""

from typing import Any

from langchain.agents.middleware import ModelRequest
from langchain_core.caches import BaseCache
from langchain_core.language_models import BaseChatModel
from typing_extensions import override

from langchain_tokenopt.caches import CachedChatModel
from langchain_tokenopt.middleware.rewriting import RewritingMiddleware


class ResponseCacheMiddleware(RewritingMiddleware):
    """Puts a cache around an agent's model: the same step with the same tools is one call.

    A step is found again only if the whole conversation before it is the same; `SemanticCache`
    finds like questions, but never after a tool's result. Identical steps at the same time share
    one call. A `cache_control()` block around the agent reaches it.

    Args:
        cache: Any LangChain cache.

    >>> from langchain.agents import create_agent
    >>> from langchain_tokenopt.caches import MemoryCache
    >>> from langchain_tokenopt.testing import ScriptedModel
    >>> model = ScriptedModel(["four"])
    >>> agent = create_agent(model, middleware=[ResponseCacheMiddleware(MemoryCache())])
    >>> for _ in range(2):
    ...     _ = agent.invoke({"messages": [("user", "2 + 2?")]})
    >>> model.calls
    1
    """

    def __init__(self, cache: BaseCache) -> None:
        super().__init__()
        self._cache = cache

    @override
    def _rewritten(self, request: ModelRequest[Any]) -> ModelRequest[Any]:
        model: Any = request.model
        if not isinstance(model, BaseChatModel):  # one that is chosen by the config
            return request
        # Wrappers of one cache know each other's calls in flight.
        return request.override(model=CachedChatModel(model, cache=self._cache))
