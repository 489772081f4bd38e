"""Caches that answer again what was answered before."""

from langchain_tokenopt.caches.codec import Codec, UnencodableError, UnreadableError
from langchain_tokenopt.caches.control import CacheControl, cache_control, current_control
from langchain_tokenopt.caches.exact import CacheStats, ExactCache, MemoryCache, SqliteCache
from langchain_tokenopt.caches.keys import KEY_FIELDS, CacheKey, KeyMaker, Tenant, canonical_prompt
from langchain_tokenopt.caches.memory import MemoryStore
from langchain_tokenopt.caches.model import CachedChatModel
from langchain_tokenopt.caches.sqlite import SqliteStore
from langchain_tokenopt.caches.store import Held, Store, StoreError, StoreEvents, StoreSize

__all__ = [
    "KEY_FIELDS",
    "CacheControl",
    "CacheKey",
    "CacheStats",
    "CachedChatModel",
    "Codec",
    "ExactCache",
    "Held",
    "KeyMaker",
    "MemoryCache",
    "MemoryStore",
    "SqliteCache",
    "SqliteStore",
    "Store",
    "StoreError",
    "StoreEvents",
    "StoreSize",
    "Tenant",
    "UnencodableError",
    "UnreadableError",
    "cache_control",
    "canonical_prompt",
    "current_control",
]
