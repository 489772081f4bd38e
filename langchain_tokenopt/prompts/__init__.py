"""Prompts that cost less: laid out for the provider's cache, and told why it missed."""

from langchain_tokenopt.prompts.builder import Example, PromptBuilder, PromptInput
from langchain_tokenopt.prompts.cache_rules import (
    CacheRule,
    CacheRules,
    Lifetime,
    bundled_rules,
    rule_for,
)
from langchain_tokenopt.prompts.diff import Divergence, Reason, first_divergence
from langchain_tokenopt.prompts.economics import (
    LifetimeAdvice,
    SizeAdvice,
    break_even_uses,
    lifetime_advice,
    needed_hit_share,
    size_advice,
)
from langchain_tokenopt.prompts.hints import CacheHints, HintedRequest, hinted, shards_for
from langchain_tokenopt.prompts.model import HintedChatModel
from langchain_tokenopt.prompts.shape import Part, RequestShape, canonical_json, version_of

__all__ = [
    "CacheHints",
    "CacheRule",
    "CacheRules",
    "Divergence",
    "Example",
    "HintedChatModel",
    "HintedRequest",
    "Lifetime",
    "LifetimeAdvice",
    "Part",
    "PromptBuilder",
    "PromptInput",
    "Reason",
    "RequestShape",
    "SizeAdvice",
    "break_even_uses",
    "bundled_rules",
    "canonical_json",
    "first_divergence",
    "hinted",
    "lifetime_advice",
    "needed_hit_share",
    "rule_for",
    "shards_for",
    "size_advice",
    "version_of",
]
