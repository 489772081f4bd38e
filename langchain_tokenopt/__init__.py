"""Spend fewer tokens in LangChain and LangGraph applications, and prove it.

The names below are loaded on first use, so importing the package costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from langchain_tokenopt._version import __version__

if TYPE_CHECKING:
    from langchain_tokenopt.accounting import UsageLedger, track_usage
    from langchain_tokenopt.batching import CombinedBatch, ProviderBatch
    from langchain_tokenopt.caches import (
        CachedChatModel,
        MemoryCache,
        SemanticCache,
        SqliteCache,
        TieredCache,
    )
    from langchain_tokenopt.prompts import ContextWindow, PreFilter, PromptLibrary
    from langchain_tokenopt.reasoning import (
        ChainOfThought,
        LeastToMost,
        SelectionInference,
        SelfConsistency,
        TreeOfThoughts,
    )
    from langchain_tokenopt.routing import (
        BalancedChatModel,
        Cascade,
        Deployment,
        Tier,
        create_cascade,
    )
    from langchain_tokenopt.stack import Settings, Stack, create_multi_tier
    from langchain_tokenopt.tokens import counter_for

_HOMES = {
    "BalancedChatModel": "routing",
    "CachedChatModel": "caches",
    "Cascade": "routing",
    "ChainOfThought": "reasoning",
    "CombinedBatch": "batching",
    "ContextWindow": "prompts",
    "Deployment": "routing",
    "LeastToMost": "reasoning",
    "MemoryCache": "caches",
    "PreFilter": "prompts",
    "PromptLibrary": "prompts",
    "ProviderBatch": "batching",
    "SelectionInference": "reasoning",
    "SelfConsistency": "reasoning",
    "SemanticCache": "caches",
    "Settings": "stack",
    "SqliteCache": "caches",
    "Stack": "stack",
    "Tier": "routing",
    "TieredCache": "caches",
    "TreeOfThoughts": "reasoning",
    "UsageLedger": "accounting",
    "counter_for": "tokens",
    "create_cascade": "routing",
    "create_multi_tier": "stack",
    "track_usage": "accounting",
}

__all__ = [
    "BalancedChatModel",
    "CachedChatModel",
    "Cascade",
    "ChainOfThought",
    "CombinedBatch",
    "ContextWindow",
    "Deployment",
    "LeastToMost",
    "MemoryCache",
    "PreFilter",
    "PromptLibrary",
    "ProviderBatch",
    "SelectionInference",
    "SelfConsistency",
    "SemanticCache",
    "Settings",
    "SqliteCache",
    "Stack",
    "Tier",
    "TieredCache",
    "TreeOfThoughts",
    "UsageLedger",
    "__version__",
    "counter_for",
    "create_cascade",
    "create_multi_tier",
    "track_usage",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
