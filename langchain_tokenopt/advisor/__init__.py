"""What a call log says: reading it, and what each technique would save on it."""

from langchain_tokenopt.advisor.batching import BatchingOption, BatchingPlan, plan_batching
from langchain_tokenopt.advisor.books import LedgerBooks
from langchain_tokenopt.advisor.log import CallLog, LoggedCall, LogProblem, read_log
from langchain_tokenopt.advisor.prompt_cache import PrefixReport, PromptCacheMonitor

__all__ = [
    "BatchingOption",
    "BatchingPlan",
    "CallLog",
    "LedgerBooks",
    "LogProblem",
    "LoggedCall",
    "PrefixReport",
    "PromptCacheMonitor",
    "plan_batching",
    "read_log",
]
