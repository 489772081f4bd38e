"""Play logged calls, in their order and with bursts kept, through an application."""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from langchain_core.runnables import RunnableConfig

from langchain_tokenopt.advisor import LoggedCall
from langchain_tokenopt.demo.grading import is_wrong

Application = Callable[[LoggedCall, RunnableConfig], str]
"""Answers one logged call again; the config carries callbacks and metadata."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What one request came to."""

    call: LoggedCall
    answer: str | None
    """`None` if the request failed."""
    error: str | None
    latency_s: float

    @property
    def wrong(self) -> bool | None:
        """Whether the answer is wrong; a failed request with a known answer is."""
        return is_wrong(self.answer or "", expected=self.call.metadata.get("expected"))


def play(
    calls: Sequence[LoggedCall],
    application: Application,
    *,
    config: RunnableConfig,
    workers: int = 16,
    on_outcome: Callable[[Outcome], None] | None = None,
) -> list[Outcome]:
    """Return one outcome for each call, in the order of the calls.

    At most `workers` requests are in flight, started in the order of the log, so that requests
    that came together in the log meet here too. A request that fails is an outcome with an error,
    and the rest plays on.
    """
    told = threading.Lock()

    def one(call: LoggedCall) -> Outcome:
        started = time.perf_counter()
        answer, error = None, None
        try:
            answer = application(call, _with_metadata(config, call))
        except Exception as failure:  # noqa: BLE001 - any failure of the user's app is an outcome
            error = f"{type(failure).__name__}: {failure}"
        latency_s = time.perf_counter() - started
        outcome = Outcome(call=call, answer=answer, error=error, latency_s=latency_s)
        if on_outcome is not None:
            with told:
                on_outcome(outcome)
        return outcome

    with ThreadPoolExecutor(max_workers=workers, thread_name_prefix="play") as pool:
        return list(pool.map(one, calls))


def _with_metadata(config: RunnableConfig, call: LoggedCall) -> RunnableConfig:
    feature: Mapping[str, Any] = {
        k: v for k, v in call.metadata.items() if k in ("feature", "tenant", "endpoint")
    }
    return {**config, "metadata": {**config.get("metadata", {}), **feature}}
