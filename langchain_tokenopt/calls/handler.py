"""One LangChain callback handler that says of every model call what it used."""

import asyncio
import time
from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any, Literal
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.outputs import Generation, LLMResult
from typing_extensions import override

from langchain_tokenopt.calls.stream import StreamedUsage
from langchain_tokenopt.calls.usage import Usage, normalise_usage
from langchain_tokenopt.messages import batch_times, cache_source, is_reported
from langchain_tokenopt.tokens import counter_for

CallKind = Literal["live", "cache_hit", "error", "abandoned", "batch"]
"""How a call ended: answered, served by a cache, failed, left by its caller, or in a batch."""

# Calls whose end never came (a killed thread, one that another handler refused) must not pile up.
_MOST_OPEN = 20_000

_WALKED_AWAY = (GeneratorExit, asyncio.CancelledError, KeyboardInterrupt)


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservedCall:
    """A model call that is over."""

    run_id: UUID
    parent_id: UUID | None
    started_at: datetime
    """Aware UTC."""
    kind: CallKind
    model: str
    """The model that served the call; the one asked for if the answer names none."""
    model_asked: str | None
    usage: Usage
    """Of a cache hit: the tokens that were not sent."""
    estimated: bool
    """Whether the usage was counted here because the provider reported none."""
    tier: str | None
    """Service tier that served the call, `None` for the standard one."""
    latency_s: float
    first_token_s: float | None
    """Seconds to the first streamed token; `None` if the call did not stream."""
    cache: str | None
    """The cache that served a hit."""
    error: str | None
    """Class of the exception of a failed call."""
    messages: Sequence[BaseMessage]
    tags: Sequence[str]
    metadata: Mapping[str, Any]


@dataclass(slots=True)
class _OpenCall:
    clock: float
    at: datetime
    messages: Sequence[BaseMessage]
    parent_id: UUID | None
    tags: Sequence[str]
    metadata: Mapping[str, Any]
    parameters: Mapping[str, Any]
    first_token: float | None = None
    streamed: StreamedUsage = field(default_factory=StreamedUsage)
    took_s: float | None = None
    """Of a batch's answer, which was not waited for here."""
    forget: Callable[[], object] | None = None
    """Stops waiting for the end of the task that made the call."""


class CallHandler(BaseCallbackHandler):
    """Give each model call to `_observed` when it is over.

    Works for sync, async, streamed and batched calls, in agents and graphs. The numbers are read
    at the end of the call and no message is kept, since LangChain changes cached ones later.
    """

    run_inline = True  # quick, and in an async app no thread is needed for it
    raise_error = False

    def __init__(self) -> None:
        self._open: OrderedDict[UUID, _OpenCall] = OrderedDict()

    @abstractmethod
    def _observed(self, call: ObservedCall) -> None:
        """Take notice of a call."""

    @property
    def open_calls(self) -> int:
        """Calls without an end so far, with those that were cancelled and never got one."""
        return len(self._open)

    @override
    def on_chat_model_start(
        self,
        serialized: dict[str, Any] | None,
        messages: list[list[BaseMessage]],
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        tags: list[str] | None = None,
        metadata: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        self._start(
            messages[0],
            run_id=run_id,
            parent_id=parent_run_id,
            tags=tags,
            metadata=metadata,
            keywords=kwargs,
        )

    @override
    def on_llm_start(
        self,
        serialized: dict[str, Any] | None,
        prompts: list[str],
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        tags: list[str] | None = None,
        metadata: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        self._start(
            [HumanMessage(prompts[0])],
            run_id=run_id,
            parent_id=parent_run_id,
            tags=tags,
            metadata=metadata,
            keywords=kwargs,
        )

    def _start(
        self,
        messages: Sequence[BaseMessage],
        *,
        run_id: UUID,
        parent_id: UUID | None,
        tags: Sequence[str] | None,
        metadata: Mapping[str, Any] | None,
        keywords: Mapping[str, Any],
    ) -> None:
        self._open[run_id] = _OpenCall(
            clock=time.perf_counter(),
            at=datetime.now(UTC),
            messages=messages,
            parent_id=parent_id,
            tags=tags or (),
            metadata=metadata or {},
            parameters=keywords.get("invocation_params") or {},
            forget=self._watch(run_id),
        )
        if len(self._open) > _MOST_OPEN:
            self._open.popitem(last=False)

    def _watch(self, run_id: UUID) -> Callable[[], object] | None:
        """Book the call as abandoned if its task is cancelled: LangChain tells nobody then."""
        try:
            task = asyncio.current_task()
        except RuntimeError:
            return None
        if task is None:
            return None

        def ended(task: asyncio.Task[Any]) -> None:
            # A task that ends otherwise may have handed an open stream to another one.
            if task.cancelled() and run_id in self._open:
                self.on_llm_error(asyncio.CancelledError(), run_id=run_id)

        task.add_done_callback(ended)
        return partial(task.remove_done_callback, ended)

    def _closed(self, run_id: UUID) -> _OpenCall:
        call = self._open.pop(run_id, None)
        if call is None:
            return _unseen()
        if call.forget is not None:
            call.forget()
        return call

    @override
    def on_llm_new_token(self, token: Any, *, run_id: UUID, **kwargs: Any) -> None:
        call = self._open.get(run_id)
        if call is None:
            return
        if call.first_token is None:
            call.first_token = time.perf_counter()
        message = getattr(kwargs.get("chunk"), "message", None)
        call.streamed.see(token, getattr(message, "usage_metadata", None))

    @override
    def on_llm_end(self, response: LLMResult, *, run_id: UUID, **kwargs: Any) -> None:
        call = self._closed(run_id)
        # Every generation of n > 1 carries the usage of the whole request: read it once.
        generation = next((g for group in response.generations for g in group), None)
        message = getattr(generation, "message", None)
        if isinstance(message, AIMessage) and is_reported(message):
            return
        if isinstance(message, AIMessage):
            self._answered(run_id, call, message)
        else:
            self._completed(run_id, call, generation, response.llm_output or {})

    @override
    def on_llm_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        call = self._closed(run_id)
        kind: CallKind = "abandoned" if isinstance(error, _WALKED_AWAY) else "error"
        partial = kwargs.get("response")
        text = "".join(g.text for group in partial.generations for g in group) if partial else ""
        # What has been streamed is billed, though no provider gets to say how much it was. The
        # same holds for a stream that the caller left; a call refused at once costs nothing.
        sent = kind == "abandoned" or call.first_token is not None or bool(text)
        model = _model_asked(call) or "unknown"
        usage = _count(model, call, text) if sent else Usage()
        name = None if kind == "abandoned" else type(error).__name__
        self._add(run_id, call, kind=kind, model=model, usage=usage, estimated=sent, error=name)

    def _answered(self, run_id: UUID, call: _OpenCall, message: AIMessage) -> None:
        served = message.response_metadata
        model = str(
            served.get("model_name") or served.get("model") or _model_asked(call) or "unknown"
        )
        source, batch = cache_source(message), batch_times(message)
        if source is None and message.id is None and batch is None:
            source = (
                "langchain"  # every call gives an id; a cache that kept the text alone has none
            )
        streamed = call.streamed
        reported: Any = streamed.read() if streamed.repeats else message.usage_metadata or {}
        estimated = False
        tier = None
        if any(reported.get(f"{part}_tokens") for part in ("input", "output")):
            split = normalise_usage(reported, cache_write_ttl=_cache_ttl(call.parameters))
            usage, tier = split.usage, split.tier
        elif source is None:
            usage, estimated = _count(model, call, _written(message)), True
        else:
            usage = Usage()
        kind: CallKind = "live" if source is None else "cache_hit"
        tier = _standard_is_none(served.get("service_tier") or tier or _tier_of_claude(served))
        if batch is not None and source is None:
            kind, tier, call.at = "batch", "batch", batch[0]
            call.took_s = (batch[1] - batch[0]).total_seconds() if batch[1] else None
        self._add(
            run_id,
            call,
            kind=kind,
            model=model,
            usage=usage,
            tier=tier,
            estimated=estimated,
            cache=source,
        )

    def _completed(
        self,
        run_id: UUID,
        call: _OpenCall,
        generation: Generation | None,
        output: Mapping[str, Any],
    ) -> None:
        """Book a call of a text-completion model, whose usage is in `llm_output` if anywhere."""
        model = str(output.get("model_name") or _model_asked(call) or "unknown")
        reported = output.get("token_usage") or {}
        counts = {
            "input_tokens": reported.get("prompt_tokens", reported.get("input_tokens")),
            "output_tokens": reported.get("completion_tokens", reported.get("output_tokens")),
        }
        estimated = not any(counts.values())
        usage = (
            _count(model, call, generation.text if generation else "")
            if estimated
            else normalise_usage(counts).usage
        )
        self._add(run_id, call, kind="live", model=model, usage=usage, estimated=estimated)

    def _add(
        self,
        run_id: UUID,
        call: _OpenCall,
        *,
        kind: CallKind,
        model: str,
        usage: Usage,
        estimated: bool,
        tier: str | None = None,
        cache: str | None = None,
        error: str | None = None,
    ) -> None:
        ended = time.perf_counter()
        self._observed(
            ObservedCall(
                run_id=run_id,
                parent_id=call.parent_id,
                started_at=call.at,
                kind=kind,
                model=model,
                model_asked=_model_asked(call),
                usage=usage,
                estimated=estimated,
                tier=tier,
                latency_s=ended - call.clock if call.took_s is None else call.took_s,
                first_token_s=call.first_token - call.clock if call.first_token else None,
                cache=cache,
                error=error,
                messages=call.messages,
                tags=call.tags,
                metadata=call.metadata,
            )
        )


def _unseen() -> _OpenCall:
    """Stand in for a call whose start this handler did not see."""
    return _OpenCall(
        clock=time.perf_counter(),
        at=datetime.now(UTC),
        messages=(),
        parent_id=None,
        tags=(),
        metadata={},
        parameters={},
    )


def _model_asked(call: _OpenCall) -> str | None:
    asked = (
        call.metadata.get("ls_model_name")
        or call.parameters.get("model")
        or call.parameters.get("model_name")
    )
    return _text(asked)


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _tier_of_claude(served: Mapping[str, Any]) -> str | None:
    """Return what Anthropic says inside of the usage: half the price, or several times it."""
    usage = served.get("usage")
    if not isinstance(usage, Mapping):
        return None
    if usage.get("speed") == "fast":
        return "fast"
    return "batch" if usage.get("service_tier") == "batch" else None


def _standard_is_none(tier: Any) -> str | None:
    return None if tier in (None, "default", "standard", "auto") else str(tier)


def _cache_ttl(parameters: Mapping[str, Any]) -> str | None:
    for holder in ("prompt_cache_options", "cache_control"):
        options = parameters.get(holder)
        if isinstance(options, dict) and options.get("ttl"):
            return str(options["ttl"])
    return None


def _written(message: AIMessage) -> str:
    calls = "".join(f"{call['name']}{call['args']}" for call in message.tool_calls)
    return f"{message.text}{calls}"


def _count(model: str, call: _OpenCall, written: str) -> Usage:
    counter = counter_for(model)
    tools = call.parameters.get("tools") or ()
    read = counter.count_messages(call.messages, tools=tools) if call.messages else 0
    return Usage(plain_input=read, output=counter.count_text(written) if written else 0)
