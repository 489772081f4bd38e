"""Send each request to the smallest model whose answer is good enough."""

from langchain_tokenopt.routing.agreement import SecondOpinion, with_instruction
from langchain_tokenopt.routing.attempt import Attempt, Check, Verdict
from langchain_tokenopt.routing.balance import BalancedChatModel
from langchain_tokenopt.routing.balance_board import DeploymentsCoolingError
from langchain_tokenopt.routing.cascade import create_cascade
from langchain_tokenopt.routing.cascade_accept import Scorer
from langchain_tokenopt.routing.cascade_model import Cascade
from langchain_tokenopt.routing.cascade_state import CascadeState, Chooser, Route, Tier
from langchain_tokenopt.routing.checks import no_refusal, not_empty, not_truncated
from langchain_tokenopt.routing.deployment import (
    BalanceStats,
    Deployment,
    DeploymentStats,
    Hedging,
)
from langchain_tokenopt.routing.deployment_fault import Fault, fault_of
from langchain_tokenopt.routing.gate import Gate, GateVerdict
from langchain_tokenopt.routing.rules import Rule, longer_than, mentions

__all__ = [
    "Attempt",
    "BalanceStats",
    "BalancedChatModel",
    "Cascade",
    "CascadeState",
    "Check",
    "Chooser",
    "Deployment",
    "DeploymentStats",
    "DeploymentsCoolingError",
    "Fault",
    "Gate",
    "GateVerdict",
    "Hedging",
    "Route",
    "Rule",
    "Scorer",
    "SecondOpinion",
    "Tier",
    "Verdict",
    "create_cascade",
    "fault_of",
    "longer_than",
    "mentions",
    "no_refusal",
    "not_empty",
    "not_truncated",
    "with_instruction",
]
