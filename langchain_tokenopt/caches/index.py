"""The nearest kept questions, apart for each partition."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Near:
    """An entry near a vector."""

    id: int
    similarity: float
    """Cosine."""


class VectorIndex:
    """Exact nearest neighbours by cosine, in FAISS, one index a partition.

    Entries are added and removed while others search; a partition without entries takes no room.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._partitions: dict[bytes, Any] = {}
        self._dimensions: int | None = None

    def add(self, partition: bytes, id_: int, vector: Sequence[float]) -> None:
        """Add an entry.

        Raises:
            ValueError: The vector has another length than those before it.
        """
        import faiss  # noqa: PLC0415 - takes 0.3 s, paid by the first entry

        row = _unit(vector)
        with self._lock:
            if self._dimensions is None:
                self._dimensions = row.shape[1]
            if row.shape[1] != self._dimensions:
                message = f"expected a vector of {self._dimensions} numbers, got {row.shape[1]}"
                raise ValueError(message)
            index = self._partitions.get(partition)
            if index is None:
                index = faiss.IndexIDMap2(faiss.IndexFlatIP(self._dimensions))
                self._partitions[partition] = index
            index.add_with_ids(row, np.array([id_], dtype=np.int64))

    def remove(self, partition: bytes, id_: int) -> None:
        """Remove an entry; an unknown one is no error."""
        import faiss  # noqa: PLC0415 - see `add`

        with self._lock:
            index = self._partitions.get(partition)
            if index is None:
                return
            index.remove_ids(faiss.IDSelectorBatch(np.array([id_], dtype=np.int64)))
            if index.ntotal == 0:
                del self._partitions[partition]

    def search(self, partition: bytes, vector: Sequence[float], *, most: int) -> list[Near]:
        """Return the nearest entries of a partition, the nearest first."""
        row = _unit(vector)
        with self._lock:
            index = self._partitions.get(partition)
            if index is None or row.shape[1] != self._dimensions:
                return []
            similarities, ids = index.search(row, min(most, index.ntotal))
        return [
            Near(int(id_), float(similarity))
            for id_, similarity in zip(ids[0], similarities[0], strict=True)
            if id_ >= 0
        ]

    def clear(self) -> None:
        """Remove everything."""
        with self._lock:
            self._partitions.clear()
            self._dimensions = None

    def __len__(self) -> int:
        with self._lock:
            return sum(index.ntotal for index in self._partitions.values())


def _unit(vector: Sequence[float]) -> Vectors:
    row: Vectors = np.asarray(vector, dtype=np.float32).reshape(1, -1)
    unit: Vectors = row / max(float(np.linalg.norm(row)), 1e-9)
    return unit
