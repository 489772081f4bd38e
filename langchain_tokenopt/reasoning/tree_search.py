"""A tree of thoughts and how it is searched, without models: order, duplicates, beam, stack, best.

Nothing here depends on the order in which parallel expansions come back: a thought's id says where
it stands, `2.1` being the first that was proposed after the second thought.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Literal, Protocol, TypeAlias

from langchain_tokenopt.calls.room import Room
from langchain_tokenopt.errors import ConfigurationError

Fate: TypeAlias = Literal[
    "thought", "solved", "dead", "duplicate", "failed", "refused", "unreadable"
]
"""What became of a thought; the last three are notes on an expansion that gave none."""

NOTES: frozenset[Fate] = frozenset({"failed", "refused", "unreadable"})
BEST_SCORE = 10.0
"""Scores are from 0, which cannot lead to a solution, to this, which surely does."""


@dataclass(frozen=True, slots=True)
class ThoughtPath:
    """A question and the thoughts that lead from it, as checks and `state_key` get them."""

    question: str
    thoughts: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Thought:
    """A node of the tree."""

    id: str
    parent: str
    """Id of the thought that it was proposed after, empty for the question."""
    text: str
    fate: Fate = "thought"
    score: float | None = None
    """`None` if it was not scored: nothing depended on it, or no score could be had."""
    key: str | None = None
    """What `state_key` gave for it."""

    @property
    def place(self) -> tuple[int, ...]:
        """Its rank among its siblings, after those of its ancestors."""
        return tuple(map(int, self.id.split(".")))

    @property
    def depth(self) -> int:
        """How many thoughts its path has."""
        return self.id.count(".") + 1


Tree: TypeAlias = Mapping[str, Thought]


def proposed(parent: str, texts: Iterable[str]) -> list[Thought]:
    """Return the thoughts that were proposed after a parent.

    >>> [thought.id for thought in proposed("2", ["a", "b"])]
    ['2.1', '2.2']
    """
    return [
        Thought(id=child_id(parent, rank), parent=parent, text=text)
        for rank, text in enumerate(texts, start=1)
    ]


def child_id(parent: str, rank: int) -> str:
    """Return the id of a child; rank 0 is for a note on the expansion itself."""
    return f"{parent}.{rank}" if parent else str(rank)


def children(tree: Tree, parents: Sequence[str]) -> list[Thought]:
    """Return what was proposed after the parents, in their order and then by rank."""
    order = {parent: number for number, parent in enumerate(parents)}
    found = (thought for thought in tree.values() if thought.parent in order)
    return sorted(found, key=lambda thought: (order[thought.parent], thought.place))


def path_to(tree: Tree, thought_id: str) -> tuple[str, ...]:
    """Return the texts from the first thought to this one; none for the question itself."""
    texts = []
    while thought_id:
        texts.append(tree[thought_id].text)
        thought_id = tree[thought_id].parent
    return tuple(reversed(texts))


def marked_duplicates(
    tree: Tree, fresh: Sequence[Thought], key: Callable[[Thought], str]
) -> list[Thought]:
    """Return new thoughts with their keys; one whose key is known in the tree is a duplicate."""
    known = {thought.key for thought in tree.values() if thought.key is not None}
    marked = []
    for thought in fresh:
        found = key(thought)
        fate: Fate = "duplicate" if found in known else thought.fate
        known.add(found)
        marked.append(replace(thought, key=found, fate=fate))
    return marked


def ranked(thoughts: Iterable[Thought]) -> list[Thought]:
    """Return the best score first, those without one last, and otherwise keep the order."""
    return sorted(thoughts, key=_standing)


def best_leaf(tree: Tree, *, depth: int | None = None) -> Thought | None:
    """Return the deepest thought that was not gone on from, the best score first.

    Args:
        tree: All thoughts; what is dead or a duplicate is no leaf, and what only led to
            duplicates is one.
        depth: Takes only leaves at this depth.
    """
    passed = NOTES | {"duplicate"}
    parents = {thought.parent for thought in tree.values() if thought.fate not in passed}

    def standing(leaf: Thought) -> tuple[object, ...]:
        above = [_standing(tree[leaf.parent])] if leaf.parent else []
        return (-leaf.depth, _standing(leaf), above, leaf.place)

    leaves = (
        thought
        for thought in tree.values()
        if thought.fate == "thought"
        and thought.id not in parents
        and depth in (None, thought.depth)
    )
    return min(leaves, key=standing, default=None)


def _standing(thought: Thought) -> tuple[bool, float]:
    return (thought.score is None, -(thought.score or 0.0))


# --- searches ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is expanded next, and what waits for its turn; ids, the best first."""

    expand: tuple[str, ...]
    waiting: tuple[str, ...] = ()


class Search(Protocol):
    """An order in which a tree is searched."""

    @property
    def max_expansions(self) -> int | None:
        """How many thoughts are expanded at most, `None` for as many as there are."""
        ...

    def needs_scores(self, count: int, *, last: bool, payable: int | None) -> bool:
        """Return whether scores of `count` new thoughts can change what is done next."""
        ...

    def plan(self, best: Sequence[Thought], waiting: Sequence[str], payable: int | None) -> Plan:
        """Return what follows, given the new thoughts, the best first, and what waited before.

        `payable` is how many expansions the budget has room for, `None` if nothing limits them.
        """
        ...

    def accepts(self, leaf: Thought) -> bool:
        """Return whether a leaf's score ends the search where there is no check."""
        ...


@dataclass(frozen=True, slots=True)
class Beam:
    """Breadth first: of every level, expand the best thoughts.

    A level is not scored where all its thoughts are expanded anyway.
    """

    width: int = 5

    def __post_init__(self) -> None:
        """Refuse a width that finds nothing."""
        if self.width < 1:
            raise ConfigurationError(f"a beam is at least 1 wide, got {self.width}")

    @property
    def max_expansions(self) -> int | None:
        """Nothing but the depth limits them."""
        return None

    def needs_scores(self, count: int, *, last: bool, payable: int | None) -> bool:
        """Return whether there are more thoughts than are kept."""
        return count > (1 if last else self._kept(payable))

    def plan(self, best: Sequence[Thought], waiting: Sequence[str], payable: int | None) -> Plan:
        """Return the best of the level."""
        return Plan(expand=tuple(thought.id for thought in best[: self._kept(payable)]))

    def accepts(self, leaf: Thought) -> bool:
        """Accept nothing before its whole level was compared."""
        return False

    def _kept(self, payable: int | None) -> int:
        return self.width if payable is None else min(self.width, payable)


@dataclass(frozen=True, slots=True, kw_only=True)
class DepthFirst:
    """Depth first: go on from the best new thought, and turn back where none is good enough.

    Args:
        threshold: Thoughts that score below it are not gone on from. One without a score is, after
            its siblings.
        max_expansions: Ends the search.
    """

    threshold: float = 5.0
    max_expansions: int | None = 50

    def __post_init__(self) -> None:
        """Refuse limits that cannot be met."""
        if not 0 <= self.threshold <= BEST_SCORE:
            message = f"a threshold is a score from 0 to {BEST_SCORE:g}, got {self.threshold}"
            raise ConfigurationError(message)
        if self.max_expansions is not None and self.max_expansions < 1:
            message = f"max_expansions is at least 1 or None, got {self.max_expansions}"
            raise ConfigurationError(message)

    def needs_scores(self, count: int, *, last: bool, payable: int | None) -> bool:
        """Return whether there is anything to hold against the threshold."""
        return count > 0

    def plan(self, best: Sequence[Thought], waiting: Sequence[str], payable: int | None) -> Plan:
        """Return the best new thought, else the one that waited for the shortest time."""
        good = [
            thought.id
            for thought in best
            if thought.score is None or thought.score >= self.threshold
        ]
        stack = (*good, *waiting)
        return Plan(expand=stack[:1], waiting=stack[1:])

    def accepts(self, leaf: Thought) -> bool:
        """Accept a leaf that reaches the threshold."""
        return leaf.score is not None and leaf.score >= self.threshold


def payable_expansions(
    room: Room, *, expansions: int, tokens: int, dollars: Decimal | None = None
) -> int | None:
    """Return how many expansions a budget has room for, one at least; `None` without a limit.

    An expansion is taken to cost what those before it did on average, scoring included. Room for
    one more is kept for the scores of what comes next, which may not have been paid for yet.

    >>> payable_expansions(Room(tokens=1_000), expansions=2, tokens=600)
    2
    """
    limits = [] if room.calls is None else [room.calls]
    if room.tokens is not None and tokens > 0:
        limits.append(room.tokens * expansions // tokens)
    if room.dollars is not None and dollars is not None and dollars > 0:
        limits.append(int(room.dollars * expansions / dollars))
    return max(1, min(limits) - 1) if limits else None
