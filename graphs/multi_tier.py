"""From a cached answer to the largest model: cache, rules, likeness, context, small, gate, large.

Serve it with `langgraph dev`; it needs OPENAI_API_KEY. The models are read from
TOKENOPT_SMALL_MODEL and TOKENOPT_LARGE_MODEL; answers are kept in memory, or for longer and for
other processes at TOKENOPT_CACHE, a path or the URL of a Redis. Without the extra `local` it goes
without likeness. A request is treated as the assistant's context says: see `MultiTierContext`.
"""

import os
from functools import cache
from typing import Any

from langchain_core.caches import BaseCache
from langchain_openai import ChatOpenAI
from langgraph.graph.state import CompiledStateGraph

from langchain_tokenopt.caches import CachedChatModel, MemoryCache, SemanticCache, TieredCache
from langchain_tokenopt.embeddings import StaticEmbeddings
from langchain_tokenopt.errors import MissingExtraError
from langchain_tokenopt.prompts import ContextWindow
from langchain_tokenopt.routing import (
    Tier,
    longer_than,
    mentions,
    no_refusal,
    not_empty,
    not_truncated,
)
from langchain_tokenopt.stack import create_multi_tier, current_tenant


@cache
def graph() -> CompiledStateGraph[Any, Any, Any, Any]:
    """Return the compiled graph, made on first use: importing this file needs no key."""
    small = ChatOpenAI(model=os.environ.get("TOKENOPT_SMALL_MODEL", "gpt-5-mini"))
    large = ChatOpenAI(model=os.environ.get("TOKENOPT_LARGE_MODEL", "gpt-5.1"))
    # So that identical requests of a tenant at the same time share their calls.
    in_flight = MemoryCache(tenant=current_tenant)
    return create_multi_tier(
        [
            Tier("small", CachedChatModel(small, cache=in_flight)),
            Tier("large", CachedChatModel(large, cache=in_flight)),
        ],
        cache=answers(),
        similar=similar(),
        rules=[
            longer_than(4_000, tier="large"),
            mentions("contract", "legal", "medical", tier="large"),
        ],
        prepare=ContextWindow(small, max_tokens=8_000),
        checks=[not_empty, not_truncated, no_refusal],
    ).compile(name="multi_tier")


def answers() -> BaseCache:
    """Return the cache of whole answers."""
    where = os.environ.get("TOKENOPT_CACHE")
    return TieredCache.default(where) if where else MemoryCache()


def similar() -> BaseCache | None:
    """Return the cache of answers to like questions, if there are embeddings for it."""
    try:
        embeddings = StaticEmbeddings()
    except MissingExtraError:
        return None
    return SemanticCache(embeddings, max_error_rate=0.01)
