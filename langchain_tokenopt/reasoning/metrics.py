"""Questions with their right answers, and what compares an output with one."""

from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Any, Protocol

from langchain_core.messages import BaseMessage

from langchain_tokenopt.errors import ConfigurationError
from langchain_tokenopt.reasoning import extract
from langchain_tokenopt.reasoning.extract import Answers, Extractor, same_answer
from langchain_tokenopt.reasoning.result import ReasoningResult

_TYPES: dict[str, tuple[type, ...]] = {
    "number": (Decimal, int),
    "boolean": (bool,),
    "date": (date,),
    "option": (str,),
    "text": (str,),
}


@dataclass(frozen=True, slots=True)
class LabelledSample:
    """A question with the answer that it should get."""

    input: Any
    """What the runnable is called with: a question, messages, a mapping."""
    gold: Any


class Metric(Protocol):
    """How good an output is."""

    def __call__(self, output: Any, gold: Any, /) -> float:
        """Return a score from 0 to 1 of what the runnable returned."""
        ...


def typed_equality(answer: Extractor = extract.text) -> Metric:
    """Return a metric that is 1 where the answer equals the gold one, as votes compare them.

    Text, messages and `ReasoningResult`s are read, other outputs are answers as they are. Gold
    answers that are text are read too, if the extractor is one of this package's.

    Args:
        answer: Reads and compares answers.

    >>> metric = typed_equality(extract.number)
    >>> metric("That is 1,000 in all.", "1000.0"), metric("I cannot say.", 3)
    (1.0, 0.0)
    """
    same = same_answer(answer)
    expected = _TYPES.get(answer.kind) if isinstance(answer, Answers) else None

    def checked(value: Any, what: str) -> Any:
        if expected is None or isinstance(value, expected):
            return value
        kind = getattr(answer, "kind", "")
        message = (
            f"expected {what} that is a {kind}, got {value!r:.80}; pass as metric a "
            "typed_equality(...) of the kind of your answers"
        )
        raise ConfigurationError(message)

    def metric(output: Any, gold: Any, /) -> float:
        wanted = gold
        if expected is not None and isinstance(gold, str | float):
            read = answer(str(gold))
            wanted = gold if read is None else read
        wanted = checked(wanted, "a gold answer")
        given = output.answer if isinstance(output, ReasoningResult) else output
        text = given.text if isinstance(given, BaseMessage) else given
        found = answer(str(text)) if isinstance(text, str) else text
        return float(found is not None and same(checked(found, "an answer"), wanted))

    return metric
