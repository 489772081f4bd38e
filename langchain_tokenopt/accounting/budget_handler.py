"""Callback handlers that ask the budgets before each model call."""

import asyncio
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from uuid import UUID, uuid4

from langchain_core.callbacks import AsyncCallbackHandler
from langchain_core.messages import BaseMessage, HumanMessage
from langchain_core.outputs import LLMResult
from typing_extensions import override

from langchain_tokenopt.accounting.budget import Hold
from langchain_tokenopt.accounting.budget_guard import BudgetGuard
from langchain_tokenopt.accounting.budget_plan import PlannedCall
from langchain_tokenopt.accounting.callback import RecordingHandler
from langchain_tokenopt.accounting.records import CallRecord
from langchain_tokenopt.calls import Room
from langchain_tokenopt.errors import StoreError

_LOG = logging.getLogger(__name__)


class BudgetHandler(RecordingHandler):
    """Stops a model call that the budgets have no room for, and books the others.

    Works in any chain or graph, since its errors are raised (`raise_error`). LangChain starts a
    call before it looks into its cache, so a full budget refuses answers that a cache would have
    served for nothing; `CachedChatModel(BudgetedChatModel(...))` does not.

    In asynchronous code with a store that blocks it is asked in a thread, and a cancelled call is
    given back only after the guard's `hold_s`; `AsyncBudgetHandler` does better there.

    Args:
        guard: Knows the budgets.
        run: The key of budgets `per="run"`; by default every handler is a run of its own.
    """

    raise_error = True

    def __init__(self, guard: BudgetGuard, *, run: str | None = None) -> None:
        super().__init__(record=self._ended, prices=guard.prices)
        self.run_inline = not guard.blocks
        self._guard = guard
        self._run = uuid4().hex if run is None else run
        self._holds: dict[UUID, Hold] = {}

    def room(self, metadata: Mapping[str, Any]) -> Room | None:
        """Return what is left for calls of this run; `None` if the store cannot tell."""
        return _room(self._guard, {"run": self._run, **metadata})

    @override
    def _start(
        self,
        messages: Sequence[BaseMessage],
        *,
        run_id: UUID,
        metadata: Mapping[str, Any] | None,
        keywords: Mapping[str, Any],
        **rest: Any,
    ) -> None:
        if self._guard.claim(run_id):
            try:
                self._holds[run_id] = self._guard.reserve(
                    planned(messages, metadata, keywords, run=self._run)
                )
            except BaseException:
                self._guard.disclaim(run_id)
                raise
            super()._start(messages, run_id=run_id, metadata=metadata, keywords=keywords, **rest)

    @override
    def on_llm_new_token(self, token: Any, *, run_id: UUID, **kwargs: Any) -> None:
        with self._never_breaking(run_id):
            super().on_llm_new_token(token, run_id=run_id, **kwargs)

    @override
    def on_llm_end(self, response: LLMResult, *, run_id: UUID, **kwargs: Any) -> None:
        with self._never_breaking(run_id):
            super().on_llm_end(response, run_id=run_id, **kwargs)

    @override
    def on_llm_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        with self._never_breaking(run_id):
            super().on_llm_error(error, run_id=run_id, **kwargs)

    @contextmanager
    def _never_breaking(self, run_id: UUID) -> Iterator[None]:
        """Only a refusal may stop a call: an answer that cannot be read counts as the most."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - logged, and booked as what was set aside
            _LOG.warning("the usage of a call could not be read: %r", error)
            hold = self._holds.pop(run_id, None)
            if hold is not None:
                self._guard.disclaim(run_id)
                self._guard.settle(hold, hold.amounts)

    def _ended(self, record: CallRecord) -> None:
        hold = self._holds.pop(record.run_id, None)
        if hold is not None:
            self._guard.disclaim(record.run_id)
            self._guard.settle(hold, self._guard.spent_by(record, hold))


class AsyncBudgetHandler(AsyncCallbackHandler):
    """Does what `BudgetHandler` does for `ainvoke` and `astream`, without blocking the event loop.

    Synchronous calls do not wait for asynchronous handlers: give those a `BudgetHandler`.

    Args:
        guard: Knows the budgets.
        run: The key of budgets `per="run"`; by default every handler is a run of its own.
    """

    raise_error = True
    run_inline = True  # awaited in the task of the call, which is watched for its cancellation

    def __init__(self, guard: BudgetGuard, *, run: str | None = None) -> None:
        self._recorder = RecordingHandler(record=self._ended, prices=guard.prices)
        self._guard = guard
        self._run = uuid4().hex if run is None else run
        self._holds: dict[UUID, Hold] = {}
        self._settling: dict[UUID, asyncio.Task[None]] = {}

    def room(self, metadata: Mapping[str, Any]) -> Room | None:
        """Return what is left for calls of this run; `None` if the store cannot tell."""
        return _room(self._guard, {"run": self._run, **metadata})

    @override
    async def on_chat_model_start(
        self,
        serialized: dict[str, Any] | None,
        messages: list[list[BaseMessage]],
        *,
        run_id: UUID,
        metadata: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        await self._begin(messages[0], run_id, metadata, kwargs)

    @override
    async def on_llm_start(
        self,
        serialized: dict[str, Any] | None,
        prompts: list[str],
        *,
        run_id: UUID,
        metadata: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        await self._begin([HumanMessage(prompts[0])], run_id, metadata, kwargs)

    async def _begin(
        self,
        messages: list[BaseMessage],
        run_id: UUID,
        metadata: dict[str, Any] | None,
        keywords: Mapping[str, Any],
    ) -> None:
        if not self._guard.claim(run_id):
            return
        try:
            self._holds[run_id] = await self._guard.areserve(
                planned(messages, metadata, keywords, run=self._run)
            )
        except BaseException:
            self._guard.disclaim(run_id)
            raise
        self._recorder.on_chat_model_start(
            None, [messages], run_id=run_id, metadata=metadata, **keywords
        )

    @override
    async def on_llm_new_token(self, token: Any, *, run_id: UUID, **kwargs: Any) -> None:
        try:
            self._recorder.on_llm_new_token(token, run_id=run_id, **kwargs)
        except Exception as error:  # noqa: BLE001 - only a refusal may stop a call
            await self._unreadable(run_id, error)

    @override
    async def on_llm_end(self, response: LLMResult, *, run_id: UUID, **kwargs: Any) -> None:
        try:
            if run_id in self._holds:
                self._recorder.on_llm_end(response, run_id=run_id, **kwargs)
                await self._settled(run_id)
        except Exception as error:  # noqa: BLE001 - only a refusal may stop a call
            await self._unreadable(run_id, error)

    @override
    async def on_llm_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        try:
            if run_id in self._holds:
                self._recorder.on_llm_error(error, run_id=run_id, **kwargs)
                await self._settled(run_id)
        except Exception as failure:  # noqa: BLE001 - only a refusal may stop a call
            await self._unreadable(run_id, failure)

    async def _unreadable(self, run_id: UUID, error: Exception) -> None:
        _LOG.warning("the usage of a call could not be read: %r", error)
        hold = self._holds.pop(run_id, None)
        if hold is not None:
            self._guard.disclaim(run_id)
            await self._guard.asettle(hold, hold.amounts)

    async def _settled(self, run_id: UUID) -> None:
        task = self._settling.get(run_id)
        if task is not None:
            await asyncio.shield(task)

    def _ended(self, record: CallRecord) -> None:
        hold = self._holds.pop(record.run_id, None)
        if hold is None:
            return
        self._guard.disclaim(record.run_id)
        spent = self._guard.spent_by(record, hold)
        if not self._guard.blocks:
            self._guard.settle(hold, spent)
            return
        # A cancelled call ends here too, where nothing can be awaited.
        task = asyncio.get_running_loop().create_task(self._guard.asettle(hold, spent))
        self._settling[record.run_id] = task
        task.add_done_callback(lambda _: self._settling.pop(record.run_id, None))


def _room(guard: BudgetGuard, metadata: Mapping[str, Any]) -> Room | None:
    try:
        return guard.room(metadata)
    except StoreError as error:
        _LOG.warning("the room of a budget cannot be told: %s", error)
        return None


def planned(
    messages: Sequence[BaseMessage],
    metadata: Mapping[str, Any] | None,
    keywords: Mapping[str, Any],
    *,
    run: str,
) -> PlannedCall:
    """Return what a handler is told of a call that starts."""
    about = metadata or {}
    parameters = keywords.get("invocation_params") or {}
    model = about.get("ls_model_name") or parameters.get("model") or parameters.get("model_name")
    provider = about.get("ls_provider")
    return PlannedCall(
        model=str(model or "unknown"),
        provider=None if provider is None else str(provider),
        messages=messages,
        parameters=parameters,
        metadata={"run": run, **about},
    )
