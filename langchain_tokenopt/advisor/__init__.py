"""What a call log or a ledger says: audits, forecasts, experiments, fine-tuning, batching."""

from langchain_tokenopt.advisor.audit import AuditOptions, audit
from langchain_tokenopt.advisor.audit_html import report_as_html
from langchain_tokenopt.advisor.audit_intervals import Share
from langchain_tokenopt.advisor.audit_report import AuditReport, Finding, UnpricedModel
from langchain_tokenopt.advisor.batching import BatchingOption, BatchingPlan, plan_batching
from langchain_tokenopt.advisor.books import LedgerBooks
from langchain_tokenopt.advisor.experiment import (
    COST,
    ERRORS,
    LATENCY,
    QUALITY,
    Experiment,
    ExperimentBranch,
    Metric,
    thread_of,
)
from langchain_tokenopt.advisor.experiment_log import Assignment, ExperimentLog
from langchain_tokenopt.advisor.experiment_plan import ExperimentPlan, plan_experiment
from langchain_tokenopt.advisor.experiment_results import (
    Comparison,
    ExperimentResults,
    read_experiment,
    stop_breaches,
)
from langchain_tokenopt.advisor.finetune import (
    BreakEven,
    MoneyRange,
    PaidCall,
    break_even,
    calls_of_ledger,
    calls_of_log,
)
from langchain_tokenopt.advisor.finetune_candidates import Candidate, find_candidates
from langchain_tokenopt.advisor.finetune_export import TrainingSet, training_set
from langchain_tokenopt.advisor.finetune_prices import (
    TuningPrice,
    TuningPrices,
    bundled_tuning_prices,
)
from langchain_tokenopt.advisor.forecast import (
    ForecastDay,
    ForecastReport,
    SpendForecast,
    SpendSeries,
    forecast,
    forecast_all,
    read_spend,
    spend_by_feature,
)
from langchain_tokenopt.advisor.log import CallLog, LoggedCall, LogProblem, read_log
from langchain_tokenopt.advisor.output_length import (
    OutputErrors,
    OutputEstimate,
    OutputExample,
    OutputLengthModel,
    PromptFacts,
    examples_of_ledger,
    examples_of_log,
    facts_of,
    measure_output_length,
)
from langchain_tokenopt.advisor.prompt_cache import PrefixReport, PromptCacheMonitor
from langchain_tokenopt.advisor.redaction import Redacted, Redactor

__all__ = [
    "COST",
    "ERRORS",
    "LATENCY",
    "QUALITY",
    "Assignment",
    "AuditOptions",
    "AuditReport",
    "BatchingOption",
    "BatchingPlan",
    "BreakEven",
    "CallLog",
    "Candidate",
    "Comparison",
    "Experiment",
    "ExperimentBranch",
    "ExperimentLog",
    "ExperimentPlan",
    "ExperimentResults",
    "Finding",
    "ForecastDay",
    "ForecastReport",
    "LedgerBooks",
    "LogProblem",
    "LoggedCall",
    "Metric",
    "MoneyRange",
    "OutputErrors",
    "OutputEstimate",
    "OutputExample",
    "OutputLengthModel",
    "PaidCall",
    "PrefixReport",
    "PromptCacheMonitor",
    "PromptFacts",
    "Redacted",
    "Redactor",
    "Share",
    "SpendForecast",
    "SpendSeries",
    "TrainingSet",
    "TuningPrice",
    "TuningPrices",
    "UnpricedModel",
    "audit",
    "break_even",
    "bundled_tuning_prices",
    "calls_of_ledger",
    "calls_of_log",
    "examples_of_ledger",
    "examples_of_log",
    "facts_of",
    "find_candidates",
    "forecast",
    "forecast_all",
    "measure_output_length",
    "plan_batching",
    "plan_experiment",
    "read_experiment",
    "read_log",
    "read_spend",
    "report_as_html",
    "spend_by_feature",
    "stop_breaches",
    "thread_of",
    "training_set",
]
