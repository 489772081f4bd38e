"""Which entries were changed while somebody read: a copy of what he read must not be kept."""

import threading
from collections import Counter, OrderedDict
from collections.abc import Collection, Iterator
from contextlib import contextmanager

_MOST_REMEMBERED = 10_000


class Changes:
    """Remembers the last changes by number.

    >>> changes = Changes()
    >>> mark = changes.mark()
    >>> changes.note([b"a"])
    >>> changes.since(mark, [b"a", b"b"])
    [b'a']
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last = 0
        self._of: OrderedDict[bytes, int] = OrderedDict()
        self._of_all = 0
        """The last change after which nothing read before it may be kept."""
        self._under_way: Counter[bytes] = Counter()
        self._all_under_way = 0

    def mark(self) -> int:
        """Return the number of the last change so far."""
        return self._last

    def note(self, keys: Collection[bytes] | None) -> None:
        """Note that entries were changed, `None` for all of them."""
        with self._lock:
            self._last += 1
            if keys is None:
                self._of_all = self._last
                self._of.clear()
                return
            for key in keys:
                self._of[key] = self._last
                self._of.move_to_end(key)
            while len(self._of) > _MOST_REMEMBERED:
                self._of_all = self._of.popitem(last=False)[1]

    @contextmanager
    def under_way(self, keys: Collection[bytes] | None) -> Iterator[None]:
        """Note that entries are being changed in this block, `None` for all of them."""
        with self._lock:
            if keys is None:
                self._all_under_way += 1
            else:
                self._under_way.update(keys)
        try:
            yield
        finally:
            with self._lock:
                if keys is None:
                    self._all_under_way -= 1
                else:
                    self._under_way -= Counter(keys)
            self.note(keys)

    def since(self, mark: int, keys: Collection[bytes]) -> list[bytes]:
        """Return which entries were changed after a mark, or are being changed."""
        with self._lock:
            if self._all_under_way or self._of_all > mark:
                return list(keys)
            return [key for key in keys if key in self._under_way or self._of.get(key, 0) > mark]
