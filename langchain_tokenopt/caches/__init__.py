"""Caches that answer again what was answered before."""

from langchain_tokenopt.caches.circuit import TierStats
from langchain_tokenopt.caches.codec import Codec, UnencodableError, UnreadableError
from langchain_tokenopt.caches.control import CacheControl, cache_control, current_control
from langchain_tokenopt.caches.exact import CacheStats, ExactCache
from langchain_tokenopt.caches.judge import Judge, Verifier, answers_agree
from langchain_tokenopt.caches.keys import KEY_FIELDS, CacheKey, KeyMaker, Tenant, canonical_prompt
from langchain_tokenopt.caches.memory import MemoryStore
from langchain_tokenopt.caches.model import CachedChatModel
from langchain_tokenopt.caches.question import Policy, Question, cacheable
from langchain_tokenopt.caches.ready import MemoryCache, SqliteCache, TieredCache
from langchain_tokenopt.caches.semantic import SemanticCache
from langchain_tokenopt.caches.semantic_stats import Rate, SemanticStats
from langchain_tokenopt.caches.sqlite import SqliteStore
from langchain_tokenopt.caches.store import Held, Store, StoreError, StoreEvents, StoreSize
from langchain_tokenopt.caches.tiered import CacheTier, Found, TieredStore

__all__ = [
    "KEY_FIELDS",
    "CacheControl",
    "CacheKey",
    "CacheStats",
    "CacheTier",
    "CachedChatModel",
    "Codec",
    "ExactCache",
    "Found",
    "Held",
    "Judge",
    "KeyMaker",
    "MemoryCache",
    "MemoryStore",
    "Policy",
    "Question",
    "Rate",
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
    "answers_agree",
    "cache_control",
    "cacheable",
    "canonical_prompt",
    "current_control",
]
