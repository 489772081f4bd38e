"""One ledger that sees every model call: exact tokens, real prices, savings apart from spend."""

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
from langchain_tokenopt.accounting.usage import ReportedUsage, Usage, normalise_usage

__all__ = [
    "CallRecord",
    "Cost",
    "GenaiPrices",
    "GroupField",
    "Kind",
    "Price",
    "PriceEntry",
    "PriceOverrides",
    "PriceSource",
    "RecordListener",
    "ReportedUsage",
    "Totals",
    "Usage",
    "UsageLedger",
    "cost_of",
    "dollars",
    "first_known",
    "normalise_usage",
    "seconds",
    "track_usage",
    "warn_if_stale",
]
