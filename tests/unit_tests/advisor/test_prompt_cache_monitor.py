"""The monitor of the provider's prompt cache: predicted against actual, and why."""

from decimal import Decimal
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_openai import ChatOpenAI

from langchain_tokenopt.advisor import PromptCacheMonitor
from langchain_tokenopt.caches import CachedChatModel, MemoryCache
from langchain_tokenopt.prompts import PromptBuilder
from langchain_tokenopt.testing import LoopbackServer, PromptCache, ScriptedModel

LONG = " ".join(f"Rule {n} of the bookshop says what to do about it." for n in range(300))


class Clock:
    now = 1_000.0

    def __call__(self) -> float:
        return self.now


def spoken(server: LoopbackServer, **options: Any) -> ChatOpenAI:
    return ChatOpenAI(model="gpt-5-mini", base_url=server.base_url, api_key="any", **options)


def test_what_is_predicted_is_what_the_provider_reads() -> None:
    monitor = PromptCacheMonitor()
    with LoopbackServer(lambda _: "ok", prompt_cache=PromptCache()) as server:
        chain = PromptBuilder(LONG).bind(spoken(server))
        for n in range(8):
            chain.invoke({"query": f"Question {n}?"}, {"callbacks": [monitor]})

    (report,) = monitor.reports()
    assert report.calls == 8
    assert report.read_share > 0.8
    assert abs(report.predicted_share - report.read_share) < 0.02
    assert report.reasons == {}
    assert report.saved is not None
    assert report.saved == Decimal("0.225") * report.read_tokens / 1_000_000
    assert report.net == report.saved


def test_a_time_in_the_prefix_is_found_and_told() -> None:
    monitor = PromptCacheMonitor()
    with LoopbackServer(lambda _: "ok", prompt_cache=PromptCache()) as server:
        chat = spoken(server)
        for n in range(5):
            asked = [SystemMessage(f"It is 10:3{n}. {LONG}"), HumanMessage("Books?")]
            chat.invoke(asked, {"callbacks": [monitor], "metadata": {"feature": "faq"}})

    (report,) = monitor.reports()
    assert (report.group, report.read_share, report.predicted_share) == ("faq", 0, 0)
    assert report.reasons == {"time_in_prefix": 4}
    assert "move the time behind all that stays equal" in monitor.report()
    assert len(monitor.divergences) == 4


def test_conversations_are_compared_with_themselves() -> None:
    monitor = PromptCacheMonitor()
    model = ScriptedModel(["ok"], model_name="gpt-5", provider="openai", when_exhausted="cycle")
    history: dict[str, list[Any]] = {name: [SystemMessage(LONG)] for name in "ab"}
    for n in range(3):
        for name, turns in history.items():
            turns += [HumanMessage(f"{name}{n}?")]
            config: Any = {"callbacks": [monitor], "metadata": {"thread_id": name}}
            turns.append(model.invoke(turns, config))

    assert monitor.reports()[0].reasons == {}
    assert monitor.reports()[0].predicted_share > 0.6


def test_prefixes_that_are_too_old_are_not_predicted() -> None:
    clock = Clock()
    monitor = PromptCacheMonitor(clock=clock)
    model = ScriptedModel(["ok"], model_name="gpt-5", provider="openai", when_exhausted="cycle")
    for _ in range(3):
        model.invoke([SystemMessage(LONG), HumanMessage("?")], {"callbacks": [monitor]})
        clock.now += 1_000

    (report,) = monitor.reports()
    assert report.predicted_tokens == 0
    assert report.reuse_interval_s == 1_000
    assert report.lifetime is not None
    assert report.lifetime.lifetime == "24h"
    assert "24h is cheapest" in monitor.report()


def test_what_writing_cost_is_told() -> None:
    usage: Any = {
        "input_tokens": 10_000, "output_tokens": 1, "total_tokens": 10_001,
        "input_token_details": {"cache_creation": 8_000},
    }  # fmt: skip
    answer = AIMessage("ok", usage_metadata=usage)
    model = ScriptedModel([answer], model_name="claude-sonnet-4-5", provider="anthropic")
    monitor = PromptCacheMonitor()
    model.invoke([SystemMessage(LONG), HumanMessage("?")], {"callbacks": [monitor]})

    (report,) = monitor.reports()
    assert report.written_tokens == 8_000
    assert report.write_loss == Decimal("0.006")  # 3 dollars a million, and a quarter more
    assert report.net == Decimal("-0.006")
    assert report.lifetime is not None
    assert report.lifetime.lifetime is None


def test_a_hit_of_our_own_cache_is_no_call_of_the_provider() -> None:
    monitor = PromptCacheMonitor()
    upstream = ScriptedModel(["ok"], model_name="gpt-5", provider="openai")
    model = CachedChatModel(upstream, cache=MemoryCache())
    for _ in range(3):
        model.invoke([SystemMessage(LONG), HumanMessage("?")], {"callbacks": [monitor]})

    assert monitor.reports()[0].calls == 1


def test_calls_that_fail_and_unknown_models_are_no_problem() -> None:
    monitor = PromptCacheMonitor()
    model = ScriptedModel([OSError("down"), "ok"])
    with pytest.raises(OSError, match="down"):
        model.invoke("?", {"callbacks": [monitor]})
    model.invoke("?", {"callbacks": [monitor]})

    (report,) = monitor.reports()
    assert (report.calls, report.predicted_tokens, report.saved, report.net) == (1, 0, None, None)
    assert report.lifetime is None
    assert PromptCacheMonitor().report() == "no call was seen"


@pytest.mark.parametrize(
    ("parameters", "written"),
    [
        ({}, "cache_write_5m"),
        ({"cache_control": {"type": "ephemeral"}}, "cache_write_5m"),
        ({"cache_control": {"type": "ephemeral", "ttl": "1h"}}, "cache_write_1h"),
    ],
)
def test_writes_are_booked_by_the_lifetime_that_was_asked_for(
    parameters: dict[str, Any], written: str
) -> None:
    usage: Any = {
        "input_tokens": 5_000, "output_tokens": 1, "total_tokens": 5_001,
        "input_token_details": {"cache_creation": 4_000},
    }  # fmt: skip
    model = ScriptedModel(
        [AIMessage("ok", usage_metadata=usage)], model_name="claude-sonnet-4-5",
        provider="anthropic", when_exhausted="cycle",
    )  # fmt: skip
    monitor = PromptCacheMonitor()

    model.invoke([SystemMessage(LONG), HumanMessage("?")], {"callbacks": [monitor]}, **parameters)

    (report,) = monitor.reports()
    extra = {"cache_write_5m": Decimal("0.75"), "cache_write_1h": Decimal(3)}[written]
    assert report.write_loss == extra * 4_000 / 1_000_000


def test_a_model_without_a_price_has_no_net_in_its_report() -> None:
    monitor = PromptCacheMonitor()
    model = ScriptedModel(["ok"], model_name="our-own", provider="local")

    model.invoke([SystemMessage(LONG), HumanMessage("?")], {"callbacks": [monitor]})

    assert "our-own: 1 calls" in monitor.report()
    assert "net " not in monitor.report()
