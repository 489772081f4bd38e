"""How many tokens a call will answer with, before it is made; what was learned is read from JSON.

A prediction is what is typical of the call's group (feature, model and template), moved by a few
small trees over the prompt's numbers. Its interval was calibrated on calls that the trees did not
see: conformalised quantile regression (Romano, Patterson and Candes,
https://arxiv.org/abs/1905.03222). `output_length_fit` learns it.
"""

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from langchain_core.messages import BaseMessage, get_buffer_string
from pydantic import TypeAdapter

from langchain_tokenopt.accounting import CallRecord
from langchain_tokenopt.accounting.totals import group_of
from langchain_tokenopt.advisor.log import LoggedCall
from langchain_tokenopt.errors import ConfigurationError
from langchain_tokenopt.files import read_json, write_whole
from langchain_tokenopt.messages import templates_of
from langchain_tokenopt.tokens import counter_for

_WORDS = re.compile(r"\w+|[^\w\s]")
# Stems that ask for more or less.
_STEMS = (
    "what why how when where who which list explain describe summar translat json brief short "
    "sentence paragraph code step only word answer write classif yes number option letter example "
    "compare"
).split()


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptFacts:
    """What is known of a call before it is made."""

    input_tokens: int
    model: str = ""
    feature: str = ""
    template: str = ""
    max_tokens: int | None = None
    text: str = ""
    """Of the prompt; without it, its length alone speaks."""

    @property
    def group(self) -> str:
        """What calls are alike by."""
        return f"{self.feature}\n{self.model}\n{self.template}"

    def numbers(self) -> list[float]:
        """Return what trees see of the prompt."""
        text = self.text.lower()
        words = _WORDS.findall(text)
        return [
            float(self.input_tokens),
            float(-1 if self.max_tokens is None else self.max_tokens),
            float(len(words)),
            float(len(set(words))),
            float(sum(map(len, words)) * 16 // max(len(words), 1)),
            float(sum(character.isdigit() for character in text)),
            float(text.count("\n")),
            float(text.count("?")),
            *(float(text.count(stem)) for stem in _STEMS),
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputExample:
    """A call that was made, and what it answered with."""

    facts: PromptFacts
    output_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputEstimate:
    """An estimate of the tokens of an answer."""

    typical: int
    """The median."""
    low: int
    high: int
    confidence: float
    """Of the interval, over calls like those that it was calibrated on, not for each kind alone."""

    def __str__(self) -> str:
        return (
            f"{self.typical} tokens ({self.confidence:.0%}: {self.low} to {self.high}, estimated)"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """A decision tree as arrays; a node whose left is -1 is a leaf."""

    left: tuple[int, ...]
    right: tuple[int, ...]
    column: tuple[int, ...]
    threshold: tuple[float, ...]
    value: tuple[float, ...]

    def at(self, row: Sequence[float]) -> float:
        """Return the value of the leaf that a row falls into."""
        node = 0
        while self.left[node] != -1:
            goes_left = row[self.column[node]] <= self.threshold[node]
            node = self.left[node] if goes_left else self.right[node]
        return self.value[node]


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantile:
    """A quantile of the logarithm of the tokens, less what is typical of the group."""

    base: float
    trees: tuple[Tree, ...]

    def at(self, row: Sequence[float]) -> float:
        """Return the quantile for a row."""
        return self.base + sum(tree.at(row) for tree in self.trees)


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputLengthModel:
    """Predicts the tokens of an answer; made by `fit_output_length`, or read by `load`."""

    typical: Mapping[str, float]
    """By group: the mean logarithm of the tokens, drawn to that of all calls if there are few."""
    elsewhere: float
    """Of all calls, for groups that were not seen."""
    names: tuple[str, ...]
    """Features and models that trees see, as `feature=...` and `model=...`."""
    low: Quantile
    middle: Quantile
    high: Quantile
    widened: float
    """What calibration adds to either side."""
    confidence: float
    fitted: int
    """Calls that it was fitted on."""
    calibrated: int
    """Other calls, that the interval rests on."""
    version: Literal[1] = 1

    def predict(self, facts: PromptFacts) -> OutputEstimate:
        """Return an estimate of the answer's tokens."""
        row = row_of(facts, self.names)
        offset = self.typical.get(facts.group, self.elsewhere)
        ends = (self.low.at(row) - self.widened, self.high.at(row) + self.widened)
        most = math.inf if facts.max_tokens is None else facts.max_tokens

        def tokens(logarithm: float) -> float:
            # Beyond e ** 20 no model answers; the bound keeps a wild tree from overflowing.
            return min(max(math.expm1(min(logarithm + offset, 20.0)), 0.0), most)

        low, high = math.floor(tokens(min(ends))), math.ceil(tokens(max(ends)))
        middle = round(tokens(self.middle.at(row)))
        return OutputEstimate(
            typical=min(max(middle, low), high), low=low, high=high, confidence=self.confidence
        )

    def as_json(self) -> str:
        """Return it as JSON."""
        return _CODEC.dump_json(self).decode() + "\n"

    def save(self, path: str | Path) -> None:
        """Write it as JSON."""
        write_whole(path, self.as_json().encode())

    @classmethod
    def load(cls, path: str | Path) -> "OutputLengthModel":
        """Return what `save` wrote.

        Raises:
            ConfigurationError: The file cannot be read, or holds something else.
        """
        made_by = "OutputLengthModel.save"
        found = read_json(path, _CODEC, expected="an output length model", made_by=made_by)
        columns = len(row_of(PromptFacts(input_tokens=0), found.names))
        for quantile in (found.low, found.middle, found.high):
            for tree in quantile.trees:
                _check(tree, columns, path)
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputErrors:
    """How predictions stood against what calls answered with."""

    calls: int
    mean_error: float
    """Mean absolute error of the median, in tokens."""
    covered: float
    """The share of calls within their interval."""
    mean_width: float
    """Of the intervals, in tokens."""


def measure_output_length(
    model: OutputLengthModel, examples: Iterable[OutputExample]
) -> OutputErrors:
    """Return how a model predicts calls that it has not seen: run it on new ones to see drift.

    Raises:
        ConfigurationError: There are no examples.
    """
    pairs = [(model.predict(each.facts), each.output_tokens) for each in examples]
    if not pairs:
        raise ConfigurationError("no examples to measure on; give calls that have usage")
    return OutputErrors(
        calls=len(pairs),
        mean_error=math.fsum(abs(found.typical - real) for found, real in pairs) / len(pairs),
        covered=sum(found.low <= real <= found.high for found, real in pairs) / len(pairs),
        mean_width=math.fsum(found.high - found.low for found, _ in pairs) / len(pairs),
    )


def facts_of(
    messages: Sequence[BaseMessage],
    *,
    model: str,
    feature: str = "",
    max_tokens: int | None = None,
) -> PromptFacts:
    r"""Return what is known of a call before it is made.

    >>> from langchain_core.messages import HumanMessage
    >>> facts_of([HumanMessage("Why?")], model="gpt-5-mini", feature="faq").group
    'faq\ngpt-5-mini\n'
    """
    return PromptFacts(
        input_tokens=counter_for(model).count_messages(messages),
        model=model,
        feature=feature,
        template=" ".join(templates_of(messages)),
        max_tokens=max_tokens,
        text=get_buffer_string(messages),
    )


def examples_of_log(calls: Iterable[LoggedCall]) -> Iterator[OutputExample]:
    """Yield what can be learned from a call log: the answered calls with usage."""
    for call in calls:
        usage = call.answer.usage_metadata if call.answer is not None else None
        if usage is None or call.error is not None or usage["output_tokens"] <= 0:
            continue
        asked = call.parameters
        most = asked.get("max_completion_tokens") or asked.get("max_tokens")
        yield OutputExample(
            facts=PromptFacts(
                input_tokens=usage["input_tokens"],
                model=call.model,
                feature=str(call.metadata.get("feature") or ""),
                template=" ".join(templates_of(call.messages)),
                max_tokens=most if isinstance(most, int) else None,
                text=get_buffer_string(call.messages),
            ),
            output_tokens=usage["output_tokens"],
        )


def examples_of_ledger(records: Iterable[CallRecord]) -> Iterator[OutputExample]:
    """Yield what can be learned from a ledger, which keeps no text: its live and batched calls."""
    for record in records:
        is_answer = record.kind in ("live", "batch") and not record.estimated
        if is_answer and record.usage.output > 0:
            yield OutputExample(
                facts=PromptFacts(
                    input_tokens=record.usage.input_tokens,
                    model=record.model_asked or record.model,
                    feature=record.feature or "",
                    template=group_of(record, "template"),
                ),
                output_tokens=record.usage.output,
            )


def row_of(facts: PromptFacts, names: Sequence[str]) -> list[float]:
    """Return the numbers of a prompt, and 1 for each name that is its feature or model."""
    own = {f"feature={facts.feature}", f"model={facts.model}"}
    return [*facts.numbers(), *(float(name in own) for name in names)]


def _check(tree: Tree, columns: int, path: str | Path) -> None:
    """Refuse a tree that would not end, or looks where nothing is."""
    size = len(tree.left)
    parts = (tree.right, tree.column, tree.threshold, tree.value)
    ends = size > 0 and all(len(part) == size for part in parts)
    for node, (left, right) in enumerate(zip(tree.left, tree.right, strict=False)):
        inner = node < left < size and node < right < size
        ends = ends and (left == -1 or (inner and 0 <= tree.column[node] < columns))
    if not ends:
        message = f"{path} holds no output length model: a tree is broken; fit it again"
        raise ConfigurationError(message)


_CODEC = TypeAdapter(OutputLengthModel)
