"""Tells callbacks of the calls that did not give the answer: they cost time, and maybe money."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self
from uuid import UUID

from langchain_core.callbacks import (
    AsyncCallbackManager,
    BaseCallbackHandler,
    CallbackManager,
)
from langchain_core.callbacks.manager import (
    AsyncCallbackManagerForLLMRun,
    CallbackManagerForLLMRun,
)
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult, LLMResult
from langchain_core.runnables import RunnableConfig

from langchain_tokenopt.routing.balance_board import Turn

# LangGraph's: what such a run answers is not streamed to the user as a message of its own.
_NO_STREAM = "nostream"


@dataclass(frozen=True, slots=True, kw_only=True)
class Audience:
    """Who hears of a request's calls: the handlers of the run that they are made for."""

    handlers: Sequence[BaseCallbackHandler] = ()
    run_id: UUID | None = None
    tags: Sequence[str] = ()
    metadata: Mapping[str, Any] | None = None

    @classmethod
    def of_run(cls, run: Any) -> Self:
        """Return who hears of the run of a run manager."""
        return cls(handlers=run.handlers, run_id=run.run_id, tags=run.tags, metadata=run.metadata)

    @classmethod
    def of_config(cls, model: BaseChatModel, config: RunnableConfig, run_id: UUID | None) -> Self:
        """Return who will hear of the run that LangChain makes of this config."""
        manager = CallbackManager.configure(
            config.get("callbacks"),
            model.callbacks,
            model.verbose,
            config.get("tags"),
            model.tags,
            config.get("metadata"),
            model.metadata,
        )
        return cls(
            handlers=manager.handlers,
            run_id=run_id or manager.parent_run_id,
            tags=manager.tags,
            metadata=manager.metadata,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What the deployments are asked, and for whom."""

    messages: list[BaseMessage]
    stop: list[str] | None
    models: Mapping[str, BaseChatModel]
    """By the name of their deployment."""
    options: Mapping[str, Mapping[str, Any]]
    """The keyword arguments of a call, tools in the form of each deployment's provider."""
    audience: Audience

    def of(self, turn: Turn) -> tuple[BaseChatModel, dict[str, Any]]:
        """Return the model to ask on a turn, and the keyword arguments for it."""
        name = turn.deployment.name
        return self.models[name], dict(self.options[name])

    def start(self, deployment: str, *, name: str) -> "Side":
        """Tell that a call begins which is not the run's own."""
        manager = self._managed(CallbackManager, deployment)
        (run,) = manager.on_chat_model_start(**self._about(deployment, name))
        return Side(run)

    async def astart(self, deployment: str, *, name: str) -> "AsyncSide":
        """Do what `start` does for asynchronous handlers."""
        manager = self._managed(AsyncCallbackManager, deployment)
        (run,) = await manager.on_chat_model_start(**self._about(deployment, name))
        return AsyncSide(run)

    def _managed(self, kind: type[Any], deployment: str) -> Any:
        model, options = self.models[deployment], self.options[deployment]
        known = model._get_ls_params(stop=self.stop, **options)
        return kind(
            handlers=list(self.audience.handlers),
            parent_run_id=self.audience.run_id,
            tags=[*self.audience.tags, _NO_STREAM],
            metadata={**(self.audience.metadata or {}), **known, "deployment": deployment},
        )

    def _about(self, deployment: str, name: str) -> dict[str, Any]:
        model, options = self.models[deployment], self.options[deployment]
        return {
            "serialized": model._serialized,
            "messages": [self.messages],
            "invocation_params": model._get_invocation_params(stop=self.stop, **options),
            "options": {"stop": self.stop},
            "name": name,
            "batch_size": 1,
        }


class Side:
    """A call beside the one that answers, as callbacks see it: a run below the request's."""

    def __init__(self, run: CallbackManagerForLLMRun) -> None:
        self._run = run

    def failed(self, error: BaseException) -> None:
        """Tell that it failed."""
        self._run.on_llm_error(error, response=LLMResult(generations=[]))

    def paid(self, result: ChatResult) -> None:
        """Tell that it was answered, too late."""
        self._run.on_llm_end(_whole(result, self._run.run_id))

    def abandoned(self, so_far: Sequence[ChatGeneration], *, deployment: str) -> None:
        """Tell that nobody waits for it any more."""
        self._run.on_llm_error(_too_late(deployment), response=_told(so_far))


class AsyncSide:
    """Does what `Side` does for asynchronous handlers."""

    def __init__(self, run: AsyncCallbackManagerForLLMRun) -> None:
        self._run = run

    async def failed(self, error: BaseException) -> None:
        """Tell that it failed."""
        await self._run.on_llm_error(error, response=LLMResult(generations=[]))

    async def paid(self, result: ChatResult) -> None:
        """Tell that it was answered, too late."""
        await self._run.on_llm_end(_whole(result, self._run.run_id))

    async def abandoned(self, so_far: Sequence[ChatGeneration], *, deployment: str) -> None:
        """Tell that nobody waits for it any more."""
        await self._run.on_llm_error(_too_late(deployment), response=_told(so_far))


def _too_late(deployment: str) -> asyncio.CancelledError:
    return asyncio.CancelledError(f"nobody waits for {deployment} any more")


def _told(so_far: Sequence[ChatGeneration]) -> LLMResult:
    return LLMResult(generations=[list(so_far)] if so_far else [])


def _whole(result: ChatResult, run_id: UUID) -> LLMResult:
    """Return an answer as LangChain tells of one: with an id, and with who served it."""
    output = result.llm_output or {}
    told: list[Any] = []
    for generation in result.generations:
        message = generation.message
        served = {**output, **(generation.generation_info or {}), **message.response_metadata}
        update = {"response_metadata": served, "id": message.id or f"run-{run_id}"}
        told.append(ChatGeneration(message=message.model_copy(update=update)))
    return LLMResult(generations=[told], llm_output=output)
