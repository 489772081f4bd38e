"""Learns online which tier suits which kind of task, and risks no more than it is allowed to."""

import asyncio
import logging
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, TypeAlias
from uuid import uuid4

import numpy as np
from langchain_core.messages import BaseMessage
from langchain_core.runnables import RunnableConfig
from numpy.typing import NDArray

from langchain_tokenopt.errors import ConfigurationError, StoreError
from langchain_tokenopt.messages import last_human_text
from langchain_tokenopt.routing.bandit_store import ArmSums, BanditStore, MemoryBandit
from langchain_tokenopt.routing.cascade_state import Route

_LOG = logging.getLogger(__name__)
_DRAWS = 256
_Vector: TypeAlias = NDArray[np.float64]

Mode: TypeAlias = Literal["shadow", "serve"]
"""`shadow` decides and logs while the baseline serves; `serve` serves what it decides."""


class TellsTask(Protocol):
    """What tells the kind of a task; `TaskClassifier` does."""

    def classify(self, question: str, /) -> Any:
        """Return something with a `task`, which may be `None`."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What a bandit decided for one request, and what came of it."""

    request_id: str
    task: str
    arm: str
    """What it would have."""
    served: str
    """What served: the arm, or the baseline in shadow mode."""
    propensities: Mapping[str, float]
    """The probability with which each arm was chosen; exact, since the arm is drawn from them."""
    quality: float | None = None
    """0 to 1; `None` while no reward came."""
    cost: float | None = None


class TierBandit:
    """Thompson sampling over tiers, by kind of task (Beta posteriors, arXiv 1707.02038).

    What is maximised is `quality - price_weight * cost`. A task of which little is known borrows
    from all tasks. Arms whose quality is surely below the floor are not chosen. Other arms than the
    baseline are tried only as far as a budget of losses pays for it, after conservative bandits
    (arXiv 1602.04282): each request adds the share `allowed_loss` of the baseline's value and half
    of what is gained over it, and takes out what may be lost, all as the posterior has it. Rewards
    come later, by request id; older ones count less.

    Args:
        arms: The tiers, by name.
        baseline: The tier that is known to do.
        tells_task: Tells kinds of tasks; without, all requests are of one.
        price_weight: What a dollar is worth in quality: 0.1 / (dollars of a strong answer) says
            that a strong answer's price is worth a tenth of a right answer.
        quality_floor: Arms surely below it are left out.
        allowed_loss: Share of the baseline's value that may be lost to trying.
        discount: What a reward still counts when the next one of its arm comes: 0.999 forgets in
            a few thousand rewards.
        mode: `shadow` or `serve`.
        store: Where the sums are; by default in memory.
        seed: Of the draws.
        most_open: Decisions that wait for a reward; older ones are given up, and counted.
        most_logged: Decisions with their rewards that are kept for `log`.
        open_s: How long a decision waits for its reward.
        clock: Seconds, for tests.

    >>> bandit = TierBandit(["small", "large"], baseline="large", mode="serve", seed=1)
    >>> for n in range(200):
    ...     decision = bandit.decide("faq", request_id=str(n))
    ...     _ = bandit.reward(str(n), quality=1.0, cost=0.0)
    >>> bandit.decide("faq").served in ("small", "large")
    True
    """

    def __init__(
        self,
        arms: Sequence[str],
        *,
        baseline: str,
        tells_task: TellsTask | None = None,
        price_weight: float = 0.0,
        quality_floor: float | None = None,
        allowed_loss: float = 0.01,
        discount: float = 0.999,
        mode: Mode = "shadow",
        store: BanditStore | None = None,
        seed: int | None = None,
        most_open: int = 10_000,
        most_logged: int = 100_000,
        open_s: float = 86_400.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if baseline not in arms or len(set(arms)) < len(arms) or len(arms) < 2:
            message = (
                f"expected two or more arms of different names with the baseline among them, got "
                f"{list(arms)} and {baseline!r}"
            )
            raise ConfigurationError(message)
        if mode not in ("shadow", "serve"):
            raise ConfigurationError(f"mode is 'shadow' or 'serve', got {mode!r}")
        if not 0 < discount <= 1 or allowed_loss < 0 or price_weight < 0:
            message = (
                "discount is above 0 and at most 1, allowed_loss and price_weight are not below 0, "
                f"got {discount}, {allowed_loss} and {price_weight}"
            )
            raise ConfigurationError(message)
        self._arms = tuple(arms)
        self._baseline = baseline
        self._tells_task = tells_task
        self._price_weight = price_weight
        self._floor = quality_floor
        self._allowed_loss = allowed_loss
        self._discount = discount
        self._mode = mode
        self._store: BanditStore = store or MemoryBandit()
        self._rng = np.random.default_rng(seed)
        self._most_open = most_open
        self._open_s = open_s
        self._clock = clock
        self._lock = threading.Lock()
        self._open: OrderedDict[str, tuple[float, Decision]] = OrderedDict()
        self._log: deque[Decision] = deque(maxlen=most_logged)
        self._earned = 0.0
        """What is left of the budget of losses."""
        self.expired = 0
        self.failures = 0

    @property
    def log(self) -> list[Decision]:
        """The latest decisions whose rewards came, oldest first; `evaluate_policy` reads them."""
        with self._lock:
            return list(self._log)

    def __call__(self, messages: Sequence[BaseMessage], config: RunnableConfig) -> Route:
        """Return where a request starts; for `start=` of a cascade."""
        return self._routed(self.decide(self._task(messages), request_id=_id_of(config)))

    async def achoose(self, messages: Sequence[BaseMessage], config: RunnableConfig) -> Route:
        """Do what calling does without blocking the event loop."""
        return await asyncio.to_thread(self, messages, config)

    def decide(self, task: str = "", *, request_id: str | None = None) -> Decision:
        """Return what to do with a request of a kind; a store that fails leads to the baseline."""
        name = request_id or str(uuid4())
        try:
            with self._lock:
                beliefs = self._beliefs(task)
                shares = self._shares(beliefs)
                arm = self._arms[self._rng.choice(len(self._arms), p=shares)]
        except StoreError as error:
            self._failed(error)
            shares = np.array([float(each == self._baseline) for each in self._arms])
            arm = self._baseline
        decision = Decision(
            request_id=name,
            task=task,
            arm=arm,
            served=arm if self._mode == "serve" else self._baseline,
            propensities=dict(zip(self._arms, map(float, shares), strict=True)),
        )
        self._wait_for(decision)
        return decision

    def reward(
        self, request_id: str, *, quality: float, cost: float = 0.0, arm: str | None = None
    ) -> bool:
        """Take in what came of a request; return whether it was waited for.

        Args:
            request_id: As it was given, or as the decision says.
            quality: From 0 to 1: 1 for a right answer.
            cost: Dollars.
            arm: Whose answer it is; by default the one that served. An audit may reward another.
        """
        if not 0 <= quality <= 1 or cost < 0 or not np.isfinite(cost):
            message = f"quality is from 0 to 1 and cost not below 0, got {quality} and {cost}"
            raise ConfigurationError(message)
        if arm is not None and arm not in self._arms:
            raise ConfigurationError(f"no arm is called {arm!r}; there are {list(self._arms)}")
        with self._lock:
            waited = self._open.pop(request_id, None) if arm is None else None
            known = waited or self._open.get(request_id)
            if known is None:
                return False
            decision = known[1]
            if waited is not None:
                self._log.append(replace(decision, quality=quality, cost=cost))
        try:
            self._store.add(
                decision.task,
                arm or decision.served,
                quality=quality,
                cost=cost,
                discount=self._discount,
            )
        except StoreError as error:
            self._failed(error)
        return True

    def beliefs(self, task: str = "") -> dict[str, tuple[float, float]]:
        """Return the mean and the deviation of each arm's value at a task."""
        with self._lock:
            found = self._beliefs(task)
        return {
            arm: (each.value, each.deviation) for arm, each in zip(self._arms, found, strict=True)
        }

    def _task(self, messages: Sequence[BaseMessage]) -> str:
        if self._tells_task is None:
            return ""
        return str(self._tells_task.classify(last_human_text(messages)).task or "")

    def _routed(self, decision: Decision) -> Route:
        chance = decision.propensities[decision.arm]
        said = f"learned for {decision.task or 'all tasks'}: {decision.arm} ({chance:.0%})"
        if decision.served != decision.arm:
            said += f", {decision.served} serves"
        return Route(tier=decision.served, reason=said)

    def _beliefs(self, task: str) -> list["_Belief"]:
        overall = self._store.sums("")
        own = self._store.sums(task) if task else overall
        return [
            _Belief.of(
                own.get(arm, ArmSums()),
                overall.get(arm, ArmSums()) if task else ArmSums(),
                price_weight=self._price_weight,
            )
            for arm in self._arms
        ]

    def _shares(self, beliefs: Sequence["_Belief"]) -> _Vector:
        """Return the probability of each arm to be best, as far as it may be chosen."""
        draws = np.stack([each.drawn(self._rng) for each in beliefs], axis=1)
        base = self._arms.index(self._baseline)
        allowed = np.array([self._may(each) for each in beliefs])
        allowed[base] = True
        draws[:, ~allowed] = -np.inf
        shares = np.bincount(draws.argmax(axis=1), minlength=len(beliefs)) / _DRAWS
        gains = np.where(allowed[None, :], draws - draws[:, [base]], 0.0)
        return self._within_budget(shares, gains, beliefs[base].value, base)

    def _may(self, belief: "_Belief") -> bool:
        return self._floor is None or belief.upper_quality >= self._floor

    def _within_budget(
        self, shares: _Vector, gains: _Vector, baseline: float, base: int
    ) -> _Vector:
        """Give to the baseline what trying the others would risk beyond what is allowed."""
        allowance = self._allowed_loss * max(baseline, 0.0)
        risks = np.maximum(-gains, 0.0).mean(axis=0)
        room = max(self._earned + allowance, 0.0)
        expected = float(shares @ risks)
        if expected > room:
            kept = room / expected
            shares = shares * kept
            shares[base] += 1 - kept
        # Of hoped-for gains a half is saved up to try more; what is risked is paid for in full.
        hoped = np.maximum(gains, 0.0).mean(axis=0) / 2
        self._earned = min(self._earned + allowance + float(shares @ (hoped - risks)), _MOST_EARNED)
        return np.asarray(shares / shares.sum())

    def _wait_for(self, decision: Decision) -> None:
        now = self._clock()
        with self._lock:
            self._open[decision.request_id] = (now, decision)
            while self._open:
                oldest = next(iter(self._open))
                if len(self._open) <= self._most_open and (
                    now - self._open[oldest][0] <= self._open_s
                ):
                    break
                self._open.popitem(last=False)
                self.expired += 1

    def _failed(self, error: StoreError) -> None:
        with self._lock:
            self.failures += 1
            first = self.failures == 1
        if first:
            _LOG.warning("the bandit's store failed, %s serves: %s", self._baseline, error)


_MOST_EARNED = 50.0
_BORROWED = 8.0
"""Rewards that what is known of all tasks counts for, at a task of its own."""
_CONFIDENT = 1.645


@dataclass(frozen=True, slots=True, kw_only=True)
class _Belief:
    """What is believed of an arm at a task."""

    good: float
    bad: float
    price: float
    """`price_weight * cost`, on average."""

    @classmethod
    def of(cls, own: ArmSums, overall: ArmSums, *, price_weight: float) -> "_Belief":
        # What is known of all tasks counts for a few rewards at one of them.
        borrowed = min(overall.weight, _BORROWED)
        mean = (overall.quality + 1) / (overall.weight + 2)
        cost, weight = (own.cost, own.weight) if own.weight else (overall.cost, overall.weight)
        return cls(
            good=1 + own.quality + borrowed * mean,
            bad=1 + own.weight - own.quality + borrowed * (1 - mean),
            price=price_weight * cost / weight if weight else 0.0,
        )

    @property
    def quality(self) -> float:
        return self.good / (self.good + self.bad)

    @property
    def deviation(self) -> float:
        total = self.good + self.bad
        return float(np.sqrt(self.good * self.bad / (total * total * (total + 1))))

    @property
    def value(self) -> float:
        return self.quality - self.price

    @property
    def upper_quality(self) -> float:
        return self.quality + _CONFIDENT * self.deviation

    def drawn(self, rng: np.random.Generator) -> _Vector:
        return np.asarray(rng.beta(self.good, self.bad, _DRAWS) - self.price)


def _id_of(config: RunnableConfig) -> str | None:
    told = (config.get("metadata") or {}).get("request_id")
    return None if told is None else str(told)
