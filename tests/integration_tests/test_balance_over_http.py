"""Deployments over real HTTP: slow, busy, broken and killed servers, and who counts what."""

import asyncio
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import openai
import pytest
from langchain_openai import ChatOpenAI

from langchain_tokenopt import UsageLedger
from langchain_tokenopt.routing.balance import BalancedChatModel
from langchain_tokenopt.routing.balance_board import DeploymentsCoolingError
from langchain_tokenopt.routing.deployment import BalanceStats, Deployment, Hedging
from langchain_tokenopt.testing import (
    ChatRequest,
    Dropped,
    Latency,
    LoopbackServer,
    RateLimited,
    Reply,
    ServerError,
)

Answers = Callable[[ChatRequest], Any]


@pytest.fixture
def serve() -> Iterator[Callable[..., LoopbackServer]]:
    """Start servers that stop with the test."""
    with ExitStack() as running:
        yield lambda answers, **options: running.enter_context(LoopbackServer(answers, **options))


def chat(server: LoopbackServer, **options: Any) -> ChatOpenAI:
    given = {"model": "gpt-5-mini", "api_key": "any", "max_retries": 0, **options}
    return ChatOpenAI(base_url=server.base_url, **given)


def balanced(servers: Sequence[LoopbackServer], **options: Any) -> BalancedChatModel:
    deployments = [Deployment(f"d{n}", chat(server)) for n, server in enumerate(servers)]
    return BalancedChatModel(deployments, **{"rng": random.Random(3), **options})


def arrived(servers: Sequence[LoopbackServer]) -> int:
    return sum(len(server.requests) for server in servers)


def billed(servers: Sequence[LoopbackServer]) -> tuple[int, int]:
    rows = [row for server in servers for row in server.billed]
    return (
        sum(row["prompt_tokens"] for row in rows),
        sum(row["completion_tokens"] for row in rows),
    )


def counted(ledger: UsageLedger) -> tuple[int, int]:
    usage = ledger.totals().usage
    return usage.input_tokens, usage.output


def idle(stats: BalanceStats) -> bool:
    return all(
        each.in_flight == 0
        and each.calls == each.answers + each.failures + each.rejected + each.abandoned
        for each in stats.deployments
    )


def test_slow_busy_broken_and_killed_deployments_fail_no_request(serve: Any) -> None:
    slow = serve(lambda _: "slow", latency=Latency(first_token_s=0.3))
    busy = serve(lambda _: RateLimited(retry_after_s=60))
    broken = serve(lambda _: ServerError())
    steady = serve(lambda _: "steady")
    killed = LoopbackServer(lambda _: "killed").__enter__()
    servers = [slow, busy, broken, steady, killed]
    model, ledger = balanced(servers), UsageLedger()
    half = threading.Barrier(21, timeout=60)

    def ask(number: int) -> str:
        if number == 60:
            killed.__exit__(None, None, None)
        if number in range(40, 60):
            half.wait()  # so that the server is killed after others were under way
        return model.invoke("2 + 2?", {"callbacks": [ledger]}).text

    with ThreadPoolExecutor(20) as pool:
        first = list(pool.map(ask, range(40)))
        waiting = [pool.submit(ask, number) for number in range(40, 60)]
        half.wait()
        rest = [future.result() for future in waiting]
        rest += list(pool.map(ask, range(60, 200)))

    stats = model.stats()
    assert set(first + rest) <= {"slow", "steady", "killed"}
    assert len(busy.requests) == stats["d1"].rate_limited
    assert 55 < stats["d1"].cooling_s <= 60
    assert stats["d2"].cooldowns >= 1
    assert stats["d4"].cooldowns >= 1
    assert len(steady.requests) > len(slow.requests)
    assert idle(stats)
    # Whom the killed server was answering it may bill, but nobody saw the answer.
    live = sum(record.kind == "live" for record in ledger.records())
    assert live == 200 == stats["d4"].answers + sum(len(each.billed) for each in servers[:4])


async def test_500_requests_at_once_with_faults_are_answered_or_fail_clearly(serve: Any) -> None:
    rng, lock = random.Random(11), threading.Lock()

    def answer(request: ChatRequest) -> Any:
        with lock:
            drawn = rng.random()
        if drawn >= 0.05:
            return f"You said: {request.text}"
        faults = [ServerError(), ServerError(status=503), RateLimited(retry_after_s=0.1), Dropped()]
        return faults[int(drawn * 1_000) % len(faults)]

    servers = [serve(answer) for _ in range(4)]
    model, ledger = balanced(servers, patience_s=5.0), UsageLedger()
    config: Any = {"callbacks": [ledger]}

    async def stream(text: str) -> str:
        return "".join([chunk.text async for chunk in model.astream(text, config)])

    async def invoke(text: str) -> str:
        return (await model.ainvoke(text, config)).text

    asked = [f"question {n}" for n in range(500)]
    answers = await asyncio.gather(
        *(stream(text) if n % 2 else invoke(text) for n, text in enumerate(asked)),
        return_exceptions=True,
    )

    failed = [each for each in answers if isinstance(each, BaseException)]
    assert all(isinstance(each, openai.APIError | DeploymentsCoolingError) for each in failed)
    assert len(failed) <= 5
    for text, given in zip(asked, answers, strict=True):
        assert isinstance(given, BaseException) or given == f"You said: {text}"
    records = list(ledger.records())
    sent = [record for record in records if record.error != "DeploymentsCoolingError"]
    assert len(sent) == arrived(servers) > 500
    assert sum(record.kind == "live" for record in records) == sum(len(s.billed) for s in servers)
    assert counted(ledger) == billed(servers)
    assert idle(model.stats())


def test_threads_share_a_balancer(serve: Any) -> None:
    def flaky() -> Answers:
        numbers = iter(range(10_000))
        lock = threading.Lock()

        def answer(_: ChatRequest) -> Any:
            with lock:
                number = next(numbers)
            return ServerError() if number % 20 == 19 else "four"

        return answer

    servers = [serve(flaky()), serve(flaky()), serve(lambda _: "four")]
    model, ledger = balanced(servers), UsageLedger()

    with ThreadPoolExecutor(25) as pool:
        answers = list(
            pool.map(lambda _: model.invoke("2 + 2?", {"callbacks": [ledger]}).text, range(300))
        )

    assert answers == ["four"] * 300
    assert len(list(ledger.records())) == arrived(servers)
    assert counted(ledger) == billed(servers)
    assert idle(model.stats())


def test_retry_after_is_kept_by_every_call(serve: Any) -> None:
    busy, free = serve(lambda _: RateLimited(retry_after_s=30)), serve(lambda _: "four")
    model = balanced([busy, free])

    for _ in range(30):
        model.invoke("2 + 2?")

    assert len(busy.requests) <= 1
    assert len(free.requests) == 30


def test_a_bad_request_is_not_sent_elsewhere(serve: Any) -> None:
    servers = [serve(lambda _: ServerError(status=400, message="no such tool")) for _ in range(3)]
    model = balanced(servers)

    with pytest.raises(openai.BadRequestError, match="no such tool"):
        model.invoke("2 + 2?")

    assert arrived(servers) == 1
    assert all(each.failures == 0 for each in model.stats().deployments)


def test_a_wrong_key_at_one_deployment_fails_no_request(serve: Any) -> None:
    wrong, right = serve(lambda _: ServerError(status=401)), serve(lambda _: "four")
    model = balanced([wrong, right])

    assert {model.invoke("2 + 2?").text for _ in range(10)} == {"four"}
    assert len(wrong.requests) == model.stats()["d0"].failures <= 4


@pytest.mark.parametrize("given", [0, 3])
async def test_a_dropped_stream_begins_again_only_before_its_first_token(
    serve: Any, given: int
) -> None:
    reply = Reply(text="one two three four five six")
    cut = Dropped(reply=reply, after_pieces=given)
    servers = [serve([cut] if n == 0 else [reply] * 9) for n in range(2)]
    deployments = [
        Deployment("cut", chat(servers[0]), weight=1_000),
        Deployment("whole", chat(servers[1])),
    ]
    model, ledger = BalancedChatModel(deployments, rng=random.Random(1)), UsageLedger()
    seen = []

    async def read() -> None:
        async for chunk in model.astream("2 + 2?", {"callbacks": [ledger]}):
            seen.append(chunk.text)  # noqa: PERF401 - what was given before the error

    if given:
        with pytest.raises(openai.APIConnectionError):
            await read()
        assert "".join(seen).startswith("one")
        assert arrived(servers) == 1
    else:
        await read()
        assert "".join(seen) == "one two three four five six"
        assert arrived(servers) == 2
    assert model.stats()["cut"].failures == 1
    assert len(list(ledger.records())) == arrived(servers)
    assert idle(model.stats())


HEDGING = Hedging(most=1.0, at_least_s=0.02, measurements=3)


def with_a_slow_one(serve: Any) -> tuple[list[LoopbackServer], BalancedChatModel]:
    """Return a model whose preferred deployment was quick so far, and is slow from now on."""
    quick, slow = Reply(text="four"), Reply(text="four", latency=Latency(first_token_s=0.6))
    lock, sent = threading.Lock(), [0]

    def turns_slow(_: ChatRequest) -> Reply:
        with lock:
            sent[0] += 1
            return quick if sent[0] <= 8 else slow

    servers = [serve(turns_slow), serve(lambda _: quick)]
    deployments = [
        Deployment("slow", chat(servers[0]), weight=1_000),
        Deployment("quick", chat(servers[1])),
    ]
    model = BalancedChatModel(deployments, hedging=HEDGING, rng=random.Random(5))
    for _ in range(4):
        model.invoke("2 + 2?")
        list(model.stream("2 + 2?"))
    return servers, model


async def test_a_hedged_call_is_hung_up_on_and_booked_as_abandoned(
    serve: Any,
) -> None:
    servers, model = with_a_slow_one(serve)
    before, tasks = arrived(servers), asyncio.all_tasks()
    ledger = UsageLedger()

    answer = await model.ainvoke("2 + 2?", {"callbacks": [ledger]})
    streamed = [chunk async for chunk in model.astream("2 + 2?", {"callbacks": [ledger]})]

    assert answer.response_metadata["deployment"] == "quick"
    assert "".join(chunk.text for chunk in streamed) == "four"
    for _ in range(20):  # the client closes its own generators on the next turns of the loop
        await asyncio.sleep(0)
    assert asyncio.all_tasks() == tasks
    records = list(ledger.records())
    assert len(records) == arrived(servers) - before
    assert sum(record.kind == "live" for record in records) == 2
    assert sum(record.kind == "abandoned" for record in records) == model.stats().hedges >= 1
    assert idle(model.stats())


def test_a_hedged_thread_is_paid_for_when_its_answer_comes(serve: Any) -> None:
    servers, model = with_a_slow_one(serve)
    before = billed(servers)
    ledger = UsageLedger()

    answer = model.invoke("2 + 2?", {"callbacks": [ledger]})
    assert answer.response_metadata["deployment"] == "quick"
    for thread in threading.enumerate():
        if thread.name.startswith("deployment "):
            thread.join(20)

    now = billed(servers)
    assert counted(ledger) == (now[0] - before[0], now[1] - before[1])
    assert {record.model for record in ledger.records()} == {"gpt-5-mini"}
    assert [record.kind for record in ledger.records()] == ["live", "live"]
    assert idle(model.stats())
