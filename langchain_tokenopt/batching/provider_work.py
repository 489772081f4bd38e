"""Sends, collects and sends again what a provider's Batch API was given."""

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Literal
from uuid import uuid4

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, message_to_dict, messages_from_dict
from langchain_core.runnables import Runnable, RunnableConfig

from langchain_tokenopt.batching.provider_book import Callbacks, marked, tell
from langchain_tokenopt.batching.provider_store import BatchFile, Job, Row, Sent
from langchain_tokenopt.batching.provider_wire import BatchState, BatchWire, RowResult

_LOG = logging.getLogger(__name__)
_ASKED = "tokenopt_asked"
"""Key of an answer that came from an ordinary call."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchResult:
    """What became of one prompt."""

    position: int
    message: AIMessage | None = None
    """`None` while it waits, and of a failed one."""
    value: Any = None
    """What the parser of a structured output made of the message."""
    error: str | None = None
    """Why there is no message, or no value."""
    attempts: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchStatus:
    """How many prompts are where."""

    waiting: int = 0
    sent: int = 0
    answered: int = 0
    failed: int = 0

    @property
    def done(self) -> bool:
        """Whether nothing is outstanding."""
        return not self.waiting and not self.sent


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchWork:
    """What a `ProviderBatch` does for its handles."""

    model: BaseChatModel
    wire: BatchWire
    file: BatchFile
    parser: Runnable[Any, Any] | None
    callbacks: Callbacks
    attempts: int
    then: Literal["fail", "ask"]
    clock: Callable[[], float]

    def status(self, job: Job) -> BatchStatus:
        """Return how many prompts of a job are where."""
        return BatchStatus(**self.file.counts(job.id))

    def send(self, job: Job) -> None:
        """Hand in all requests that wait."""
        for part in self._parts(self.file.rows(job.id, state="waiting")):
            tag = uuid4().hex
            names = set(self.file.take(job.id, tag, [row.id for row in part], now=self.clock()))
            rows = [(row.id, row.body) for row in part if row.id in names]
            if not rows:
                continue  # another process was quicker
            try:
                batch = self.wire.create(tag, rows)
            except Exception as error:
                if _was_refused(error):
                    self.file.refused(tag)
                # Otherwise nobody knows whether it arrived: `recover` looks for it.
                raise
            self.file.accepted(tag, batch)

    def poll(self, job: Job, config: RunnableConfig | None) -> None:
        """Collect what has ended, and hand in again what is to be."""
        for sent in self.file.open_batches(job.id):
            if sent.provider_id is None:
                self._recover(job, sent)
                continue
            state = self.wire.state(sent.provider_id)
            if state.ended:
                self._collect(job, sent.tag, state)
        self._book(job, config)
        self._settle_worn_out(job, config)
        self.send(job)

    def cancel(self, job: Job) -> None:
        """Ask the provider to end all batches of a job; what waits fails."""
        self.file.cancel(job.id)
        for sent in self.file.open_batches(job.id):
            if sent.provider_id is not None:
                self.wire.cancel(sent.provider_id)

    def results(self, job: Job) -> Iterator[BatchResult]:
        """Yield what became of each prompt, in the order of the prompts."""
        rows = {row.id: row for row in self.file.rows(job.id)}
        for position, name in enumerate(self.file.positions(job.id)):
            yield self._result(position, rows[name])

    # --- sending --------------------------------------------------------------------------------

    def _parts(self, rows: Sequence[Row]) -> Iterator[list[Row]]:
        """Yield as many requests as one batch of the provider may hold."""
        part: list[Row] = []
        size = 0
        for row in rows:
            length = len(json.dumps(row.body)) + 200
            full = len(part) == self.wire.most_rows or size + length > self.wire.most_bytes
            if part and full:
                yield part
                part, size = [], 0
            part.append(row)
            size += length
        if part:
            yield part

    def _recover(self, job: Job, sent: Sent) -> None:
        """Find a batch whose sender ended before it could note the provider's id."""
        now = self.clock()
        if sent.lease > now or not self.file.leased(sent.tag, now=now):
            return
        found = self.wire.find(
            sent.tag,
            rows=sent.rows,
            since=datetime.fromtimestamp(sent.created, UTC),
            known=self.file.provider_ids(),
        )
        if found is None:
            self.file.refused(sent.tag)
            return
        self.file.accepted(sent.tag, found)
        if self.file.cancelled(job.id):
            self.wire.cancel(found)

    # --- collecting -----------------------------------------------------------------------------

    def _collect(self, job: Job, tag: str, state: BatchState) -> None:
        completed = state.completed_at.timestamp() if state.completed_at else self.clock()
        expected = {row.id: row for row in self.file.missing(tag)}
        if state.problem is not None:
            for name in expected:
                error = f"the provider refused the batch: {state.problem}"
                self.file.settle(tag, name, state="failed", batch=state.id, error=error)
        else:
            unknown, again = 0, not self.file.cancelled(job.id)
            for result in self.wire.results(state.id):
                row = expected.get(result.custom_id)
                if row is None:
                    unknown += 1  # settled by another process, or not ours
                    continue
                self._settle(tag, row, result, state.id, completed, again=again)
            for row in self.file.missing(tag):
                lacking = RowResult(custom_id=row.id, error="no answer came back", retryable=True)
                self._settle(tag, row, lacking, state.id, completed, again=again)
            if unknown and unknown >= len(expected) > 0:
                _LOG.warning("batch %s holds %d answers to requests not of here", state.id, unknown)
        self.file.ended(tag)

    def _settle(
        self,
        tag: str,
        row: Row,
        result: RowResult,
        batch: str,
        completed: float,
        *,
        again: bool,
    ) -> None:
        if result.answer is not None:
            self.file.settle(
                tag, row.id, state="answered", batch=batch, answer=result.answer,
                completed=completed,
            )  # fmt: skip
        elif again and result.retryable and (row.attempts < self.attempts or self.then == "ask"):
            self.file.settle(tag, row.id, state="waiting", batch=batch, error=result.error)
        else:
            error = f"{result.error} (handed in {row.attempts} times)"
            self.file.settle(tag, row.id, state="failed", batch=batch, error=error)

    def _settle_worn_out(self, job: Job, config: RunnableConfig | None) -> None:
        """Ask in an ordinary call what was handed in as often as it may be."""
        if self.then != "ask":
            return
        for row in self.file.rows(job.id, state="waiting"):
            if row.attempts < self.attempts:
                continue
            # In the past tense first: nobody else is to ask it too.
            if not self.file.take(job.id, tag := uuid4().hex, [row.id], now=self.clock()):
                continue
            try:
                message = self.model.invoke(_prompt(row), self._config(job, config))
                answer: dict[str, Any] | None = {_ASKED: message_to_dict(message)}
                error = None
            except Exception as failure:  # noqa: BLE001 - is told as the prompt's own
                answer, error = None, f"{type(failure).__name__}: {failure}"
            self.file.answered_otherwise(row.id, answer=answer, error=error, now=self.clock())
            self.file.ended(tag)

    def _config(self, job: Job, config: RunnableConfig | None) -> RunnableConfig:
        given: RunnableConfig = config or {}
        callbacks: Any = [*_handlers(self.callbacks), *_handlers(given.get("callbacks"))]
        return {
            "callbacks": callbacks,
            "metadata": dict(job.told.get("metadata", {})),
            "tags": list(job.told.get("tags", ())),
        }

    # --- reading --------------------------------------------------------------------------------

    def _book(self, job: Job, config: RunnableConfig | None) -> None:
        callbacks = self._config(job, config)["callbacks"]
        told: list[str] = []
        for row in self.file.unbooked(job.id):
            message = self._message(row)
            if message is not None:
                tell(
                    message, row, _prompt(row),
                    model=self.model, callbacks=callbacks, told=job.told,
                )  # fmt: skip
            told.append(row.id)
        if told:
            self.file.booked(told)

    def _message(self, row: Row) -> AIMessage | None:
        answer = row.answer
        if answer is None:
            return None
        if _ASKED in answer:
            (asked,) = messages_from_dict([answer[_ASKED]])
            return asked if isinstance(asked, AIMessage) else None
        try:
            return marked(self.wire.message(answer, row.body), row)
        except Exception as error:  # noqa: BLE001 - one odd answer must not hide the others
            _LOG.warning("the answer of request %s cannot be read: %r", row.id, error)
            return None

    def _result(self, position: int, row: Row) -> BatchResult:
        message = self._message(row)
        result = BatchResult(
            position=position,
            message=message,
            error=row.error if row.state == "failed" else None,
            attempts=row.attempts,
        )
        if row.state == "answered" and message is None:
            return replace(result, error="the provider's answer cannot be read")
        if message is None or self.parser is None:
            return result
        try:
            return replace(result, value=self.parser.invoke(message))
        except Exception as error:  # noqa: BLE001 - the parser's, told as the prompt's own
            return replace(result, error=f"{type(error).__name__}: {error}")


def _was_refused(error: Exception) -> bool:
    """Return whether the provider certainly did not take a batch."""
    status = getattr(error, "status_code", None)
    return isinstance(status, int) and 400 <= status < 500 and status not in (408, 409)


def _prompt(row: Row) -> list[BaseMessage]:
    return messages_from_dict(list(row.messages))


def _handlers(callbacks: Any) -> list[Any]:
    return [*getattr(callbacks, "handlers", callbacks or ())]
