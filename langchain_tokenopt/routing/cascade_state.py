"""What a cascade knows: its tiers, its state, and where a request starts."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, NotRequired, TypeAlias

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.runnables import Runnable, RunnableConfig
from langgraph.graph import MessagesState
from typing_extensions import TypedDict

from langchain_tokenopt.routing.attempt import Attempt
from langchain_tokenopt.routing.cascade_accept import Scorer


class CascadeInput(MessagesState):
    """What a cascade is called with: `messages`, and what a graph around it may settle."""

    last_tier: NotRequired[str]
    """A tier that is not passed, whatever is thought of its answer; any of the tiers by default."""
    ruled: NotRequired[dict[str, str]]
    """The tier and the reason that a graph around the cascade gave; `{}` if it gave none."""
    request: NotRequired[list[dict[str, Any]]]
    """What the tiers are sent instead of `messages`, as plain data."""


class CascadeState(CascadeInput):
    """State of a cascade; `messages` is the input, and gets the accepted answer only."""

    attempts: list[Attempt]
    """Every tier's answer to the current turn, the first tier's first."""
    draft: dict[str, Any]
    """The answer that the gate looks at, as plain data: a stream of messages must not show it."""
    answer: AIMessage
    """The last attempt's answer, accepted or not."""
    accepted: bool
    """Whether the checks accepted it; the last tier's answer is given in any case."""
    route: str
    """Why the first tier was chosen."""
    calls: list[dict[str, Any]]
    """`ModelCall`s of the current turn, the gate's among them, as plain data."""


class ModelCall(TypedDict):
    """A model call that a node made."""

    node: str
    model: str
    kind: str
    """`live`, `cache_hit`, `error`, ..., as in the ledger."""
    service_tier: str | None
    usage: dict[str, int]
    """Fields of `calls.Usage`; of a cache hit, the tokens that were not sent."""
    at: str
    """When it began, ISO 8601."""


@dataclass(frozen=True, slots=True)
class Tier:
    """A model of a cascade, under the name that attempts and the ledger show."""

    name: str
    model: BaseChatModel | Runnable[Any, AIMessage]
    """A chat model, or one with tools or options bound."""
    gate: Scorer | None = None
    """Scores this tier's answers, after the checks."""
    threshold: float | None = None
    """Scores above it are accepted; calibration finds it for a promised loss. Without one, scores
    from 0.5 on are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """Where a request starts, and why."""

    tier: str
    reason: str


Chooser: TypeAlias = Callable[
    [Sequence[BaseMessage], RunnableConfig], Route | Awaitable[Route | None] | None
]
"""Chooses where a request starts, `None` leaves it to the first tier. If it is asynchronous, use
the graph's asynchronous methods; they call the method `achoose` of an object that has one."""
