"""What can be told of a draft without a reference: the features of a gate's model.

They are plain numbers under names that a saved policy keeps. Where something is not there (no
steps, no log probabilities) a feature is 0, and a model fitted on such answers ignores it.
"""

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Protocol

from langchain_tokenopt.routing.arithmetic import Step, numbers_given, numbers_in, steps_of
from langchain_tokenopt.routing.attempt import Attempt

OWN_FEATURES = (
    "length", "question length", "announced", "hedges", "steps", "wrong steps", "unknown numbers",
    "unused numbers", "answer is the last result", "answer is a result", "answer is a fraction",
    "fractions", "logprobs known", "mean probability", "least probability",
)  # fmt: skip
PAIR_FEATURES = (
    "agreement", "shared results", "results found by the other", "shared numbers",
    "answer among the other's results", "other's answer among the results", "distance",
    "steps more or fewer",
)  # fmt: skip

_ANNOUNCED = re.compile(r"####|\banswer(?:\s+is\b|\s*:)|\\boxed|^A:", re.IGNORECASE | re.MULTILINE)
_HEDGE = re.compile(
    r"\b(?:not sure|unsure|unclear|cannot (?:be )?determine|can't determine|might be|possibly"
    r"|perhaps|i think|i believe|assum(?:e|ing)|it is possible|hard to say)\b",
    re.IGNORECASE,
)
_ALWAYS_KNOWN = (0.0, 1.0, 100.0)
_MOST_HEDGES = 3


class AnswerReader(Protocol):
    """What reads the answer out of a text; `None` is an abstention.

    The extractors of `langchain_tokenopt.reasoning` are such. If it has a method
    `same(one, other)`, answers are compared by it, otherwise by `==`.
    """

    def __call__(self, text: str, /) -> Any:
        """Return the answer."""
        ...


@dataclass(frozen=True, slots=True)
class Reading:
    """An answer, read once for all features."""

    text: str
    answer: Any
    """`None` where the reader abstains."""
    number: float | None
    """The answer, if it is a number."""
    steps: tuple[Step, ...]

    @property
    def results(self) -> frozenset[float]:
        """What the steps came to, as written."""
        return frozenset(step.result for step in self.steps)

    @property
    def operands(self) -> tuple[float, ...]:
        """What the steps computed with, in order."""
        return tuple(operand for step in self.steps for operand in step.operands)


def read_answer(text: str, reader: AnswerReader | None) -> Reading:
    """Return a text with its answer and its steps.

    >>> read_answer("3 * 4 = 12", lambda text: int(text.split()[-1])).number
    12.0
    """
    answer = None if reader is None else reader(text)
    number = None
    if isinstance(answer, int | float | Decimal) and not isinstance(answer, bool):
        number = float(answer)
    finite = number is not None and math.isfinite(number)
    return Reading(text, answer, number if finite else None, steps_of(text))


def answer_text(text: str, tool_calls: Sequence[Any] = ()) -> str:
    """Return what is compared and measured: the text, then the tool calls without their ids.

    >>> answer_text("", [{"name": "add", "args": {"b": 2, "a": 1}, "id": "7"}])
    '{"add": {"a": 1, "b": 2}}'
    """
    calls = [{call["name"]: call["args"]} for call in tool_calls]
    written = [json.dumps(call, sort_keys=True, default=str) for call in calls]
    return "\n".join([*([text] if text.strip() or not written else []), *written])


def text_of(attempt: Attempt) -> str:
    """Return `answer_text` of an attempt."""
    return answer_text(attempt["text"], attempt["tool_calls"])


def same_answer(reader: AnswerReader, one: Any, other: Any) -> bool:
    """Return whether two answers that a reader gave are the same; an abstention never is."""
    if one is None or other is None:
        return False
    same: Callable[[Any, Any], bool] | None = getattr(reader, "same", None)
    return bool(one == other if same is None else same(one, other))


def own_features(
    question: str, reading: Reading, metadata: Mapping[str, Any] | None = None
) -> dict[str, float]:
    """Return `OWN_FEATURES` of a draft.

    Args:
        question: What was asked.
        reading: The draft.
        metadata: Its `response_metadata`; log probabilities are read from it if they are there.
    """
    steps, number = reading.steps, reading.number
    results = [step.result for step in steps]
    used = set(numbers_in(reading.text))
    given = numbers_in(question)
    checked = [step for step in steps if step.value is not None]
    known_logprobs = _logprobs(metadata or {})
    return {
        "length": math.log1p(len(reading.text)),
        "question length": math.log1p(len(question)),
        "announced": float(_ANNOUNCED.search(reading.text) is not None),
        "hedges": float(min(len(_HEDGE.findall(reading.text)), _MOST_HEDGES)),
        "steps": math.log1p(len(steps)),
        "wrong steps": _share(sum(step.is_wrong for step in checked), len(checked)),
        "unknown numbers": _unknown(question, steps),
        "unused numbers": _share(len(set(given) - used), len(set(given))),
        "answer is the last result": float(bool(results) and _near(number, results[-1:])),
        "answer is a result": float(_near(number, results)),
        "answer is a fraction": float(number is not None and _is_fraction(number)),
        "fractions": _share(sum(map(_is_fraction, results)), len(results)),
        "logprobs known": float(bool(known_logprobs)),
        "mean probability": _probability(known_logprobs, _mean),
        "least probability": _probability(known_logprobs, min),
    }


def pair_features(draft: Reading, others: Sequence[Reading], same: int) -> dict[str, float]:
    """Return `PAIR_FEATURES` of a draft beside other answers to its question, their means.

    Args:
        draft: The draft.
        others: At least one.
        same: How many of them give the draft's answer.
    """
    each = [_pair(draft, other) for other in others]
    means = {name: _mean([row[name] for row in each]) for name in each[0]}
    return {"agreement": same / len(others), **means}


def _pair(draft: Reading, other: Reading) -> dict[str, float]:
    mine, theirs = draft.results, other.results
    common = len(mine & theirs)
    operands, their_operands = set(draft.operands), set(other.operands)
    return {
        "shared results": _share(common, len(mine | theirs)),
        "results found by the other": _share(common, len(theirs)),
        "shared numbers": _share(len(operands & their_operands), len(operands | their_operands)),
        "answer among the other's results": float(_near(draft.number, theirs)),
        "other's answer among the results": float(_near(other.number, mine)),
        "distance": _distance(draft.number, other.number),
        "steps more or fewer": float(min(abs(len(draft.steps) - len(other.steps)), 5)),
    }


def _unknown(question: str, steps: Sequence[Step]) -> float:
    """Return the share of operands that are neither given nor the result of a step before."""
    known = set(numbers_given(question)) | set(_ALWAYS_KNOWN)
    unknown = total = 0
    for step in steps:
        unknown += sum(operand not in known for operand in step.operands)
        total += len(step.operands)
        known.add(step.result)
    return _share(unknown, total)


def _logprobs(metadata: Mapping[str, Any]) -> list[float]:
    """Return the tokens' log probabilities in OpenAI's form, none where there are none."""
    found = metadata.get("logprobs")
    content = found.get("content") if isinstance(found, Mapping) else None
    tokens = content if isinstance(content, list) else []
    values = (token.get("logprob") for token in tokens if isinstance(token, Mapping))
    return [float(value) for value in values if isinstance(value, int | float) and value <= 0]


def _probability(logprobs: Sequence[float], pick: Callable[[Sequence[float]], float]) -> float:
    return math.exp(pick(logprobs)) if logprobs else 0.0


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _share(part: float, whole: int) -> float:
    return part / whole if whole else 0.0


def _near(number: float | None, among: Sequence[float] | frozenset[float]) -> bool:
    return number is not None and any(
        math.isclose(number, value, rel_tol=1e-3, abs_tol=1e-6) for value in among
    )


def _is_fraction(number: float) -> bool:
    return abs(number - round(number)) > 1e-6


def _distance(one: float | None, other: float | None) -> float:
    """Return by how many powers of ten two numbers differ, at most 2; 2 where one is missing."""
    if one is None or other is None:
        return 2.0
    return min(abs(math.log10((abs(one) + 1) / (abs(other) + 1))), 2.0)
