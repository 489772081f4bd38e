"""Which entry makes room: the least recently used, or the one that would save least for its bytes.

Kept bytes are worth most where a hit is dear and soon. How soon is learned from the traffic itself:
for requests seen once, twice, ... the times after which they came again give a survival curve
(Kaplan and Meier's estimate). From it follows, for every age, the most hits a request of waiting
that keeping the entry can bring, over all times to wait (Gittins' index). Times are counted in
requests, so the policy needs no clock.
"""

import random
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Protocol
from zlib import crc32

from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration

from langchain_tokenopt.caches.codec import Codec, UnreadableError

_CLASSES = 12  # seen 1, 2, 3, 4, 5 to 8, 9 to 16, ... times
_SEEN = (1, 2, 3, 4, 6, 12, 24, 48, 96, 192, 384, 768)
_AGES = 44  # two to an octave: up to some four million requests
_EDGES = [0, *((1 << n // 2) + (n % 2 << n // 2 - 1) for n in range(2, _AGES + 2))]
_WIDTHS = [end - start for start, end in pairwise(_EDGES)]
_PRIOR = 10.0  # observations that the prior is worth, in each class and range of ages
_DECAY = 0.97  # of what was observed, at each fitting
_FIRST_FIT, _LONGEST_FIT = 64, 1_024  # requests between fittings
_SAMPLE = 16  # entries compared for each one that goes
_SHORTEST_HISTORY, _HISTORY_OF_KEPT, _MOST_TRACKED = 2_048, 3, 8_192


class Eviction(Protocol):
    """Chooses what makes room in one store, which calls it under its lock."""

    def added(self, key: bytes, value: bytes, /) -> object:
        """Note a new entry; it may be the next victim."""

    def used(self, key: bytes, /) -> object:
        """Note that a kept entry was served."""

    def removed(self, key: bytes, /) -> object:
        """Note that an entry is gone, for whatever reason."""

    def victim(self) -> bytes:
        """Return the kept entry that should go first; at least one is kept."""

    def clear(self) -> object:
        """Note that all entries are gone."""


class Lru:
    """The least recently used makes room.

    >>> policy = Lru()
    >>> policy.added(b"a", b""), policy.added(b"b", b""), policy.used(b"a")
    (None, None, None)
    >>> policy.victim()
    b'b'
    """

    def __init__(self) -> None:
        self._order: OrderedDict[bytes, None] = OrderedDict()
        # The dictionary's own methods: a hit costs no Python call more.
        self.used: Callable[[bytes], object] = self._order.move_to_end
        self.clear: Callable[[], object] = self._order.clear

    def added(self, key: bytes, value: bytes, /) -> None:
        """Note a new entry as the most recently used."""
        self._order[key] = None

    def removed(self, key: bytes, /) -> None:
        """Note that an entry is gone."""
        self._order.pop(key, None)

    def victim(self) -> bytes:
        """Return the least recently used."""
        return next(iter(self._order))


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerCost:
    """What an encoded answer cost, from the token counts that came with it.

    Only proportions matter. Without counts, and for bytes that are no answer, four bytes are taken
    as an output token.
    """

    input: float = 1.0
    """Price of an input token."""
    output: float = 8.0
    """Price of an output token."""
    codec: Codec = field(default_factory=Codec)
    """The cache's own, if it signs entries."""

    def __call__(self, value: bytes) -> float:
        """Return the cost of an entry."""
        try:
            answers = self.codec.decode(value)
        except UnreadableError:
            return len(value) / 4 * self.output
        cost = 0.0
        for answer in answers:
            message = answer.message if isinstance(answer, ChatGeneration) else None
            usage = message.usage_metadata if isinstance(message, AIMessage) else None
            if usage:
                cost += usage["input_tokens"] * self.input + usage["output_tokens"] * self.output
        return cost or len(value) / 4 * self.output


class CostAware:
    """What would save least for its bytes makes room, be it the newest entry itself.

    Saving is the cost of an answer times the hits it can be expected to bring. It takes a few
    hundred requests to learn the traffic; memory is bounded (some 2 MB, and 200 bytes an entry).
    Each store needs a policy of its own.

    Args:
        cost_of: What a hit on an entry saves; only proportions matter.
        seed: For the sample of entries that is compared.

    >>> policy = CostAware(cost_of=lambda value: 5.0 if value == b"dear" else 1.0)
    >>> policy.added(b"a", b"dear"), policy.added(b"b", b"easy"), policy.used(b"b")
    (None, None, None)
    >>> policy.victim()
    b'b'
    """

    def __init__(self, *, cost_of: Callable[[bytes], float] | None = None, seed: int = 0) -> None:
        self._cost_of = AnswerCost() if cost_of is None else cost_of
        self._random = random.Random(seed)  # noqa: S311 - draws a sample, no secret
        self._sketch = _Sketch()
        self._returns = _Returns()
        self._kept: dict[bytes, _Kept] = {}
        self._keys: list[bytes] = []
        self._now = 0
        self._next_fit = _FIRST_FIT

    def added(self, key: bytes, value: bytes, /) -> None:
        """Note a new entry and what it cost."""
        worth = max(self._cost_of(value), 0.0) / (len(key) + len(value))
        seen = self._request(key)
        self._kept[key] = _Kept(worth, len(self._keys), self._now, seen)
        self._keys.append(key)

    def used(self, key: bytes, /) -> None:
        """Note that a kept entry was served."""
        seen = self._request(key)
        entry = self._kept[key]
        entry.at, entry.seen = self._now, seen

    def removed(self, key: bytes, /) -> None:
        """Note that an entry is gone; when it was asked for is still known."""
        entry = self._kept.pop(key, None)
        if entry is None:
            return
        last = self._keys.pop()
        if last != key:
            self._keys[entry.place] = last
            self._kept[last].place = entry.place

    def victim(self) -> bytes:
        """Return the least valuable of a sample and the newest."""
        count = len(self._keys)
        drawn = range(count)
        if count > _SAMPLE:
            draw = self._random.random
            drawn = [count - 1, *(int(draw() * count) for _ in range(_SAMPLE))]  # type: ignore[assignment]  # both are iterated only
        return min((self._keys[place] for place in drawn), key=self._value)

    def clear(self) -> None:
        """Note that all entries are gone; what was learned of the traffic stays."""
        self._kept.clear()
        self._keys.clear()

    def _value(self, key: bytes) -> float:
        entry = self._kept[key]
        return entry.worth * self._returns.index[entry.seen][_range_of(self._now - entry.at)]

    def _request(self, key: bytes) -> int:
        """Count a request; return the class of how often its key was seen."""
        self._now += 1
        spread = crc32(key) * 0x9E3779B97F4A7C15
        seen = _class_of(self._sketch.add(spread))
        self._returns.note(key, spread=spread, now=self._now, seen=seen, kept=len(self._kept))
        if self._now >= self._next_fit:
            self._returns.fit(self._now, window=min(self._now, self._sketch.window))
            self._next_fit += min(_LONGEST_FIT, max(_FIRST_FIT, self._now // 2))
        return seen


@dataclass(slots=True)
class _Kept:
    worth: float
    """Cost for each byte."""
    place: int
    at: int
    """When it was asked for last."""
    seen: int


class _Sketch:
    """How often keys were seen lately, in little memory: a count-min sketch that halves itself."""

    _HALVED = bytes(count >> 1 for count in range(256))

    def __init__(self, *, bits: int = 15) -> None:
        self._mask = (1 << bits) - 1
        self._shifts = tuple(row * bits + 4 for row in range(4))
        self._rows = [bytearray(1 << bits) for _ in self._shifts]
        self._added = 0
        self.window = 10 << bits

    def add(self, spread: int) -> int:
        """Return how often the key was seen, this time among it; at most 255."""
        places = [spread >> shift & self._mask for shift in self._shifts]
        counts = [row[place] for row, place in zip(self._rows, places, strict=True)]
        least = min(counts)
        if least < 255:
            for row, place, count in zip(self._rows, places, counts, strict=True):
                if count == least:
                    row[place] = least + 1
        self._added += 1
        if self._added >= self.window:
            self._rows = [row.translate(self._HALVED) for row in self._rows]
            self._added //= 2
        return min(least + 1, 255)


class _Returns:
    """After how many requests keys come again, by how often they were seen before.

    Keys are followed whether their entries are kept or not, so what is evicted does not colour
    what is learned. Beyond some thousands of keys only every second, fourth, ... is followed.
    """

    def __init__(self) -> None:
        self._followed: OrderedDict[bytes, tuple[int, int]] = OrderedDict()
        self._skipped = 0  # the mask of key bits that must be zero
        self._came = _zeros()
        self._lost = _zeros()
        self.index = _zeros()
        self.fit(1, window=1)

    def note(self, key: bytes, *, spread: int, now: int, seen: int, kept: int) -> None:
        """Note a request."""
        if spread >> 40 & self._skipped:
            return
        before = self._followed.pop(key, None)
        if before is not None:
            at, was = before
            self._came[was][_range_of(now - at)] += 1
        self._followed[key] = (now, seen)
        most = max(_SHORTEST_HISTORY, _HISTORY_OF_KEPT * kept) // (self._skipped + 1)
        if most > _MOST_TRACKED:
            self._skipped = 2 * self._skipped + 1
            for other in [k for k in self._followed if self._is_skipped(k)]:
                del self._followed[other]
        for _ in range(min(2, len(self._followed) - most)):
            at, was = self._followed.popitem(last=False)[1]
            self._lost[was][_range_of(now - at)] += 1

    def _is_skipped(self, key: bytes) -> bool:
        return bool(crc32(key) * 0x9E3779B97F4A7C15 >> 40 & self._skipped)

    def fit(self, now: int, *, window: int) -> None:
        """Learn the index of each class and age from what was noted."""
        waiting = _zeros()
        for at, seen in self._followed.values():
            waiting[seen][_range_of(now - at)] += 1
        for seen in range(_CLASSES):
            came, lost = self._came[seen], self._lost[seen]
            chances = _chances(came, lost, waiting[seen], seen=_SEEN[seen], window=window)
            self.index[seen] = [_index(chances, age) for age in range(_AGES)]
            self._came[seen] = [count * _DECAY for count in came]
            self._lost[seen] = [count * _DECAY for count in lost]


def _zeros() -> list[list[float]]:
    return [[0.0] * _AGES for _ in range(_CLASSES)]


def _class_of(count: int) -> int:
    return count - 1 if count <= 4 else min(_CLASSES - 1, (count - 1).bit_length() + 1)


def _range_of(age: int) -> int:
    """Return which of `_EDGES` an age lies at or above."""
    if age < 2:
        return 0
    octave = age.bit_length() - 1
    return min(_AGES - 1, 2 * octave - 1 + (age >> octave - 1 & 1))


def _chances(
    came: list[float], lost: list[float], waiting: list[float], *, seen: int, window: int
) -> list[float]:
    """Return, for each range of ages, the chance that a key that got there comes again in it.

    Those lost from sight or still waiting in a range count as half there. The prior is a key that
    was seen so often in the window and then not for its age.
    """
    chances = [0.0] * _AGES
    later = 0.0
    for age in reversed(range(_AGES)):
        prior = min(1.0, seen / (window + 10 + _EDGES[age]) * _WIDTHS[age])
        unknown = lost[age] + waiting[age]
        there = later + came[age] + unknown / 2
        chances[age] = (came[age] + _PRIOR * prior) / (there + _PRIOR)
        later += came[age] + unknown
    return chances


def _index(chances: list[float], age: int) -> float:
    """Return the most hits a request waited, over all times to wait from an age on."""
    best = hits = waited = 0.0
    alive = 1.0
    for chance, width in zip(chances[age:], _WIDTHS[age:], strict=True):
        come = alive * chance
        hits += come
        waited += width * (alive - come / 2)
        alive -= come
        best = max(best, hits / waited)
    return best
