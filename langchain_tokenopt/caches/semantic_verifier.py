"""Ask a verifier whether an answer may be served: for a limited time, and not on the event loop."""

import asyncio
import inspect
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from contextvars import copy_context
from typing import Any

from langchain_tokenopt.caches.judge import Verifier
from langchain_tokenopt.caches.kept import KeptQuestion

AsyncVerifier = Callable[[str, str, str], Awaitable[bool]]
"""Does what a `Verifier` does without blocking the event loop."""
_MOST_AT_ONCE = 64


class Verification:
    """Asks the verifier; that it has not answered in time, or fails, is an exception.

    A plain function runs in a thread of its own, as nothing else can be waited for with a limit;
    threads of verifiers that never return are bounded in number.
    """

    def __init__(self, verifier: Verifier | AsyncVerifier, *, timeout_s: float) -> None:
        self._verifier: Callable[..., Any] = verifier
        self._timeout_s = timeout_s
        called = getattr(verifier, "__call__", None)  # noqa: B004 - of an object that is called
        self._is_async = inspect.iscoroutinefunction(verifier) or inspect.iscoroutinefunction(
            called
        )
        self._free = threading.BoundedSemaphore(_MOST_AT_ONCE)

    def confirms(self, asked: str, kept: KeptQuestion) -> bool:
        """Return whether the kept answer may be served.

        Raises:
            TimeoutError: The verifier took too long, or too many still run.
            Exception: What the verifier raises.
        """
        return self._in_thread(asked, kept).result(self._timeout_s)

    async def aconfirms(self, asked: str, kept: KeptQuestion) -> bool:
        """Do what `confirms` does without blocking the event loop."""
        if self._is_async:
            told = self._verifier(asked, kept.question.text, kept.answer)
            return bool(await asyncio.wait_for(told, self._timeout_s))
        future = asyncio.wrap_future(self._in_thread(asked, kept))
        return await asyncio.wait_for(future, self._timeout_s)

    def _in_thread(self, asked: str, kept: KeptQuestion) -> "Future[bool]":
        if not self._free.acquire(blocking=False):
            raise TimeoutError(f"{_MOST_AT_ONCE} verifications have not come to an end")
        future: Future[bool] = Future()
        future.set_running_or_notify_cancel()  # from here on nobody can cancel it
        context = copy_context()

        def run() -> None:
            try:
                told = context.run(self._ask, asked, kept)
            except BaseException as error:  # noqa: BLE001 - the one who waits gets it
                future.set_exception(error)
            else:
                future.set_result(told)
            finally:
                self._free.release()

        threading.Thread(target=run, name="tokenopt-verifier", daemon=True).start()
        return future

    def _ask(self, asked: str, kept: KeptQuestion) -> bool:
        told = self._verifier(asked, kept.question.text, kept.answer)
        if inspect.isawaitable(told):  # a coroutine is true, whatever it would say
            return asyncio.run(self._ended(told))
        return bool(told)

    async def _ended(self, told: Awaitable[bool]) -> bool:
        return bool(await asyncio.wait_for(told, self._timeout_s))
