"""The output of a bulk job: a folder of part files, each written whole or not at all."""

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from langchain_tokenopt.errors import ConfigurationError, StoreError
from langchain_tokenopt.files import write_whole


@dataclass(frozen=True, slots=True, kw_only=True)
class BulkRow:
    """What became of one row."""

    id: str
    answer: Any = None
    """JSON values; messages in the form of `messages_from_dict`."""
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Added:
    """How many rows a write added."""

    rows: int = 0
    failed: int = 0


def read_bulk(output: str | Path) -> Iterator[BulkRow]:
    """Yield each row of a job's output once: of a row that was run again, the latest answer.

    Raises:
        ConfigurationError: There is no such folder.
        StoreError: A part is damaged.
    """
    folder = Path(output)
    if not folder.is_dir():
        raise ConfigurationError(f"expected the folder of a bulk job, found none at {folder}")
    latest = {name: part for part in _parts(folder) for name, _ in _ids(part)}
    for part in _parts(folder):
        for row in _rows(part):
            if latest[row["id"]] == part:
                answer = row["answer"]
                yield BulkRow(
                    id=row["id"],
                    answer=None if answer is None else json.loads(answer),
                    error=row["error"],
                )


class BulkOutput:
    """Where one process writes; a lock keeps a second one away.

    Args:
        folder: Made if it is not there.

    Raises:
        ConfigurationError: It is a file, or its folder does not exist.
    """

    def __init__(self, folder: str | Path) -> None:
        self._folder = Path(folder)
        if self._folder.is_file() or not self._folder.parent.is_dir():
            message = (
                f"expected the path of a folder in one that exists, got {self._folder}; create the "
                "folder around it or choose another path"
            )
            raise ConfigurationError(message)
        self._folder.mkdir(exist_ok=True)
        for left in self._folder.glob("*.tmp"):
            left.unlink()  # a part that was being written when its process ended
        self._good: set[str] = set()
        self._bad: set[str] = set()
        for part in _parts(self._folder):
            for name, failed in _ids(part):
                (self._bad if failed else self._good).add(name)
        self._bad -= self._good
        self._next = max((int(part.stem.split("-")[1]) for part in _parts(self._folder)), default=0)
        self._waiting: dict[str, dict[str, Any]] = {}

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Keep other processes from writing here; the lock goes with the process.

        Raises:
            ConfigurationError: Another one is at it.
        """
        lock = sqlite3.connect(self._folder / "lock.sqlite", timeout=1.0, isolation_level=None)
        try:
            lock.execute("BEGIN EXCLUSIVE")
            yield
        except sqlite3.OperationalError as error:
            message = (
                f"another process writes to {self._folder}: wait for it, or choose another folder"
            )
            raise ConfigurationError(message) from error
        finally:
            lock.close()

    def done(self, *, with_errors: bool) -> frozenset[str]:
        """Return the ids of rows that are in the output."""
        return frozenset(self._good | self._bad if with_errors else self._good)

    def add(self, rows: Sequence[Mapping[str, Any]], *, rows_a_part: int, books: Any) -> Added:
        """Take rows, and write them once there are enough for a part."""
        for row in rows:
            if row["id"] not in self._good:
                self._waiting[row["id"]] = dict(row)
        return self.flush(books=books) if len(self._waiting) >= rows_a_part else Added()

    def flush(self, *, books: Any) -> Added:
        """Write what waits as one part, and book its calls."""
        if not self._waiting:
            return Added()
        rows = list(self._waiting.values())
        self._next += 1
        # Booked first: what is written is never run again, and booking twice does no harm.
        calls = [call for row in rows for call in json.loads(row["calls"])]
        if books is not None and calls:
            books.add(calls)
        lines = (
            json.dumps({key: row[key] for key in ("id", "answer", "error")}, ensure_ascii=False)
            for row in rows
        )
        part = self._folder / f"part-{self._next:06}.jsonl"
        try:
            write_whole(part, ("\n".join(lines) + "\n").encode(errors="replace"))
        except (OSError, ConfigurationError) as error:
            raise StoreError(f"the part {part} cannot be written: {error}") from error
        failed = {row["id"] for row in rows if row["error"] is not None}
        self._good |= {row["id"] for row in rows} - failed
        self._bad = (self._bad | failed) - self._good
        self._waiting.clear()
        return Added(rows=len(rows), failed=len(failed))


def _parts(folder: Path) -> list[Path]:
    return sorted(folder.glob("part-*.jsonl"))


def _rows(part: Path) -> Iterator[dict[str, Any]]:
    try:
        with part.open(encoding="utf-8") as lines:
            for line in lines:
                yield json.loads(line)
    except (OSError, ValueError) as error:
        raise StoreError(
            f"the part {part} cannot be read: {error}; delete it to run its rows again"
        ) from error


def _ids(part: Path) -> Iterator[tuple[str, bool]]:
    for row in _rows(part):
        yield row["id"], row["error"] is not None
