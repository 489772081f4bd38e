"""Labelled drafts: what a small and a strong model answered, and which of them was right."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from langchain_core.messages import AIMessage

from langchain_tokenopt.errors import ConfigurationError, LogFormatError
from langchain_tokenopt.routing.attempt import attempt_of
from langchain_tokenopt.routing.gate import RecordedDraft
from langchain_tokenopt.routing.gate_features import AnswerReader, same_answer


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledDraft:
    """A draft with whether it was right, beside the strong model's answer."""

    draft: RecordedDraft
    weak_right: bool
    strong_right: bool
    weak_cost: Decimal | None = None
    """Dollars; `None` if not known."""
    strong_cost: Decimal | None = None
    gate_cost: Decimal | None = None
    """Of all recorded opinions and the judge's calls."""

    @property
    def question(self) -> str:
        """What was asked."""
        return self.draft.question

    @property
    def gains(self) -> bool:
        """Whether the strong model would have gained something: accepting the draft is a loss."""
        return self.strong_right and not self.weak_right


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelFile:
    """The labels of a file, and what could not be read."""

    items: tuple[LabelledDraft, ...]
    problems: tuple[str, ...]
    """Lines left out, each with the reason."""


def labelled(
    question: str,
    weak: str,
    *,
    strong: str | None = None,
    weak_right: bool | None = None,
    strong_right: bool | None = None,
    reference: str | None = None,
    reader: AnswerReader | None = None,
    opinions: Sequence[str] = (),
    judged: float | None = None,
    metadata: Mapping[str, Any] | None = None,
    weak_cost: Decimal | None = None,
    strong_cost: Decimal | None = None,
    gate_cost: Decimal | None = None,
) -> LabelledDraft:
    """Return a label, from whichever of these is known.

    Stated correctness counts first. What is not stated is compared with the reference, and without
    one the strong answer is the reference: a label needs no human where the strong model is the
    standard.

    Args:
        question: What was asked.
        weak: The small model's answer.
        strong: The strong model's answer.
        weak_right: Whether the small model was right, if known.
        strong_right: Whether the strong model was right, if known.
        reference: The right answer.
        reader: Reads the answers out of texts.
        opinions: Second opinions as they were asked for.
        judged: The judge's score, 0 to 1.
        metadata: The small model's `response_metadata`.
        weak_cost: Dollars.
        strong_cost: Dollars.
        gate_cost: Dollars for all opinions and the judge.

    Raises:
        ConfigurationError: Whether an answer was right cannot be told.

    >>> label = labelled("2 + 2?", "It is 5", strong="It is 4", reader=lambda text: text[-1])
    >>> label.weak_right, label.strong_right, label.gains
    (False, True, True)
    """
    against = strong if reference is None else reference
    if strong_right is None:
        strong_right = True if reference is None else _right(strong, reference, reader)
    if weak_right is None:
        weak_right = _right(weak, against, reader)
    message = AIMessage(weak, response_metadata=dict(metadata or {}))
    return LabelledDraft(
        draft=RecordedDraft(
            question=question,
            attempt=attempt_of(message, tier="weak", latency_s=0.0),
            opinions=tuple(opinions),
            judged=judged,
            metadata=metadata,
        ),
        weak_right=weak_right,
        strong_right=strong_right,
        weak_cost=weak_cost,
        strong_cost=strong_cost,
        gate_cost=gate_cost,
    )


def read_labels(path: Path, *, reader: AnswerReader | None = None) -> LabelFile:
    """Return the labels in a JSONL file; lines that are none are told, not raised.

    A line has `question` and `weak` (the answer), and may have `strong`, `reference`,
    `weak_correct`, `strong_correct`, `opinions` (a list), `judged` (0 to 1), `logprobs` (as OpenAI
    gives them), `weak_cost`, `strong_cost` and `gate_cost` (dollars).

    Raises:
        LogFormatError: No line of it is a label.
    """
    items: list[LabelledDraft] = []
    problems: list[str] = []
    for number, row in _rows(path):
        try:
            items.append(_labelled(row, reader))
        except (ConfigurationError, json.JSONDecodeError) as error:
            problems.append(f"line {number}: {error}")
    if not items:
        first = f"; {problems[0]}" if problems else ""
        message = f"expected JSON lines with `question` and `weak`, got none in {path}{first}"
        raise LogFormatError(message)
    return LabelFile(items=tuple(items), problems=tuple(problems))


def _rows(path: Path) -> Iterator[tuple[int, str]]:
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield number, line


def _labelled(line: str, reader: AnswerReader | None) -> LabelledDraft:
    row = json.loads(line)
    if not isinstance(row, dict):
        raise ConfigurationError(f"expected an object, got {type(row).__name__}")
    logprobs, opinions = row.get("logprobs"), row.get("opinions") or ()
    if not isinstance(opinions, list | tuple) or not all(isinstance(o, str) for o in opinions):
        raise ConfigurationError(f"`opinions` must be a list of texts, got {opinions!r:.60}")
    judged = row.get("judged")
    if judged is not None and not (_is_number(judged) and 0 <= judged <= 1):
        raise ConfigurationError(f"`judged` must be a number from 0 to 1, got {judged!r:.60}")
    return labelled(
        _text(row, "question"),
        _text(row, "weak"),
        strong=_text(row, "strong") if row.get("strong") is not None else None,
        weak_right=_truth(row, "weak_correct"),
        strong_right=_truth(row, "strong_correct"),
        reference=_text(row, "reference") if row.get("reference") is not None else None,
        reader=reader,
        opinions=opinions,
        judged=judged,
        metadata=None if logprobs is None else {"logprobs": logprobs},
        weak_cost=_money(row, "weak_cost"),
        strong_cost=_money(row, "strong_cost"),
        gate_cost=_money(row, "gate_cost"),
    )


def _right(text: str | None, reference: str | None, reader: AnswerReader | None) -> bool:
    if text is None or reference is None or reader is None:
        message = (
            "whether the answer was right cannot be told; give weak_correct and strong_correct, or "
            "the strong answer or a reference together with a reader of answers"
        )
        raise ConfigurationError(message)
    right = reader(reference)
    if right is None:
        message = f"no answer can be read from {reference[-60:]!r}, which is to be compared with"
        raise ConfigurationError(message)
    return same_answer(reader, reader(text), right)


def _text(row: Mapping[str, Any], name: str) -> str:
    value = row.get(name)
    if not isinstance(value, str):
        raise ConfigurationError(f"`{name}` must be a text, got {value!r:.60}")
    return value


def _truth(row: Mapping[str, Any], name: str) -> bool | None:
    value = row.get(name)
    if value is not None and not isinstance(value, bool):
        raise ConfigurationError(f"`{name}` must be true or false, got {value!r:.60}")
    return value


def _money(row: Mapping[str, Any], name: str) -> Decimal | None:
    value = row.get(name)
    if value is None:
        return None
    try:
        amount = Decimal(str(value))
    except InvalidOperation:
        amount = Decimal(-1)
    if not amount.is_finite() or amount < 0 or isinstance(value, bool):
        raise ConfigurationError(f"`{name}` must be dollars of 0 or more, got {value!r:.60}")
    return amount


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
