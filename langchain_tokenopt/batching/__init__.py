"""Many prompts for less: several in one request, a provider's Batch API, limits, bulk work."""

from langchain_tokenopt.batching.combine import CombinedBatch
from langchain_tokenopt.batching.combine_solve import CombinedStats
from langchain_tokenopt.batching.limit import LimiterStats, RateLimiter
from langchain_tokenopt.batching.limit_model import RateLimitedChatModel
from langchain_tokenopt.batching.limit_window import MemoryWindow, RedisWindow, Window
from langchain_tokenopt.batching.provider import ProviderBatch
from langchain_tokenopt.batching.provider_handle import BatchHandle
from langchain_tokenopt.batching.provider_work import BatchResult, BatchStatus

__all__ = [
    "BatchHandle",
    "BatchResult",
    "BatchStatus",
    "CombinedBatch",
    "CombinedStats",
    "LimiterStats",
    "MemoryWindow",
    "ProviderBatch",
    "RateLimitedChatModel",
    "RateLimiter",
    "RedisWindow",
    "Window",
]
