"""A graph that asks a small model first, and a larger one where the answer is not good enough."""

import inspect
import time
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage
from langchain_core.runnables import Runnable, RunnableConfig, RunnableLambda
from langchain_core.runnables.config import merge_configs
from langgraph.constants import TAG_NOSTREAM
from langgraph.errors import GraphBubbleUp
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import Command

from langchain_tokenopt.errors import BudgetExceededError, ConfigurationError
from langchain_tokenopt.messages import last_human_text
from langchain_tokenopt.routing.attempt import (
    Attempt,
    Check,
    Verdict,
    attempt_of,
    failed_attempt,
)
from langchain_tokenopt.routing.rules import Rule

_CHOOSE = "choose_tier"


class CascadeState(MessagesState):
    """State of a cascade; `messages` is the input, and gets the accepted answer only."""

    attempts: list[Attempt]
    """Every tier's answer to the current turn, the first tier's first."""
    answer: AIMessage
    """The last attempt's answer, accepted or not."""
    accepted: bool
    """Whether the checks accepted it; the last tier's answer is given in any case."""
    route: str
    """Why the first tier was chosen."""


@dataclass(frozen=True, slots=True)
class Tier:
    """A model of a cascade, under the name that attempts and the ledger show."""

    name: str
    model: BaseChatModel | Runnable[Any, AIMessage]
    """A chat model, or one with tools or options bound."""


def create_cascade(
    tiers: Sequence[Tier], *, checks: Sequence[Check] = (), rules: Sequence[Rule] = ()
) -> StateGraph[CascadeState]:
    """Return a graph that asks the tiers in order until an answer passes every check.

    The first rule that applies says at which tier to start; otherwise it is the first. An answer
    that fails a check, a check that raises, and a model that raises all lead to the next tier. The
    last tier's answer is given whatever the checks say (`accepted` in the state tells), and its
    error is raised; where a budget has no room for the last tier, the latest draft is given. Drafts
    of the tiers before are not streamed to the user. A ledger in the callbacks counts every call,
    under the tier's name as its node.

    Args:
        tiers: At least one, the cheapest first.
        checks: Asked in order; the first that declines ends it.
        rules: Asked in order; the first that applies counts.

    >>> from langchain_tokenopt.routing import not_empty
    >>> from langchain_tokenopt.testing import ScriptedModel
    >>> tiers = [Tier("small", ScriptedModel([""])), Tier("large", ScriptedModel(["four"]))]
    >>> state = create_cascade(tiers, checks=[not_empty]).compile().invoke(
    ...     {"messages": [("user", "2 + 2?")]}
    ... )
    >>> state["answer"].text, [attempt["reason"] for attempt in state["attempts"]]
    ('four', ['the answer is empty', 'every check accepted it'])
    """
    names = [tier.name for tier in tiers]
    _check_names(names, rules)
    graph = StateGraph(CascadeState)
    graph.add_node(_CHOOSE, _choose(names[0], rules), destinations=tuple(names))
    graph.add_edge(START, _CHOOSE)
    for tier, following in zip(tiers, [*names[1:], END], strict=True):
        node = _Ask(tier, checks, following=following)
        ends = (END,) if following == END else (following, END)
        graph.add_node(
            tier.name,
            RunnableLambda(node.ask, afunc=node.aask, name=tier.name),
            destinations=ends,
        )
    return graph


def _check_names(names: Sequence[str], rules: Sequence[Rule]) -> None:
    if not names:
        message = "a cascade needs at least one tier, got none"
        raise ConfigurationError(message)
    bad = {name for name in names if names.count(name) > 1 or name in ("", _CHOOSE, START, END)}
    bad |= {name for name in names if name in CascadeState.__annotations__}
    if bad:
        message = f"tier names must differ and be free to use as node names, got {sorted(bad)}"
        raise ConfigurationError(message)
    unknown = {rule.tier for rule in rules} - set(names)
    if unknown:
        message = f"a rule names the tier {min(unknown)!r}; the tiers are {', '.join(names)}"
        raise ConfigurationError(message)


def _choose(first: str, rules: Sequence[Rule]) -> Any:
    def choose_tier(state: CascadeState) -> Command[str]:
        messages = state["messages"]
        if not messages:
            message = "a cascade needs at least one message to answer, got none"
            raise ConfigurationError(message)
        rule = next((rule for rule in rules if rule.applies(messages)), None)
        tier, route = (rule.tier, rule.reason) if rule else (first, "no rule applied")
        # A thread's state still holds the attempts of the turn before.
        return Command(goto=tier, update={"attempts": [], "route": route})

    return choose_tier


class _Ask:
    """The node of one tier: ask, judge, and answer or go on."""

    def __init__(self, tier: Tier, checks: Sequence[Check], *, following: str) -> None:
        self._tier = tier
        self._checks = tuple(checks)
        self._following = following

    def ask(self, state: CascadeState, config: RunnableConfig) -> Command[str]:
        started = time.perf_counter()
        try:
            answer = self._tier.model.invoke(state["messages"], self._config(config))
        except Exception as error:  # noqa: BLE001 - whatever a model raises, the next one may not
            return self._after_error(error, state, started)
        attempt = self._attempt(answer, started)
        question = last_human_text(state["messages"])
        for check in self._checks:
            try:
                verdict = _needs_no_loop(check(question, attempt), check)
            except Exception as error:  # noqa: BLE001 - a check that fails declines, visibly
                verdict = _raised(check, error)
            if not verdict.accepted:
                return self._after(answer, attempt, verdict, state)
        return self._after(answer, attempt, _ACCEPTED, state)

    async def aask(self, state: CascadeState, config: RunnableConfig) -> Command[str]:
        started = time.perf_counter()
        try:
            answer = await self._tier.model.ainvoke(state["messages"], self._config(config))
        except Exception as error:  # noqa: BLE001 - whatever a model raises, the next one may not
            return self._after_error(error, state, started)
        attempt = self._attempt(answer, started)
        question = last_human_text(state["messages"])
        for check in self._checks:
            try:
                judged = check(question, attempt)
                verdict = await judged if inspect.isawaitable(judged) else judged
            except Exception as error:  # noqa: BLE001 - a check that fails declines, visibly
                verdict = _raised(check, error)
            if not verdict.accepted:
                return self._after(answer, attempt, verdict, state)
        return self._after(answer, attempt, _ACCEPTED, state)

    @property
    def _is_last(self) -> bool:
        return self._following == END

    def _config(self, config: RunnableConfig) -> RunnableConfig:
        """Keep drafts that may be declined out of the user's stream."""
        return config if self._is_last else merge_configs(config, {"tags": [TAG_NOSTREAM]})

    def _attempt(self, answer: AIMessage, started: float) -> Attempt:
        latency_s = time.perf_counter() - started
        return attempt_of(answer, tier=self._tier.name, latency_s=latency_s)

    def _after(
        self, answer: AIMessage, attempt: Attempt, verdict: Verdict, state: CascadeState
    ) -> Command[str]:
        judged: Attempt = {
            **attempt,
            "accepted": verdict.accepted,
            "reason": verdict.reason,
        }
        attempts = [*state["attempts"], judged]
        if not verdict.accepted and not self._is_last:
            return Command(goto=self._following, update={"attempts": attempts})
        return Command(
            goto=END,
            update={
                "attempts": attempts,
                "answer": answer,
                "accepted": verdict.accepted,
                "messages": [answer],
            },
        )

    def _after_error(self, error: Exception, state: CascadeState, started: float) -> Command[str]:
        if isinstance(error, GraphBubbleUp):
            raise error
        latency_s = time.perf_counter() - started
        attempt = failed_attempt(error, tier=self._tier.name, latency_s=latency_s)
        attempts = [*state["attempts"], attempt]
        if not self._is_last:
            return Command(goto=self._following, update={"attempts": attempts})
        drafts = (each["text"] for each in reversed(state["attempts"]))
        best = next((text for text in drafts if text.strip()), None)
        if best is None or not isinstance(error, BudgetExceededError):
            raise error
        # There is no budget for a better one: a declined answer is better than none.
        answer = AIMessage(best, response_metadata={"tokenopt_budget": {"stopped": str(error)}})
        update = {"attempts": attempts, "answer": answer, "accepted": False, "messages": [answer]}
        return Command(goto=END, update=update)


_ACCEPTED = Verdict(accepted=True, reason="every check accepted it")


def _raised(check: Check, error: Exception) -> Verdict:
    if isinstance(error, GraphBubbleUp | ConfigurationError):  # an interrupt is no failure
        raise error
    return Verdict(accepted=False, reason=f"the check {_name(check)} raised {error!r}")


def _needs_no_loop(judged: Verdict | Awaitable[Verdict], check: Check) -> Verdict:
    if isinstance(judged, Verdict):
        return judged
    if inspect.iscoroutine(judged):
        judged.close()
    message = f"{_name(check)} must return a Verdict here; if it is asynchronous, use ainvoke"
    raise ConfigurationError(message)


def _name(check: Check) -> str:
    return str(getattr(check, "__name__", type(check).__name__))
