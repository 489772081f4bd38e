"""The parts put together: one graph from a cached answer to the largest model."""

from langchain_tokenopt.stack.build import Stack
from langchain_tokenopt.stack.context import MultiTierContext, MultiTierState, Stage
from langchain_tokenopt.stack.multi_tier import create_multi_tier
from langchain_tokenopt.stack.settings import Settings
from langchain_tokenopt.stack.stages import current_tenant

__all__ = [
    "MultiTierContext",
    "MultiTierState",
    "Settings",
    "Stack",
    "Stage",
    "create_multi_tier",
    "current_tenant",
]
