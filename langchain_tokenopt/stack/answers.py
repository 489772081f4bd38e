"""Answers of whole requests in LangChain caches, told to callbacks like any other cached call."""

import json
import logging
from collections.abc import Callable, Sequence
from typing import Any

from langchain_core.caches import BaseCache
from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LangSmithParams
from langchain_core.load import dumps
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.runnables import (
    Runnable,
    RunnableConfig,
    RunnableLambda,
    RunnableSequence,
    RunnableWithFallbacks,
)
from langchain_core.runnables.base import RunnableBindingBase
from typing_extensions import override

from langchain_tokenopt.caches import cache_control
from langchain_tokenopt.messages import cache_source, mark_cache_hit

_LOG = logging.getLogger(__name__)


class Answers:
    """The accepted answers of a graph in one cache; a cache that fails is a miss, and counted.

    Args:
        cache: Any LangChain cache.
        kind: What a hit is called: `cache` or `similar`.
        signature: What makes answers of this graph unlike those of another: its tiers.
    """

    def __init__(self, cache: BaseCache, *, kind: str, signature: str) -> None:
        self._cache = cache
        self._kind = kind
        self._signature = signature
        self.failures = 0

    def find(self, messages: Sequence[BaseMessage], *, tenant: str) -> AIMessage | None:
        """Return the answer that is kept for a conversation, `None` if there is none."""
        try:
            found = self._cache.lookup(_prompt(messages), self._key(tenant))
        except Exception as error:  # noqa: BLE001 - no cache may break the call
            self._failed(error)
            return None
        return self._served(found)

    async def afind(self, messages: Sequence[BaseMessage], *, tenant: str) -> AIMessage | None:
        """Do what `find` does without blocking the event loop."""
        try:
            found = await self._cache.alookup(_prompt(messages), self._key(tenant))
        except Exception as error:  # noqa: BLE001 - no cache may break the call
            self._failed(error)
            return None
        return self._served(found)

    def keep(self, messages: Sequence[BaseMessage], answer: AIMessage, *, tenant: str) -> None:
        """Keep an answer for later."""
        try:
            self._cache.update(_prompt(messages), self._key(tenant), _kept(answer))
        except Exception as error:  # noqa: BLE001 - no cache may break the call
            self._failed(error)

    async def akeep(
        self, messages: Sequence[BaseMessage], answer: AIMessage, *, tenant: str
    ) -> None:
        """Do what `keep` does without blocking the event loop."""
        try:
            await self._cache.aupdate(_prompt(messages), self._key(tenant), _kept(answer))
        except Exception as error:  # noqa: BLE001 - no cache may break the call
            self._failed(error)

    def _key(self, tenant: str) -> str:
        return json.dumps({"graph": "multi_tier", "tiers": self._signature, "tenant": tenant})

    def _served(self, found: Any) -> AIMessage | None:
        generation = found[0] if found else None
        if not isinstance(generation, ChatGeneration):
            return None
        message = generation.message
        if not isinstance(message, AIMessage):
            return None
        known = cache_source(message) not in (None, "langchain", "unknown")
        return message if known else mark_cache_hit(message, source=self._kind)

    def _failed(self, error: Exception) -> None:
        self.failures += 1
        if self.failures == 1:
            _LOG.warning("the stage %s failed, requests go on without it: %r", self._kind, error)


class ServedAnswer(BaseChatModel):
    """Gives one answer that a cache had, so that callbacks hear of it as of any cached call."""

    answer: AIMessage

    @property
    @override
    def _llm_type(self) -> str:
        return "tokenopt-served"

    @override
    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        name = self.answer.response_metadata.get("model_name") or "unknown"
        return LangSmithParams(ls_model_name=str(name), ls_model_type="chat")

    @override
    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        answer = self.answer.model_copy(update={"id": None})
        return ChatResult(generations=[ChatGeneration(message=answer)])

    @override
    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return self._generate(messages)


class FreshAware(Runnable[Any, AIMessage]):
    """A tier's model, whose own caches are not asked where the request wants a fresh answer."""

    def __init__(self, model: Runnable[Any, AIMessage], wants_fresh: Callable[[], bool]) -> None:
        self._model = model
        self._wants_fresh = wants_fresh

    @override
    def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> AIMessage:
        with cache_control(no_cache=self._wants_fresh()):
            return self._model.invoke(input, config, **kwargs)

    @override
    async def ainvoke(
        self, input: Any, config: RunnableConfig | None = None, **kwargs: Any
    ) -> AIMessage:
        with cache_control(no_cache=self._wants_fresh()):
            return await self._model.ainvoke(input, config, **kwargs)


def described(model: Any) -> str:
    """Return a description that differs where models do and is the same in every process.

    Of a runnable of a class of your own it is LangChain's, by `repr`: one that names a place in
    memory shares its answers with no other process.
    """
    if isinstance(model, BaseChatModel):
        return model._get_llm_string()
    if isinstance(model, RunnableBindingBase):
        return f"{described(model.bound)} {sorted(model.kwargs.items(), key=str)}"
    if isinstance(model, RunnableSequence):
        return " | ".join(map(described, model.steps))
    if isinstance(model, RunnableWithFallbacks):
        return " or ".join(map(described, model.runnables))
    if isinstance(model, RunnableLambda):
        function = getattr(model, "func", None) or model.afunc
        return f"{getattr(function, '__module__', '')} {model!r}"
    return dumps(model)


def _prompt(messages: Sequence[BaseMessage]) -> str:
    return dumps([message.model_copy(update={"id": None}) for message in messages])


def _kept(answer: AIMessage) -> list[ChatGeneration]:
    told = {
        key: value
        for key, value in answer.response_metadata.items()
        if not key.startswith("tokenopt_")
    }
    return [
        ChatGeneration(message=answer.model_copy(update={"id": None, "response_metadata": told}))
    ]
