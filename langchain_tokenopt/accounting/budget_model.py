"""A chat model that keeps within budgets."""

from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, closing
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult, LLMResult
from pydantic import PrivateAttr
from typing_extensions import override

from langchain_tokenopt.accounting.budget_guard import BudgetGuard
from langchain_tokenopt.accounting.budget_handler import AsyncBudgetHandler, BudgetHandler
from langchain_tokenopt.errors import BudgetExceededError, ConfigurationError
from langchain_tokenopt.wrapping import (
    Call,
    WrappedChatModel,
    acall,
    astream_of,
    call,
    check_kind,
    copied,
    merged,
    stream_of,
)


class BudgetedChatModel(WrappedChatModel):
    """Asks the budgets before each call, and books what it used, streams too.

    Stands wherever the wrapped model stood. Inside a cache, answers that the cache serves are free
    and are served even when the budget is used up: `CachedChatModel(BudgetedChatModel(...), ...)`.
    A budget `per="run"` needs `metadata={"run": ...}` in the config, which LangChain hands down.

    Args:
        model: The model to ask.
        guard: Knows the budgets.
        downgrade_to: A cheaper model of the same class, asked when the budgets have no room for
            `model`; without it, or without room for that one too, the call raises.

    Raises:
        BudgetExceededError: On a call, if the budgets have no room for it.

    >>> from langchain_tokenopt.accounting import Budget
    >>> from langchain_tokenopt.testing import ScriptedModel
    >>> guard = BudgetGuard([Budget("day", calls=1, every="day")])
    >>> model = BudgetedChatModel(ScriptedModel(["four", "five"]), guard=guard)
    >>> model.invoke("2 + 2?").text
    'four'
    >>> model.invoke("2 + 3?")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    langchain_tokenopt.errors.BudgetExceededError: budget 'day' (...) has 0 of 1 calls left...
    """

    _guard: BudgetGuard = PrivateAttr()
    _downgrade: BaseChatModel | None = PrivateAttr(default=None)
    _handler: BudgetHandler = PrivateAttr()
    _ahandler: AsyncBudgetHandler = PrivateAttr()

    def __init__(
        self,
        model: BaseChatModel,
        *,
        guard: BudgetGuard,
        downgrade_to: BaseChatModel | None = None,
        **keywords: Any,
    ) -> None:
        check_kind(guard, BudgetGuard, "pass BudgetGuard([Budget(...)])")
        super().__init__(model, **keywords)
        if downgrade_to is not None and type(downgrade_to) is not type(model):
            message = (
                f"downgrade_to must be a {type(model).__name__} like the model, since tools are "
                f"bound in its form, got {type(downgrade_to).__name__}; in an agent, "
                "BudgetMiddleware takes any model"
            )
            raise ConfigurationError(message)
        self._guard = guard
        self._downgrade = downgrade_to
        self._handler = BudgetHandler(guard, run="")
        self._ahandler = AsyncBudgetHandler(guard, run="")

    @override
    def _around(self, model: BaseChatModel) -> BaseChatModel:
        same = self._downgrade if type(self._downgrade) is type(model) else None
        return type(self)(model, guard=self._guard, downgrade_to=same)

    @override
    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        run = self._call_of(run_manager)
        model = self._begin(messages, stop, run, kwargs)
        try:
            result = call(model, messages, stop, run_manager, kwargs)
        except BaseException as error:
            self._handler.on_llm_error(error, run_id=run.run_id)
            raise
        self._handler.on_llm_end(_told(result, run), run_id=run.run_id)
        return result

    @override
    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        run = self._call_of(run_manager)
        model = await self._abegin(messages, stop, run, kwargs)
        try:
            result = await acall(model, messages, stop, run_manager, kwargs)
        except BaseException as error:
            await self._ahandler.on_llm_error(error, run_id=run.run_id)
            raise
        await self._ahandler.on_llm_end(_told(result, run), run_id=run.run_id)
        return result

    @override
    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        run = self._call_of(run_manager)
        model = self._begin(messages, stop, run, kwargs)
        chunks: list[ChatGenerationChunk] = []
        try:
            with closing(stream_of(model, messages, stop, self._call, kwargs)) as stream:
                for chunk in stream:
                    chunks.append(copied(chunk))
                    self._handler.on_llm_new_token("", run_id=run.run_id, chunk=chunks[-1])
                    yield chunk
        except BaseException as error:
            so_far = _told(merged(chunks), run)
            self._handler.on_llm_error(error, run_id=run.run_id, response=so_far)
            raise
        self._handler.on_llm_end(_told(merged(chunks), run), run_id=run.run_id)

    @override
    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        run = self._call_of(run_manager)
        model = await self._abegin(messages, stop, run, kwargs)
        chunks: list[ChatGenerationChunk] = []
        try:
            async with aclosing(astream_of(model, messages, stop, self._call, kwargs)) as stream:
                async for chunk in stream:
                    chunks.append(copied(chunk))
                    await self._ahandler.on_llm_new_token("", run_id=run.run_id, chunk=chunks[-1])
                    yield chunk
        except BaseException as error:
            so_far = _told(merged(chunks), run)
            await self._ahandler.on_llm_error(error, run_id=run.run_id, response=so_far)
            raise
        await self._ahandler.on_llm_end(_told(merged(chunks), run), run_id=run.run_id)

    def _begin(
        self, messages: list[BaseMessage], stop: list[str] | None, caller: Call, kwargs: Any
    ) -> BaseChatModel:
        """Return the model to ask, once the budgets have set aside what it may use."""
        refused: BudgetExceededError | None = None
        for model in self._models():
            about = _about(model, stop, caller, kwargs)
            try:
                self._handler.on_chat_model_start(None, [messages], **about)
            except BudgetExceededError as error:
                refused = refused or error
            else:
                return model
        assert refused is not None  # noqa: S101 - there is at least one model
        raise refused

    async def _abegin(
        self, messages: list[BaseMessage], stop: list[str] | None, caller: Call, kwargs: Any
    ) -> BaseChatModel:
        refused: BudgetExceededError | None = None
        for model in self._models():
            about = _about(model, stop, caller, kwargs)
            try:
                await self._ahandler.on_chat_model_start(None, [messages], **about)
            except BudgetExceededError as error:
                refused = refused or error
            else:
                return model
        assert refused is not None  # noqa: S101 - there is at least one model
        raise refused

    @property
    @override
    def _reads_call(self) -> bool:
        return True

    def _models(self) -> list[BaseChatModel]:
        return [self.model] if self._downgrade is None else [self.model, self._downgrade]


def _about(
    model: BaseChatModel, stop: list[str] | None, caller: Call, kwargs: dict[str, Any]
) -> dict[str, Any]:
    """Return what a handler is told of a call."""
    metadata = {**caller.metadata, **model._get_ls_params(stop=stop, **kwargs)}
    parameters = model._get_invocation_params(stop=stop, **kwargs)
    return {"run_id": caller.run_id, "metadata": metadata, "invocation_params": parameters}


def _told(result: ChatResult, run: Call) -> LLMResult:
    """Return a result as LangChain would hand it to a handler."""
    output = result.llm_output or {}
    single = len(result.generations) == 1
    told: list[Any] = []
    for generation in result.generations:
        message = generation.message
        served = {
            **(output if single else {}),
            **(generation.generation_info or {}),
            **message.response_metadata,
        }
        update = {"response_metadata": served, "id": message.id or f"run-{run.run_id}"}
        told.append(ChatGeneration(message=message.model_copy(update=update)))
    return LLMResult(generations=[told], llm_output=result.llm_output)
