"""Uses of the public interface that a type checker must accept. Checked, never run."""

from collections.abc import Sequence
from decimal import Decimal
from typing import Any, assert_type

from langchain.agents.middleware import AgentMiddleware
from langchain_core.caches import BaseCache
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.vectorstores import InMemoryVectorStore

from langchain_tokenopt import (
    BalancedChatModel,
    CachedChatModel,
    Cascade,
    ChainOfThought,
    CombinedBatch,
    ContextWindow,
    Deployment,
    LeastToMost,
    MemoryCache,
    PreFilter,
    PromptLibrary,
    ProviderBatch,
    SelfConsistency,
    SemanticCache,
    SqliteCache,
    Stack,
    Tier,
    TieredCache,
    UsageLedger,
    counter_for,
    create_cascade,
    create_multi_tier,
    track_usage,
)
from langchain_tokenopt.accounting import PriceSource, Totals
from langchain_tokenopt.advisor import (
    AuditOptions,
    BreakEven,
    LoggedCall,
    Share,
    SpendForecast,
    audit,
    break_even,
    calls_of_ledger,
    forecast,
    read_log,
    spend_by_feature,
)
from langchain_tokenopt.batching import BatchHandle, RateLimitedChatModel, RateLimiter
from langchain_tokenopt.middleware import (
    ContextMiddleware,
    LedgerMiddleware,
    ResponseCacheMiddleware,
    check_order,
)
from langchain_tokenopt.prompts import DocumentIndex
from langchain_tokenopt.reasoning import (
    LabelledSample,
    ReasoningResult,
    TechniqueChoice,
    choose_technique,
)
from langchain_tokenopt.reasoning.extract import number
from langchain_tokenopt.routing import Attempt, Verdict, longer_than, not_empty
from langchain_tokenopt.stack import MultiTierContext
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


def reasoning() -> None:
    cautious = SelfConsistency(model, n=20, answer=number)
    assert_type(cautious.invoke("17 * 3?"), ReasoningResult)
    techniques = {"chain": ChainOfThought(model), "steps": LeastToMost(model), "votes": cautious}
    samples = [LabelledSample(input="2 + 2?", gold=4)]
    choice = choose_technique(techniques, samples, budget=10_000)
    assert_type(choice, TechniqueChoice)


def routing() -> None:
    cascade: BaseChatModel = Cascade([Tier("small", model), Tier("large", model)])
    balanced: BaseChatModel = BalancedChatModel([Deployment("sweden", cascade, region="eu")])
    shared = TieredCache.default("redis://localhost:6379")
    alike = SemanticCache(DeterministicFakeEmbedding(size=4), max_error_rate=0.01)
    multi = create_multi_tier([Tier("only", balanced)], cache=shared, similar=alike).compile()
    multi.invoke({"messages": [HumanMessage("2 + 2?")]}, context=MultiTierContext(tenant="acme"))


def advice() -> None:
    assert_type(audit("calls.jsonl", AuditOptions(small="gpt-5-mini")).combined, Share)
    assert_type(read_log("calls.jsonl").calls, tuple[LoggedCall, ...])
    calls = list(UsageLedger("calls.sqlite").records())
    assert_type(forecast(spend_by_feature(calls)["faq"], days=30), SpendForecast)
    paid = calls_of_ledger(calls)
    assert_type(break_even(paid, model="gpt-4.1-mini", training_tokens=1), BreakEven)


def agent() -> None:
    middleware: list[AgentMiddleware[Any, Any]] = [
        LedgerMiddleware(UsageLedger()),
        ResponseCacheMiddleware(caches[0]),
        ContextMiddleware(ContextWindow("gpt-5-mini", max_tokens=8_000)),
    ]
    check_order(middleware)
    stack = Stack.load("tokenopt.toml")
    assert_type(stack.model(), BaseChatModel)
