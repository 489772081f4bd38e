"""Send each request to the smallest model whose answer is good enough."""

from langchain_tokenopt.routing.attempt import Attempt, Check, Verdict
from langchain_tokenopt.routing.cascade import CascadeState, Tier, create_cascade
from langchain_tokenopt.routing.checks import no_refusal, not_empty, not_truncated
from langchain_tokenopt.routing.rules import Rule, longer_than, mentions

__all__ = [
    "Attempt",
    "CascadeState",
    "Check",
    "Rule",
    "Tier",
    "Verdict",
    "create_cascade",
    "longer_than",
    "mentions",
    "no_refusal",
    "not_empty",
    "not_truncated",
]
