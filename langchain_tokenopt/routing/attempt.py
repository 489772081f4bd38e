"""What a model of a cascade answered, and what was thought of it."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from langchain_core.messages import AIMessage
from typing_extensions import TypedDict

from langchain_tokenopt.messages import cache_source


class Attempt(TypedDict):
    """One tier's answer; plain values, so that a graph's state can be stored and sent."""

    tier: str
    model: str | None
    """As the provider names it."""
    text: str
    tool_calls: list[Any]
    finish_reason: str | None
    """`stop`, `length`, `content_filter`, `tool_calls`, ... as far as the provider says."""
    input_tokens: int | None
    output_tokens: int | None
    cache: str | None
    """The cache that served the answer, `None` if the model was called."""
    error: str | None
    """Why there is no answer."""
    latency_s: float
    accepted: bool
    reason: str
    """Why the answer was accepted or not."""
    score: float | None
    """What the gate gave it, 0 to 1; `None` without a gate, or where no score was reached."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Whether an answer is good enough, and why."""

    accepted: bool
    reason: str
    score: float | None = None
    """What a gate gave the answer, 0 to 1."""


Check = Callable[[str, Attempt], Verdict | Awaitable[Verdict]]
"""Judges an attempt at a question. Asynchronous checks need the graph's asynchronous methods."""


def attempt_of(message: AIMessage, *, tier: str, latency_s: float) -> Attempt:
    """Return the attempt that `message` is; nothing is thought of it yet."""
    usage = message.usage_metadata
    said = message.response_metadata
    return Attempt(
        tier=tier,
        model=said.get("model_name"),
        text=str(message.text),
        tool_calls=list(message.tool_calls),
        finish_reason=said.get("finish_reason") or said.get("stop_reason"),
        input_tokens=usage["input_tokens"] if usage else None,
        output_tokens=usage["output_tokens"] if usage else None,
        cache=cache_source(message),
        error=None,
        latency_s=latency_s,
        accepted=False,
        reason="",
        score=None,
    )


def failed_attempt(error: Exception, *, tier: str, latency_s: float) -> Attempt:
    """Return the attempt of a model that raised."""
    told = f"{type(error).__name__}: {error}"
    return Attempt(
        tier=tier,
        model=None,
        text="",
        tool_calls=[],
        finish_reason=None,
        input_tokens=None,
        output_tokens=None,
        cache=None,
        error=told,
        latency_s=latency_s,
        accepted=False,
        reason=f"the model failed: {told}",
        score=None,
    )
