"""LangChain's own suites for caches, on every cache."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from langchain_tests.integration_tests import AsyncCacheTestSuite, SyncCacheTestSuite

from langchain_tokenopt.caches import ExactCache, MemoryCache, SqliteCache


class TestSync(SyncCacheTestSuite):
    @pytest.fixture
    def cache(self, tmp_path: Path) -> Iterator[ExactCache]:
        made = SqliteCache(tmp_path / "cache.sqlite")
        yield made
        made.close()


class TestSyncMemory(SyncCacheTestSuite):
    @pytest.fixture
    def cache(self) -> MemoryCache:
        return MemoryCache()


class TestAsync(AsyncCacheTestSuite):
    @pytest.fixture
    async def cache(self, tmp_path: Path) -> Iterator[ExactCache]:
        made = SqliteCache(tmp_path / "cache.sqlite")
        yield made
        made.close()


class TestAsyncMemory(AsyncCacheTestSuite):
    @pytest.fixture
    async def cache(self) -> MemoryCache:
        return MemoryCache()
