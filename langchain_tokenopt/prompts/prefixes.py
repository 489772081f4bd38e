"""Which part of a prompt was sent before: hashes of its blocks, chained from the start."""

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from hashlib import blake2b

from langchain_tokenopt.prompts.shape import RequestShape

_BLOCK = 64  # characters, about sixteen tokens
_MOST_BLOCKS = 500_000


class PrefixIndex:
    """Remembers the prefixes of requests by their hashes; no text is kept.

    Prefixes are compared by the 64 characters, about sixteen tokens. Not for several threads.

    >>> from langchain_core.messages import HumanMessage
    >>> index = PrefixIndex()
    >>> index.add(RequestShape.of([HumanMessage("a" * 640)], model="m"))
    >>> longer = RequestShape.of([HumanMessage("a" * 640 + "b" * 640)], model="m")
    >>> 0.45 < index.shared(longer, lifetime_s=300) < 0.5
    True
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: OrderedDict[bytes, float] = OrderedDict()

    def shared(self, shape: RequestShape, *, lifetime_s: float) -> float:
        """Return the share of a request, from its start, that was sent within `lifetime_s`."""
        text, oldest, n = shape.text(), self._clock() - lifetime_s, 0
        for block in _blocks(shape, text):
            at = self._seen.get(block)
            if at is None or at < oldest:
                break
            n += 1
        return min(n * _BLOCK, len(text)) / len(text) if text else 0.0

    def add(self, shape: RequestShape) -> None:
        """Remember a request."""
        now = self._clock()
        for block in _blocks(shape, shape.text()):
            self._seen[block] = now
            self._seen.move_to_end(block)
        while len(self._seen) > _MOST_BLOCKS:
            self._seen.popitem(last=False)


def _blocks(shape: RequestShape, text: str) -> Iterator[bytes]:
    """Yield a hash of each whole block that stands for all before it too."""
    start = "\n".join([shape.model, shape.key or "", *(f"{n}={v}" for n, v in shape.settings)])
    chained = blake2b(start.encode(errors="replace"), digest_size=12).digest()
    for at in range(0, len(text) - _BLOCK + 1, _BLOCK):
        block = text[at : at + _BLOCK].encode(errors="replace")
        chained = blake2b(chained + block, digest_size=12).digest()
        yield chained
