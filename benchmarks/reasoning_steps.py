"""Do selection-inference and least-to-most hold what they promise, and how do their tokens grow?

The model is written for this benchmark: it reads the prompts that it is sent, works by rules, and
errs on purpose. So nothing here says how well a language model reasons; it says what the technique
makes of it.

- Selection-inference on recorded PrOntoQA and ProofWriter ("Att", questions whose derived answer is
  the gold one). A model that errs selects facts at random, names ids that do not exist, writes
  nothing usable (10% of its selections each), and infers what does not follow (10% of inferences,
  half of them the answer or its opposite). A proof is valid if every given fact was given, every
  inference follows from what it names and the last one answers the question. "Fact removed": one
  that the answer needs is taken out, and nothing may be answered.
- Tokens by the number of inferences, on these sets and on chains of 150 made-up rules, against one
  chat that goes on: the facts are sent once and each call adds a short request, so every call reads
  all that was said before. "Billed" counts input that an earlier call of the run began with at a
  tenth, from 1,024 tokens on in steps of 128, as providers with a prompt cache do.
- The same runs with the answer asked for along with the selection, and with schemas.
- Least-to-most on SCAN's length split, against the published loop (the same plan, one step after
  the other, each with all questions and answers before it). A third of the plans have a fault, and
  an answer is composed only of the parts that are shown.

Tokens are those of requests and answers (o200k), schemas as JSON. Intervals are 95% (Wilson). Needs
`--data` or TOKENOPT_DATA.
"""

import json
import random
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolCall, UsageMetadata
from measure import data_arguments, has_recorded, json_rows, table
from prefilter import Fact, Rule, fact_of, kind, proof, rule_of, sentences_of
from reasoning_extract import share

from langchain_tokenopt import counter_for
from langchain_tokenopt.reasoning import (
    LeastToMost,
    ReasoningResult,
    SelectionInference,
    extract,
    read_plan,
)
from langchain_tokenopt.reasoning.structured import Output
from langchain_tokenopt.testing import ScriptedModel

COUNT = counter_for("gpt-5-mini").count_messages
WRITTEN = counter_for("gpt-5-mini").count_text
RATE = 0.1


def main() -> None:
    """Print the tables."""
    given = data_arguments(__doc__)
    data, most = given.data, 15 if given.quick else 1_000
    if not has_recorded(data, "reasoning"):
        return
    cases = {
        "PrOntoQA": list(prontoqa(data))[:most],
        "ProofWriter": list(proofwriter(data))[:most],
    }
    show_proofs(cases)
    chains = [chain_case(depth) for depth in ((2, 4, 8) if given.quick else (2, 5, 10, 20, 40))]
    show_growth({**cases, "150 rules": chains})
    show_ways({**cases, "150 rules": chains})
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
    for row in json_rows(data / "reasoning/gold_prontoqa_500_dev.jsonl.gz"):
        yield from case_of(row, row["gold"] == "A")


def proofwriter(data: Path) -> Iterator[Case]:
    """Yield the questions whose derived answer is the gold one."""
    for row in json_rows(data / "reasoning/gold_proofwriter_d5_600_dev.jsonl.gz"):
        if "_Att" not in row["id"] and "Att" not in row["id"].split("-")[0]:
            continue
        if row["gold"] != "C" and proof(row):
            yield from case_of(row, row["gold"] == "A")


def chain_case(depth: int) -> Case:
    """Return a question that takes `depth` inferences over 150 made-up rules."""
    rules = [f"Every k{at}pus is a k{at + 1}pus." for at in range(150)]
    random.Random(depth).shuffle(rules)
    return Case(("Max is a k0pus.", *rules), f"Is it true that Max is a k{depth}pus?", True)


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


def reasoner(question: str, rng: random.Random, *, errs: bool, output: Output) -> ScriptedModel:
    """Return a model that selects, infers and halts by rules, and errs if it should."""

    def reply(messages: list[BaseMessage]) -> AIMessage:
        task, shown = str(messages[0].text), str(messages[-1].text)
        if task.startswith("Choose the facts"):
            text = select(shown, merged="already give the answer" in task)
            return chosen(messages, text) if output == "structured" else said(messages, text)
        if task.startswith("Write the one new fact"):
            return said(messages, infer(shown))
        return said(messages, halt(shown.rpartition("Fact: ")[2]) or "Unknown")

    def halt(text: str) -> str | None:
        told = answer_of(question, statement(text))
        return None if told is None else f"Answer: {'yes' if told else 'no'}"

    def select(shown: str, *, merged: bool) -> str:
        texts = dict(re.findall(r"^([fd]\d+): (.+)$", shown, re.MULTILINE))
        draw = rng.random() if errs else 1.0
        if draw < RATE:
            return f"Facts: {', '.join(rng.sample(sorted(texts), 2))}"
        if draw < 2 * RATE:
            return "Facts: f997, d998"
        if draw < 3 * RATE:
            return "I would look at what is known of it."
        newest = list(texts)[-1]
        if merged and newest.startswith("d") and (told := halt(texts[newest])) is not None:
            return f"Facts: {newest}\n{told}"
        path = proof_path(read(texts, question), goal_of(question))
        return f"Facts: {', '.join(path[0][0])}" if path else "Facts: none"

    def infer(shown: str) -> str:
        if errs and rng.random() < RATE:
            name, goal, _ = goal_of(question)
            return sentence((name, rng.choice(["purple", "loud", goal, goal]), rng.random() < 0.5))
        step = next(one_step(read(numbered(shown.splitlines()), question)), None)
        return "nothing" if step is None else sentence(step[1])

    return ScriptedModel([reply], when_exhausted="repeat_last", model_name="gpt-5-mini")


def said(messages: list[BaseMessage], text: str) -> AIMessage:
    """Return an answer with its usage in tokens."""
    asked, written = COUNT(messages), WRITTEN(text)
    usage = UsageMetadata(input_tokens=asked, output_tokens=written, total_tokens=asked + written)
    return AIMessage(text, usage_metadata=usage)


def chosen(messages: list[BaseMessage], text: str) -> AIMessage:
    """Return the same answer in a schema."""
    facts, _, answer = text.removeprefix("Facts: ").partition("\nAnswer: ")
    ids = re.findall(r"[fd]\d+", facts)
    call = ToolCall(name="Selection", args={"facts": ids, "answer": answer}, id="1")
    usage = said(messages, json.dumps(call["args"])).usage_metadata
    return AIMessage("", tool_calls=[call], usage_metadata=usage)


def follows(question: str) -> Callable[[Any], bool]:
    """Return a check of inferences."""

    def check(inference: Any) -> bool:
        known = read(numbered(inference["facts"]), question)
        made = {sentence(fact) for _, fact in one_step(known)}
        return str(inference["conclusion"]) in made

    return check


def ask(
    case: Case,
    facts: Sequence[str],
    rng: random.Random,
    *,
    errs: bool = False,
    output: Output = "text",
    **options: Any,
) -> tuple[ReasoningResult, ScriptedModel]:
    """Return what comes of a case, and the model that was asked."""
    model = reasoner(case.question, rng, errs=errs, output=output)
    technique = SelectionInference(
        model,
        answer=extract.boolean,
        max_steps=50 if len(facts) > 100 else 10,
        output=output,
        **options,
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


def invented(case: Case, result: ReasoningResult) -> int:
    """Return how many facts of a trace were neither given nor inferred from others in it."""
    ids = {step.id for step in result.trace}
    return sum(
        step.text not in case.facts if step.step == "given" else not set(step.uses) <= ids
        for step in result.trace
    )


WAYS: dict[str, tuple[bool, bool]] = {
    "never errs": (False, False),
    "errs": (True, False),
    "errs, with a check": (True, True),
}
"""Whether the model errs, and whether its inferences are checked."""


def show_proofs(sets: Mapping[str, Sequence[Case]]) -> None:
    """Print what comes of each set and way."""
    rows = []
    for name, cases in sets.items():
        for way, (errs, checks) in WAYS.items():
            rng = random.Random(0)

            def result_of(
                case: Case,
                facts: Sequence[str],
                rng: random.Random = rng,
                errs: bool = errs,
                checks: bool = checks,
            ) -> ReasoningResult:
                check = follows(case.question) if checks else None
                return ask(case, facts, rng, errs=errs, check=check)[0]

            results = [result_of(case, case.facts) for case in cases]
            pairs = list(zip(cases, results, strict=True))
            answered = [(case, result) for case, result in pairs if not result.abstained]
            removed = [(case, left) for case in cases if (left := without(case)) is not None]
            silent = [result_of(case, left).abstained for case, left in removed]
            rows.append(
                [
                    name,
                    way,
                    share([result.answer == case.gold for case, result in pairs]),
                    f"{sum(result.answer != case.gold for case, result in answered)}",
                    share([is_proof(case, result) for case, result in answered]),
                    f"{sum(invented(case, result) for case, result in pairs)}",
                    share(silent),
                ]
            )
    head = ["set", "model", "right", "wrong", "proofs valid", "facts invented",
            "abstains, fact removed"]  # fmt: skip
    sizes = ", ".join(f"{len(cases)} of {name}" for name, cases in sets.items())
    table(f"Selection-inference, {sizes}; neither right nor wrong are abstentions", head, rows)


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


def steps_of(result: ReasoningResult, kind: str) -> int:
    """Return how many steps of a kind a trace has."""
    return sum(step.step == kind for step in result.trace)


def show_growth(sets: Mapping[str, Sequence[Case]]) -> None:
    """Print tokens by the number of inferences."""
    rows = []
    for name, cases in sets.items():
        found: dict[int, list[list[float]]] = defaultdict(list)
        for case in cases:
            result, model = ask(case, case.facts, random.Random(0))
            chat = chat_of(model)
            sums = [float(result.usage.total.total_tokens), chat_tokens(model, chat),
                    billed(model, model.requests), billed(model, chat)]  # fmt: skip
            found[steps_of(result, "infer")].append(sums)
        rows += growth(name, found)
    head = ["set", "inferences", "questions", "tokens", "one chat", "billed", "one chat, billed"]
    table("Tokens by inferences, a model that never errs", head, rows)


Request = Sequence[BaseMessage]


def replies(model: ScriptedModel) -> list[str]:
    """Return what a model that never errs wrote to its requests: it writes the same again."""
    return [str(model.answers[0](list(request)).text) for request in model.requests]


def chat_of(model: ScriptedModel) -> list[list[BaseMessage]]:
    """Return the requests of a chat that goes on through the same calls.

    A task is written out when it first comes up and named afterwards.
    """
    chat: list[BaseMessage] = []
    requests, seen = [], set[str]()
    for request, answer in zip(model.requests, replies(model), strict=True):
        task = str(request[0].text)
        if not chat:
            chat = list(request)
        else:
            chat.append(HumanMessage(f"Again: {task.partition(' ')[0]}." if task in seen else task))
        seen.add(task)
        requests.append(list(chat))
        chat.append(AIMessage(answer))
    return requests


def chat_tokens(model: ScriptedModel, requests: Sequence[Request]) -> float:
    """Return the tokens of requests and of the answers to them."""
    return sum(map(COUNT, requests)) + sum(map(WRITTEN, replies(model)))


def billed(model: ScriptedModel, requests: Sequence[Request]) -> float:
    """Return the tokens with input read from a prompt cache at a tenth."""
    total = chat_tokens(model, requests)
    before: list[str] = []
    for request in requests:
        text = "\n".join(str(message.text) for message in request)
        shared = max((shared_start(text, each) for each in before), key=len, default="")
        tokens = WRITTEN(shared)
        if tokens >= 1_024:
            total -= 0.9 * (tokens - tokens % 128)
        before.append(text)
    return total


def shared_start(one: str, other: str) -> str:
    """Return what two texts both begin with."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if one[:middle] == other[:middle] else (low, middle - 1)
    return one[:low]


def growth(name: str, found: Mapping[int, Sequence[Sequence[float]]]) -> list[list[str]]:
    """Return the rows of a set, with the fit of a line through its means last."""
    rows, means = [], []
    for depth, sums in sorted(found.items()):
        means.append([sum(each) / len(sums) for each in zip(*sums, strict=True)])
        shown = [f"{mean:,.0f}" for mean in means[-1]]
        rows.append([name, str(depth), str(len(sums)), *shown])
    if len(found) > 2:
        lines = (line(sorted(found), column) for column in zip(*means, strict=True))
        shown = [f"{slope:,.0f} a step, R2 {fit:.4f}" for slope, fit in lines]
        rows.append([name, "a line through the means", "", *shown])
    return rows


def line(xs: Sequence[float], ys: Sequence[float]) -> tuple[float, float]:
    """Return slope and R2 of the best line."""
    slope, start = np.polyfit(xs, ys, 1)
    left = np.array(ys) - (slope * np.array(xs) + start)
    whole = np.array(ys) - np.mean(ys)
    return float(slope), float(1 - (left @ left) / (whole @ whole))


OPTIONS: dict[str, dict[str, Any]] = {
    "text, separate halter": {},
    "text, merged": {"halting": "merged"},
    "schema": {"output": "structured"},
    "schema, reserved ids": {"output": "structured", "schema_ids": "reserved"},
    "schema, merged": {"output": "structured", "halting": "merged"},
}


def show_ways(sets: Mapping[str, Sequence[Case]]) -> None:
    """Print calls, tokens and what consecutive selections share, by options."""
    rows = []
    for name, cases in sets.items():
        for way, options in OPTIONS.items():
            calls = tokens = shared = read_again = 0
            for case in cases:
                result, model = ask(case, case.facts, random.Random(0), **options)
                assert result.answer == case.gold
                calls += result.usage.calls
                prompts = []
                tokens += result.usage.total.total_tokens
                for request, keywords in zip(model.requests, model.keywords, strict=True):
                    tools = keywords.get("tools")
                    tokens += WRITTEN(json.dumps(tools)) if tools else 0
                    if str(request[0].text).startswith("Choose the facts"):
                        texts = [json.dumps(tools), *(str(m.text) for m in request)]
                        prompts.append("\n".join(texts))
                for one, other in pairwise(prompts):
                    shared += WRITTEN(shared_start(one, other))
                    read_again += WRITTEN(other)
            share_ = f"{shared / read_again:.0%}" if read_again else "-"
            size = len(cases)
            rows.append([name, way, f"{calls / size:.1f}", f"{tokens / size:,.0f}", share_])
    head = ["set", "options", "calls", "tokens", "of a selection's prompt, sent before"]
    table("Options of selection-inference, a model that never errs; means", head, rows)


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
    joined = re.split(r" (?:and|after) ", command)
    if len(joined) == 1:
        core, _, last = command.rpartition(" ")
        return f"a: {core}\nq (a): the question" if last in TIMES else "none"
    lines, ends = [], []
    for part, letter in zip(joined, "ab", strict=True):
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

    def reply(messages: list[BaseMessage]) -> AIMessage:
        shown = str(messages[-1].text)
        if str(messages[0].text).startswith("Split the question"):
            plan = scan_plan(next(str(m.text) for m in messages if m.type == "human"))
            if "refused" not in shown and rng.random() < 1 / 3:
                faulty = plan.replace(": the question", ": and then?")
                plan = rng.choice([faulty, "First I would jump."])
            return said(messages, plan)
        command = shown.rsplit("\n\n", 1)[-1]
        known = dict(re.findall(r"^\w+: (.+?) ((?:[A-Z_]+ ?)+)$", shown, re.MULTILINE))
        parts = {part: actions.strip() for part, actions in known.items()}
        return said(messages, f"Answer: {composed(command, parts)}")

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
    right, repaired, found = [], 0, defaultdict[int, list[list[float]]](list)
    for row in list(json_rows(data / "reasoning/gold_scan_length_1000_dev.jsonl.gz"))[:most]:
        model = composer(rng)
        result = LeastToMost(model, output="text", style="none").invoke(row["question"])
        right.append(result.answer == row["gold"])
        repaired += result.usage.calls - steps_of(result, "solve") - 1
        waves = len(read_plan(result.trace[0].text).waves()) if len(result.trace) > 1 else 1  # type: ignore[union-attr]  # as written
        ours = float(result.usage.total.total_tokens)
        more = loop_tokens(result)
        solves = steps_of(result, "solve")
        found[solves].append([ours, ours + more, float(waves), float(solves)])
    rows = growth("SCAN", found)[: len(found)]
    head = ["set", "steps", "questions", "tokens", "published loop", "rounds",
            "published loop, rounds"]  # fmt: skip
    title = (
        f"Least-to-most on SCAN, {len(right)} commands: {share(right)} right, {repaired} repairs"
    )
    table(title, head, rows)


def loop_tokens(result: ReasoningResult) -> int:
    """Return what it costs more to send each step all questions and answers before it."""
    more = 0
    steps = [step for step in result.trace if step.step == "solve"]
    for at, step in enumerate(steps):
        unneeded = [each for each in steps[:at] if each.id not in step.uses]
        more += sum(WRITTEN(f"{each.id}: {each.text} {each.answer}\n") for each in unneeded)
        more += WRITTEN("Known:\n\n") if unneeded and not step.uses else 0
    return more


if __name__ == "__main__":
    main()
