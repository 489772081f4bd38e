"""Game of 24: what do seeing states once, exact checks and an early end save a tree of thoughts?

`TreeOfThoughts` runs over recorded breadth-first searches of GPT-4 (princeton-nlp's
tree-of-thought-llm, beam 5, each candidate valued by three samples of a call of its own): it gets
the steps that were recorded for the numbers left and the values that were recorded for a candidate.
An expansion that was not recorded is an error of the model, never made up. The table counts them,
so that "solved" is a lower bound, and says what they would have used if each had cost what the
recorded ones of its level did in the same replay, with the scores of what they gave.

A puzzle is solved if the one answer that is returned uses its numbers and makes 24; the recorded
search, as its authors count, if one of its five does. The check verifies the steps taken, exactly;
it looks no step ahead. "Without early stop" it accepts only an answer that is written down.

Tokens of single calls were not recorded, only each puzzle's totals. A call's prompt has the length
of the published one with its numbers in it; a value wrote the mean that is left of its puzzle's
completions without the proposals. The first table holds the count against the totals. The recorded
run kept values from puzzle to puzzle, a hundred of them, of which about half are here; our replays
keep what they valued on these only, and where puzzles are solved alone, nothing.

Intervals are 95%, bootstrapped over the puzzles. Needs `--data` or TOKENOPT_DATA.
"""

import ast
import operator
import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, UsageMetadata
from langchain_core.prompts import ChatPromptTemplate
from measure import data_arguments, has_recorded, json_rows, table

from langchain_tokenopt import counter_for
from langchain_tokenopt.errors import ScriptExhaustedError
from langchain_tokenopt.reasoning.tree_of_thoughts import TreeOfThoughts
from langchain_tokenopt.reasoning.tree_search import Beam, ThoughtPath
from langchain_tokenopt.testing import ScriptedModel

SEARCHES = "tot_gpt4_game24_bfs_b5_dev.jsonl.gz"
SAMPLES = {
    "answers": "ms_tot_gpt4_game24_standard_100_dev.jsonl.gz",
    "chains of thought": "ms_tot_gpt4_game24_cot_100_dev.jsonl.gz",
}
# Tokens of the published prompts without what is put into them, and of a message around them.
PROPOSE, WRITE_ANSWER, VALUE, VALUE_ANSWER, MESSAGE = 159, 422, 354, 275, 8
BEST_VALUE, BEAM, STEPS, WAVES = 60.0, 5, 3, 5
COUNT = counter_for("gpt-4").count_text
NUMBER = r"\(?(-?\d+(?:\.\d+|/\d+)?)\)?"
STEP = re.compile(rf"\s*{NUMBER}\s*([-+*/])\s*{NUMBER}\s*=\s*{NUMBER}\s*\(left:([^()]*)\)")
SIGNS: dict[Any, Callable[[Fraction, Fraction], Fraction]] = {
    "+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv,
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
}  # fmt: skip
Steps = tuple[str, ...]


@dataclass(frozen=True)
class Prompt:
    """A published prompt with its variables filled in."""

    key: str
    tokens: int


@dataclass
class Puzzle:
    """A recorded search, as it can be replayed."""

    numbers: str
    recorded: Counter[str]
    """Its totals."""
    solved: bool
    proposals: dict[str, list[str]] = field(default_factory=dict)
    """Steps by the prompt that asked for them."""
    proposing: Counter[str] = field(default_factory=Counter)
    """What its proposals used."""
    values: dict[str, float] = field(default_factory=dict)
    value_prompts: dict[str, int] = field(default_factory=dict)
    value_written: float = 0.0
    """Completion tokens of a value."""

    def alone(self) -> float:
        """Return what the search would have used without values of other puzzles."""
        read = sum(self.value_prompts.values()) + self.value_written * len(self.value_prompts)
        return self.proposing.total() + read


@dataclass
class Bill:
    """What a replay used, and what it could not be told."""

    kept: set[str]
    """Values that are known by now, by their prompts."""
    spent: Counter[int] = field(default_factory=Counter)
    """Tokens for expanding paths of a length, and for scoring what that gave."""
    expanded: Counter[int] = field(default_factory=Counter)
    missing: set[Steps] = field(default_factory=set)
    scores_alone: int = 0
    scores_together: int = 0


@dataclass(frozen=True)
class Run:
    """What came of a puzzle."""

    solved: bool
    tokens: float
    missing: int = 0
    missing_tokens: float = 0.0
    """An estimate."""


def main() -> None:
    """Print the tables."""
    given = data_arguments(__doc__)
    folder, most = given.data / "reasoning", 8 if given.quick else 1_000
    if not has_recorded(given.data, f"reasoning/{SEARCHES}"):
        return
    searches = list(json_rows(folder / SEARCHES))[:most]
    samples = {name: list(json_rows(folder / file))[:most] for name, file in SAMPLES.items()}
    puzzles = [puzzle_of(row) for row in searches]
    show_checks(puzzles, [*searches, *(row for found in samples.values() for row in found)])

    found: dict[str, list[Run]] = {}
    for name, recorded in samples.items():
        found[f"best of 100 {name}"] = [
            Run(any(row["rewards"]), sum(row["usage"].values())) for row in recorded
        ]
        found[f"best of 100 {name}, waves of 20, checked"] = [until_right(row) for row in recorded]
    totals = [puzzle.recorded.total() for puzzle in puzzles]
    first = [bool(row["rewards"][0]) for row in searches]
    found["recorded search, its first answer"] = list(map(Run, first, totals))
    found["recorded search"] = [Run(each.solved, each.recorded.total()) for each in puzzles]
    bills: list[Bill] = []
    for name, options in ways().items():
        found[name], bills = play(puzzles, **options)
        if name == "TreeOfThoughts":
            show_together(bills)
    show(f"{len(puzzles)} puzzles, values kept between them", found, base="recorded search")
    alone = {
        "recorded search": [Run(each.solved, each.alone()) for each in puzzles],
        "TreeOfThoughts": play(puzzles, kept=False)[0],
    }
    title = f"{len(puzzles)} puzzles, each alone; the recorded search as counted by us"
    show(title, alone, base="recorded search")


def ways() -> dict[str, dict[str, Any]]:
    """Return the options of each replay."""
    unlike = {"state_key": lambda path: "\n".join(path.thoughts)}
    return {
        "TreeOfThoughts": {},
        "- without dedupe": unlike,
        "- without early stop": {"check": once_written, "depth": STEPS + 1},
        "- without a check": {"check": None, "depth": STEPS + 1},
        "- with none of the three": {**unlike, "check": None, "depth": STEPS + 1},
    }


def show(title: str, found: dict[str, list[Run]], *, base: str) -> None:
    """Print what solved how many puzzles with how many tokens."""
    whole = [run.tokens for run in found[base]]
    lines = []
    for name, runs in found.items():
        tokens = [run.tokens for run in runs]
        all_tokens = [run.tokens + run.missing_tokens for run in runs]
        lines.append(
            [
                name,
                interval([run.solved for run in runs], form=".1%"),
                interval(tokens, form=",.0f"),
                interval(tokens, whole, form=".0%"),
                str(sum(run.missing for run in runs)),
                f"{sum(all_tokens) / len(runs):,.0f} ({sum(all_tokens) / sum(whole):.0%})",
            ]
        )
    head = ["way", "solved", "tokens a puzzle", "of the recorded", "not recorded"]
    table(title, [*head, "with these (estimate)"], lines)


def show_checks(puzzles: Sequence[Puzzle], recorded: Sequence[Any]) -> None:
    """Print whether our count and our grading agree with what was recorded."""
    kept: set[str] = set()
    said, ours = [], []
    for puzzle in puzzles:
        new = {key: size for key, size in puzzle.value_prompts.items() if key not in kept}
        kept |= set(new)
        said.append(puzzle.recorded["prompt_tokens"])
        ours.append(puzzle.proposing["prompt_tokens"] + sum(new.values()))
    lines = [
        [f"first {most}", f"{sum(said[:most]):,}", f"{sum(ours[:most]):,}",
         f"{sum(ours[:most]) / sum(said[:most]):.4f}"]
        for most in (3, len(puzzles))
    ]  # fmt: skip
    head = ["puzzles", "prompt tokens recorded", "counted", "counted / recorded"]
    table("Our count of the recorded searches, values kept between these puzzles", head, lines)
    print("\nNo puzzle that is not here came before the first three.")
    graded = [
        (bool(reward), is_right(lines_of(sample)[-1], row["question"]))
        for row in recorded
        for sample, reward in zip(row["samples"], row["rewards"], strict=True)
        if sample.strip()
    ]
    unlike = sum(reward is not right for reward, right in graded)
    print(f"\n{unlike} of {len(graded):,} recorded answers are graded otherwise by us.")


def show_together(bills: Sequence[Bill]) -> None:
    """Print what the scores' prompts have, and would have with one call a level."""
    alone = sum(bill.scores_alone for bill in bills) / len(bills)
    together = sum(bill.scores_together for bill in bills) / len(bills)
    table(
        "Prompt tokens of the scores in TreeOfThoughts, a puzzle",
        ["a call for each candidate, as recorded", "a call a level (estimate)", "less"],
        [[f"{alone:,.0f}", f"{together:,.0f}", f"{1 - together / alone:.0%}"]],
    )


# --- replaying --------------------------------------------------------------------------------


def play(
    puzzles: Sequence[Puzzle], *, kept: bool = True, depth: int = STEPS, **options: Any
) -> tuple[list[Run], list[Bill]]:
    """Search every puzzle."""
    known: set[str] = set()
    solved, bills = [], []
    for puzzle in puzzles:
        bill = Bill(kept=known if kept else set())
        tree = TreeOfThoughts(
            ScriptedModel([proposer(puzzle, bill)], when_exhausted="repeat_last"),
            depth=depth,
            search=Beam(BEAM),
            scorer=ScriptedModel([scorer(puzzle, bill)], when_exhausted="repeat_last"),
            propose_prompt=ChatPromptTemplate([("user", "{steps}")]),
            score_prompt=ChatPromptTemplate([("user", "{candidates}")]),
            read=lambda text: [line for line in text.splitlines() if line.strip()],
            **{"check": verdict, "state_key": state_of, **options},
        )
        try:
            result = tree.invoke(puzzle.numbers, {"max_concurrency": 1})
        except ScriptExhaustedError:  # none of a level's expansions was recorded
            solved.append(False)
        else:
            # A call that bills nothing, all its values being kept, counts as one without usage.
            used = result.usage
            assert used.estimated_calls or used.total.total_tokens == bill.spent.total()
            path = ThoughtPath(puzzle.numbers, tuple(result.text.splitlines()))
            solved.append("solved" in (verdict(path), once_written(path)))
        bills.append(bill)
    spent = sum((bill.spent for bill in bills), Counter[int]())
    expanded = sum((bill.expanded for bill in bills), Counter[int]())
    mean = {depth: spent[depth] / expanded[depth] for depth in expanded}

    def run(right: bool, bill: Bill) -> Run:
        missing = [len(path) for path in bill.missing]
        own = {depth: bill.spent[depth] / bill.expanded[depth] for depth in bill.expanded}
        price = sum(own.get(depth, mean[depth]) for depth in missing)
        return Run(right, bill.spent.total(), len(missing), price)

    return list(map(run, solved, bills)), bills


def proposer(
    puzzle: Puzzle, bill: Bill
) -> Callable[[list[BaseMessage]], AIMessage | ScriptExhaustedError]:
    """Return a model that proposes what was recorded for the prompt."""

    def propose(messages: list[BaseMessage]) -> AIMessage | ScriptExhaustedError:
        text = str(messages[-1].text)
        path = () if text == "(none)" else tuple(text.splitlines())
        prompt = propose_prompt(path, puzzle.numbers)
        steps = puzzle.proposals.get(prompt.key)
        if steps is None:
            bill.missing.add(path)
            return ScriptExhaustedError(f"no steps were recorded for {prompt.key}")
        written = "\n".join(steps)
        bill.expanded[len(path)] += 1
        return billed(bill, len(path), written, read=prompt.tokens, wrote=COUNT(written))

    return propose


def scorer(puzzle: Puzzle, bill: Bill) -> Callable[[list[BaseMessage]], AIMessage]:
    """Return a model that scores candidates with their recorded values, new ones for money."""

    def score(messages: list[BaseMessage]) -> AIMessage:
        scores, new, together = [], [], VALUE + MESSAGE
        paths = candidates(str(messages[-1].text))
        for path in paths:
            prompt = value_prompt(path, puzzle.numbers)
            scores.append(10 * value_of(puzzle, path, prompt) / BEST_VALUE)
            if prompt.key not in bill.kept:
                bill.kept.add(prompt.key)
                new.append(prompt.tokens)
                together += COUNT(f"{len(new)}. {path[-1]}\n")
        bill.scores_alone += sum(new)
        bill.scores_together += together if new else 0
        text = "\n".join(f"{number}: {found:.4f}" for number, found in enumerate(scores, start=1))
        wrote = round(len(new) * puzzle.value_written)
        return billed(bill, len(paths[0]) - 1, text, read=sum(new), wrote=wrote)

    return score


def candidates(text: str) -> list[Steps]:
    """Return the paths that a request for scores shows."""
    paths: list[Steps] = []
    before: list[str] = []
    shows_steps = False
    for line in text.splitlines():
        if line == "Steps so far:":
            before, shows_steps = [], True
        elif line == "Candidates:":
            shows_steps = False
        elif shows_steps and line != "(none)":
            before.append(line)
        elif line and not shows_steps:
            paths.append((*before, line.partition(". ")[2]))
    return paths


def value_of(puzzle: Puzzle, path: Steps, prompt: Prompt) -> float:
    """Return a candidate's recorded value; the authors give a last line without an answer none."""
    if len(path) > STEPS and "answer" not in path[-1].lower():
        return 0.0
    return puzzle.values[prompt.key]


def billed(bill: Bill, depth: int, text: str, *, read: int, wrote: int) -> AIMessage:
    """Return an answer with what it used."""
    bill.spent[depth] += read + wrote
    usage = UsageMetadata(input_tokens=read, output_tokens=wrote, total_tokens=read + wrote)
    return AIMessage(text, usage_metadata=usage)


def until_right(row: Any) -> Run:
    """Return what samples cost up to the first right one, in the waves in which they were drawn."""
    right = row["rewards"].index(1) if 1 in row["rewards"] else len(row["rewards"]) - 1
    waves = right * WAVES // len(row["rewards"]) + 1
    return Run(any(row["rewards"]), sum(row["usage"].values()) * waves / WAVES)


# --- the game ---------------------------------------------------------------------------------


def verdict(path: ThoughtPath) -> Any:
    """Tell exactly whether the steps taken make 24, cannot, or have numbers left to combine."""
    left = Counter(map(Fraction, path.question.split()))
    for thought in path.thoughts:
        step = STEP.match(thought)
        if step is None:
            return "dead"
        one, other = Fraction(step[1]), Fraction(step[3])
        taken = Counter([one, other])
        if (step[2] == "/" and other == 0) or not taken <= left:
            return "dead"
        result = SIGNS[step[2]](one, other)
        left = left - taken + Counter([result])
        if result != Fraction(step[4]) or fractions(step[5]) != left:
            return "dead"
    if left.total() > 1:
        return "undecided"
    return "solved" if Fraction(24) in left else "dead"


def once_written(path: ThoughtPath) -> Any:
    """Tell the same, but accept only an answer that was written down."""
    if len(path.thoughts) > STEPS:
        return "solved" if is_right(path.thoughts[-1], path.question) else "dead"
    return "dead" if verdict(path) == "dead" else "undecided"


def is_right(answer: str, numbers: str) -> bool:
    """Return whether an expression makes 24 of the numbers."""
    expression = answer.lower().replace("answer: ", "").split("=")[0].strip()
    if sorted(re.findall(r"\d+", expression)) != sorted(numbers.split()):
        return False
    try:
        return calculated(ast.parse(expression, mode="eval").body) == 24
    except (SyntaxError, ValueError, ZeroDivisionError):
        return False


def calculated(part: ast.expr) -> Fraction:
    """Return the value of an expression of numbers."""
    if isinstance(part, ast.Constant) and isinstance(part.value, int | float):
        return Fraction(part.value)
    if isinstance(part, ast.BinOp) and type(part.op) in SIGNS:
        return SIGNS[type(part.op)](calculated(part.left), calculated(part.right))
    raise ValueError(ast.unparse(part))


def fractions(text: str) -> Counter[Fraction] | None:
    """Return the numbers of a list, `None` if there is something else in it."""
    try:
        return Counter(map(Fraction, text.split()))
    except (ValueError, ZeroDivisionError):
        return None


def state_of(path: ThoughtPath) -> str:
    """Return the numbers that are left, in one order; an answer is a state of its own."""
    last = path.thoughts[-1]
    return " ".join(sorted(left_of(last).split())) if "left: " in last else last


def left_of(step: str) -> str:
    """Return the numbers that are left after a step."""
    return step.rpartition("left: ")[2].partition(")")[0]


# --- the recordings ---------------------------------------------------------------------------


def propose_prompt(path: Steps, numbers: str) -> Prompt:
    """Return the published prompt for next steps, which tells only the numbers that are left."""
    left = left_of(path[-1]) if path else numbers
    if left != "24":
        return Prompt(left, PROPOSE + MESSAGE + COUNT(left))
    steps = "Steps:" + "".join(f"{step}\n" for step in path)
    tokens = WRITE_ANSWER + MESSAGE + COUNT(numbers) + COUNT(steps)
    return Prompt(f"{numbers}\n{steps}", tokens)


def value_prompt(path: Steps, numbers: str) -> Prompt:
    """Return the published prompt that values a candidate."""
    last = path[-1]
    if "left: " in last:
        left = left_of(last)
        return Prompt(left, VALUE + MESSAGE + COUNT(left))
    answer = last.lower().replace("answer: ", "")
    tokens = VALUE_ANSWER + MESSAGE + COUNT(numbers) + COUNT(answer)
    return Prompt(f"{numbers}\n{answer}", tokens)


def puzzle_of(row: Any) -> Puzzle:
    """Read a recorded search."""
    puzzle = Puzzle(row["question"], Counter(row["usage"]), any(row["rewards"]))
    for step in row["steps"]:
        for before in step["ys"]:
            steps = [y[len(before) :].rstrip("\n") for y in step["new_ys"] if y.startswith(before)]
            prompt = propose_prompt(lines_of(before), puzzle.numbers)
            written = COUNT("\n".join(steps))
            puzzle.proposals[prompt.key] = steps
            puzzle.proposing += Counter(prompt_tokens=prompt.tokens, completion_tokens=written)
        for after, value in zip(step["new_ys"], step["values"], strict=True):
            prompt = value_prompt(lines_of(after), puzzle.numbers)
            puzzle.values.setdefault(prompt.key, value)
            puzzle.value_prompts[prompt.key] = prompt.tokens
    of_values = puzzle.recorded - puzzle.proposing
    mean = sum(puzzle.value_prompts.values()) / len(puzzle.value_prompts)
    puzzle.value_written = of_values["completion_tokens"] / (of_values["prompt_tokens"] / mean)
    return puzzle


def lines_of(path: str) -> Steps:
    """Return the steps of a recorded path."""
    return tuple(path.strip().splitlines())


def interval(
    values: Sequence[float], over: Sequence[float] | None = None, *, form: str = ".1f"
) -> str:
    """Return a mean, or what it is of another one, with its 95% bootstrap interval."""
    rng = random.Random(0)
    pairs = list(zip(values, over or [1.0] * len(values), strict=True))

    def mean(drawn: Sequence[tuple[float, float]]) -> float:
        return sum(value for value, _ in drawn) / sum(base for _, base in drawn)

    draws = sorted(mean(rng.choices(pairs, k=len(pairs))) for _ in range(1_000))
    return f"{mean(pairs):{form}} ({draws[25]:{form}} to {draws[974]:{form}})"


if __name__ == "__main__":
    main()
