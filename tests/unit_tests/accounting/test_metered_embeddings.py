"""Embeddings whose calls are booked."""

import asyncio
import copy
import threading
from decimal import Decimal
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding, Embeddings
from langchain_core.runnables import RunnableLambda
from langchain_core.vectorstores import InMemoryVectorStore
from langchain_openai import OpenAIEmbeddings

from langchain_tokenopt.accounting import (
    CallRecord,
    MeteredEmbeddings,
    PriceEntry,
    PriceOverrides,
    UsageLedger,
)
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


def test_what_cannot_be_counted_breaks_no_call_and_is_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Lenient(Embeddings):
        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            return [[0.0] for _ in texts]

        def embed_query(self, text: str) -> list[float]:
            return [0.0]

    ledger = UsageLedger()
    metered = MeteredEmbeddings(Lenient(), ledger=ledger, model=MODEL)
    not_texts: Any = [17, None]

    assert metered.embed_documents(not_texts) == [[0.0], [0.0]]
    assert metered.embed_query(None) == [0.0]  # type: ignore[arg-type]  # what a caller may do
    assert metered.failures == 2
    assert len(caplog.records) == 1
    assert ledger.totals().calls == 0


def test_texts_that_can_be_read_only_once_are_embedded_and_counted() -> None:
    ledger = UsageLedger()
    metered = MeteredEmbeddings(fake(), ledger=ledger, model=MODEL)
    texts: Any = iter(TEXTS)

    assert len(metered.embed_documents(texts)) == 2
    assert one(ledger).usage.input_tokens == sum(map(counter_for(MODEL).count_text, TEXTS))


def test_the_ledgers_own_prices_hold_for_embeddings_too() -> None:
    entry = PriceEntry(model=MODEL, input=Decimal(1_000_000), output=Decimal(0))
    ledger = UsageLedger(prices=PriceOverrides([entry]))
    MeteredEmbeddings(fake(), ledger=ledger, model=MODEL).embed_query("Hello")

    assert one(ledger).cost == one(ledger).usage.input_tokens


async def test_long_texts_are_counted_beside_the_event_loop() -> None:
    threads: list[int] = []
    ledger = UsageLedger(listeners=[lambda _: threads.append(threading.get_ident())])
    metered = MeteredEmbeddings(fake(), ledger=ledger, model=MODEL)
    chain: Any = RunnableLambda(metered.aembed_documents)
    await chain.ainvoke(["a " * 30_000], {"metadata": {"tenant": "acme"}})
    await metered.aembed_documents(["short"])

    assert threads[0] != threading.get_ident() == threads[1]
    assert [record.tenant for record in ledger.records()] == ["acme", None]
    assert next(iter(ledger.records())).latency_s < 5


def test_googles_names_of_models_are_priced() -> None:
    ledger = UsageLedger()
    metered = MeteredEmbeddings(
        fake(), ledger=ledger, model="models/gemini-embedding-001", provider="google_genai"
    )
    metered.embed_query("Hello")

    assert one(ledger).cost == Decimal("0.15") * one(ledger).usage.input_tokens / 1_000_000


def test_metered_embeddings_can_be_copied_and_tell_what_they_lack() -> None:
    metered = MeteredEmbeddings(fake(), ledger=UsageLedger())

    assert copy.copy(metered).size == metered.size == 4
    with pytest.raises(AttributeError):
        _ = metered.dimensions
