"""GPTCache, langchain-redis and redisvl behind one small interface, imported when they are made."""

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from langchain_core.embeddings import Embeddings
from langchain_core.load import dumps
from langchain_core.messages import HumanMessage
from langchain_core.outputs import Generation
from servers.redis_server import redis_module, redis_on_port


class Peer(Protocol):
    """A semantic cache."""

    def look(self, text: str) -> str | None:
        """Return the answer that is served."""
        ...

    def keep(self, text: str, answer: str) -> None:
        """Keep an answer."""
        ...

    def keep_all(self, texts: list[str]) -> None:
        """Keep many texts, each its own answer."""
        ...


class LangChainRedis:
    """`RedisSemanticCache`, given what LangChain gives it, or the question's text alone."""

    default = 0.2

    def __init__(
        self, url: str, embeddings: Embeddings, *, distance: float, whole_prompt: bool, name: str
    ) -> None:
        from langchain_redis import RedisSemanticCache  # noqa: PLC0415

        self._cache: Any = RedisSemanticCache(
            embeddings, redis_url=url, distance_threshold=distance, name=name, prefix=name
        )
        self._whole = whole_prompt

    def _prompt(self, text: str) -> str:
        return dumps([HumanMessage(text)]) if self._whole else text

    def look(self, text: str) -> str | None:
        """Return the answer that is served."""
        found = self._cache.lookup(self._prompt(text), "model")
        return None if not found else found[0].text

    def keep(self, text: str, answer: str) -> None:
        """Keep an answer."""
        self._cache.update(self._prompt(text), "model", [Generation(text=answer)])

    def keep_all(self, texts: list[str]) -> None:
        """Keep many texts, each its own answer."""
        for text in texts:
            self.keep(text, text)


class RedisVl:
    """redisvl's `SemanticCache` on the same vectors."""

    default = 0.1

    def __init__(self, url: str, embeddings: Embeddings, *, distance: float, name: str) -> None:
        from redisvl.extensions.cache.llm import SemanticCache  # noqa: PLC0415
        from redisvl.utils.vectorize import CustomTextVectorizer  # noqa: PLC0415

        self._embed = embeddings.embed_query
        self._cache: Any = SemanticCache(
            name=name,
            distance_threshold=distance,
            redis_url=url,
            vectorizer=CustomTextVectorizer(lambda text: list(map(float, self._embed(text)))),
        )

    def look(self, text: str) -> str | None:
        """Return the answer that is served."""
        found = self._cache.check(vector=list(map(float, self._embed(text))), num_results=1)
        return found[0]["response"] if found else None

    def keep(self, text: str, answer: str) -> None:
        """Keep an answer."""
        self._cache.store(text, answer, vector=list(map(float, self._embed(text))))

    def keep_all(self, texts: list[str]) -> None:
        """Keep many texts, each its own answer."""
        for text in texts:
            self.keep(text, text)


class GptCache:
    """GPTCache over SQLite and FAISS, with its own distance evaluation."""

    default = 0.8

    def __init__(
        self, folder: str, embeddings: Embeddings, *, threshold: float, dimensions: int
    ) -> None:
        import numpy as np  # noqa: PLC0415
        from gptcache import Cache, Config  # noqa: PLC0415
        from gptcache.manager import CacheBase, VectorBase, get_data_manager  # noqa: PLC0415
        from gptcache.processor.pre import get_prompt  # noqa: PLC0415
        from gptcache.similarity_evaluation import SearchDistanceEvaluation  # noqa: PLC0415
        from gptcache.utils.log import gptcache_log  # noqa: PLC0415

        gptcache_log.setLevel("CRITICAL")  # at the end of the process it misses its folder
        Path(folder).mkdir()
        manager = get_data_manager(
            CacheBase("sqlite", sql_url=f"sqlite:///{folder}/cache.db"),
            VectorBase("faiss", dimension=dimensions, index_path=f"{folder}/faiss.index"),
            max_size=1_000_000,
        )
        self._cache: Any = Cache()
        self._cache.init(
            pre_embedding_func=get_prompt,
            embedding_func=lambda text, **_: np.asarray(
                embeddings.embed_query(text), dtype="float32"
            ),
            data_manager=manager,
            similarity_evaluation=SearchDistanceEvaluation(),
            config=Config(similarity_threshold=threshold),
        )

    def look(self, text: str) -> str | None:
        """Return the answer that is served."""
        from gptcache.adapter.api import get  # noqa: PLC0415

        found: str | None = get(text, cache_obj=self._cache)
        return found

    def keep(self, text: str, answer: str) -> None:
        """Keep an answer."""
        from gptcache.adapter.api import put  # noqa: PLC0415

        put(text, answer, cache_obj=self._cache)

    def keep_all(self, texts: list[str]) -> None:
        """Keep many texts, each its own answer."""
        for start in range(0, len(texts), 1_000):
            some = texts[start : start + 1_000]
            self._cache.import_data(some, some)


def installed(*packages: str) -> bool:
    """Return whether packages can be imported."""
    return all(importlib.util.find_spec(package) for package in packages)


@contextmanager
def search_server() -> Iterator[str | None]:
    """Start a Redis that can search; yield its URL, `None` if its parts are not here."""
    search, json = redis_module("redisearch.so"), redis_module("rejson.so")
    if search is None or json is None:
        yield None
        return
    with redis_on_port([search, json]) as url:
        yield url
