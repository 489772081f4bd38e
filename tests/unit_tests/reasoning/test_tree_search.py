"""The tree and its searches, and how proposals and scores are read."""

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_tokenopt.calls import Room
from langchain_tokenopt.errors import ConfigurationError
from langchain_tokenopt.reasoning.tree_prompting import (
    read_scores,
    read_thoughts,
    written_candidates,
)
from langchain_tokenopt.reasoning.tree_search import (
    Beam,
    DepthFirst,
    Plan,
    Thought,
    best_leaf,
    children,
    marked_duplicates,
    path_to,
    payable_expansions,
    proposed,
    ranked,
)

LINES = st.text(st.characters(codec="ascii", categories=["L", "N", "P", "Zs"]), min_size=1).filter(
    lambda text: text == text.strip() and bool(text)
)
SCORES = st.one_of(st.none(), st.integers(0, 100).map(lambda tenths: tenths / 10))


def scored(*scores: float | None) -> list[Thought]:
    found = proposed("", (f"thought {number}" for number, _ in enumerate(scores)))
    return [
        Thought(id=each.id, parent="", text=each.text, score=score)
        for each, score in zip(found, scores, strict=True)
    ]


def tree_of(*thoughts: Thought) -> dict[str, Thought]:
    return {thought.id: thought for thought in thoughts}


# --- reading ----------------------------------------------------------------------------------


@given(st.lists(LINES, min_size=1, max_size=12))
def test_numbered_thoughts_come_back_as_they_were(texts: list[str]) -> None:
    written = "\n".join(f"{number}. {text}" for number, text in enumerate(texts, start=1))

    assert read_thoughts(f"Here are some:\n{written}\n\nThat is all.") == texts


@pytest.mark.parametrize(
    ("text", "thoughts"),
    [
        ("1) a\n2) b", ["a", "b"]),
        ("- a\n* b\n\u2022 c", ["a", "b", "c"]),
        ("**1.** a\n**2.** b", ["a", "b"]),
        ("1. a\n\n2. b", ["a", "b"]),
        ("1. a\n   - detail\n2. b", ["a\n- detail", "b"]),
        ("1. a\n24.5 is too much", ["a\n24.5 is too much"]),
        ("- a\n1. b", ["a\n1. b"]),
        ("1. a\n2.\n3. b", ["a", "b"]),
        ("**1. Add:** a\n**2. Take:** b", ["**Add:** a", "**Take:** b"]),
        ("I cannot help with that.", []),
        ("", []),
    ],
)
def test_only_items_of_the_list_are_thoughts(text: str, thoughts: list[str]) -> None:
    assert read_thoughts(text) == thoughts


@given(st.lists(st.integers(0, 100), min_size=1, max_size=30))
def test_scores_come_back_as_they_were(tenths: list[int]) -> None:
    scores = {number: tenth / 10 for number, tenth in enumerate(tenths, start=1)}
    text = "\n".join(f"{number}: {score}" for number, score in scores.items())

    assert read_scores(text, len(tenths)) == scores


@pytest.mark.parametrize(
    ("text", "scores"),
    [
        ("1. 7\n2) 8 \n(3) 9", {1: 7, 2: 8, 3: 9}),
        ("**1**: 7/10\nCandidate 2: 8 - strong\nstep 3 = 0", {1: 7, 2: 8, 3: 0}),
        ("1: 70%\n2: 11\n3: 3/4", {}),
        ("1: -3\n2: good\n3:", {}),
        ("1: 5\n1: 6\n2: 7\n2: 7", {2: 7}),
        ("0: 5\n4: 5\n1.5", {}),
        ("7", {}),
        ("All look fine.", {}),
    ],
)
def test_a_score_that_cannot_be_read_is_missing_and_not_zero(
    text: str, scores: dict[int, float]
) -> None:
    assert read_scores(text, 3) == scores


@pytest.mark.parametrize("text", ["7", "1: 7", " 7/10. ", "Score: 7", "**7**"])
def test_a_single_candidates_score_needs_no_number(text: str) -> None:
    assert read_scores(text, 1) == {1: 7}


def test_siblings_are_shown_under_the_steps_that_they_share_once() -> None:
    first, second = proposed("", ["a", "b"])
    below = [*proposed("1", ["c", "d"]), *proposed("2", ["e"])]
    tree = tree_of(first, second, *below)

    assert written_candidates(tree, below) == (
        "Steps so far:\na\nCandidates:\n1. c\n2. d\n\nSteps so far:\nb\nCandidates:\n3. e"
    )


# --- the tree ---------------------------------------------------------------------------------


@given(st.permutations([*range(12)]))
def test_children_are_in_the_order_of_their_parents_whatever_came_first(order: list[int]) -> None:
    roots = proposed("", ["a", "b"])
    below = [*proposed("1", "cdefg"), *proposed("2", "hijkl")]
    thoughts = [*roots, *below]
    tree = tree_of(*(thoughts[index] for index in order))

    assert [thought.text for thought in children(tree, ["2", "1"])] == list("hijklcdefg")


def test_the_tenth_child_follows_the_ninth() -> None:
    tree = tree_of(*proposed("", map(str, range(1, 12))))

    assert [thought.id for thought in children(tree, [""])] == [str(n) for n in range(1, 12)]


def test_a_path_leads_from_the_question_to_the_thought() -> None:
    tree = tree_of(*proposed("", "ab"), *proposed("2", "cd"))

    assert path_to(tree, "2.1") == ("b", "c")
    assert path_to(tree, "") == ()


@given(st.lists(st.sampled_from("abc"), max_size=8), st.lists(st.sampled_from("abc"), max_size=8))
def test_every_state_is_kept_once_in_the_whole_tree(above: list[str], below: list[str]) -> None:
    roots = marked_duplicates({}, proposed("", above), lambda thought: thought.text)
    tree = tree_of(*roots)
    leaves = marked_duplicates(tree, proposed("1", below), lambda thought: thought.text)

    kept = [thought.text for thought in [*roots, *leaves] if thought.fate == "thought"]
    assert sorted(kept) == sorted({*above, *below})


@given(st.lists(SCORES))
def test_thoughts_are_ranked_by_score_and_those_without_come_last(
    scores: list[float | None],
) -> None:
    order = [thought.score for thought in ranked(scored(*scores))]

    known = [score for score in order if score is not None]
    assert order == [*sorted(known, reverse=True), *([None] * (len(order) - len(known)))]


def test_equal_scores_keep_their_order() -> None:
    assert [thought.id for thought in ranked(scored(5, 7, 5, 7))] == ["2", "4", "1", "3"]


def test_the_best_leaf_is_deep_alive_and_scores_high() -> None:
    roots = scored(9, 8)
    dead = Thought(id="1.1", parent="1", text="x", fate="dead", score=10)
    note = Thought(id="2.0", parent="2", text="down", fate="failed")

    assert best_leaf({}) is None
    assert best_leaf(tree_of(*roots)) == roots[0]
    assert best_leaf(tree_of(*roots, dead)) == roots[1]
    assert best_leaf(tree_of(*roots, dead, note)) == roots[1]
    assert best_leaf(tree_of(*roots, *proposed("2", "a"))) == proposed("2", "a")[0]
    assert best_leaf(tree_of(*roots), depth=2) is None


def test_of_leaves_without_scores_the_better_parents_is_best() -> None:
    tree = tree_of(*scored(5, 9), *proposed("1", "a"), *proposed("2", "b"))

    leaf = best_leaf(tree)

    assert leaf is not None
    assert leaf.text == "b"


# --- searches ---------------------------------------------------------------------------------


@given(st.lists(SCORES, max_size=9), st.integers(1, 4), st.one_of(st.none(), st.integers(1, 4)))
def test_a_beam_keeps_the_best_that_the_budget_can_pay(
    scores: list[float | None], width: int, payable: int | None
) -> None:
    best = ranked(scored(*scores))

    plan = Beam(width).plan(best, (), payable)

    kept = min(width, payable or width)
    assert plan == Plan(expand=tuple(thought.id for thought in best[:kept]))


@pytest.mark.parametrize(
    ("count", "last", "payable", "needed"),
    [(3, False, None, False), (4, False, None, True), (3, False, 2, True), (2, True, None, True)],
)
def test_a_beam_asks_for_scores_only_where_they_choose(
    count: int, last: bool, payable: int | None, needed: bool
) -> None:
    assert Beam(3).needs_scores(count, last=last, payable=payable) is needed
    assert not Beam(3).needs_scores(1, last=last, payable=payable)


def test_depth_first_goes_on_from_the_best_and_leaves_out_what_is_below_the_threshold() -> None:
    best = ranked(scored(6, 9, 4, None))

    plan = DepthFirst(threshold=5).plan(best, ("7",), None)

    assert plan == Plan(expand=("2",), waiting=("1", "4", "7"))
    assert DepthFirst().plan([], ("7", "8"), None) == Plan(expand=("7",), waiting=("8",))
    assert DepthFirst().plan([], (), None) == Plan(expand=())


def test_depth_first_accepts_what_reaches_the_threshold() -> None:
    low, high, unknown = scored(4.9, 5, None)
    search = DepthFirst(threshold=5)

    assert [search.accepts(leaf) for leaf in (low, high, unknown)] == [False, True, False]


@pytest.mark.parametrize(
    "make",
    [
        lambda: Beam(0),
        lambda: DepthFirst(threshold=11),
        lambda: DepthFirst(threshold=-1),
        lambda: DepthFirst(max_expansions=0),
    ],
)
def test_a_search_that_finds_nothing_is_refused(make: Any) -> None:
    with pytest.raises(ConfigurationError, match="got"):
        make()


@pytest.mark.parametrize(
    ("room", "payable"),
    [
        (Room(), None),
        (Room(tokens=1_000), 2),
        (Room(tokens=10), 1),
        (Room(calls=5), 4),
        (Room(calls=0), 1),
        (Room(dollars=Decimal("0.05")), 9),
        (Room(tokens=1_000, calls=3, dollars=Decimal("0.05")), 2),
    ],
)
def test_what_expansions_have_cost_tells_how_many_a_budget_can_pay(
    room: Room, payable: int | None
) -> None:
    assert payable_expansions(room, expansions=2, tokens=600, dollars=Decimal("0.01")) == payable


def test_expansions_that_cost_nothing_limit_nothing() -> None:
    room = Room(tokens=1_000, dollars=Decimal(1))

    assert payable_expansions(room, expansions=2, tokens=0, dollars=Decimal(0)) is None
    assert payable_expansions(room, expansions=2, tokens=0, dollars=Decimal(-1)) is None
