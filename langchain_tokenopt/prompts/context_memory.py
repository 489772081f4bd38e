"""What a context window remembers while its process runs: counted, bounded, for all threads."""

import threading
from collections import OrderedDict
from collections.abc import Hashable, Iterable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Remembered(Generic[K, V]):
    """A mapping that forgets what was not used for longest.

    >>> remembered: Remembered[str, int] = Remembered(2)
    >>> for n, key in enumerate("abc"):
    ...     remembered.put(key, n)
    >>> remembered.get("a"), remembered.get("c")
    (None, 2)
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._values: OrderedDict[K, V] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: K) -> V | None:
        """Return a value, `None` if it is not there."""
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
            return self._values.get(key)

    def put(self, key: K, value: V) -> None:
        """Remember a value."""
        with self._lock:
            self._values[key] = value
            self._values.move_to_end(key)
            while len(self._values) > self._most:
                self._values.popitem(last=False)

    def without(self, keys: Iterable[K]) -> list[K]:
        """Return the keys that are not there, each once."""
        with self._lock:
            return [key for key in dict.fromkeys(keys) if key not in self._values]
