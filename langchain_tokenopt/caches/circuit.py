"""A store that may fail: left alone for a while, and brought up to date when it is back."""

import logging
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from langchain_tokenopt.caches.store import Store, Tally

_LOG = logging.getLogger(__name__)
# A store that failed is left alone for a second, then twice as long each time, up to a minute.
_FIRST_REST_S, _LONGEST_REST_S = 1.0, 60.0
_MOST_OWED = 10_000


class Failed:
    """What an operation returns that was not carried out."""


FAILED = Failed()


@dataclass(frozen=True, slots=True, kw_only=True)
class TierStats:
    """What one tier did."""

    name: str
    hits: int
    misses: int
    writes: int
    errors: int
    """Operations that failed."""
    skipped: int
    """Operations that were not tried because the tier rested after a failure."""
    resting: bool
    entries: int | None
    """`None` if the tier cannot say now."""


@dataclass(frozen=True, slots=True)
class Operation:
    """A call of a store's method, or of its asynchronous twin."""

    name: str
    arguments: tuple[Any, ...] = ()
    options: tuple[tuple[str, Any], ...] = ()
    owed: "Operation | None" = None
    """What must be done later if this fails: what it overwrites or deletes must not come back."""

    def on(self, store: Store) -> Any:
        """Carry it out."""
        return getattr(store, self.name)(*self.arguments, **dict(self.options))

    async def aon(self, store: Store) -> Any:
        """Carry it out without blocking the event loop."""
        return await getattr(store, f"a{self.name}")(*self.arguments, **dict(self.options))


CLEAR = Operation("clear")


class Circuit:
    """One store behind a circuit breaker; operations on it never raise."""

    def __init__(self, store: Store, *, ttl_s: float | None, clock: Callable[[], float]) -> None:
        self.store = store
        self.name = store.source
        self._ttl_s = ttl_s
        self._clock = clock
        self._lock = threading.Lock()
        self._rests_until = 0.0
        self._rest_s = 0.0
        self._warned = False
        self._owed: list[Operation] = []
        self._tally = Tally()

    @property
    def resting(self) -> bool:
        """Whether the store is left alone now."""
        return self._clock() < self._rests_until

    def life(self, ttl_s: float | None) -> float | None:
        """Return how long an entry may live here that may live `ttl_s` seconds."""
        lives = [life for life in (ttl_s, self._ttl_s) if life is not None]
        return min(lives) if lives else None

    def looked(self, *, hits: int, of: int) -> None:
        """Count a look-up."""
        self._tally.add("hits", hits)
        self._tally.add("misses", of - hits)

    def attempt(self, operation: Operation) -> Any:
        """Return what the operation returns, `FAILED` if the store rests or fails."""
        if self._skips(operation):
            return FAILED
        owed = list(self._owed)
        try:
            for debt in owed:
                debt.on(self.store)
            answer = operation.on(self.store)
        except OSError as error:
            return self._failed(error, operation)
        return self._worked(operation, owed, answer)

    async def aattempt(self, operation: Operation) -> Any:
        """Do what `attempt` does without blocking the event loop."""
        if self._skips(operation):
            return FAILED
        owed = list(self._owed)
        try:
            for debt in owed:
                await debt.aon(self.store)
            answer = await operation.aon(self.store)
        except OSError as error:
            return self._failed(error, operation)
        return self._worked(operation, owed, answer)

    def _skips(self, operation: Operation) -> bool:
        if not self.resting:
            return False
        self._tally.add("skipped")
        self._owe(operation)
        return True

    def _owe(self, operation: Operation) -> None:
        if operation.owed is None:
            return
        with self._lock:
            full = len(self._owed) >= _MOST_OWED
            self._owed = [CLEAR] if full else [*self._owed, operation.owed]

    def _worked(self, operation: Operation, paid: list[Operation], answer: Any) -> Any:
        if operation.name == "put":
            self._tally.add("writes")
        if paid or self._rest_s:
            with self._lock:
                self._owed = [debt for debt in self._owed if not any(debt is p for p in paid)]
                self._rest_s = 0.0
        return answer

    def _failed(self, error: OSError, operation: Operation) -> Failed:
        self._tally.add("errors")
        self._owe(operation)
        with self._lock:
            self._rest_s = min(max(2 * self._rest_s, _FIRST_REST_S), _LONGEST_REST_S)
            # Not every process should come back in the same moment.
            rest_s = self._rest_s * random.uniform(0.8, 1.0)  # noqa: S311 - no secret
            self._rests_until = self._clock() + rest_s
        if not self._warned:
            self._warned = True
            _LOG.warning("the %s tier failed, calls go on without it: %s", self.name, error)
        return FAILED

    def stats(self) -> TierStats:
        """Return the counts so far."""
        try:
            entries = None if self.resting else self.store.size().entries
        except OSError:
            entries = None
        counts = {
            name: self._tally.of(name) for name in ("hits", "misses", "writes", "errors", "skipped")
        }
        return TierStats(name=self.name, resting=self.resting, entries=entries, **counts)
