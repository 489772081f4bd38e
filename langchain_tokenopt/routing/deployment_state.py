"""What a process knows of one deployment: how quick it is, how often it fails, when to ask it.

Nothing here is locked; the board that holds the states does that.
"""

import math
from collections import deque
from dataclasses import dataclass
from typing import Literal

from langchain_tokenopt.routing.deployment import Deployment, DeploymentStats
from langchain_tokenopt.routing.deployment_fault import Fault

Measure = Literal["answer", "first_token"]
"""What a call's latency is measured to: the whole answer, or the first token of a stream."""

# Old answers must not hide an outage, however many there were within the window.
LATEST = 20
# A new latency counts for at least a tenth of the typical one, and old ones are forgotten in time.
_LEAST_WEIGHT = 0.1
_MEMORY_S = 10.0
# The typical latency of a deployment that is not asked fades, so that it is tried again.
_FADES_S = 30.0
_KEPT = 200
# So that a queue counts where no time was measured at all.
_LEAST_S = 0.001


class Latency:
    """How long the calls of a deployment take."""

    def __init__(self) -> None:
        self._typical: float | None = None
        self._beside = 0.0
        self._at = -math.inf
        self._latest: deque[float] = deque(maxlen=_KEPT)

    @property
    def typical_s(self) -> float | None:
        """The mean, the latest calls counting more; `None` if there was none."""
        return self._typical

    def faded_s(self, now: float) -> float | None:
        """Return the typical latency, less the longer ago the last one was measured."""
        if self._typical is None:
            return None
        return self._typical * math.exp(-max(now - self._at, 0.0) / _FADES_S)

    @property
    def beside(self) -> float:
        """How many calls were in flight beside those that the typical latency is of."""
        return self._beside

    def add(self, seconds: float, now: float, *, beside: int = 0) -> None:
        """Learn how long a call took, with so many in flight beside it when it began."""
        self._latest.append(seconds)
        if self._typical is None:
            self._typical, self._beside = seconds, float(beside)
        else:
            new = max(1 - math.exp(-max(now - self._at, 0.0) / _MEMORY_S), _LEAST_WEIGHT)
            self._typical += new * (seconds - self._typical)
            self._beside += new * (beside - self._beside)
        self._at = now

    def add_at_least(self, seconds: float, now: float, *, beside: int) -> None:
        """Learn that a call that was cut short would have taken longer."""
        if self._typical is None or seconds > self._typical:
            self.add(seconds, now, beside=beside)

    def touch(self, now: float) -> None:
        """Do not let the latency fade for what it was used until now."""
        self._at = max(self._at, now)

    def quantile_s(self, quantile: float, *, measurements: int) -> float | None:
        """Return the latency that so many of the calls do not exceed, `None` if too few are known.

        >>> latency = Latency()
        >>> for seconds in range(1, 101):
        ...     latency.add(float(seconds), now=0.0)
        >>> latency.quantile_s(0.95, measurements=20)
        95.0
        """
        if len(self._latest) < measurements:
            return None
        return sorted(self._latest)[math.ceil(quantile * len(self._latest)) - 1]


class Waiting:
    """The calls of a deployment that are not answered yet."""

    def __init__(self) -> None:
        self._calls = 0
        self._began = 0.0

    def add(self, began: float) -> None:
        """Count a call."""
        self._calls += 1
        self._began += began

    def remove(self, began: float) -> None:
        """Count a call no longer."""
        self._calls -= 1
        self._began = self._began - began if self._calls else 0.0

    def least_s(self, now: float) -> float:
        """Return how long a call takes at least, as those show that still wait.

        While calls are answered they have waited for half their time on average, so that this is
        near the usual latency. It grows with the time where none is answered any more.
        """
        return 2 * (self._calls * now - self._began) / (self._calls + 1)


class Outcomes:
    """Which of the latest calls failed."""

    def __init__(self, deployment: Deployment) -> None:
        self._window_s = deployment.window_s
        self._latest: deque[tuple[float, bool]] = deque(maxlen=latest_of(deployment))

    def add(self, *, failed: bool, now: float) -> None:
        """Note a call."""
        self._latest.append((now, failed))

    def counts(self, now: float) -> tuple[int, int]:
        """Return how many of the latest calls were within the window, and how many failed."""
        within = [failed for at, failed in self._latest if at > now - self._window_s]
        return len(within), sum(within)

    def clear(self) -> None:
        """Forget what was noted."""
        self._latest.clear()


def latest_of(deployment: Deployment) -> int:
    """Return how many of its latest calls count: enough to show more failures than are allowed."""
    return max(LATEST, 2 * (deployment.failures_allowed + 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedState:
    """What the processes that share a Redis know of a deployment together."""

    cooling_s: float = 0.0
    half_open: bool = False
    answer_s: float | None = None
    first_token_s: float | None = None


class DeploymentState:
    """Whether a deployment may be asked now, and what speaks for it."""

    def __init__(self, deployment: Deployment) -> None:
        self.deployment = deployment
        self.in_flight = 0
        self.half_open = False
        self.probe: object | None = None
        """The one call that may be made while it is half open."""
        self.waiting: dict[Measure, Waiting] = {"answer": Waiting(), "first_token": Waiting()}
        self.latency: dict[Measure, Latency] = {"answer": Latency(), "first_token": Latency()}
        self.outcomes = Outcomes(deployment)
        self.calls = self.answers = self.failures = self.rejected = self.abandoned = 0
        self.rate_limited = self.hedges = self.cooldowns = 0
        self.cooling_until = self.changed_at = self._told_until = -math.inf
        self.unshared = False
        """Whether others have not been told of the last change."""
        self._shared = SharedState()

    def cooling_s(self, now: float) -> float:
        """Return how long it still cools."""
        return max(self.cooling_until - now, 0.0)

    def is_free(self, now: float) -> bool:
        """Return whether it may be asked."""
        return now >= self.cooling_until and not (self.half_open and self.probe is not None)

    def load(self, measure: Measure, now: float, *, otherwise_s: float) -> float:
        """Return what is to be feared of another call: less is better.

        Calls in flight count with the latency as far as they are more than those that it was
        measured beside, and so do failures that did not suffice to cool it.
        """
        expected_s = self.expected_s(measure, now)
        if expected_s is None:
            expected_s = otherwise_s
        calls, failed = self.outcomes.counts(now)
        usual = self.latency[measure].beside
        queue = max((self.in_flight + 1) / (usual + 1), 1.0)
        mine = self.deployment
        feared_s = max(expected_s, _LEAST_S) * queue * (calls + 1) / (calls - failed + 1)
        return feared_s * mine.relative_cost / mine.weight

    def expected_s(self, measure: Measure, now: float) -> float | None:
        """Return how long a call will take, `None` if nothing is known."""
        own = self.latency[measure]
        if self.in_flight:
            own.touch(now)
        known = own.faded_s(now)
        if known is None:
            shared = self._shared
            known = shared.answer_s if measure == "answer" else shared.first_token_s
        return None if known is None else max(known, self.waiting[measure].least_s(now))

    def answered(self, now: float, *, tests: bool) -> None:
        """Take notice of an answer; of one that `tests` the deployment if it was asked to."""
        self.answers += 1
        self.outcomes.add(failed=False, now=now)
        if tests:
            self.half_open = False
            self.cooling_until = self._told_until = -math.inf
            self.changed_at = now
            self.outcomes.clear()

    def failed(self, fault: Fault, now: float, *, tests: bool) -> None:
        """Take notice of a failure, and cool if it is one too many."""
        self.failures += 1
        self.outcomes.add(failed=True, now=now)
        mine = self.deployment
        if fault.kind == "rate_limited":
            self.rate_limited += 1
        if fault.wait_s is not None:
            # The provider says when to come back: all may then.
            wait_s = min(fault.wait_s, mine.longest_wait_s)
            self._told_until = max(self._told_until, now + wait_s)
            self._cool(wait_s, now, half_open=self.half_open)
        elif tests:
            self._cool(mine.cooldown_s, now, half_open=True)
        elif self.cooling_s(now) or self.half_open:
            return  # a call that was begun before
        elif fault.kind == "rate_limited" or self._too_many(now):
            self._cool(mine.cooldown_s, now, half_open=True)

    def learn(self, shared: SharedState, now: float) -> None:
        """Take over what all processes know together."""
        self._shared = shared
        until = now + shared.cooling_s if shared.cooling_s else -math.inf
        # What a provider told this process holds, even if a Redis lost its memory.
        until = max(until, self._told_until)
        if self.unshared and until <= self.cooling_until:
            return
        if until > now and not self.cooling_s(now):
            self.cooldowns += 1
        closes = (self.half_open or self.cooling_s(now) > 0) and not shared.half_open
        if closes and until <= now:
            self.outcomes.clear()
        self.cooling_until, self.half_open = until, shared.half_open

    def stats(self, now: float) -> DeploymentStats:
        """Return how it stands."""
        return DeploymentStats(
            name=self.deployment.name,
            region=self.deployment.region,
            in_flight=self.in_flight,
            calls=self.calls,
            answers=self.answers,
            failures=self.failures,
            rejected=self.rejected,
            abandoned=self.abandoned,
            rate_limited=self.rate_limited,
            hedges=self.hedges,
            cooldowns=self.cooldowns,
            cooling_s=self.cooling_s(now),
            half_open=self.half_open,
            answer_s=self.latency["answer"].typical_s,
            first_token_s=self.latency["first_token"].typical_s,
        )

    def _too_many(self, now: float) -> bool:
        calls, failed = self.outcomes.counts(now)
        mine = self.deployment
        # In a burst the failures come first, being quicker: the calls in flight may well succeed.
        calls += self.in_flight
        return failed > mine.failures_allowed and failed >= mine.failure_share * calls

    def _cool(self, seconds: float, now: float, *, half_open: bool) -> None:
        if not self.cooling_s(now):
            self.cooldowns += 1
        self.cooling_until = max(self.cooling_until, now + seconds)
        self.half_open = half_open
        self.changed_at = now
