"""Deployments of one model: who is asked, who is not, and what becomes of failures."""

import asyncio
import random
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph
from pydantic import BaseModel

from langchain_tokenopt import CachedChatModel, MemoryCache, UsageLedger
from langchain_tokenopt.accounting import Budget, BudgetGuard, BudgetHandler
from langchain_tokenopt.errors import BudgetExceededError, ConfigurationError
from langchain_tokenopt.routing.balance import BalancedChatModel
from langchain_tokenopt.routing.balance_board import DeploymentsCoolingError
from langchain_tokenopt.routing.deployment import BalanceStats, Deployment, Hedging
from langchain_tokenopt.routing.deployment_fault import Fault, fault_of, told_wait_s
from langchain_tokenopt.routing.deployment_state import DeploymentState, Latency, Waiting
from langchain_tokenopt.testing import Failure, ScriptedModel


class StatusError(Exception):
    """An error of a provider's client."""

    def __init__(self, status: int, headers: dict[str, str] | None = None) -> None:
        super().__init__(f"status {status}")
        self.status_code = status
        self.response = SimpleNamespace(status_code=status, headers=headers or {})


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    async def async_sleep(self, seconds: float) -> None:
        self.now += seconds


def says(*answers: Any, **options: Any) -> ScriptedModel:
    return ScriptedModel(list(answers), when_exhausted="repeat_last", **options)


def balanced(
    *deployments: Deployment, clock: Clock | None = None, **options: Any
) -> BalancedChatModel:
    time = clock or Clock()
    given = {"rng": random.Random(7), "sleep": time.sleep, "async_sleep": time.async_sleep}
    return BalancedChatModel(deployments, clock=time, **{**given, **options})


def idle(stats: BalanceStats) -> bool:
    ended = all(
        each.calls == each.answers + each.failures + each.rejected + each.abandoned
        for each in stats.deployments
    )
    return ended and all(each.in_flight == 0 for each in stats.deployments)


def served_by(answer: Any) -> str:
    return str(answer.response_metadata["deployment"])


class Reports:
    """What processes tell each other, of which there is one here."""

    def __init__(self) -> None:
        self.heard: list[Any] = []

    def read(self, deployments: Any) -> dict[str, Any]:
        return {}

    async def aread(self, deployments: Any) -> dict[str, Any]:
        return {}

    def report(self, report: Any) -> None:
        self.heard.append(report)

    async def areport(self, report: Any) -> None:
        self.heard.append(report)

    def probe(self, deployment: Any) -> bool:
        return True

    async def aprobe(self, deployment: Any) -> bool:
        return True


# Whose fault an error is


@pytest.mark.parametrize("status", [408, 409, 425, 500, 502, 503, 504, 529])
def test_a_deployment_that_gives_no_answer_is_at_fault(status: int) -> None:
    assert fault_of(StatusError(status)) == Fault(kind="unavailable")


@pytest.mark.parametrize("status", [401, 402, 403, 404])
def test_a_key_or_name_that_is_refused_is_the_deployments_fault(status: int) -> None:
    assert fault_of(StatusError(status)) == Fault(kind="refused")


@pytest.mark.parametrize(
    "error", [StatusError(400), StatusError(413), StatusError(422), KeyError()]
)
def test_a_request_that_no_deployment_could_answer_is_the_callers_fault(error: Exception) -> None:
    assert fault_of(error) is None


@pytest.mark.parametrize("error", [TimeoutError(), ConnectionResetError()])
def test_lost_connections_and_timeouts_are_the_deployments_fault(error: Exception) -> None:
    assert fault_of(error) == Fault(kind="unavailable")


def test_the_cause_of_an_error_tells_where_the_error_does_not() -> None:
    error = RuntimeError("the model failed")
    error.__cause__ = StatusError(429, {"Retry-After": "3"})

    assert fault_of(error) == Fault(kind="rate_limited", wait_s=3.0)


def test_throttling_of_bedrock_is_a_rate_limit() -> None:
    error = RuntimeError("slow down")
    error.response = {  # type: ignore[attr-defined]  # as botocore's errors have it
        "Error": {"Code": "ThrottlingException"},
        "ResponseMetadata": {"HTTPStatusCode": 400},
    }

    assert fault_of(error) == Fault(kind="rate_limited")


def test_other_errors_of_bedrock_are_judged_by_their_status() -> None:
    error = RuntimeError("wrong")
    error.response = {  # type: ignore[attr-defined]  # as botocore's errors have it
        "Error": {"Code": "ValidationException"},
        "ResponseMetadata": {"HTTPStatusCode": 400},
    }
    assert fault_of(error) is None

    error.response["ResponseMetadata"]["HTTPStatusCode"] = 503  # type: ignore[attr-defined]
    assert fault_of(error) == Fault(kind="unavailable")


def test_an_error_that_comes_within_a_stream_is_the_deployments_fault() -> None:
    class APIError(Exception):
        """Has no status."""

    assert fault_of(APIError("The server had an error")) == Fault(kind="unavailable")


def test_causes_are_not_followed_for_ever() -> None:
    error = RuntimeError("the model failed")
    error.__cause__ = error

    assert fault_of(error) is None


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "7", "retry-after-ms": "250"}, 0.25),
        ({"retry-after": "Wed, 25 Nov 2026 12:00:30 GMT"}, 30.0),
        ({"retry-after": "Wed, 25 Nov 2026 11:00:00 GMT"}, 0.0),
        ({"x-ratelimit-reset-requests": "1h2m3.5s", "x-ratelimit-remaining-requests": "0"}, 3723.5),
        (
            {
                "x-ratelimit-reset-requests": "8s",
                "x-ratelimit-remaining-requests": "12",
                "x-ratelimit-reset-tokens": "60ms",
                "x-ratelimit-remaining-tokens": "0",
            },
            0.06,
        ),
        ({"x-ratelimit-reset-requests": "8s", "x-ratelimit-reset-tokens": "6m0s"}, 8.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "nan"}, None),
        ({"x-ratelimit-reset-tokens": "5 parsecs"}, None),
        ({}, None),
    ],
)
def test_the_wait_is_read_in_every_form_that_providers_give(
    headers: dict[str, str], expected: float | None
) -> None:
    assert told_wait_s(headers, now=datetime(2026, 11, 25, 12, tzinfo=UTC)) == expected


@given(st.dictionaries(st.sampled_from(["retry-after", "retry-after-ms"]), st.text(max_size=30)))
def test_no_header_breaks_the_reading_of_an_error(headers: dict[str, str]) -> None:
    fault = fault_of(StatusError(429, headers))

    assert fault is not None
    assert fault.wait_s is None or fault.wait_s >= 0


# Who is asked


def test_an_answer_says_which_deployment_gave_it() -> None:
    model = balanced(Deployment("only", says("four")))

    assert served_by(model.invoke("2 + 2?")) == "only"
    assert model.invoke("2 + 2?").response_metadata["model_name"] == "scripted"


def test_the_quicker_deployment_gets_the_calls_and_the_slower_one_is_tried_again() -> None:
    clock = Clock()
    quick = says("four", latency_s=0.2, sleep=clock.sleep)
    slow = says("four", latency_s=2.0, sleep=clock.sleep)
    model = balanced(Deployment("quick", quick), Deployment("slow", slow), clock=clock)

    for _ in range(1_000):
        model.invoke("2 + 2?")

    assert quick.calls > 980
    assert slow.calls >= 2
    assert model.stats()["quick"].answer_s == pytest.approx(0.2)


def test_calls_in_flight_count_so_that_a_burst_is_spread() -> None:
    gate = threading.Event()
    models = [says("four", latency_s=1.0, sleep=lambda _: gate.wait(10)) for _ in range(3)]
    model = balanced(*(Deployment(f"d{n}", each) for n, each in enumerate(models)))
    threads = [threading.Thread(target=model.invoke, args=("2 + 2?",)) for _ in range(30)]
    for thread in threads:
        thread.start()
    while sum(each.calls for each in models) < 30:
        pass
    gate.set()
    for thread in threads:
        thread.join()

    assert all(7 <= each.calls <= 13 for each in models)
    assert idle(model.stats())


def test_a_deployment_that_costs_twice_as_much_must_be_twice_as_quick() -> None:
    clock = Clock()
    dear = says("four", latency_s=0.6, sleep=clock.sleep)
    cheap = says("four", latency_s=1.0, sleep=clock.sleep)
    model = balanced(
        Deployment("dear", dear, relative_cost=2.0), Deployment("cheap", cheap), clock=clock
    )

    for _ in range(60):
        model.invoke("2 + 2?")

    assert cheap.calls > 3 * dear.calls


def test_failures_that_do_not_suffice_to_cool_make_others_the_better_choice() -> None:
    shaky = says(*[StatusError(500), "four"] * 2, "four")
    steady = says("four")
    model = balanced(Deployment("shaky", shaky), Deployment("steady", steady))

    for _ in range(50):
        model.invoke("2 + 2?")

    assert steady.calls > 40
    assert model.stats()["shaky"].cooldowns == 0


def test_calls_in_flight_count_beside_those_that_the_latency_was_measured_among() -> None:
    state = DeploymentState(Deployment("only", says("four")))
    state.latency["answer"].add(2.0, 0.0, beside=9)

    def load(in_flight: int) -> float:
        state.in_flight = in_flight
        return state.load("answer", 0.0, otherwise_s=1.0)

    assert [load(0), load(9), load(19)] == [2.0, 2.0, 4.0]


@given(st.lists(st.floats(0.0, 100.0), max_size=30), st.floats(100.0, 200.0))
def test_calls_that_wait_show_a_latency_between_their_mean_and_twice_that(
    began: list[float], now: float
) -> None:
    waiting = Waiting()
    for at in began:
        waiting.add(at)
    mean = sum(now - at for at in began) / max(len(began), 1)

    assert mean - 1e-6 <= waiting.least_s(now) <= 2 * mean + 1e-6
    for at in began:
        waiting.remove(at)
    assert waiting.least_s(now) == 0.0


def test_an_outage_is_seen_behind_any_number_of_answers() -> None:
    only = says(*["four"] * 500, StatusError(500))
    model = balanced(Deployment("only", only))
    for _ in range(500):
        model.invoke("2 + 2?")
    for _ in range(10):
        with pytest.raises(StatusError):
            model.invoke("2 + 2?")

    assert model.stats()["only"].cooldowns == 1


def test_latency_follows_changes_and_fades_when_nothing_is_measured() -> None:
    latency = Latency()
    latency.add(1.0, now=0.0)
    latency.add(3.0, now=60.0)

    assert latency.typical_s == pytest.approx(3.0, abs=0.01)
    assert latency.faded_s(60.0) == pytest.approx(3.0, abs=0.01)
    assert latency.faded_s(120.0) < 0.5  # type: ignore[operator]


# Regions


def test_a_call_never_leaves_the_region_of_the_model() -> None:
    far = says("four")
    model = balanced(
        Deployment("near", says(StatusError(500)), region="eu"),
        Deployment("far", far, region="us"),
        region="eu",
    )

    for _ in range(10):
        with pytest.raises((StatusError, DeploymentsCoolingError)):
            model.invoke("2 + 2?")
    assert far.calls == 0


@pytest.mark.parametrize("where", ["metadata", "configurable"])
async def test_a_single_call_can_be_bound_to_a_region(where: str) -> None:
    models = {"eu": says("four"), "us": says("four")}
    model = balanced(*(Deployment(name, each, region=name) for name, each in models.items()))
    config: Any = {where: {"region": "us"}}

    model.invoke("2 + 2?", config)
    await model.ainvoke("2 + 2?", config)
    list(model.stream("2 + 2?", config))
    [chunk async for chunk in model.astream("2 + 2?", config)]
    model.batch(["2 + 2?"] * 3, config)
    [event async for event in model.astream_events("2 + 2?", config, version="v2")]
    (await model.abatch(["2 + 2?"], config))
    list(model.bind(stop=["x"]).stream("2 + 2?", config))

    assert models["eu"].calls == 0
    assert models["us"].calls == 10


def test_a_graph_binds_its_calls_to_a_region() -> None:
    models = {"eu": says("four"), "us": says("four")}
    model = balanced(*(Deployment(name, each, region=name) for name, each in models.items()))
    graph = StateGraph(MessagesState)
    graph.add_node("ask", lambda state: {"messages": [model.invoke(state["messages"])]})
    graph.add_edge(START, "ask")

    question: Any = {"messages": [("user", "2 + 2?")]}
    graph.compile().invoke(question, {"configurable": {"region": "us"}})

    assert (models["eu"].calls, models["us"].calls) == (0, 1)


@pytest.mark.parametrize(
    "config",
    [
        {"metadata": {"region": "us"}},
        {"configurable": {"region": "moon"}},
        {"metadata": {"region": "eu"}, "configurable": {"region": "us"}},
    ],
)
def test_regions_that_cannot_both_hold_are_refused(config: Any) -> None:
    model = balanced(
        Deployment("a", says("four"), region="eu"),
        Deployment("b", says("four"), region="us"),
        region="eu",
    )

    with pytest.raises(ConfigurationError, match="region"):
        model.invoke("2 + 2?", config)
    assert sum(each.calls for each in model.stats().deployments) == 0


# Failures


def test_a_retry_goes_to_another_deployment() -> None:
    broken, other = says(StatusError(503)), says("four")
    model = balanced(Deployment("broken", broken), Deployment("other", other))

    answers = [model.invoke("2 + 2?") for _ in range(10)]

    assert {served_by(answer) for answer in answers} == {"other"}
    assert broken.calls == model.stats()["broken"].failures >= 1


def test_the_last_error_is_raised_with_the_deployments_that_were_asked() -> None:
    model = balanced(
        *(Deployment(name, says(StatusError(500))) for name in ("a", "b", "c", "d")),
        most_attempts=3,
    )

    with pytest.raises(StatusError) as caught:
        model.invoke("2 + 2?")

    (note,) = caught.value.__notes__
    assert note.startswith("deployments asked: ")
    assert len(set(note.removeprefix("deployments asked: ").split(", "))) == 3


@pytest.mark.parametrize("error", [StatusError(400), ValueError("no such tool")])
def test_the_callers_error_is_raised_at_once_and_not_held_against_the_deployment(
    error: Exception,
) -> None:
    models = [says(error), says(error)]
    model = balanced(*(Deployment(f"d{n}", each) for n, each in enumerate(models)))

    for _ in range(5):
        with pytest.raises(type(error)):
            model.invoke("2 + 2?")

    assert sum(each.calls for each in models) == 5
    assert all(each.failures == 0 for each in model.stats().deployments)


def test_a_refused_key_is_tried_elsewhere_and_soon_not_at_all() -> None:
    wrong, right = says(StatusError(401)), says("four")
    model = balanced(Deployment("wrong", wrong, failures_allowed=1), Deployment("right", right))
    for _ in range(40):
        model.invoke("2 + 2?")

    assert wrong.calls <= 2
    assert right.calls == 40


def test_the_wait_that_a_provider_names_is_kept() -> None:
    clock = Clock()
    busy = says(StatusError(429, {"retry-after": "30"}), "four")
    model = balanced(Deployment("busy", busy), clock=clock)
    with pytest.raises(StatusError):
        model.invoke("2 + 2?")

    clock.now += 29.9
    with pytest.raises(DeploymentsCoolingError, match=r"busy for 0\.1 s") as caught:
        model.invoke("2 + 2?")
    assert caught.value.retry_after_s == pytest.approx(0.1)
    assert busy.calls == 1

    clock.now += 0.2
    assert model.invoke("2 + 2?").text == "four"


def test_a_wait_that_is_too_long_is_cut() -> None:
    clock = Clock()
    busy = says(StatusError(429, {"retry-after": "86400"}), "four")
    model = balanced(Deployment("busy", busy, longest_wait_s=60), clock=clock)
    with pytest.raises(StatusError):
        model.invoke("2 + 2?")

    clock.now += 61
    assert model.invoke("2 + 2?").text == "four"


def test_a_single_deployment_cools_too_and_fails_fast() -> None:
    clock = Clock()
    down = says(StatusError(500))
    model = balanced(Deployment("only", down, failures_allowed=2, cooldown_s=20), clock=clock)
    for _ in range(3):
        with pytest.raises(StatusError):
            model.invoke("2 + 2?")

    for _ in range(10):
        with pytest.raises(DeploymentsCoolingError, match=r"try again in 20\.0 s"):
            model.invoke("2 + 2?")
    assert down.calls == 3


async def test_a_request_waits_for_a_short_cooldown_where_it_may() -> None:
    clock = Clock()
    limit = StatusError(429, {"retry-after": "0.5"})
    busy = says(limit, "four", limit, "five")
    model = balanced(Deployment("busy", busy), clock=clock, patience_s=1.0)

    assert model.invoke("2 + 2?").text == "four"
    assert (await model.ainvoke("2 + 3?")).text == "five"
    assert clock.now == pytest.approx(1_001.0)


def test_a_deployment_that_had_enough_is_asked_again_after_all_others_only() -> None:
    clock = Clock()
    limit = StatusError(429, {"retry-after": "0"})
    busy, broken = says(limit, "four"), says(StatusError(500))
    model = balanced(
        Deployment("busy", busy, weight=1_000), Deployment("broken", broken), clock=clock
    )

    assert served_by(model.invoke("2 + 2?")) == "busy"
    assert (busy.calls, broken.calls) == (2, 1)


def test_a_request_does_not_begin_to_wait_for_longer_than_it_may() -> None:
    clock = Clock()
    busy = says(StatusError(429, {"retry-after": "5"}))
    model = balanced(Deployment("busy", busy), clock=clock, patience_s=4.0)

    with pytest.raises(StatusError):
        model.invoke("2 + 2?")
    assert clock.now == 1_000.0


def test_few_failures_among_many_calls_do_not_cool_a_deployment() -> None:
    answers = ([StatusError(500)] + ["four"] * 9) * 10
    model = balanced(Deployment("only", says(*answers)))
    for answer in answers:
        if answer == "four":
            model.invoke("2 + 2?")
        else:
            with pytest.raises(StatusError):
                model.invoke("2 + 2?")

    assert model.stats()["only"].cooldowns == 0
    assert model.stats()["only"].failures == 10


async def test_failures_that_come_before_the_answers_of_a_burst_do_not_cool_a_deployment() -> None:
    all_wait, later = asyncio.Barrier(21), asyncio.Event()

    async def wait(_: float) -> None:
        await all_wait.wait()
        await later.wait()

    only = says(*["four"] * 20, StatusError(500), latency_s=1.0, async_sleep=wait)
    model = balanced(Deployment("only", only))
    burst = [asyncio.create_task(model.ainvoke("2 + 2?")) for _ in range(20)]
    await all_wait.wait()
    only.latency_s = 0.0
    for _ in range(10):
        with pytest.raises(StatusError):
            await model.ainvoke("2 + 2?")

    assert model.stats()["only"].in_flight == 20
    assert model.stats()["only"].cooldowns == 0
    later.set()
    await asyncio.gather(*burst)


def test_failures_outside_of_the_window_are_forgotten() -> None:
    clock = Clock()
    model = balanced(
        Deployment("only", says(StatusError(500)), failures_allowed=2, window_s=10), clock=clock
    )
    for _ in range(9):
        with pytest.raises(StatusError):
            model.invoke("2 + 2?")
        clock.now += 6

    assert model.stats()["only"].cooldowns == 0


def test_settings_are_each_deployments_own() -> None:
    models = {"strict": says(StatusError(500)), "lax": says(StatusError(500))}
    model = balanced(
        Deployment("strict", models["strict"], failures_allowed=0, cooldown_s=100),
        Deployment("lax", models["lax"], failures_allowed=4, cooldown_s=1),
    )
    for _ in range(10):
        with pytest.raises((StatusError, DeploymentsCoolingError)):
            model.invoke("2 + 2?")

    assert (models["strict"].calls, models["lax"].calls) == (1, 5)


# After a cooldown


def test_one_call_at_a_time_tries_a_deployment_that_cooled() -> None:
    clock = Clock()
    begun, gate = threading.Event(), threading.Event()

    def wait(_: float) -> None:
        begun.set()
        gate.wait(10)

    tried = says(StatusError(500), "four", latency_s=0.0)
    model = balanced(Deployment("only", tried, failures_allowed=0, cooldown_s=5), clock=clock)
    with pytest.raises(StatusError):
        model.invoke("2 + 2?")
    clock.now += 6
    tried.sleep, tried.latency_s = wait, 1.0
    answers: list[Any] = []
    probe = threading.Thread(target=lambda: answers.append(model.invoke("2 + 2?")))
    probe.start()
    assert begun.wait(10)

    with pytest.raises(DeploymentsCoolingError, match="until a call in flight ends") as caught:
        model.invoke("2 + 2?")
    assert caught.value.retry_after_s is None
    gate.set()
    probe.join()

    assert answers[0].text == "four"
    assert not model.stats()["only"].half_open
    model.invoke("2 + 2?")
    assert tried.calls == 3


def test_a_deployment_that_fails_again_cools_again() -> None:
    clock = Clock()
    down = says(StatusError(500))
    model = balanced(
        Deployment("only", down, failures_allowed=0, cooldown_s=10),
        clock=clock,
    )
    waits = []
    for _ in range(4):
        with pytest.raises(StatusError):
            model.invoke("2 + 2?")
        waits.append(model.stats()["only"].cooling_s)
        clock.now += waits[-1] + 0.01

    assert waits == [10, 10, 10, 10]
    assert down.calls == 4


def test_a_probe_that_its_caller_leaves_lets_the_next_one_try() -> None:
    clock = Clock()
    only = says(StatusError(500), "four it is, at last", "five")
    model = balanced(Deployment("only", only, failures_allowed=0, cooldown_s=5), clock=clock)
    with pytest.raises(StatusError):
        model.invoke("2 + 2?")
    clock.now += 6

    stream = model.stream("2 + 2?")
    next(stream)
    stream.close()  # type: ignore[attr-defined]  # a generator

    assert model.stats()["only"].half_open
    assert model.invoke("2 + 2?").text == "five"
    assert not model.stats()["only"].half_open


@pytest.mark.parametrize("shared", [False, True])
async def test_a_probe_that_a_task_leaves_lets_the_next_one_try(shared: bool) -> None:
    clock, reports = Clock(), Reports()
    only = says(StatusError(500), "four it is, at last", "five")
    model = balanced(
        Deployment("only", only, failures_allowed=0, cooldown_s=5),
        clock=clock,
        shared=reports if shared else None,
    )
    with pytest.raises(StatusError):
        await model.ainvoke("2 + 2?")
    clock.now += 6

    stream: Any = model.astream("2 + 2?")
    await anext(stream)
    await stream.aclose()

    assert model.stats()["only"].half_open
    assert (await model.ainvoke("2 + 2?")).text == "five"
    assert not model.stats()["only"].half_open
    assert len(reports.heard) == (3 if shared else 0)


@pytest.mark.parametrize("way", ["invoke", "ainvoke"])
async def test_a_probe_that_the_callers_mistake_ends_lets_the_next_one_try(way: str) -> None:
    clock = Clock()
    only = says(StatusError(500), StatusError(400), "four")
    model = balanced(Deployment("only", only, failures_allowed=0, cooldown_s=5), clock=clock)

    async def ask() -> str:
        if way == "invoke":
            return model.invoke("2 + 2?").text
        return (await model.ainvoke("2 + 2?")).text

    for expected in ("status 500", "status 400"):
        with pytest.raises(StatusError, match=expected):
            await ask()
        clock.now += 6

    assert await ask() == "four"
    assert idle(model.stats())


def test_the_deployment_that_returns_soonest_is_asked_where_all_cool_if_wanted() -> None:
    clock = Clock()
    models = {"late": says(StatusError(500)), "soon": says(StatusError(500), "four")}
    model = balanced(
        Deployment("late", models["late"], failures_allowed=0, cooldown_s=100),
        Deployment("soon", models["soon"], failures_allowed=0, cooldown_s=10),
        clock=clock,
        when_all_cool="soonest",
    )
    with pytest.raises(StatusError):
        model.invoke("2 + 2?")

    assert served_by(model.invoke("2 + 2?")) == "soon"
    assert model.stats()["soon"].cooling_s == 0
    assert models["late"].calls == 1


def test_an_answer_to_a_call_from_before_does_not_end_a_cooldown() -> None:
    clock = Clock()
    begun, gate = threading.Event(), threading.Event()

    def wait(_: float) -> None:
        begun.set()
        gate.wait(10)

    only = says("late", StatusError(500), latency_s=1.0, sleep=wait)
    model = balanced(Deployment("only", only, failures_allowed=0), clock=clock)
    earlier = threading.Thread(target=model.invoke, args=("2 + 2?",))
    earlier.start()
    assert begun.wait(10)
    only.latency_s = 0.0
    with pytest.raises(StatusError):
        model.invoke("2 + 2?")
    gate.set()
    earlier.join()

    assert model.stats()["only"].cooling_s > 0


# Streams


async def test_a_stream_that_breaks_before_its_first_token_begins_again_elsewhere() -> None:
    broken = says(Failure(error=StatusError(500)))
    model = balanced(Deployment("broken", broken), Deployment("other", says("it is four")))

    for _ in range(4):
        chunks = list(model.stream("2 + 2?"))
        whole = sum(chunks[1:], chunks[0])
        assert whole.text == "it is four"
        assert served_by(whole) == "other"
        achunks = [chunk async for chunk in model.astream("2 + 2?")]
        assert served_by(sum(achunks[1:], achunks[0])) == "other"
    assert broken.calls >= 1


class _EmptyFirst(ScriptedModel):
    """Sends a chunk without content first, as OpenAI does."""

    def _stream(self, *args: Any, **kwargs: Any) -> Iterator[Any]:
        from langchain_core.outputs import ChatGenerationChunk

        yield ChatGenerationChunk(message=AIMessageChunk(content=""))
        yield from super()._stream(*args, **kwargs)


def test_an_empty_chunk_is_no_token_yet() -> None:
    broken = _EmptyFirst(answers=[StatusError(500)], when_exhausted="repeat_last")
    other = _EmptyFirst(answers=["it is four"], when_exhausted="repeat_last")
    model = balanced(Deployment("broken", broken), Deployment("other", other))

    for _ in range(4):
        chunks = list(model.stream("2 + 2?"))
        assert "".join(chunk.text for chunk in chunks) == "it is four"
    assert broken.calls >= 1


async def test_an_empty_answer_is_streamed_as_one() -> None:
    model = balanced(Deployment("only", says("")))

    chunks = list(model.stream("2 + 2?"))
    later = [chunk async for chunk in model.astream("2 + 2?")]

    assert [served_by(parts[0]) for parts in (chunks, later)] == ["only", "only"]
    assert {chunk.text for chunk in [*chunks, *later]} == {""}
    assert idle(model.stats())


async def test_a_stream_that_breaks_later_raises_and_does_not_begin_again() -> None:
    broken = Failure(error=StatusError(500), after_chunks=2, text="it is four")
    models = [says(broken), says(broken)]
    model = balanced(*(Deployment(f"d{n}", each) for n, each in enumerate(models)))

    seen: list[str] = []

    async def read() -> None:
        async for chunk in model.astream("2 + 2?"):
            seen.append(chunk.text)  # noqa: PERF401 - what was given before the error

    with pytest.raises(StatusError):
        seen.extend(chunk.text for chunk in model.stream("2 + 2?"))
    with pytest.raises(StatusError):
        await read()

    assert seen == ["it ", "is "] * 2
    assert sum(each.calls for each in models) == 2
    assert sum(each.failures for each in model.stats().deployments) == 2
    assert idle(model.stats())


def test_a_stream_is_in_flight_until_it_is_read() -> None:
    model = balanced(Deployment("only", says("it is four")))
    stream = model.stream("2 + 2?")
    next(stream)

    assert model.stats()["only"].in_flight == 1
    list(stream)
    assert model.stats()["only"].in_flight == 0
    assert model.stats()["only"].first_token_s is not None
    assert model.stats()["only"].answer_s is None


# Hedges


HEDGE = Hedging(most=1.0, at_least_s=0.001, measurements=1)


class Gate:
    """Lets a scripted model answer when it is opened."""

    def __init__(self) -> None:
        self.asked, self.opened = threading.Event(), threading.Event()

    def sleep(self, _: float) -> None:
        self.asked.set()
        assert self.opened.wait(20)

    async def async_sleep(self, _: float) -> None:
        self.asked.set()
        await asyncio.sleep(20)


def hedged(gate: Gate, *, answers: Any = ("late, and long", "late, and long")) -> Any:
    """Return a model whose first deployment, once it is known, waits for a gate."""
    first = says("known", "known", *answers)
    second = says("in time it is four")
    model = balanced(
        Deployment("first", first, weight=1_000), Deployment("second", second), hedging=HEDGE
    )
    assert served_by(model.invoke("measure")) == "first"
    list(model.stream("measure"))
    first.latency_s = first.first_token_s = 1.0
    first.sleep, first.async_sleep = gate.sleep, gate.async_sleep
    return model


def test_hedging_off_asks_nobody_twice() -> None:
    assert balanced(Deployment("a", says("x")), Deployment("b", says("x"))).stats().hedges == 0


async def test_a_late_answer_is_hedged_and_its_task_is_cancelled() -> None:
    gate, ledger = Gate(), UsageLedger()
    model = hedged(gate, answers=("late",) * 4)
    before = asyncio.all_tasks()

    answer = await model.ainvoke("2 + 2?", {"callbacks": [ledger]})

    assert served_by(answer) == "second"
    assert asyncio.all_tasks() == before
    assert (model.stats().hedges, model.stats().hedges_won) == (1, 1)
    assert model.stats()["first"].abandoned == 1
    assert idle(model.stats())
    assert sorted(record.kind for record in ledger.records()) == ["abandoned", "live"]
    (abandoned, live) = sorted(ledger.records(), key=lambda record: record.kind)
    assert abandoned.parent_id == live.run_id
    assert abandoned.usage.input_tokens > 0


async def test_a_late_stream_is_hedged_until_its_first_token() -> None:
    gate, ledger = Gate(), UsageLedger()
    model = hedged(gate, answers=("late",) * 4)
    before = asyncio.all_tasks()

    chunks = [chunk async for chunk in model.astream("2 + 2?", {"callbacks": [ledger]})]

    assert "".join(chunk.text for chunk in chunks) == "in time it is four"
    assert asyncio.all_tasks() == before
    assert idle(model.stats())
    assert sorted(record.kind for record in ledger.records()) == ["abandoned", "live"]


def _ended(model: BalancedChatModel) -> None:
    for thread in threading.enumerate():
        if thread.name.startswith("deployment "):
            thread.join(20)
    assert idle(model.stats())


def test_a_thread_that_comes_too_late_ends_by_itself_and_is_paid_for() -> None:
    gate, ledger = Gate(), UsageLedger()
    model = hedged(gate)
    known = model.stats()["first"].answers

    answer = model.invoke("2 + 2?", {"callbacks": [ledger]})
    assert served_by(answer) == "second"
    assert model.stats()["first"].in_flight == 1
    gate.opened.set()
    _ended(model)

    assert model.stats()["first"].answers == known + 1
    assert [record.kind for record in ledger.records()] == ["live", "live"]
    assert ledger.totals().usage.output == 4 + 5  # as the scripted model counts


def test_a_threads_late_stream_is_closed_and_abandoned() -> None:
    gate, ledger = Gate(), UsageLedger()
    model = hedged(gate)

    text = "".join(chunk.text for chunk in model.stream("2 + 2?", {"callbacks": [ledger]}))
    assert text == "in time it is four"
    gate.opened.set()
    _ended(model)

    assert model.stats()["first"].abandoned == 1
    assert sorted(record.kind for record in ledger.records()) == ["abandoned", "live"]


def test_a_first_call_that_fails_beside_its_hedge_is_told_of_once() -> None:
    gate, ledger = Gate(), UsageLedger()
    model = hedged(gate, answers=(StatusError(500),))

    answer = model.invoke("2 + 2?", {"callbacks": [ledger]})
    gate.opened.set()
    _ended(model)

    assert served_by(answer) == "second"
    assert sorted(record.kind for record in ledger.records()) == ["error", "live"]
    assert model.stats()["first"].failures == 1


async def test_a_request_whose_two_calls_fail_goes_to_a_third_deployment() -> None:
    ledger = UsageLedger()
    both = asyncio.Event()
    asked: list[str] = []

    def fails(name: str) -> ScriptedModel:
        async def wait(_: float) -> None:
            asked.append(name)
            if len(asked) == 2:
                both.set()
            await both.wait()

        return says("known", StatusError(500), async_sleep=wait)

    first, second, third = fails("first"), fails("second"), says("four")
    model = balanced(
        Deployment("first", first, weight=1_000),
        Deployment("second", second, weight=100),
        Deployment("third", third, weight=0.001),
        hedging=HEDGE,
    )
    for name in ("first", "second"):
        model._balancer._board._states[name].latency["answer"].add(0.0, 0.0)
    for each in (first, second):
        each.invoke("measure")
        each.latency_s = 1.0
    model._balancer._board._saved = 1.0

    answer = await model.ainvoke("2 + 2?", {"callbacks": [ledger]})

    assert served_by(answer) == "third"
    assert sorted(record.kind for record in ledger.records()) == ["error", "error", "live"]
    assert idle(model.stats())


async def test_hedges_keep_within_their_share_of_the_requests() -> None:
    clock = Clock()
    models = [says("four", latency_s=0.004) for _ in range(3)]
    model = balanced(
        *(Deployment(f"d{n}", each) for n, each in enumerate(models)),
        clock=clock,
        hedging=Hedging(most=0.1, at_least_s=0.0005, measurements=1),
    )
    for _ in range(60):
        await model.ainvoke("2 + 2?")

    assert 1 <= model.stats().hedges <= 6
    assert sum(each.calls for each in models) == 60 + model.stats().hedges


class Brief(Gate):
    """Lets a scripted model answer after a while that is long beside a hedge's."""

    def sleep(self, _: float) -> None:
        time.sleep(0.05)

    async def async_sleep(self, _: float) -> None:
        await asyncio.sleep(0.05)


@pytest.mark.parametrize("way", ["invoke", "ainvoke"])
async def test_a_late_answer_is_awaited_where_no_other_deployment_may_be_asked(way: str) -> None:
    model = hedged(Brief(), answers=("late",) * 4)
    state = model._balancer._board._states["second"]
    state.failed(Fault(kind="rate_limited", wait_s=1_000.0), 1_000.0, tests=False)
    others = state.calls

    if way == "invoke":
        answer = await asyncio.to_thread(model.invoke, "2 + 2?")
    else:
        answer = await model.ainvoke("2 + 2?")

    assert served_by(answer) == "first"
    assert model.stats().hedges == 0
    assert state.calls == others


@pytest.mark.parametrize("way", ["invoke", "ainvoke"])
async def test_a_hedge_that_its_callbacks_break_leaves_nothing_in_flight(way: str) -> None:
    class Breaking(BaseCallbackHandler):
        run_inline = raise_error = True

        def __init__(self) -> None:
            self.runs = 0

        def on_chat_model_start(self, *_: Any, **__: Any) -> None:
            self.runs += 1
            if self.runs == 2:
                raise LookupError("no such run")

    gate = Gate()
    model = hedged(gate, answers=("late",) * 4)
    config: Any = {"callbacks": [Breaking()]}

    async def ask() -> Any:
        if way == "invoke":
            return model.invoke("2 + 2?", config)
        return await model.ainvoke("2 + 2?", config)

    with pytest.raises(LookupError, match="no such run"):
        await ask()
    gate.opened.set()

    _ended(model)
    assert model.stats().hedges == 0


class Refused(Gate):
    """Lets a scripted model answer when a budget has refused another call."""

    def __init__(self, guard: BudgetGuard) -> None:
        super().__init__()
        self._guard = guard

    @property
    def _is_open(self) -> bool:
        return any(status.refused for status in self._guard.statuses())

    def sleep(self, _: float) -> None:
        for _n in range(20_000):
            if self._is_open:
                return
            time.sleep(0.001)

    async def async_sleep(self, _: float) -> None:
        for _n in range(20_000):
            if self._is_open:
                return
            await asyncio.sleep(0.001)


@pytest.mark.parametrize("way", ["invoke", "ainvoke"])
async def test_a_budget_refuses_the_hedge_and_the_first_answer_is_awaited(way: str) -> None:
    guard = BudgetGuard([Budget("b", calls=1)])
    model = hedged(Refused(guard), answers=("late",) * 4)
    config: Any = {"callbacks": [BudgetHandler(guard)]}

    if way == "invoke":
        answer = await asyncio.to_thread(model.invoke, "2 + 2?", config)
    else:
        answer = await model.ainvoke("2 + 2?", config)

    assert served_by(answer) == "first"
    assert guard.statuses()[0].refused == 1
    assert model.stats().hedges == 0
    assert idle(model.stats())


# Who hears of it


def test_a_ledger_counts_what_the_providers_count() -> None:
    ledger = UsageLedger()
    models = {
        "down": says(StatusError(500)),
        "busy": says(StatusError(429, {"retry-after": "9"})),
        "up": says("four"),
    }
    model = balanced(*(Deployment(name, each) for name, each in models.items()))

    for _ in range(20):
        model.invoke("2 + 2?", {"callbacks": [ledger]})
        list(model.stream("2 + 2?", {"callbacks": [ledger]}))

    records = list(ledger.records())
    assert len(records) == sum(each.calls for each in models.values())
    assert sum(record.kind == "live" for record in records) == models["up"].calls == 40
    assert {record.error for record in records if record.kind == "error"} == {"StatusError"}


def test_a_budget_may_refuse_a_retry() -> None:
    models = [says(StatusError(500)), says(StatusError(500))]
    model = balanced(*(Deployment(f"d{n}", each) for n, each in enumerate(models)))
    handler = BudgetHandler(BudgetGuard([Budget("b", calls=1)]))

    with pytest.raises(BudgetExceededError) as caught:
        model.invoke("2 + 2?", {"callbacks": [handler]})

    assert isinstance(caught.value.__cause__, StatusError)
    assert sum(each.calls for each in models) == 1
    assert idle(model.stats())


async def test_an_agents_user_sees_one_message_of_a_request_with_retries() -> None:
    model = balanced(
        Deployment("down", says(StatusError(500))), Deployment("up", says("it is four"))
    )

    async def ask(state: MessagesState) -> dict[str, Any]:
        return {"messages": [await model.ainvoke(state["messages"])]}

    graph = StateGraph(MessagesState)
    graph.add_node("ask", ask)
    graph.add_edge(START, "ask")
    graph.add_edge("ask", END)
    app = graph.compile(checkpointer=InMemorySaver())
    question: Any = {"messages": [("user", "2 + 2?")]}
    for thread in range(4):
        config: Any = {"configurable": {"thread_id": str(thread)}}
        stream: Any = app.astream(question, config, stream_mode="messages")
        texts = [chunk.text async for chunk, _ in stream]
        assert "".join(texts) == "it is four"
        state = await app.aget_state(config)
        assert served_by(state.values["messages"][-1]) == "up"


async def test_stands_inside_a_cache() -> None:
    only = says("four")
    model = CachedChatModel(balanced(Deployment("only", only)), cache=MemoryCache())

    assert model.invoke("2 + 2?").text == "four"
    assert "".join([chunk.text async for chunk in model.astream("2 + 2?")]) == "four"
    assert only.calls == 1


# Tools and schemas


@tool
def add(left: int, right: int) -> int:
    """Add two numbers."""
    return left + right


class Sum(BaseModel):
    """A sum."""

    total: int


def calls_sum() -> AIMessage:
    call = {"name": "Sum", "args": {"total": 4}, "id": "1", "type": "tool_call"}
    return AIMessage("", tool_calls=[call])


def test_tools_are_bound_at_every_deployment() -> None:
    models = [says("four"), says("four")]
    model = balanced(*(Deployment(f"d{n}", each) for n, each in enumerate(models)))
    bound = model.bind_tools([add], tool_choice="any")

    for _ in range(12):
        bound.invoke("2 + 2?")

    assert all(each.calls for each in models)
    for each in models:
        for keywords in each.keywords:
            assert keywords["tools"][0]["function"]["name"] == "add"
            assert keywords["tool_choice"] == "any"
    assert sum(each.calls for each in model.stats().deployments) == 12


class _OtherForm(ScriptedModel):
    """A provider whose tools have a form of their own."""

    def bind_tools(self, tools: Any, *, tool_choice: Any = None, **kwargs: Any) -> Any:
        return self.bind(functions=[each.name for each in tools], **kwargs)


def test_tools_that_no_model_can_be_found_behind_are_refused() -> None:
    class Odd(ScriptedModel):
        def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
            return RunnableLambda(self.invoke)

    model = balanced(Deployment("odd", Odd(["four"])))

    with pytest.raises(ConfigurationError, match="got RunnableLambda; this provider's tools"):
        model.bind_tools([])


def test_each_provider_gets_tools_in_its_own_form() -> None:
    one, other = says("four"), _OtherForm(answers=["four"], when_exhausted="repeat_last")
    model = balanced(Deployment("one", one), Deployment("other", other))
    bound = model.bind_tools([add])

    for _ in range(12):
        bound.invoke("2 + 2?", user="me")

    assert all(set(each) == {"stop", "tools", "user"} for each in one.keywords)
    assert all(set(each) == {"stop", "functions", "user"} for each in other.keywords)
    assert one.calls
    assert other.calls


@pytest.mark.parametrize("kinds", [(ScriptedModel, ScriptedModel), (ScriptedModel, _OtherForm)])
async def test_structured_output_is_parsed_whoever_answers(kinds: Any) -> None:
    if _OtherForm in kinds:

        class Form(_OtherForm):
            def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
                return self.bind(functions=[each.__name__ for each in tools])

        kinds = (ScriptedModel, Form)
    models = [kind([calls_sum()], when_exhausted="repeat_last") for kind in kinds]
    model = balanced(*(Deployment(f"d{n}", each) for n, each in enumerate(models)))
    structured = model.with_structured_output(Sum)
    raw = model.with_structured_output(Sum, include_raw=True)

    for _ in range(6):
        assert structured.invoke("2 + 2?") == Sum(total=4)
        assert await structured.ainvoke("2 + 2?") == Sum(total=4)
        assert served_by(raw.invoke("2 + 2?")["raw"]) in ("d0", "d1")
    assert all(each.calls for each in models)


# Bad input


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: BalancedChatModel([]), "at least one deployment"),
        (lambda: BalancedChatModel([says("x")]), "expected a Deployment"),  # type: ignore[list-item]
        (lambda: balanced(Deployment("a", says("x")), Deployment("a", says("x"))), "must differ"),
        (lambda: balanced(Deployment("a", says("x")), region="eu"), "no deployment is in region"),
        (lambda: balanced(Deployment("a", says("x")), most_attempts=0), "most_attempts"),
        (lambda: balanced(Deployment("a", says("x")), choices=0), "choices"),
        (lambda: balanced(Deployment("a", says("x")), patience_s=-1.0), "patience_s"),
        (lambda: balanced(Deployment("a", says("x")), when_all_cool="wait"), "when_all_cool"),
        (lambda: Deployment("", says("x")), "needs a name"),
        (lambda: Deployment("a", says("x").bind(stop=["y"])), "expected a BaseChatModel"),  # type: ignore[arg-type]
        (lambda: Deployment("a", says("x"), weight=0), "weight"),
        (lambda: Deployment("a", says("x"), cooldown_s=float("inf")), "cooldown_s"),
        (lambda: Deployment("a", says("x"), failures_allowed=-1), "failures_allowed"),
        (lambda: Deployment("a", says("x"), failure_share=1.5), "failure_share"),
        (lambda: Hedging(most=0), "most and quantile"),
        (lambda: Hedging(measurements=0), "measurements"),
        (lambda: Hedging(saved=0), "saved"),
    ],
)
def test_what_cannot_be_used_is_refused_with_the_reason(
    make: Callable[[], object], told: str
) -> None:
    with pytest.raises(ConfigurationError, match=told):
        make()


# Laws


class World:
    """Deployments whose answers an example decides, and what must hold whenever one is asked."""

    def __init__(self, regions: list[str], outcomes: Iterator[Any], **options: Any) -> None:
        self.clock = Clock()
        self.broken: list[str] = []
        self.region: str | None = None
        self.regions = {f"d{n}": region for n, region in enumerate(regions)}
        self.model = balanced(
            *(
                Deployment(
                    name,
                    says(self._answer(name, outcomes)),
                    region=region,
                    failures_allowed=1,
                    cooldown_s=5,
                )
                for name, region in self.regions.items()
            ),
            clock=self.clock,
            **options,
        )

    def _answer(self, name: str, outcomes: Iterator[Any]) -> Callable[[Any], Any]:
        def answer(_: Any) -> Any:
            stats = self.model.stats()
            others = [
                each
                for each in stats.deployments
                if each.name != name and self.region in (None, each.region)
            ]
            if self.region not in (None, self.regions[name]):
                self.broken.append(f"{name} is outside of {self.region}")
            if stats[name].cooling_s and any(
                not each.cooling_s and not each.half_open and not each.in_flight for each in others
            ):
                self.broken.append(f"{name} cools, another one is free")
            self.clock.now += 0.1
            outcome = next(outcomes, "four")
            if isinstance(outcome, float):
                return StatusError(429, {"retry-after": str(outcome)})
            return StatusError(outcome) if isinstance(outcome, int) else outcome

        return answer


REGIONS = st.lists(st.sampled_from(["eu", "us"]), min_size=1, max_size=4)
OUTCOMES = st.lists(
    st.one_of(st.just("it is four"), st.sampled_from([400, 401, 500, 503]), st.floats(0.1, 20)),
    max_size=40,
)
WAYS = st.lists(
    st.tuples(
        st.sampled_from(["invoke", "stream", "leave", "cancel", "ainvoke", "wait"]),
        st.sampled_from([None, "eu", "us"]),
    ),
    max_size=15,
)


@settings(max_examples=150)
@given(REGIONS, OUTCOMES, WAYS, st.sampled_from(["raise", "soonest"]))
def test_no_call_leaves_its_region_or_goes_to_one_that_cools_and_all_turns_are_given_back(
    regions: list[str], outcomes: list[Any], ways: list[tuple[str, str | None]], last: str
) -> None:
    world = World(regions, iter(outcomes), when_all_cool=last)

    async def cancelled(config: Any) -> None:
        task = asyncio.create_task(world.model.ainvoke("2 + 2?", config))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    for way, region in ways:
        world.region = region
        config: Any = {"metadata": {"region": region} if region else {}}
        try:
            if way == "invoke":
                world.model.invoke("2 + 2?", config)
            elif way == "stream":
                list(world.model.stream("2 + 2?", config))
            elif way == "leave":
                stream: Any = world.model.stream("2 + 2?", config)
                next(stream)
                stream.close()
            elif way == "cancel":
                asyncio.run(cancelled(config))
            elif way == "ainvoke":
                asyncio.run(world.model.ainvoke("2 + 2?", config))
            else:
                world.clock.now += 7
        except DeploymentsCoolingError:
            assert last == "raise"
        except ConfigurationError:
            assert region not in regions
        except StatusError:
            pass
        assert idle(world.model.stats())
        assert all(
            record >= 0 for record in [each.cooling_s for each in world.model.stats().deployments]
        )

    assert world.broken == []


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=1, max_size=8))
def test_nothing_is_left_in_flight_when_hedged_calls_are_cancelled(
    steps: list[tuple[int, bool]],
) -> None:
    async def run() -> BalanceStats:
        models = [says("known", "it is four", latency_s=0.0) for _ in range(3)]
        model = balanced(
            *(Deployment(f"d{n}", each) for n, each in enumerate(models)),
            hedging=Hedging(most=1.0, at_least_s=0.0, measurements=1),
        )
        for _ in range(6):
            await model.ainvoke("2 + 2?")
            [chunk async for chunk in model.astream("2 + 2?")]
        before = asyncio.all_tasks()

        async def pause(_: float) -> None:
            for _ in range(4):
                await asyncio.sleep(0)

        for each in models:
            each.latency_s = each.first_token_s = 1.0
            each.async_sleep = pause

        async def read(stream: AsyncIterator[Any]) -> None:
            async for _ in stream:
                pass

        for ticks, streams in steps:
            call: Any = read(model.astream("2 + 2?")) if streams else model.ainvoke("2 + 2?")
            task = asyncio.create_task(call)
            for _ in range(ticks):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        assert asyncio.all_tasks() == before
        return model.stats()

    assert idle(asyncio.run(run()))
