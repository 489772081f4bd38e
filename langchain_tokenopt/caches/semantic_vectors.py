"""Find kept questions in Redis itself: a vector set for each partition, Redis 8 or later."""

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from langchain_tokenopt.caches.codec import UnreadableError
from langchain_tokenopt.caches.likeness import WordWeights, read
from langchain_tokenopt.caches.question import Question
from langchain_tokenopt.caches.semantic_entry import EntryCodec, Stored
from langchain_tokenopt.caches.semantic_questions import KeptQuestion
from langchain_tokenopt.caches.semantic_scripts import COUNT, SEARCH, WORDS

Run = Callable[..., Any]
"""Runs a script with arguments; raises `StoreError`."""
_BREADTH = 200  # candidates looked at in a search
_MOST_DECODED = 2_000
_MOST_WORDS = 50_000
_WORDS_S = 30.0  # for which the count of a word is taken for what it is
_AT_ONCE = 1_000


class SharedWords(WordWeights):
    """How rare words are among the questions that all processes kept."""

    def put(self, questions: int, counts: Mapping[str, int]) -> None:
        """Note what was counted."""
        with self._lock:
            self._questions = questions
            self._seen.update({word: n - self._seen[word] for word, n in counts.items()})

    def forget(self) -> None:
        """Forget all counts."""
        with self._lock:
            self._questions = 0
            self._seen.clear()


class ServerSearch:
    """Asks Redis for each look-up, so what others change is seen at once.

    Redis names the candidates; how near they are is computed from the signed entries themselves, so
    the rounding in its vector sets has no part in a decision.
    """

    def __init__(
        self,
        run: Run,
        *,
        codec: EntryCodec,
        unreadable: Callable[[], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.words = SharedWords()
        self._run = run
        self._codec = codec
        self._unreadable = unreadable
        self._clock = clock
        self._decoded: OrderedDict[bytes, Stored | None] = OrderedDict()
        self._counted: dict[str, float] = {}
        self._gen = b""
        self.counted = 0
        """The last count."""

    def near(
        self, question: Question, vector: NDArray[np.float32], *, most: int
    ) -> tuple[list[KeptQuestion], list[float]]:
        """Return the nearest entries and their cosines.

        Raises:
            StoreError: Redis cannot be reached, is too slow, or refuses.
        """
        name = set_name(question.partition, vector)
        reply = self._run(SEARCH, name, vector.tobytes(), most, _BREADTH)
        if not reply:
            return [], []
        gen, rows = reply
        if gen != self._gen:
            self._gen = gen
            self.words.forget()
            self._counted = {}
        found = []
        now = self._clock()
        for id_, data, left_ms in rows:
            stored = self._stored(data)
            if stored is None or not _is(stored, id_, question.partition, len(vector)):
                self._unreadable()
            elif left_ms != 0 and stored.kept.expires_at > now:
                found.append((_cosine(vector, stored.vector), stored.kept))
        found.sort(key=lambda pair: -pair[0])
        self._count_words([question.text, *(kept.question.text for _, kept in found)])
        return [kept for _, kept in found], [cosine for cosine, _ in found]

    def count(self) -> int:
        """Return how many entries all partitions have.

        Raises:
            StoreError: As `near`.
        """
        self.counted = int(self._run(COUNT))
        return self.counted

    def _stored(self, data: bytes) -> Stored | None:
        if data not in self._decoded:
            try:
                self._decoded[data] = self._codec.decode(data)
            except UnreadableError:
                self._decoded[data] = None
            while len(self._decoded) > _MOST_DECODED:
                self._decoded.popitem(last=False)
        return self._decoded.get(data)

    def _count_words(self, texts: Iterable[str]) -> None:
        now = self._clock()
        words = {word for text in texts for word in read(text).bag}
        old = [word for word in words if self._counted.get(word, now) <= now]
        if len(self._counted) > _MOST_WORDS:
            self._counted = {}
            self.words.forget()
            old = list(words)
        for start in range(0, len(old), _AT_ONCE):
            some = old[start : start + _AT_ONCE]
            reply = self._run(WORDS, *some)
            if len(reply) != len(some) + 1:  # cleared in between
                return
            questions, *counts = (_number(value) for value in reply)
            self.words.put(questions, dict(zip(some, counts, strict=True)))
            self._counted.update(dict.fromkeys(some, now + _WORDS_S))


def set_name(partition: bytes, vector: Sequence[float] | NDArray[np.float32]) -> str:
    """Return the name of a partition's vector set."""
    return f"{len(vector)}:{partition.hex()}"


def _is(stored: Stored, id_: bytes, partition: bytes, dimensions: int) -> bool:
    kept = stored.kept
    return (
        str(kept.id).encode() == id_
        and kept.question.partition == partition
        and len(stored.vector) == dimensions
    )


def _cosine(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    scale = float(np.linalg.norm(one)) * float(np.linalg.norm(other))
    return float(one @ other) / max(scale, 1e-9)


def _number(value: bytes | None) -> int:
    try:
        return min(max(int(value or 0), 0), 2**53)
    except ValueError:
        return 0
