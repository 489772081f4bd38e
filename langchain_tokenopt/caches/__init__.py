"""Caches that answer again what was answered before."""

from langchain_tokenopt.caches.circuit import TierStats
from langchain_tokenopt.caches.codec import Codec, UnencodableError, UnreadableError
from langchain_tokenopt.caches.control import CacheControl, cache_control, current_control
from langchain_tokenopt.caches.eviction import AnswerCost, CostAware, Eviction, Lru
from langchain_tokenopt.caches.exact import CacheStats, ExactCache
from langchain_tokenopt.caches.judge import Judge, Verifier, answers_agree
from langchain_tokenopt.caches.keys import KEY_FIELDS, CacheKey, KeyMaker, Tenant, canonical_prompt
from langchain_tokenopt.caches.memory import MemoryStore
from langchain_tokenopt.caches.migrate import MigrationReport, migrate
from langchain_tokenopt.caches.model import CachedChatModel
from langchain_tokenopt.caches.question import Condense, Policy, Question, cacheable
from langchain_tokenopt.caches.ready import MemoryCache, SqliteCache, TieredCache
from langchain_tokenopt.caches.recurrence import Due, Recurrence
from langchain_tokenopt.caches.refresh import Refresher, RefreshReport, RefreshStats
from langchain_tokenopt.caches.semantic import SemanticCache
from langchain_tokenopt.caches.semantic_questions import Questions
from langchain_tokenopt.caches.semantic_stats import Rate, SemanticStats
from langchain_tokenopt.caches.semantic_verifier import AsyncVerifier
from langchain_tokenopt.caches.sqlite import SqliteStore
from langchain_tokenopt.caches.store import Held, Store, StoreError, StoreEvents, StoreSize
from langchain_tokenopt.caches.tiered import CacheTier, Found, TieredStore
from langchain_tokenopt.caches.warming import WarmReport, awarm, warm

__all__ = [
    "KEY_FIELDS",
    "AnswerCost",
    "AsyncVerifier",
    "CacheControl",
    "CacheKey",
    "CacheStats",
    "CacheTier",
    "CachedChatModel",
    "Codec",
    "Condense",
    "CostAware",
    "Due",
    "Eviction",
    "ExactCache",
    "Found",
    "Held",
    "Judge",
    "KeyMaker",
    "Lru",
    "MemoryCache",
    "MemoryStore",
    "MigrationReport",
    "Policy",
    "Question",
    "Questions",
    "Rate",
    "Recurrence",
    "RefreshReport",
    "RefreshStats",
    "Refresher",
    "SemanticCache",
    "SemanticStats",
    "SqliteCache",
    "SqliteStore",
    "Store",
    "StoreError",
    "StoreEvents",
    "StoreSize",
    "Tenant",
    "TierStats",
    "TieredCache",
    "TieredStore",
    "UnencodableError",
    "UnreadableError",
    "Verifier",
    "WarmReport",
    "answers_agree",
    "awarm",
    "cache_control",
    "cacheable",
    "canonical_prompt",
    "current_control",
    "migrate",
    "warm",
]
