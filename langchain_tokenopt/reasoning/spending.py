"""The tokens of a measurement: set aside before every model call, settled after it."""

import logging
import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from langchain_core.messages import BaseMessage
from langchain_core.outputs import LLMResult
from typing_extensions import override

from langchain_tokenopt.calls import ObservedCall, Room, Usage
from langchain_tokenopt.errors import BudgetExceededError, ConfigurationError
from langchain_tokenopt.reasoning.steps import StepCollector
from langchain_tokenopt.tokens import counter_for

_LOG = logging.getLogger(__name__)
_CAPS = ("max_completion_tokens", "max_tokens", "max_output_tokens", "num_predict")
# Set aside for the answer of a model that has no cap and was not seen answering yet.
_FIRST_OUTPUT = 512
_OUTPUT_MARGIN = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedTokens:
    """What is expected of a call before it is made."""

    model: str = "unknown"
    counted: int = 0
    """Its input, as it is counted here."""
    answers: int = 1
    """How many are asked for in one call (`n=`)."""
    most: int = 0
    """Tokens to set aside for it."""


_UNPLANNED = PlannedTokens()


class Purse:
    """Tokens that all calls of a measurement share, input and output.

    It says nothing of its room to the techniques that it pays for (`TellsRoom`): one that saves at
    the end of the budget would be measured as another one.

    Args:
        tokens: What may be used; `None` for no limit.
    """

    def __init__(self, tokens: int | None) -> None:
        if tokens is not None and tokens < 1:
            raise ConfigurationError(f"a budget is a number of tokens above 0, got {tokens}")
        self.tokens = tokens
        self.usage = Usage()
        """Of all calls that are over."""
        self._most = tokens
        self._set_aside = 0
        self._lock = threading.Lock()
        self._outputs: dict[str, int] = {}
        self._ratios: dict[str, float] = {}

    @property
    def spent(self) -> int:
        """Tokens of the calls that are over."""
        return self.usage.total_tokens

    @property
    def left(self) -> int | None:
        """Tokens that may still be used now; `None` for no limit."""
        with self._lock:
            return self._left()

    @contextmanager
    def allowance(self, tokens: int) -> Iterator[None]:
        """Let no more than `tokens` be used inside of the block."""
        before = self._most
        most = self.spent + max(tokens, 0)
        self._most = most if before is None else min(most, before)
        try:
            yield
        finally:
            self._most = before

    def plan(
        self, model: str, messages: Sequence[BaseMessage], parameters: Mapping[str, Any]
    ) -> PlannedTokens:
        """Return what a call is expected to use.

        The input is counted, and corrected by what was reported for the model so far. The output
        is the call's own cap, else twice the largest one so far.
        """
        if self.tokens is None:
            return _UNPLANNED
        counted = counter_for(model).count_messages(messages, tools=parameters.get("tools") or ())
        cap = next((parameters[name] for name in _CAPS if parameters.get(name)), None)
        seen = self._outputs.get(model)
        output = cap or (_FIRST_OUTPUT if seen is None else _OUTPUT_MARGIN * seen)
        answers = parameters.get("n") or 1
        most = math.ceil(counted * self._ratios.get(model, 1.0)) + output * answers
        return PlannedTokens(model=model, counted=counted, answers=answers, most=most)

    def take(self, tokens: int) -> None:
        """Set tokens aside for a call.

        Raises:
            BudgetExceededError: There are not enough.
        """
        with self._lock:
            left = self._left()
            if left is not None and tokens > left:
                message = (
                    f"a call may need {tokens:,} tokens and {left:,} of {self._most:,} are left; "
                    "raise the budget, or cap the model's output tokens if it is far too careful"
                )
                raise BudgetExceededError(
                    message, status=Room(tokens=left), needed=Room(tokens=tokens)
                )
            self._set_aside += tokens

    def settle(self, taken: int, usage: Usage) -> None:
        """Book what a call used, and give back what was set aside for it."""
        with self._lock:
            self._set_aside -= taken
            self.usage += usage

    def learn(self, planned: PlannedTokens, usage: Usage) -> None:
        """Remember how much a call of a model used, for the next one."""
        model, output = planned.model, math.ceil(usage.output / planned.answers)
        with self._lock:
            self._outputs[model] = max(self._outputs.get(model, 0), output)
            if planned.counted and usage.input_tokens:
                ratio = usage.input_tokens / planned.counted
                self._ratios[model] = max(self._ratios.get(model, ratio), ratio)

    def _left(self) -> int | None:
        return (
            None if self._most is None else self._most - self.usage.total_tokens - self._set_aside
        )


class Meter(StepCollector):
    """Pays the model calls of one job out of a purse, and stops one that it cannot pay.

    Its refusals are raised (`raise_error`): it must be the first of the handlers, so that none of
    the others waits for the end of a call that never began.
    """

    raise_error = True

    def __init__(self, purse: Purse, step: str) -> None:
        super().__init__(step)
        self.refused = False
        """Whether a call was refused: what the job returned is not all of its work."""
        self._purse = purse
        self._taken: dict[UUID, PlannedTokens] = {}

    @override
    def _start(
        self,
        messages: Sequence[BaseMessage],
        *,
        run_id: UUID,
        metadata: Mapping[str, Any] | None,
        keywords: Mapping[str, Any],
        **rest: Any,
    ) -> None:
        parameters = keywords.get("invocation_params") or {}
        planned = self._purse.plan(_model(metadata or {}, parameters), messages, parameters)
        try:
            self._purse.take(planned.most)
        except BudgetExceededError:
            self.refused = True
            raise
        self._taken[run_id] = planned
        super()._start(messages, run_id=run_id, metadata=metadata, keywords=keywords, **rest)

    @override
    def on_llm_end(self, response: LLMResult, *, run_id: UUID, **kwargs: Any) -> None:
        with self._only_refusals_stop(run_id):
            super().on_llm_end(response, run_id=run_id, **kwargs)

    @override
    def on_llm_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        with self._only_refusals_stop(run_id):
            super().on_llm_error(error, run_id=run_id, **kwargs)

    @override
    def _observed(self, call: ObservedCall) -> None:
        super()._observed(call)
        usage = Usage() if call.kind == "cache_hit" else call.usage
        planned = self._settle(call.run_id, usage)
        if call.kind == "live":
            self._purse.learn(planned, call.usage)

    def close(self) -> None:
        """Give back what was set aside for calls that another handler refused."""
        for run_id in list(self._taken):
            self._settle(run_id, Usage())

    def _settle(self, run_id: UUID, usage: Usage) -> PlannedTokens:
        planned = self._taken.pop(run_id, _UNPLANNED)
        self._purse.settle(planned.most, usage)
        return planned

    @contextmanager
    def _only_refusals_stop(self, run_id: UUID) -> Iterator[None]:
        """Count an answer whose usage cannot be read as all that was set aside for it."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - logged, and booked as what was set aside
            _LOG.warning("the usage of a call could not be read: %r", error)
            self._settle(run_id, Usage(plain_input=self._taken.get(run_id, _UNPLANNED).most))


def _model(metadata: Mapping[str, Any], parameters: Mapping[str, Any]) -> str:
    asked = metadata.get("ls_model_name") or parameters.get("model") or parameters.get("model_name")
    return "unknown" if asked is None else str(asked)
