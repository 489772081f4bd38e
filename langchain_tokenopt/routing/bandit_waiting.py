"""Holds what waits for something to come by its id: only so many things, only so long."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

Held = TypeVar("Held")


class Waiting(Generic[Held]):
    """Things by id, the oldest given up first; not for several threads at once.

    >>> waiting = Waiting[str](most=1, longest_s=60, clock=lambda: 0.0)
    >>> waiting.put("a", "first")
    >>> waiting.put("b", "second")
    >>> waiting.get("a"), waiting.get("b"), waiting.expired
    (None, 'second', 1)
    """

    def __init__(self, *, most: int, longest_s: float, clock: Callable[[], float]) -> None:
        self._most = most
        self._longest_s = longest_s
        self._clock = clock
        self._held: OrderedDict[str, tuple[float, Held]] = OrderedDict()
        self.expired = 0
        """Things that were given up: too many, too old, or another came under their id."""

    def put(self, name: str, thing: Held) -> None:
        """Hold a thing."""
        if self._held.pop(name, None) is not None:
            self.expired += 1
        self._held[name] = (self._clock(), thing)
        self._give_up()

    def get(self, name: str) -> Held | None:
        """Return what is held under an id, `None` if nothing is."""
        self._give_up()
        found = self._held.get(name)
        return None if found is None else found[1]

    def remove(self, name: str) -> None:
        """Hold it no longer."""
        self._held.pop(name, None)

    def _give_up(self) -> None:
        now = self._clock()
        while self._held:
            since, _ = next(iter(self._held.values()))
            if len(self._held) <= self._most and now - since <= self._longest_s:
                return
            self._held.popitem(last=False)
            self.expired += 1
