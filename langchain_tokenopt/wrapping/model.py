"""A chat model that stands around another one, and looks like it."""

from abc import abstractmethod
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

from langchain_core.language_models import BaseChatModel, LangSmithParams, LanguageModelInput
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatResult
from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.runnables.config import ensure_config
from pydantic import PrivateAttr
from typing_extensions import override

from langchain_tokenopt.errors import ConfigurationError
from langchain_tokenopt.wrapping.rewire import replace_models

# What the caller sees of the wrapped model; its rate limit is kept to by real calls only.
_SHOWN = (
    "name", "verbose", "callbacks", "tags", "metadata", "custom_get_token_ids",
    "disable_streaming", "output_version", "profile",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Call:
    """What LangChain knows of the call that is being made."""

    run_id: UUID
    metadata: Mapping[str, Any]


class WrappedChatModel(BaseChatModel):
    """Shows the wrapped model's parameters, tools and counts; a subclass says how it is asked.

    LangChain does not tell `_stream` whose call it is. Where `_reads_call` says that it matters,
    each call is made on a shallow copy that knows it: see `_call_of`.
    """

    model: BaseChatModel

    _call: Call | None = PrivateAttr(default=None)

    def __init__(self, model: BaseChatModel, **keywords: Any) -> None:
        check_kind(model, BaseChatModel, "wrap the model first, then bind tools to the wrapped one")
        shown = {name: getattr(model, name) for name in _SHOWN}
        super().__init__(**{**shown, **keywords, "model": model, "cache": False})

    @abstractmethod
    def _around(self, model: BaseChatModel) -> BaseChatModel:
        """Return what this is, around another model."""

    @property
    def _reads_call(self) -> bool:
        """Whether this or a wrapper inside it wants to know of the call."""
        return isinstance(self.model, WrappedChatModel) and self.model._reads_call

    def _call_of(self, run_manager: Any) -> Call:
        """Return the call that is being made, a new one if LangChain did not make it."""
        if run_manager is not None:
            return Call(run_manager.run_id, run_manager.metadata)
        return self._call or Call(uuid4(), {})

    def _making(self, run_manager: Any) -> "WrappedChatModel":
        """Return what makes a call that `run_manager` knows of."""
        if not self._reads_call or run_manager is None:
            return self
        return self._copy_for(Call(run_manager.run_id, run_manager.metadata))

    def _copy_for(self, call: Call) -> "WrappedChatModel":
        copy = self.model_copy()
        copy._call = call
        return copy

    @override
    def stream(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> Iterator[AIMessageChunk]:
        making, config = self._streaming(config)
        yield from super(WrappedChatModel, making).stream(input, config, stop=stop, **kwargs)

    @override
    async def astream(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[AIMessageChunk]:
        making, config = self._streaming(config)
        stream: Any = super(WrappedChatModel, making).astream(input, config, stop=stop, **kwargs)
        async with aclosing(stream):
            async for chunk in stream:
                yield chunk

    def _streaming(
        self, config: RunnableConfig | None
    ) -> tuple["WrappedChatModel", RunnableConfig | None]:
        if not self._reads_call:
            return self, config
        known = ensure_config(config)
        run_id = known.get("run_id") or uuid4()
        making = self._copy_for(Call(run_id, known.get("metadata") or {}))
        return making, {**known, "run_id": run_id}

    @override
    def _generate_with_cache(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: Any = None,
        **kwargs: Any,
    ) -> ChatResult:
        making: Any = super(WrappedChatModel, self._making(run_manager))
        result: ChatResult = making._generate_with_cache(messages, stop, run_manager, **kwargs)
        return result

    @override
    async def _agenerate_with_cache(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: Any = None,
        **kwargs: Any,
    ) -> ChatResult:
        making: Any = super(WrappedChatModel, self._making(run_manager))
        result: ChatResult = await making._agenerate_with_cache(
            messages, stop, run_manager, **kwargs
        )
        return result

    def _wrapped(self, model: BaseChatModel) -> BaseChatModel:
        return self if model is self.model else self._around(model)

    @override
    def bind_tools(
        self, tools: Sequence[Any], **kwargs: Any
    ) -> Runnable[LanguageModelInput, AIMessage]:
        return replace_models(self.model.bind_tools(tools, **kwargs), self._wrapped)

    @override
    def with_structured_output(
        self, schema: Any, **kwargs: Any
    ) -> Runnable[LanguageModelInput, Any]:
        return replace_models(self.model.with_structured_output(schema, **kwargs), self._wrapped)

    @override
    def get_token_ids(self, text: str) -> list[int]:
        return self.model.get_token_ids(text)

    @override
    def get_num_tokens_from_messages(self, messages: list[BaseMessage], tools: Any = None) -> int:
        return self.model.get_num_tokens_from_messages(messages, tools)

    @property
    @override
    def _llm_type(self) -> str:
        return self.model._llm_type

    @property
    @override
    def _identifying_params(self) -> Any:
        return self.model._identifying_params

    @override
    def _get_llm_string(self, stop: list[str] | None = None, **kwargs: Any) -> str:
        # A cache's key is of the model that answers, whatever stands around it.
        return self.model._get_llm_string(stop=stop, **kwargs)

    @override
    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        return self.model._get_ls_params(stop=stop, **kwargs)

    @override
    def _get_invocation_params(self, stop: list[str] | None = None, **kwargs: Any) -> Any:
        return self.model._get_invocation_params(stop=stop, **kwargs)

    @override
    def _combine_llm_outputs(self, llm_outputs: list[Any]) -> Any:
        return self.model._combine_llm_outputs(llm_outputs)


def check_kind(value: Any, kind: type, advice: str) -> None:
    """Raise a `ConfigurationError` with advice if `value` is no `kind`."""
    if not isinstance(value, kind):
        message = f"expected a {kind.__name__}, got {type(value).__name__}; {advice}"
        raise ConfigurationError(message)
