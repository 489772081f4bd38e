"""Send each request to the smallest model whose answer is good enough."""

from langchain_tokenopt.routing.agreement import SecondOpinion, with_instruction
from langchain_tokenopt.routing.attempt import Attempt, Check, Verdict
from langchain_tokenopt.routing.balance import BalancedChatModel
from langchain_tokenopt.routing.balance_board import DeploymentsCoolingError
from langchain_tokenopt.routing.bandit import Decision, TierBandit
from langchain_tokenopt.routing.bandit_state import ArmSums, BanditState
from langchain_tokenopt.routing.bandit_store import BanditStore, MemoryBandit, SqliteBandit
from langchain_tokenopt.routing.calibrate import calibrate, split_labels
from langchain_tokenopt.routing.cascade import create_cascade
from langchain_tokenopt.routing.cascade_accept import Scorer
from langchain_tokenopt.routing.cascade_model import Cascade
from langchain_tokenopt.routing.cascade_policy import RouterStart, tiers_of
from langchain_tokenopt.routing.cascade_state import CascadeState, Chooser, Route, Tier
from langchain_tokenopt.routing.checks import no_refusal, not_empty, not_truncated
from langchain_tokenopt.routing.deployment import BalanceStats, Deployment, DeploymentStats, Hedging
from langchain_tokenopt.routing.deployment_fault import Fault, fault_of
from langchain_tokenopt.routing.drift import DriftMonitor, DriftReport, DriftState
from langchain_tokenopt.routing.gate import Gate, GateVerdict, RecordedDraft
from langchain_tokenopt.routing.gate_features import AnswerReader
from langchain_tokenopt.routing.gate_model import GateModel, LogisticModel
from langchain_tokenopt.routing.judging import CorrectnessJudge, Judge, PreferenceJudge
from langchain_tokenopt.routing.labels import LabelFile, LabelledDraft, labelled, read_labels
from langchain_tokenopt.routing.off_policy import PolicyValue, evaluate_policy
from langchain_tokenopt.routing.planner import (
    CascadePlan,
    Interval,
    Measured,
    Outcome,
    PlanOption,
    dominating,
    plan_cascade,
)
from langchain_tokenopt.routing.policy import DataNote, RoutingPolicy
from langchain_tokenopt.routing.profiles import (
    TASKS,
    CostEstimate,
    TaskLengths,
    TaskProfile,
    estimate_cost,
)
from langchain_tokenopt.routing.risk import (
    Promise,
    labels_needed,
    least_escalated,
    losses_allowed,
    promise,
)
from langchain_tokenopt.routing.router import GainRouter, fit_router
from langchain_tokenopt.routing.rules import (
    Rule,
    has_attachment,
    longer_than,
    mentions,
    uses_tools,
    written_in,
)
from langchain_tokenopt.routing.tasks import TaskClassifier, TaskMatch, by_task
from langchain_tokenopt.routing.tool_checks import bound_tools, matches, tool_arguments

__all__ = [
    "TASKS",
    "AnswerReader",
    "ArmSums",
    "Attempt",
    "BalanceStats",
    "BalancedChatModel",
    "BanditState",
    "BanditStore",
    "Cascade",
    "CascadePlan",
    "CascadeState",
    "Check",
    "Chooser",
    "CorrectnessJudge",
    "CostEstimate",
    "DataNote",
    "Decision",
    "Deployment",
    "DeploymentStats",
    "DeploymentsCoolingError",
    "DriftMonitor",
    "DriftReport",
    "DriftState",
    "Fault",
    "GainRouter",
    "Gate",
    "GateModel",
    "GateVerdict",
    "Hedging",
    "Interval",
    "Judge",
    "LabelFile",
    "LabelledDraft",
    "LogisticModel",
    "Measured",
    "MemoryBandit",
    "Outcome",
    "PlanOption",
    "PolicyValue",
    "PreferenceJudge",
    "Promise",
    "RecordedDraft",
    "Route",
    "RouterStart",
    "RoutingPolicy",
    "Rule",
    "Scorer",
    "SecondOpinion",
    "SqliteBandit",
    "TaskClassifier",
    "TaskLengths",
    "TaskMatch",
    "TaskProfile",
    "Tier",
    "TierBandit",
    "Verdict",
    "bound_tools",
    "by_task",
    "calibrate",
    "create_cascade",
    "dominating",
    "estimate_cost",
    "evaluate_policy",
    "fault_of",
    "fit_router",
    "has_attachment",
    "labelled",
    "labels_needed",
    "least_escalated",
    "longer_than",
    "losses_allowed",
    "matches",
    "mentions",
    "no_refusal",
    "not_empty",
    "not_truncated",
    "plan_cascade",
    "promise",
    "read_labels",
    "split_labels",
    "tiers_of",
    "tool_arguments",
    "uses_tools",
    "with_instruction",
    "written_in",
]
