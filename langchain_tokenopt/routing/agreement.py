"""Second opinions on a draft: another sample in another form, or another cheap model."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, SystemMessage
from langchain_core.runnables import Runnable

from langchain_tokenopt.errors import ConfigurationError

Rewrite = Callable[[Sequence[BaseMessage]], Sequence[BaseMessage]]
"""Puts a request in another form."""

_MOST_SAMPLES = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class SecondOpinion:
    """Asks a model for its own answer, until one is the draft's or `samples` have been asked.

    An agreement of different models, or of different forms of the prompt, says more than that of
    samples of one prompt: their mistakes differ. Each sample is a call that is paid for.
    """

    model: BaseChatModel | Runnable[Any, AIMessage]
    """Another cheap model, or the draft's own with another prompt or temperature."""
    name: str = "second opinion"
    """Shown in traces and with the draft."""
    rewrite: Rewrite | None = None
    """Puts the request in another form; the request itself is sent without it."""
    samples: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.samples <= _MOST_SAMPLES:
            message = f"samples is a number from 1 to {_MOST_SAMPLES}, got {self.samples}"
            raise ConfigurationError(message)

    def request(self, messages: Sequence[BaseMessage]) -> list[BaseMessage]:
        """Return what the model is sent."""
        return list(messages if self.rewrite is None else self.rewrite(messages))


def with_instruction(instruction: str) -> Rewrite:
    """Return a rewrite that adds an instruction to the system prompt.

    >>> from langchain_core.messages import HumanMessage
    >>> in_code = with_instruction("Solve it as a Python program, then say what it prints.")
    >>> [message.type for message in in_code([HumanMessage("2 + 2?")])]
    ['system', 'human']
    """
    if not instruction.strip():
        message = "expected an instruction, got an empty text"
        raise ConfigurationError(message)

    def rewrite(messages: Sequence[BaseMessage]) -> Sequence[BaseMessage]:
        if messages and isinstance(messages[0], SystemMessage):
            first = SystemMessage(f"{messages[0].text}\n\n{instruction}")
            return [first, *messages[1:]]
        return [SystemMessage(instruction), *messages]

    return rewrite
