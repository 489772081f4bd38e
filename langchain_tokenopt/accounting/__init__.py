"""One ledger that sees every model call: exact tokens, real prices, savings apart from spend."""

from langchain_tokenopt.accounting.alert import Alert, AlertSink
from langchain_tokenopt.accounting.alert_log import AlertLog
from langchain_tokenopt.accounting.alert_rules import AlertRule, default_rules
from langchain_tokenopt.accounting.alert_sinks import WebhookSink, log_alerts
from langchain_tokenopt.accounting.alerts import AlertMonitor
from langchain_tokenopt.accounting.amounts import Amounts, BudgetStatus, Limits
from langchain_tokenopt.accounting.budget import Account, Budget, Hold
from langchain_tokenopt.accounting.budget_guard import BudgetGuard, GuardCounts
from langchain_tokenopt.accounting.budget_handler import AsyncBudgetHandler, BudgetHandler
from langchain_tokenopt.accounting.budget_model import BudgetedChatModel
from langchain_tokenopt.accounting.budget_plan import PlannedCall
from langchain_tokenopt.accounting.budget_sqlite import SqliteBudgets, read_budgets
from langchain_tokenopt.accounting.budget_store import BudgetStore, MemoryBudgets, Outcome
from langchain_tokenopt.accounting.embeddings import MeteredEmbeddings
from langchain_tokenopt.accounting.ledger import UsageLedger
from langchain_tokenopt.accounting.overrides import PriceEntry, PriceOverrides
from langchain_tokenopt.accounting.prices import (
    Cost,
    GenaiPrices,
    Price,
    PriceSource,
    cost_of,
    first_known,
    warn_if_stale,
)
from langchain_tokenopt.accounting.records import CallRecord, Kind, RecordListener, Totals
from langchain_tokenopt.accounting.report import dollars, seconds
from langchain_tokenopt.accounting.totals import GroupField
from langchain_tokenopt.accounting.tracking import track_usage
from langchain_tokenopt.calls.usage import ReportedUsage, Usage, normalise_usage

__all__ = [
    "Account",
    "Alert",
    "AlertLog",
    "AlertMonitor",
    "AlertRule",
    "AlertSink",
    "Amounts",
    "AsyncBudgetHandler",
    "Budget",
    "BudgetGuard",
    "BudgetHandler",
    "BudgetStatus",
    "BudgetStore",
    "BudgetedChatModel",
    "CallRecord",
    "Cost",
    "GenaiPrices",
    "GroupField",
    "GuardCounts",
    "Hold",
    "Kind",
    "Limits",
    "MemoryBudgets",
    "MeteredEmbeddings",
    "Outcome",
    "PlannedCall",
    "Price",
    "PriceEntry",
    "PriceOverrides",
    "PriceSource",
    "RecordListener",
    "ReportedUsage",
    "SqliteBudgets",
    "Totals",
    "Usage",
    "UsageLedger",
    "WebhookSink",
    "cost_of",
    "default_rules",
    "dollars",
    "first_known",
    "log_alerts",
    "normalise_usage",
    "read_budgets",
    "seconds",
    "track_usage",
    "warn_if_stale",
]
