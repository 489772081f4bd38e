"""Which deployment is asked next, and what is known of all of them."""

import math
import random
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from langchain_tokenopt.errors import ConfigurationError, TokenOptError
from langchain_tokenopt.routing.deployment import BalanceStats, Deployment, Hedging
from langchain_tokenopt.routing.deployment_fault import Fault, FaultKind
from langchain_tokenopt.routing.deployment_state import DeploymentState, Measure, SharedState


class DeploymentsCoolingError(TokenOptError, RuntimeError):
    """No deployment may be asked now: all that the call may go to are cooling after failures.

    `retry_after_s` is when the first of them may be asked again, `None` if that depends on a call
    in flight; `cooling` holds the seconds of each.
    """

    def __init__(
        self, message: str, *, retry_after_s: float | None, cooling: Mapping[str, float]
    ) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        self.cooling = dict(cooling)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a call showed of a deployment, for the processes that share it."""

    deployment: Deployment
    outcome: Literal["answered", "left"] | FaultKind
    wait_s: float | None
    """For how long the provider wants not to be asked."""
    tests: bool
    measure: Measure
    latency_s: float | None
    in_flight: int
    """Other calls that may yet succeed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Where a call may go."""

    region: str | None
    measure: Measure
    excluded: frozenset[str] = frozenset()

    def without(self, deployment: Deployment) -> "Choice":
        """Return the same choice, but for a deployment."""
        return replace(self, excluded=self.excluded | {deployment.name})


@dataclass(eq=False, slots=True)
class Turn:
    """A call's place at a deployment; it ends once, in one of four ways."""

    _board: "Board"
    deployment: Deployment
    measure: Measure
    began: float
    tests: bool
    """Whether its end says that the deployment may be asked by others again, or not yet."""
    hedge: bool
    beside: int
    """Calls in flight there when this one began."""
    latency_s: float | None = None
    waits: bool = True
    """Until it is measured, or ends without that."""
    ended: bool = False

    def measured(self) -> None:
        """Take the time: the answer is here, or its first token."""
        self._board._measured(self)

    def answered(self) -> Report:
        """End with an answer."""
        return self._board._ended(self, "answered")

    def failed(self, fault: Fault) -> Report:
        """End with a failure of the deployment."""
        return self._board._ended(self, "failed", fault)

    def rejected(self) -> Report:
        """End with an error that says nothing of the deployment."""
        return self._board._ended(self, "rejected")

    def left(self) -> Report:
        """End because nobody waits any more; changes nothing after another end."""
        return self._board._ended(self, "left")


class Board:
    """The state of every deployment of a model, for all threads and event loops of a process."""

    def __init__(
        self,
        deployments: Sequence[Deployment],
        *,
        choices: int,
        hedging: Hedging | None,
        clock: Callable[[], float],
        rng: random.Random,
    ) -> None:
        self._states = {each.name: DeploymentState(each) for each in deployments}
        self._choices, self._hedging = choices, hedging
        self._clock, self._rng = clock, rng
        self._lock = threading.Lock()
        self._saved = 0.0
        self._requests = self._hedges = self._hedges_won = 0

    def request(self) -> None:
        """Count a request, which may ask several deployments."""
        with self._lock:
            self._requests += 1
            if self._hedging is not None:
                self._saved = min(self._saved + self._hedging.most, self._hedging.saved)

    def take(self, choice: Choice) -> Turn | None:
        """Return a turn at the best of some that may be asked, `None` if none may be.

        One that cooled is tried first by a single call.

        Raises:
            ConfigurationError: No deployment is in the region.
        """
        with self._lock:
            now = self._clock()
            free = [state for state in self._candidates(choice) if state.is_free(now)]
            if not free:
                return None
            state = next((state for state in free if state.half_open), None)
            return self._turn(state or self._better(free, choice, now), choice, now)

    def take_soonest(self, choice: Choice) -> Turn | None:
        """Return a turn at the deployment that may be asked soonest, cooling or not."""
        with self._lock:
            now = self._clock()
            candidates = self._candidates(choice)
            if not candidates:
                return None
            state = min(candidates, key=lambda each: (each.cooling_until, each.in_flight))
            return self._turn(state, choice, now)

    def take_hedge(self, first: Turn, choice: Choice) -> Turn | None:
        """Return a turn at another deployment, `None` if none may be asked or no hedge is left."""
        with self._lock:
            if self._saved < 1:
                return None
            now = self._clock()
            free = [
                state
                for state in self._candidates(choice)
                if state.is_free(now)
                and not state.half_open
                and state.deployment is not first.deployment
            ]
            if not free:
                return None
            self._saved -= 1
            self._hedges += 1
            return self._turn(self._better(free, choice, now), choice, now, hedge=True)

    def hedge_after_s(self, turn: Turn) -> float | None:
        """Return after how long the call of a turn is hedged, `None` if it is not."""
        if self._hedging is None or len(self._states) < 2:
            return None
        with self._lock:
            if self._saved < 1:
                return None
            latency = self._states[turn.deployment.name].latency[turn.measure]
            found = latency.quantile_s(
                self._hedging.quantile, measurements=self._hedging.measurements
            )
        return None if found is None else max(found, self._hedging.at_least_s)

    def undo(self, turn: Turn) -> None:
        """Give back a turn whose call was not made."""
        with self._lock:
            state = self._states[turn.deployment.name]
            self._release(state, turn)
            state.calls -= 1
            if turn.hedge:
                state.hedges -= 1
                self._hedges -= 1
                self._saved += 1

    def next_s(self, choice: Choice) -> float | None:
        """Return when one of the deployments that may not be asked now may be.

        `None` if that depends on a call in flight, here or elsewhere; infinity if all are excluded.
        """
        with self._lock:
            states = self._candidates(choice)
            return self._next_s(states, self._clock()) if states else math.inf

    def cooling(self, choice: Choice) -> DeploymentsCoolingError:
        """Return what to raise where no deployment may be asked."""
        with self._lock:
            now = self._clock()
            states = self._candidates(choice)
            cooling = {state.deployment.name: state.cooling_s(now) for state in states}
            soonest = self._next_s(states, now)
        told = ", ".join(
            f"{name} for {seconds:.1f} s" if seconds else f"{name} until a call in flight ends"
            for name, seconds in cooling.items()
        )
        again = "soon" if soonest is None else f"in {soonest:.1f} s"
        where = "" if choice.region is None else f" in region {choice.region!r}"
        message = (
            f"every deployment{where} cools after failures: {told}; try again {again}, wait with "
            'patience_s, add a deployment, or ask one all the same with when_all_cool="soonest"'
        )
        return DeploymentsCoolingError(message, retry_after_s=soonest, cooling=cooling)

    def learn(self, shared: Mapping[str, SharedState], *, asked_at: float) -> None:
        """Take over what all processes know, but for what changed here since they were asked."""
        with self._lock:
            now = self._clock()
            for name, known in shared.items():
                state = self._states[name]
                if state.changed_at <= asked_at:
                    state.learn(known, now)

    def shared(self, deployment: Deployment, *, told: Literal["told", "untold"]) -> None:
        """Note whether others were told of the last change of a deployment."""
        with self._lock:
            self._states[deployment.name].unshared = told == "untold"

    def stats(self, *, shared_failures: int) -> BalanceStats:
        """Return how the deployments stand."""
        with self._lock:
            now = self._clock()
            return BalanceStats(
                requests=self._requests,
                hedges=self._hedges,
                hedges_won=self._hedges_won,
                shared_failures=shared_failures,
                deployments=tuple(state.stats(now) for state in self._states.values()),
            )

    def _candidates(self, choice: Choice) -> list[DeploymentState]:
        states = list(self._states.values())
        if choice.region is not None:
            states = [each for each in states if each.deployment.region == choice.region]
            if not states:
                regions = sorted({s.deployment.region or "" for s in self._states.values()} - {""})
                message = (
                    f"no deployment is in region {choice.region!r}, and a call never leaves its "
                    f"region; there are {', '.join(regions) or 'none with a region'}"
                )
                raise ConfigurationError(message)
        return [each for each in states if each.deployment.name not in choice.excluded]

    def _better(
        self, free: Sequence[DeploymentState], choice: Choice, now: float
    ) -> DeploymentState:
        """Return the one with the least load of some that are chosen at random."""
        few = self._rng.sample(free, min(self._choices, len(free)))
        known = (state.expected_s(choice.measure, now) for state in free)
        # One that was never asked is taken to be as quick as the quickest.
        otherwise_s = min((seconds for seconds in known if seconds is not None), default=1.0)
        return min(few, key=lambda each: each.load(choice.measure, now, otherwise_s=otherwise_s))

    def _turn(
        self, state: DeploymentState, choice: Choice, now: float, *, hedge: bool = False
    ) -> Turn:
        tests = state.half_open or state.cooling_s(now) > 0
        turn = Turn(
            self, state.deployment, choice.measure, now, tests, hedge, beside=state.in_flight
        )
        state.calls += 1
        state.hedges += hedge
        state.in_flight += 1
        state.waiting[choice.measure].add(now)
        if tests and state.probe is None:
            state.probe = turn
        return turn

    def _next_s(self, states: Sequence[DeploymentState], now: float) -> float | None:
        waits = [state.cooling_s(now) for state in states if state.cooling_s(now)]
        return min(waits, default=None)

    def _release(self, state: DeploymentState, turn: Turn) -> None:
        turn.ended = True
        state.in_flight -= 1
        self._waits_no_longer(state, turn)
        if state.probe is turn:
            state.probe = None

    def _waits_no_longer(self, state: DeploymentState, turn: Turn) -> None:
        if turn.waits:
            turn.waits = False
            state.waiting[turn.measure].remove(turn.began)

    def _measured(self, turn: Turn) -> None:
        with self._lock:
            now = self._clock()
            turn.latency_s = now - turn.began
            state = self._states[turn.deployment.name]
            self._waits_no_longer(state, turn)
            state.latency[turn.measure].add(turn.latency_s, now, beside=turn.beside)

    def _ended(
        self,
        turn: Turn,
        how: Literal["answered", "failed", "rejected", "left"],
        fault: Fault | None = None,
    ) -> Report:
        with self._lock:
            now = self._clock()
            state = self._states[turn.deployment.name]
            report = Report(
                deployment=turn.deployment,
                outcome=fault.kind if fault else "answered" if how == "answered" else "left",
                wait_s=fault.wait_s if fault else None,
                tests=turn.tests,
                measure=turn.measure,
                latency_s=turn.latency_s,
                in_flight=state.in_flight - 1,
            )
            if turn.ended:
                return report
            waited = turn.waits
            self._release(state, turn)
            if how == "answered":
                state.answered(now, tests=turn.tests)
            elif how == "failed" and fault is not None:
                state.failed(fault, now, tests=turn.tests)
            elif how == "rejected":
                state.rejected += 1
            else:
                state.abandoned += 1
                if waited:
                    state.latency[turn.measure].add_at_least(
                        now - turn.began, now, beside=turn.beside
                    )
        return report

    def hedge_won(self) -> None:
        """Count a hedge that was answered first."""
        with self._lock:
            self._hedges_won += 1
