"""Embeddings that need no network, and vectors that are computed once."""

from langchain_tokenopt.embeddings.cached import (
    CachedEmbeddings,
    EmbeddingStats,
    VectorKeeper,
)
from langchain_tokenopt.embeddings.minilm import MiniLmEmbeddings
from langchain_tokenopt.embeddings.static import StaticEmbeddings

__all__ = [
    "CachedEmbeddings",
    "EmbeddingStats",
    "MiniLmEmbeddings",
    "StaticEmbeddings",
    "VectorKeeper",
]
