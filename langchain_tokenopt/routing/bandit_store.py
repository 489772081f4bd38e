"""What a bandit has learned: discounted sums for each task and arm, in memory or in a file."""

import sqlite3
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from langchain_tokenopt.errors import StoreError


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmSums:
    """Discounted sums over the rewards of one arm."""

    weight: float = 0.0
    """How many rewards they are worth."""
    quality: float = 0.0
    cost: float = 0.0

    def after(self, quality: float, cost: float, discount: float) -> "ArmSums":
        """Return the sums with one more reward."""
        return ArmSums(
            weight=self.weight * discount + 1,
            quality=self.quality * discount + quality,
            cost=self.cost * discount + cost,
        )


class BanditStore(Protocol):
    """Keeps sums; safe to share between threads."""

    def sums(self, task: str) -> Mapping[str, ArmSums]:
        """Return the sums of a task by arm, and under the task "" those over all tasks."""
        ...

    def add(self, task: str, arm: str, *, quality: float, cost: float, discount: float) -> None:
        """Take in a reward, for its task and for all."""
        ...


class MemoryBandit:
    """Sums in this process."""

    def __init__(self) -> None:
        self._sums: dict[tuple[str, str], ArmSums] = {}
        self._lock = threading.Lock()

    def sums(self, task: str) -> Mapping[str, ArmSums]:
        """Return the sums of a task by arm."""
        with self._lock:
            return {arm: sums for (known, arm), sums in self._sums.items() if known == task}

    def add(self, task: str, arm: str, *, quality: float, cost: float, discount: float) -> None:
        """Take in a reward, for its task and for all."""
        with self._lock:
            for key in {(task, arm), ("", arm)}:
                before = self._sums.get(key, ArmSums())
                self._sums[key] = before.after(quality, cost, discount)


_SCHEMA = """
CREATE TABLE IF NOT EXISTS arms (
    task TEXT NOT NULL, arm TEXT NOT NULL, weight REAL NOT NULL, quality REAL NOT NULL,
    cost REAL NOT NULL, PRIMARY KEY (task, arm)
) WITHOUT ROWID
"""
_ADD = """
INSERT INTO arms VALUES (?1, ?2, 1, ?3, ?4) ON CONFLICT (task, arm) DO UPDATE SET
    weight = weight * ?5 + 1, quality = quality * ?5 + ?3, cost = cost * ?5 + ?4
"""


class SqliteBandit:
    """Sums in an SQLite file that processes share; each reward is added in one step.

    Args:
        path: The file.
        timeout_s: How long to wait for another process.

    Raises:
        StoreError: On use: the file cannot be read or written.
    """

    def __init__(self, path: str | Path, *, timeout_s: float = 5.0) -> None:
        self._path = str(path)
        self._timeout_s = timeout_s

    def sums(self, task: str) -> Mapping[str, ArmSums]:
        """Return the sums of a task by arm."""
        query = "SELECT arm, weight, quality, cost FROM arms WHERE task = ?"
        with self._open() as file:
            rows = file.execute(query, (task,)).fetchall()
        return {arm: ArmSums(weight=w, quality=q, cost=c) for arm, w, q, c in rows}

    def add(self, task: str, arm: str, *, quality: float, cost: float, discount: float) -> None:
        """Take in a reward, for its task and for all."""
        with self._open() as file:
            for each in {task, ""}:
                file.execute(_ADD, (each, arm, quality, cost, discount))

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            with closing(sqlite3.connect(self._path, timeout=self._timeout_s)) as file:
                file.execute("PRAGMA journal_mode = WAL")
                with file:
                    file.execute(_SCHEMA)
                    yield file
        except sqlite3.Error as error:
            raise StoreError(f"the bandit's file {self._path} failed: {error}") from error
