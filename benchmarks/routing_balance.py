"""What do slow, broken and busy deployments cost the requests that are spread over them?

Three simulated deployments with 0.6, 1.2 and 2.4 s to a typical answer (lognormal, sigma 0.4), each
answering 30 calls at once and queueing the rest; 24 requests a second arrive at random for the
whole run. Time is simulated too (the event loop's clock jumps to the next timer), so every way of
spreading runs its real code over the same arrivals.

- steady: nothing happens.
- errors: for the middle third the quickest answers 503 after 50 ms.
- hangs: for the middle third the quickest answers nothing, and the client's timeout is 10 s.
- limits: the quickest allows 8 requests a second, and answers 429 with `retry-after` beyond.

Beside ours: a deployment at random, in turns, and core's `with_fallbacks`; the first two go on to
the others with `with_fallbacks` as well, so that all get as many attempts. Intervals are 95%
bootstrap intervals over the seeds. The last table is what the balancer itself adds to a call of a
model without latency.
"""

import asyncio
import itertools
import math
import random
import selectors
import statistics
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from measure import alternate, arguments, micro, ratio, shown, table
from pydantic import PrivateAttr
from servers.redis_server import redis_on_socket

from langchain_tokenopt.routing.balance import BalancedChatModel
from langchain_tokenopt.routing.balance_redis import RedisDeployments
from langchain_tokenopt.routing.deployment import Deployment, Hedging
from langchain_tokenopt.testing import ScriptedModel

RATE, TYPICAL_S, SLOTS, TIMEOUT_S = 24.0, (0.6, 1.2, 2.4), 30, 10.0
SCENARIOS = ("steady", "errors", "hangs", "limits")


class StatusError(Exception):
    """An error of a provider."""

    def __init__(self, status: int, headers: dict[str, str] | None = None) -> None:
        super().__init__(f"status {status}")
        self.response = SimpleNamespace(status_code=status, headers=headers or {})


class Simulated(BaseChatModel):
    """A deployment that takes its time, and may be out of order."""

    typical_s: float
    scenario: str
    ends_s: float
    seed: int

    _slots: asyncio.Semaphore = PrivateAttr(default_factory=lambda: asyncio.Semaphore(SLOTS))
    _rng: random.Random = PrivateAttr()
    _second: list[int] = PrivateAttr(default_factory=lambda: [0, 0])
    _calls: int = PrivateAttr(default=0)

    def model_post_init(self, context: Any) -> None:
        """Draw latencies of its own."""
        super().model_post_init(context)
        self._rng = random.Random(f"{self.seed} {self.typical_s}")

    @property
    def _llm_type(self) -> str:
        return "simulated"

    def _generate(self, messages: list[BaseMessage], stop: Any = None, **kwargs: Any) -> ChatResult:
        raise NotImplementedError

    async def _agenerate(
        self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        self._calls += 1
        now = asyncio.get_running_loop().time()
        if self.scenario == "limits":
            self._limit(now)
        elif self.scenario != "steady" and self.ends_s / 3 < now < self.ends_s * 2 / 3:
            await asyncio.sleep(0.05 if self.scenario == "errors" else TIMEOUT_S)
            raise StatusError(503) if self.scenario == "errors" else TimeoutError
        async with self._slots:
            await asyncio.sleep(self.typical_s * math.exp(self._rng.gauss(0, 0.4)))
        return ChatResult(generations=[ChatGeneration(message=AIMessage("four"))])

    def _limit(self, now: float) -> None:
        second, used = self._second
        used = used + 1 if second == int(now) else 1
        self._second[:] = [int(now), used]
        if used > 8:
            raise StatusError(429, {"retry-after": f"{int(now) + 1 - now:.3f}"})


class _Jumps(selectors.DefaultSelector):
    """Waits for nothing: time is what the loop would have waited."""

    now = 0.0

    def select(self, timeout: float | None = None) -> Any:
        """Pass the time."""
        self.now += timeout or 0.0
        return super().select(0)


class JumpingLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock jumps to the next timer."""

    def __init__(self) -> None:
        self.jumps = _Jumps()
        super().__init__(self.jumps)

    def time(self) -> float:
        """Return the simulated time."""
        return self.jumps.now


Ask = Callable[[], Any]


def at_random(models: Sequence[BaseChatModel], seed: int) -> Ask:
    rng = random.Random(seed)

    def ask() -> Any:
        first, *others = rng.sample(models, len(models))
        return first.with_fallbacks(others).ainvoke("2 + 2?")

    return ask


def in_turns(models: Sequence[BaseChatModel], seed: int) -> Ask:
    turn = itertools.count()

    def ask() -> Any:
        start = next(turn) % len(models)
        first, *others = [*models[start:], *models[:start]]
        return first.with_fallbacks(others).ainvoke("2 + 2?")

    return ask


def fallbacks(models: Sequence[BaseChatModel], seed: int) -> Ask:
    chain = models[0].with_fallbacks(list(models[1:]))
    return lambda: chain.ainvoke("2 + 2?")


def balanced(models: Sequence[BaseChatModel], seed: int, **options: Any) -> Ask:
    deployments = [Deployment(f"d{n}", model) for n, model in enumerate(models)]
    model = BalancedChatModel(
        deployments,
        **options,
        clock=asyncio.get_running_loop().time,
        rng=random.Random(seed),
    )
    return lambda: model.ainvoke("2 + 2?")


WAYS: dict[str, Callable[..., Ask]] = {
    "random": at_random,
    "in turns": in_turns,
    "core with_fallbacks": fallbacks,
    "BalancedChatModel": balanced,
    "choices=3": lambda models, seed: balanced(models, seed, choices=3),
    "choices=3, 5% hedges": lambda models, seed: balanced(
        models, seed, choices=3, hedging=Hedging(most=0.05)
    ),
}


async def run(way: str, scenario: str, *, seed: int, requests: int) -> dict[str, float]:
    """Return what the requests of one run took."""
    loop, rng = asyncio.get_running_loop(), random.Random(seed)
    ends_s = requests / RATE
    models = [
        Simulated(
            typical_s=typical_s,
            scenario=scenario if typical_s == TYPICAL_S[0] else "steady",
            ends_s=ends_s,
            seed=seed,
        )
        for typical_s in TYPICAL_S
    ]
    ask = WAYS[way](models, seed)
    taken: list[float] = []
    failures = 0

    async def request(at: float) -> None:
        nonlocal failures
        await asyncio.sleep(at)
        began = loop.time()
        try:
            await ask()
        except Exception:  # noqa: BLE001 - counted
            failures += 1
        else:
            taken.append(loop.time() - began)

    await asyncio.gather(*(request(rng.uniform(0, ends_s)) for _ in range(requests)))
    taken.sort()
    return {
        "p50": taken[len(taken) // 2],
        "p99": taken[int(len(taken) * 0.99)],
        "failed": failures / requests,
        "calls": sum(model._calls for model in models) / requests,
    }


def simulate(way: str, scenario: str, *, seed: int, requests: int) -> dict[str, float]:
    """Run in simulated time."""
    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        return runner.run(run(way, scenario, seed=seed, requests=requests))


def spread(*, seeds: int, requests: int) -> None:
    """Compare the ways, scenario by scenario."""
    for scenario in SCENARIOS:
        runs = {
            way: [simulate(way, scenario, seed=seed, requests=requests) for seed in range(seeds)]
            for way in WAYS
        }
        rows = []
        for way, of_way in runs.items():
            column = {key: [each[key] for each in of_way] for key in of_way[0]}
            core = [each["p99"] for each in runs["core with_fallbacks"]]
            rows.append(
                [
                    way,
                    interval(column["p50"], "s"),
                    interval(column["p99"], "s"),
                    shown(ratio(column["p99"], core)),
                    f"{statistics.mean(column['failed']):.2%}",
                    f"{statistics.mean(column['calls']):.2f}",
                ]
            )
        head = ["way", "p50", "p99", "p99 to with_fallbacks", "failed", "calls a request"]
        table(f"{scenario}: {seeds} runs of {requests:,} requests", head, rows)


def interval(values: Sequence[float], unit: str) -> str:
    """Return a mean with its interval."""
    draws = sorted(statistics.mean(random.choices(values, k=len(values))) for _ in range(1_000))
    return f"{statistics.mean(values):.2f} {unit} ({draws[25]:.2f} to {draws[974]:.2f})"


def overhead(url: str | None, *, rounds: int, times: int) -> None:
    """Time one call after the other."""

    def model() -> ScriptedModel:
        return ScriptedModel(["four"], when_exhausted="cycle")

    def deployments(n: int) -> list[Deployment]:
        return [Deployment(f"d{k}", model()) for k in range(n)]

    bare = model()
    # Never late here, so that what is timed is the looking for it.
    ways: dict[str, Any] = {
        "bare model": bare,
        "core with_fallbacks": bare.with_fallbacks([model(), model(), model()]),
        "1 deployment": BalancedChatModel(deployments(1)),
        "4 deployments": BalancedChatModel(deployments(4)),
        "4 deployments, hedging": BalancedChatModel(
            deployments(4), hedging=Hedging(at_least_s=1.0)
        ),
    }
    if url is not None:
        shared = RedisDeployments(url)
        ways["4 deployments, Redis"] = BalancedChatModel(deployments(4), shared=shared)
    for kind in ("invoke", "stream"):
        runs = {
            name: (lambda way=way: way.invoke("2 + 2?"))
            if kind == "invoke"
            else (lambda way=way: list(way.stream("2 + 2?")))
            for name, way in ways.items()
        }
        taken = alternate(runs, rounds=rounds, times=times)
        plain = taken["bare model"]
        rows = [
            [
                name,
                micro(statistics.median(seconds)),
                micro(statistics.median(seconds) - statistics.median(plain)),
                shown(ratio(seconds, plain)),
            ]
            for name, seconds in taken.items()
        ]
        head = ["model", "a call", "added", "ratio to the bare model (95%)"]
        table(f"`{kind}` of a model without latency", head, rows)


def main() -> None:
    """Print all tables."""
    quick = arguments(__doc__).quick
    spread(seeds=2 if quick else 12, requests=150 if quick else 2_000)
    with redis_on_socket() as url:
        overhead(url, rounds=3 if quick else 30, times=20 if quick else 200)


if __name__ == "__main__":
    main()
