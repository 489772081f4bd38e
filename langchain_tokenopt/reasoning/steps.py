"""Nodes written once for `invoke` and `ainvoke`: generators that yield what is to be asked.

A node yields an `Ask`, `AskMany`, `Apply` or `LookForRoom`, gets a `Reply` for it and returns the
update of the state. One driver answers them synchronously, the other one asynchronously.
"""

import asyncio
import inspect
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.runnables import Runnable, RunnableConfig, RunnableLambda
from langchain_core.runnables.config import merge_configs
from langgraph.constants import TAG_NOSTREAM
from langgraph.errors import GraphBubbleUp

from langchain_tokenopt.calls import CallCollector, ObservedCall, Usage, heard_by, room_left
from langchain_tokenopt.errors import BudgetExceededError, ConfigurationError
from langchain_tokenopt.reasoning.result import StepUsage


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """Call a runnable."""

    runnable: Runnable[Any, Any]
    input: Any
    step: str
    """What the call is for; names it in the usage, and in traces as a tag `step:...`."""
    streamed: bool = False
    """Whether its tokens may reach a stream of the graph: only the final answer's should."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AskMany:
    """Ask a model for several answers to one prompt, which is billed once (`n=`)."""

    model: BaseChatModel
    messages: Sequence[BaseMessage]
    n: int
    step: str
    keywords: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Apply:
    """Call a function of the user's, which may be asynchronous."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class LookForRoom:
    """Ask the budgets among the callbacks what is left."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What came of a request."""

    value: Any = None
    error: Exception | None = None
    usage: tuple[dict[str, Any], ...] = ()
    """`StepUsage` rows as plain data, for the state."""

    @property
    def refused(self) -> bool:
        """Whether a budget had no room for the call."""
        return isinstance(self.error, BudgetExceededError)

    def needed(self) -> Any:
        """Return the value; raise the error of the call if there is none."""
        if self.error is not None:
            raise self.error
        return self.value


Request = Ask | AskMany | Apply | LookForRoom
Steps = Generator[Request, Reply, Any]


def node(function: Callable[[Any], Steps], name: str) -> Runnable[Any, Any]:
    """Return a graph's node, synchronous and asynchronous, from a generator function."""

    def run(state: Any, config: RunnableConfig) -> Any:
        return drive(function(state), config)

    async def arun(state: Any, config: RunnableConfig) -> Any:
        return await adrive(function(state), config)

    return RunnableLambda(run, afunc=arun, name=name)


def drive(steps: Steps, config: RunnableConfig) -> Any:
    """Answer the requests of a generator, and return what it returns."""
    reply = None
    try:
        while True:
            reply = _answer(steps.send(reply) if reply is not None else next(steps), config)
    except StopIteration as end:
        return end.value
    finally:
        steps.close()


async def adrive(steps: Steps, config: RunnableConfig) -> Any:
    """Do what `drive` does without blocking the event loop."""
    reply = None
    try:
        while True:
            request = steps.send(reply) if reply is not None else next(steps)
            reply = await _aanswer(request, config)
    except StopIteration as end:
        return end.value
    finally:
        steps.close()


def _answer(request: Request, config: RunnableConfig) -> Reply:
    if isinstance(request, LookForRoom):
        return Reply(value=room_left(config.get("callbacks")))
    if isinstance(request, Apply):
        value = request.function(*request.arguments)
        if inspect.isawaitable(value):
            if inspect.iscoroutine(value):
                value.close()
            name = getattr(request.function, "__name__", type(request.function).__name__)
            message = f"{name} is asynchronous: call the technique with ainvoke or astream"
            raise ConfigurationError(message)
        return Reply(value=value)
    watch, watched = _watched(request, config)
    try:
        if isinstance(request, Ask):
            value = request.runnable.invoke(request.input, watched)
        else:
            value = _messages(
                request.model.generate(
                    [list(request.messages)], **_told(watched), n=request.n, **request.keywords
                )
            )
    except GraphBubbleUp:
        raise
    except Exception as error:  # noqa: BLE001 - the technique decides what a failure means
        return Reply(error=error, usage=watch.rows())
    return Reply(value=value, usage=watch.rows())


async def _aanswer(request: Request, config: RunnableConfig) -> Reply:
    if isinstance(request, LookForRoom):
        return Reply(value=await asyncio.to_thread(room_left, config.get("callbacks")))
    if isinstance(request, Apply):
        value = request.function(*request.arguments)
        return Reply(value=await value if inspect.isawaitable(value) else value)
    watch, watched = _watched(request, config)
    try:
        if isinstance(request, Ask):
            value = await request.runnable.ainvoke(request.input, watched)
        else:
            value = _messages(
                await request.model.agenerate(
                    [list(request.messages)], **_told(watched), n=request.n, **request.keywords
                )
            )
    except GraphBubbleUp:
        raise
    except Exception as error:  # noqa: BLE001 - the technique decides what a failure means
        return Reply(error=error, usage=watch.rows())
    return Reply(value=value, usage=watch.rows())


def _watched(
    request: Ask | AskMany, config: RunnableConfig
) -> tuple["StepCollector", RunnableConfig]:
    watch = StepCollector(request.step)
    tags = [f"step:{request.step}"]
    if not (isinstance(request, Ask) and request.streamed):
        tags.append(TAG_NOSTREAM)
    about: RunnableConfig = {"tags": tags, "metadata": {"reasoning_step": request.step}}
    return watch, heard_by(watch, merge_configs(config, about))


def _told(config: RunnableConfig) -> dict[str, Any]:
    """Return a config as `generate` takes it."""
    return {name: config.get(name) for name in ("callbacks", "tags", "metadata")}


def _messages(result: Any) -> list[AIMessage]:
    return [generation.message for generation in result.generations[0]]


class StepCollector(CallCollector):
    """Adds up what the model calls of a step used."""

    def __init__(self, step: str) -> None:
        super().__init__()
        self._step = step

    def rows(self) -> tuple[dict[str, Any], ...]:
        """Return a row for each call."""
        return tuple(self._row(call).model_dump() for call in self.calls)

    def _row(self, call: ObservedCall) -> StepUsage:
        cached = call.kind == "cache_hit"
        return StepUsage(
            step=self._step,
            model=call.model,
            tier=call.tier,
            calls=0 if cached else 1,
            cached_calls=int(cached),
            failed_calls=int(call.kind in ("error", "abandoned")),
            estimated_calls=int(call.estimated and not cached),
            usage=Usage() if cached else call.usage,
        )
