"""The state of a tree of thoughts' graph, and one level of it while it is judged."""

from collections.abc import Iterable
from dataclasses import asdict
from decimal import Decimal
from typing import Annotated, Any

from langchain_tokenopt.calls import Room
from langchain_tokenopt.reasoning.result import ReasoningUsage, StepUsage, TraceStep
from langchain_tokenopt.reasoning.technique import TechniqueState
from langchain_tokenopt.reasoning.tree_search import (
    NOTES,
    Thought,
    children,
    payable_expansions,
)


def _merged(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    return {**one, **other}


class TreeState(TechniqueState):
    """State of a tree of thoughts."""

    thoughts: Annotated[dict[str, dict[str, Any]], _merged]
    """The tree, each `Thought` as plain data by its id, so that it matters not which came first."""
    frontier: list[str]
    """Ids of what is expanded next, the best first; "" is the question."""
    waiting: list[str]
    """Ids of what a depth-first search may come back to, the next one first."""
    expansions: int
    dollars: str | None
    """What a budget had left before the first call."""


class Level:
    """What came of expanding the frontier, as far as it is judged."""

    def __init__(self, state: TreeState) -> None:
        self.state = state
        self.tree = tree_of(state)
        self.rows: list[dict[str, Any]] = []
        self.expansions = state["expansions"] + len(state["frontier"])
        self._ids = [thought.id for thought in children(self.tree, state["frontier"])]

    @property
    def came(self) -> list[Thought]:
        """All thoughts and notes of the level, those of the best parent first."""
        return [self.tree[each] for each in self._ids]

    @property
    def open(self) -> list[Thought]:
        """The thoughts that can be gone on from."""
        return [thought for thought in self.came if thought.fate == "thought"]

    @property
    def refusal(self) -> str | None:
        """Why a budget refused an expansion, if nothing came of the others either."""
        came = self.came
        if any(thought.fate not in NOTES for thought in came):
            return None
        return next((note.text for note in came if note.fate == "refused"), None)

    @property
    def all_failed(self) -> bool:
        """Whether every call failed."""
        return all(thought.fate == "failed" for thought in self.came)

    def put(self, thoughts: Iterable[Thought]) -> None:
        """Take in what is known of the thoughts now."""
        self.tree |= {thought.id: thought for thought in thoughts}

    def payable(self, room: Room) -> int | None:
        """Return how many expansions a budget with this room can pay, `None` for any number."""
        rows = [*self.state["usage"], *self.rows]
        usage = ReasoningUsage.of(StepUsage.model_validate(row) for row in rows)
        before, now = self.state["dollars"], room.dollars
        return payable_expansions(
            room,
            expansions=self.expansions,
            tokens=usage.total.total_tokens,
            # The budget may be shared; what others spent makes the estimate higher, not lower.
            dollars=None if before is None or now is None else Decimal(before) - now,
        )

    @property
    def trace(self) -> list[dict[str, Any]]:
        """The level's `TraceStep`s."""
        return [step_of(thought) for thought in self.came]

    @property
    def update(self) -> dict[str, Any]:
        """The change of the state."""
        return {
            "thoughts": plain(self.came),
            "trace": self.trace,
            "usage": self.rows,
            "expansions": self.expansions,
        }


def tree_of(state: TreeState) -> dict[str, Thought]:
    """Return the thoughts of a state."""
    return {key: Thought(**fields) for key, fields in state["thoughts"].items()}


def plain(thoughts: Iterable[Thought]) -> dict[str, dict[str, Any]]:
    """Return thoughts as the state keeps them."""
    return {thought.id: asdict(thought) for thought in thoughts}


def step_of(thought: Thought) -> dict[str, Any]:
    """Return a thought as a `TraceStep`, in plain data."""
    uses = (thought.parent,) if thought.parent else ()
    return TraceStep(
        id=thought.id, step=thought.fate, text=thought.text, uses=uses, score=thought.score
    ).model_dump()
