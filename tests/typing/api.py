"""Uses of the public interface that a type checker must accept. Checked, never run."""

from decimal import Decimal

from langchain_core.caches import BaseCache
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.language_models import BaseChatModel

from langchain_tokenopt import (
    CachedChatModel,
    MemoryCache,
    SqliteCache,
    Tier,
    UsageLedger,
    counter_for,
    create_cascade,
    track_usage,
)
from langchain_tokenopt.accounting import PriceSource, Totals
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
