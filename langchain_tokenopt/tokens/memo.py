"""Remember the counts of long texts: a system prompt is counted with every request."""

import threading

from langchain_tokenopt.tokens.encodings import TextEncoding

_WORTH_REMEMBERING = 500  # characters; below, counting costs about as much as remembering
_MOST_ENTRIES = 8_192


class RememberedCounts:
    """Counts with `encoding`, and each long text once while it is among the last few thousand.

    Texts are known by their length and Python's keyed 64-bit hash, so none is kept alive, and a
    string that is counted again costs one look-up.
    """

    def __init__(self, encoding: TextEncoding, *, max_entries: int = _MOST_ENTRIES) -> None:
        self._encoding = encoding
        self._max_entries = max_entries
        self._counts: dict[tuple[int, int], int] = {}
        self._lock = threading.Lock()
        self.name = encoding.name
        self.exact = encoding.exact

    def count(self, text: str) -> int:
        """Return the number of tokens of `text`."""
        length = len(text)
        if length < _WORTH_REMEMBERING:
            return self._encoding.count(text)
        key = (length, hash(text))
        count = self._counts.get(key)
        if count is None:
            count = self._encoding.count(text)
            with self._lock:
                if len(self._counts) >= self._max_entries:
                    # The oldest entry: dicts keep the order of insertion.
                    del self._counts[next(iter(self._counts))]
                self._counts[key] = count
        return count
