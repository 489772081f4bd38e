"""Reach 24: a small model proposes operations, exact arithmetic checks them, a model scores.

The question is four numbers, "4 9 10 13", to be combined by + - * / into 24. What the arithmetic
decides costs no tokens: an operation that is wrong or uses a number that is not left is dropped,
the same numbers are looked at once, and the search ends with the first path that reaches 24.

Serve it with `langgraph dev`; it needs OPENAI_API_KEY. The models are read from
TOKENOPT_SMALL_MODEL, which proposes, and TOKENOPT_LARGE_MODEL, which scores. For a puzzle of your
own replace `check`, `state` and the prompt.
"""

import os
import re
from collections import Counter
from fractions import Fraction
from functools import cache
from typing import Any

from langchain_core.prompts import ChatPromptTemplate
from langchain_openai import ChatOpenAI
from langgraph.graph.state import CompiledStateGraph

from langchain_tokenopt.reasoning.tree_of_thoughts import PathVerdict, TreeOfThoughts
from langchain_tokenopt.reasoning.tree_search import Beam, ThoughtPath

TARGET = 24
_NUMBER = r"\(?(-?\d+(?:\.\d+|/\d+)?)\)?"
_STEP = re.compile(rf"\s*{_NUMBER}\s*([-+*/])\s*{_NUMBER}\s*=\s*{_NUMBER}\s*\(left:([^()]*)\)")
_PROPOSE = """\
Combine the numbers of the input by + - * / until 24 is left. A step takes two of the numbers that \
are left and puts their result in their place, exactly, with fractions such as 2/3 where there are \
any. Propose different next steps. Write each as one numbered line, and nothing else, like:
1. 10 - 4 = 6 (left: 5 6 6)"""


@cache
def graph() -> CompiledStateGraph[Any, Any, Any, Any]:
    """Return the compiled graph, made on first use: importing this file needs no key."""
    small = ChatOpenAI(model=os.environ.get("TOKENOPT_SMALL_MODEL", "gpt-5-mini"))
    large = ChatOpenAI(model=os.environ.get("TOKENOPT_LARGE_MODEL", "gpt-5.1"))
    steps = "Input: {question}\nSteps so far:\n{steps}\n\nNext steps, {count} at most:"
    return TreeOfThoughts(
        small,
        scorer=large,
        depth=3,
        count=8,
        search=Beam(5),
        check=check,
        state_key=state,
        propose_prompt=ChatPromptTemplate([("system", _PROPOSE), ("user", steps)]),
    ).as_graph()


def check(path: ThoughtPath) -> PathVerdict:
    """Tell exactly whether the steps reach 24, cannot, or have numbers left to combine."""
    left = numbers(path.question)
    for thought in path.thoughts:
        step = _STEP.match(thought)
        if step is None:
            return "dead"
        one, other, said = number(step[1]), number(step[3]), number(step[4])
        taken = Counter(value for value in (one, other) if value is not None)
        result = applied(step[2], one, other)
        if result is None or result != said or not taken <= left:
            return "dead"
        left = left - taken + Counter([result])
        if numbers(step[5]) != left:
            return "dead"
    if left.total() > 1:
        return "undecided"
    return "solved" if TARGET in left else "dead"


def state(path: ThoughtPath) -> str:
    """Return the numbers that are left, in one order."""
    left = numbers(path.thoughts[-1].partition("left:")[2])
    return " ".join(sorted(map(str, left.elements()))) or path.thoughts[-1]


def applied(sign: str, one: Fraction | None, other: Fraction | None) -> Fraction | None:
    """Return the result of an operation, `None` if it has none."""
    if one is None or other is None or (sign == "/" and other == 0):
        return None
    results = {"+": one + other, "-": one - other, "*": one * other}
    return results[sign] if sign in results else one / other


def numbers(text: str) -> Counter[Fraction]:
    """Return the numbers of a text and how often each is there."""
    found = (number(part) for part in re.findall(r"-?\d+(?:\.\d+|/\d+)?", text))
    return Counter(value for value in found if value is not None)


def number(text: str) -> Fraction | None:
    """Return a number, `None` for a division by 0."""
    try:
        return Fraction(text)
    except ZeroDivisionError:
        return None
