"""A cascade as a chat model: it stands wherever one model stood."""

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import aclosing
from typing import Any, Self, TypeVar

from langchain_core.callbacks import (
    AsyncCallbackManager,
    AsyncCallbackManagerForLLMRun,
    BaseCallbackManager,
    BaseRunManager,
    CallbackManager,
    CallbackManagerForLLMRun,
)
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.runnables.config import ensure_config, merge_configs
from pydantic import ConfigDict, PrivateAttr
from typing_extensions import override

from langchain_tokenopt.messages import mark_reported
from langchain_tokenopt.routing.attempt import Check
from langchain_tokenopt.routing.cascade_run import CascadeRun
from langchain_tokenopt.routing.cascade_state import Chooser, Tier
from langchain_tokenopt.routing.rules import Rule


class Cascade(BaseChatModel):
    """Answers as `create_cascade` does, as a chat model: in chains, agents, with tools.

    The answer is the tier's own message; `response_metadata["tokenopt_cascade"]` says which tier it
    was, and lists every attempt. A stream shows accepted answers only: one of the last tier token
    by token, one of a tier before it when it has been accepted. Callbacks hear of the tiers' calls,
    the drafts' among them, and of no other: nothing is counted twice. Nothing is kept between
    calls.

    Args:
        tiers: At least one, the cheapest first.
        checks: As in `create_cascade`.
        rules: As in `create_cascade`.
        start: As in `create_cascade`.

    >>> from langchain_tokenopt.routing import not_empty
    >>> from langchain_tokenopt.testing import ScriptedModel
    >>> tiers = [Tier("small", ScriptedModel([""])), Tier("large", ScriptedModel(["four"]))]
    >>> answer = Cascade(tiers, checks=[not_empty]).invoke("2 + 2?")
    >>> answer.text, answer.response_metadata["tokenopt_cascade"]["tier"]
    ('four', 'large')
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    # The constructor names the types; pydantic cannot check protocols.
    tiers: tuple[Any, ...]
    checks: tuple[Any, ...] = ()
    rules: tuple[Any, ...] = ()
    start: Any = None

    _run: CascadeRun = PrivateAttr()

    def __init__(
        self,
        tiers: Sequence[Tier],
        *,
        checks: Sequence[Check] = (),
        rules: Sequence[Rule] = (),
        start: Chooser | None = None,
        **keywords: Any,
    ) -> None:
        parts = {"tiers": tuple(tiers), "checks": tuple(checks), "rules": tuple(rules)}
        super().__init__(**{"cache": False, **keywords, **parts, "start": start})
        self._run = CascadeRun(self.tiers, checks=self.checks, rules=self.rules, start=start)

    @override
    def invoke(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> AIMessage:
        messages = self._convert_input(input).to_messages()
        return self._run.invoke(messages, self._config(config), _options(stop, kwargs))

    @override
    async def ainvoke(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> AIMessage:
        messages = self._convert_input(input).to_messages()
        return await self._run.ainvoke(messages, self._config(config), _options(stop, kwargs))

    @override
    def stream(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> Iterator[AIMessageChunk]:
        messages = self._convert_input(input).to_messages()
        yield from self._run.stream(messages, self._config(config), _options(stop, kwargs))

    @override
    async def astream(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[AIMessageChunk]:
        messages = self._convert_input(input).to_messages()
        stream: Any = self._run.astream(messages, self._config(config), _options(stop, kwargs))
        async with aclosing(stream):
            async for chunk in stream:
                yield chunk

    @override
    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        config = RunnableConfig(callbacks=_child(CallbackManager, run_manager))
        return _result(self._run.invoke(messages, config, _options(stop, kwargs)))

    @override
    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        config = RunnableConfig(callbacks=_child(AsyncCallbackManager, run_manager))
        return _result(await self._run.ainvoke(messages, config, _options(stop, kwargs)))

    @override
    def bind_tools(
        self, tools: Sequence[Any], **kwargs: Any
    ) -> Runnable[LanguageModelInput, AIMessage]:
        return self._with_models(lambda model: model.bind_tools(tools, **kwargs))

    def _with_models(self, change: Callable[[Any], Any]) -> Self:
        tiers = [
            Tier(tier.name, change(tier.model), gate=tier.gate, threshold=tier.threshold)
            for tier in self.tiers
        ]
        return type(self)(
            tiers,
            checks=self.checks,
            rules=self.rules,
            start=self.start,
            tags=self.tags,
            metadata=self.metadata,
            callbacks=self.callbacks,
        )

    def _config(self, config: RunnableConfig | None) -> RunnableConfig:
        """Return a config with what this model was given at its making."""
        own: RunnableConfig = {
            "tags": list(self.tags or ()),
            "metadata": dict(self.metadata or {}),
            "callbacks": self.callbacks,
        }
        return merge_configs(own, ensure_config(config))

    @property
    @override
    def _llm_type(self) -> str:
        return "tokenopt-cascade"

    @property
    @override
    def _identifying_params(self) -> dict[str, Any]:
        return {"tiers": [[tier.name, repr(tier.model)] for tier in self.tiers]}


ManagerT = TypeVar("ManagerT", bound=BaseCallbackManager)


def _child(kind: type[ManagerT], run_manager: BaseRunManager | None) -> ManagerT | None:
    """Return the callbacks of the calls inside a run of this model."""
    if run_manager is None:
        return None
    manager = kind(handlers=[], parent_run_id=run_manager.run_id)
    manager.set_handlers(run_manager.inheritable_handlers)
    manager.add_tags(run_manager.inheritable_tags)
    manager.add_metadata(run_manager.inheritable_metadata)
    return manager


def _options(stop: list[str] | None, kwargs: dict[str, Any]) -> dict[str, Any]:
    return kwargs if stop is None else {**kwargs, "stop": stop}


def _result(answer: AIMessage) -> ChatResult:
    # The tiers' calls told of themselves, and what they used.
    return ChatResult(generations=[ChatGeneration(message=mark_reported(answer))])
