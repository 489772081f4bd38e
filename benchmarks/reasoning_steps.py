"""Do selection-inference and least-to-most hold what they promise, and how do their tokens grow?

The model is written for this benchmark: it reads the prompts that it is sent, works by rules, and
errs on purpose. So nothing here says how well a language model reasons; it says what the technique
makes of it.

- Selection-inference on recorded PrOntoQA and ProofWriter ("Att", questions whose derived answer is
  the gold one). A model that errs selects facts at random, names ids that do not exist, writes
  nothing usable (10% of calls each), and infers what does not follow (10%). A proof is valid if
  every inference follows from what it names, every given fact was given and the last one answers
  the question. "Removed": a fact that the answer needs is taken out, and nothing may be answered.
- Least-to-most on SCAN's length split. The model errs in plans (a third have a fault) and composes
  an answer only of the parts that it is shown.

Tokens are those of the requests and answers (o200k). "Transcript" counts the same calls with all
that was said before in each, as a chat that is simply continued would send. Intervals are 95%
(Wilson). Needs `--data` or TOKENOPT_DATA.
"""

import argparse
import os
import random
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from langchain_core.messages import BaseMessage
from measure import table
from prefilter import Fact, Rule, fact_of, kind, proof, rows_of, rule_of, sentences_of
from reasoning_extract import share

from langchain_tokenopt import counter_for
from langchain_tokenopt.reasoning import LeastToMost, ReasoningResult, SelectionInference, extract
from langchain_tokenopt.testing import ScriptedModel

COUNT = counter_for("gpt-5-mini").count_messages
WRITTEN = counter_for("gpt-5-mini").count_text
RATE = 0.1


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a small run, for CI")
    default = os.environ.get("TOKENOPT_DATA") or Path(__file__).parents[2] / "shared" / "data"
    parser.add_argument("--data", type=Path, default=Path(default))
    given = parser.parse_args()
    data, most = given.data, 15 if given.quick else 1_000
    if not (data / "reasoning").is_dir():
        print(f"no recorded data in {data}; point --data or TOKENOPT_DATA at it")
        return
    cases = {
        "PrOntoQA": list(prontoqa(data))[:most],
        "ProofWriter": list(proofwriter(data))[:most],
    }
    show_proofs(cases)
    show_growth(cases)
    show_scan(data, most)


# --- logic ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """A question about facts and rules."""

    facts: tuple[str, ...]
    question: str
    gold: bool


@dataclass(frozen=True)
class Known:
    """Sentences, read."""

    facts: Mapping[Fact, str]
    """By what they say: their ids."""
    rules: Mapping[str, Rule]


def prontoqa(data: Path) -> Iterator[Case]:
    """Yield the questions whose answer follows."""
    for row in rows_of(data / "reasoning/gold_prontoqa_500_dev.jsonl.gz"):
        yield from case_of(row, row["gold"] == "A")


def proofwriter(data: Path) -> Iterator[Case]:
    """Yield the questions whose derived answer is the gold one."""
    for row in rows_of(data / "reasoning/gold_proofwriter_d5_600_dev.jsonl.gz"):
        if "_Att" not in row["id"] and "Att" not in row["id"].split("-")[0]:
            continue
        if row["gold"] != "C" and proof(row):
            yield from case_of(row, row["gold"] == "A")


def case_of(row: Any, gold: bool) -> Iterator[Case]:
    """Yield a row as a case, if one inference at least leads to its gold answer."""
    query = str(row["query"]).split("? ")[-1].rstrip(".")
    case = Case(tuple(sentences_of(row["context"])), f"Is it true that {query}?", gold)
    path = proof_path(read(numbered(case.facts), case.question), goal_of(case.question))
    if path and answer_of(case.question, path[-1][1]) == gold:
        yield case


def numbered(facts: Sequence[str]) -> dict[str, str]:
    """Return sentences by ids."""
    return {f"f{at}": text for at, text in enumerate(facts, 1)}


def goal_of(question: str) -> Fact:
    """Return what a question asks about, as if it held."""
    return statement(question.removeprefix("Is it true that ").rstrip("?"))


def statement(sentence: str) -> Fact:
    """Return what a sentence about one thing says."""
    words = re.fullmatch(r"(\w+) is (not )?(?:an? )?(\w+)\.?", sentence.strip())
    if words is None:
        raise ValueError(sentence)
    return words[1].lower(), kind(words[3]), words[2] is None


def read(texts: Mapping[str, str], question: str) -> Known:
    """Read sentences; those about the question's subject, or names, are facts."""
    facts: dict[Fact, str] = {}
    rules: dict[str, Rule] = {}
    subject = goal_of(question)[0]
    for id_, text in texts.items():
        rule = rule_of(text)
        chain = re.fullmatch(
            r"(?:Every |Each )?(\w+) (?:is|are) (not )?(?:an? )?(\w+)\.", text.strip()
        )
        if rule is not None:
            rules[id_] = rule
        elif (fact := fact_of(text)) is not None and "pus" not in kind(fact[0]):
            facts[fact[0], kind(fact[1]), fact[2]] = id_
        elif chain is not None and chain[1].lower() == subject:
            facts[statement(text)] = id_
        elif chain is not None:
            then = ("*", kind(chain[3]), chain[2] is None)
            rules[id_] = Rule((("*", kind(chain[1]), True),), then, text)
    return Known(facts, rules)


Step = tuple[tuple[str, ...], Fact]
"""Ids of what is used, and what follows."""


def one_step(known: Known) -> Iterator[Step]:
    """Yield all that follows at once."""
    names = sorted({name for name, _, _ in known.facts})
    for id_, rule in known.rules.items():
        for name in names:
            given = [(name if who == "*" else who, what, holds) for who, what, holds in rule.given]
            who, what, holds = rule.then
            then = (name if who == "*" else who, what, holds)
            if then not in known.facts and all(fact in known.facts for fact in given):
                yield (*(known.facts[fact] for fact in given), id_), then


def proof_path(known: Known, goal: Fact) -> list[Step]:
    """Return the steps that lead to the goal or to its opposite, none if nothing does."""
    facts, made = dict(known.facts), dict[str, Step]()
    while True:
        step = next(one_step(Known(facts, known.rules)), None)
        if step is None:
            return []
        id_ = f"x{len(made)}"
        facts[step[1]] = id_
        made[id_] = step
        if step[1][:2] == goal[:2]:
            return needed(id_, made)


def needed(last: str, made: Mapping[str, Step]) -> list[Step]:
    """Return the steps that one rests on, in order."""
    found: dict[str, Step] = {}
    queue = [last]
    while queue:
        id_ = queue.pop()
        if id_ in made and id_ not in found:
            found[id_] = made[id_]
            queue += made[id_][0]
    return [found[id_] for id_ in sorted(found, key=lambda each: int(each[1:]))]


def answer_of(question: str, fact: Fact) -> bool | None:
    """Return the answer that a fact gives, `None` if it is about something else."""
    goal = goal_of(question)
    return fact[2] is goal[2] if fact[:2] == goal[:2] else None


def sentence(fact: Fact) -> str:
    """Return a fact as a sentence."""
    return f"{fact[0].capitalize()} is {'' if fact[2] else 'not '}{fact[1]}."


# --- selection-inference --------------------------------------------------------------------------


def reasoner(question: str, rng: random.Random, *, errs: bool) -> ScriptedModel:
    """Return a model that selects, infers and halts by rules, and errs if it should."""

    def reply(messages: list[BaseMessage]) -> str:
        task, shown = str(messages[0].text), str(messages[-1].text)
        if task.startswith("Choose the facts"):
            return select(shown)
        if task.startswith("Write the one new fact"):
            return infer(shown)
        told = answer_of(question, statement(shown.rpartition("Fact: ")[2]))
        return "Unknown" if told is None else f"Answer: {'yes' if told else 'no'}"

    def select(shown: str) -> str:
        texts = dict(re.findall(r"^([fd]\d+): (.+)$", shown, re.MULTILINE))
        draw = rng.random() if errs else 1.0
        if draw < RATE:
            return f"Facts: {', '.join(rng.sample(sorted(texts), 2))}"
        if draw < 2 * RATE:
            return "Facts: f997, d998"
        if draw < 3 * RATE:
            return "I would look at what is known of it."
        path = proof_path(read(texts, question), goal_of(question))
        return f"Facts: {', '.join(path[0][0])}" if path else "Facts: none"

    def infer(shown: str) -> str:
        if errs and rng.random() < RATE:
            return sentence((goal_of(question)[0], rng.choice(["purple", "loud", "late"]), True))
        step = next(one_step(read(numbered(shown.splitlines()), question)), None)
        return "nothing" if step is None else sentence(step[1])

    return ScriptedModel([reply], when_exhausted="repeat_last", model_name="gpt-5-mini")


def follows(question: str) -> Callable[[Any], bool]:
    """Return a check of inferences."""

    def check(inference: Any) -> bool:
        known = read(numbered(inference["facts"]), question)
        made = {sentence(fact) for _, fact in one_step(known)}
        return str(inference["conclusion"]) in made

    return check


def ask(case: Case, facts: Sequence[str], way: str, rng: random.Random) -> tuple[Any, Any]:
    """Return what a way makes of a case, and the model that was asked."""
    model = reasoner(case.question, rng, errs=way != "a model that never errs")
    technique = SelectionInference(
        model,
        answer=extract.boolean,
        max_steps=20,
        output="text",
        check=follows(case.question) if way == "one that errs, with a check" else None,
    )
    return technique.invoke({"question": case.question, "facts": list(facts)}), model


def is_proof(case: Case, result: ReasoningResult) -> bool:
    """Return whether a trace proves its answer from what was given."""
    texts = {step.id: step.text for step in result.trace}
    for step in result.trace:
        if step.step == "given":
            if step.text not in case.facts:
                return False
            continue
        used = read({id_: texts[id_] for id_ in step.uses}, case.question)
        if step.text not in {sentence(fact) for _, fact in one_step(used)}:
            return False
    last = result.trace[-1] if result.trace else None
    return last is not None and answer_of(case.question, statement(last.text)) == result.answer


WAYS = ("a model that never errs", "one that errs", "one that errs, with a check")


def show_proofs(sets: Mapping[str, Sequence[Case]]) -> None:
    """Print what comes of each set and way."""
    rows = []
    for name, cases in sets.items():
        for way in WAYS:
            rng = random.Random(0)
            results = [ask(case, case.facts, way, rng)[0] for case in cases]
            answered = [
                (case, result)
                for case, result in zip(cases, results, strict=True)
                if not result.abstained
            ]
            invented = sum(
                step.text not in case.facts
                for case, result in answered
                for step in result.trace
                if step.step == "given"
            )
            removed = [without(case) for case in cases]
            silent = [
                ask(case, facts, way, rng)[0].abstained
                for case, facts in zip(cases, removed, strict=True)
                if facts is not None
            ]
            rows.append(
                [
                    name,
                    way,
                    share(
                        [
                            result.answer == case.gold
                            for case, result in zip(cases, results, strict=True)
                        ]
                    ),
                    share([is_proof(case, result) for case, result in answered]),
                    str(invented),
                    share(silent),
                ]
            )
    head = ["set", "model", "right", "proofs valid", "facts invented", "abstains, fact removed"]
    sizes = ", ".join(f"{len(cases)} of {name}" for name, cases in sets.items())
    table(f"Selection-inference, {sizes}", head, rows)


def without(case: Case) -> list[str] | None:
    """Return the facts without one that every answer needs, `None` if there is no such one."""
    known = read(numbered(case.facts), case.question)
    goal = goal_of(case.question)
    for ids, _ in proof_path(known, goal):
        for id_ in ids:
            if not id_.startswith("f"):
                continue
            left = [text for each, text in numbered(case.facts).items() if each != id_]
            if not proof_path(read(numbered(left), case.question), goal):
                return left
    return None


def show_growth(sets: Mapping[str, Sequence[Case]]) -> None:
    """Print tokens by the number of inferences."""
    rows = []
    for name, cases in sets.items():
        found: dict[int, list[tuple[int, int]]] = defaultdict(list)
        for case in cases:
            result, model = ask(case, case.facts, WAYS[0], random.Random(0))
            depth = sum(step.step == "infer" for step in result.trace)
            found[depth].append(tokens_of(model, result))
        rows += growth(name, found)
    head = ["set", "steps", "questions", "tokens", "as a transcript", "ratio"]
    table("Tokens by inferences, a model that never errs", head, rows)


def tokens_of(model: ScriptedModel, result: ReasoningResult) -> tuple[int, int]:
    """Return the tokens of all calls, and of the same calls with all that was said before."""
    ours = 0
    before = 0
    transcript = 0
    written = result.usage.total.output // max(len(model.requests), 1)
    for request in model.requests:
        asked = COUNT(request)
        ours += asked + written
        transcript += before + asked + written
        before += asked + written
    return ours, transcript


def growth(name: str, found: Mapping[int, Sequence[tuple[int, int]]]) -> list[list[str]]:
    """Return the rows of a set, with the fit of a line through its means last."""
    rows, depths, means = [], [], []
    for depth, pairs in sorted(found.items()):
        ours, transcript = (sum(each) / len(pairs) for each in zip(*pairs, strict=True))
        depths.append(depth)
        means.append((ours, transcript))
        rows.append(
            [name, str(depth), str(len(pairs)), f"{ours:,.0f}", f"{transcript:,.0f}",
             f"{transcript / ours:.1f}"]
        )  # fmt: skip
    if len(depths) > 2:
        shown = [
            f"{slope:,.0f} a step, R2 {fit:.3f}"
            for slope, fit in (line(depths, [pair[at] for pair in means]) for at in (0, 1))
        ]
        rows.append([name, "a line through the means", "", *shown, ""])
    return rows


def line(xs: Sequence[float], ys: Sequence[float]) -> tuple[float, float]:
    """Return slope and R2 of the best line."""
    slope, start = np.polyfit(xs, ys, 1)
    left = np.array(ys) - (slope * np.array(xs) + start)
    whole = np.array(ys) - np.mean(ys)
    return float(slope), float(1 - (left @ left) / (whole @ whole))


# --- least-to-most --------------------------------------------------------------------------------

TURNS = {"left": "TURN_LEFT", "right": "TURN_RIGHT"}
TIMES = {"twice": 2, "thrice": 3}


def scan_actions(command: str) -> str:
    """Return the actions of a command without a conjunction and without a repetition."""
    verb, *rest = command.split()
    act = [] if verb == "turn" else [verb.upper()]
    if not rest:
        return " ".join(act)
    turn = TURNS[rest[-1]]
    if rest[0] == "around":
        return " ".join([turn, *act] * 4)
    return " ".join([turn] * (2 if rest[0] == "opposite" else 1) + act)


def scan_plan(command: str) -> str:
    """Return the plan of a command, its parts first."""
    lines, ends = [], []
    joined = re.split(r" (?:and|after) ", command)
    for part, letter in zip(joined, "ab", strict=False):
        core, _, last = part.rpartition(" ")
        if last in TIMES:
            lines += [f"{letter}1: {core}", f"{letter}2 ({letter}1): {part}"]
            ends.append(f"{letter}2")
        else:
            lines.append(f"{letter}1: {part}")
            ends.append(f"{letter}1")
    return "\n".join([*lines, f"q ({', '.join(ends)}): the question"])


def composer(rng: random.Random) -> ScriptedModel:
    """Return a model that plans, with faults, and composes answers of what it is shown."""

    def reply(messages: list[BaseMessage]) -> str:
        shown = str(messages[-1].text)
        if str(messages[0].text).startswith("Split the question"):
            asked = next(str(m.text) for m in messages if m.type == "human")
            plan = scan_plan(asked)
            if "refused" in shown or rng.random() > 1 / 3:
                return plan
            return rng.choice(
                [plan.replace(": the question", ": and then?"), "First I would jump."]
            )
        command = shown.rsplit("\n\n", 1)[-1]
        known = dict(re.findall(r"^\w+: (.+?) ((?:[A-Z_]+ ?)+)$", shown, re.MULTILINE))
        return f"Answer: {composed(command, {k: v.strip() for k, v in known.items()})}"

    return ScriptedModel([reply], when_exhausted="repeat_last", model_name="gpt-5-mini")


def composed(command: str, known: Mapping[str, str]) -> str:
    """Return the actions of a command, from those of its parts where it has any."""
    for word in (" and ", " after "):
        one, joined, other = command.partition(word)
        if joined:
            first, second = (one, other) if word == " and " else (other, one)
            return f"{known.get(first, 'UNKNOWN')} {known.get(second, 'UNKNOWN')}"
    core, _, last = command.rpartition(" ")
    if last in TIMES:
        return " ".join([known.get(core, "UNKNOWN")] * TIMES[last])
    return scan_actions(command)


def show_scan(data: Path, most: int) -> None:
    """Print what least-to-most makes of commands."""
    rng = random.Random(0)
    right, found = [], defaultdict[int, list[tuple[int, int]]](list)
    for row in list(rows_of(data / "reasoning/gold_scan_length_1000_dev.jsonl.gz"))[:most]:
        model = composer(rng)
        technique = LeastToMost(model, output="text", style="none")
        result = technique.invoke(row["question"])
        right.append(result.answer == row["gold"])
        steps = sum(step.step == "solve" for step in result.trace)
        found[steps].append(tokens_of(model, result))
    rows = growth("SCAN", found)
    head = ["set", "steps", "questions", "tokens", "as a transcript", "ratio"]
    table(f"Least-to-most on SCAN, {len(right)} commands: {share(right)} right", head, rows)


if __name__ == "__main__":
    main()
