"""What a caller holds of prompts that were handed in."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

from langchain_core.runnables import RunnableConfig

from langchain_tokenopt.batching.provider_store import Job
from langchain_tokenopt.batching.provider_work import BatchResult, BatchStatus, BatchWork
from langchain_tokenopt.errors import ConfigurationError

_GROWTH = 1.5
_LONGEST_S = 600.0


class BatchHandle:
    """Prompts on their way. Its `id` is all that is needed to open it again."""

    def __init__(
        self,
        work: BatchWork,
        job: Job,
        *,
        config: RunnableConfig | None,
        clock: Callable[[], float],
        sleeps: tuple[Callable[[float], None], Callable[[float], Awaitable[None]]],
    ) -> None:
        self._work = work
        self._job = job
        self._config = config
        self._clock = clock
        self._sleep, self._async_sleep = sleeps

    @property
    def id(self) -> str:
        """Name of the handle in its file."""
        return self._job.id

    @property
    def status(self) -> BatchStatus:
        """How many prompts are where, as far as is known; `poll` asks the provider."""
        return self._work.status(self._job)

    def send(self) -> None:
        """Hand in what waits: after an error of `submit`, such as a network that was away."""
        self._work.send(self._job)

    def poll(self) -> BatchStatus:
        """Collect what the provider has answered, and return how many prompts are where.

        Errors of the network are raised; the handle stays, and may be polled again.
        """
        self._work.poll(self._job, self._config)
        return self.status

    async def apoll(self) -> BatchStatus:
        """Do what `poll` does without blocking the event loop."""
        return await asyncio.to_thread(self.poll)

    def wait(self, *, timeout_s: float | None = None, every_s: float = 15.0) -> BatchStatus:
        """Poll until nothing is outstanding, or until `timeout_s` are over; return the status.

        The time between polls grows from `every_s` to ten minutes.
        """
        for pause_s in self._pauses(timeout_s, every_s):
            if self.poll().done:
                break
            self._sleep(pause_s)
        return self.status

    async def async_wait(
        self, *, timeout_s: float | None = None, every_s: float = 15.0
    ) -> BatchStatus:
        """Do what `wait` does without blocking the event loop."""
        for pause_s in self._pauses(timeout_s, every_s):
            if (await self.apoll()).done:
                break
            await self._async_sleep(pause_s)
        return self.status

    def results(self) -> list[BatchResult]:
        """Return what became of each prompt, in the order of the prompts."""
        return list(self._work.results(self._job))

    def completed(
        self, *, timeout_s: float | None = None, every_s: float = 15.0
    ) -> Iterator[BatchResult]:
        """Yield each result as soon as it is there, failed ones too; polls as `wait` does."""
        given: set[int] = set()
        for pause_s in self._pauses(timeout_s, every_s):
            done = self.poll().done
            yield from self._new(given)
            if done:
                return
            self._sleep(pause_s)

    async def acompleted(
        self, *, timeout_s: float | None = None, every_s: float = 15.0
    ) -> AsyncIterator[BatchResult]:
        """Do what `completed` does without blocking the event loop."""
        given: set[int] = set()
        for pause_s in self._pauses(timeout_s, every_s):
            done = (await self.apoll()).done
            for result in await asyncio.to_thread(lambda: list(self._new(given))):
                yield result
            if done:
                return
            await self._async_sleep(pause_s)

    def cancel(self) -> BatchStatus:
        """End it: what was not answered fails. What was answered until then is kept and billed."""
        self._work.cancel(self._job)
        return self.poll()

    def forget(self) -> None:
        """Delete prompts and answers from the file; what is on its way stays at the provider.

        Raises:
            ConfigurationError: Something is outstanding; `cancel` first.
        """
        if not self.status.done:
            message = f"the handle {self.id} has outstanding prompts; wait for them, or cancel it"
            raise ConfigurationError(message)
        self._work.file.forget(self.id)

    def _new(self, given: set[int]) -> Iterator[BatchResult]:
        for result in self._work.results(self._job):
            over = result.message is not None or result.error is not None
            if over and result.position not in given:
                given.add(result.position)
                yield result

    def _pauses(self, timeout_s: float | None, every_s: float) -> Iterator[float]:
        if every_s <= 0:
            raise ConfigurationError(f"every_s must be more than 0, got {every_s}")
        end = None if timeout_s is None else self._clock() + timeout_s
        pause_s = every_s
        while True:
            left_s = pause_s if end is None else max(end - self._clock(), 0.0)
            yield min(pause_s, left_s)
            if not left_s:  # what came while the time ran out was looked for
                return
            pause_s = min(pause_s * _GROWTH, _LONGEST_S)
