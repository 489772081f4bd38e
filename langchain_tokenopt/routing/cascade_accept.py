"""Decides whether a tier's answer is good enough: checks first, then the gate's score."""

import inspect
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.runnables import RunnableConfig
from langgraph.errors import GraphBubbleUp

from langchain_tokenopt.errors import ConfigurationError
from langchain_tokenopt.messages import last_human_text
from langchain_tokenopt.routing.attempt import Attempt, Check, Verdict
from langchain_tokenopt.routing.gate import GateVerdict

_LEAST = 0.5
_ACCEPTED = Verdict(accepted=True, reason="every check accepted it")


class Scorer(Protocol):
    """What scores answers; a `Gate` does."""

    def judge(
        self,
        question: str,
        attempt: Attempt,
        *,
        messages: Sequence[BaseMessage],
        config: RunnableConfig | None = None,
        metadata: Any = None,
    ) -> GateVerdict:
        """Return the score of an answer, from 0 to 1."""
        ...

    async def ajudge(
        self,
        question: str,
        attempt: Attempt,
        *,
        messages: Sequence[BaseMessage],
        config: RunnableConfig | None = None,
        metadata: Any = None,
    ) -> GateVerdict:
        """Do what `judge` does without blocking the event loop."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Acceptance:
    """What the answers of a tier must pass."""

    checks: tuple[Check, ...] = ()
    gate: Scorer | None = None
    threshold: float | None = None
    """Scores above it are accepted; without one, those from 0.5 on."""

    def judge(
        self,
        attempt: Attempt,
        answer: AIMessage,
        *,
        messages: Sequence[BaseMessage],
        config: RunnableConfig | None,
    ) -> Verdict:
        """Return what is thought of an answer; a check or gate that raises declines it, visibly."""
        question = last_human_text(messages)
        for check in self.checks:
            try:
                verdict = _needs_no_loop(check(question, attempt), check)
            except Exception as error:  # noqa: BLE001 - a check that fails declines
                verdict = _raised(f"check {_name(check)}", error)
            if not verdict.accepted:
                return verdict
        if self.gate is None:
            return _ACCEPTED
        try:
            found = self.gate.judge(
                question,
                attempt,
                messages=messages,
                config=config,
                metadata=answer.response_metadata,
            )
        except Exception as error:  # noqa: BLE001 - what could not be scored is not good enough
            return _raised("gate", error)
        return self._decided(found)

    async def ajudge(
        self,
        attempt: Attempt,
        answer: AIMessage,
        *,
        messages: Sequence[BaseMessage],
        config: RunnableConfig | None,
    ) -> Verdict:
        """Do what `judge` does without blocking the event loop; checks may be asynchronous."""
        question = last_human_text(messages)
        for check in self.checks:
            try:
                judged = check(question, attempt)
                verdict = await judged if inspect.isawaitable(judged) else judged
            except Exception as error:  # noqa: BLE001 - a check that fails declines
                verdict = _raised(f"check {_name(check)}", error)
            if not verdict.accepted:
                return verdict
        if self.gate is None:
            return _ACCEPTED
        try:
            found = await self.gate.ajudge(
                question,
                attempt,
                messages=messages,
                config=config,
                metadata=answer.response_metadata,
            )
        except Exception as error:  # noqa: BLE001 - what could not be scored is not good enough
            return _raised("gate", error)
        return self._decided(found)

    def _decided(self, found: GateVerdict) -> Verdict:
        if self.threshold is None:
            accepted, bound = found.score >= _LEAST, f"{_LEAST:.2f} at least"
        else:
            accepted, bound = found.score > self.threshold, f"more than {self.threshold:.2f}"
        reason = f"{found.reason}: score {found.score:.2f}, needed {bound}"
        return Verdict(accepted=accepted, reason=reason, score=found.score)


def _raised(what: str, error: Exception) -> Verdict:
    if isinstance(error, GraphBubbleUp | ConfigurationError):  # an interrupt is no failure
        raise error
    return Verdict(accepted=False, reason=f"the {what} raised {error!r}")


def _needs_no_loop(judged: Verdict | Awaitable[Verdict], check: Check) -> Verdict:
    if isinstance(judged, Verdict):
        return judged
    if inspect.iscoroutine(judged):
        judged.close()
    message = f"{_name(check)} must return a Verdict here; if it is asynchronous, use ainvoke"
    raise ConfigurationError(message)


def _name(check: Check) -> str:
    return str(getattr(check, "__name__", type(check).__name__))
