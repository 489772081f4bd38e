"""A chat model whose calls go to several deployments of the same model."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Self, cast

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.callbacks.manager import BaseRunManager
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable, RunnableBinding, RunnableConfig
from langchain_core.runnables.config import ensure_config
from pydantic import PrivateAttr
from typing_extensions import override

from langchain_tokenopt.errors import ConfigurationError
from langchain_tokenopt.routing.balance_answer import aopened, named, opened
from langchain_tokenopt.routing.balance_audience import Asked, Audience
from langchain_tokenopt.routing.balance_bind import bound_in, options_for_all, options_of
from langchain_tokenopt.routing.balance_board import Choice, Turn
from langchain_tokenopt.routing.balance_call import Balancer
from langchain_tokenopt.routing.balance_race import Begun
from langchain_tokenopt.routing.balance_shared import SharedDeployments
from langchain_tokenopt.routing.balance_tries import Patience, WhenAllCool
from langchain_tokenopt.routing.deployment import BalanceStats, Deployment, Hedging
from langchain_tokenopt.routing.deployment_fault import Judge, fault_of
from langchain_tokenopt.routing.deployment_state import Measure
from langchain_tokenopt.wrapping import (
    Call,
    WrappedChatModel,
    acall,
    astream_of,
    call,
    check_kind,
    replace_models,
    stream_of,
)

_REGION = "region"


class BalancedChatModel(WrappedChatModel):
    """Sends each call to the best of some deployments, and to another one where that fails.

    Stands wherever a chat model stands: `invoke`, `batch`, `stream`, their async twins,
    `bind_tools`, `with_structured_output`, agents and graphs. An answer says in
    `response_metadata["deployment"]` who gave it.

    The best is that with the least latency times calls in flight. One that fails too often, or says
    that it has enough (status 429, for as long as `retry-after` says), cools: it is not asked, by
    retries neither, and after failures a single call is the first to try it again. A request does
    not ask a deployment twice, but for one that had enough and may be asked again. Errors that are
    the caller's (status 400, content policy) are raised at once. A stream that breaks before its
    first token begins again elsewhere; one that breaks later raises.

    Callbacks hear of one run for the request, which is the call that answered or failed last. Calls
    beside it are runs below it: `failed call`, and `hedge` for the one of two that was not used. So
    a ledger counts what the providers count.

    Args:
        deployments: Of one model, under names that differ. What the model is to its callers (name,
            profile, counts of tokens) is what the first one is.
        region: Only deployments of this region are asked, come what may. A single call is bound by
            `config={"metadata": {"region": "eu"}}`, or by `configurable`.
        choices: So many deployments, taken at random, are compared for a call. With more the
            quickest is found more often; with two, many processes do not all find the same one.
        most_attempts: Deployments that a request asks, hedges apart.
        when_all_cool: `"raise"` a `DeploymentsCoolingError` at once, or ask the one that returns
            `"soonest"` all the same.
        patience_s: How long a request may wait for a deployment before that.
        hedging: When a second deployment is asked beside the first, by default never.
        judge: Tells errors that are the deployment's from those that are the caller's.
        shared: A `RedisDeployments`, so that processes know of each other's failures.

    Raises:
        ConfigurationError: The deployments or the options cannot be used.

    >>> from langchain_tokenopt.testing import ScriptedModel
    >>> sweden = Deployment("sweden", ScriptedModel([TimeoutError(), "4"]), region="eu")
    >>> france = Deployment("france", ScriptedModel(["four"]), region="eu")
    >>> virginia = Deployment("virginia", ScriptedModel(["4!"]), region="us")
    >>> model = BalancedChatModel([sweden, france, virginia], region="eu")
    >>> answer = model.invoke("2 + 2?")
    >>> answer.text, answer.response_metadata["deployment"]
    ('four', 'france')
    >>> model.stats()["virginia"].calls
    0
    """

    _balancer: Balancer = PrivateAttr()
    _models: Mapping[str, BaseChatModel] = PrivateAttr()
    _region: str | None = PrivateAttr(default=None)
    _audience: Audience | None = PrivateAttr(default=None)

    def __init__(
        self,
        deployments: Sequence[Deployment],
        *,
        region: str | None = None,
        choices: int = 2,
        most_attempts: int = 3,
        when_all_cool: WhenAllCool = "raise",
        patience_s: float = 0.0,
        hedging: Hedging | None = None,
        judge: Judge = fault_of,
        shared: SharedDeployments | None = None,
        clock: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
        sleep: Callable[[float], None] = time.sleep,
        async_sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        **keywords: Any,
    ) -> None:
        _check(deployments, region)
        if choices < 1 or most_attempts < 1 or patience_s < 0:
            message = (
                "choices and most_attempts must be at least 1 and patience_s at least 0, got "
                f"{choices}, {most_attempts} and {patience_s}"
            )
            raise ConfigurationError(message)
        if when_all_cool not in ("raise", "soonest"):
            message = f"when_all_cool must be 'raise' or 'soonest', got {when_all_cool!r}"
            raise ConfigurationError(message)
        super().__init__(deployments[0].model, **keywords)
        self._models = {each.name: each.model for each in deployments}
        self._region = region
        self._balancer = Balancer(
            deployments,
            choices=choices,
            patience=Patience(
                most_attempts=most_attempts,
                wait_s=patience_s,
                when_all_cool=when_all_cool,
                sleep=sleep,
                async_sleep=async_sleep,
            ),
            hedging=hedging,
            judge=judge,
            shared=shared,
            clock=clock,
            rng=rng or random.Random(),  # noqa: S311 - no secret
        )

    def stats(self) -> BalanceStats:
        """Return how the deployments stand, as this process sees them."""
        return self._balancer.stats()

    @override
    def invoke(
        self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any
    ) -> AIMessage:
        return super().invoke(input, _placed(config), **kwargs)

    @override
    async def ainvoke(
        self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any
    ) -> AIMessage:
        return await super().ainvoke(input, _placed(config), **kwargs)

    @override
    def stream_events(
        self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any
    ) -> Any:
        return super().stream_events(input, _placed(config), **kwargs)

    @override
    def astream_events(
        self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any
    ) -> Any:
        return super().astream_events(input, _placed(config), **kwargs)

    @override
    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        asked = self._asked(messages, stop, run_manager, kwargs)

        def begin(turn: Turn) -> Begun:
            model, options = asked.of(turn)
            run = None if turn.hedge else run_manager
            return Begun(turn=turn, result=call(model, messages, stop, run, options))

        begun = self._balancer.ask(asked, self._choice(run_manager, "answer"), begin)
        return named(begun)

    @override
    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        asked = self._asked(messages, stop, run_manager, kwargs)

        async def begin(turn: Turn) -> Begun:
            model, options = asked.of(turn)
            run = None if turn.hedge else run_manager
            return Begun(turn=turn, result=await acall(model, messages, stop, run, options))

        begun = await self._balancer.aask(asked, self._choice(run_manager, "answer"), begin)
        return named(begun)

    @override
    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        asked = self._asked(messages, stop, run_manager, kwargs)
        caller = self._call_of(run_manager)

        def begin(turn: Turn) -> Begun:
            model, options = asked.of(turn)
            told = None if turn.hedge else caller
            return opened(turn, stream_of(model, messages, stop, told, options))

        begun = self._balancer.ask(asked, self._choice(run_manager, "first_token"), begin)
        yield from self._balancer.stream(begun)

    @override
    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        asked = self._asked(messages, stop, run_manager, kwargs)
        caller = self._call_of(run_manager)

        async def begin(turn: Turn) -> Begun:
            model, options = asked.of(turn)
            told = None if turn.hedge else caller
            return await aopened(turn, astream_of(model, messages, stop, told, options))

        begun = await self._balancer.aask(asked, self._choice(run_manager, "first_token"), begin)
        async with aclosing(self._balancer.astream(begun)) as stream:
            async for chunk in stream:
                yield chunk

    @override
    def bind_tools(
        self, tools: Sequence[Any], **kwargs: Any
    ) -> Runnable[LanguageModelInput, AIMessage]:
        runnables = {
            name: model.bind_tools(tools, **kwargs) for name, model in self._models.items()
        }
        bound = {name: bound_in(runnable) for name, runnable in runnables.items()}
        balanced = self._with({name: each.model for name, each in bound.items()})
        first = next(iter(runnables.values()))
        if isinstance(first, RunnableBinding):
            return first.model_copy(update={"bound": balanced, "kwargs": options_for_all(bound)})
        return balanced.bind(**options_for_all(bound))

    @override
    def with_structured_output(
        self, schema: Any, **kwargs: Any
    ) -> Runnable[LanguageModelInput, Any]:
        runnables = {
            name: model.with_structured_output(schema, **kwargs)
            for name, model in self._models.items()
        }
        bound = {name: bound_in(runnable) for name, runnable in runnables.items()}
        first, *others = bound.values()
        if any(each.options != first.options for each in others):
            # Each provider's parser reads its own form; tools have one that all answers share.
            return BaseChatModel.with_structured_output(self, schema, **kwargs)
        balanced = self._with({name: each.model for name, each in bound.items()})
        return replace_models(next(iter(runnables.values())), lambda _: balanced)

    @override
    def _around(self, model: BaseChatModel) -> BaseChatModel:
        return self._with({**self._models, next(iter(self._models)): model})

    @property
    @override
    def _reads_call(self) -> bool:
        return True

    @override
    def _making(self, run_manager: Any) -> WrappedChatModel:
        making = super()._making(run_manager)
        if isinstance(run_manager, BaseRunManager) and isinstance(making, BalancedChatModel):
            making._audience = Audience.of_run(run_manager)
        return making

    @override
    def _streaming(
        self, config: RunnableConfig | None
    ) -> tuple[WrappedChatModel, RunnableConfig | None]:
        making, known = super()._streaming(_placed(config))
        if isinstance(making, BalancedChatModel) and known is not None:
            run_id = cast("Call", making._call).run_id
            making._audience = Audience.of_config(self, known, run_id)
        return making, known

    def _with(self, models: Mapping[str, BaseChatModel]) -> Self:
        """Return the same deployments, and what is known of them, with other models."""
        if all(model is self._models[name] for name, model in models.items()):
            return self
        copy = self.model_copy(update={"model": next(iter(models.values()))})
        copy._models = dict(models)
        return copy

    def _choice(self, run_manager: Any, measure: Measure) -> Choice:
        told = self._call_of(run_manager).metadata.get(_REGION)
        if told is not None and self._region is not None and told != self._region:
            message = (
                f"the call is bound to region {told!r} and the model to {self._region!r}: no "
                "deployment is in both; leave one of them out"
            )
            raise ConfigurationError(message)
        return Choice(region=self._region if told is None else told, measure=measure)

    def _asked(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None,
        run_manager: Any,
        options: Mapping[str, Any],
    ) -> Asked:
        if isinstance(run_manager, BaseRunManager):
            audience = Audience.of_run(run_manager)
        else:
            # Within another wrapper's stream, only the context knows who listens.
            run_id = self._call_of(run_manager).run_id
            audience = self._audience or Audience.of_config(self, ensure_config(), run_id)
        return Asked(
            messages=messages,
            stop=stop,
            models=self._models,
            options={name: options_of(name, options) for name in self._models},
            audience=audience,
        )


def _check(deployments: Sequence[Deployment], region: str | None) -> None:
    if not deployments:
        message = "a BalancedChatModel needs at least one deployment, got none"
        raise ConfigurationError(message)
    for each in deployments:
        check_kind(each, Deployment, 'pass Deployment("name", model)')
    names = [each.name for each in deployments]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        message = f"the names of deployments must differ, got {', '.join(twice)} more than once"
        raise ConfigurationError(message)
    if region is not None and all(each.region != region for each in deployments):
        message = f"no deployment is in region {region!r}; name the region of those that are"
        raise ConfigurationError(message)


def _placed(config: RunnableConfig | None) -> RunnableConfig | None:
    """Return a config whose metadata hold the region that its `configurable` names."""
    known = ensure_config(config)
    region = (known.get("configurable") or {}).get(_REGION)
    if region is None:
        return config
    metadata = known.get("metadata") or {}
    if metadata.get(_REGION, region) != region:
        message = (
            f"the config names the region {region!r} in configurable and {metadata[_REGION]!r} in "
            "metadata; leave one of them out"
        )
        raise ConfigurationError(message)
    return {**known, "metadata": {**metadata, _REGION: region}}
