"""Tools and schemas in the form of each deployment's provider."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.runnables import (
    Runnable,
    RunnableBinding,
    RunnableParallel,
    RunnableSequence,
)

from langchain_tokenopt.errors import ConfigurationError

DEPLOYMENT_OPTIONS = "deployment_options"
"""The keyword argument of a bound call that holds what is another one at other deployments."""


@dataclass(frozen=True, slots=True)
class Bound:
    """A chat model with keyword arguments bound to it."""

    model: BaseChatModel
    options: dict[str, Any] = field(default_factory=dict)


def bound_in(runnable: Runnable[Any, Any]) -> Bound:
    """Return the model that a runnable of `bind_tools` or `with_structured_output` asks.

    Raises:
        ConfigurationError: There is none to be found.
    """
    found = _find(runnable)
    if found is None:
        message = (
            f"expected a chat model with tools bound to it, got {type(runnable).__name__}; this "
            "provider's tools cannot be bound through a BalancedChatModel"
        )
        raise ConfigurationError(message)
    return found


def options_for_all(bound: Mapping[str, Bound]) -> dict[str, Any]:
    """Return keyword arguments that mean the same at each deployment.

    They are those of the first; where another one's differ, each one's own are beside them.
    """
    own = {name: each.options for name, each in bound.items()}
    first, *others = own.values()
    same = all(options == first for options in others)
    return dict(first) if same else {**first, DEPLOYMENT_OPTIONS: own}


def options_of(deployment: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keyword arguments of a call of one deployment.

    >>> own = {"a": {"tools": [1]}, "b": {"functions": [2]}}
    >>> options_of("b", {"tools": [1], "user": "me", "deployment_options": own})
    {'user': 'me', 'functions': [2]}
    """
    common = dict(options)
    own: Mapping[str, Mapping[str, Any]] = common.pop(DEPLOYMENT_OPTIONS, None) or {}
    for name in {name for each in own.values() for name in each}:
        common.pop(name, None)
    return {**common, **own.get(deployment, {})}


def _find(runnable: Any) -> Bound | None:
    if isinstance(runnable, BaseChatModel):
        return Bound(runnable)
    if isinstance(runnable, RunnableBinding):
        inner = _find(runnable.bound)
        return None if inner is None else Bound(inner.model, {**inner.options, **runnable.kwargs})
    if isinstance(runnable, RunnableSequence):
        return _find(runnable.first)
    if isinstance(runnable, RunnableParallel):
        found = (_find(step) for step in runnable.steps__.values())
        return next((each for each in found if each is not None), None)
    return None
