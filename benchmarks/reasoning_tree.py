"""Game of 24: what does a tree of thoughts cost if states are seen once and sums are checked?

`TreeOfThoughts` runs over recorded breadth-first searches of GPT-4 (tree-of-thought-llm of
princeton-nlp, beam 5, three value samples a candidate): it gets the recorded next steps of a path
and the recorded values of a candidate, and nothing that was not recorded. A path that the recorded
search did not expand gives no steps; how many there were is in the table. A puzzle is solved if the
steps that are returned make 24 of its numbers.

Tokens: a call has the published prompt's length (counted once, in cl100k) with its numbers and what
was written; how often the recorded run asked for values, and how long they were, follows from what
its totals leave when the proposals are taken away. It kept values for all puzzles, and so do ours,
but in the row that says otherwise.

Intervals are 95%, bootstrapped over the puzzles. Needs `--data` or TOKENOPT_DATA.
"""

import argparse
import gzip
import json
import os
import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, UsageMetadata
from langchain_core.prompts import ChatPromptTemplate
from measure import table

from langchain_tokenopt import counter_for
from langchain_tokenopt.reasoning.tree_of_thoughts import TreeOfThoughts
from langchain_tokenopt.reasoning.tree_search import Beam, ThoughtPath
from langchain_tokenopt.testing import ScriptedModel

SEARCHES = "tot_gpt4_game24_bfs_b5_dev.jsonl.gz"
SAMPLES = {
    "best of 100 samples": "ms_tot_gpt4_game24_standard_100_dev.jsonl.gz",
    "best of 100 chains of thought": "ms_tot_gpt4_game24_cot_100_dev.jsonl.gz",
}
# Tokens of the published prompts without their numbers, and of a message around them.
PROPOSE, VALUE, ANSWER, MESSAGE = 159, 354, 422, 7
VALUE_SAMPLES, BEST_VALUE = 3, 60.0
COUNT = counter_for("gpt-4").count_text
NUMBER = r"-?\d+(?:\.\d+)?(?:/\d+)?"
STEP = re.compile(
    rf"\s*\(?({NUMBER})\)?\s*([-+*/])\s*\(?({NUMBER})\)?\s*=\s*({NUMBER}).*?left:\s*([^)]*)\)"
)


@dataclass
class Puzzle:
    """A recorded search, as far as it can be replayed."""

    numbers: str
    steps: dict[tuple[str, ...], list[str]] = field(default_factory=dict)
    values: dict[tuple[str, ...], float] = field(default_factory=dict)
    total: int = 0
    solved: bool = False
    value_tokens: float = 0.0
    """Of the completions that value one candidate."""


@dataclass
class Bill:
    """What a replay used, and what it could not be told."""

    tokens: float = 0.0
    missing: int = 0
    valued: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class Run:
    """What came of a puzzle."""

    solved: bool
    tokens: float
    missing: int = 0


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a small run, for CI")
    default = os.environ.get("TOKENOPT_DATA") or Path(__file__).parents[2] / "shared" / "data"
    parser.add_argument("--data", type=Path, default=Path(default))
    given = parser.parse_args()
    folder = given.data / "reasoning"
    if not (folder / SEARCHES).exists():
        print(f"no recorded data in {given.data}; point --data or TOKENOPT_DATA at it")
        return
    most = 8 if given.quick else 1_000
    puzzles = [puzzle_of(row) for row in rows(folder / SEARCHES)[:most]]
    found = {
        name: [
            Run(any(row["rewards"]), sum(row["usage"].values()))
            for row in rows(folder / file)[:most]
        ]
        for name, file in SAMPLES.items()
    }
    found["recorded search"] = [Run(each.solved, each.total) for each in puzzles]
    for name, options in ways().items():
        found[name] = play(puzzles, **options)
    base = sum(run.tokens for run in found["recorded search"]) / len(puzzles)
    lines = [
        [
            name,
            shown([100.0 * run.solved for run in runs], "{:.1f}%"),
            shown([run.tokens for run in runs], "{:,.0f}"),
            f"{sum(run.tokens for run in runs) / len(runs) / base:.0%}",
            str(sum(run.missing for run in runs)),
        ]
        for name, runs in found.items()
    ]
    title = f"{len(puzzles)} puzzles"
    table(title, ["way", "solved", "tokens a puzzle", "of the recorded", "not recorded"], lines)


def ways() -> dict[str, dict[str, Any]]:
    """Return the options of each replay."""
    return {
        "TreeOfThoughts": {},
        "without dedupe": {"state_key": lambda path: "\n".join(path.thoughts)},
        "check says solved only": {"check": only("solved")},
        "check says dead only (no early stop)": {"check": only("dead")},
        "without a check": {"check": None},
        "values not kept between puzzles": {"kept": False},
        "a level scored in one call (estimate)": {"batched": True},
    }


def play(
    puzzles: Sequence[Puzzle], *, kept: bool = True, batched: bool = False, **options: Any
) -> list[Run]:
    """Search every puzzle."""
    known: set[str] = set()
    runs = []
    for puzzle in puzzles:
        bill = Bill(valued=known if kept else set())
        tree = TreeOfThoughts(
            ScriptedModel([proposer(puzzle, bill)], when_exhausted="repeat_last"),
            depth=3,
            count=12,
            search=Beam(5),
            scorer=ScriptedModel([scorer(puzzle, bill, batched)], when_exhausted="repeat_last"),
            propose_prompt=ChatPromptTemplate([("user", "{steps}")]),
            score_prompt=ChatPromptTemplate([("user", "{candidates}")]),
            read=str.splitlines,
            **{"check": verdict, "state_key": state_of, **options},
        )
        result = tree.invoke(puzzle.numbers, {"max_concurrency": 1})
        path = ThoughtPath(puzzle.numbers, tuple(result.text.splitlines()))
        runs.append(Run(verdict(path) == "solved", bill.tokens, bill.missing))
    return runs


def proposer(puzzle: Puzzle, bill: Bill) -> Callable[[list[BaseMessage]], AIMessage]:
    """Return a model that proposes what was recorded after the steps that it is shown."""

    def propose(messages: list[BaseMessage]) -> AIMessage:
        shown_steps = str(messages[-1].text)
        path = () if shown_steps == "(none)" else tuple(shown_steps.splitlines())
        steps = puzzle.steps.get(path)
        if steps is None:
            bill.missing += 1
            return AIMessage("")
        written = "\n".join(steps)
        read = PROPOSE + MESSAGE + COUNT(left_of(path, puzzle.numbers))
        return billed(bill, written, read=read, wrote=COUNT(written))

    return propose


def scorer(puzzle: Puzzle, bill: Bill, batched: bool) -> Callable[[list[BaseMessage]], AIMessage]:
    """Return a model that scores candidates with their recorded values, each state paid once."""

    def score(messages: list[BaseMessage]) -> AIMessage:
        lines, before, read, wrote, new = [], (), 0.0, 0.0, 0
        for line in str(messages[-1].text).splitlines():
            number, _, step = line.partition(". ")
            if line in ("Steps so far:", "Candidates:", "(none)", "", "Scores:"):
                before = () if line == "Steps so far:" else before
                continue
            if not number.isdigit():
                before = (*before, line)
                continue
            path = (*before, step)
            lines.append(f"{number}: {10 * puzzle.values[path] / BEST_VALUE:.4f}")
            state = left_of(path, puzzle.numbers)
            if state not in bill.valued:
                bill.valued.add(state)
                new += 1
                read += COUNT(state) + (0 if batched else VALUE + MESSAGE)
                wrote += puzzle.value_tokens
        if batched and new:
            read += VALUE + MESSAGE
        return billed(bill, "\n".join(lines), read=read, wrote=wrote)

    return score


def billed(bill: Bill, text: str, *, read: float, wrote: float) -> AIMessage:
    """Return an answer with what it used."""
    bill.tokens += read + wrote
    usage = UsageMetadata(
        input_tokens=round(read), output_tokens=round(wrote), total_tokens=round(read + wrote)
    )
    return AIMessage(text, usage_metadata=usage)


def verdict(path: ThoughtPath) -> Any:
    """Return whether steps make 24 of the numbers, cannot, or may yet."""
    left = Counter(map(Fraction, path.question.split()))
    for step in path.thoughts:
        found = STEP.match(step)
        if found is None:
            return "dead"
        one, two, result = map(Fraction, (found[1], found[3], found[4]))
        if result != calculated(one, found[2], two):
            return "dead"
        left.subtract([one, two])
        if any(number < 0 for number in left.values()):
            return "dead"
        left[result] += 1
        if +Counter(left) != fractions(found[5]):
            return "dead"
    if left.total() == 1:
        return "solved" if left[Fraction(24)] else "dead"
    return "undecided"


def calculated(one: Fraction, sign: str, two: Fraction) -> Fraction | None:
    """Return the result of a step, `None` if it has none."""
    if sign == "/":
        return one / two if two else None
    return {"+": one + two, "-": one - two, "*": one * two}[sign]


def fractions(text: str) -> Counter[Fraction] | None:
    """Return the numbers of a list, `None` if there is something else in it."""
    try:
        return Counter(map(Fraction, text.split()))
    except (ValueError, ZeroDivisionError):
        return None


def only(said: str) -> Callable[[ThoughtPath], Any]:
    """Return a check that says one thing and else nothing."""
    return lambda path: said if verdict(path) == said else "undecided"


def state_of(path: ThoughtPath) -> str:
    """Return the numbers that are left, whatever led to them."""
    return " ".join(sorted(left_of(path.thoughts, path.question).split()))


def left_of(path: Sequence[str], numbers: str) -> str:
    """Return the numbers that are left after some steps."""
    return path[-1].rpartition("left: ")[2].partition(")")[0] if path else numbers


def puzzle_of(row: Any) -> Puzzle:
    """Read a recorded search."""
    puzzle = Puzzle(row["question"], solved=any(row["rewards"]))
    puzzle.total = sum(row["usage"].values())
    asked = wrote = 0
    for step in row["steps"]:
        for before in step["ys"]:
            came = [after for after in step["new_ys"] if after.startswith(before)]
            path = lines_of(before)
            puzzle.steps[path] = [lines_of(after)[-1] for after in came if after != before]
            left = left_of(path, puzzle.numbers)
            asked += MESSAGE + (ANSWER if left == "24" else PROPOSE) + COUNT(left)
        for after, value in zip(step["new_ys"], step["values"], strict=True):
            puzzle.values.setdefault(lines_of(after), value)
            wrote += COUNT(lines_of(after)[-1])
    valued = max((row["usage"]["prompt_tokens"] - asked) / (VALUE + MESSAGE + 5), 1)
    puzzle.value_tokens = (row["usage"]["completion_tokens"] - wrote) / valued
    return puzzle


def lines_of(path: str) -> tuple[str, ...]:
    """Return the steps of a recorded path."""
    return tuple(path.strip().splitlines())


def shown(values: Sequence[float], form: str) -> str:
    """Return a mean with its 95% bootstrap interval."""
    rng = random.Random(0)
    draws = sorted(sum(rng.choices(values, k=len(values))) / len(values) for _ in range(1_000))
    mean, low, high = sum(values) / len(values), draws[25], draws[974]
    return f"{form.format(mean)} ({form.format(low)} to {form.format(high)})"


def rows(path: Path) -> list[Any]:
    """Return the objects of a gzipped file of JSON Lines."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


if __name__ == "__main__":
    main()
