"""What processes tell each other of deployments through a Redis, and what one does without it."""

import logging
import multiprocessing
import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from langchain_tokenopt.errors import ConfigurationError, StoreError
from langchain_tokenopt.routing.balance import BalancedChatModel
from langchain_tokenopt.routing.balance_board import DeploymentsCoolingError, Report
from langchain_tokenopt.routing.balance_redis import RedisDeployments
from langchain_tokenopt.routing.deployment import Deployment
from langchain_tokenopt.routing.deployment_state import SharedState
from langchain_tokenopt.testing import ScriptedModel

Server = Any
Until = Callable[..., Any]


class StatusError(Exception):
    """An error of a provider's client."""

    def __init__(self, status: int, headers: dict[str, str] | None = None) -> None:
        super().__init__(f"status {status}")
        self.response = SimpleNamespace(status_code=status, headers=headers or {})


def says(*answers: Any) -> ScriptedModel:
    return ScriptedModel(list(answers), when_exhausted="repeat_last")


def process(
    url: str, namespace: str, *deployments: Deployment, **options: Any
) -> BalancedChatModel:
    """Return a model as another process has it: nothing in common but the Redis."""
    shared = RedisDeployments(url, namespace=namespace)
    return BalancedChatModel(deployments, shared=shared, **{"rng": random.Random(3), **options})


def report(deployment: Deployment, outcome: Any, **options: Any) -> Report:
    plain = Report(
        deployment=deployment,
        outcome=outcome,
        wait_s=None,
        tests=False,
        measure="answer",
        latency_s=None,
        in_flight=0,
    )
    return replace(plain, **options)


def state(shared: RedisDeployments, deployment: Deployment) -> SharedState:
    return shared.read([deployment])[deployment.name]


def test_a_rate_limit_of_one_process_is_kept_by_the_others(
    redis_server: Server, namespace: str
) -> None:
    busy = says(StatusError(429, {"retry-after": "30"}))
    one = process(redis_server.url, namespace, Deployment("a", busy))
    other = process(redis_server.url, namespace, Deployment("a", busy))
    with pytest.raises(StatusError):
        one.invoke("2 + 2?")

    with pytest.raises(DeploymentsCoolingError, match=r"a for (29|30)\."):
        other.invoke("2 + 2?")
    assert busy.calls == 1


async def test_the_asynchronous_twins_share_as_well(redis_server: Server, namespace: str) -> None:
    busy = says(StatusError(429, {"retry-after": "30"}))
    one = process(redis_server.url, namespace, Deployment("a", busy))
    other = process(redis_server.url, namespace, Deployment("a", busy))
    with pytest.raises(StatusError):
        await one.ainvoke("2 + 2?")

    with pytest.raises(DeploymentsCoolingError):
        [chunk async for chunk in other.astream("2 + 2?")]
    assert busy.calls == 1


def test_failures_of_all_processes_add_up(redis_server: Server, namespace: str) -> None:
    broken = says(StatusError(500))
    models = [
        process(redis_server.url, namespace, Deployment("a", broken, failures_allowed=3))
        for _ in range(4)
    ]
    for model in models:
        with pytest.raises(StatusError):
            model.invoke("2 + 2?")

    fifth = process(redis_server.url, namespace, Deployment("a", broken, failures_allowed=3))
    with pytest.raises(DeploymentsCoolingError):
        fifth.invoke("2 + 2?")
    assert broken.calls == 4
    assert all(model.stats()["a"].failures == 1 for model in models)


def test_names_and_namespaces_keep_models_apart(redis_server: Server, namespace: str) -> None:
    deployment = Deployment("a", says("x"), failures_allowed=0)
    one, other = (
        RedisDeployments(redis_server.url, name=name, namespace=namespace)
        for name in ("one", "other")
    )
    one.report(report(deployment, "unavailable"))

    assert state(one, deployment).half_open
    assert state(other, deployment) == SharedState()


def test_one_process_tries_a_deployment_that_cooled(redis_server: Server, namespace: str) -> None:
    deployment = Deployment("a", says("x"), failures_allowed=0, cooldown_s=0.01)
    shared = RedisDeployments(redis_server.url, namespace=namespace)
    shared.report(report(deployment, "unavailable"))

    with ThreadPoolExecutor(8) as pool:
        allowed = list(pool.map(lambda _: shared.probe(deployment), range(16)))
    assert allowed.count(True) == 1

    shared.report(report(deployment, "left", tests=True))
    assert shared.probe(deployment)
    assert not shared.probe(deployment)
    shared.report(report(deployment, "answered", tests=True))
    assert state(shared, deployment) == SharedState()
    assert shared.probe(deployment)


def test_a_process_does_not_try_what_another_one_tries(
    redis_server: Server, namespace: str, until: Until
) -> None:
    shared = RedisDeployments(redis_server.url, namespace=namespace)
    cooled, free = says("four"), says("four")
    deployments = (
        Deployment("cooled", cooled, failures_allowed=0, cooldown_s=0.001),
        Deployment("free", free),
    )
    shared.report(report(deployments[0], "unavailable"))
    until(lambda: not state(shared, deployments[0]).cooling_s)
    assert shared.probe(deployments[0])
    model = process(redis_server.url, namespace, *deployments)

    for _ in range(5):
        model.invoke("2 + 2?")
    assert (cooled.calls, free.calls) == (0, 5)


async def test_a_request_does_not_hang_while_another_process_tries_the_only_deployment(
    redis_server: Server, namespace: str, until: Until
) -> None:
    shared = RedisDeployments(redis_server.url, namespace=namespace)
    only = Deployment("only", says("four"), failures_allowed=0, cooldown_s=0.001)
    shared.report(report(only, "unavailable"))
    until(lambda: not state(shared, only).cooling_s)
    assert shared.probe(only)
    waited: list[float] = []
    model = process(redis_server.url, namespace, only, patience_s=0.12, sleep=waited.append)
    impatient = process(redis_server.url, namespace, only)

    with pytest.raises(DeploymentsCoolingError, match="try again soon"):
        model.invoke("2 + 2?")
    with pytest.raises(DeploymentsCoolingError, match="try again soon"):
        await impatient.ainvoke("2 + 2?")
    assert waited == [0.05, 0.05]


def test_a_call_that_fails_after_a_cooldown_begins_another_one_for_all(
    redis_server: Server, namespace: str
) -> None:
    deployment = Deployment("a", says("x"), failures_allowed=0, cooldown_s=10)
    again = Deployment("a", says("x"), failures_allowed=0, cooldown_s=40)
    shared = RedisDeployments(redis_server.url, namespace=namespace)
    waits = []
    for failed, tests in ((deployment, False), (again, False), (again, True)):
        shared.report(report(failed, "unavailable", tests=tests))
        waits.append(state(shared, deployment).cooling_s)

    assert waits == pytest.approx([10, 10, 40], abs=0.5)


def test_few_failures_among_many_calls_cool_nobody(redis_server: Server, namespace: str) -> None:
    deployment = Deployment("a", says("x"), failures_allowed=2)
    shared = RedisDeployments(redis_server.url, namespace=namespace)
    for _ in range(30):
        shared.report(report(deployment, "answered"))
    for _ in range(9):
        shared.report(report(deployment, "unavailable"))
    shared.report(report(deployment, "unavailable", in_flight=1))
    assert not state(shared, deployment).half_open

    shared.report(report(deployment, "unavailable"))
    assert state(shared, deployment).half_open


def test_latencies_of_others_stand_in_until_there_are_own_ones(
    redis_server: Server, namespace: str
) -> None:
    shared = RedisDeployments(redis_server.url, namespace=namespace)
    quick, slow = says("four"), says("four")
    deployments = (Deployment("slow", slow), Deployment("quick", quick))
    for seconds in (2.0, 4.0):
        shared.report(report(deployments[0], "answered", latency_s=seconds))
        shared.report(report(deployments[1], "answered", latency_s=seconds / 10))
    assert state(shared, deployments[0]).answer_s == pytest.approx(2.2)

    model = process(redis_server.url, namespace, *deployments)
    model.invoke("2 + 2?")

    assert (slow.calls, quick.calls) == (0, 1)


def _ask(url: str, namespace: str, results: Any) -> None:
    shared = RedisDeployments(url, namespace=namespace)
    model = BalancedChatModel(
        [Deployment("a", says(StatusError(500)), failures_allowed=5, cooldown_s=60)], shared=shared
    )
    sent = 0
    while True:
        try:
            model.invoke("2 + 2?")
        except DeploymentsCoolingError:
            results.put(sent)
            return
        except StatusError:
            sent += 1


def test_processes_together_send_few_requests_to_what_is_down(
    redis_server: Server, namespace: str
) -> None:
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    workers = [
        context.Process(target=_ask, args=(redis_server.url, namespace, results)) for _ in range(2)
    ]
    for worker in workers:
        worker.start()
    sent = [results.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join(60)

    assert 6 <= sum(sent) <= 8


def test_a_redis_that_is_away_leaves_each_process_to_itself(
    own_server: Server, namespace: str, until: Until, caplog: pytest.LogCaptureFixture
) -> None:
    busy = says(StatusError(429, {"retry-after": "60"}), "four")
    free = says("four")
    model = process(own_server.url, namespace, Deployment("busy", busy), Deployment("free", free))
    model.invoke("2 + 2?")
    own_server.kill()

    with caplog.at_level(logging.WARNING):
        for _ in range(20):
            assert model.invoke("2 + 2?").text == "four"
    assert busy.calls == 1
    assert model.stats().shared_failures >= 1
    assert caplog.text.count("cannot be read") == 1

    own_server.start()

    def shared_again() -> bool:
        before = model.stats().shared_failures
        model.invoke("2 + 2?")
        known = RedisDeployments(own_server.url, namespace=namespace)
        rest = known.read([Deployment("free", free)])["free"]
        return rest.answer_s is not None and model.stats().shared_failures == before

    until(shared_again, within_s=40)
    assert busy.calls == 1  # what the new Redis does not know, this process does
    assert model.stats()["busy"].cooling_s > 0


async def test_a_redis_that_hangs_blocks_no_event_loop_for_long(
    own_server: Server, namespace: str
) -> None:
    shared = RedisDeployments(own_server.url, namespace=namespace, timeout_s=0.1)
    model = BalancedChatModel([Deployment("a", says("four"))], shared=shared)
    await model.ainvoke("2 + 2?")
    own_server.pause()
    began = time.monotonic()
    for _ in range(50):
        await model.ainvoke("2 + 2?")
    took = time.monotonic() - began
    own_server.resume()

    assert took < 1.0
    assert model.stats().shared_failures >= 1
    await shared.aclose()


def test_what_is_no_state_is_refused(redis_server: Server, namespace: str) -> None:
    shared = RedisDeployments(redis_server.url, namespace=namespace)
    deployment = Deployment("a", says("x"))
    redis_server.admin.set(f"{{{namespace}:balance:default}}:a", "no hash")

    with pytest.raises(StoreError):
        shared.read([deployment])
    assert BalancedChatModel([deployment], shared=shared).invoke("2 + 2?").text == "x"


@pytest.mark.parametrize("options", [{"name": "a b"}, {"namespace": "{x}"}, {"timeout_s": 0}])
def test_options_that_cannot_be_used_are_refused(options: Any) -> None:
    with pytest.raises(ConfigurationError):
        RedisDeployments("redis://localhost", **options)
