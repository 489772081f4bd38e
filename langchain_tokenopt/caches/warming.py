"""Filling a cache before it is asked: each prompt once, within a budget of tokens."""

import asyncio
import math
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Protocol

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.language_models import BaseChatModel
from langchain_core.load import dumps
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, convert_to_messages
from langchain_core.outputs import ChatGeneration, LLMResult
from langchain_core.prompt_values import PromptValue
from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.runnables.config import ContextThreadPoolExecutor, merge_configs
from typing_extensions import override

from langchain_tokenopt.errors import ConfigurationError
from langchain_tokenopt.messages import is_cache_hit
from langchain_tokenopt.tokens import TokenCounter, counter_for


class _Costs(Protocol):
    @property
    def cost(self) -> Decimal: ...


class SpendLedger(Protocol):
    """Anything that sums up what calls cost, such as a `UsageLedger`."""

    def totals(self) -> _Costs:
        """Return sums; their `cost` is in dollars."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmReport:
    """What warming did."""

    asked: int
    """Prompts that a model answered."""
    already_there: int
    failed: int
    tokens: int
    """Read and written by the models that answered: as reported, or counted where not."""
    dollars: Decimal | None
    """What the ledger grew by, `None` without one."""
    stopped_at_budget: bool
    """Whether prompts were left because the next one did not fit."""
    first_error: Exception | None


def warm(
    model: Runnable[Any, Any],
    prompts: Iterable[Any],
    *,
    budget_tokens: int | None = None,
    concurrency: int = 4,
    config: RunnableConfig | None = None,
    counter: TokenCounter | None = None,
    ledger: SpendLedger | None = None,
) -> WarmReport:
    """Ask each prompt once, so that its answer is kept; return what that took.

    What is kept already is served by the cache and costs nothing; inside
    `cache_control(no_cache=True)` it is asked anew. A failure is counted, and the rest goes on.

    Args:
        model: A `CachedChatModel`, or any runnable over models with a cache.
        prompts: What `model.invoke` takes.
        budget_tokens: Most tokens to spend. Before each call its input, and an answer as long as
            the longest so far, must fit; so answers longer than that can exceed the budget.
        concurrency: Most calls at once.
        config: For each call: callbacks, tags, ...
        counter: Counts input; the model's own if it is a chat model.
        ledger: Also among the callbacks of `config`; `dollars` is what its cost grows by meanwhile.

    >>> from langchain_tokenopt.caches import CachedChatModel, MemoryCache
    >>> from langchain_tokenopt.testing import ScriptedModel
    >>> model = CachedChatModel(ScriptedModel(["four", "six"]), cache=MemoryCache())
    >>> warm(model, ["2 + 2?", "3 + 3?"]).asked, warm(model, ["2 + 2?"]).already_there
    (2, 1)
    """
    work = _Work(model, prompts, budget_tokens, concurrency, counter)
    before = _cost_of(ledger)
    running: dict[Future[Any], _Call] = {}
    with ContextThreadPoolExecutor(concurrency) as pool:
        while True:
            while len(running) < concurrency and (call := work.take()) is not None:
                running[pool.submit(model.invoke, call.prompt, call.config(config))] = call
            if not running:
                break
            for done in wait(running, return_when=FIRST_COMPLETED).done:
                work.settle(running.pop(done), done.exception())
    return work.report(before=before, after=_cost_of(ledger))


async def awarm(
    model: Runnable[Any, Any],
    prompts: Iterable[Any],
    *,
    budget_tokens: int | None = None,
    concurrency: int = 4,
    config: RunnableConfig | None = None,
    counter: TokenCounter | None = None,
    ledger: SpendLedger | None = None,
) -> WarmReport:
    """Do what `warm` does without blocking the event loop."""
    work = _Work(model, prompts, budget_tokens, concurrency, counter)
    before = await asyncio.to_thread(_cost_of, ledger)
    running: dict[asyncio.Task[Any], _Call] = {}
    try:
        while True:
            while len(running) < concurrency:
                call = await asyncio.to_thread(work.take)  # the first count loads a vocabulary
                if call is None:
                    break
                asked = model.ainvoke(call.prompt, call.config(config))
                running[asyncio.ensure_future(asked)] = call
            if not running:
                break
            finished, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            for done in finished:
                work.settle(running.pop(done), done.exception())
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
    return work.report(before=before, after=await asyncio.to_thread(_cost_of, ledger))


def _cost_of(ledger: SpendLedger | None) -> Decimal | None:
    return None if ledger is None else ledger.totals().cost


class _Heard(BaseCallbackHandler):
    """Hears what the models below one call answered."""

    def __init__(self) -> None:
        self.answers: list[AIMessage] = []

    @override
    def on_llm_end(self, response: LLMResult, **kwargs: Any) -> None:
        for answer in (answer for answers in response.generations for answer in answers):
            if isinstance(answer, ChatGeneration) and isinstance(answer.message, AIMessage):
                self.answers.append(answer.message)


@dataclass(frozen=True, slots=True)
class _Call:
    prompt: Any
    input_tokens: int
    reserved: int
    heard: _Heard = field(default_factory=_Heard)

    def config(self, given: RunnableConfig | None) -> RunnableConfig:
        """Return the caller's settings with our ear among the callbacks."""
        return merge_configs(given, {"callbacks": [self.heard]})


class _Work:
    """Which prompt is next, and what was spent: the core that both twins share."""

    def __init__(
        self,
        model: Runnable[Any, Any],
        prompts: Iterable[Any],
        budget: int | None,
        concurrency: int,
        counter: TokenCounter | None,
    ) -> None:
        if concurrency < 1:
            message = f"concurrency must be at least 1, got {concurrency}"
            raise ConfigurationError(message)
        if budget is not None and budget < 0:
            message = f"budget_tokens must be at least 0, or None for no bound, got {budget}"
            raise ConfigurationError(message)
        if isinstance(prompts, str):
            message = f"prompts must be several, got the text {prompts!r}; put it into a list"
            raise ConfigurationError(message)
        self._counter = counter or counter_for(_name_of(model))
        self._budget = math.inf if budget is None else budget
        self._prompts = _distinct(prompts)
        self._next: tuple[Any, int] | None = None
        self._reserved = self._spent = self._longest_answer = 0
        self._asked = self._there = self._failed = 0
        self._stopped = False
        self._first_error: Exception | None = None

    def take(self) -> _Call | None:
        """Return the next call, `None` if there is none or it does not fit now."""
        if self._next is None:
            for prompt in self._prompts:
                self._next = prompt, self._count(prompt)
                break
            else:
                return None
        prompt, tokens = self._next
        reserved = tokens + self._longest_answer
        self._stopped = self._spent + self._reserved + reserved > self._budget
        if self._stopped:
            return None
        self._reserved += reserved
        self._next = None
        return _Call(prompt, tokens, reserved)

    def settle(self, call: _Call, error: BaseException | None) -> None:
        """Note how a call ended."""
        self._reserved -= call.reserved
        live = [answer for answer in call.heard.answers if not is_cache_hit(answer)]
        for answer in live:
            usage = answer.usage_metadata
            said = usage["output_tokens"] if usage else self._counter.count_text(str(answer.text))
            self._spent += said + (usage["input_tokens"] if usage else call.input_tokens)
            self._longest_answer = max(self._longest_answer, said)
        if isinstance(error, Exception):
            self._failed += 1
            self._first_error = self._first_error or error
        elif error is not None:
            raise error
        elif call.heard.answers and not live:
            self._there += 1
        else:
            self._asked += 1

    def report(self, *, before: Decimal | None, after: Decimal | None) -> WarmReport:
        """Return what was done."""
        return WarmReport(
            asked=self._asked,
            already_there=self._there,
            failed=self._failed,
            tokens=self._spent,
            dollars=None if before is None or after is None else after - before,
            stopped_at_budget=self._stopped,
            first_error=self._first_error,
        )

    def _count(self, prompt: Any) -> int:
        messages = _messages_of(prompt)
        if messages is None:  # a chain's input
            return self._counter.count_text(dumps(prompt))
        return self._counter.count_messages(messages)


def _name_of(model: Runnable[Any, Any]) -> str | None:
    if isinstance(model, BaseChatModel):
        return model._get_ls_params().get("ls_model_name")
    return None


def _messages_of(prompt: Any) -> Sequence[BaseMessage] | None:
    if isinstance(prompt, str):
        return [HumanMessage(prompt)]
    if isinstance(prompt, PromptValue):
        return prompt.to_messages()
    return convert_to_messages(prompt) if isinstance(prompt, list) else None


def _distinct(prompts: Iterable[Any]) -> Iterator[Any]:
    seen = set()
    for prompt in prompts:
        text = dumps(prompt)
        if text not in seen:
            seen.add(text)
            yield prompt
