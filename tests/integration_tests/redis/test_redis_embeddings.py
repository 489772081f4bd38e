"""Vectors in a Redis that several processes share, and that goes away."""

import math
from collections.abc import Callable
from typing import Any

import pytest
from langchain_core.embeddings import Embeddings

from langchain_tokenopt.caches.redis import RedisStore
from langchain_tokenopt.embeddings import CachedEmbeddings
from langchain_tokenopt.testing import embed_words

Server = Any


class Words(Embeddings):
    """Vectors of words, and which texts they were made for."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        self.asked += texts
        return [embed_words(text) for text in texts]

    def embed_query(self, text: str) -> list[float]:
        return self.embed_documents([text])[0]


async def test_what_one_embedded_another_finds_by_either_twin(
    redis_server: Server, namespace: str
) -> None:
    texts = [f"question {n}" for n in range(2_500)]
    first, second = Words(), Words()
    one, other = (RedisStore(redis_server.url, namespace=namespace) for _ in range(2))

    made = await CachedEmbeddings(first, one, name="words/256").aembed_documents(texts)
    found = CachedEmbeddings(second, other, name="words/256").embed_documents(texts[::-1])
    afound = await CachedEmbeddings(second, other, name="words/256").aembed_documents(texts)

    assert found[::-1] == made == afound
    assert (len(first.asked), len(second.asked)) == (2_500, 0)
    assert math.hypot(*made[0]) == pytest.approx(1, abs=1e-6)
    one.close()
    other.close()


def test_redis_forgets_a_vector_after_its_time(redis_server: Server, namespace: str) -> None:
    store = RedisStore(redis_server.url, namespace=namespace)
    cached = CachedEmbeddings(Words(), store, name="words/256", ttl_s=60)

    cached.embed_documents(["a", "b"])

    kept = [key for key in redis_server.admin.scan_iter() if namespace.encode() in key]
    assert kept
    assert all(0 < redis_server.admin.pttl(key) <= 60_000 for key in kept)
    store.close()


async def test_without_redis_texts_are_embedded_and_kept_again_when_it_is_back(
    own_server: Server, until: Callable[..., Any]
) -> None:
    model = Words()
    store = RedisStore(own_server.url, timeout_s=0.3)
    cached = CachedEmbeddings(model, store, name="words/256")
    (kept,) = cached.embed_documents(["a"])

    own_server.kill()
    assert cached.embed_documents(["a"]) == [kept]
    assert await cached.aembed_documents(["a"]) == [kept]
    assert cached.stats().failures >= 2
    own_server.start()

    def is_kept() -> bool:
        before = len(model.asked)
        cached.embed_documents(["a"])
        return len(model.asked) == before

    until(is_kept)
    store.close()
