"""The nearest kept questions, apart for each partition."""

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]

_LINKS = 32  # of each entry of the graph; more find better and take longer to build
_BREADTH, _BREADTH_OF_LARGE = 128, 256  # candidates looked at in a search
_LARGE = 200_000
_BUILD_BREADTH = 80  # and when an entry is added; more takes long and finds no better
_CHUNK = 16  # entries moved into the graph at once, while searches wait


@dataclass(frozen=True, slots=True)
class Near:
    """An entry near a vector."""

    id: int
    similarity: float
    """Cosine."""


class VectorIndex:
    """Nearest neighbours by cosine, in FAISS, one index a partition.

    Exact while a partition is small. From `graph_from` entries on, a thread builds an HNSW graph
    beside it, and searches then look into the graph and into what was added since, which moves
    into it a few entries at a time. Entries are added and removed at any time; those removed from a
    graph are passed over. When they are many, or what was added is, another graph is built beside
    it. Searches wait for none of that longer than some milliseconds.

    Args:
        graph_from: Entries of a partition from which on its search is approximate.
    """

    def __init__(self, *, graph_from: int = 20_000) -> None:
        self._graph_from = graph_from
        self._lock = threading.Lock()
        self._partitions: dict[bytes, _Partition] = {}
        self._dimensions: int | None = None

    def add(self, partition: bytes, id_: int, vector: Sequence[float]) -> None:
        """Add an entry.

        Raises:
            ValueError: The vector has another length than those before it.
        """
        row = _unit(vector)
        with self._lock:
            if self._dimensions is None:
                self._dimensions = row.shape[1]
            if row.shape[1] != self._dimensions:
                message = f"expected a vector of {self._dimensions} numbers, got {row.shape[1]}"
                raise ValueError(message)
            found = self._partitions.get(partition)
            if found is None:
                found = _Partition(self._dimensions, graph_from=self._graph_from)
                self._partitions[partition] = found
            # Under the lock: a partition that has just become empty must not be dropped meanwhile.
            found.add(id_, row)

    def remove(self, partition: bytes, id_: int) -> None:
        """Remove an entry; an unknown one is no error."""
        with self._lock:
            found = self._partitions.get(partition)
            if found is not None and found.remove(id_) and len(found) == 0:
                del self._partitions[partition]

    def search(self, partition: bytes, vector: Sequence[float], *, most: int) -> list[Near]:
        """Return the nearest entries of a partition, the nearest first."""
        row = _unit(vector)
        with self._lock:
            found = self._partitions.get(partition)
            if found is None or row.shape[1] != self._dimensions:
                return []
        return found.search(row, most)

    def clear(self) -> None:
        """Remove everything."""
        with self._lock:
            self._partitions.clear()
            self._dimensions = None

    def settle(self) -> None:
        """Return when nothing waits to be moved into a graph."""
        with self._lock:
            partitions = list(self._partitions.values())
        for partition in partitions:
            partition.settle()

    def __len__(self) -> int:
        with self._lock:
            return sum(map(len, self._partitions.values()))


class _Segment:
    """A flat index of entries that came one after the other."""

    def __init__(self, faiss: Any, dimensions: int) -> None:
        self._faiss = faiss
        self.index: Any = faiss.IndexIDMap2(faiss.IndexFlatIP(dimensions))
        self.waiting: dict[int, None] = {}
        """Entries that are not in the graph yet, in their order."""
        self._moved: set[int] = set()

    def add(self, id_: int, row: Vectors) -> None:
        self.index.add_with_ids(row, np.array([id_], dtype=np.int64))
        self.waiting[id_] = None

    def remove(self, id_: int) -> bool:
        """Remove an entry; return whether it was waiting."""
        was_waiting = id_ in self.waiting
        if not was_waiting and id_ not in self._moved:
            return False
        chosen = self._faiss.IDSelectorBatch(np.array([id_], dtype=np.int64))
        self.index.remove_ids(chosen)
        self._moved.discard(id_)
        self.waiting.pop(id_, None)
        return was_waiting

    def next_few(self) -> tuple[list[int], Vectors]:
        """Return what is to be moved next."""
        ids = list(islice(self.waiting, _CHUNK))
        return ids, np.vstack([self.index.reconstruct(id_) for id_ in ids])

    def has_moved(self, ids: Iterable[int]) -> None:
        """Note what is in the graph now: its rows stay here, and are passed over."""
        for id_ in ids:
            del self.waiting[id_]
            self._moved.add(id_)

    def rows(self) -> tuple[list[int], Vectors]:
        """Return what is waiting."""
        ids = self._faiss.vector_to_array(self.index.id_map)
        places = [place for place, id_ in enumerate(ids) if int(id_) in self.waiting]
        if not places:
            return [], np.empty((0, self.index.d), dtype=np.float32)
        rows: Vectors = self.index.index.reconstruct_n(0, len(ids))
        return [int(ids[place]) for place in places], rows[places]


class _Partition:
    """A graph, and flat segments of what is not in it yet."""

    def __init__(self, dimensions: int, *, graph_from: int) -> None:
        import faiss  # noqa: PLC0415 - takes 0.3 s, paid by the first entry

        self._faiss: Any = faiss
        self._dimensions = dimensions
        self._graph_from = graph_from
        self._lock = threading.Lock()
        self._segments = [_Segment(faiss, dimensions)]
        self._graph: Any = None
        self._graph_ids: list[int] = []
        self._in_graph: set[int] = set()
        """Entries of the graph that were not removed; it still holds the others."""
        self._mover: threading.Thread | None = None

    def __len__(self) -> int:
        return self._waiting() + len(self._in_graph)

    def _waiting(self) -> int:
        return sum(len(segment.waiting) for segment in self._segments)

    def add(self, id_: int, row: Vectors) -> None:
        with self._lock:
            if len(self._segments[-1].waiting) >= self._graph_from:
                self._segments.append(_Segment(self._faiss, self._dimensions))
            self._segments[-1].add(id_, row)
            # A tail of some length is cheaper to search than to move one by one.
            enough = self._graph_from if self._graph is None else self._graph_from // 10
            if self._mover is None and self._waiting() > enough:
                self._mover = threading.Thread(
                    target=self._move, name="tokenopt-index", daemon=True
                )
                self._mover.start()

    def remove(self, id_: int) -> bool:
        with self._lock:
            was_there = id_ in self._in_graph
            self._in_graph.discard(id_)
            for segment in self._segments:
                was_there = segment.remove(id_) or was_there
        return was_there

    def search(self, row: Vectors, most: int) -> list[Near]:
        with self._lock:
            near = [
                one
                for segment in self._segments
                for one in self._pairs(segment.index, row, min(most, segment.index.ntotal))
                if one.id in segment.waiting
            ]
            if self._graph is not None:
                # What was removed takes places among the nearest.
                gone = len(self._graph_ids) - len(self._in_graph)
                wanted = min(most + min(gone, 4 * most), len(self._graph_ids))
                near += [
                    Near(self._graph_ids[one.id], one.similarity)
                    for one in self._pairs(self._graph, row, wanted)
                    if self._graph_ids[one.id] in self._in_graph
                ]
        near.sort(key=lambda one: -one.similarity)
        return near[:most]

    def settle(self) -> None:
        mover = self._mover
        if mover is not None:
            mover.join()

    def _move(self) -> None:
        """Bring what is not in the graph yet into it."""
        while True:
            with self._lock:
                many_gone = 3 * len(self._in_graph) < 2 * len(self._graph_ids)
                many_new = 2 * self._waiting() > len(self._in_graph)
                if self._graph is not None and not many_gone and not many_new:
                    if self._add_some():
                        continue
                    self._mover = None
                    return
                sealed = self._segments
                self._segments = [*sealed, _Segment(self._faiss, self._dimensions)]
            self._build(sealed)  # takes long, and holds nobody up

    def _add_some(self) -> bool:
        while len(self._segments) > 1 and not self._segments[0].waiting:
            del self._segments[0]
        segment = self._segments[0]
        if not segment.waiting:
            self._segments = [_Segment(self._faiss, self._dimensions)]
            return False
        ids, rows = segment.next_few()
        self._graph.add(rows)
        self._graph_ids += ids
        self._in_graph.update(ids)
        segment.has_moved(ids)
        return True

    def _build(self, sealed: Sequence[_Segment]) -> None:
        """Put a new graph of all in the place of the old one."""
        parts = [([], np.empty((0, self._dimensions), dtype=np.float32)), self._kept_of_graph()]
        for segment in sealed:
            with self._lock:
                parts.append(segment.rows())
        ids = [id_ for some, _ in parts for id_ in some]
        graph = self._new_graph(np.vstack([rows for _, rows in parts]))
        with self._lock:
            there = self._in_graph.union(*(segment.waiting for segment in sealed))
            self._graph, self._graph_ids = graph, ids
            self._in_graph = there.intersection(ids)
            self._segments = self._segments[len(sealed) :]

    def _kept_of_graph(self) -> tuple[list[int], Vectors]:
        if self._graph is None:
            return [], np.empty((0, self._dimensions), dtype=np.float32)
        with self._lock:
            places = [n for n, id_ in enumerate(self._graph_ids) if id_ in self._in_graph]
        # Nobody else adds to the graph, so it can be read while others search.
        rows: Vectors = self._graph.reconstruct_n(0, len(self._graph_ids))
        return [self._graph_ids[place] for place in places], rows[places]

    def _new_graph(self, rows: Vectors) -> Any:
        graph = self._faiss.IndexHNSWFlat(
            self._dimensions, _LINKS, self._faiss.METRIC_INNER_PRODUCT
        )
        graph.hnsw.efConstruction = _BUILD_BREADTH
        graph.hnsw.efSearch = _BREADTH if len(rows) < _LARGE else _BREADTH_OF_LARGE
        graph.add(rows)
        return graph

    def _pairs(self, index: Any, row: Vectors, most: int) -> list[Near]:
        if most < 1:
            return []
        # One question is too little work to share: on a busy machine FAISS's threads wait for each
        # other for milliseconds. The number is this thread's own.
        threads = self._faiss.omp_get_max_threads()
        self._faiss.omp_set_num_threads(1)
        try:
            similarities, ids = index.search(row, most)
        finally:
            self._faiss.omp_set_num_threads(threads)
        return [
            Near(int(id_), float(similarity))
            for id_, similarity in zip(ids[0], similarities[0], strict=True)
            if id_ >= 0
        ]


def _unit(vector: Sequence[float]) -> Vectors:
    row: Vectors = np.asarray(vector, dtype=np.float32).reshape(1, -1)
    unit: Vectors = row / max(float(np.linalg.norm(row)), 1e-9)
    return unit
