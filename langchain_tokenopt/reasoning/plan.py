"""Plans of sub-questions: read, checked, written, and asked in waves."""

import re
from collections import Counter
from collections.abc import Collection, Mapping
from graphlib import CycleError, TopologicalSorter

from pydantic import BaseModel, ConfigDict, Field

from langchain_tokenopt.reasoning.extract_text import plain_key

ITSELF = "the question"
"""How the last step of a plan may be written, which is the question itself."""

_LINE = re.compile(
    r"^[\s*-]*(?:\d+[.)]\s+)?(?P<id>\w+)\s*(?:\((?P<uses>[\w\s,]*)\))?\s*:\s*(?P<question>\S.*)$"
)


class SubQuestion(BaseModel):
    """A step of a plan."""

    model_config = ConfigDict(frozen=True)

    id: str = Field(description="A short name, such as a.")
    question: str = Field(description="The question of this step.")
    depends_on: tuple[str, ...] = Field(description="Ids of the steps whose answers it needs.")


class Plan(BaseModel):
    """Smaller questions that lead to the answer of a question, which is the last of them."""

    model_config = ConfigDict(frozen=True)

    steps: tuple[SubQuestion, ...] = Field(description="The steps, the question itself last.")

    def __str__(self) -> str:
        """Return the plan as lines that `read_plan` reads."""
        return "\n".join(_line(step) for step in self.steps)

    def waves(self) -> list[tuple[str, ...]]:
        r"""Return the ids of steps that can be answered side by side, wave after wave.

        Raises:
            graphlib.CycleError: Steps wait for each other.

        >>> read_plan("a: A?\nb: B?\nc (a, b): the question").waves()
        [('a', 'b'), ('c',)]
        """
        sorter = TopologicalSorter({step.id: step.depends_on for step in self.steps})
        sorter.prepare()
        found = []
        while sorter.is_active():
            ready = set(sorter.get_ready())
            found.append(tuple(step.id for step in self.steps if step.id in ready))
            sorter.done(*ready)
        return found

    def ready(self, solved: Collection[str]) -> list[SubQuestion]:
        """Return the steps that are not solved and depend on solved ones only."""
        return [
            step
            for step in self.steps
            if step.id not in solved and all(each in solved for each in step.depends_on)
        ]


def direct(question: str) -> Plan:
    """Return the plan that asks the question itself and nothing else."""
    return Plan(steps=(SubQuestion(id="answer", question=question, depends_on=()),))


def read_plan(text: str) -> Plan | None:
    """Return the plan in a text: lines such as `b (a): Question?`; `None` if it holds none.

    >>> read_plan("none").steps, read_plan("Let me think.")
    ((), None)
    """
    matches = [match for match in map(_LINE.match, text.splitlines()) if match]
    if not matches:
        return Plan(steps=()) if plain_key(text) == "none" else None
    return Plan(
        steps=tuple(
            SubQuestion(
                id=match["id"],
                question=match["question"].strip(),
                depends_on=tuple(re.findall(r"\w+", match["uses"] or "")),
            )
            for match in matches
        )
    )


def problems_of(plan: Plan, *, question: str, max_steps: int) -> list[str]:
    r"""Return why a plan cannot be used, in words for the model; nothing if it can.

    >>> problems_of(read_plan("a (b): A?\nb (a): the question"), question="B?", max_steps=8)
    ['No step can depend on the last one.', 'The steps a, b wait for each other.']
    """
    steps = plan.steps
    ids = Counter(step.id for step in steps)
    problems = [f"The id {each} is used {count} times." for each, count in ids.items() if count > 1]
    problems += [f"{step.id} has no question." for step in steps if not step.question.strip()]
    problems += [
        f"{step.id} depends on {each}, which is no step."
        for step in steps
        for each in step.depends_on
        if each not in ids
    ]
    if len(steps) > max_steps:
        problems.append(f"{len(steps)} steps are too many, {max_steps} are allowed.")
    if not steps:
        return problems
    last, itself = steps[-1], (ITSELF, plain_key(question))
    problems += [
        f"{step.id} is the question itself, which is the last step."
        for step in steps[:-1]
        if plain_key(step.question) in itself
    ]
    if plain_key(last.question) not in itself:
        problems.append(f'The last step must be the question itself, written as "{ITSELF}".')
    if any(last.id in step.depends_on for step in steps):
        problems.append("No step can depend on the last one.")
    try:
        plan.waves()
    except CycleError as error:
        waiting = sorted(set(error.args[1]))
        problems.append(f"The steps {', '.join(waiting)} wait for each other.")
    return problems


def settled(plan: Plan, *, question: str) -> Plan:
    r"""Return a plan without problems as it is asked: the question in full, and nothing in vain.

    What no other step depends on, the last one does.

    >>> str(settled(read_plan("a: A?\nb: B?\nc (a): the question"), question="C?"))
    'a: A?\nb: B?\nc (a, b): C?'
    """
    if not plan.steps:
        return direct(question)
    *steps, last = plan.steps
    used = {each for step in plan.steps for each in step.depends_on}
    loose = tuple(step.id for step in steps if step.id not in used)
    depends_on = tuple(dict.fromkeys((*last.depends_on, *loose)))
    end = last.model_copy(update={"question": question, "depends_on": depends_on})
    return Plan(steps=(*steps, end))


def known_lines(step: SubQuestion, plan: Plan, answers: Mapping[str, str]) -> str:
    """Return what a step is told of those that it depends on, as far as they are answered."""
    return "\n".join(
        f"{each.id}: {each.question} {answers[each.id]}"
        for each in plan.steps
        if each.id in step.depends_on and each.id in answers
    )


def _line(step: SubQuestion) -> str:
    uses = f" ({', '.join(step.depends_on)})" if step.depends_on else ""
    return f"{step.id}{uses}: {step.question}"
