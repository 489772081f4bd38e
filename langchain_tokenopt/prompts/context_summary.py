"""A running summary of what a context window leaves out, made by a small model."""

from collections.abc import Generator, Sequence
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.prompt_values import PromptValue
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import Runnable, RunnableConfig

from langchain_tokenopt.errors import ConfigurationError
from langchain_tokenopt.prompts.context_edit import without_middle
from langchain_tokenopt.prompts.library import PromptLibrary
from langchain_tokenopt.prompts.library_template import LibraryTemplate
from langchain_tokenopt.tokens import TokenCounter, counter_for

_TEMPLATE = "summarise_conversation"
_TAKES = frozenset({"previous", "messages", "max_words"})
_NONE_YET = "(none)"
_SILENT: RunnableConfig = {"callbacks": []}


class Summarizer:
    """Writes what is left out into notes: each message once, the notes so far given with it.

    Args:
        model: A small model.
        max_tokens: Of the notes. It is asked for, not enforced: notes of more than twice as many
            are not used.
        prompt: A template that takes `previous`, `messages` and `max_words`; by default the
            library's `summarise_conversation`.
        max_input_tokens: Of the messages in one request; more take several requests.
        max_message_tokens: Longer messages, results of tools mostly, are cut in their middle.

    Raises:
        ConfigurationError: `model` is no chat model, or the prompt lacks a variable.
    """

    def __init__(
        self,
        model: BaseChatModel,
        *,
        max_tokens: int = 400,
        prompt: ChatPromptTemplate | LibraryTemplate | None = None,
        max_input_tokens: int = 8_000,
        max_message_tokens: int = 500,
    ) -> None:
        if not hasattr(model, "invoke"):
            message = f"expected a chat model to summarise with, got {type(model).__name__}"
            raise ConfigurationError(message)
        chosen = PromptLibrary.bundled().get(_TEMPLATE) if prompt is None else prompt
        lacking = _TAKES - set(chosen.get_input_schema().model_fields)
        if lacking:
            message = f"the prompt of the summary lacks {', '.join(sorted(lacking))}"
            raise ConfigurationError(message)
        if min(max_tokens, max_input_tokens, max_message_tokens) < 1:
            message = (
                "max_tokens, max_input_tokens and max_message_tokens must be at least 1, got "
                f"{max_tokens}, {max_input_tokens} and {max_message_tokens}"
            )
            raise ConfigurationError(message)
        self.model = model
        self.max_tokens = max_tokens
        self._prompt: Runnable[Any, Any] = chosen
        self._max_input_tokens = max_input_tokens
        self._max_message_tokens = max_message_tokens
        self._counter: TokenCounter = counter_for(None)

    def notes(
        self, texts: Sequence[str], *, previous: str | None
    ) -> Generator[list[BaseMessage], AIMessage | None, str | None]:
        """Yield requests, be sent their answers (`None` for one that failed), return the notes.

        `None` if any request failed or the notes are too long: nothing is half summarised.
        """
        notes = previous
        for part in self._parts(texts):
            prompt: PromptValue = self._prompt.invoke(
                {
                    "previous": notes or _NONE_YET,
                    "messages": part,
                    "max_words": max(self.max_tokens * 3 // 4, 1),
                },
                _SILENT,
            )
            answer = yield prompt.to_messages()
            written = "" if answer is None else str(answer.text).strip()
            if not written or self._counter.count_text(written) > 2 * self.max_tokens:
                return None
            notes = written
        return notes

    def _parts(self, texts: Sequence[str]) -> list[str]:
        parts: list[str] = []
        inside: list[str] = []
        tokens = 0
        for text in texts:
            line = without_middle(
                text, tokens=self._max_message_tokens, count_text=self._counter.count_text
            )
            size = self._counter.count_text(line)
            if inside and tokens + size > self._max_input_tokens:
                parts.append("\n".join(inside))
                inside, tokens = [], 0
            inside.append(line)
            tokens += size
        return [*parts, "\n".join(inside)] if inside else parts
