"""Asks a small model first at each step of an agent, and its own model where that does not do."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from langchain.agents.middleware import AgentMiddleware, ModelRequest, ModelResponse
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage
from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.runnables.config import ensure_config
from langgraph.constants import TAG_NOSTREAM
from typing_extensions import override

from langchain_tokenopt.errors import ConfigurationError
from langchain_tokenopt.middleware.order import inside
from langchain_tokenopt.routing import Check, Chooser, Rule, Tier
from langchain_tokenopt.routing.cascade_run import CASCADE_MARK, CascadeRun

OWN = "agent_model"
"""Name of the last tier: the model that the agent was made with."""


class CascadeMiddleware(AgentMiddleware[Any, Any, Any]):
    """Lets smaller models draft each step of an agent; its own model steps in where they fail.

    A draft is a text or tool calls; checks and gates say whether it will do. Drafts that were
    declined are not streamed and never reach the agent's state. What answered, and every attempt,
    is in the answer's `response_metadata["tokenopt_cascade"]`. Other middleware goes inside of this
    one, after it in the list, if it should see each model's request: prompt caching, budgets.

    Args:
        drafts: Tiers before the agent's own model, the cheapest first; chat models without tools
            bound, the agent's are bound to them.
        checks: As in `create_cascade`.
        rules: As in `create_cascade`; the agent's own model is the tier `"agent_model"`.
        start: As in `create_cascade`.
    """

    def __init__(
        self,
        drafts: Sequence[Tier],
        *,
        checks: Sequence[Check] = (),
        rules: Sequence[Rule] = (),
        start: Chooser | None = None,
    ) -> None:
        super().__init__()
        for tier in drafts:
            if not isinstance(tier.model, BaseChatModel):
                message = (
                    f"the tier {tier.name!r} must be a chat model without anything bound, got "
                    f"{type(tier.model).__name__}; the agent binds its tools itself"
                )
                raise ConfigurationError(message)
        self._drafts = tuple(drafts)
        self._options: dict[str, Any] = {"checks": checks, "rules": rules, "start": start}
        self._run_of({})  # says now what could not work later

    @override
    def wrap_model_call(
        self,
        request: ModelRequest[Any],
        handler: Callable[[ModelRequest[Any]], ModelResponse[Any]],
    ) -> ModelResponse[Any]:
        asked = {name: _Asked(each, handler) for name, each in self._requests(request).items()}
        with inside(self):
            answer = self._run_of(asked).invoke(_messages(request), ensure_config(), {})
        return _response(asked, answer)

    @override
    async def awrap_model_call(
        self,
        request: ModelRequest[Any],
        handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]],
    ) -> ModelResponse[Any]:
        asked = {name: _Asked(each, handler) for name, each in self._requests(request).items()}
        with inside(self):
            answer = await self._run_of(asked).ainvoke(_messages(request), ensure_config(), {})
        return _response(asked, answer)

    def _requests(self, request: ModelRequest[Any]) -> dict[str, ModelRequest[Any]]:
        drafts = {
            tier.name: request.override(model=_unstreamed(tier.model)) for tier in self._drafts
        }
        return {**drafts, OWN: request}

    def _run_of(self, asked: "dict[str, _Asked]") -> CascadeRun:
        unasked = _Asked(None, None)
        tiers = [
            Tier(tier.name, asked.get(tier.name, unasked), tier.gate, tier.threshold)
            for tier in self._drafts
        ]
        return CascadeRun([*tiers, Tier(OWN, asked.get(OWN, unasked))], **self._options)


class _Asked(Runnable[Any, AIMessage]):
    """What a tier of an agent is: the rest of the middleware, with the tier's model."""

    def __init__(self, request: Any, handler: Any) -> None:
        self._request = request
        self._handler = handler
        self.response: ModelResponse[Any] | None = None

    @override
    def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> AIMessage:
        return self._answered(self._handler(self._request))

    @override
    async def ainvoke(
        self, input: Any, config: RunnableConfig | None = None, **kwargs: Any
    ) -> AIMessage:
        return self._answered(await self._handler(self._request))

    def _answered(self, response: Any) -> AIMessage:
        # Middleware inside may wrap the response.
        response = getattr(response, "model_response", response)
        self.response = response
        return _last_answer(response)


def _response(asked: dict[str, _Asked], answer: AIMessage) -> ModelResponse[Any]:
    """Return the response of the tier that answered, with what the cascade says of it."""
    response = asked[answer.response_metadata[CASCADE_MARK]["tier"]].response
    if response is None:  # a draft that was kept because a budget refused the rest
        return ModelResponse(result=[answer])
    at = response.result.index(_last_answer(response))
    result = [*response.result[:at], answer, *response.result[at + 1 :]]
    return ModelResponse(result=result, structured_response=response.structured_response)


def _last_answer(response: ModelResponse[Any]) -> AIMessage:
    answers = [message for message in response.result if isinstance(message, AIMessage)]
    if not answers:
        message = "expected an AIMessage among the results of the model, got none"
        raise ConfigurationError(message)
    return answers[-1]


def _messages(request: ModelRequest[Any]) -> list[Any]:
    system = [request.system_message] if request.system_message else []
    return [*system, *request.messages]


def _unstreamed(model: Any) -> BaseChatModel:
    copy: BaseChatModel = model.model_copy(update={"tags": [*(model.tags or ()), TAG_NOSTREAM]})
    return copy
