"""Prompts that can wait a day, at half the price: OpenAI's and Anthropic's Batch APIs."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import BaseMessage, convert_to_messages, message_to_dict
from langchain_core.prompt_values import PromptValue
from langchain_core.runnables import Runnable, RunnableConfig, RunnableSequence
from langchain_core.runnables.base import RunnableBinding

from langchain_tokenopt.batching.provider_book import Callbacks
from langchain_tokenopt.batching.provider_handle import BatchHandle
from langchain_tokenopt.batching.provider_store import BatchFile, Job
from langchain_tokenopt.batching.provider_wire import BatchWire, wire_for
from langchain_tokenopt.batching.provider_work import BatchWork
from langchain_tokenopt.errors import ConfigurationError


class ProviderBatch:
    """Hands prompts to the Batch API of a model's provider, which answers within a day.

    Every request is in the file before any is sent, so that a process that ends in between, for
    whatever reason, goes on where it was: `open` the handle again. Equal prompts are asked once.
    Requests that expire, or fail for a reason that passes, are handed in again; each answer's id is
    checked. Callbacks hear of each answer once, a `UsageLedger` books it at the batch price.

    Args:
        model: A `ChatOpenAI` or `ChatAnthropic`, one of them with tools or options bound, or what
            `with_structured_output` returns: then results have a `value`.
        path: An SQLite file.
        callbacks: Told of each answer; those of a call's config are told too.
        attempts: How often a request is handed in at most.
        then: What becomes of a request that expired as often: it is a failed one, or the model is
            asked in an ordinary call.

    Raises:
        ConfigurationError: The model has no Batch API that is known here, or the path is no good.
    """

    def __init__(
        self,
        model: Runnable[LanguageModelInput, Any],
        *,
        path: str | Path,
        callbacks: Callbacks = None,
        attempts: int = 3,
        then: Literal["fail", "ask"] = "fail",
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
        async_sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        if attempts < 1 or then not in ("fail", "ask"):
            message = f"attempts must be at least 1, then 'fail' or 'ask', got {attempts}, {then!r}"
            raise ConfigurationError(message)
        self._model, self._keywords, parser = _unwrapped(model)
        self._wire: BatchWire = wire_for(self._model)
        self._file = BatchFile(path)
        self._clock = clock
        self._sleeps = (sleep, async_sleep)
        self._work = BatchWork(
            model=self._model,
            wire=self._wire,
            file=self._file,
            parser=parser,
            callbacks=callbacks,
            attempts=attempts,
            then=then,
            clock=clock,
        )

    def submit(
        self,
        prompts: Sequence[LanguageModelInput],
        config: RunnableConfig | None = None,
        *,
        key: str | None = None,
    ) -> BatchHandle:
        """Hand in prompts.

        Args:
            prompts: Anything that the model takes.
            config: Its metadata (feature, tenant, ...) and tags are those of every answer.
            key: A name of yours: what was submitted under it is not submitted again.

        Raises:
            ConfigurationError: There is no prompt, or the key is of other prompts.
            StoreError: The file cannot be written; nothing was sent.
        """
        job = self._add(prompts, config, key)
        handle = self._handle(job, config)
        handle.send()
        return handle

    async def asubmit(
        self,
        prompts: Sequence[LanguageModelInput],
        config: RunnableConfig | None = None,
        *,
        key: str | None = None,
    ) -> BatchHandle:
        """Do what `submit` does without blocking the event loop."""
        return await asyncio.to_thread(self.submit, prompts, config, key=key)

    def open(self, handle_id: str, config: RunnableConfig | None = None) -> BatchHandle:
        """Return the handle of what was submitted earlier, by another process too.

        Raises:
            ConfigurationError: The file has no such handle, or it is of another model.
        """
        job = self._file.job(handle_id)
        if job is None:
            message = f"expected the id of a handle in this file, found none for {handle_id!r}"
            raise ConfigurationError(message)
        self._check_model(job)
        return self._handle(job, config)

    def _handle(self, job: Job, config: RunnableConfig | None) -> BatchHandle:
        return BatchHandle(self._work, job, config=config, clock=self._clock, sleeps=self._sleeps)

    def _check_model(self, job: Job) -> None:
        if job.model != self._name:
            message = f"the handle {job.id} is of {job.model}, got the model {self._name}"
            raise ConfigurationError(message)

    @property
    def _name(self) -> str:
        told = self._model._get_ls_params()
        return f"{type(self._model).__name__}/{told.get('ls_model_name')}"

    def _add(
        self,
        prompts: Sequence[LanguageModelInput],
        config: RunnableConfig | None,
        key: str | None,
    ) -> Job:
        asked = [_messages(prompt) for prompt in prompts]
        if not asked:
            raise ConfigurationError("expected at least one prompt, got none")
        bodies = [self._wire.body(messages, self._keywords) for messages in asked]
        digests = [_digest(repr(sorted(body.items()))) for body in bodies]
        given = config or {}
        job = Job(
            id=uuid4().hex,
            digest=_digest("".join(digests)),
            model=self._name,
            prompts=len(asked),
            told={
                "metadata": _plain(given.get("metadata") or {}),
                "tags": list(given.get("tags") or ()),
            },
        )
        names: dict[str, str] = {}
        for digest in digests:
            names.setdefault(digest, f"{job.id}-{len(names)}")
        first = {digest: n for n, digest in reversed(list(enumerate(digests)))}
        rows = (
            (name, number, bodies[n], [message_to_dict(message) for message in asked[n]])
            for number, (digest, name) in enumerate(names.items())
            for n in (first[digest],)
        )
        known = self._file.add(
            job,
            key=key,
            rows=rows,
            prompts=[names[digest] for digest in digests],
            now=self._clock(),
        )
        if known is None:
            return job
        self._check_model(known)
        if known.digest != job.digest:
            message = (
                f"the key {key!r} is of {known.prompts} other prompts; choose another key, or "
                "submit the same prompts"
            )
            raise ConfigurationError(message)
        return known


def _unwrapped(model: Any) -> tuple[BaseChatModel, dict[str, Any], Runnable[Any, Any] | None]:
    """Return the chat model, what is bound to it, and what reads its answers."""
    parser: Runnable[Any, Any] | None = None
    if isinstance(model, RunnableSequence):
        steps = model.steps
        model = steps[0]
        parser = steps[1] if len(steps) == 2 else RunnableSequence(*steps[1:])
    keywords: dict[str, Any] = {}
    while isinstance(model, RunnableBinding):
        keywords = {**model.kwargs, **keywords}
        model = model.bound
    keywords.pop("ls_structured_output_format", None)
    if not isinstance(model, BaseChatModel):
        message = (
            "expected a chat model, or one with tools, options or structured output, got "
            f"{type(model).__name__}; a chain's prompts are to be made before: "
            "submit([prompt.invoke(...) for ...])"
        )
        raise ConfigurationError(message)
    return model, keywords, parser


def _messages(prompt: LanguageModelInput) -> list[BaseMessage]:
    if isinstance(prompt, PromptValue):
        return prompt.to_messages()
    return convert_to_messages([("human", prompt)] if isinstance(prompt, str) else prompt)


def _digest(text: str) -> str:
    return blake2b(text.encode(errors="surrogatepass"), digest_size=16).hexdigest()


def _plain(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of metadata a file can keep."""
    return {
        str(name): value if isinstance(value, str | int | float | bool) else str(value)
        for name, value in metadata.items()
        if value is not None
    }
