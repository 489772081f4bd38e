"""Build prompts with what never changes in front, so that the provider's cache can serve it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

from langchain_core.documents import Document
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import (
    AIMessage,
    AnyMessage,
    BaseMessage,
    HumanMessage,
    SystemMessage,
    convert_to_messages,
)
from langchain_core.runnables import Runnable, RunnableLambda

from langchain_tokenopt.errors import ConfigurationError
from langchain_tokenopt.prompts.economics import SizeAdvice, size_advice
from langchain_tokenopt.prompts.hints import STATIC, CacheHints, model_and_provider, sorted_tools
from langchain_tokenopt.prompts.model import HintedChatModel
from langchain_tokenopt.prompts.shape import RequestShape, canonical_json, version_of
from langchain_tokenopt.tokens import counter_for


class PromptInput(TypedDict, total=False):
    """What changes from request to request."""

    query: str | list[Any]
    """The question: text, or content blocks."""
    history: Sequence[AnyMessage]
    """Earlier turns, oldest first; only ever appended to."""
    documents: Sequence[Document | str]
    """Found for this request."""
    context: Mapping[str, Any] | str
    """Everything else of this request: the time, the user, the page they see."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A question with its answer, shown to the model."""

    question: str
    answer: str


class PromptBuilder:
    """Lays out a prompt for provider caches: equal for all requests first, the question last.

    In this order: tools sorted by name, the system prompt, fixed documents, examples; then the
    history, and in the last message the documents found for this request, its context and the
    question. Values are written as canonical JSON, so equal values give equal text.

    Args:
        system: What the model always is told. Nothing of one request belongs here: times, names
            and ids go into `context`.
        tools: In any form that `bind_tools` takes.
        examples: Shown as turns.
        documents: What every request needs; ordered by their ids or texts, so that the order in
            which they were found does not matter.
        name: Begins the `prompt_cache_key`.

    >>> from langchain_tokenopt.testing import ScriptedModel
    >>> builder = PromptBuilder("You answer for a bookshop.")
    >>> chain = builder.bind(ScriptedModel(["four"], model_name="gpt-5-mini", provider="openai"))
    >>> chain.invoke({"query": "2 + 2?", "context": {"now": "10:31"}}).text
    'four'
    >>> [message.type for message in builder.messages({"query": "2 + 2?"})]
    ['system', 'human']
    """

    def __init__(
        self,
        system: str,
        *,
        tools: Sequence[Any] = (),
        examples: Sequence[Example] = (),
        documents: Sequence[Document | str] = (),
        name: str = "tokenopt",
    ) -> None:
        if not str(system).strip():
            raise ConfigurationError(f"expected a system prompt, got {system!r}")
        self.name = name
        self.tools = tuple(sorted_tools(tools))
        self._static = [_static(SystemMessage(_with_documents(system, documents)))]
        for example in examples:
            self._static.append(_static(HumanMessage(example.question)))
            self._static.append(_static(AIMessage(example.answer)))
        shape = RequestShape.of(self._static, model="", parameters={"tools": self.tools})
        self.version = version_of(shape.parts)
        """Of the static part: 12 hexadecimal digits that change whenever it does."""

    def messages(self, given: PromptInput) -> list[BaseMessage]:
        """Return the messages of one request.

        Raises:
            ConfigurationError: There is no query, or a key is not known.
        """
        unknown = set(given) - set(PromptInput.__annotations__)
        if unknown or not given.get("query"):
            known = ", ".join(PromptInput.__annotations__)
            message = f"expected a query, and of {known} what there is, got {sorted(given)}"
            raise ConfigurationError(message)
        history = convert_to_messages(list(given.get("history") or ()))
        misplaced = next((m for m in history if isinstance(m, SystemMessage)), None)
        if misplaced is not None:
            message = (
                "a system message in the history changes with it; give what it says as context, "
                f"got {str(misplaced.text)!r:.60}"
            )
            raise ConfigurationError(message)
        return [*self._static, *history, HumanMessage(_last_turn(given))]

    def static_tokens(self, model: str) -> int:
        """Return the tokens of the static part, tools included, as `model` counts them."""
        return counter_for(model).count_messages(self._static, tools=self.tools)

    def advice(
        self, model: BaseChatModel, *, hit_share: float, hints: CacheHints | None = None
    ) -> SizeAdvice | None:
        """Return whether the static part is long enough to be cached, `None` if nobody knows.

        `hit_share` is the share of requests that come while the provider keeps the prefix.
        """
        chosen = hints or CacheHints()
        name, provider = model_and_provider(model)
        rule = chosen.rules.find(name, provider=provider)
        if rule is None:
            return None
        return size_advice(rule, tokens=self.static_tokens(name), hit_share=hit_share)

    def bind(
        self, model: BaseChatModel, *, hints: CacheHints | None = None, **keywords: Any
    ) -> Runnable[PromptInput, AIMessage]:
        """Return a runnable that answers a `PromptInput`, with hints for the model's provider.

        Args:
            model: Any chat model.
            hints: What the provider is to be told; by default its key and marks.
            keywords: For `bind_tools`, such as `tool_choice`.
        """
        told = hints or CacheHints(name=self.name)
        wrapped = HintedChatModel(model, hints=told)
        answering: Runnable[Any, AIMessage] = (
            wrapped.bind_tools(self.tools, **keywords) if self.tools else wrapped
        )
        return RunnableLambda(self.messages, name="build_prompt") | answering


def _static(message: BaseMessage) -> BaseMessage:
    return message.model_copy(update={"response_metadata": {STATIC: True}})


def _with_documents(system: str, documents: Sequence[Document | str]) -> str:
    if not documents:
        return system
    ordered = sorted(map(written, documents))
    return f"{system}\n\n" + "\n".join(ordered)


def written(document: Document | str) -> str:
    """Return a document as it stands in a prompt: with its id and metadata, keys in order."""
    if isinstance(document, str):
        return f"<document>\n{document}\n</document>"
    told = {**document.metadata, **({"id": document.id} if document.id else {})}
    about = f" {canonical_json(told)}" if told else ""
    return f"<document{about}>\n{document.page_content}\n</document>"


def _last_turn(given: PromptInput) -> str | list[Any]:
    """Return the last message: what was found, the context, and the question at its end."""
    parts = [written(document) for document in given.get("documents") or ()]
    context = given.get("context")
    if context:
        told = context if isinstance(context, str) else canonical_json(context)
        parts.append(f"<context>\n{told}\n</context>")
    query = given["query"]
    if isinstance(query, str):
        return "\n\n".join([*parts, query])
    front: list[Any] = [{"type": "text", "text": "\n\n".join(parts)}] if parts else []
    return [*front, *query]
