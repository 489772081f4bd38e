"""Keeps an agent within budgets: stops with what it has, asks, or goes on with a cheaper model."""

from collections.abc import Awaitable, Callable, Mapping
from decimal import Decimal, InvalidOperation
from typing import Annotated, Any, Literal, NotRequired, get_args
from uuid import uuid4

from langchain.agents.middleware import AgentMiddleware, AgentState, ModelRequest, ModelResponse
from langchain.agents.middleware.types import PrivateStateAttr
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage
from langgraph.runtime import Runtime
from langgraph.types import interrupt
from typing_extensions import override

from langchain_tokenopt.accounting import (
    Amounts,
    AsyncBudgetHandler,
    BudgetGuard,
    BudgetHandler,
    BudgetStatus,
)
from langchain_tokenopt.errors import BudgetExceededError, ConfigurationError
from langchain_tokenopt.middleware.hearing import heard_by
from langchain_tokenopt.middleware.order import inside

WhenExceeded = Literal["raise", "stop", "ask"]
STOPPED = "tokenopt_budget"
"""Key in `response_metadata` of the answer of an agent that a budget stopped."""


class BudgetState(AgentState[Any]):
    """An agent's state with the name of the run."""

    tokenopt_run: NotRequired[Annotated[str, PrivateStateAttr]]


class BudgetMiddleware(AgentMiddleware[BudgetState, Any, Any]):
    """Asks the budgets before each call of an agent's model, and books what it used.

    Each invocation of the agent is one run for budgets `per="run"`; feature, user and tenant come
    from the metadata of its config. When a budget has no room for a call, in this order:

    - a `downgrade_to` model is asked instead, if the budgets have room for that;
    - `"stop"` ends the agent with the last text that its model wrote as the answer, and says in
      `response_metadata["tokenopt_budget"]` which budget it was;
    - `"ask"` interrupts the graph (it needs a checkpointer) with the status; resume with
      `Command(resume={"grant": {"dollars": "0.50"}})` (or `calls`, `tokens`) to allow more, or
      with anything else to stop;
    - `"raise"` raises `BudgetExceededError`.

    A `BudgetedChatModel` of the same guard as the agent's model is not booked twice; one inside a
    `CachedChatModel` lets cached answers through when the budget is used up, if it is the only one:
    then pass a guard of its own here, or catch the error.

    Args:
        guard: Knows the budgets.
        when_exceeded: `"stop"`, `"ask"` or `"raise"`.
        downgrade_to: A cheaper model, of any provider.
    """

    state_schema = BudgetState

    def __init__(
        self,
        guard: BudgetGuard,
        *,
        when_exceeded: WhenExceeded = "stop",
        downgrade_to: BaseChatModel | None = None,
    ) -> None:
        super().__init__()
        if when_exceeded not in get_args(WhenExceeded):
            known = ", ".join(get_args(WhenExceeded))
            message = f"when_exceeded must be one of {known}, got {when_exceeded!r}"
            raise ConfigurationError(message)
        self._guard = guard
        self._when_exceeded = when_exceeded
        self._downgrade_to = downgrade_to

    @override
    def before_agent(self, state: BudgetState, runtime: Runtime[Any]) -> dict[str, Any]:
        return {"tokenopt_run": uuid4().hex}

    @override
    async def abefore_agent(self, state: BudgetState, runtime: Runtime[Any]) -> dict[str, Any]:
        return {"tokenopt_run": uuid4().hex}

    @override
    def wrap_model_call(
        self,
        request: ModelRequest[Any],
        handler: Callable[[ModelRequest[Any]], ModelResponse[Any]],
    ) -> ModelResponse[Any]:
        booking = BudgetHandler(self._guard, run=_run_of(request))
        while True:
            refused = None
            for model in self._models(request):
                try:
                    with inside(self):
                        return handler(heard_by(request, model, booking))
                except BudgetExceededError as error:
                    refused = refused or error
            answer = self._exceeded(_given(refused), request)
            if answer is not None:
                return answer

    @override
    async def awrap_model_call(
        self,
        request: ModelRequest[Any],
        handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]],
    ) -> ModelResponse[Any]:
        booking = AsyncBudgetHandler(self._guard, run=_run_of(request))
        while True:
            refused = None
            for model in self._models(request):
                try:
                    with inside(self):
                        return await handler(heard_by(request, model, booking))
                except BudgetExceededError as error:
                    refused = refused or error
            answer = self._exceeded(_given(refused), request)
            if answer is not None:
                return answer

    def _models(self, request: ModelRequest[Any]) -> list[BaseChatModel]:
        return (
            [request.model] if self._downgrade_to is None else [request.model, self._downgrade_to]
        )

    def _exceeded(
        self, error: BudgetExceededError, request: ModelRequest[Any]
    ) -> ModelResponse[Any] | None:
        """Return the answer that ends the agent, `None` to try again with more budget."""
        if self._when_exceeded == "raise" or error.status is None:
            raise error
        if self._when_exceeded == "ask":
            more = _granted(interrupt(_question(error)))
            if more is not None:
                self._guard.grant(error.status, more)
                return None
        return ModelResponse(result=[_best_so_far(error, request)])


def _run_of(request: ModelRequest[Any]) -> str:
    state: Mapping[str, Any] = request.state
    return str(state.get("tokenopt_run", ""))


def _given(error: BudgetExceededError | None) -> BudgetExceededError:
    if error is None:
        raise RuntimeError("no model was asked")
    return error


def _best_so_far(error: BudgetExceededError, request: ModelRequest[Any]) -> AIMessage:
    texts = (str(m.text) for m in reversed(request.messages) if isinstance(m, AIMessage))
    best = next((text for text in texts if text.strip()), None)
    told = {"stopped": str(error), "best_so_far": best is not None}
    return AIMessage(
        best or f"Stopped before there was an answer: {error}", response_metadata={STOPPED: told}
    )


def _question(error: BudgetExceededError) -> dict[str, Any]:
    status: BudgetStatus = error.status
    return {
        "type": "budget_exceeded",
        "message": str(error),
        "budget": status.name,
        "key": status.key,
        "window": status.window,
        "needed": _plain(error.needed),
        "spent": _plain(status.spent),
        "answers": {"grant": {"tokens": 0, "calls": 0, "dollars": "0"}, "stop": True},
    }


def _plain(amounts: Amounts) -> dict[str, Any]:
    return {"tokens": amounts.tokens, "calls": amounts.calls, "dollars": str(amounts.dollars)}


def _granted(answer: Any) -> Amounts | None:
    """Return what was granted, `None` if nothing was.

    Raises:
        ConfigurationError: It cannot be read.
    """
    grant = answer.get("grant") if isinstance(answer, Mapping) else None
    if not isinstance(grant, Mapping):
        return None
    try:
        more = Amounts(
            tokens=int(grant.get("tokens", 0)),
            calls=int(grant.get("calls", 0)),
            dollars=Decimal(str(grant.get("dollars", 0))),
        )
    except (InvalidOperation, TypeError, ValueError) as error:
        message = f'expected {{"grant": {{"dollars": "0.50"}}}} or the like, got {answer!r}'
        raise ConfigurationError(message) from error
    given = more.tokens > 0 or more.calls > 0 or more.dollars > 0
    return more if given else None
