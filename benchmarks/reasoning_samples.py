"""What does a vote over samples cost, and does it give the answer of all forty?

Recorded least-to-most samples of code-davinci-002 on date questions, forty a question, drawn in
random orders and through the package's own `SelfConsistency`. Prompts are filled up to a length,
as few-shot prompts are; tokens are what the calls report (cl100k counts).

- `published loop`: Adaptive-Consistency at 0.95 as published, one call a sample.
- `rounds, separate calls`: the same rule in rounds without a wasted sample.
- `rounds by n`: samples of a round in one request that bills its prompt once; the size of a round
  follows from the prompt's length.
- `lossless`: stops when no further sample can change the vote.
- `SC@40, one request`: all forty by `n=40`.

"Price" weighs an output token as four input tokens. Intervals are 95%, bootstrapped over the
questions. Needs `--data` or TOKENOPT_DATA.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from langchain_core.prompts import ChatPromptTemplate
from measure import data_arguments, has_recorded, table

from langchain_tokenopt import counter_for
from langchain_tokenopt.reasoning import SelfConsistency, extract
from langchain_tokenopt.reasoning.voting import leads
from langchain_tokenopt.testing import RecordedQuestion, ReplayModel

FILE = "ms_fcot_codex_date_ltm_40_dev.jsonl.gz"
MODEL = "gpt-4"
ONE_AT_A_TIME: Any = {"max_concurrency": 1}


@dataclass(frozen=True)
class Run:
    """What came of one question."""

    answer: Any
    right: bool
    samples: int
    rounds: int
    read: int
    written: int


Way = Callable[[RecordedQuestion, int, ChatPromptTemplate], Run]


def main() -> None:
    """Print a table for each length of the prompt."""
    given = data_arguments(__doc__)
    if not has_recorded(given.data, f"reasoning/{FILE}"):
        return
    questions = ReplayModel.from_jsonl(given.data / "reasoning" / FILE).recorded
    questions = questions[::8] if given.quick else questions
    orders = range(1) if given.quick else range(10)
    for length in (2_000,) if given.quick else (100, 500, 2_000):
        show(questions, orders, length)


def show(questions: Sequence[RecordedQuestion], orders: Sequence[int], length: int) -> None:
    """Play all ways at one length of the prompt."""
    prompt = prompt_of(length)
    ways: dict[str, Way] = {
        "published loop": loop,
        "rounds, separate calls": voted(draw="separate"),
        "rounds by n": voted(draw="n"),
        "lossless by n": voted(draw="n", stop="lossless"),
        "SC@40, one request": voted(draw="n", stop="never"),
    }
    found: dict[str, list[list[Run]]] = {
        name: [[way(each, order, prompt) for order in orders] for each in questions]
        for name, way in ways.items()
    }
    lines = [
        [
            name,
            mean(runs, lambda run: 100 * run.right, "{:.1f}%"),
            mean(runs, lambda run: run.samples, "{:.2f}"),
            mean(runs, lambda run: run.rounds, "{:.2f}"),
            mean(runs, lambda run: run.read + run.written, "{:,.0f}"),
            mean(runs, lambda run: run.read + 4 * run.written, "{:,.0f}"),
            alike(runs, found["published loop"], lambda run: (run.answer, run.samples)),
            alike(runs, found["SC@40, one request"], lambda run: run.answer),
        ]
        for name, runs in found.items()
    ]
    head = [
        "way",
        "right",
        "samples",
        "rounds",
        "tokens billed",
        "price",
        "as the loop",
        "as SC@40",
    ]
    title = f"Date, {len(questions)} questions, {len(orders)} orders, prompt of {length:,} tokens"
    table(title, head, lines)


def prompt_of(length: int) -> ChatPromptTemplate:
    """Return a prompt with about `length` tokens."""
    counter = counter_for(MODEL)
    words = "Q: Today is 9/7. What is the date tomorrow? A: It is 9/8.\n"
    times = max((length - 60) // counter.count_text(words), 0)
    return ChatPromptTemplate([("system", words * times), ("placeholder", "{messages}")])


def model_of(question: RecordedQuestion, order: int) -> ReplayModel:
    """Return a model that draws the samples of a question in one order."""
    return ReplayModel([question], model_name=MODEL, seed=order, usage="counted")


def voted(**options: Any) -> Way:
    """Vote with `SelfConsistency`."""

    def way(question: RecordedQuestion, order: int, prompt: ChatPromptTemplate) -> Run:
        voting = SelfConsistency(
            model_of(question, order), answer=extract.date, prompt=prompt, **options
        )
        result = voting.invoke(question.question, ONE_AT_A_TIME)
        return Run(
            answer=result.answer,
            right=is_right(question, result.answer),
            samples=len(result.samples),
            rounds=result.rounds or 0,
            read=result.usage.total.input_tokens,
            written=result.usage.total.output,
        )

    return way


def loop(question: RecordedQuestion, order: int, prompt: ChatPromptTemplate) -> Run:
    """Draw one sample at a time until the two most frequent answers are told apart."""
    model = model_of(question, order)
    messages = prompt.format_messages(messages=[("user", question.question)])
    counts: dict[Any, int] = {}
    read = written = drawn = 0
    while drawn < 40:
        told = model.invoke(messages)
        drawn += 1
        usage: Any = told.usage_metadata
        read, written = read + usage["input_tokens"], written + usage["output_tokens"]
        answer = extract.date(str(told.text))
        if answer is not None:
            counts[answer] = counts.get(answer, 0) + 1
        first, second = [*sorted(counts.values(), reverse=True), 0, 0][:2]
        if leads(first, second) >= 0.95:
            break
    best = max(counts, key=lambda answer: counts[answer], default=None)
    return Run(best, is_right(question, best), drawn, drawn, read, written)


def is_right(question: RecordedQuestion, answer: Any) -> bool:
    """Return whether an answer is the recorded right one."""
    gold = extract.date(question.gold or "")
    return gold is not None and answer == gold


def mean(runs: list[list[Run]], value: Callable[[Run], float], form: str) -> str:
    """Return the mean over questions and orders with its 95% interval over the questions."""
    each = [sum(map(value, orders)) / len(orders) for orders in runs]
    rng = random.Random(0)
    draws = sorted(sum(rng.choices(each, k=len(each))) / len(each) for _ in range(1_000))
    shown = [form.format(found) for found in (sum(each) / len(each), draws[25], draws[974])]
    return f"{shown[0]} ({shown[1]} to {shown[2]})"


def alike(runs: list[list[Run]], others: list[list[Run]], decided: Callable[[Run], object]) -> str:
    """Return the share of runs that decided the same."""
    pairs = [
        (decided(one), decided(other))
        for ours, theirs in zip(runs, others, strict=True)
        for one, other in zip(ours, theirs, strict=True)
    ]
    return f"{sum(one == other for one, other in pairs) / len(pairs):.2%}"


if __name__ == "__main__":
    main()
