"""Keep a conversation within a number of tokens, and the provider's cached prefix whole."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from langchain_core.embeddings import Embeddings
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import BaseMessage, HumanMessage, convert_to_messages
from langchain_core.prompt_values import PromptValue
from langchain_core.runnables import Runnable, RunnableConfig, RunnableLambda
from langchain_core.stores import BaseStore
from typing_extensions import override

from langchain_tokenopt.errors import ConfigurationError
from langchain_tokenopt.prompts.cache_rules import CacheRules, bundled_rules
from langchain_tokenopt.prompts.context_fit import Fitter, Options, WhenTooLarge
from langchain_tokenopt.prompts.context_needs import arun, run
from langchain_tokenopt.prompts.context_recall import Recall
from langchain_tokenopt.prompts.context_relevance import Relevance
from langchain_tokenopt.prompts.context_report import ContextStats, FittedContext, ReportListener
from langchain_tokenopt.prompts.context_strategy import Importance, Recent, Strategy
from langchain_tokenopt.prompts.context_summary import Summarizer
from langchain_tokenopt.prompts.hints import model_and_provider
from langchain_tokenopt.prompts.tables import TableWriter
from langchain_tokenopt.tokens import counter_for

_LOG = logging.getLogger(__name__)
# Beyond as many characters, an event loop should not wait for the arithmetic.
_LONG = 200_000
_OF_STRATEGIES = ("values", "contiguous", "needs_relevance")
_NAMED: Mapping[str, Strategy] = {"recent": Recent(), "importance": Importance()}


class ContextWindow(Runnable[LanguageModelInput, list[BaseMessage]]):
    """Shortens a conversation once it has more than `max_tokens`, to `keep_tokens` in one step.

    In between nothing before the newest messages changes, so that the provider's cache serves the
    whole prefix: a window that moves with each message breaks it with each message. What was
    decided for a conversation holds for all that it grows into, on any host that shares `store`.
    The conversation itself is not touched: nothing is lost, and what a question asks for comes back
    (`recall`).

    Counted are messages and tools, as the provider counts them. A model's calls and their results
    stay or go together; system messages, messages that were `pinned` and everything from the last
    human message on stay, but for results of earlier calls in a long turn, which become a line.

    Args:
        model: The model that is asked, or its name: to count, and to know its provider's rules.
        max_tokens: Above it the conversation is shortened.
        keep_tokens: What is left then, by default half. Less breaks the prefix less often; below
            the least that the provider caches (1,024 tokens and more) it can cost more than it
            saves, and the report says so.
        strategy: What stays: `"importance"`, `"recent"`, or an object such as
            `Importance(recency=2)`.
        summarizer: A small model or a `Summarizer`: keeps notes of what is left out.
        recall: Brings back, with the question, passages that it asks for; `None` for nothing.
        embeddings: Say what is alike; without, words in common do.
        tools: Of the model, in any form that `bind_tools` takes.
        tables: Whether JSON in results of tools is written as tables: "write" or "leave".
        store: Where what was decided is kept, besides in memory: any `BaseStore[str, bytes]`, such
            as `SqliteContextStore`.
        when_too_large: What if nothing more can be left out: `"raise"` a `ContextOverflowError`, or
            `"send"` all the same, with a problem in the report.
        rules: How providers cache.
        listeners: Told of each request with a new shortening.

    Raises:
        ConfigurationError: A value cannot be used.

    >>> from langchain_core.messages import AIMessage, HumanMessage
    >>> window = ContextWindow("gpt-5-mini", max_tokens=100)
    >>> turns = [HumanMessage(f"Tell me about {n}.") for n in range(20)]
    >>> fitted = window.fit(turns)
    >>> fitted.report.tokens < 100, fitted.messages[-1].text
    (True, 'Tell me about 19.')
    """

    def __init__(
        self,
        model: BaseChatModel | str,
        *,
        max_tokens: int,
        keep_tokens: int | None = None,
        strategy: Strategy | Literal["recent", "importance"] = "importance",
        summarizer: BaseChatModel | Summarizer | None = None,
        recall: Recall | None = Recall(),  # noqa: B008 - frozen
        embeddings: Embeddings | None = None,
        tools: Sequence[Any] = (),
        tables: Literal["write", "leave"] = "write",
        store: BaseStore[str, bytes] | None = None,
        when_too_large: WhenTooLarge = "raise",
        rules: CacheRules | None = None,
        listeners: Sequence[ReportListener] = (),
    ) -> None:
        keep = max_tokens // 2 if keep_tokens is None else keep_tokens
        if not 0 < keep < max_tokens:
            message = (
                "keep_tokens must be more than 0 and less than max_tokens, got "
                f"{keep_tokens} and {max_tokens}"
            )
            raise ConfigurationError(message)
        _check_choice("when_too_large", when_too_large, ("raise", "send"))
        _check_choice("tables", tables, ("write", "leave"))
        name, provider = (model, None) if isinstance(model, str) else model_and_provider(model)
        counter = counter_for(name)
        self._tools = tuple(tools)
        self._listeners = tuple(listeners)
        self.listener_failures = 0
        self._fitter = Fitter(
            Options(
                counter=counter,
                max_tokens=max_tokens,
                keep_tokens=keep,
                strategy=_strategy(strategy),
                summarizer=_summarizer(summarizer),
                recall=recall,
                tables=TableWriter(counter.count_text) if tables == "write" else None,
                store=store,
                when_too_large=when_too_large,
                rule=(rules or bundled_rules()).find(name, provider=provider),
            ),
            Relevance(embeddings),
        )

    @property
    def stats(self) -> ContextStats:
        """What was done so far."""
        return self._fitter.stats

    def fit(
        self,
        messages: LanguageModelInput,
        config: RunnableConfig | None = None,
        *,
        tools: Sequence[Any] | None = None,
    ) -> FittedContext:
        """Return the messages that are sent, with a report.

        Args:
            messages: The whole conversation, system message included.
            config: For the model that summarises.
            tools: Of this request, in place of the window's.

        Raises:
            ConfigurationError: There is no message.
            ContextOverflowError: It cannot be made to fit.
        """
        steps = self._fitter.steps(_messages(messages), self._tools if tools is None else tools)
        return self._told(run(steps, config))

    async def afit(
        self,
        messages: LanguageModelInput,
        config: RunnableConfig | None = None,
        *,
        tools: Sequence[Any] | None = None,
    ) -> FittedContext:
        """Do what `fit` does without blocking the event loop."""
        given = _messages(messages)
        steps = self._fitter.steps(given, self._tools if tools is None else tools)
        long = sum(len(str(message.content)) for message in given) > _LONG
        return self._told(await arun(steps, config, long=long))

    @override
    def invoke(
        self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any
    ) -> list[BaseMessage]:
        def fitted(
            given: LanguageModelInput, run_manager: Any, config: RunnableConfig
        ) -> list[BaseMessage]:
            return list(self.fit(given, config).messages)

        return self._call_with_config(fitted, input, config)

    @override
    async def ainvoke(
        self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any
    ) -> list[BaseMessage]:
        async def fitted(
            given: LanguageModelInput, run_manager: Any, config: RunnableConfig
        ) -> list[BaseMessage]:
            return list((await self.afit(given, config)).messages)

        return await self._acall_with_config(fitted, input, config)

    def as_node(
        self, *, messages_key: str = "messages", output_key: str = "llm_input_messages"
    ) -> Runnable[Mapping[str, Any], dict[str, Any]]:
        """Return a node for a graph: reads the conversation of the state, gives what to send.

        The state keeps the whole conversation. As it is, it is a `pre_model_hook` of LangGraph's
        `create_react_agent`.
        """

        def node(state: Mapping[str, Any], config: RunnableConfig) -> dict[str, Any]:
            return {output_key: list(self.fit(_read(state, messages_key), config).messages)}

        async def anode(state: Mapping[str, Any], config: RunnableConfig) -> dict[str, Any]:
            fitted = await self.afit(_read(state, messages_key), config)
            return {output_key: list(fitted.messages)}

        return RunnableLambda(node, anode, name="context_window")

    def _told(self, fitted: FittedContext) -> FittedContext:
        for listener in self._listeners if fitted.report.edited else ():
            try:
                listener(fitted.report)
            except Exception as error:  # noqa: BLE001 - no listener may break the call
                self.listener_failures += 1
                if self.listener_failures == 1:
                    _LOG.warning("%r failed, the request is made all the same: %r", listener, error)
        return fitted


def _check_choice(name: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        choices = " or ".join(map(repr, known))
        raise ConfigurationError(f"{name} must be {choices}, got {value!r}")


def _strategy(given: Strategy | str) -> Strategy:
    if isinstance(given, str):
        if given not in _NAMED:
            message = f"strategy must be one of {', '.join(_NAMED)}, or an object, got {given!r}"
            raise ConfigurationError(message)
        return _NAMED[given]
    lacking = [name for name in _OF_STRATEGIES if not hasattr(given, name)]
    if lacking:
        message = f"got {type(given).__name__}, which lacks {', '.join(lacking)}"
        raise ConfigurationError(f"expected a strategy, {message}")
    return given


def _summarizer(given: BaseChatModel | Summarizer | None) -> Summarizer | None:
    return given if given is None or isinstance(given, Summarizer) else Summarizer(given)


def _messages(given: LanguageModelInput) -> list[BaseMessage]:
    if isinstance(given, str):
        return [HumanMessage(given)]
    if isinstance(given, PromptValue):
        return given.to_messages()
    return convert_to_messages(given)


def _read(state: Mapping[str, Any], key: str) -> Sequence[BaseMessage]:
    given: Any = state
    found = given.get(key) if isinstance(given, Mapping) else getattr(given, key, None)
    if found is None:
        message = f"expected messages under {key!r} in the state, got {state!r:.200}"
        raise ConfigurationError(message)
    return convert_to_messages(found)
