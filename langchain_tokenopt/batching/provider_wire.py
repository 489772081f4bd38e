"""Hand batches to OpenAI and Anthropic through the clients of LangChain's models, and read them.

The requests are those that the model itself would send, and the model itself reads the answers.
"""

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage

from langchain_tokenopt.errors import ConfigurationError

TAG = "tokenopt_batch"
"""Key of the provider's metadata under which a batch carries its name here."""
_ENDED = frozenset({"completed", "failed", "expired", "cancelled"})
_RETRYABLE_KINDS = frozenset({"rate_limit_error", "api_error", "overloaded_error", "timeout_error"})


@dataclass(frozen=True, slots=True, kw_only=True)
class RowResult:
    """What became of one request."""

    custom_id: str
    answer: Mapping[str, Any] | None = None
    """The provider's JSON of the answer."""
    error: str | None = None
    retryable: bool = False
    """Whether it may be answered another time: it expired, or the provider had a problem."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchState:
    """How a batch stands at the provider."""

    id: str
    ended: bool
    completed_at: datetime | None = None
    problem: str | None = None
    """Why all of it was refused."""


class BatchWire(Protocol):
    """One provider's Batch API."""

    most_rows: int
    most_bytes: int

    def body(self, messages: Sequence[BaseMessage], keywords: Mapping[str, Any]) -> dict[str, Any]:
        """Return the request that the model would send."""

    def create(self, tag: str, rows: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
        """Hand in a batch and return the provider's id of it."""

    def find(self, tag: str, *, rows: int, since: datetime, known: frozenset[str]) -> str | None:
        """Return the id of a batch that was handed in but not noted, `None` if there is none."""

    def state(self, batch: str) -> BatchState:
        """Return how a batch stands."""

    def results(self, batch: str) -> Iterator[RowResult]:
        """Yield what became of each request of a batch that has ended, in any order."""

    def cancel(self, batch: str) -> None:
        """Ask the provider to end a batch."""

    def message(self, answer: Mapping[str, Any], keywords: Mapping[str, Any]) -> AIMessage:
        """Return the message of an answer."""


def wire_for(model: BaseChatModel) -> BatchWire:
    """Return the Batch API of a model's provider.

    Raises:
        ConfigurationError: It has none that is known here.
    """
    names = {kind.__name__ for kind in type(model).__mro__}
    if "BaseChatOpenAI" in names:
        return OpenAIWire(model)
    if "ChatAnthropic" in names:
        return AnthropicWire(model)
    message = (
        "expected a ChatOpenAI or ChatAnthropic, or one of them with tools or options bound, got "
        f"{type(model).__name__}; a model that stands around another one is not asked in a batch: "
        "give the model inside"
    )
    raise ConfigurationError(message)


class OpenAIWire:
    """https://platform.openai.com/docs/guides/batch."""

    most_rows = 50_000
    most_bytes = 190_000_000  # 200 MB, with room for what stands around a request

    def __init__(self, model: Any) -> None:
        self._model = model

    @property
    def _client(self) -> Any:
        self._model._ensure_sync_client_available()
        return self._model.root_client

    def body(self, messages: Sequence[BaseMessage], keywords: Mapping[str, Any]) -> dict[str, Any]:
        """Return the request that the model would send."""
        body = self._model._get_request_payload(list(messages), **keywords)
        body.pop("stream", None)
        schema = body.get("response_format")
        if isinstance(schema, type):
            from openai.lib._parsing import (  # noqa: PLC0415 - takes a second to import
                type_to_response_format_param,
            )

            body["response_format"] = type_to_response_format_param(schema)
        return dict(body)

    def create(self, tag: str, rows: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
        """Hand in a batch and return the provider's id of it."""
        url = "/v1/responses" if "input" in rows[0][1] else "/v1/chat/completions"
        lines = (
            json.dumps({"custom_id": name, "method": "POST", "url": url, "body": body})
            for name, body in rows
        )
        data = io.BytesIO("".join(f"{line}\n" for line in lines).encode())
        file = self._client.files.create(file=(f"{tag}.jsonl", data), purpose="batch")
        batch = self._client.batches.create(
            input_file_id=file.id,
            endpoint=url,
            completion_window="24h",
            metadata={TAG: tag},
        )
        return str(batch.id)

    def find(self, tag: str, *, rows: int, since: datetime, known: frozenset[str]) -> str | None:
        """Return the id of the batch with this tag."""
        for batch in self._client.batches.list(limit=100):
            if (batch.metadata or {}).get(TAG) == tag:
                return str(batch.id)
            if batch.created_at < since.timestamp() - 3600:  # newest first
                break
        return None

    def state(self, batch: str) -> BatchState:
        """Return how a batch stands."""
        found = self._client.batches.retrieve(batch)
        ended = found.completed_at or found.expired_at or found.cancelled_at or found.failed_at
        problems = found.errors.data if found.status == "failed" and found.errors else None
        told = "; ".join(f"{p.message} (line {p.line})" for p in problems or ())
        return BatchState(
            id=batch,
            ended=found.status in _ENDED,
            completed_at=datetime.fromtimestamp(ended, UTC) if ended else None,
            problem=(told or "the provider says not why") if found.status == "failed" else None,
        )

    def results(self, batch: str) -> Iterator[RowResult]:
        """Yield what became of each request."""
        found = self._client.batches.retrieve(batch)
        for file in (found.output_file_id, found.error_file_id):
            if file is None:
                continue
            for line in self._client.files.content(file).text.splitlines():
                if line.strip():
                    yield _openai_row(json.loads(line))

    def cancel(self, batch: str) -> None:
        """Ask the provider to end a batch."""
        self._client.batches.cancel(batch)

    def message(self, answer: Mapping[str, Any], keywords: Mapping[str, Any]) -> AIMessage:
        """Return the message of an answer."""
        if answer.get("object") == "response":
            from langchain_openai.chat_models.base import (  # noqa: PLC0415 - takes a second
                _construct_lc_result_from_responses_api,
            )
            from openai.types.responses import Response  # noqa: PLC0415

            result = _construct_lc_result_from_responses_api(
                Response.construct(**answer), output_version=self._model.output_version
            )
        else:
            result = self._model._create_chat_result(dict(answer))
        message: Any = result.generations[0].message
        if "response_format" in keywords and not message.tool_calls:
            parsed = _json_of(str(message.text))
            if isinstance(parsed, dict):
                # What the SDK does for a single call, for LangChain's parsers.
                message.additional_kwargs["parsed"] = parsed
        return _with_id(message)


def _openai_row(row: Mapping[str, Any]) -> RowResult:
    name, response, error = str(row.get("custom_id")), row.get("response"), row.get("error")
    if error or not response:
        told = str((error or {}).get("message") or "no answer")
        expired = (error or {}).get("code") in ("batch_expired", "batch_cancelled", None)
        return RowResult(custom_id=name, error=told, retryable=expired)
    status = int(response.get("status_code") or 0)
    if status == 200:
        return RowResult(custom_id=name, answer=response.get("body") or {})
    told = ((response.get("body") or {}).get("error") or {}).get("message") or "no message"
    retryable = status in (408, 409, 429) or status >= 500
    return RowResult(custom_id=name, error=f"status {status}: {told}", retryable=retryable)


class AnthropicWire:
    """https://docs.anthropic.com/en/docs/build-with-claude/batch-processing."""

    most_rows = 100_000
    most_bytes = 240_000_000  # 256 MB, with room for what stands around a request

    def __init__(self, model: Any) -> None:
        self._model = model

    @property
    def _batches(self) -> Any:
        return self._model._client.messages.batches

    def body(self, messages: Sequence[BaseMessage], keywords: Mapping[str, Any]) -> dict[str, Any]:
        """Return the request that the model would send."""
        body = dict(self._model._get_request_payload(list(messages), **keywords))
        for name in ("stream", "betas"):
            body.pop(name, None)
        return body

    def create(self, tag: str, rows: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
        """Hand in a batch and return the provider's id of it."""
        requests = [{"custom_id": name, "params": dict(body)} for name, body in rows]
        return str(self._batches.create(requests=requests).id)

    def find(self, tag: str, *, rows: int, since: datetime, known: frozenset[str]) -> str | None:
        """Return the id of a batch of as many requests, handed in since, that nobody knows.

        Anthropic's batches carry no name; whether the requests are ours shows when they end.
        """
        for batch in self._batches.list(limit=100):
            if batch.created_at.timestamp() < since.timestamp() - 60:  # newest first
                break
            counts = batch.request_counts
            total = sum(getattr(counts, name) for name in type(counts).model_fields)
            if batch.id not in known and total == rows:
                return str(batch.id)
        return None

    def state(self, batch: str) -> BatchState:
        """Return how a batch stands."""
        found = self._batches.retrieve(batch)
        return BatchState(
            id=batch, ended=found.processing_status == "ended", completed_at=found.ended_at
        )

    def results(self, batch: str) -> Iterator[RowResult]:
        """Yield what became of each request."""
        for row in self._batches.results(batch):
            yield _anthropic_row(row)

    def cancel(self, batch: str) -> None:
        """Ask the provider to end a batch."""
        self._batches.cancel(batch)

    def message(self, answer: Mapping[str, Any], keywords: Mapping[str, Any]) -> AIMessage:
        """Return the message of an answer."""
        from anthropic.types import Message  # noqa: PLC0415 - the extra is there if the model is

        result = self._model._format_output(Message.construct(**answer), **keywords)
        message: Any = result.generations[0].message
        return _with_id(message)


def _anthropic_row(row: Any) -> RowResult:
    result = row.result
    if result.type == "succeeded":
        return RowResult(custom_id=row.custom_id, answer=result.message.model_dump(mode="json"))
    if result.type == "errored":
        error = result.error.error
        return RowResult(
            custom_id=row.custom_id,
            error=f"{error.type}: {error.message}",
            retryable=error.type in _RETRYABLE_KINDS,
        )
    return RowResult(custom_id=row.custom_id, error=f"the request {result.type}", retryable=True)


def _with_id(message: AIMessage) -> AIMessage:
    if message.id is None:
        message.id = f"batch-{message.response_metadata.get('id') or id(message)}"
    return message


def _json_of(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None
