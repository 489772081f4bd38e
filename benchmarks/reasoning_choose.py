"""Does measuring on few samples choose the right technique, and find a prompt that costs less?

1. Recorded answers, each asked once through our own `evaluate`: four models of the GSM8K paper as
   four techniques (the verified ones were picked out of 100 samples, whose output is counted), and
   GPT-3.5's least-to-most answers to date questions, single and in votes of 5, 10 and 40. The race
   of `choose_technique` then runs over many random orders of these rows; only the calls are
   replayed. The right choice is made of all rows. Beside it: all techniques on as many questions as
   the same budget pays for, and the best point estimate.
2. Looking every 8 questions at a fixed 95% interval, against the confidence sequence: pairs of
   recorded scores are swapped at random, so that there is no difference to find; then as they are.
3. `PromptOptimizer` on a planted task: a scripted model that is right as often as its instruction
   and examples have what matters, and writes as much as it is told to. True scores are known.

Intervals are 95%. The models are of 2022 and 2023. Needs `--data` or TOKENOPT_DATA for 1 and 2.
"""

import random
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import Runnable, RunnableLambda
from measure import data_arguments, has_recorded, json_rows, table

from langchain_tokenopt import counter_for
from langchain_tokenopt.errors import BudgetExceededError
from langchain_tokenopt.reasoning import ChainOfThought, extract
from langchain_tokenopt.reasoning.bench import Bench
from langchain_tokenopt.reasoning.evaluate import evaluate
from langchain_tokenopt.reasoning.jobs import Outcome, Work
from langchain_tokenopt.reasoning.metrics import LabelledSample, typed_equality
from langchain_tokenopt.reasoning.objective import FewestTokens, HighestScore, Objective
from langchain_tokenopt.reasoning.optimize import PromptOptimizer
from langchain_tokenopt.reasoning.prompt_parts import parts_of
from langchain_tokenopt.reasoning.race import Race, Verdict, run_race
from langchain_tokenopt.reasoning.result import ReasoningUsage
from langchain_tokenopt.reasoning.self_consistency import SelfConsistency
from langchain_tokenopt.reasoning.sequential import (
    ConfidenceSequence,
    mean_interval,
    wilson_interval,
)
from langchain_tokenopt.reasoning.spending import Purse
from langchain_tokenopt.testing import RecordedQuestion, ReplayModel, ScriptedModel

NONE = RunnableLambda(lambda given: given)
COUNT = counter_for("gpt-4").count_text


@dataclass(frozen=True)
class Row:
    """What a technique made of a question."""

    score: float
    usage: ReasoningUsage

    @cached_property
    def tokens(self) -> int:
        """Input and output."""
        return self.usage.total.total_tokens


Rows = Mapping[str, Sequence[Row]]


def main() -> None:
    """Print the tables."""
    given = data_arguments(__doc__)
    quick = given.quick
    if has_recorded(given.data, "reasoning"):
        most = 40 if quick else None
        sets = {"GSM8K, 4 models": gsm8k(given.data, most), "Dates": dates(given.data, most)}
        show_rows(sets)
        show_choices(sets, runs=3 if quick else 200)
        show_peeking(sets, runs=20 if quick else 1_000)
    show_optimizer(
        runs=1 if quick else 30, budgets=(40_000,) if quick else (15_000, 50_000, 150_000)
    )


# --- recorded rows --------------------------------------------------------------------------------


def measured(
    runnable: Runnable[Any, Any], samples: Sequence[LabelledSample], kind: Any
) -> list[Row]:
    """Return the rows of a technique that is asked each question once."""
    found = evaluate(runnable, samples, metric=typed_equality(kind))
    return [Row(row.score, row.usage) for row in found.rows]


def gsm8k(data: Path, most: int | None) -> Rows:
    """Return the rows of the four models; a verified answer costs 100 samples."""
    path = data / "reasoning" / "mm_openai_gsm8k_4models_dev.jsonl.gz"
    told = list(json_rows(path))[:most]
    samples = [LabelledSample(row["question"], row["gold"]) for row in told]
    rows = {}
    for name in ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification"):
        times = 100 if name.endswith("verification") else 1
        recorded = [
            RecordedQuestion(
                question=row["question"],
                samples=(row["models"][name]["text"],),
                output_tokens=(times * COUNT(row["models"][name]["text"]),),
            )
            for row in told
        ]
        rows[name] = measured(ReplayModel(recorded, model_name=name), samples, extract.number)
    return rows


def dates(data: Path, most: int | None) -> Rows:
    """Return the rows of one answer and of votes over several."""
    path = data / "reasoning" / "ms_fcot_codex_date_ltm_40_dev.jsonl.gz"
    told = list(json_rows(path))[:most]
    samples = [LabelledSample(row["question"], row["gold"]) for row in told]

    def model() -> ReplayModel:
        return ReplayModel.from_jsonl(path, seed=1)

    techniques: dict[str, Runnable[Any, Any]] = {
        "one answer": ChainOfThought(model(), answer=extract.date),
        "vote of 5": SelfConsistency(model(), answer=extract.date, n=5, stop="never"),
        "vote of 10": SelfConsistency(model(), answer=extract.date, n=10, stop="never"),
        "vote of 40": SelfConsistency(model(), answer=extract.date, n=40, stop="never"),
        "vote, adaptive": SelfConsistency(model(), answer=extract.date),
    }
    return {name: measured(each, samples, extract.date) for name, each in techniques.items()}


def show_rows(sets: Mapping[str, Rows]) -> None:
    """Print what each technique scores and uses over all rows."""
    for title, rows in sets.items():
        lines = []
        for name, found in rows.items():
            sure = wilson_interval(sum(row.score for row in found), len(found))
            score = statistics.fmean(row.score for row in found)
            tokens = statistics.fmean(row.tokens for row in found)
            lines.append(
                [name, f"{score:.1%} ({sure.low:.1%} to {sure.high:.1%})", f"{tokens:,.0f}"]
            )
        head = ["technique", "score", "tokens a question"]
        table(f"{title}: all {len(next(iter(rows.values())))} questions", head, lines)


# --- 1. choices -----------------------------------------------------------------------------------


def replay(work: Work[Verdict], purse: Purse, rows: Rows) -> Verdict:
    """Drive a race with recorded rows in place of calls."""
    try:
        jobs = next(work)
        while True:
            jobs = work.send([paid(rows[job.step][job.input], purse) for job in jobs])
    except StopIteration as end:
        verdict: Verdict = end.value
        return verdict


def paid(row: Row, purse: Purse) -> Outcome:
    """Return what a call comes to, which is refused if the purse cannot pay for it."""
    try:
        purse.take(row.tokens)
    except BudgetExceededError:
        return Outcome(output=None, error=None, usage=ReasoningUsage(), refused=True)
    purse.settle(row.tokens, row.usage.total)
    return Outcome(output=row.score, error=None, usage=row.usage, refused=False)


def right_choices(rows: Rows, objective: Objective, questions: Sequence[int]) -> set[str]:
    """Return what may be chosen by the means over some questions: one, or several equals."""
    score = {n: statistics.fmean(each[q].score for q in questions) for n, each in rows.items()}
    tokens = {n: statistics.fmean(each[q].tokens for q in questions) for n, each in rows.items()}
    best = max(score.values())
    if isinstance(objective, FewestTokens):
        near = [name for name in rows if score[name] >= best - objective.margin]
        return {min(near, key=lambda name: tokens[name])}
    cap = objective.max_tokens or float("inf")
    under = [name for name in rows if tokens[name] <= cap]
    best = max((score[name] for name in under), default=0.0)
    return {name for name in under if score[name] >= best - objective.margin}


def show_choices(sets: Mapping[str, Rows], *, runs: int) -> None:
    """Print how often the choice is right, and its tokens, over random orders."""
    goals: dict[str, Objective] = {
        "fewest, margin 5%": FewestTokens(),
        "highest": HighestScore(),
        "highest under 1,000": HighestScore(max_tokens=1_000),
    }
    for title, rows in sets.items():
        questions = range(len(next(iter(rows.values()))))
        whole = sum(row.tokens for found in rows.values() for row in found)
        lines = []
        for goal, objective in goals.items():
            right = right_choices(rows, objective, questions)
            for share in (1.0, 0.1, 0.03):
                budget = round(share * whole)
                tally = [choice(rows, objective, budget, seed) for seed in range(runs)]
                plain = [equal_shares(rows, objective, budget, seed) for seed in range(runs)]
                certain = [name for name, sure, _ in tally if sure]
                lines.append(
                    [
                        goal,
                        " or ".join(sorted(right)),
                        f"{share:.0%}",
                        share_of(sum(name in right for name, _, _ in tally), runs),
                        f"{len(certain) / runs:.0%}",
                        share_of(sum(name not in right for name in certain), runs),
                        f"{statistics.fmean(used for _, _, used in tally) / whole:.1%}",
                        f"{max(used for _, _, used in tally) / budget:.0%}",
                        share_of(sum(name in right for name in plain), runs),
                    ]
                )
        head = [
            "objective", "right by all rows", "budget", "chosen right", "certain",
            "certain and wrong", "tokens used", "most of budget", "equal shares, right",
        ]  # fmt: skip
        table(f"{title}: choices over {runs} orders; tokens in shares of all rows", head, lines)


def choice(
    rows: Rows, objective: Objective, budget: int, seed: int
) -> tuple[str | None, bool, int]:
    """Return the name, whether it is certain, and the tokens of one race."""
    order = list(range(len(next(iter(rows.values())))))
    random.Random(seed).shuffle(order)
    purse = Purse(budget)
    samples = [LabelledSample(question, None) for question in order]
    bench = Bench(samples, metric=lambda output, _: output, purse=purse)
    race = Race(list(rows), objective=objective)
    verdict = replay(run_race(race, bench, dict.fromkeys(rows, NONE)), purse, rows)
    return verdict.name, verdict.certain, purse.spent


def equal_shares(rows: Rows, objective: Objective, budget: int, seed: int) -> str | None:
    """Return what the means say of as many questions as the budget pays for."""
    order = list(range(len(next(iter(rows.values())))))
    random.Random(seed).shuffle(order)
    asked: list[int] = []
    for question in order:
        budget -= sum(found[question].tokens for found in rows.values())
        if budget < 0:
            break
        asked.append(question)
    found = sorted(right_choices(rows, objective, asked)) if asked else []
    return random.Random(seed).choice(found) if found else None


def share_of(count: int, runs: int) -> str:
    """Return a share with its interval."""
    sure = wilson_interval(count, runs)
    return f"{count / runs:.1%} ({sure.low:.1%} to {sure.high:.1%})"


# --- 2. peeking -----------------------------------------------------------------------------------


def show_peeking(sets: Mapping[str, Rows], *, runs: int) -> None:
    """Print how often a difference is seen that is none, and how soon one that is."""
    pairs = [
        ("GSM8K, 4 models", "6b_verification", "175b_finetuning"),
        ("GSM8K, 4 models", "175b_finetuning", "175b_verification"),
        ("Dates", "one answer", "vote of 5"),
    ]
    lines = []
    for title, one, other in pairs:
        mine, theirs = sets[title][one], sets[title][other]
        real = [a.score - b.score for a, b in zip(mine, theirs, strict=True)]
        for swapped in (True, False):
            ways: dict[str, Callable[[Sequence[float]], int | None]] = {
                "fixed interval, one look at 400": one_look,
                "fixed interval, a look each 8": naive,
                "confidence sequence, a look each 8": sequential,
            }
            for way, stop in ways.items():
                ends = []
                for seed in range(runs):
                    rng = random.Random(seed)
                    drawn = rng.choices(real, k=400)
                    ends.append(
                        stop([d * rng.choice((-1, 1)) for d in drawn] if swapped else drawn)
                    )
                seen = [end for end in ends if end is not None]
                what = "swapped: none to see" if swapped else f"{statistics.fmean(real):+.1%}"
                lines.append(
                    [
                        f"{one}, {other}", what, way, share_of(len(seen), runs),
                        f"{statistics.fmean(seen):.0f}" if seen else "-",
                    ]
                )  # fmt: skip
    head = ["pair", "difference", "way", "a difference is claimed", "after questions"]
    table(f"Claims of a difference within 400 questions, {runs} runs", head, lines)


def one_look(differences: Sequence[float]) -> int | None:
    """Return the number of questions if an interval over all of them is away from 0."""
    return len(differences) if is_away(differences) else None


def naive(differences: Sequence[float]) -> int | None:
    """Return after how many questions a fixed interval is away from 0, if it ever is."""
    looks = range(16, len(differences) + 1, 8)
    return next((n for n in looks if is_away(differences[:n])), None)


def is_away(differences: Sequence[float]) -> bool:
    """Return whether 0 is not in Student's interval."""
    between = mean_interval(differences)
    return between is not None and not between.low <= 0 <= between.high


def sequential(differences: Sequence[float]) -> int | None:
    """Return after how many questions the confidence sequence is away from 0."""
    sequence = ConfidenceSequence(low=-1, high=1)
    for n, value in enumerate(differences, start=1):
        sequence.observe(value)
        if n % 8 == 0 and not sequence.interval.low <= 0 <= sequence.interval.high:
            return n
    return None


# --- 3. a planted prompt --------------------------------------------------------------------------

SENTENCES = (
    "You are a most friendly and helpful assistant.",
    "Add the two numbers.",
    "Always stay polite, and keep to a formal register.",
    "Check every digit before you write it down.",
    "Never say that you are a model.",
    "Explain your work at length.",
)


def true_score(instruction: str, examples: int) -> float:
    """Return how often the scripted model is right."""
    told = 0.2 + 0.45 * ("Add" in instruction) + 0.2 * ("digit" in instruction)
    return told + 0.1 * (examples > 0)


def planted() -> ScriptedModel:
    """Return the scripted model."""

    def answer(messages: list[Any]) -> str:
        instruction = messages[0].text if messages[0].type == "system" else ""
        question = messages[-1].text
        share = true_score(instruction, sum(message.type == "ai" for message in messages))
        right = random.Random(question).random() < share
        total = sum(int(part) for part in question.rstrip("?").split(" + "))
        words = "so " * (40 if "length" in instruction else 8)
        return f"{words}\nAnswer: {total if right else -1}"

    return ScriptedModel([answer], when_exhausted="repeat_last")


def proposing(rng: random.Random) -> ScriptedModel:
    """Return a proposer that keeps some of the sentences, which is not always wise."""

    def propose(messages: list[Any]) -> str:
        versions = (rng.sample(SENTENCES, k=rng.randint(1, 3)) for _ in range(3))
        return "\n".join(f"<prompt>{' '.join(version)}</prompt>" for version in versions)

    return ScriptedModel([propose], when_exhausted="repeat_last")


def show_optimizer(*, runs: int, budgets: Sequence[int]) -> None:
    """Print what the search finds, and whether its budget and its word are kept."""
    start = ChatPromptTemplate([("system", " ".join(SENTENCES)), ("human", "{question}")])
    before = true_score(" ".join(SENTENCES), 0)
    goals: dict[str, Objective] = {
        "fewest, margin 5%": FewestTokens(),
        "highest under 80": HighestScore(max_tokens=80),
    }
    lines = []
    for goal, objective in goals.items():
        for budget in budgets:
            scores, tokens, wrong, certain, spent = [], [], 0, 0, []
            for seed in range(runs):
                rng = random.Random(seed)
                numbers = rng.sample(range(10_000), k=800)
                samples = [LabelledSample(f"{n} + {n % 37}?", str(n + n % 37)) for n in numbers]
                found = PromptOptimizer(
                    planted(),
                    budget=budget,
                    metric=typed_equality(extract.number),
                    objective=objective,
                    proposer=proposing(rng),
                ).optimize(start, samples, order=rng)
                parts = parts_of(found.prompt)
                scores.append(true_score(parts.instruction, len(parts.examples)))
                tokens.append(one_call(found.prompt))
                certain += found.certain
                wrong += found.certain and scores[-1] < before - objective.margin
                spent.append(found.usage.total_tokens)
            lines.append(
                [
                    goal,
                    f"{budget:,}",
                    f"{one_call(start):.0f} to {statistics.fmean(tokens):.0f}",
                    f"{before:.0%} to {statistics.fmean(scores):.0%}",
                    f"{certain / runs:.0%}",
                    f"{wrong} of {runs}",
                    f"{statistics.fmean(spent):,.0f}",
                    f"{sum(each <= budget for each in spent)} of {runs}",
                ]
            )
    head = [
        "objective", "budget", "tokens a question", "true score", "certain", "certain and wrong",
        "tokens used", "budget kept",
    ]  # fmt: skip
    table(f"A planted prompt, {runs} searches each", head, lines)


def one_call(prompt: ChatPromptTemplate) -> int:
    """Return the tokens of one call of the scripted model."""
    usage = (prompt | planted()).invoke({"question": "1234 + 13?"}).usage_metadata
    assert usage is not None
    return usage["total_tokens"]


if __name__ == "__main__":
    main()
