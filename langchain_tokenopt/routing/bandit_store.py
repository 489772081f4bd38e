"""Where a bandit keeps what it learns: in memory, or in a file that processes share."""

import sqlite3
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Protocol

from langchain_tokenopt.errors import ConfigurationError, StoreError
from langchain_tokenopt.files import database_path, storable
from langchain_tokenopt.routing.bandit_state import ArmSums, BanditState


class BanditStore(Protocol):
    """Keeps sums; safe to share between threads."""

    def sums(self, task: str) -> Mapping[str, ArmSums]:
        """Return the sums of a task by arm, and under the task "" those over all tasks."""
        ...

    def add(self, task: str, arm: str, *, quality: float, cost: float, discount: float) -> None:
        """Take in a reward, for its task and for all; the rewards before it count less."""
        ...


class MemoryBandit:
    """Sums in this process.

    Args:
        state: What was learned before; `BanditState.load` reads it.
    """

    def __init__(self, state: BanditState | None = None) -> None:
        self._state = state or BanditState(sums={})
        self._lock = threading.Lock()

    def sums(self, task: str) -> Mapping[str, ArmSums]:
        """Return the sums of a task by arm."""
        with self._lock:
            return self._state.sums.get(task, {})

    def add(self, task: str, arm: str, *, quality: float, cost: float, discount: float) -> None:
        """Take in a reward, for its task and for all."""
        reward = ArmSums(weight=1, quality=quality, cost=cost)
        with self._lock:
            sums = dict(self._state.sums)
            for each in {task, ""}:
                aged = {name: known.aged(discount) for name, known in sums.get(each, {}).items()}
                sums[each] = {**aged, arm: aged.get(arm, ArmSums()) + reward}
            self._state = BanditState(sums=sums)

    def state(self) -> BanditState:
        """Return all that was learned."""
        with self._lock:
            return self._state

    def merge(self, state: BanditState) -> None:
        """Take in what another bandit learned of other requests."""
        with self._lock:
            self._state = self._state.merged(state)


_SCHEMA = """
CREATE TABLE IF NOT EXISTS arms (
    task TEXT NOT NULL, arm TEXT NOT NULL, weight REAL NOT NULL, quality REAL NOT NULL,
    cost REAL NOT NULL, PRIMARY KEY (task, arm)
) WITHOUT ROWID
"""
_AGE = """
UPDATE arms SET weight = weight * ?2, quality = quality * ?2, cost = cost * ?2 WHERE task = ?1
"""
_ADD = """
INSERT INTO arms VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT (task, arm) DO UPDATE SET
    weight = weight + ?3, quality = quality + ?4, cost = cost + ?5
"""


class SqliteBandit:
    """Sums in an SQLite file that processes share; each reward is added in one step.

    Args:
        path: The file.
        timeout_s: How long to wait for another process.

    Raises:
        ConfigurationError: No file can be there.
        StoreError: On use: the file cannot be read or written, or what is in it is no sum.
    """

    def __init__(self, path: str | Path, *, timeout_s: float = 5.0) -> None:
        self._path = database_path(path)
        self._timeout_s = timeout_s

    def sums(self, task: str) -> Mapping[str, ArmSums]:
        """Return the sums of a task by arm."""
        query = "SELECT arm, weight, quality, cost FROM arms WHERE task = ?"
        with self._open() as file:
            rows = file.execute(query, (storable(task),)).fetchall()
            return {arm: ArmSums(weight=w, quality=q, cost=c) for arm, w, q, c in rows}

    def add(self, task: str, arm: str, *, quality: float, cost: float, discount: float) -> None:
        """Take in a reward, for its task and for all."""
        with self._open() as file:
            for each in {storable(task), ""}:
                file.execute(_AGE, (each, discount))
                file.execute(_ADD, (each, arm, 1.0, quality, cost))

    def state(self) -> BanditState:
        """Return all that was learned."""
        found: dict[str, dict[str, ArmSums]] = {}
        with self._open() as file:
            rows = file.execute("SELECT task, arm, weight, quality, cost FROM arms").fetchall()
            for task, arm, weight, quality, cost in rows:
                sums = ArmSums(weight=weight, quality=quality, cost=cost)
                found.setdefault(task, {})[arm] = sums
        return BanditState(sums=found)

    def merge(self, state: BanditState) -> None:
        """Take in what another bandit learned of other requests."""
        with self._open() as file:
            for task, arms in state.sums.items():
                for arm, sums in arms.items():
                    file.execute(_ADD, (storable(task), arm, sums.weight, sums.quality, sums.cost))

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            # No write-ahead log: switching a new file to it does not wait for others that open it.
            with closing(sqlite3.connect(self._path, timeout=self._timeout_s)) as file, file:
                file.execute(_SCHEMA)
                yield file
        except (sqlite3.Error, ConfigurationError) as error:
            raise StoreError(f"the bandit's file {self._path} failed: {error}") from error
