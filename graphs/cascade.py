"""A small model answers, a check reads the answer, and a large model steps in where it must.

Serve it with `langgraph dev`; it needs OPENAI_API_KEY. The models are read from
TOKENOPT_SMALL_MODEL and TOKENOPT_LARGE_MODEL.
"""

import os
from functools import cache
from typing import Any

from langchain_openai import ChatOpenAI
from langgraph.graph.state import CompiledStateGraph

from langchain_tokenopt.caches import CachedChatModel, MemoryCache
from langchain_tokenopt.routing import (
    Tier,
    create_cascade,
    longer_than,
    mentions,
    no_refusal,
    not_empty,
    not_truncated,
)


@cache
def graph() -> CompiledStateGraph[Any, Any, Any, Any]:
    """Return the compiled graph, made on first use: importing this file needs no key."""
    answers = MemoryCache()
    small = ChatOpenAI(model=os.environ.get("TOKENOPT_SMALL_MODEL", "gpt-5-mini"))
    large = ChatOpenAI(model=os.environ.get("TOKENOPT_LARGE_MODEL", "gpt-5.1"))
    return create_cascade(
        [
            Tier("small", CachedChatModel(small, cache=answers)),
            Tier("large", CachedChatModel(large, cache=answers)),
        ],
        rules=[
            longer_than(4_000, tier="large"),
            mentions("contract", "legal", "medical", tier="large"),
        ],
        checks=[not_empty, not_truncated, no_refusal],
    ).compile(name="cascade")
