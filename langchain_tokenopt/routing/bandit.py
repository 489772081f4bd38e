"""Learns online which tier suits which kind of task, on a budget of losses."""

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from math import inf
from typing import Any, Literal, Protocol, TypeAlias
from uuid import uuid4

import numpy as np
from langchain_core.messages import BaseMessage
from langchain_core.runnables import RunnableConfig

from langchain_tokenopt.errors import ConfigurationError, StoreError
from langchain_tokenopt.messages import last_human_text
from langchain_tokenopt.routing.bandit_belief import Belief, LossBudget, Vector, best_shares
from langchain_tokenopt.routing.bandit_state import ArmSums
from langchain_tokenopt.routing.bandit_store import BanditStore, MemoryBandit
from langchain_tokenopt.routing.bandit_waiting import Waiting
from langchain_tokenopt.routing.cascade_state import Route

_LOG = logging.getLogger(__name__)
_DRAWS = 256

Mode: TypeAlias = Literal["shadow", "serve"]
"""`shadow` decides and logs while the baseline serves; `serve` serves what it decides.

In shadow mode only audits, rewards for an `arm` that did not serve, teach of other arms.
"""


class TellsTask(Protocol):
    """What tells the kind of a task; `TaskClassifier` does.

    Its method `aclassify`, if it has one, is awaited by asynchronous graphs.
    """

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
    shadow: bool = False
    """Whether the baseline served whatever was decided."""


@dataclass(frozen=True, slots=True)
class _Open:
    """A decision that waits for the reward of what served."""

    decision: Decision
    audited: set[str] = field(default_factory=set)
    """Other arms whose rewards came."""


class TierBandit:
    """Thompson sampling over tiers, by kind of task (Beta posteriors, arXiv 1707.02038).

    What is maximised is `quality - price_weight * cost`. A task of which little is known borrows
    from all tasks. Arms whose quality is surely below the floor are not chosen. Other arms than the
    baseline are tried only as far as a budget of losses pays for it, after conservative bandits
    (arXiv 1602.04282). The budget is counted by what is believed, and each process has its own:
    what comes true may be more, most of all with two arms that are hard to tell apart. Rewards come
    later, by request id, to the process that decided: only it knows what waits for them, whatever
    the store. With each, what was known of its task counts less, of all arms, so that one which was
    given up is tried again in time.

    Args:
        arms: The tiers, by name.
        baseline: The tier that is known to do.
        tells_task: Tells kinds of tasks; without, all requests are of one.
        price_weight: What a dollar is worth in quality: 0.1 / (dollars of a strong answer) says
            that a strong answer's price is worth a tenth of a right answer.
        quality_floor: Arms surely below it are left out, until so much is forgotten that one is
            tried again: at a discount of 0.999 some requests in a thousand, at 1 never.
        allowed_loss: Share of the baseline's value that may be lost to trying.
        discount: What a reward still counts when the next one of its task comes: 0.999 forgets in
            a few thousand rewards, 1 never.
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
        if quality_floor is not None and not 0 <= quality_floor <= 1:
            raise ConfigurationError(f"quality_floor is from 0 to 1, got {quality_floor}")
        if most_open < 1 or most_logged < 0 or not open_s > 0:
            message = (
                "most_open is at least 1, most_logged at least 0 and open_s above 0, got "
                f"{most_open}, {most_logged} and {open_s}"
            )
            raise ConfigurationError(message)
        if not (0 < discount <= 1 and 0 <= allowed_loss < inf and 0 <= price_weight < inf):
            message = (
                "discount is above 0 and at most 1, allowed_loss and price_weight are not below 0 "
                f"and finite, got {discount}, {allowed_loss} and {price_weight}"
            )
            raise ConfigurationError(message)
        self._arms = tuple(arms)
        self._baseline = baseline
        self._base = self._arms.index(baseline)
        self._tells_task = tells_task
        self._price_weight = price_weight
        self._floor = quality_floor
        self._discount = discount
        self._mode = mode
        self._store: BanditStore = store or MemoryBandit()
        self._rng = np.random.default_rng(seed)
        self._budget = LossBudget(allowed_loss)
        self._lock = threading.Lock()
        self._open = Waiting[_Open](most=most_open, longest_s=open_s, clock=clock)
        self._log: deque[Decision] = deque(maxlen=most_logged)
        self._told_of_ids = False
        self.failures = 0
        """How often the store failed."""

    @property
    def log(self) -> list[Decision]:
        """The latest decisions whose rewards came, oldest first; `evaluate_policy` reads them."""
        with self._lock:
            return list(self._log)

    @property
    def expired(self) -> int:
        """Decisions given up without a reward: too many, too old, or their id came again."""
        with self._lock:
            return self._open.expired

    def __call__(self, messages: Sequence[BaseMessage], config: RunnableConfig) -> Route:
        """Return where a request starts; for `start=` of a cascade.

        The request's id is `request_id` in the config's metadata; without, no reward can come.
        """
        task = ""
        if self._tells_task is not None:
            task = str(self._tells_task.classify(last_human_text(messages)).task or "")
        return self._routed(self._decide(task, self._id_of(config)))

    async def achoose(self, messages: Sequence[BaseMessage], config: RunnableConfig) -> Route:
        """Do what calling does without blocking the event loop."""
        aclassify = getattr(self._tells_task, "aclassify", None)
        if aclassify is None:
            return await asyncio.to_thread(self, messages, config)
        task = str((await aclassify(last_human_text(messages))).task or "")
        return self._routed(await asyncio.to_thread(self._decide, task, self._id_of(config)))

    def decide(self, task: str = "", *, request_id: str | None = None) -> Decision:
        """Return what to do with a request of a kind; a store that fails leads to the baseline."""
        return self._decide(task, request_id or str(uuid4()))

    async def adecide(self, task: str = "", *, request_id: str | None = None) -> Decision:
        """Do what `decide` does without blocking the event loop."""
        return await asyncio.to_thread(self.decide, task, request_id=request_id)

    def reward(
        self,
        request_id: str,
        *,
        quality: float,
        cost: Decimal | float = 0.0,
        arm: str | None = None,
    ) -> bool:
        """Take in what came of a request; return whether it was waited for.

        Each arm's reward is taken once. If the store fails, it is lost and counted in `failures`.

        Args:
            request_id: As it was given, or as the decision says.
            quality: From 0 to 1: 1 for a right answer.
            cost: Dollars.
            arm: Which arm it is of; by default the one that served, which ends the waiting. An
                audit may reward others before. In a cascade an arm is the tier to start at: leave
                it out, whichever tier answered in the end.

        Raises:
            ConfigurationError: There is no such quality, cost or arm.
        """
        dollars = float(cost)
        if not (0 <= quality <= 1 and 0 <= dollars < inf):
            message = f"quality is from 0 to 1 and cost not below 0, got {quality} and {cost}"
            raise ConfigurationError(message)
        if arm is not None and arm not in self._arms:
            raise ConfigurationError(f"no arm is called {arm!r}; there are {list(self._arms)}")
        with self._lock:
            waiting = self._open.get(request_id)
            if waiting is None or arm in waiting.audited:
                return False
            decision, rewarded = waiting.decision, arm or waiting.decision.served
            if rewarded == decision.served:
                self._open.remove(request_id)
                self._log.append(replace(decision, quality=quality, cost=dollars))
            else:
                waiting.audited.add(rewarded)
        try:
            self._store.add(
                decision.task, rewarded, quality=quality, cost=dollars, discount=self._discount
            )
        except StoreError as error:
            self._failed(error)
        return True

    async def areward(
        self,
        request_id: str,
        *,
        quality: float,
        cost: Decimal | float = 0.0,
        arm: str | None = None,
    ) -> bool:
        """Do what `reward` does without blocking the event loop."""
        return await asyncio.to_thread(self.reward, request_id, quality=quality, cost=cost, arm=arm)

    def beliefs(self, task: str = "") -> dict[str, tuple[float, float]]:
        """Return the mean and the deviation of each arm's value at a task."""
        return {
            arm: (each.value, each.deviation)
            for arm, each in zip(self._arms, self._beliefs(task), strict=True)
        }

    def _decide(self, task: str, name: str | None) -> Decision:
        beliefs: Sequence[Belief] | None = None
        try:
            beliefs = self._beliefs(task)
        except StoreError as error:
            self._failed(error)
        with self._lock:
            shares = (
                np.eye(len(self._arms))[self._base] if beliefs is None else self._shares(beliefs)
            )
            arm = self._arms[self._rng.choice(len(self._arms), p=shares)]
            decision = Decision(
                request_id=name or "",
                task=task,
                arm=arm,
                served=arm if self._mode == "serve" else self._baseline,
                propensities=dict(zip(self._arms, map(float, shares), strict=True)),
                shadow=self._mode == "shadow",
            )
            if name is not None:
                self._open.put(name, _Open(decision))
        return decision

    def _routed(self, decision: Decision) -> Route:
        chance = decision.propensities[decision.arm]
        said = f"learned for {decision.task or 'all tasks'}: {decision.arm} ({chance:.0%})"
        if decision.served != decision.arm:
            said += f", {decision.served} serves"
        return Route(tier=decision.served, reason=said)

    def _beliefs(self, task: str) -> list[Belief]:
        everywhere = self._store.sums("")
        own = self._store.sums(task) if task else everywhere
        return [
            Belief.of(
                own.get(arm, ArmSums()),
                everywhere.get(arm, ArmSums()) if task else ArmSums(),
                price_weight=self._price_weight,
            )
            for arm in self._arms
        ]

    def _shares(self, beliefs: Sequence[Belief]) -> Vector:
        """Return the probability of each arm to be best, as far as it may be chosen."""
        values = np.stack([each.drawn(self._rng, _DRAWS) for each in beliefs], axis=1)
        allowed = [
            arm == self._baseline or self._floor is None or each.upper_quality >= self._floor
            for arm, each in zip(self._arms, beliefs, strict=True)
        ]
        gained = np.array([each.likely_gain(beliefs[self._base]) for each in beliefs])
        return self._budget.kept(best_shares(values, allowed), values, gained, baseline=self._base)

    def _id_of(self, config: RunnableConfig) -> str | None:
        told = (config.get("metadata") or {}).get("request_id")
        if told is None and not self._told_of_ids:
            self._told_of_ids = True
            _LOG.warning(
                "a request without `request_id` in its config's metadata: nothing can be learned "
                "of it, because no reward can name it"
            )
        return None if told is None else str(told)

    def _failed(self, error: StoreError) -> None:
        with self._lock:
            self.failures += 1
            first = self.failures == 1
        if first:
            _LOG.warning(
                "the bandit's store failed; until it works %s serves and rewards are lost: %s",
                self._baseline,
                error,
            )
