"""The stages of a multi-tier graph before and after its tiers."""

import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, convert_to_messages, message_to_dict
from langchain_core.runnables import Runnable, RunnableConfig, RunnableLambda
from langchain_core.runnables.config import merge_configs
from langgraph.constants import TAG_NOSTREAM
from langgraph.errors import GraphBubbleUp
from langgraph.runtime import get_runtime
from langgraph.types import Command

from langchain_tokenopt.accounting import PriceSource
from langchain_tokenopt.calls import CallCollector, heard_by
from langchain_tokenopt.errors import ConfigurationError
from langchain_tokenopt.routing import Rule
from langchain_tokenopt.routing.cascade_nodes import model_call
from langchain_tokenopt.stack.account import account_of, model_name
from langchain_tokenopt.stack.answers import Answers, ServedAnswer
from langchain_tokenopt.stack.context import MultiTierContext, MultiTierState

ANSWER_MARK = "tokenopt"
"""Key in `response_metadata` of a graph's answer: tier, cost, saved."""


def current_context() -> MultiTierContext:
    """Return the context of the run, the default one where none was given."""
    given: Any = get_runtime(MultiTierContext).context
    # Inside of another graph there may be one of another kind.
    return given if isinstance(given, MultiTierContext) else MultiTierContext()


def current_tenant() -> str:
    """Return the tenant of the request that is being answered, "" outside of a graph.

    For the caches around the tiers' models: `MemoryCache(tenant=current_tenant)`.

    >>> current_tenant()
    ''
    """
    try:
        return current_context().tenant
    except RuntimeError:
        return ""


class Begin:
    """Forgets the turn before."""

    def __init__(self, tiers: Sequence[str], *, following: dict[str, str]) -> None:
        self._tiers = tuple(tiers)
        self._following = following["begin"]

    def run(self, state: MultiTierState) -> Command[str]:
        """Begin a turn."""
        context = current_context()
        for name in ("first_tier", "last_tier"):
            tier = getattr(context, name)
            if tier and tier not in self._tiers:
                message = f"{name} is one of {', '.join(self._tiers)}, got {tier!r}"
                raise ConfigurationError(message)
        if not state["messages"]:
            raise ConfigurationError("the graph needs at least one message to answer, got none")
        ruled = {"tier": context.first_tier, "reason": "the context names the tier"}
        update = {
            "attempts": [],
            "calls": [],
            "stages": [],
            "request": [],
            "accepted": False,
            "tier": "",
            "ruled": ruled if context.first_tier else {},
            "last_tier": context.last_tier,
        }
        return Command(goto=self._following, update=update)

    async def arun(self, state: MultiTierState) -> Command[str]:
        """Do what `run` does."""
        return self.run(state)


class Recall:
    """Looks for an answer that was given before."""

    def __init__(self, answers: Answers, name: str, *, following: str, found: str) -> None:
        self._answers = answers
        self._name = name
        self._following = following
        self._found = found

    def run(self, state: MultiTierState, config: RunnableConfig) -> Command[str]:
        """Go to the end with an answer, or to the next stage."""
        context, started = current_context(), time.perf_counter()
        if self._passes(context):
            return self._goto(state, "skipped", started)
        answer = self._answers.find(state["messages"], tenant=context.tenant)
        if answer is None:
            return self._goto(state, "miss", started)
        told = ServedAnswer(answer=answer).invoke(list(state["messages"]), config)
        return self._goto(state, "hit", started, answer=told)

    async def arun(self, state: MultiTierState, config: RunnableConfig) -> Command[str]:
        """Do what `run` does without blocking the event loop."""
        context, started = current_context(), time.perf_counter()
        if self._passes(context):
            return self._goto(state, "skipped", started)
        answer = await self._answers.afind(state["messages"], tenant=context.tenant)
        if answer is None:
            return self._goto(state, "miss", started)
        told = await ServedAnswer(answer=answer).ainvoke(list(state["messages"]), config)
        return self._goto(state, "hit", started, answer=told)

    def _passes(self, context: MultiTierContext) -> bool:
        return context.fresh or self._name in context.skip

    def _goto(
        self, state: MultiTierState, what: str, started: float, answer: AIMessage | None = None
    ) -> Command[str]:
        update: dict[str, Any] = _told(state, self._name, what, started)
        if answer is None:
            return Command(goto=self._following, update=update)
        update |= {"tier": self._name, "answer": answer, "accepted": True, "messages": [answer]}
        return Command(goto=self._found, update=update)


class Rules:
    """Sends a request straight to a tier where a rule says so."""

    def __init__(self, rules: Sequence[Rule], *, following: str, ruled: str) -> None:
        self._rules = tuple(rules)
        self._following = following
        self._ruled = ruled

    def run(self, state: MultiTierState) -> Command[str]:
        """Go on to the tiers with what the first rule says, or to the next stage."""
        started = time.perf_counter()
        if state["ruled"] or "rules" in current_context().skip:
            return Command(
                goto=self._ruled if state["ruled"] else self._following,
                update=_told(state, "rules", "skipped", started),
            )
        messages = state["messages"]
        rule = next((rule for rule in self._rules if rule.applies(messages)), None)
        if rule is None:
            return Command(
                goto=self._following, update=_told(state, "rules", "none applied", started)
            )
        update = _told(state, "rules", rule.reason, started)
        return Command(
            goto=self._ruled, update={**update, "ruled": {"tier": rule.tier, "reason": rule.reason}}
        )

    async def arun(self, state: MultiTierState) -> Command[str]:
        """Do what `run` does."""
        return self.run(state)


class Prepare:
    """Makes the request that is sent of the conversation."""

    def __init__(
        self,
        prepare: Runnable[Any, Sequence[BaseMessage]]
        | Callable[[Sequence[BaseMessage]], Sequence[BaseMessage]],
        *,
        following: str,
    ) -> None:
        known = isinstance(prepare, Runnable)
        self._prepare: Runnable[Any, Any] = prepare if known else RunnableLambda(prepare)  # type: ignore[assignment, arg-type]  # a runnable or a function
        self._following = following

    def run(self, state: MultiTierState, config: RunnableConfig) -> Command[str]:
        """Go on with the request as it is to be sent."""
        started, collector = time.perf_counter(), CallCollector()
        if "prepare" in current_context().skip:
            return self._goto(state, "skipped", started)
        heard = heard_by(collector, merge_configs(config, {"tags": [TAG_NOSTREAM]}))
        try:
            made = self._prepare.invoke(list(state["messages"]), heard)
        except Exception as error:  # noqa: BLE001 - a longer request is better than none
            return self._failed(state, error, started)
        return self._made(state, made, started, collector)

    async def arun(self, state: MultiTierState, config: RunnableConfig) -> Command[str]:
        """Do what `run` does without blocking the event loop."""
        started, collector = time.perf_counter(), CallCollector()
        if "prepare" in current_context().skip:
            return self._goto(state, "skipped", started)
        heard = heard_by(collector, merge_configs(config, {"tags": [TAG_NOSTREAM]}))
        try:
            made = await self._prepare.ainvoke(list(state["messages"]), heard)
        except Exception as error:  # noqa: BLE001 - a longer request is better than none
            return self._failed(state, error, started)
        return self._made(state, made, started, collector)

    def _made(
        self, state: MultiTierState, made: Any, started: float, collector: CallCollector
    ) -> Command[str]:
        messages = convert_to_messages(getattr(made, "messages", made))
        if not messages:
            raise ConfigurationError("`prepare` returned no message to send")
        update = {
            **_told(state, "prepare", f"{len(messages)} messages", started),
            "request": [message_to_dict(message) for message in messages],
            "calls": [model_call(call, node="prepare") for call in collector.calls],
        }
        return Command(goto=self._following, update=update)

    def _failed(self, state: MultiTierState, error: Exception, started: float) -> Command[str]:
        if isinstance(error, GraphBubbleUp | ConfigurationError):
            raise error
        return self._goto(state, f"failed: {type(error).__name__}: {error}", started)

    def _goto(self, state: MultiTierState, what: str, started: float) -> Command[str]:
        return Command(goto=self._following, update=_told(state, "prepare", what, started))


class Finish:
    """Keeps an accepted answer, and says what it cost."""

    def __init__(self, kept: Sequence[Answers], *, against: Any, prices: PriceSource) -> None:
        self._kept = tuple(kept)
        self._against = model_name(against)
        self._prices = prices

    def run(self, state: MultiTierState) -> dict[str, Any]:
        """End the turn."""
        if self._keeps(state):
            for answers in self._kept:
                answers.keep(_asked(state), state["answer"], tenant=current_context().tenant)
        return self._ended(state)

    async def arun(self, state: MultiTierState) -> dict[str, Any]:
        """Do what `run` does without blocking the event loop."""
        if self._keeps(state):
            for answers in self._kept:
                await answers.akeep(_asked(state), state["answer"], tenant=current_context().tenant)
        return self._ended(state)

    def _keeps(self, state: MultiTierState) -> bool:
        return state["accepted"] and not state["tier"]

    def _ended(self, state: MultiTierState) -> dict[str, Any]:
        answer = state["answer"]
        tier = state["tier"] or state["attempts"][-1]["tier"]
        account = account_of(
            state["calls"],
            answer,
            against=self._against,
            prices=self._prices,
            at=datetime.now(UTC),
        )
        told = {
            "tier": tier,
            "cost": None if account.cost is None else str(account.cost),
            "saved": None if account.saved is None else str(account.saved),
        }
        marked = answer.model_copy(
            update={"response_metadata": {**answer.response_metadata, ANSWER_MARK: told}}
        )
        unpriced = list(account.unpriced)
        return {**told, "answer": marked, "messages": [marked], "unpriced": unpriced}


def _asked(state: MultiTierState) -> list[BaseMessage]:
    """Return the conversation without the answer at its end."""
    return list(state["messages"][:-1])


def _told(state: MultiTierState, stage: str, what: str, started: float) -> dict[str, Any]:
    took_s = time.perf_counter() - started
    told = {"stage": stage, "result": what, "took_s": took_s}
    return {"stages": [*state["stages"], told]}
