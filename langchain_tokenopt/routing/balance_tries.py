"""What became of a request so far, and whether another deployment may be asked."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal

from langchain_tokenopt.routing.balance_board import Board, Choice, Turn
from langchain_tokenopt.routing.balance_race import Missed
from langchain_tokenopt.routing.deployment_fault import Fault

WhenAllCool = Literal["raise", "soonest"]
# How often to look whether the one call that a half-open deployment gets is over.
_LOOK_S = 0.05
_LEAST_WAIT_S = 0.001


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long a request may take to find a deployment, and how many it asks."""

    most_attempts: int
    wait_s: float
    when_all_cool: WhenAllCool
    sleep: Callable[[float], None]
    async_sleep: Callable[[float], Awaitable[None]]


class Tries:
    """What became of a request so far."""

    def __init__(self, choice: Choice, patience: Patience) -> None:
        self.choice = choice
        """Deployments that were not asked yet."""
        self.again = choice
        """Those, and such as had enough for a while."""
        self.last: Missed | None = None
        self.asked: list[str] = []
        self._patience = patience
        self._left_s = patience.wait_s

    @property
    def may_go_on(self) -> bool:
        """Whether another deployment may be asked."""
        return len(self.asked) < self._patience.most_attempts

    @property
    def takes_any(self) -> bool:
        """Whether a deployment that cools may be asked: never after a failure."""
        return self._patience.when_all_cool == "soonest" and not self.asked

    def missed(self, turn: Turn, error: BaseException, fault: Fault | None) -> Missed:
        """Note a failure."""
        self.choice = self.choice.without(turn.deployment)
        if fault is not None and fault.kind != "rate_limited":
            self.again = self.again.without(turn.deployment)
        return Missed(turn=turn, error=error, fault=fault)

    def wait_s(self, next_s: float | None) -> float | None:
        """Return how long to wait for a deployment, `None` to give up."""
        seconds = max(next_s, _LEAST_WAIT_S) if next_s else _LOOK_S
        if seconds > self._left_s:
            return None
        self._left_s -= seconds
        return seconds

    def failure(self, board: Board) -> BaseException:
        """Return what to raise: the last error, with the deployments that were asked."""
        if self.last is None:
            return board.cooling(self.again)
        error = self.last.error
        note = f"deployments asked: {', '.join(self.asked)}"
        if note not in getattr(error, "__notes__", ()):
            error.add_note(note)
        return error
