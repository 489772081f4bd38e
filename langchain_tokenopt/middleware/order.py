"""Which middleware may stand inside of which: an order that cannot work is refused with why.

An agent's middleware is a row of shells, the first in the list the outermost. Each of this
package's says where it is while the rest runs, so a wrong order shows at the first call of the
model, whatever stands between.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from langchain_tokenopt.errors import ConfigurationError

# (outer, inner): why that cannot work.
_WRONG = {
    ("BudgetMiddleware", "CascadeMiddleware"): "the drafts of the cascade would not be counted",
    ("LedgerMiddleware", "CascadeMiddleware"): "the drafts of the cascade would not be booked",
    ("ResponseCacheMiddleware", "CascadeMiddleware"): (
        "answers of one tier would be kept for another, and drafts not at all"
    ),
    ("PromptCacheMiddleware", "CascadeMiddleware"): (
        "what one provider is told for its cache would be sent to the models of others"
    ),
    ("PromptCacheMiddleware", "ContextMiddleware"): (
        "the conversation would be shortened behind the marks that are set for the provider's cache"
    ),
    ("CascadeMiddleware", "CascadeMiddleware"): "one of them can hold the tiers of both",
}
_OUTER: ContextVar[tuple[str, ...]] = ContextVar("tokenopt_middleware", default=())


def check_order(middleware: Sequence[Any]) -> None:
    """Refuse a list of middleware whose order cannot work; others' middleware may stand anywhere.

    The same is refused when the agent first calls its model.

    Raises:
        ConfigurationError: Says which of them should change places, and why.
    """
    outer: tuple[str, ...] = ()
    for each in middleware:
        name = type(each).__name__
        _check(outer, name)
        outer = (*outer, name)


@contextmanager
def inside(middleware: Any) -> Iterator[None]:
    """Say that what happens in the block happens inside of `middleware`."""
    name = type(middleware).__name__
    outer = _OUTER.get()
    _check(outer, name)
    token = _OUTER.set((*outer, name))
    try:
        yield
    finally:
        _OUTER.reset(token)


def _check(outer: Sequence[str], inner: str) -> None:
    for each in outer:
        why = _WRONG.get((each, inner))
        if why is None:
            continue
        advice = "keep one" if each == inner else f"list {inner} before {each}"
        raise ConfigurationError(f"{inner} stands inside of {each}: {why}; {advice}")
