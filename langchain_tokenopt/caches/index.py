"""The nearest kept questions, apart for each partition."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]

_LINKS = 32  # of each entry of the graph; more find better and take longer to build
_BREADTH = 128  # candidates looked at in a search
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
    graph are passed over, and another is built beside it when they are many. Searches wait for
    none of that longer than some milliseconds.

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


class _Partition:
    """A flat index of new entries before a graph of the others."""

    def __init__(self, dimensions: int, *, graph_from: int) -> None:
        import faiss  # noqa: PLC0415 - takes 0.3 s, paid by the first entry

        self._faiss: Any = faiss
        self._dimensions = dimensions
        self._graph_from = graph_from
        self._lock = threading.Lock()
        self._flat: Any = self._new_flat()
        self._flat_ids: set[int] = set()
        self._graph: Any = None
        self._graph_ids: list[int] = []
        self._in_graph: set[int] = set()
        """Entries of the graph that were not removed; it still holds the others."""
        self._mover: threading.Thread | None = None

    def __len__(self) -> int:
        return len(self._flat_ids) + len(self._in_graph)

    def add(self, id_: int, row: Vectors) -> None:
        with self._lock:
            self._flat.add_with_ids(row, np.array([id_], dtype=np.int64))
            self._flat_ids.add(id_)
            waiting = len(self._flat_ids)
            # A tail of some length is cheaper to search than to move one by one.
            enough = self._graph_from if self._graph is None else self._graph_from // 10
            if waiting > enough and self._mover is None:
                self._mover = threading.Thread(
                    target=self._move, name="tokenopt-index", daemon=True
                )
                self._mover.start()

    def remove(self, id_: int) -> bool:
        with self._lock:
            if id_ in self._flat_ids:
                self._forget_flat([id_])
            elif id_ in self._in_graph:
                self._in_graph.discard(id_)
            else:
                return False
        return True

    def search(self, row: Vectors, most: int) -> list[Near]:
        with self._lock:
            near = self._pairs(self._flat, row, min(most, len(self._flat_ids)))
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
                if self._graph is not None and not many_gone:
                    if not self._flat_ids:
                        self._mover = None
                        return
                    self._add_some()
                    continue
                ids, rows = self._snapshot()
            graph = self._new_graph(rows)  # takes long, and holds nobody up
            with self._lock:
                removed = set(ids) - self._flat_ids - self._in_graph
                self._graph, self._graph_ids = graph, ids
                self._in_graph = set(ids) - removed
                self._forget_flat([id_ for id_ in ids if id_ in self._flat_ids])

    def _add_some(self) -> None:
        ids = sorted(self._flat_ids)[:_CHUNK]
        self._graph.add(np.vstack([self._flat.reconstruct(id_) for id_ in ids]))
        self._graph_ids += ids
        self._in_graph.update(ids)
        self._forget_flat(ids)

    def _snapshot(self) -> tuple[list[int], Vectors]:
        """Return the entries that a new graph should hold."""
        places = [n for n, id_ in enumerate(self._graph_ids) if id_ in self._in_graph]
        ids = sorted(self._flat_ids)
        rows = [self._graph.reconstruct(place) for place in places]
        rows += [self._flat.reconstruct(id_) for id_ in ids]
        return [self._graph_ids[place] for place in places] + ids, np.vstack(rows)

    def _new_graph(self, rows: Vectors) -> Any:
        graph = self._faiss.IndexHNSWFlat(
            self._dimensions, _LINKS, self._faiss.METRIC_INNER_PRODUCT
        )
        graph.hnsw.efConstruction = _BUILD_BREADTH
        graph.hnsw.efSearch = _BREADTH
        graph.add(rows)
        return graph

    def _forget_flat(self, ids: Sequence[int]) -> None:
        if not ids:
            return
        chosen = self._faiss.IDSelectorBatch(np.array(ids, dtype=np.int64))
        self._flat.remove_ids(chosen)
        self._flat_ids.difference_update(ids)

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

    def _new_flat(self) -> Any:
        return self._faiss.IndexIDMap2(self._faiss.IndexFlatIP(self._dimensions))


def _unit(vector: Sequence[float]) -> Vectors:
    row: Vectors = np.asarray(vector, dtype=np.float32).reshape(1, -1)
    unit: Vectors = row / max(float(np.linalg.norm(row)), 1e-9)
    return unit
