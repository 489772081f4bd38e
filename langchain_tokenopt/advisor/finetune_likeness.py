"""Which texts are nearly the same: exact Jaccard likeness of their words and pairs of words."""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

from langchain_tokenopt.errors import ConfigurationError

_WORDS = re.compile(r"\w+|[^\w\s]")
# What most texts share, a template's words, tells nothing of any two.
_COMMON_SHARE = 0.5
_LEAST_TEXTS = 20


def shingles(texts: Sequence[str]) -> list[frozenset[str]]:
    """Return the words and pairs of words of each text, without what most of the texts share."""
    found = []
    for text in texts:
        words = [word.lower() for word in _WORDS.findall(text)]
        pairs = (f"{a} {b}" for a, b in pairwise(words))
        found.append(frozenset((*words, *pairs)))
    if len(texts) < _LEAST_TEXTS:
        return found
    counts = Counter(shingle for each in found for shingle in each)
    common = {shingle for shingle, n in counts.items() if n > _COMMON_SHARE * len(texts)}
    return [each - common or each for each in found]


def likeness(a: frozenset[str], b: frozenset[str]) -> float:
    """Return the share of what either has that both have, 1.0 of two that have nothing.

    >>> likeness(frozenset("abc"), frozenset("bcd"))
    0.5
    """
    return len(a & b) / len(a | b) if a or b else 1.0


def alike(sets: Sequence[frozenset[str]], *, least: float) -> Iterator[tuple[int, int]]:
    """Yield every pair whose likeness is at least `least`, the later one first.

    Two such sets share one of the rarest members of each (Bayardo, Ma and Srikant, 2007, "Scaling
    up all pairs similarity search"), so that only sets that do are compared: none is missed.

    >>> sorted(alike([frozenset("abc"), frozenset("xyz"), frozenset("abcd")], least=0.7))
    [(2, 0)]
    """
    if not 0 < least <= 1:
        raise ConfigurationError(f"expected a likeness above 0 and at most 1, got {least}")
    counts = Counter(member for each in sets for member in each)
    index: dict[str, list[int]] = defaultdict(list)
    empty: list[int] = []
    for number, each in enumerate(sets):
        if not each:
            yield from ((number, other) for other in empty)
            empty.append(number)
            continue
        rarest = sorted(each, key=lambda member: (counts[member], member))
        # Rounded down by a hair, so that an exact product is not rounded up by its float.
        head = rarest[: len(each) - math.ceil(least * len(each) - 1e-9) + 1]
        others = {other for member in head for other in index[member]}
        for other in sorted(others):
            if likeness(each, sets[other]) >= least:
                yield number, other
        for member in head:
            index[member].append(number)


def groups(count: int, pairs: Iterable[tuple[int, int]]) -> list[list[int]]:
    """Return the groups that pairs make of `count` things, each in order, with those alone.

    >>> groups(4, [(2, 0)])
    [[0, 2], [1], [3]]
    """
    parent = list(range(count))

    def root(number: int) -> int:
        while parent[number] != number:
            parent[number] = parent[parent[number]]
            number = parent[number]
        return number

    for a, b in pairs:
        low, high = sorted((root(a), root(b)))
        parent[high] = low
    found: dict[int, list[int]] = defaultdict(list)
    for number in range(count):
        found[root(number)].append(number)
    return list(found.values())
