"""Count the tokens of a text or of a whole request, as the provider bills its input."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    ChatMessage,
    SystemMessage,
    ToolMessage,
)

from langchain_tokenopt.tokens.attachments import audio_tokens, file_tokens
from langchain_tokenopt.tokens.calibration import Calibration
from langchain_tokenopt.tokens.choice import load_encoding
from langchain_tokenopt.tokens.encodings import TextEncoding
from langchain_tokenopt.tokens.images import image_tokens
from langchain_tokenopt.tokens.models import encoding_of
from langchain_tokenopt.tokens.tools import tools_tokens

# OpenAI's cookbook, How to count tokens with tiktoken, section 6.
_TOKENS_A_MESSAGE = 3
_TOKENS_A_NAME = 1
_TOKENS_A_CALL_ID = 3
_TOKENS_OF_PRIMING = 3

_IMAGES = frozenset({"image", "image_url", "input_image"})
_FILES = frozenset({"file", "input_file", "document"})
_SOUNDS = frozenset({"audio", "input_audio"})
# Calls are counted from `tool_calls`; reasoning of earlier turns is not sent back as input.
_NOT_SENT = frozenset(
    {
        "code_interpreter_call",
        "function_call",
        "invalid_tool_call",
        "reasoning",
        "reasoning_content",
        "redacted_thinking",
        "thinking",
        "tool_call",
        "tool_call_chunk",
        "tool_use",
    }
)
_ROLES = {"human": "user", "ai": "assistant"}


class TokenCounter(Protocol):
    """Counts tokens for one model."""

    @property
    def name(self) -> str:
        """Who counts, for reports: `toktok-rs/o200k_base`, `tiktoken/o200k_base`, `estimate`."""

    @property
    def estimated(self) -> bool:
        """Whether counts are estimates: no vocabulary here, or the model's own is not public."""

    def count_text(self, text: str) -> int:
        """Return the tokens of `text`; special tokens in it count as ordinary text."""

    def count_messages(self, messages: Sequence[BaseMessage], *, tools: Sequence[Any] = ()) -> int:
        """Return the input tokens of a request with these messages and tools."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatCounter:
    """Counts for `model`; made by `counter_for`."""

    model: str | None
    calibration: Calibration | None = None
    encoding: TextEncoding | None = None
    """Counts instead of the best one on this machine."""

    @property
    def name(self) -> str:
        """Who counts, for reports."""
        return self._encoding.name

    @property
    def estimated(self) -> bool:
        """Whether counts are estimates."""
        return not (self._encoding.exact and encoding_of(self.model).exact)

    def count_text(self, text: str) -> int:
        """Return the tokens of `text`; special tokens in it count as ordinary text."""
        return self._calibrated(self._encoding.count(text))

    def count_messages(self, messages: Sequence[BaseMessage], *, tools: Sequence[Any] = ()) -> int:
        """Return the input tokens of a request, the priming of the answer included.

        Text and calls are counted as `ChatOpenAI.get_num_tokens_from_messages` does. Images follow
        the provider's formula, remote ones are taken to be 1,024 pixels square and never fetched;
        tools follow OpenAI's cookbook; files and sounds are assumptions.
        """
        return self._calibrated(self._count_request(messages, tools))

    def learn(
        self, messages: Sequence[BaseMessage], *, reported: int, tools: Sequence[Any] = ()
    ) -> None:
        """Tell the calibration how many input tokens the provider reported for a request."""
        if self.calibration is not None and self.model is not None:
            counted = self._count_request(messages, tools)
            self.calibration.observe(self.model, counted=counted, reported=reported)

    @property
    def _encoding(self) -> TextEncoding:
        # Looked up on use: making a counter costs nothing, the first count loads a vocabulary.
        return self.encoding or load_encoding(encoding_of(self.model).name)

    def _calibrated(self, count: int) -> int:
        if self.calibration is None or self.model is None or not self.estimated:
            return count
        return round(count * self.calibration.ratio(self.model))

    def _count_request(self, messages: Sequence[BaseMessage], tools: Sequence[Any]) -> int:
        encoding = self._encoding
        count = _TOKENS_OF_PRIMING
        for message in messages:
            count += _TOKENS_A_MESSAGE + _framing(message)
            count += sum(encoding.count(text) for text in _texts_of(message))
            if not isinstance(message.content, str):
                count += sum(self._block(block, encoding) for block in message.content)
        name = encoding_of(self.model).name
        return count + tools_tokens(tools, count_text=encoding.count, encoding=name)

    def _block(self, block: Any, encoding: TextEncoding) -> int:
        if isinstance(block, str):
            return encoding.count(block)
        kind = block.get("type")
        if kind in _NOT_SENT:
            return 0
        if kind in _IMAGES:
            return image_tokens(block, model=self.model).tokens
        if kind in _FILES:
            return file_tokens(block, count_text=encoding.count)
        if kind in _SOUNDS:
            return audio_tokens(block, model=self.model)
        return self._text_block(block, encoding)

    def _text_block(self, block: dict[str, Any], encoding: TextEncoding) -> int:
        """Count the text of a block, or of the blocks inside it, as in a tool's result."""
        for key in ("text", "refusal", "content"):
            text = block.get(key)
            if isinstance(text, str):
                return encoding.count(text)
        inner = block.get("content")
        return sum(self._block(each, encoding) for each in inner) if inner else 0


def counter_for(
    model: str | None = None,
    *,
    calibration: Calibration | None = None,
    encoding: TextEncoding | None = None,
) -> ChatCounter:
    """Return a counter for `model`, the most exact that this machine has.

    In order: toktok-rs (the extra `fast`), tiktoken if its file lies in its cache folder, a
    calibrated estimate. The choice is made by the first count, once per encoding, and never
    touches the network. That first count takes about 0.3 s.

    Args:
        model: Name of the model; `None` counts in `o200k_base` itself. Models that are not
            OpenAI's are counted in `o200k_base` too, and labelled `estimated`.
        calibration: Corrects estimated counts by what the provider reported before.
        encoding: Counts instead of the best one on this machine.

    >>> counter_for("gpt-5-mini").count_text("The quick brown fox")
    4
    >>> counter_for("claude-sonnet-4-5").estimated
    True
    """
    return ChatCounter(model=model, calibration=calibration, encoding=encoding)


def _framing(message: BaseMessage) -> int:
    """Return the tokens around a message that its texts do not have."""
    if isinstance(message, ToolMessage):
        return _TOKENS_A_CALL_ID
    return _TOKENS_A_NAME if _name_of(message) else 0


def _name_of(message: BaseMessage) -> str | None:
    return message.name or message.additional_kwargs.get("name")


def _texts_of(message: BaseMessage) -> Iterator[str]:
    """Yield the texts of a message other than those in its list of blocks."""
    yield _role_of(message)
    if isinstance(message.content, str):
        yield message.content
    name = _name_of(message)
    if name and not isinstance(message, ToolMessage):
        yield name
    if isinstance(message, AIMessage):
        yield from _texts_of_calls(message)


def _texts_of_calls(message: AIMessage) -> Iterator[str]:
    if message.tool_calls or message.invalid_tool_calls:
        for call in message.tool_calls:
            yield call["name"]
            yield json.dumps(call["args"], ensure_ascii=False)
        for invalid in message.invalid_tool_calls:
            yield invalid["name"] or ""
            yield invalid["args"] or ""
        return
    raw = [call.get("function") or {} for call in message.additional_kwargs.get("tool_calls") or ()]
    legacy = message.additional_kwargs.get("function_call")
    for function in raw or ([legacy] if legacy else []):
        yield str(function.get("name") or "")
        yield str(function.get("arguments") or "")


def _role_of(message: BaseMessage) -> str:
    if isinstance(message, ChatMessage):
        return message.role
    if isinstance(message, SystemMessage):
        return str(message.additional_kwargs.get("__openai_role__", "system"))
    return _ROLES.get(message.type, message.type)
