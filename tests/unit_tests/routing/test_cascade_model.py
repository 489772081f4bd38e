"""The cascade as a chat model: streams, tools, agents, and what callbacks hear."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from langchain_core.callbacks import UsageMetadataCallbackHandler
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessageChunk
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableConfig, RunnableGenerator
from langchain_core.tools import tool
from pydantic import BaseModel

from langchain_tokenopt.accounting import UsageLedger
from langchain_tokenopt.caches import CachedChatModel, MemoryCache
from langchain_tokenopt.errors import BudgetExceededError, ConfigurationError
from langchain_tokenopt.routing import (
    Attempt,
    Cascade,
    Gate,
    GateModel,
    LogisticModel,
    Route,
    RouterStart,
    RoutingPolicy,
    SecondOpinion,
    Tier,
    Verdict,
    calibrate,
    fit_router,
    labelled,
    mentions,
    not_empty,
    tiers_of,
)
from langchain_tokenopt.testing import Failure, ScriptedModel


def says_four(question: str, attempt: Attempt) -> Verdict:
    return Verdict(accepted="4" in attempt["text"], reason="looked for a 4")


def scripted(answer: Any, name: str = "scripted") -> ScriptedModel:
    return ScriptedModel([answer], when_exhausted="repeat_last", model_name=name)


def cascade(*answers: Any, **options: Any) -> tuple[Cascade, list[ScriptedModel]]:
    models = [scripted(answer, f"model-{n}") for n, answer in enumerate(answers)]
    tiers = [Tier(f"tier_{n}", model) for n, model in enumerate(models)]
    return Cascade(tiers, **{"checks": [says_four], **options}), models


async def test_the_first_good_answer_is_given_with_what_was_tried() -> None:
    model, (small, middle, large) = cascade("5", "4", "four")

    answer = model.invoke("2 + 2?")

    told = answer.response_metadata["tokenopt_cascade"]
    assert (answer.text, told["tier"], told["accepted"]) == ("4", "tier_1", True)
    assert [attempt["text"] for attempt in told["attempts"]] == ["5", "4"]
    assert answer.usage_metadata is not None
    assert (small.calls, middle.calls, large.calls) == (1, 1, 0)
    assert (await model.ainvoke("2 + 2?")).text == "4"


async def test_a_stream_shows_the_last_tier_as_it_comes_and_no_draft() -> None:
    model, _ = cascade("5 is wrong", "4 is right, surely")

    chunks = list(model.stream("2 + 2?"))
    achunks = [chunk async for chunk in model.astream("2 + 2?")]

    assert len([chunk for chunk in chunks if chunk.text]) > 2
    assert [chunk.text for chunk in chunks] == [chunk.text for chunk in achunks]
    whole: Any = chunks[0]
    for chunk in chunks[1:]:
        whole += chunk
    assert whole.text == "4 is right, surely"
    assert whole.response_metadata["tokenopt_cascade"]["tier"] == "tier_1"


async def test_an_accepted_draft_is_streamed_once() -> None:
    model, (_, large) = cascade("4 is right", "never")

    chunks = [chunk async for chunk in model.astream("2 + 2?")]

    assert "".join(chunk.text for chunk in chunks) == "4 is right"
    assert len({chunk.id for chunk in chunks}) == 1
    assert large.calls == 0


async def test_a_stream_that_breaks_after_its_first_token_raises() -> None:
    broken = Failure(error=ConnectionError("cut"), after_chunks=1, text="4 is right")
    model, _ = cascade("5", broken)

    with pytest.raises(ConnectionError):
        list(model.stream("2 + 2?"))
    with pytest.raises(ConnectionError):
        [chunk async for chunk in model.astream("2 + 2?")]


async def test_a_budget_without_room_for_the_last_tier_leaves_the_draft_in_a_stream_too() -> None:
    refused = BudgetExceededError("budget 'day' is spent", status=None, needed=None)
    model, _ = cascade("5", refused)

    streamed = "".join(chunk.text for chunk in model.stream("2 + 2?"))
    astreamed = "".join([chunk.text async for chunk in model.astream("2 + 2?")])

    assert streamed == astreamed == model.invoke("2 + 2?").text == "5"


def test_the_ledger_has_each_call_once_however_the_model_is_asked() -> None:
    model, _ = cascade("5", "4")
    ways = [
        lambda config: model.invoke("2 + 2?", config),
        lambda config: list(model.stream("2 + 2?", config)),
        lambda config: model.batch(["2 + 2?"], config),
        lambda config: model.generate([model._convert_input("2 + 2?").to_messages()], **config),
        lambda config: asyncio.run(model.ainvoke("2 + 2?", config)),
        lambda config: CachedChatModel(model, cache=MemoryCache()).invoke("2 + 2?", config),
    ]
    for way in ways:
        ledger, core = UsageLedger(), UsageMetadataCallbackHandler()
        way({"callbacks": [ledger, core]})

        assert [record.model for record in ledger.records()] == ["model-0", "model-1"]
        assert sorted(core.usage_metadata) == ["model-0", "model-1"]
        counted = sum(usage["total_tokens"] for usage in core.usage_metadata.values())
        assert ledger.totals().usage.total_tokens == counted


@tool
def double(number: int) -> int:
    """Double a number."""
    return 2 * number


def test_tools_are_bound_to_every_tier() -> None:
    call = {"name": "double", "args": {"number": 2}, "id": "1", "type": "tool_call"}
    model, (small, large) = cascade("", AIMessage("", tool_calls=[call]), checks=[not_empty])

    answer = model.bind_tools([double]).invoke("Double 2.")

    assert answer.tool_calls == [call]
    for asked in (small, large):
        assert asked.keywords[0]["tools"][0]["function"]["name"] == "double"


class Sum(BaseModel):
    total: int


def test_structured_output_comes_of_the_tier_that_fills_it_in() -> None:
    call = {"name": "Sum", "args": {"total": 4}, "id": "1", "type": "tool_call"}
    model, _ = cascade("", AIMessage("", tool_calls=[call]), checks=[not_empty])

    assert model.with_structured_output(Sum).invoke("2 + 2?") == Sum(total=4)


def test_options_of_a_call_reach_the_models() -> None:
    model, (small, large) = cascade("5", "4")

    model.bind(stop=["\n"]).invoke("2 + 2?", temperature=0.5)

    for asked in (small, large):
        assert (asked.keywords[0]["stop"], asked.keywords[0]["temperature"]) == (["\n"], 0.5)


def test_it_is_a_part_of_a_chain() -> None:
    model, _ = cascade("5", "4")

    chain = ChatPromptTemplate([("user", "{a} + {b}?")]) | model

    assert chain.invoke({"a": 2, "b": 2}).text == "4"


def test_rules_come_before_what_was_learned() -> None:
    asked: list[str] = []

    def start(messages: Any, config: RunnableConfig) -> Route | None:
        asked.append(messages[-1].text)
        return Route(tier="tier_1", reason="it is hard") if "hard" in messages[-1].text else None

    model, (small, middle, large) = cascade(
        "4", "4", "4", rules=[mentions("legal", tier="tier_2")], start=start
    )

    told = [
        model.invoke(text).response_metadata["tokenopt_cascade"]["route"]
        for text in ("a legal question", "a hard question", "a question")
    ]

    assert told == ["the question mentions 'legal'", "it is hard", "no rule applied"]
    assert asked == ["a hard question", "a question"]
    assert (small.calls, middle.calls, large.calls) == (1, 1, 1)


async def test_a_chooser_may_be_asynchronous_where_the_call_is() -> None:
    async def start(messages: Any, config: RunnableConfig) -> Route:
        return Route(tier="tier_1", reason="learned")

    model, (small, _) = cascade("5", "4", start=start)

    assert (await model.ainvoke("2 + 2?")).text == "4"
    assert small.calls == 0
    with pytest.raises(ConfigurationError, match="`start` is asynchronous"):
        model.invoke("2 + 2?")


def test_a_chooser_that_names_no_tier_is_refused() -> None:
    model, _ = cascade("5", start=lambda *_: Route(tier="huge", reason="?"))

    with pytest.raises(ConfigurationError, match="'huge'; the tiers are tier_0"):
        model.invoke("2 + 2?")


async def test_a_gate_scores_drafts_and_its_calls_are_counted() -> None:
    peer = scripted("It is 4", "peer")
    gate = Gate(second_opinion=SecondOpinion(model=peer), reader=lambda text: text.split()[-1])
    small, large = scripted("Surely 4", "small"), scripted("4", "large")
    model = Cascade([Tier("small", small, gate=gate, threshold=0.9), Tier("large", large)])
    ledger = UsageLedger()

    answer = model.invoke("2 + 2?", {"callbacks": [ledger]})
    aanswer = await model.ainvoke("2 + 2?")

    (attempt,) = answer.response_metadata["tokenopt_cascade"]["attempts"]
    assert (attempt["score"], attempt["accepted"]) == (1.0, True)
    assert "score 1.00, needed more than 0.90" in attempt["reason"]
    assert [record.model for record in ledger.records()] == ["small", "peer"]
    assert aanswer.text == answer.text


async def test_a_gate_that_cannot_tell_declines() -> None:
    peer = ScriptedModel([ConnectionError("down")], when_exhausted="repeat_last")
    gate = Gate(second_opinion=SecondOpinion(model=peer), reader=lambda text: text)
    model = Cascade([Tier("small", scripted("5"), gate=gate), Tier("large", scripted("4"))])

    answer, aanswer = model.invoke("2 + 2?"), await model.ainvoke("2 + 2?")

    assert answer.text == aanswer.text == "4"
    first = answer.response_metadata["tokenopt_cascade"]["attempts"][0]
    assert "the gate raised ConnectionError" in first["reason"]


async def test_a_hundred_calls_at_once_do_not_mix() -> None:
    echo = ScriptedModel([lambda messages: messages[-1].text], when_exhausted="repeat_last")
    model = Cascade([Tier("small", echo), Tier("large", echo)], checks=[not_empty])

    answers = await asyncio.gather(*(model.ainvoke(f"q{n}") for n in range(100)))

    assert [answer.text for answer in answers] == [f"q{n}" for n in range(100)]
    assert all(len(a.response_metadata["tokenopt_cascade"]["attempts"]) == 1 for a in answers)


async def test_a_cancelled_call_leaves_no_task_behind() -> None:
    asked = asyncio.Event()

    async def wait_for_ever(_: float) -> None:
        asked.set()
        await asyncio.Event().wait()

    slow: BaseChatModel = ScriptedModel(["4"], latency_s=1.0, async_sleep=wait_for_ever)
    before = asyncio.all_tasks()
    run = asyncio.create_task(Cascade([Tier("slow", slow)]).ainvoke("2 + 2?"))
    await asked.wait()

    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run

    assert asyncio.all_tasks() == before


def test_tiers_that_cannot_be_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="at least one tier"):
        Cascade([])
    with pytest.raises(ConfigurationError, match=r"\['a'\]"):
        Cascade([Tier("a", scripted("4")), Tier("a", scripted("4"))])


def test_chunks_are_chunks_of_one_message() -> None:
    model, _ = cascade("5", "4 it is")

    assert all(isinstance(chunk, AIMessageChunk) for chunk in model.stream("2 + 2?"))


# --- what was calibrated --------------------------------------------------------------------------


def last_word(text: str) -> str:
    return text.rsplit(maxsplit=1)[-1]


def labels(*, wrong_every: int = 5, cost: int = 1) -> list[Any]:
    """Drafts that are wrong every so often, which the peer's opinion shows."""
    return [
        labelled(
            f"{n} + {n}?",
            f"It is {2 * n + (n % wrong_every == 0)}",
            strong=f"{2 * n}",
            reader=last_word,
            opinions=[f"{2 * n}"],
            weak_cost=cost,
            strong_cost=20,
            gate_cost=1,
        )
        for n in range(10, 110)
    ]


def calibrated(**options: Any) -> tuple[RoutingPolicy, Gate]:
    peer = SecondOpinion(model=scripted("It is 8"))
    gate = Gate(reader=last_word, second_opinion=peer)
    return calibrate(gate, labels(**options), max_loss=0.05), gate


def test_a_policy_makes_a_cascade_whose_gate_keeps_its_threshold(tmp_path: Path) -> None:
    policy, gate = calibrated()
    path = tmp_path / "policy.json"
    policy.save(path)
    tiers = tiers_of(
        RoutingPolicy.load(path),
        small=Tier("small", scripted("It is 8")),
        large=Tier("large", scripted("8")),
        gate=gate,
    )

    agreed = Cascade(tiers).invoke("4 + 4?").response_metadata["tokenopt_cascade"]
    doubted = Cascade(
        [replace(tiers[0], model=scripted("It is 9")), tiers[1]]
    ).invoke("4 + 4?")  # fmt: skip

    assert [tier.name for tier in tiers] == ["small", "large"]
    assert (agreed["tier"], len(agreed["attempts"])) == ("small", 1)
    assert doubted.text == "8"


def test_a_policy_that_advises_one_model_makes_one_tier() -> None:
    small, large = Tier("small", scripted("4")), Tier("large", scripted("four"))
    dear, _ = calibrated(cost=30)
    good, gate = calibrated(wrong_every=1_000)

    assert [tier.name for tier in tiers_of(dear, small=small, large=large)] == ["large"]
    assert [tier.name for tier in tiers_of(good, small=small, large=large, gate=gate)] == ["small"]


def test_a_policy_with_opinions_needs_a_gate_that_asks_for_them() -> None:
    policy, _ = calibrated()
    fitted = replace(
        policy,
        gate_model=GateModel(own=_flat(), full=_flat()),
    )

    with pytest.raises(ConfigurationError, match="calibrated with second opinions"):
        tiers_of(fitted, small=Tier("small", scripted("4")), large=Tier("large", scripted("4")))


def _flat() -> LogisticModel:
    return LogisticModel(
        names=("agreement",), means=(0.0,), scales=(1.0,), weights=(1.0,), intercept=0.0
    )


async def test_a_router_sends_hard_questions_straight_to_the_strong_model() -> None:
    sums = [f"What is {n} + {n}?" for n in range(30)]
    proofs = [f"Prove theorem {n} about primes." for n in range(30)]
    router = fit_router(sums + proofs, [0.0] * 30 + [1.0] * 30)
    start = RouterStart(router=router, strong="tier_1", threshold=0.35)
    model, (small, _) = cascade("4", "4", start=start)

    easy = model.invoke("What is 7 + 8?").response_metadata["tokenopt_cascade"]
    hard = await model.ainvoke("Prove the theorem about primes.")

    assert easy["tier"] == "tier_0"
    assert hard.response_metadata["tokenopt_cascade"]["tier"] == "tier_1"
    assert small.calls == 1


def test_what_a_tier_streams_that_is_no_answer_is_told() -> None:
    def streamed(*chunks: Any) -> str:
        def generated(_: Any) -> Iterator[Any]:
            yield from chunks

        model = Cascade([Tier("odd", RunnableGenerator(generated))])
        return "".join(str(chunk.text) for chunk in model.stream("2 + 2?"))

    assert streamed() == ""
    assert streamed(AIMessageChunk("fo"), AIMessageChunk("ur")) == "four"
    with pytest.raises(ConfigurationError, match="must answer with an AIMessage, got Human"):
        streamed(HumanMessageChunk("fo"), HumanMessageChunk("ur"))
