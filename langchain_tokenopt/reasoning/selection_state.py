"""What selection-inference knows between two calls, as plain data that a checkpoint can keep."""

from collections.abc import Mapping, Sequence
from typing import Any

from langchain_tokenopt.reasoning.facts import numbered
from langchain_tokenopt.reasoning.result import TraceStep
from langchain_tokenopt.reasoning.technique import TechniqueState


class SelectionState(TechniqueState):
    """State of the graph; what was inferred is its `trace`."""

    asked: str
    """The question, without the facts."""
    given: list[str]
    next: str
    """The node that comes next."""
    selected: list[str]
    candidate: str
    """What was inferred and is still to be checked."""
    newest: str
    """Id of the fact that the halter is to see."""
    seen: list[str]
    """Ids that the halter has seen."""
    fruitless: list[list[str]]
    """Selections from which nothing new came."""
    problem: str
    """Why the last selection could not be used."""
    steps: int
    stalled: int
    """Steps since the last new fact."""
    refused: int
    """Selections that could not be used, nor when they were asked for again."""


def first_state(question: str, facts: Sequence[str]) -> dict[str, Any]:
    """Return the update that begins with a question and facts."""
    return {
        "asked": question,
        "given": list(facts),
        "next": "select",
        "selected": [],
        "candidate": "",
        "newest": "",
        "seen": [],
        "fruitless": [],
        "problem": "",
        "steps": 0,
        "stalled": 0,
        "refused": 0,
    }


def known_facts(state: Mapping[str, Any]) -> list[TraceStep]:
    """Return the given facts and then the inferred ones, oldest first."""
    inferred = [TraceStep.model_validate(step) for step in state["trace"]]
    return [*numbered(state["given"]), *inferred]


def selected_texts(state: Mapping[str, Any]) -> list[str]:
    """Return the texts of the selected facts."""
    return [fact.text for fact in known_facts(state) if fact.id in state["selected"]]


def so_far(state: Mapping[str, Any]) -> str:
    """Return what a selection is told of the steps before: what they inferred, and what failed."""
    lines = [f"{step['id']}: {step['text']}" for step in state["trace"]] or ["nothing"]
    lines += [f"Nothing new follows from {', '.join(ids)}." for ids in state["fruitless"]]
    if state["problem"]:
        lines.append(f"Your last choice was refused: {state['problem']} Choose again.")
    return "\n".join(lines)


def was_tried(state: Mapping[str, Any], ids: Sequence[str]) -> bool:
    """Return whether something was inferred from just these facts, or found not to follow."""
    tried = [set(step["uses"]) for step in state["trace"]]
    return set(ids) in [*tried, *map(set, state["fruitless"])]


def stalled(state: Mapping[str, Any], selected: Sequence[str] = ()) -> dict[str, Any]:
    """Return the update of a step that gave no new fact."""
    fruitless = state["fruitless"]
    if selected and set(selected) not in map(set, fruitless):
        fruitless = [*fruitless, list(selected)]
    return {
        "next": "select",
        "steps": state["steps"] + 1,
        "stalled": state["stalled"] + 1,
        "fruitless": fruitless,
    }


def unusable(state: Mapping[str, Any], problem: str) -> dict[str, Any]:
    """Return the update of a selection that cannot be used: it is asked for once again."""
    if not state["problem"]:
        return {"next": "select", "problem": problem}
    return {**stalled(state), "refused": state["refused"] + 1}


def added(state: Mapping[str, Any], text: str) -> dict[str, Any]:
    """Return the update of a step that gave a new fact."""
    step = TraceStep(
        id=f"d{len(state['trace']) + 1}", step="infer", text=text, uses=tuple(state["selected"])
    )
    return {
        "next": "halt",
        "newest": step.id,
        "steps": state["steps"] + 1,
        "stalled": 0,
        "trace": [step.model_dump()],
    }
