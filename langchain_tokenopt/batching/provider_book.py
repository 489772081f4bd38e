"""Tells callbacks of a batch's answers, so that a ledger books them, each once."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import NAMESPACE_URL, UUID, uuid5

from langchain_core.callbacks import BaseCallbackHandler, BaseCallbackManager, CallbackManager
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, LLMResult

from langchain_tokenopt.batching.provider_store import Row
from langchain_tokenopt.messages import mark_batch

Callbacks = Sequence[BaseCallbackHandler] | BaseCallbackManager | None


def run_id_of(row: Row) -> UUID:
    """Return the run of an answer: the same whenever and wherever it is read."""
    return uuid5(NAMESPACE_URL, f"{row.batch}/{row.id}")


def marked(message: AIMessage, row: Row) -> AIMessage:
    """Return the answer with when it was asked for and when it came."""
    return mark_batch(
        message,
        submitted_at=_time(row.submitted) or datetime.now(UTC),
        completed_at=_time(row.completed),
    )


def tell(
    message: AIMessage,
    row: Row,
    prompt: list[BaseMessage],
    *,
    model: BaseChatModel,
    callbacks: Callbacks,
    told: Mapping[str, Any],
) -> None:
    """Tell callbacks of an answer as if it had just been given."""
    given: Any = callbacks
    about: dict[str, Any] = dict(model._get_ls_params())
    manager = CallbackManager.configure(
        inheritable_callbacks=list(given) if isinstance(given, Sequence) else given,
        inheritable_tags=[*told.get("tags", ())],
        inheritable_metadata={**about, **told.get("metadata", {})},
    )
    runs = manager.on_chat_model_start(
        {"name": type(model).__name__},
        [prompt],
        run_id=run_id_of(row),
        name=type(model).__name__,
        invocation_params=dict(row.body),
        options={},
    )
    for run in runs:
        run.on_llm_end(LLMResult(generations=[[ChatGeneration(message=message)]]))


def _time(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
