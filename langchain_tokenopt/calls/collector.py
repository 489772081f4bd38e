"""Collects the model calls of a step, for what reports its own usage."""

from typing import Any

from langchain_core.callbacks import BaseCallbackHandler, BaseCallbackManager
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import ensure_config

from langchain_tokenopt.calls.handler import CallHandler, ObservedCall


class CallCollector(CallHandler):
    """Keeps the calls that it is told of.

    >>> from langchain_tokenopt.testing import ScriptedModel
    >>> collector = CallCollector()
    >>> _ = ScriptedModel(["four"]).invoke("2 + 2?", heard_by(collector, None))
    >>> [(call.model, call.usage.output) for call in collector.calls]
    [('scripted', 1)]
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[ObservedCall] = []

    def _observed(self, call: ObservedCall) -> None:
        self.calls.append(call)


def heard_by(handler: BaseCallbackHandler, config: RunnableConfig | None) -> RunnableConfig:
    """Return a config whose calls `handler` is told of before all other handlers.

    A budget that refuses a call ends LangChain's round of handlers, and those after it would be
    left as coroutines that nobody awaits.
    """
    known = ensure_config(config)
    return {**known, "callbacks": _with_first(handler, known.get("callbacks"))}


def _with_first(handler: BaseCallbackHandler, callbacks: Any) -> Any:
    if not isinstance(callbacks, BaseCallbackManager):
        return [handler, *(callbacks or ())]
    told = callbacks.copy()
    told.handlers = [handler, *told.handlers]
    told.inheritable_handlers = [handler, *told.inheritable_handlers]
    return told
