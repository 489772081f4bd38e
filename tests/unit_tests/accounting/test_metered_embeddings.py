"""Embeddings whose calls are booked."""

import asyncio
from decimal import Decimal
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding, Embeddings
from langchain_core.runnables import RunnableLambda
from langchain_core.vectorstores import InMemoryVectorStore
from langchain_openai import OpenAIEmbeddings

from langchain_tokenopt.accounting import CallRecord, MeteredEmbeddings, UsageLedger
from langchain_tokenopt.caches import MemoryStore
from langchain_tokenopt.embeddings import CachedEmbeddings
from langchain_tokenopt.errors import ConfigurationError
from langchain_tokenopt.testing import LoopbackServer
from langchain_tokenopt.tokens import counter_for

TEXTS = ["Where is my parcel?", "Hello"]
MODEL = "text-embedding-3-small"


def one(ledger: UsageLedger) -> CallRecord:
    (record,) = ledger.records()
    return record


def fake() -> DeterministicFakeEmbedding:
    return DeterministicFakeEmbedding(size=4)


def test_openais_embeddings_are_booked_as_the_provider_counts_them() -> None:
    ledger = UsageLedger()
    with LoopbackServer(["no chat"]) as server:
        real = OpenAIEmbeddings(
            model=MODEL, base_url=server.base_url, api_key="any", check_embedding_ctx_length=False
        )
        metered = MeteredEmbeddings(real, ledger=ledger)
        assert metered.embed_documents(TEXTS) == real.embed_documents(TEXTS)

    record = one(ledger)
    assert record.usage.input_tokens == server.billed[0]["prompt_tokens"]
    assert (record.kind, record.model, record.provider) == ("embedding", MODEL, "openai")
    assert record.cost == Decimal("0.02") * record.usage.input_tokens / 1_000_000
    assert not record.estimated
    assert metered.dimensions is None  # what the wrapped one has stays in reach


@pytest.mark.parametrize("way", ["documents", "query", "adocuments", "aquery"])
async def test_every_way_to_embed_is_booked(way: str) -> None:
    ledger = UsageLedger()
    metered = MeteredEmbeddings(fake(), ledger=ledger, model=MODEL)
    if way == "documents":
        metered.embed_documents(TEXTS)
    elif way == "query":
        metered.embed_query(TEXTS[0])
    elif way == "adocuments":
        await metered.aembed_documents(TEXTS)
    else:
        await metered.aembed_query(TEXTS[0])

    count = counter_for(MODEL).count_text
    texts = TEXTS if "documents" in way else TEXTS[:1]
    assert one(ledger).usage.input_tokens == sum(map(count, texts))
    assert ledger.totals().live == 1


def test_the_metadata_of_the_running_chain_comes_first() -> None:
    ledger = UsageLedger()
    metered = MeteredEmbeddings(
        fake(), ledger=ledger, model=MODEL, metadata={"feature": "index", "tenant": "acme"}
    )
    chain: Any = RunnableLambda(metered.embed_query)
    chain.invoke("Hello", {"metadata": {"feature": "search"}})

    assert (one(ledger).feature, one(ledger).tenant) == ("search", "acme")


def test_a_vector_store_works_with_it() -> None:
    ledger = UsageLedger()
    store = InMemoryVectorStore(MeteredEmbeddings(fake(), ledger=ledger, model=MODEL))
    store.add_documents([Document(text) for text in TEXTS])

    assert store.similarity_search("Hello", k=1)[0].page_content == "Hello"
    assert ledger.totals().calls == 2


def test_inside_a_cache_only_what_is_computed_is_booked() -> None:
    inside, outside = UsageLedger(), UsageLedger()
    inner = MeteredEmbeddings(fake(), ledger=inside, model=MODEL)
    cached = CachedEmbeddings(inner, MemoryStore(), name="fake/4")
    outer = MeteredEmbeddings(cached, ledger=outside, model=MODEL)
    for _ in range(3):
        outer.embed_documents(TEXTS)

    assert inside.totals().calls == 1
    assert outside.totals().calls == 3
    assert outside.totals().usage.input_tokens == 3 * inside.totals().usage.input_tokens


class Broken(Embeddings):
    error: BaseException = OSError("down")

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        raise self.error

    def embed_query(self, text: str) -> list[float]:
        raise self.error

    async def aembed_query(self, text: str) -> list[float]:
        await asyncio.Event().wait()
        return []


def test_a_call_that_fails_is_booked_as_an_error_that_costs_nothing() -> None:
    ledger = UsageLedger()
    with pytest.raises(OSError, match="down"):
        MeteredEmbeddings(Broken(), ledger=ledger, model=MODEL).embed_documents(TEXTS)

    record = one(ledger)
    assert (record.kind, record.error, record.cost) == ("error", "OSError", 0)
    assert record.usage.total_tokens == 0


async def test_a_call_that_is_cancelled_is_estimated() -> None:
    ledger = UsageLedger()
    metered = MeteredEmbeddings(Broken(), ledger=ledger, model=MODEL)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(metered.aembed_query(TEXTS[0]), timeout=0.01)

    assert one(ledger).kind == "abandoned"
    assert one(ledger).estimated
    assert one(ledger).usage.input_tokens == 5


def test_what_is_not_known_is_said_and_nothing_breaks_a_call() -> None:
    ledger = UsageLedger()
    MeteredEmbeddings(fake(), ledger=ledger).embed_query("Hello")
    record = one(ledger)
    assert (record.model, record.cost, record.estimated) == ("unknown", None, True)

    def broken(**_: Any) -> Any:
        raise RuntimeError("no table")

    other = UsageLedger(prices=broken)
    priceless = MeteredEmbeddings(fake(), ledger=other, model=MODEL, prices=broken)
    assert len(priceless.embed_query("Hello")) == 4
    assert one(other).cost is None
    priceless.embed_documents([])
    assert other.totals().calls == 1  # nothing was sent
    with pytest.raises(ConfigurationError, match="got str"):
        MeteredEmbeddings("model", ledger=ledger)  # type: ignore[arg-type]
    with pytest.raises(AttributeError):
        priceless.nothing_like_it  # noqa: B018 - that it raises is the point
