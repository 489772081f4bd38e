"""Where a ledger keeps its records: the protocol, and memory."""

import threading
from collections.abc import Iterator
from typing import Protocol
from uuid import UUID

from langchain_tokenopt.accounting.records import CallRecord, Totals
from langchain_tokenopt.accounting.totals import GroupField, Window, total, total_by


class RecordStorage(Protocol):
    """Keeps records for ever, each run once."""

    def add(self, record: CallRecord) -> None:
        """Keep `record` unless its run is known. Never blocks on a disk, never raises."""
        ...

    def records(self, window: Window) -> Iterator[CallRecord]:
        """Yield the records of a window, oldest first."""
        ...

    def totals(self, window: Window) -> Totals:
        """Return the sums of a window."""
        ...

    def totals_by(self, by: GroupField, window: Window) -> dict[str, Totals]:
        """Return the sums of a window by group."""
        ...

    @property
    def unsaved(self) -> int:
        """Records that could not be written to where they belong."""
        ...

    @property
    def lost(self) -> int:
        """Records that were given up because too many could not be written."""
        ...

    def flush(self) -> None:
        """Return when everything added before is written, or has failed to be."""
        ...

    def close(self) -> None:
        """Flush, and release what is held."""
        ...


class MemoryRecords:
    """Records in this process; they end with it and take about 1 KB each."""

    unsaved = 0
    lost = 0

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._records: dict[UUID, CallRecord] = {}

    def add(self, record: CallRecord) -> None:
        """Keep `record` unless its run is known."""
        with self._lock:
            self._records.setdefault(record.run_id, record)

    def records(self, window: Window) -> Iterator[CallRecord]:
        """Yield the records of a window, oldest first."""
        with self._lock:
            kept = list(self._records.values())
        covered = (record for record in kept if window.covers(record))
        yield from sorted(covered, key=lambda record: record.started_at)

    def totals(self, window: Window) -> Totals:
        """Return the sums of a window."""
        return total(self.records(window))

    def totals_by(self, by: GroupField, window: Window) -> dict[str, Totals]:
        """Return the sums of a window by group."""
        return total_by(self.records(window), by)

    def flush(self) -> None:
        """Nothing waits."""

    def close(self) -> None:
        """Nothing is held."""
