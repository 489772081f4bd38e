"""What one request wants of the caches: HTTP's `Cache-Control`, for model calls."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from langchain_tokenopt.errors import ConfigurationError


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheControl:
    """How the caches treat the requests of the current context."""

    no_cache: bool = False
    """Ask the model, whatever is kept; its answer is kept for others."""
    no_store: bool = False
    """Do not keep the answer; what is kept may be served."""
    max_age_s: float | None = None
    """Serve nothing that was written longer ago, in seconds."""
    ttl_s: float | None = None
    """How long the answer may be served, in seconds, instead of the cache's own life."""
    tags: frozenset[str] = frozenset()
    """Kept with the answer, to invalidate it by."""

    def __post_init__(self) -> None:
        """Refuse durations that cannot be."""
        for name in ("max_age_s", "ttl_s"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                message = f"{name} must be more than 0 seconds, got {value}"
                raise ConfigurationError(message)


_UNCONTROLLED = CacheControl()
_CURRENT: ContextVar[CacheControl] = ContextVar("tokenopt_cache_control", default=_UNCONTROLLED)


@contextmanager
def cache_control(
    *,
    no_cache: bool = False,
    no_store: bool = False,
    max_age_s: float | None = None,
    ttl_s: float | None = None,
    tags: Collection[str] = (),
) -> Iterator[CacheControl]:
    """Set what the requests inside the block want; reaches tasks and LangChain's threads.

    An inner block adds to the outer one: what either forbids is forbidden, the shorter time
    holds, and tags add up.

    >>> from langchain_tokenopt.caches import MemoryCache
    >>> from langchain_tokenopt.testing import ScriptedModel
    >>> model = ScriptedModel(["four", "still four"], cache=MemoryCache())
    >>> model.invoke("2 + 2?").text
    'four'
    >>> with cache_control(no_cache=True):
    ...     model.invoke("2 + 2?").text
    'still four'
    """
    if isinstance(tags, str):
        message = f"tags must be a collection of texts, got the text {tags!r}"
        raise ConfigurationError(message)
    outer = _CURRENT.get()
    control = CacheControl(
        no_cache=no_cache or outer.no_cache,
        no_store=no_store or outer.no_store,
        max_age_s=_shorter(max_age_s, outer.max_age_s),
        ttl_s=_shorter(ttl_s, outer.ttl_s),
        tags=outer.tags | frozenset(tags),
    )
    token = _CURRENT.set(control)
    try:
        yield control
    finally:
        _CURRENT.reset(token)


def current_control() -> CacheControl:
    """Return what the current context wants."""
    return _CURRENT.get()


def _shorter(one: float | None, other: float | None) -> float | None:
    given = [seconds for seconds in (one, other) if seconds is not None]
    return min(given) if given else None
