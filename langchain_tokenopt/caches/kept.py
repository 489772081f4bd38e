"""The questions that a semantic cache has kept, with their answers: in memory and in a file."""

import logging
import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence

import numpy as np
from langchain_core.outputs import Generation

from langchain_tokenopt.caches.codec import Codec
from langchain_tokenopt.caches.index import VectorIndex
from langchain_tokenopt.caches.likeness import WordWeights
from langchain_tokenopt.caches.question import Question
from langchain_tokenopt.caches.semantic_file import Row, SemanticFile
from langchain_tokenopt.caches.semantic_questions import KeptQuestion
from langchain_tokenopt.caches.template import Packed
from langchain_tokenopt.messages import SEMANTIC

_LOG = logging.getLogger(__name__)


class KeptQuestions:
    """Finds kept questions by their vectors; the longest unused make room, the expired go.

    With a file, what is kept is written to it and read again by the first use. A file that fails is
    logged once; questions are kept in memory then, and deletions made up for when it works again.
    """

    def __init__(
        self,
        *,
        max_entries: int,
        source: str = SEMANTIC,
        file: SemanticFile | None = None,
        clock: Callable[[], float],
    ) -> None:
        self.words = WordWeights()
        """How rare the words of the kept questions are."""
        self.failures = 0
        """How often the file failed."""
        self._max_entries = max_entries
        self._source = source
        self._file = file
        self._clock = clock
        self._codec = Codec()
        self._lock = threading.RLock()
        self._index = VectorIndex()
        self._entries: OrderedDict[int, KeptQuestion] = OrderedDict()
        self._next_id = 0
        self._next_group = 0
        self._loaded = threading.Event()
        self._owed: set[int] = set()

    @property
    def in_memory(self) -> bool:
        """Whether there is no file."""
        return self._file is None

    def load(self) -> None:
        """Read the file, if there is one and it was not read yet."""
        if self._file is None or self._loaded.is_set():
            return
        with self._lock:
            if self._loaded.is_set():
                return
            self._loaded.set()
            try:
                rows = self._file.rows()
            except OSError as error:
                self._failed(error)
                return
            for row in rows:
                self._next_id = max(self._next_id, row.id + 1)
                self._next_group = max(self._next_group, row.group + 1)
                try:
                    (answer,) = self._codec.decode(row.entry)
                    self._index.add(row.partition, row.id, row.vector.tolist())
                except ValueError:  # altered, or of other embeddings: never asked for again
                    self._owed.add(row.id)
                    continue
                self._entries[row.id] = KeptQuestion(
                    id=row.id,
                    question=Question(text=row.text, partition=row.partition, temperature=None),
                    packed=Packed(answer, source=self._source),
                    answer=answer.text,
                    group=row.group,
                    expires_at=math.inf if row.expires_at is None else row.expires_at,
                    tags=row.tags,
                )
                self.words.add(row.text)

    def near(
        self, question: Question, vector: Sequence[float], *, most: int
    ) -> tuple[list[KeptQuestion], list[float]]:
        """Return the nearest kept questions of the same partition, and their cosines."""
        self.load()
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
        answer: Generation,
        group: int | None,
        ttl_s: float | None,
        tags: frozenset[str],
    ) -> None:
        """Keep a question; without a group its answer is one that was not there before."""
        self.load()
        with self._lock:
            if group is None:
                group = self._next_group
                self._next_group += 1
            entry = KeptQuestion(
                id=self._next_id,
                question=question,
                packed=Packed(answer, source=self._source),
                answer=answer.text,
                group=group,
                expires_at=math.inf if ttl_s is None else self._clock() + ttl_s,
                tags=tags,
            )
            self._next_id += 1
            gone = self.take(entry, vector)
        self._write(entry, vector, answer)
        self._erase(gone)

    def take(self, entry: KeptQuestion, vector: Sequence[float]) -> list[int]:
        """Keep an entry that has its id already, in memory; return the ids that made room.

        Raises:
            ValueError: The vector has another length than those before it.
        """
        gone = []
        with self._lock:
            self._index.add(entry.question.partition, entry.id, vector)
            self._entries[entry.id] = entry
            while len(self._entries) > self._max_entries:
                gone.append(next(iter(self._entries)))
                self._drop(gone[-1])
        self.words.add(entry.question.text)
        return gone

    def used(self, entry: KeptQuestion) -> None:
        """Note that an entry was served."""
        with self._lock:
            if entry.id in self._entries:
                self._entries.move_to_end(entry.id)

    def forget(self, id_: int) -> bool:
        """Forget an entry; return whether it was there."""
        self.load()
        with self._lock:
            was_there = self._drop(id_)
        self._erase([id_] if was_there else [])
        return was_there

    def invalidate(self, tags: Collection[str]) -> int:
        """Forget the entries with one of the tags; return how many they were."""
        wanted = frozenset(tags)
        return self.forget_where(lambda entry: bool(entry.tags & wanted))

    def forget_where(self, unwanted: Callable[[KeptQuestion], bool]) -> int:
        """Forget the entries that are unwanted; return how many they were."""
        self.load()
        with self._lock:
            gone = [entry.id for entry in self._entries.values() if unwanted(entry)]
            for id_ in gone:
                self._drop(id_)
        self._erase(gone)
        return len(gone)

    def clear(self) -> None:
        """Forget everything."""
        self.load()
        with self._lock:
            gone = list(self._entries)
            self._entries.clear()
            self._index.clear()
        self._erase(gone)

    def learned(self) -> list[float] | None:
        """Return the coefficients in the file.

        Raises:
            StoreError: The file cannot be read.
        """
        if self._file is None:
            return None
        try:
            return self._file.coefficients()
        except OSError as error:
            self._failed(error)
            raise

    def save(self, coefficients: Sequence[float]) -> None:
        """Write the coefficients to the file."""
        if self._file is None:
            return
        try:
            self._file.save(coefficients)
        except OSError as error:
            self._failed(error)

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._erase([])
            self._file.close()

    def _drop(self, id_: int) -> bool:
        entry = self._entries.pop(id_, None)
        if entry is None:
            return False
        self._index.remove(entry.question.partition, id_)
        return True

    def _write(self, entry: KeptQuestion, vector: Sequence[float], answer: Generation) -> None:
        if self._file is None:
            return
        row = Row(
            id=entry.id,
            partition=entry.question.partition,
            text=entry.question.text,
            vector=np.asarray(vector, dtype=np.float32),
            entry=self._codec.encode([answer]),
            group=entry.group,
            expires_at=None if entry.expires_at == math.inf else entry.expires_at,
            tags=entry.tags,
        )
        try:
            self._file.add(row)
        except OSError as error:
            self._failed(error)

    def _erase(self, ids: Sequence[int]) -> None:
        if self._file is None or not (ids or self._owed):
            return
        with self._lock:
            self._owed.update(ids)
            gone = sorted(self._owed)
        try:
            self._file.remove(gone)
        except OSError as error:
            self._failed(error)
        else:
            with self._lock:
                self._owed.difference_update(gone)

    def _failed(self, error: OSError) -> None:
        self.failures += 1
        if self.failures == 1:
            _LOG.warning("the semantic cache's file failed, it goes on in memory: %s", error)

    def __contains__(self, id_: int) -> bool:
        return id_ in self._entries

    def __len__(self) -> int:
        return len(self._entries)
