"""What a call log says: reading it, and what each technique would save on it."""

from langchain_tokenopt.advisor.audit import AuditOptions, audit
from langchain_tokenopt.advisor.audit_html import report_as_html
from langchain_tokenopt.advisor.audit_intervals import Share
from langchain_tokenopt.advisor.audit_report import AuditReport, Finding, UnpricedModel
from langchain_tokenopt.advisor.batching import BatchingOption, BatchingPlan, plan_batching
from langchain_tokenopt.advisor.books import LedgerBooks
from langchain_tokenopt.advisor.log import CallLog, LoggedCall, LogProblem, read_log
from langchain_tokenopt.advisor.prompt_cache import PrefixReport, PromptCacheMonitor

__all__ = [
    "AuditOptions",
    "AuditReport",
    "BatchingOption",
    "BatchingPlan",
    "CallLog",
    "Finding",
    "LedgerBooks",
    "LogProblem",
    "LoggedCall",
    "PrefixReport",
    "PromptCacheMonitor",
    "Share",
    "UnpricedModel",
    "audit",
    "plan_batching",
    "read_log",
    "report_as_html",
]
