"""Runs a cascade's nodes without a graph, where one answer is all that is wanted."""

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import aclosing, closing
from typing import Any

from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGeneration
from langchain_core.runnables import RunnableConfig
from langgraph.types import Command

from langchain_tokenopt.routing.attempt import Check
from langchain_tokenopt.routing.cascade_nodes import GATE, Ask, Choose, Judge, check_cascade
from langchain_tokenopt.routing.cascade_state import Chooser, Tier
from langchain_tokenopt.routing.rules import Rule
from langchain_tokenopt.wrapping import replay

CASCADE_MARK = "tokenopt_cascade"
"""Key in `response_metadata` of an answer: the tier, whether it was accepted, every attempt."""

_DONE = "done"
_State = dict[str, Any]


class CascadeRun:
    """The nodes of `create_cascade`, one after the other; keeps nothing between calls."""

    def __init__(
        self,
        tiers: Sequence[Tier],
        *,
        checks: Sequence[Check],
        rules: Sequence[Rule],
        start: Chooser | None,
    ) -> None:
        names = [tier.name for tier in tiers]
        check_cascade(names, rules, taken={GATE, _DONE})
        following = dict(zip(names, [*names[1:], None], strict=True))
        self._last = names[-1]
        self._choose = Choose(names, rules, start)
        self._asks = {
            tier.name: Ask(tier, following=following[tier.name], after=_DONE) for tier in tiers
        }
        self._gate = Judge(tiers, checks, following=following, after=_DONE)

    def invoke(
        self, messages: Sequence[BaseMessage], config: RunnableConfig, options: Mapping[str, Any]
    ) -> AIMessage:
        """Return the answer; `options` are keyword arguments of the tiers' models."""
        state = _state(messages, options)
        goto = _apply(state, self._choose.choose(_any(state), config))
        while goto != _DONE:
            goto = _apply(state, self._step(goto, state, config))
        return _marked(state)

    async def ainvoke(
        self, messages: Sequence[BaseMessage], config: RunnableConfig, options: Mapping[str, Any]
    ) -> AIMessage:
        """Do what `invoke` does without blocking the event loop."""
        state = _state(messages, options)
        goto = _apply(state, await self._choose.achoose(_any(state), config))
        while goto != _DONE:
            goto = _apply(state, await self._astep(goto, state, config))
        return _marked(state)

    def stream(
        self, messages: Sequence[BaseMessage], config: RunnableConfig, options: Mapping[str, Any]
    ) -> Iterator[AIMessageChunk]:
        """Yield the answer: the last tier's as it comes, another one when it is accepted."""
        state = _state(messages, options)
        goto = _apply(state, self._choose.choose(_any(state), config))
        streamed = False
        while goto != _DONE:
            if goto == self._last:
                with closing(self._asks[goto].stream(_any(state), config)) as stream:
                    for part in stream:
                        if isinstance(part, Command):
                            goto = _apply(state, part)
                        else:
                            streamed = True
                            yield part
            else:
                goto = _apply(state, self._step(goto, state, config))
        yield from _rest(state, streamed=streamed)

    async def astream(
        self, messages: Sequence[BaseMessage], config: RunnableConfig, options: Mapping[str, Any]
    ) -> AsyncIterator[AIMessageChunk]:
        """Do what `stream` does without blocking the event loop."""
        state = _state(messages, options)
        goto = _apply(state, await self._choose.achoose(_any(state), config))
        streamed = False
        while goto != _DONE:
            if goto == self._last:
                async with aclosing(self._asks[goto].astream(_any(state), config)) as stream:
                    async for part in stream:
                        if isinstance(part, Command):
                            goto = _apply(state, part)
                        else:
                            streamed = True
                            yield part
            else:
                goto = _apply(state, await self._astep(goto, state, config))
        for chunk in _rest(state, streamed=streamed):
            yield chunk

    def _step(self, name: str, state: _State, config: RunnableConfig) -> Command[str]:
        if name == GATE:
            return self._gate.judge(_any(state), config)
        return self._asks[name].ask(_any(state), config)

    async def _astep(self, name: str, state: _State, config: RunnableConfig) -> Command[str]:
        if name == GATE:
            return await self._gate.ajudge(_any(state), config)
        return await self._asks[name].aask(_any(state), config)


def _state(messages: Sequence[BaseMessage], options: Mapping[str, Any]) -> _State:
    return {"messages": list(messages), "options": options}


def _any(state: _State) -> Any:
    return state


def _apply(state: _State, command: Command[str]) -> str:
    update: Any = command.update
    state.update({key: value for key, value in update.items() if key != "messages"})
    return str(command.goto)


def _marked(state: _State) -> AIMessage:
    answer: AIMessage = state["answer"]
    told = {**answer.response_metadata, CASCADE_MARK: _told(state)}
    return answer.model_copy(update={"response_metadata": told})


def _told(state: _State) -> dict[str, Any]:
    return {
        "tier": state["attempts"][-1]["tier"],
        "accepted": state["accepted"],
        "route": state["route"],
        "attempts": state["attempts"],
    }


def _rest(state: _State, *, streamed: bool) -> Iterator[AIMessageChunk]:
    """Yield what the caller has not seen: the answer, or only what came of it."""
    if not streamed:
        answer = _marked(state)
        for generation in replay(ChatGeneration(message=answer)):
            yield AIMessageChunk(**{**generation.message.model_dump(), "id": answer.id})
        return
    yield AIMessageChunk(content="", response_metadata={CASCADE_MARK: _told(state)})
