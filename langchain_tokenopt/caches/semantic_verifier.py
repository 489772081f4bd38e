"""Ask a verifier whether an answer may be served: for a limited time, and not on the event loop."""

import asyncio
import inspect
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from contextvars import copy_context
from typing import Any

from langchain_tokenopt.caches.judge import Verifier
from langchain_tokenopt.caches.semantic_questions import Decision, KeptQuestion

AsyncVerifier = Callable[[str, str, str], Awaitable[bool]]
"""Does what a `Verifier` does without blocking the event loop."""
_MOST_AT_ONCE = 64


class Verification:
    """Asks the verifier, if there is one; what fails, or takes too long, confirms nothing.

    A plain function runs in a thread of its own, as nothing else can be waited for with a limit;
    threads of verifiers that never return are bounded in number.
    """

    def __init__(
        self,
        verifier: Verifier | AsyncVerifier | None,
        *,
        timeout_s: float,
        failed: Callable[[Exception], None],
    ) -> None:
        self._verifier: Callable[..., Any] | None = verifier
        self._timeout_s = timeout_s
        self._failed = failed
        called = getattr(verifier, "__call__", None)  # noqa: B004 - of an object that is called
        self._is_async = any(map(inspect.iscoroutinefunction, (verifier, called)))
        self._free = threading.BoundedSemaphore(_MOST_AT_ONCE)

    def confirms(self, decision: Decision) -> bool:
        """Return whether nothing speaks against serving what was chosen."""
        kept = decision.chosen
        if self._verifier is None or kept is None or not decision.takes:
            return True
        try:
            return self._in_thread(decision.question.text, kept).result(self._timeout_s)
        except Exception as error:  # noqa: BLE001 - what cannot be confirmed is not served
            self._failed(error)
            return False

    async def aconfirms(self, decision: Decision) -> bool:
        """Do what `confirms` does without blocking the event loop."""
        kept = decision.chosen
        if self._verifier is None or kept is None or not decision.takes:
            return True
        asked = decision.question.text
        try:
            told: Awaitable[bool]
            if self._is_async:
                told = self._verifier(asked, kept.question.text, kept.answer)
            else:
                told = asyncio.wrap_future(self._in_thread(asked, kept))
            return bool(await asyncio.wait_for(told, self._timeout_s))
        except Exception as error:  # noqa: BLE001 - what cannot be confirmed is not served
            self._failed(error)
            return False

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
        assert self._verifier is not None  # noqa: S101 - the callers know
        told = self._verifier(asked, kept.question.text, kept.answer)
        if inspect.isawaitable(told):  # a coroutine is true, whatever it would say
            return asyncio.run(self._ended(told))
        return bool(told)

    async def _ended(self, told: Awaitable[bool]) -> bool:
        return bool(await asyncio.wait_for(told, self._timeout_s))
