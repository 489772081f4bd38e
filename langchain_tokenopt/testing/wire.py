"""What a loopback server is asked, and what it can be told to answer."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatRequest:
    """One request to `/chat/completions`, as it arrived."""

    body: Mapping[str, Any]
    headers: Mapping[str, str] = field(default_factory=dict)
    """Header names are in lower case."""

    @property
    def model(self) -> str:
        """The model asked for."""
        return str(self.body["model"])

    @property
    def messages(self) -> Sequence[Mapping[str, Any]]:
        """The messages in OpenAI's form."""
        return list(self.body["messages"])

    @property
    def stream(self) -> bool:
        """Whether a stream was asked for."""
        return bool(self.body.get("stream"))

    @property
    def n(self) -> int:
        """How many choices were asked for."""
        return int(self.body.get("n") or 1)

    @property
    def text(self) -> str:
        """The text of the last user message, "" if there is none."""
        for message in reversed(self.messages):
            if message.get("role") == "user":
                return text_of(message.get("content"))
        return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """How long a model takes, in seconds."""

    first_token_s: float = 0.0
    per_token_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """A model's answer."""

    text: str = ""
    tool_calls: Sequence[Mapping[str, Any]] = ()
    """LangChain's form: `name`, `args`, `id`."""
    finish_reason: str | None = None
    """By default `stop`, `tool_calls`, or `length` where the request's limit cuts the text."""
    reasoning_tokens: int = 0
    """Counted as output, as OpenAI does, and never shown."""
    token_logprobs: Sequence[float] | None = None
    """One for each piece of the text, if the request asks for them; by default all are 0.0."""
    usage: Mapping[str, Any] | None = None
    """Reported instead of the counted usage."""
    service_tier: str | None = None
    """The tier that served, where it is not the one that was asked for."""
    latency: Latency | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimited:
    """Answer 429."""

    retry_after_s: float | None = None
    """Sent as the `retry-after` header."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerError:
    """Answer with an error status."""

    status: int = 500
    message: str = "the server had an error"


@dataclass(frozen=True, slots=True, kw_only=True)
class Dropped:
    """Close the connection: before the answer, or within it after `after_pieces` pieces."""

    reply: Reply | None = None
    after_pieces: int = 0


Fault = RateLimited | ServerError | Dropped
Answer = str | Reply | Fault
Responder = Callable[[ChatRequest], Answer]


def text_of(content: Any) -> str:
    """Return the text of a message's content, be it a string or a list of blocks."""
    if isinstance(content, str):
        return content
    blocks = (block for block in content or () if isinstance(block, Mapping))
    return "".join(str(block.get("text") or "") for block in blocks)
