"""What runs on Ray's workers: a runnable, over a batch of rows."""

import json
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from typing import Any

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.embeddings import Embeddings
from langchain_core.messages import BaseMessage, message_to_dict
from langchain_core.runnables import Runnable
from pydantic import BaseModel

from langchain_tokenopt.errors import ConfigurationError


class BulkWorker:
    """Builds a runnable once and runs batches with it; errors stay with their row."""

    def __init__(
        self, *, build: Callable[[], Any], handler: Callable[[], BaseCallbackHandler] | None
    ) -> None:
        self._run = _running(build())
        self._handler = handler

    def __call__(self, batch: Any) -> Any:
        """Return, for each row, its id with an answer or an error, and what its calls cost."""
        rows = batch.to_pylist()
        inputs = [json.loads(row["input"]) for row in rows]
        handlers: list[Any] = [self._handler() if self._handler else None for _ in rows]
        answers = self._answers(inputs, handlers) if rows else []
        return table_of(
            id=[row["id"] for row in rows],
            answer=[None if isinstance(a, Exception) else as_json(a) for a in answers],
            error=[
                f"{type(a).__name__}: {a}" if isinstance(a, Exception) else None for a in answers
            ],
            calls=[json.dumps(each.drain() if each else []) for each in handlers],
        )

    def _answers(self, inputs: list[Any], handlers: list[Any]) -> Sequence[Any]:
        try:
            answers = self._run(inputs, handlers)
        except Exception as error:  # noqa: BLE001 - is told of each row that it was for
            return [error] * len(inputs)
        if len(answers) != len(inputs):
            message = f"expected {len(inputs)} answers, one for each input, got {len(answers)}"
            return [ConfigurationError(message)] * len(inputs)
        return answers


Run = Callable[[list[Any], list[Any]], Sequence[Any]]


def _running(built: Any) -> Run:
    """Return how to run what was built."""
    if isinstance(built, Embeddings):
        return lambda inputs, _: built.embed_documents([str(each) for each in inputs])
    if isinstance(built, Runnable):
        runnable = built

        def run(inputs: list[Any], handlers: list[Any]) -> Sequence[Any]:
            configs: Any = [{"callbacks": [each] if each else []} for each in handlers]
            return runnable.batch(inputs, configs, return_exceptions=True)

        return run
    if callable(built):
        return lambda inputs, _: built(inputs)
    message = (
        "expected what `build` returns to be a runnable, embeddings, or a function of a list, got "
        f"{type(built).__name__}"
    )
    raise ConfigurationError(message)


def table_of(**columns: Sequence[str | None]) -> Any:
    """Return a table of texts."""
    import pyarrow  # noqa: PLC0415 - Ray Data's; this runs on the workers

    text = pyarrow.string()
    return pyarrow.table({name: pyarrow.array(of, text) for name, of in columns.items()})


def id_of(row: Mapping[str, Any]) -> str:
    """Return a name for a row: equal for rows of equal content."""
    return blake2b(as_json(row).encode(errors="replace"), digest_size=16).hexdigest()


def as_json(value: Any) -> str:
    """Return a value as JSON: messages, models and arrays as what they hold."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True, default=_plain)


def _plain(value: Any) -> Any:
    if isinstance(value, BaseMessage):
        return message_to_dict(value)
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if hasattr(value, "tolist"):  # arrays
        return value.tolist()
    return str(value)
