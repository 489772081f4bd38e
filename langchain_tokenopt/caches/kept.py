"""The questions that a semantic cache has kept, with their answers."""

import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from langchain_tokenopt.caches.index import VectorIndex
from langchain_tokenopt.caches.question import Question
from langchain_tokenopt.caches.template import Template


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptQuestion:
    """A question and its answer."""

    id: int
    question: Question
    template: Template
    answer: str
    group: int
    """Questions whose answers agreed share it."""
    expires_at: float
    tags: frozenset[str]


class KeptQuestions:
    """Finds kept questions by their vectors; the longest unused make room, the expired go."""

    def __init__(self, *, max_entries: int, clock: Callable[[], float]) -> None:
        self._max_entries = max_entries
        self._clock = clock
        self._lock = threading.Lock()
        self._index = VectorIndex()
        self._entries: OrderedDict[int, KeptQuestion] = OrderedDict()
        self._next_id = 0
        self._next_group = 0

    def near(
        self, question: Question, vector: Sequence[float], *, most: int
    ) -> tuple[list[KeptQuestion], list[float]]:
        """Return the nearest kept questions of the same partition, and their cosines."""
        now = self._clock()
        entries, similarities = [], []
        for found in self._index.search(question.partition, vector, most=most):
            entry = self._entries.get(found.id)
            if entry is None:
                continue
            if entry.expires_at <= now:
                self.forget(entry.id)
                continue
            entries.append(entry)
            similarities.append(found.similarity)
        return entries, similarities

    def add(
        self,
        question: Question,
        vector: Sequence[float],
        *,
        template: Template,
        answer: str,
        group: int | None,
        ttl_s: float | None,
        tags: frozenset[str],
    ) -> None:
        """Keep a question; without a group its answer is one that was not there before."""
        with self._lock:
            if group is None:
                group = self._next_group
                self._next_group += 1
            entry = KeptQuestion(
                id=self._next_id,
                question=question,
                template=template,
                answer=answer,
                group=group,
                expires_at=math.inf if ttl_s is None else self._clock() + ttl_s,
                tags=tags,
            )
            self._next_id += 1
            self._entries[entry.id] = entry
            self._index.add(question.partition, entry.id, vector)
            while len(self._entries) > self._max_entries:
                self._drop(next(iter(self._entries)))

    def used(self, entry: KeptQuestion) -> None:
        """Note that an entry was served."""
        with self._lock:
            if entry.id in self._entries:
                self._entries.move_to_end(entry.id)

    def forget(self, id_: int) -> bool:
        """Forget an entry; return whether it was there."""
        with self._lock:
            return self._drop(id_)

    def invalidate(self, tags: Collection[str]) -> int:
        """Forget the entries with one of the tags; return how many they were."""
        wanted = frozenset(tags)
        with self._lock:
            gone = [entry.id for entry in self._entries.values() if entry.tags & wanted]
            return sum(map(self._drop, gone))

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._entries.clear()
            self._index.clear()

    def _drop(self, id_: int) -> bool:
        entry = self._entries.pop(id_, None)
        if entry is None:
            return False
        self._index.remove(entry.question.partition, id_)
        return True

    def __len__(self) -> int:
        return len(self._entries)
