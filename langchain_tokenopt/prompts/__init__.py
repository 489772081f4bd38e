"""Prompts that cost less: laid out for the provider's cache, and told why it missed."""

from langchain_tokenopt.prompts.builder import Example, PromptBuilder, PromptInput
from langchain_tokenopt.prompts.cache_rules import (
    CacheRule,
    CacheRules,
    Lifetime,
    bundled_rules,
    rule_for,
)
from langchain_tokenopt.prompts.context import ContextWindow
from langchain_tokenopt.prompts.context_history import pinned, weighted
from langchain_tokenopt.prompts.context_recall import Recall
from langchain_tokenopt.prompts.context_report import (
    ContextReport,
    ContextStats,
    Dropped,
    FittedContext,
)
from langchain_tokenopt.prompts.context_store import SqliteContextStore
from langchain_tokenopt.prompts.context_strategy import Importance, Recent, Strategy
from langchain_tokenopt.prompts.context_summary import Summarizer
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
from langchain_tokenopt.prompts.library import PromptLibrary
from langchain_tokenopt.prompts.library_check import TemplateFinding
from langchain_tokenopt.prompts.library_content import TemplateMessage
from langchain_tokenopt.prompts.library_diff import TemplateDiff
from langchain_tokenopt.prompts.library_estimate import TokenEstimate
from langchain_tokenopt.prompts.library_template import LibraryTemplate
from langchain_tokenopt.prompts.library_variables import Variable
from langchain_tokenopt.prompts.model import HintedChatModel
from langchain_tokenopt.prompts.prefilter import CITE, Citations, PreFilter, cited
from langchain_tokenopt.prompts.prefilter_index import DocumentIndex, IndexChanges
from langchain_tokenopt.prompts.prefilter_pack import Left, Selection
from langchain_tokenopt.prompts.shape import Part, RequestShape, canonical_json, version_of
from langchain_tokenopt.prompts.tables import TableWriter, as_table, from_table
from langchain_tokenopt.prompts.vectors import FaissVectors

__all__ = [
    "CITE",
    "CacheHints",
    "CacheRule",
    "CacheRules",
    "Citations",
    "ContextReport",
    "ContextStats",
    "ContextWindow",
    "Divergence",
    "DocumentIndex",
    "Dropped",
    "Example",
    "FaissVectors",
    "FittedContext",
    "HintedChatModel",
    "HintedRequest",
    "Importance",
    "IndexChanges",
    "Left",
    "LibraryTemplate",
    "Lifetime",
    "LifetimeAdvice",
    "Part",
    "PreFilter",
    "PromptBuilder",
    "PromptInput",
    "PromptLibrary",
    "Reason",
    "Recall",
    "Recent",
    "RequestShape",
    "Selection",
    "SizeAdvice",
    "SqliteContextStore",
    "Strategy",
    "Summarizer",
    "TableWriter",
    "TemplateDiff",
    "TemplateFinding",
    "TemplateMessage",
    "TokenEstimate",
    "Variable",
    "as_table",
    "break_even_uses",
    "bundled_rules",
    "canonical_json",
    "cited",
    "first_divergence",
    "from_table",
    "hinted",
    "lifetime_advice",
    "needed_hit_share",
    "pinned",
    "rule_for",
    "shards_for",
    "size_advice",
    "version_of",
    "weighted",
]
