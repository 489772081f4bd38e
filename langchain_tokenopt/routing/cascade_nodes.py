"""The nodes of a cascade: choose a tier, ask it, judge its answer."""

import inspect
import time
from collections.abc import AsyncGenerator, Generator, Mapping, Sequence, Set
from contextlib import aclosing, closing
from dataclasses import asdict
from typing import Any, cast
from uuid import uuid4

from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    message_chunk_to_message,
    message_to_dict,
    messages_from_dict,
)
from langchain_core.messages.ai import add_ai_message_chunks
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import merge_configs
from langgraph.constants import TAG_NOSTREAM
from langgraph.errors import GraphBubbleUp
from langgraph.types import Command

from langchain_tokenopt.calls import CallCollector, ObservedCall, heard_by
from langchain_tokenopt.errors import BudgetExceededError, ConfigurationError
from langchain_tokenopt.routing.attempt import (
    Attempt,
    Check,
    Verdict,
    attempt_of,
    failed_attempt,
)
from langchain_tokenopt.routing.cascade_accept import Acceptance
from langchain_tokenopt.routing.cascade_state import CascadeState, Chooser, ModelCall, Route, Tier
from langchain_tokenopt.routing.rules import Rule

GATE = "gate"


class Choose:
    """The node that says where a request starts."""

    def __init__(self, names: Sequence[str], rules: Sequence[Rule], start: Chooser | None) -> None:
        self._names = tuple(names)
        self._rules = tuple(rules)
        self._start = start

    def choose(self, state: CascadeState, config: RunnableConfig) -> Command[str]:
        """Go to the tier that a rule or `start` names, else to the first."""
        route = self._ruled(state)
        if route is None and self._start is not None:
            chosen = self._start(_request(state), config)
            if inspect.isawaitable(chosen):
                if inspect.iscoroutine(chosen):
                    chosen.close()
                message = "`start` is asynchronous: use the graph's ainvoke or astream"
                raise ConfigurationError(message)
            route = chosen
        return self._goto(route, state)

    async def achoose(self, state: CascadeState, config: RunnableConfig) -> Command[str]:
        """Do what `choose` does without blocking the event loop."""
        route = self._ruled(state)
        if route is None and self._start is not None:
            start = getattr(self._start, "achoose", self._start)
            chosen = start(_request(state), config)
            route = await chosen if inspect.isawaitable(chosen) else chosen
        return self._goto(route, state)

    def _ruled(self, state: CascadeState) -> Route | None:
        messages = state["messages"]
        if not messages:
            message = "a cascade needs at least one message to answer, got none"
            raise ConfigurationError(message)
        if state.get("ruled"):
            return Route(**state["ruled"])
        rule = next((rule for rule in self._rules if rule.applies(messages)), None)
        return Route(tier=rule.tier, reason=rule.reason) if rule else None

    def _goto(self, route: Route | None, state: CascadeState) -> Command[str]:
        known = route or Route(tier=self._names[0], reason="no rule applied")
        check_tier(known.tier, self._names, "`start`")
        last = state.get("last_tier")
        if last and self._names.index(known.tier) > self._names.index(last):
            known = Route(tier=last, reason=f"{known.reason}, but not beyond {last}")
        # A thread's state still holds the attempts of the turn before.
        update: dict[str, Any] = {"attempts": [], "route": known.reason}
        if "ruled" not in state:
            update["calls"] = []
        return Command(goto=known.tier, update=update)


class Ask:
    """The node of one tier: its answer goes to the gate, its error to the next tier."""

    def __init__(self, tier: Tier, *, following: str | None, after: str) -> None:
        self._tier = tier
        self._following = following
        self._after = after

    def ask(self, state: CascadeState, config: RunnableConfig) -> Command[str]:
        """Ask the tier, and go to the gate, or with an error to the next tier."""
        turn = _Turn(state, self._tier.name)
        try:
            answer = self._tier.model.invoke(
                _request(state), self._config(turn, config), **_options(state)
            )
        except Exception as error:  # noqa: BLE001 - whatever a model raises, the next one may not
            return self._failed(error, turn)
        return self._answered(answer, turn)

    async def aask(self, state: CascadeState, config: RunnableConfig) -> Command[str]:
        """Do what `ask` does without blocking the event loop."""
        turn = _Turn(state, self._tier.name)
        try:
            answer = await self._tier.model.ainvoke(
                _request(state), self._config(turn, config), **_options(state)
            )
        except Exception as error:  # noqa: BLE001 - whatever a model raises, the next one may not
            return self._failed(error, turn)
        return self._answered(answer, turn)

    def stream(
        self, state: CascadeState, config: RunnableConfig
    ) -> Generator[AIMessageChunk | Command[str], None, None]:
        """Yield the answer as it comes, and last where to go.

        An error after the first chunk is raised: what was shown cannot be taken back.
        """
        turn = _Turn(state, self._tier.name)
        chunks: list[AIMessageChunk] = []
        try:
            stream: Any = self._tier.model.stream(
                _request(state), self._config(turn, config), **_options(state)
            )
            with closing(stream):
                for chunk in stream:
                    chunks.append(chunk)
                    yield chunk
        except Exception as error:
            if chunks:
                raise
            yield self._failed(error, turn)
            return
        yield self._answered(_whole(chunks), turn)

    async def astream(
        self, state: CascadeState, config: RunnableConfig
    ) -> AsyncGenerator[AIMessageChunk | Command[str], None]:
        """Do what `stream` does without blocking the event loop."""
        turn = _Turn(state, self._tier.name)
        chunks: list[AIMessageChunk] = []
        try:
            stream: Any = self._tier.model.astream(
                _request(state), self._config(turn, config), **_options(state)
            )
            async with aclosing(stream):
                async for chunk in stream:
                    chunks.append(chunk)
                    yield chunk
        except Exception as error:
            if chunks:
                raise
            yield self._failed(error, turn)
            return
        yield self._answered(_whole(chunks), turn)

    def _config(self, turn: "_Turn", config: RunnableConfig) -> RunnableConfig:
        """Hear of the call, and keep a draft that may be declined out of the user's stream."""
        heard = heard_by(turn.collector, config)
        if self._next(turn.state) is None:
            return heard
        return merge_configs(heard, {"tags": [TAG_NOSTREAM]})

    def _next(self, state: CascadeState) -> str | None:
        return None if state.get("last_tier") == self._tier.name else self._following

    def _answered(self, answer: Any, turn: "_Turn") -> Command[str]:
        if not isinstance(answer, AIMessage):
            message = f"a tier's model must answer with an AIMessage, got {answer!r:.200}"
            raise ConfigurationError(message)
        attempt = attempt_of(answer, tier=self._tier.name, latency_s=turn.latency_s)
        update = {**turn.update(attempt), "draft": message_to_dict(answer)}
        return Command(goto=GATE, update=update)

    def _failed(self, error: Exception, turn: "_Turn") -> Command[str]:
        if isinstance(error, GraphBubbleUp):
            raise error
        update = turn.update(failed_attempt(error, tier=self._tier.name, latency_s=turn.latency_s))
        following = self._next(turn.state)
        if following is not None:
            return Command(goto=following, update=update)
        drafts = (each["text"] for each in reversed(turn.state["attempts"]))
        best = next((text for text in drafts if text.strip()), None)
        if best is None or not isinstance(error, BudgetExceededError):
            raise error
        # There is no budget for a better one: a declined answer is better than none.
        told = {"tokenopt_budget": {"stopped": str(error)}}
        answer = AIMessage(best, id=str(uuid4()), response_metadata=told)
        update |= {"answer": answer, "accepted": False, "messages": [answer]}
        return Command(goto=self._after, update=update)


class _Turn:
    """A node's work on a state: how long it takes, and which calls it makes."""

    def __init__(self, state: CascadeState, node: str) -> None:
        self.state = state
        self.collector = CallCollector()
        self._node = node
        self._started = time.perf_counter()

    @property
    def latency_s(self) -> float:
        """Seconds so far."""
        return time.perf_counter() - self._started

    def update(self, attempt: Attempt) -> dict[str, Any]:
        """Return the update of the state with one more attempt, and the calls."""
        return {"attempts": [*self.state["attempts"], attempt], **self.calls()}

    def calls(self) -> dict[str, Any]:
        """Return the update of the state with the calls."""
        made = [model_call(call, node=self._node) for call in self.collector.calls]
        return {"calls": [*self.state.get("calls", ()), *made]}


class Judge:
    """The node that judges the last attempt."""

    def __init__(
        self,
        tiers: Sequence[Tier],
        checks: Sequence[Check],
        *,
        following: Mapping[str, str | None],
        after: str,
    ) -> None:
        self._acceptance = {tier.name: acceptance_of(tier, checks) for tier in tiers}
        self._following = following
        self._after = after

    def judge(self, state: CascadeState, config: RunnableConfig) -> Command[str]:
        """Accept the last attempt, or go to the next tier."""
        attempt, answer, turn = state["attempts"][-1], _draft(state), _Turn(state, GATE)
        verdict = self._acceptance[attempt["tier"]].judge(
            attempt, answer, messages=_request(state), config=heard_by(turn.collector, config)
        )
        return self._decided(verdict, answer, turn)

    async def ajudge(self, state: CascadeState, config: RunnableConfig) -> Command[str]:
        """Do what `judge` does without blocking the event loop."""
        attempt, answer, turn = state["attempts"][-1], _draft(state), _Turn(state, GATE)
        verdict = await self._acceptance[attempt["tier"]].ajudge(
            attempt, answer, messages=_request(state), config=heard_by(turn.collector, config)
        )
        return self._decided(verdict, answer, turn)

    def _decided(self, verdict: Verdict, answer: AIMessage, turn: _Turn) -> Command[str]:
        *before, attempt = turn.state["attempts"]
        update = {"attempts": [*before, judged_attempt(attempt, verdict)], **turn.calls()}
        last = turn.state.get("last_tier") == attempt["tier"]
        following = None if last else self._following[attempt["tier"]]
        if not verdict.accepted and following is not None:
            return Command(goto=following, update=update)
        update |= {"answer": answer, "accepted": verdict.accepted, "messages": [answer]}
        return Command(goto=self._after, update=update)


def acceptance_of(tier: Tier, checks: Sequence[Check]) -> Acceptance:
    """Return what the answers of a tier must pass."""
    return Acceptance(checks=tuple(checks), gate=tier.gate, threshold=tier.threshold)


def judged_attempt(attempt: Attempt, verdict: Verdict) -> Attempt:
    """Return an attempt with what is thought of it."""
    return {
        **attempt,
        "accepted": verdict.accepted,
        "reason": verdict.reason,
        "score": verdict.score,
    }


def model_call(call: ObservedCall, *, node: str) -> ModelCall:
    """Return a call as a state keeps it."""
    return ModelCall(
        node=node,
        model=call.model,
        kind=call.kind,
        service_tier=call.tier,
        usage=asdict(call.usage),
        at=call.started_at.isoformat(),
    )


def _request(state: CascadeState) -> list[BaseMessage]:
    """Return what the tiers are sent."""
    prepared = state.get("request")
    return messages_from_dict(prepared) if prepared else list(state["messages"])


def _options(state: Any) -> dict[str, Any]:
    """Return the keyword arguments that a caller gave; a graph has none."""
    return dict(state.get("options") or {})


def _whole(chunks: Sequence[Any]) -> Any:
    """Return the message that the chunks of a stream are, and what is no chunk of one as it is."""
    if not chunks:
        return AIMessage("")
    if not isinstance(chunks[0], AIMessageChunk):
        return chunks[0]
    return message_chunk_to_message(add_ai_message_chunks(chunks[0], *chunks[1:]))


def _draft(state: CascadeState) -> AIMessage:
    (message,) = messages_from_dict([state["draft"]])
    return cast("AIMessage", message)


def check_cascade(names: Sequence[str], rules: Sequence[Rule], *, taken: Set[str]) -> None:
    """Refuse tiers and rules that make no cascade.

    Raises:
        ConfigurationError: There is no tier, a name is used twice or taken, or a rule names none.
    """
    if not names:
        message = "a cascade needs at least one tier, got none"
        raise ConfigurationError(message)
    bad = {name for name in names if names.count(name) > 1 or name in taken or not name}
    if bad:
        message = f"tier names must differ and be free to use as node names, got {sorted(bad)}"
        raise ConfigurationError(message)
    for rule in rules:
        check_tier(rule.tier, names, "a rule")


def check_tier(tier: str, names: Sequence[str], who: str) -> None:
    """Refuse a tier that is none.

    Raises:
        ConfigurationError: It is not among `names`.
    """
    if tier not in names:
        message = f"{who} names the tier {tier!r}; the tiers are {', '.join(names)}"
        raise ConfigurationError(message)
