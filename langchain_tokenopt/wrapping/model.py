"""A chat model that stands around another one, and looks like it."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

from langchain_core.language_models import BaseChatModel, LangSmithParams, LanguageModelInput
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.runnables import Runnable
from typing_extensions import override

from langchain_tokenopt.errors import ConfigurationError
from langchain_tokenopt.wrapping.rewire import replace_models

# What the caller sees of the wrapped model; its rate limit is kept to by real calls only.
_SHOWN = (
    "name", "verbose", "callbacks", "tags", "metadata", "custom_get_token_ids",
    "disable_streaming", "output_version", "profile",
)  # fmt: skip


class WrappedChatModel(BaseChatModel):
    """Shows the wrapped model's parameters, tools and counts; a subclass says how it is asked."""

    model: BaseChatModel

    def __init__(self, model: BaseChatModel, **keywords: Any) -> None:
        check_kind(model, BaseChatModel, "wrap the model first, then bind tools to the wrapped one")
        shown = {name: getattr(model, name) for name in _SHOWN}
        super().__init__(**{**shown, **keywords, "model": model, "cache": False})

    @abstractmethod
    def _around(self, model: BaseChatModel) -> BaseChatModel:
        """Return what this is, around another model."""

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
