"""Uses of the public interface that a type checker must accept. Checked, never run."""

from collections.abc import Sequence
from decimal import Decimal
from typing import assert_type

from langchain_core.caches import BaseCache
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.vectorstores import InMemoryVectorStore

from langchain_tokenopt import (
    CachedChatModel,
    CombinedBatch,
    ContextWindow,
    MemoryCache,
    PreFilter,
    PromptLibrary,
    ProviderBatch,
    SqliteCache,
    Tier,
    UsageLedger,
    counter_for,
    create_cascade,
    track_usage,
)
from langchain_tokenopt.accounting import PriceSource, Totals
from langchain_tokenopt.batching import BatchHandle, RateLimitedChatModel, RateLimiter
from langchain_tokenopt.prompts import DocumentIndex
from langchain_tokenopt.routing import Attempt, Verdict, longer_than, not_empty
from langchain_tokenopt.testing import LoopbackServer, PromptCache, ScriptedModel

handler: BaseCallbackHandler = UsageLedger()
with track_usage() as ledger:
    totals: Totals = ledger.totals()
    spent: Decimal = totals.cost
by_model: dict[str, Totals] = UsageLedger("calls.sqlite").totals_by("model")
tokens: int = counter_for("gpt-5").count_text("hello")


def check(source: PriceSource) -> UsageLedger:
    return UsageLedger(prices=source)


caches: list[BaseCache] = [MemoryCache(max_entries=10, ttl_s=60), SqliteCache("cache.sqlite")]
model: BaseChatModel = CachedChatModel(ScriptedModel(["4"]), cache=caches[0])
server = LoopbackServer(lambda request: request.text, prompt_cache=PromptCache())


def judge(question: str, attempt: Attempt) -> Verdict:
    return Verdict(accepted=attempt["text"] != question, reason="it is no echo")


graph = create_cascade(
    [Tier("small", model), Tier("large", model.bind(stop=["."]))],
    checks=[not_empty, judge],
    rules=[longer_than(100, tier="large")],
).compile()


def prompts_and_batches() -> None:
    window = ContextWindow(model, max_tokens=8_000, summarizer=ScriptedModel(["notes"]))
    assert_type(window.fit("2 + 2?").messages, Sequence[BaseMessage])
    assert_type((window | model).invoke("2 + 2?"), AIMessage)
    index = DocumentIndex(vectors=InMemoryVectorStore(DeterministicFakeEmbedding(size=4)))
    assert_type(PreFilter(index=index, max_tokens=500).invoke("2 + 2?"), list[Document])
    fruit: CombinedBatch[bool] = CombinedBatch(model, instruction="Is it a fruit?", answer=bool)
    assert_type(fruit.batch(["apple", "stone"]), list[bool])
    handle = ProviderBatch(model, path="batches.sqlite").submit(["2 + 2?"])
    assert_type(handle, BatchHandle)
    assert_type(handle.results()[0].message, AIMessage | None)
    limiter = RateLimiter(tokens_per_minute=90_000)
    assert_type(RateLimitedChatModel(model, limiter=limiter).invoke("2 + 2?"), AIMessage)
    template = PromptLibrary.bundled().get("code_review")
    assert_type(template.as_prompt(), ChatPromptTemplate)
