"""Facts of more calls than memory holds: a temporary SQLite file, read back in order of time."""

import sqlite3
import tempfile
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from langchain_tokenopt.advisor.audit_facts import CallFacts
from langchain_tokenopt.errors import StoreError

_AT_ONCE = 2_000
_COLUMNS = ", ".join(CallFacts._fields)


class Spill:
    """Keeps facts in a file that is removed when the context ends.

    Args:
        folder: Where the file lies; by default where the system keeps temporary files. A call
            takes about half a kilobyte, and its prompt eight bytes for each 256 characters.
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="tokenopt-audit-", dir=folder)
        self._connection = sqlite3.connect(Path(self._folder.name) / "facts.sqlite")
        # Nobody reads it after a crash, so nothing needs to be safe on disk.
        for setting in ("journal_mode=OFF", "synchronous=OFF"):
            self._connection.execute(f"PRAGMA {setting}")
        self._connection.execute(f"CREATE TABLE facts ({_COLUMNS})")
        self._times = array("d")
        self.calls = 0

    def add_all(self, facts: Iterator[CallFacts]) -> None:
        """Keep facts, in any order.

        Raises:
            StoreError: The disk is full.
        """
        marks = ", ".join("?" * len(CallFacts._fields))
        insert = f"INSERT INTO facts VALUES ({marks})"  # noqa: S608 - our own names
        while batch := list(islice(facts, _AT_ONCE)):
            with self._telling():
                self._connection.executemany(insert, batch)
            self._times.extend(each.at for each in batch)
            self.calls += len(batch)

    def lacks_prices(self) -> bool:
        """Return whether there are tokens without a price, and no call that costs anything."""
        paid = "SELECT 1 FROM facts WHERE cost > 0"
        unpriced = "SELECT 1 FROM facts WHERE cost IS NULL AND input + output > 0"
        query = f"SELECT EXISTS ({unpriced}) AND NOT EXISTS ({paid})"
        with self._telling():
            (found,) = self._connection.execute(query).fetchone()
        return bool(found)

    def in_time_order(self) -> Iterator[CallFacts]:
        """Yield the facts, the oldest first."""
        times = np.array(self._times)
        query = f"SELECT {_COLUMNS} FROM facts"  # noqa: S608 - our own names
        with self._telling():
            if (np.diff(times) >= 0).all():
                yield from map(CallFacts._make, self._connection.execute(f"{query} ORDER BY rowid"))
                return
            # SQLite would sort whole rows, in a file of its own where the system keeps such files.
            one = f"{query} WHERE rowid = ?"
            for n in np.argsort(times, kind="stable"):
                row = self._connection.execute(one, (int(n) + 1,)).fetchone()
                yield CallFacts._make(row)

    @contextmanager
    def _telling(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            message = (
                f"the temporary file of the audit in {self._folder.name} failed after "
                f"{self.calls:,} calls: {error}; name a folder with room for half a kilobyte a "
                "call (`AuditOptions(folder=...)`, or TMPDIR)"
            )
            raise StoreError(message) from error

    def close(self) -> None:
        """Remove the file."""
        self._connection.close()
        self._folder.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
