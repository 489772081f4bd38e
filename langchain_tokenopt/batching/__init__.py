"""Many prompts for less: several in one request, a provider's Batch API, limits, bulk work."""

from langchain_tokenopt.batching.combine import CombinedBatch
from langchain_tokenopt.batching.combine_solve import CombinedStats

__all__ = ["CombinedBatch", "CombinedStats"]
