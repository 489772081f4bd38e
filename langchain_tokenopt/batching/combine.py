"""Many small prompts in one request, each with its own answer."""

import asyncio
import json
import random
import time
import weakref
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import wait
from typing import Any, TypeVar, cast

from langchain_core.language_models import BaseChatModel
from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.runnables.config import get_config_list
from pydantic import PydanticUserError, TypeAdapter
from typing_extensions import override

from langchain_tokenopt.batching.combine_dispatch import TaskDispatcher, ThreadDispatcher
from langchain_tokenopt.batching.combine_queue import Job, Waiting, partition_of
from langchain_tokenopt.batching.combine_solve import CombinedStats, Solver
from langchain_tokenopt.batching.combine_wire import Wire, structured
from langchain_tokenopt.errors import ConfigurationError
from langchain_tokenopt.tokens import counter_for

T = TypeVar("T")


class CombinedBatch(Runnable[Any, T]):
    """Answers each item as `instruction` says, several items in one request.

    The instruction is sent once for all of them. Items come from `batch`, or from threads and tasks
    that call `invoke` and `ainvoke` at about the same time. Each answer must name its item's id and
    repeat its first words; items without a certain answer are asked again alone, and a request that
    the provider refuses is asked again in halves, so that one item fails by itself. Items of
    different tenants, features, users or callbacks never share a request.

    Whether it pays depends on the model: see `advisor.plan_batching`. Answers can depend on where
    in the request an item stands; `shuffle` spreads that, and small requests lessen it
    (https://arxiv.org/abs/2301.08721, https://arxiv.org/abs/2309.00384).

    Args:
        model: Any chat model; structured output is used where it has it.
        instruction: What to do with one item.
        answer: Type of an answer: `str`, `bool`, a `Literal`, a pydantic model, ...
        render: Turns an item into text; by default texts stay, and the rest becomes JSON.
        max_items: Of one request.
        max_tokens: Of the items of one request; a larger item goes alone.
        max_wait_s: How long an item waits for others, in seconds.
        max_requests: At once; items of a higher `priority` go first when there are more.
        echo_words: How many words of its item an answer repeats at least, more where that is
            needed to tell the items of a request apart; 0 trusts the ids alone.
        attempts: For an item alone, before its caller gets a `BatchAnswerError`.
        shuffle: Orders the items of a request by chance.

    Raises:
        ConfigurationError: A value cannot be used.

    >>> from langchain_tokenopt.testing import ScriptedModel
    >>> shout = CombinedBatch(ScriptedModel(["HELLO"]), instruction="Repeat in capitals.")
    >>> shout.invoke("hello")  # one item alone is asked as ever
    'HELLO'
    """

    def __init__(
        self,
        model: BaseChatModel,
        *,
        instruction: str,
        answer: type[T] | Any = str,
        render: Callable[[Any], str] | None = None,
        max_items: int = 8,
        max_tokens: int = 4_000,
        max_wait_s: float = 0.05,
        max_requests: int = 8,
        echo_words: int = 2,
        attempts: int = 2,
        shuffle: random.Random | None = None,
    ) -> None:
        given: Any = model
        if not isinstance(given, BaseChatModel):
            message = (
                f"expected a chat model, got {type(model).__name__}; tools and structured output "
                "are no part of a combined request, give the type of an answer as answer="
            )
            raise ConfigurationError(message)
        if not instruction.strip():
            raise ConfigurationError(f"expected an instruction, got {instruction!r}")
        limits = (max_items, max_tokens, max_requests, attempts)
        if min(limits) < 1 or max_wait_s < 0 or echo_words < 0:
            message = (
                "max_items, max_tokens, max_requests and attempts must be at least 1, max_wait_s "
                f"and echo_words at least 0, got {limits}, {max_wait_s} and {echo_words}"
            )
            raise ConfigurationError(message)
        try:
            adapter: TypeAdapter[Any] = TypeAdapter(answer)
            adapter.json_schema()
        except PydanticUserError as error:
            message = f"expected a type that pydantic can describe, got {answer!r}: {error}"
            raise ConfigurationError(message) from error
        name = model._get_ls_params().get("ls_model_name")
        self._count = counter_for(name).count_text
        self._render = render or _text
        self._max_wait_s = max_wait_s
        wire = Wire(instruction=instruction, answer=adapter, echo_words=echo_words)
        alone = structured(model, wire.single_schema())
        self._solver = Solver(
            Wire(
                instruction=instruction,
                answer=adapter,
                echo_words=echo_words,
                explains=alone is model,
            ),
            together=structured(model, wire.schema()),
            alone=alone,
            attempts=attempts,
            shuffle=shuffle,
        )
        self._queue_options = {"max_items": max_items, "max_tokens": max_tokens}
        self._max_requests = max_requests
        self._threads = ThreadDispatcher(
            self._solver, new_queue=self._new_queue, most_at_once=max_requests
        )
        self._loops: weakref.WeakKeyDictionary[Any, TaskDispatcher] = weakref.WeakKeyDictionary()

    @property
    def stats(self) -> CombinedStats:
        """What was asked so far."""
        return self._solver.stats

    @override
    def invoke(
        self, input: Any, config: RunnableConfig | None = None, *, priority: float = 0, **_: Any
    ) -> T:
        def answered(given: Any, run_manager: Any, config: RunnableConfig) -> T:
            job = self._job(given, config, priority, wait_s=self._max_wait_s)
            self._threads.add(partition_of(config), [job])
            try:
                return cast("T", job.answer.result())
            except BaseException:
                job.answer.cancel()
                raise

        return self._call_with_config(answered, input, config)

    @override
    async def ainvoke(
        self, input: Any, config: RunnableConfig | None = None, *, priority: float = 0, **_: Any
    ) -> T:
        async def answered(given: Any, run_manager: Any, config: RunnableConfig) -> T:
            job = self._job(given, config, priority, wait_s=self._max_wait_s)
            self._tasks().add(partition_of(config), [job])
            return cast("T", await asyncio.wrap_future(job.answer))

        return await self._acall_with_config(answered, input, config)

    @override
    def batch(
        self,
        inputs: list[Any],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[T]:
        kinds, jobs = self._jobs(inputs, config, kwargs, return_exceptions=return_exceptions)
        try:
            for kind, some in kinds.items():
                self._threads.add(kind, some)
            wait([job.answer for job in jobs])
        except BaseException:
            for job in jobs:
                job.answer.cancel()
            raise
        return self._results(jobs, return_exceptions=return_exceptions)

    @override
    async def abatch(
        self,
        inputs: list[Any],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[T]:
        kinds, jobs = self._jobs(inputs, config, kwargs, return_exceptions=return_exceptions)
        for kind, some in kinds.items():
            self._tasks().add(kind, some)
        # Cancelled here, it cancels the answers, and with the last of them the request.
        await asyncio.gather(
            *(asyncio.wrap_future(job.answer) for job in jobs), return_exceptions=True
        )
        return self._results(jobs, return_exceptions=return_exceptions)

    def _results(self, jobs: Sequence[Job], *, return_exceptions: bool) -> list[T]:
        results: list[Any] = []
        for job in jobs:
            error = job.answer.exception()
            if error is not None and not (return_exceptions and isinstance(error, Exception)):
                raise error
            results.append(job.answer.result() if error is None else error)
        return results

    def _jobs(
        self,
        inputs: Sequence[Any],
        config: RunnableConfig | list[RunnableConfig] | None,
        options: Mapping[str, Any],
        *,
        return_exceptions: bool,
    ) -> tuple[dict[Hashable, list[Job]], list[Job]]:
        """Return the jobs of a list, also by what may share a request."""
        kinds: dict[Hashable, list[Job]] = {}
        jobs: list[Job] = []
        priority = options.get("priority", 0)
        for given, each in zip(inputs, get_config_list(config, len(inputs)), strict=True):
            try:
                jobs.append(self._job(given, each, priority, wait_s=0.0))
            except ConfigurationError as error:
                if not return_exceptions:
                    raise
                jobs.append(Job(text="", tokens=0, priority=0, config=each, due=0.0))
                jobs[-1].fail(error)
                continue
            kinds.setdefault(partition_of(each), []).append(jobs[-1])
        return kinds, jobs

    def _job(self, given: Any, config: RunnableConfig, priority: float, *, wait_s: float) -> Job:
        text: Any = self._render(given)
        if not isinstance(text, str) or not text.strip():
            message = (
                f"expected an item with text, got {given!r:.80}, which renders as {text!r:.80}"
            )
            raise ConfigurationError(message)
        return Job(
            text=text,
            tokens=self._count(text),
            priority=priority,
            config=config,
            due=time.monotonic() + wait_s,
        )

    def _new_queue(self) -> Waiting:
        return Waiting(**self._queue_options)

    def _tasks(self) -> TaskDispatcher:
        loop = asyncio.get_running_loop()
        dispatcher = self._loops.get(loop)
        if dispatcher is None:
            dispatcher = self._loops[loop] = TaskDispatcher(
                self._solver, new_queue=self._new_queue, most_at_once=self._max_requests
            )
        return dispatcher


def _text(item: Any) -> str:
    if isinstance(item, str):
        return item
    try:
        return json.dumps(item, ensure_ascii=False, sort_keys=True)
    except (TypeError, ValueError) as error:
        message = f"expected a text or JSON values, got {type(item).__name__}; give render="
        raise ConfigurationError(message) from error
