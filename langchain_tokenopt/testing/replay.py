"""A chat model that answers from recorded samples of a real one, the same way every time."""

import gzip
import json
import random
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LangSmithParams
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, UsageMetadata
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from pydantic import ConfigDict, PrivateAttr

from langchain_tokenopt.errors import ConfigurationError, LogFormatError, ScriptExhaustedError
from langchain_tokenopt.messages import last_human_text
from langchain_tokenopt.tokens import counter_for


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedQuestion:
    """A question and what a model answered to it, once or many times."""

    question: str
    samples: tuple[str, ...]
    input_tokens: int | None = None
    output_tokens: tuple[int, ...] | None = None
    """One for each sample."""
    gold: str | None = None
    """The right answer, if known."""

    def __post_init__(self) -> None:
        """Refuse a record that cannot be replayed."""
        if not self.samples:
            message = (
                f"a recorded question needs at least one sample, {self.question!r:.80} has none"
            )
            raise ConfigurationError(message)
        if self.output_tokens is not None and len(self.output_tokens) != len(self.samples):
            message = (
                f"expected one output token count for each of {len(self.samples)} samples, "
                f"got {len(self.output_tokens)}"
            )
            raise ConfigurationError(message)


class ReplayModel(BaseChatModel):
    """Answer recorded questions with their recorded samples.

    Repeated calls for one question draw its samples without repeating one, in an order fixed by
    `seed` and the question alone: neither the order in which questions come nor threads change
    what is drawn. `n=` draws several for one prompt. A question that was not recorded is an error,
    never a made-up answer.

    Args:
        recorded: The questions.
        model_name: Reported as the model that served.
        seed: Fixes the order of the samples; another seed draws another order.
        usage: `"recorded"` reports the recorded token counts and counts what is missing,
            `"counted"` counts everything. `response_metadata["usage_source"]` says which.
        when_exhausted: What a call after the last sample gets: an error, or the first again.
        question_of: Finds the question in the messages; by default the last human text, which may
            hold more than the question.

    >>> model = ReplayModel([RecordedQuestion(question="2 + 2?", samples=("4",))])
    >>> model.invoke("Think. 2 + 2?").text
    '4'
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    recorded: list[RecordedQuestion]
    model_name: str = "replay"
    seed: int = 0
    usage: Literal["recorded", "counted"] = "recorded"
    when_exhausted: Literal["raise", "cycle"] = "raise"
    question_of: Callable[[Sequence[BaseMessage]], str] = last_human_text

    _lock: threading.Lock = PrivateAttr(default_factory=threading.Lock)
    _by_question: dict[str, RecordedQuestion] = PrivateAttr(default_factory=dict)
    _drawn: dict[str, int] = PrivateAttr(default_factory=dict)

    def __init__(self, recorded: Iterable[RecordedQuestion], **keywords: Any) -> None:
        super().__init__(**{"recorded": list(recorded), **keywords})
        for question in self.recorded:
            if question.question in self._by_question:
                message = f"the question {question.question!r:.80} is recorded twice"
                raise ConfigurationError(message)
            self._by_question[question.question] = question

    @classmethod
    def from_jsonl(cls, path: str | Path, *, model: str | None = None, **keywords: Any) -> Self:
        """Read recordings from JSON Lines, also gzipped: one object a line.

        An object has `question` and `samples`, or `models`, of which `model` is taken, with
        `samples` or `text` inside. `gold`, `in_tokens` and `out_tokens` are read where present.
        Lines without samples of the model are left out.
        """
        questions = [
            question
            for number, row in _rows(Path(path))
            if (question := _recorded(row, model=model, where=f"{path}, line {number}"))
        ]
        if not questions:
            message = f"{path} holds no samples" + (f" of {model}" if model else "")
            raise ConfigurationError(message)
        return cls(questions, **{"model_name": model or "replay", **keywords})

    @property
    def calls(self) -> int:
        """How many samples were drawn."""
        with self._lock:
            return sum(self._drawn.values())

    @property
    def _llm_type(self) -> str:
        return "replay"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {"model_name": self.model_name, "seed": self.seed}

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        return LangSmithParams(
            ls_provider="replay", ls_model_name=self.model_name, ls_model_type="chat"
        )

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        *,
        n: int = 1,
        **kwargs: Any,
    ) -> ChatResult:
        question = self._find(messages)
        numbers = self._draw(question, n)
        usage, source = self._usage(messages, question, numbers)
        metadata = {"model_name": self.model_name, "usage_source": source}
        generations = [
            ChatGeneration(
                message=AIMessage(
                    question.samples[number],
                    # As providers do: every choice carries the usage of the whole request.
                    usage_metadata=usage,
                    response_metadata=metadata,
                )
            )
            for number in numbers
        ]
        return ChatResult(generations=generations, llm_output={"model_name": self.model_name})

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        message: Any = self._generate(messages, stop, **kwargs).generations[0].message
        for piece in message.text.splitlines(keepends=True):
            chunk = ChatGenerationChunk(message=AIMessageChunk(content=piece))
            if run_manager:
                run_manager.on_llm_new_token(piece, chunk=chunk)
            yield chunk
        yield ChatGenerationChunk(
            message=AIMessageChunk(
                content="",
                usage_metadata=message.usage_metadata,
                response_metadata=message.response_metadata,
                chunk_position="last",
            )
        )

    def _find(self, messages: Sequence[BaseMessage]) -> RecordedQuestion:
        text = self.question_of(messages)
        exact = self._by_question.get(text)
        if exact is not None:
            return exact
        inside = [recorded for asked, recorded in self._by_question.items() if asked in text]
        if not inside:
            message = (
                f"none of the {len(self.recorded)} recorded questions is in {text!r:.200}; record "
                "it, or pass `question_of` if the question is in another message"
            )
            raise ScriptExhaustedError(message)
        return max(inside, key=lambda recorded: len(recorded.question))

    def _draw(self, question: RecordedQuestion, n: int) -> list[int]:
        most = len(question.samples)
        with self._lock:
            first = self._drawn.get(question.question, 0)
            if first + n > most and self.when_exhausted == "raise":
                message = (
                    f"{first + n} samples were asked for and {most} recorded of "
                    f'{question.question!r:.80}; set when_exhausted to "cycle" to draw them again'
                )
                raise ScriptExhaustedError(message)
            self._drawn[question.question] = first + n
        order = list(range(most))
        random.Random(f"{self.seed}:{question.question}").shuffle(order)  # noqa: S311 - sampling
        return [order[turn % most] for turn in range(first, first + n)]

    def _usage(
        self, messages: Sequence[BaseMessage], question: RecordedQuestion, numbers: Sequence[int]
    ) -> tuple[UsageMetadata, str]:
        counter = counter_for(self.model_name)
        recorded = self.usage == "recorded"
        read = question.input_tokens if recorded else None
        written = question.output_tokens if recorded else None
        given = counter.count_messages(messages) if read is None else read
        made = sum(
            counter.count_text(question.samples[number]) if written is None else written[number]
            for number in numbers
        )
        usage = UsageMetadata(input_tokens=given, output_tokens=made, total_tokens=given + made)
        known = (read is not None) + (written is not None)
        return usage, ("counted", "partly recorded", "recorded")[known]


def _rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    opener: Any = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                message = f"{path}, line {number}: not JSON ({error})"
                raise LogFormatError(message) from error
            if not isinstance(row, dict) or not isinstance(row.get("question"), str):
                message = f"{path}, line {number}: expected an object with `question`"
                raise LogFormatError(message)
            yield number, row


def _recorded(row: Mapping[str, Any], *, model: str | None, where: str) -> RecordedQuestion | None:
    source: Mapping[str, Any] = row
    if "models" in row:
        if model is None:
            message = f"{where}: pass model=, one of {', '.join(sorted(row['models']))}"
            raise ConfigurationError(message)
        source = row["models"].get(model) or {}
    samples = source.get("samples") or ([source["text"]] if source.get("text") else [])
    if not samples:
        return None
    written = source.get("out_tokens")
    gold = row.get("gold")
    return RecordedQuestion(
        question=row["question"],
        samples=tuple(map(str, samples)),
        input_tokens=source.get("in_tokens", row.get("in_tokens")),
        output_tokens=tuple(written) if written and len(written) == len(samples) else None,
        gold=None if gold is None else str(gold),
    )
