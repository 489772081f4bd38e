"""Ledger, cache and cascade over real HTTP: what we count is what the server billed."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest
from langchain_core.messages import HumanMessage, SystemMessage
from langchain_openai import ChatOpenAI
from pydantic import BaseModel

from langchain_tokenopt import (
    CachedChatModel,
    MemoryCache,
    Tier,
    UsageLedger,
    create_cascade,
    track_usage,
)
from langchain_tokenopt.routing import no_refusal
from langchain_tokenopt.testing import (
    ChatRequest,
    Dropped,
    LoopbackServer,
    PromptCache,
    RateLimited,
    Reply,
    ServerError,
)

HANDBOOK = SystemMessage("Parcels travel by night and rest by day, says the handbook. " * 150)


def chat(server: LoopbackServer, **options: Any) -> ChatOpenAI:
    given = {"model": "gpt-5-mini", "api_key": "any", "max_retries": 0, **options}
    return ChatOpenAI(base_url=server.base_url, **given)


def billed(server: LoopbackServer) -> tuple[int, int, int]:
    rows = server.billed
    return (
        sum(row["prompt_tokens"] for row in rows),
        sum(row["prompt_tokens_details"]["cached_tokens"] for row in rows),
        sum(row["completion_tokens"] for row in rows),
    )


def counted(ledger: UsageLedger) -> tuple[int, int, int]:
    usage = ledger.totals().usage
    return usage.input_tokens, usage.cache_read, usage.output


async def test_every_way_of_calling_is_counted_as_it_was_billed() -> None:
    with LoopbackServer(lambda r: f"You said: {r.text}", prompt_cache=PromptCache()) as server:
        model = chat(server, stream_usage=True)
        ledger = UsageLedger()
        config: Any = {"callbacks": [ledger]}
        asked = [HANDBOOK, HumanMessage("one")]

        model.invoke(asked, config)
        await model.ainvoke(asked, config)
        list(model.stream(asked, config))
        [_ async for _ in model.astream(asked, config)]
        model.batch([asked] * 5, config)
        await model.abatch([asked] * 5, config)
        model.bind(n=3).invoke(asked, config)

        assert counted(ledger) == billed(server)
        assert ledger.totals().calls == len(server.billed) == 15
        assert ledger.totals().usage.cache_read > 0
        assert ledger.totals().estimated_calls == 0


def test_the_cost_is_that_of_the_billed_tokens() -> None:
    with LoopbackServer(lambda _: "ok", prompt_cache=PromptCache()) as server:
        with track_usage() as ledger:
            for _ in range(2):
                chat(server, model="gpt-5").invoke([HANDBOOK, HumanMessage("hi")])
        read, cached, written = billed(server)

    dollars = ((read - cached) * 1.25 + cached * 0.125 + written * 10) / 1_000_000
    assert cached > 1_024
    assert float(ledger.totals().cost) == pytest.approx(dollars)


def test_the_served_tier_sets_the_price() -> None:
    replies = [Reply(text="ok"), Reply(text="ok", service_tier="default")]
    with LoopbackServer(replies) as server, track_usage() as ledger:
        for _ in range(2):
            chat(server, model="gpt-5", service_tier="flex").invoke("hi")

    flex, standard = ledger.records()
    assert (flex.tier, standard.tier) == ("flex", None)
    assert flex.cost is not None
    assert standard.cost == 2 * flex.cost


def test_writes_to_the_providers_cache_are_counted_apart() -> None:
    cache = PromptCache(reports_writes=True)
    with LoopbackServer(lambda _: "ok", prompt_cache=cache) as server, track_usage() as ledger:
        model = chat(server, model="gpt-5.6-sol", use_responses_api=False)
        for _ in range(2):
            model.invoke([HANDBOOK, HumanMessage("hi")])

    first, second = ledger.records()
    assert first.usage.cache_write == second.usage.cache_read > 1_024
    assert first.cost is not None
    assert second.cost is not None
    assert first.cost > 5 * second.cost


def test_retries_of_the_client_are_one_call_and_a_failure_is_free() -> None:
    answers = [RateLimited(retry_after_s=0.01), "ok", ServerError()]
    with LoopbackServer(answers) as server, track_usage() as ledger:
        chat(server, max_retries=1).invoke("hi")
        with pytest.raises(openai.InternalServerError):
            chat(server).invoke("hi")

    live, error = ledger.records()
    assert (live.kind, error.kind) == ("live", "error")
    assert error.usage.total_tokens == 0
    assert len(server.requests) == 3


def test_a_dropped_stream_is_estimated_near_what_was_billed() -> None:
    fault = Dropped(reply=Reply(text="word " * 50), after_pieces=40)
    with LoopbackServer([fault]) as server, track_usage() as ledger:
        with pytest.raises(Exception, match=r"(?i)connection|incomplete|closed"):
            list(chat(server).stream([HANDBOOK, HumanMessage("hi")]))
        read, _, written = billed(server)

    (record,) = ledger.records()
    assert (record.kind, record.estimated) == ("error", True)
    assert record.usage.input_tokens == read
    assert 0.7 * written < record.usage.output <= written


def test_an_abandoned_stream_is_estimated_near_what_was_billed() -> None:
    with LoopbackServer(["word " * 200]) as server, track_usage() as ledger:
        stream = chat(server).stream([HANDBOOK, HumanMessage("hi")])
        for _ in range(150):
            next(stream)
        stream.close()
        read, _, written = billed(server)

    (record,) = ledger.records()
    assert (record.kind, record.estimated) == ("abandoned", True)
    assert record.usage.input_tokens == read
    assert 0.6 * written < record.usage.output <= written


# --- the cache --------------------------------------------------------------------------------


def test_a_hundred_threads_and_the_second_stream_make_one_request(
    echo_server: LoopbackServer,
) -> None:
    model = CachedChatModel(chat(echo_server), cache=MemoryCache())
    ledger = UsageLedger()

    with ThreadPoolExecutor(100) as pool:
        asked = [pool.submit(model.invoke, "hi", {"callbacks": [ledger]}) for _ in range(100)]
        answers = {each.result().text for each in asked}
    streamed = "".join(c.text for c in model.stream("hi", {"callbacks": [ledger]}))

    assert answers == {streamed} == {"You said: hi"}
    assert len(echo_server.requests) == 1
    totals = ledger.totals()
    assert (totals.live, totals.cache_hits) == (1, 100)
    assert totals.saved == 100 * totals.cost > 0
    assert counted(ledger) == billed(echo_server)


async def test_a_hundred_tasks_make_one_request(echo_server: LoopbackServer) -> None:
    model = CachedChatModel(chat(echo_server), cache=MemoryCache())

    answers = await asyncio.gather(*(model.ainvoke("hi") for _ in range(100)))

    assert {answer.text for answer in answers} == {"You said: hi"}
    assert len(echo_server.requests) == 1


class Answer(BaseModel):
    """An answer."""

    number: int


@pytest.mark.parametrize("method", ["json_schema", "function_calling", "json_mode"])
def test_structured_output_is_served_in_every_method(method: Any) -> None:
    call = {"name": "Answer", "args": {"number": 4}, "id": "c"}

    def answer(request: ChatRequest) -> Reply:
        if request.body.get("tools"):
            return Reply(tool_calls=[call])
        return Reply(text='{"number": 4}')

    with LoopbackServer(answer) as server:
        model = CachedChatModel(chat(server), cache=MemoryCache())
        structured = model.with_structured_output(Answer, method=method)
        answers = [structured.invoke("2 + 2? Answer in JSON.") for _ in range(3)]
        plain = model.invoke("2 + 2? Answer in JSON.").text

    assert answers == [Answer(number=4)] * 3
    assert plain == '{"number": 4}'
    assert len(server.requests) == 2


def test_an_abandoned_stream_is_asked_for_again() -> None:
    with LoopbackServer(lambda _: "word " * 50) as server:
        model = CachedChatModel(chat(server), cache=MemoryCache())
        stream = model.stream("hi")
        next(stream)
        stream.close()
        model.invoke("hi")
        model.invoke("hi")

    assert len(server.requests) == 2


def test_logprobs_survive_a_hit() -> None:
    with LoopbackServer([Reply(text="four", token_logprobs=[-0.5])]) as server:
        model = CachedChatModel(chat(server, logprobs=True), cache=MemoryCache())
        live, hit = (model.invoke("2 + 2?").response_metadata["logprobs"] for _ in range(2))

    assert hit["content"] == live["content"]
    assert hit["content"][0]["logprob"] == -0.5


# --- the cascade ------------------------------------------------------------------------------


def test_a_cascade_is_counted_by_tier_and_goes_on_where_the_small_model_is_down() -> None:
    def answer(request: ChatRequest) -> Any:
        if request.model == "gpt-5.1":
            return "It is 4."
        return {"2 + 2?": "I don't know.", "3 + 3?": RateLimited()}.get(request.text, "fine")

    with LoopbackServer(answer) as server:
        tiers = [Tier("small", chat(server)), Tier("large", chat(server, model="gpt-5.1"))]
        graph = create_cascade(tiers, checks=[no_refusal]).compile()
        ledger = UsageLedger()
        config: Any = {"callbacks": [ledger]}
        states = [
            graph.invoke({"messages": [("user", text)]}, config)
            for text in ("hello", "2 + 2?", "3 + 3?")
        ]

    assert [state["answer"].text for state in states] == ["fine", "It is 4.", "It is 4."]
    assert "RateLimit" in states[2]["attempts"][0]["error"]
    by_node = ledger.totals_by("node")
    assert (by_node["small"].live, by_node["small"].errors, by_node["large"].live) == (2, 1, 2)
    assert sum(totals.cost for totals in by_node.values()) == ledger.totals().cost > 0
