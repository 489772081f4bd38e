"""Decides when waiting jobs are sent: threads wait in threads, tasks in their event loop."""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from langchain_tokenopt.batching.combine_queue import Job, Waiting
from langchain_tokenopt.batching.combine_solve import Answered, Request, Solver

NewQueue = Callable[[], Waiting]


class ThreadDispatcher:
    """Sends jobs of threads; a thread collects those of each kind while there are any."""

    def __init__(self, solver: Solver, *, new_queue: NewQueue, most_at_once: int) -> None:
        self._solver = solver
        self._new_queue = new_queue
        self._most_at_once = most_at_once
        self._changed = threading.Condition()
        self._queues: dict[Hashable, Waiting] = {}
        self._in_flight = 0

    def add(self, kind: Hashable, jobs: Sequence[Job]) -> None:
        """Queue jobs that may share requests."""
        with self._changed:
            queue = self._queues.get(kind)
            if queue is None:
                queue = self._queues[kind] = self._new_queue()
                threading.Thread(
                    target=self._collect, args=(kind, queue), name="combined-batch", daemon=True
                ).start()
            for job in jobs:
                queue.add(job)
                job.answer.add_done_callback(self._left)
            self._changed.notify_all()

    def _left(self, answer: Any) -> None:
        if answer.cancelled():
            with self._changed:
                self._changed.notify_all()

    def _collect(self, kind: Hashable, queue: Waiting) -> None:
        with self._changed:
            while (due := queue.due) is not None:
                wait_s = 0.0 if queue.full else due - time.monotonic()
                if wait_s > 0 or self._in_flight >= self._most_at_once:
                    self._changed.wait(wait_s if wait_s > 0 else None)
                    continue
                jobs = queue.take()
                self._in_flight += 1
                threading.Thread(
                    target=self._run, args=(jobs,), name="combined-request", daemon=True
                ).start()
            del self._queues[kind]

    def _run(self, jobs: Sequence[Job]) -> None:
        try:
            steps = self._solver.solve(jobs)
            answered: Any = None
            while True:
                answered = _answers(steps.send(answered))
        except StopIteration:
            pass
        except BaseException as error:
            _fail_all(jobs, error)
            raise
        finally:
            with self._changed:
                self._in_flight -= 1
                self._changed.notify_all()


def _answers(requests: Sequence[Request]) -> list[Answered]:
    if len(requests) == 1:
        return [_answer(requests[0])]
    with ThreadPoolExecutor(min(len(requests), 16)) as pool:
        return list(pool.map(_answer, requests))


def _answer(request: Request) -> Answered:
    try:
        return request.runnable.invoke(request.messages, request.config)
    except Exception as error:  # noqa: BLE001 - the solver says whose it is
        return error


class TaskDispatcher:
    """Sends jobs of the tasks of one event loop."""

    def __init__(self, solver: Solver, *, new_queue: NewQueue, most_at_once: int) -> None:
        self._solver = solver
        self._new_queue = new_queue
        self._most_at_once = most_at_once
        self._changed = asyncio.Event()
        self._queues: dict[Hashable, Waiting] = {}
        self._in_flight = 0
        self._tasks: set[asyncio.Task[None]] = set()

    def add(self, kind: Hashable, jobs: Sequence[Job]) -> None:
        """Queue jobs that may share requests."""
        queue = self._queues.get(kind)
        if queue is None:
            queue = self._queues[kind] = self._new_queue()
            self._start(self._collect(kind, queue))
        for job in jobs:
            queue.add(job)
            job.answer.add_done_callback(lambda _: self._changed.set())
        self._changed.set()

    @property
    def idle(self) -> bool:
        """Whether nothing is under way."""
        return not self._tasks

    def _start(self, work: Awaitable[None]) -> "asyncio.Task[None]":
        task: asyncio.Task[None] = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _collect(self, kind: Hashable, queue: Waiting) -> None:
        try:
            while (due := queue.due) is not None:
                wait_s = 0.0 if queue.full else due - time.monotonic()
                if wait_s > 0 or self._in_flight >= self._most_at_once:
                    self._changed.clear()
                    await _woken(self._changed, wait_s if wait_s > 0 else None)
                    continue
                jobs = queue.take()
                self._in_flight += 1
                task = self._start(self._run(jobs))
                for job in jobs:
                    job.answer.add_done_callback(_cancels(task, jobs))
        finally:
            del self._queues[kind]
            while jobs := queue.take():  # only where the collector itself was cancelled
                _fail_all(jobs, asyncio.CancelledError())

    async def _run(self, jobs: Sequence[Job]) -> None:
        try:
            steps = self._solver.solve(jobs)
            answered: Any = None
            while True:
                requests = steps.send(answered)
                answered = await asyncio.gather(*map(_aanswer, requests))
        except StopIteration:
            pass
        except BaseException as error:
            _fail_all(jobs, error)
            if not isinstance(error, asyncio.CancelledError):
                raise
        finally:
            self._in_flight -= 1
            self._changed.set()


async def _aanswer(request: Request) -> Answered:
    try:
        return await request.runnable.ainvoke(request.messages, request.config)
    except Exception as error:  # noqa: BLE001 - the solver says whose it is
        return error


async def _woken(changed: asyncio.Event, wait_s: float | None) -> None:
    try:
        await asyncio.wait_for(changed.wait(), wait_s)
    except TimeoutError:
        return


def _cancels(task: "asyncio.Task[None]", jobs: Sequence[Job]) -> Callable[[Any], None]:
    """Return what ends a request once nobody waits for any of its answers."""

    def left(answer: Any) -> None:
        if answer.cancelled() and all(job.answer.cancelled() for job in jobs):
            task.cancel()

    return left


def _fail_all(jobs: Sequence[Job], error: BaseException) -> None:
    for job in jobs:
        job.fail(error)
