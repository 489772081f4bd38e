"""What a call log says: reading it, and what each technique would save on it."""

from langchain_tokenopt.advisor.books import LedgerBooks
from langchain_tokenopt.advisor.log import CallLog, LoggedCall, LogProblem, read_log
from langchain_tokenopt.advisor.prompt_cache import PrefixReport, PromptCacheMonitor

__all__ = [
    "CallLog",
    "LedgerBooks",
    "LogProblem",
    "LoggedCall",
    "PrefixReport",
    "PromptCacheMonitor",
    "read_log",
]
