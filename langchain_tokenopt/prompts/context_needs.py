"""What a context window needs from outside while it works, and who gets it, waiting or awaiting.

The window itself is one generator that yields needs and is sent what answers them, so that its
sync and async forms are the same code.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Generator, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from langchain_core.embeddings import Embeddings
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import BaseMessage
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import merge_configs
from langchain_core.stores import BaseStore

T = TypeVar("T")
# A thread waits as long for another that makes the same summary, and then makes its own.
_LONGEST_WAIT_S = 60.0


@dataclass(frozen=True, slots=True)
class Embed:
    """Vectors of texts are needed."""

    embeddings: Embeddings
    texts: list[str]


@dataclass(frozen=True, slots=True)
class Ask:
    """An answer of a model is needed."""

    model: BaseChatModel
    messages: list[BaseMessage]


@dataclass(frozen=True, slots=True)
class Load:
    """Values of a store are needed."""

    store: BaseStore[str, bytes]
    keys: Sequence[str]


@dataclass(frozen=True, slots=True)
class Save:
    """A value is to be stored."""

    store: BaseStore[str, bytes]
    key: str
    value: bytes


@dataclass(frozen=True, slots=True)
class Wait:
    """Somebody else makes what is needed."""

    until: Future[None]


Need = Embed | Ask | Load | Save | Wait
Steps = Generator[Need, Any, T]


@dataclass(frozen=True, slots=True)
class Failed:
    """Is sent in place of an answer: what went wrong."""

    error: Exception


def run(steps: Steps[T], config: RunnableConfig | None) -> T:
    """Return what the steps come to."""
    told: Any = None
    try:
        while True:
            need = steps.send(told)
            try:
                told = _met(need, config)
            except Exception as error:  # noqa: BLE001 - the steps say what to do without
                told = Failed(error)
    except StopIteration as end:
        made: T = end.value
        return made
    finally:
        steps.close()


async def arun(steps: Steps[T], config: RunnableConfig | None, *, long: bool) -> T:
    """Return what the steps come to, without blocking the event loop.

    The steps of a `long` conversation are computed in a thread.
    """
    told: Any = None
    async with _closing(steps):
        while True:
            step = await asyncio.to_thread(_next, steps, told) if long else _next(steps, told)
            if isinstance(step, _Ended):
                made: T = step.value
                return made
            try:
                told = await _amet(step, config)
            except Exception as error:  # noqa: BLE001 - the steps say what to do without
                told = Failed(error)


@dataclass(frozen=True, slots=True)
class _Ended:
    """What the steps came to: a `StopIteration` cannot leave a thread."""

    value: Any


def _next(steps: Steps[Any], told: Any) -> Need | _Ended:
    try:
        return steps.send(told)
    except StopIteration as end:
        return _Ended(end.value)


@asynccontextmanager
async def _closing(steps: Steps[T]) -> AsyncIterator[None]:
    try:
        yield
    finally:
        steps.close()


def _met(need: Need, config: RunnableConfig | None) -> Any:
    match need:
        case Embed(embeddings, texts):
            return embeddings.embed_documents(texts)
        case Ask(model, messages):
            return model.invoke(messages, _told(config))
        case Load(store, keys):
            return store.mget(keys)
        case Save(store, key, value):
            store.mset([(key, value)])
        case Wait(until) if not _in_event_loop():
            until.result(_LONGEST_WAIT_S)
    return None


async def _amet(need: Need, config: RunnableConfig | None) -> Any:
    match need:
        case Embed(embeddings, texts):
            return await embeddings.aembed_documents(texts)
        case Ask(model, messages):
            return await model.ainvoke(messages, _told(config))
        case Load(store, keys):
            return await store.amget(keys)
        case Save(store, key, value):
            await store.amset([(key, value)])
        case Wait(until):
            # A waiter that is cancelled must not end what others wait for.
            await asyncio.shield(asyncio.wrap_future(until))
    return None


def _told(config: RunnableConfig | None) -> RunnableConfig:
    # As LangChain's own middleware names it, so that ledgers know what the call was for.
    about: RunnableConfig = {
        "metadata": {"lc_source": "summarization"},
        "run_name": "summarise_conversation",
    }
    return merge_configs(config, about)


def _in_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


class InFlight:
    """What is being made by somebody, by its key."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._made: dict[str, Future[None]] = {}

    def claim(self, key: str) -> Future[None] | None:
        """Return what to wait for, `None` to who is to make it, and to `release` it then."""
        with self._lock:
            if key in self._made:
                return self._made[key]
            self._made[key] = Future()
            return None

    def release(self, key: str) -> None:
        """Let those who wait go on."""
        with self._lock:
            made = self._made.pop(key)
        made.set_result(None)
