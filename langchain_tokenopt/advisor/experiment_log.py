"""Who got which variant and what came of it, in a file that processes share, or in memory."""

import hashlib
import json
import math
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from langchain_tokenopt.errors import ConfigurationError, StoreError
from langchain_tokenopt.files import database_path, storable

T = TypeVar("T")
_CREATE = """
CREATE TABLE IF NOT EXISTS experiments (name TEXT PRIMARY KEY, definition TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS experiment_assignments (
    id INTEGER PRIMARY KEY, experiment TEXT NOT NULL, request TEXT NOT NULL, key TEXT NOT NULL,
    variant TEXT NOT NULL, shares TEXT NOT NULL, at TEXT NOT NULL,
    UNIQUE (experiment, request));
CREATE INDEX IF NOT EXISTS experiment_assignments_request ON experiment_assignments (request);
CREATE TABLE IF NOT EXISTS experiment_outcomes (
    id INTEGER PRIMARY KEY, request TEXT NOT NULL, metric TEXT NOT NULL, value REAL NOT NULL,
    UNIQUE (request, metric));
CREATE TABLE IF NOT EXISTS experiment_stops (
    experiment TEXT NOT NULL, variant TEXT NOT NULL, reason TEXT NOT NULL, at TEXT NOT NULL,
    PRIMARY KEY (experiment, variant));
"""
_FIXED = ("control", "metrics", "confidence", "salt")
"""What of a definition must not change while an experiment runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """A request got a variant."""

    experiment: str
    variant: str
    key: str
    """In a log: a digest of it."""
    request: str
    shares: Mapping[str, float]
    """What each variant was to get then; in a log without those that were stopped."""
    at: datetime


class ExperimentLog:
    """Assignments, outcomes and stops. Of keys only a digest is kept.

    Args:
        path: An SQLite file that processes may share, the ledger's for one; without, in memory.
        timeout_s: How long to wait for a process that locks the file.

    Raises:
        ConfigurationError: The path cannot be a file.

    >>> log = ExperimentLog()
    >>> log.outcome("a request that nobody was assigned", quality=1.0)
    False
    """

    def __init__(self, path: str | Path | None = None, *, timeout_s: float = 5.0) -> None:
        self._path = None if path is None else database_path(path)
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None

    @property
    def blocks(self) -> bool:
        """Whether a call waits for a disk."""
        return self._path is not None

    def begin(self, name: str, definition: Mapping[str, Any]) -> None:
        """Note what an experiment is; a second time it must be the same, but for its shares.

        Raises:
            ConfigurationError: The log has another experiment of that name.
        """
        text = json.dumps(definition, sort_keys=True)

        def note(connection: sqlite3.Connection) -> str:
            values = (storable(name), text)
            connection.execute("INSERT OR IGNORE INTO experiments VALUES (?, ?)", values)
            query = "SELECT definition FROM experiments WHERE name = ?"
            return str(connection.execute(query, (storable(name),)).fetchone()[0])

        known, given = json.loads(self._change(note)), json.loads(text)
        changed = [part for part in _FIXED if known[part] != given[part]]
        if set(known["shares"]) != set(given["shares"]):
            changed.append("variants")
        if given["least_share"] < known["least_share"] - 1e-9:
            changed.append(f"least_share, {known['least_share']:g} at first,")
        if changed:
            message = (
                f"experiment {name!r} began otherwise: {' and '.join(changed)} cannot change while "
                "it runs; give it another name"
            )
            raise ConfigurationError(message)

    def definitions(self) -> dict[str, dict[str, Any]]:
        """Return the experiments as they began, by name."""
        query = "SELECT name, definition FROM experiments ORDER BY name"
        return {name: json.loads(text) for name, text in self._rows(query, ())}

    def assigned(self, assignment: Assignment) -> bool:
        """Note an assignment, once a request; return whether the variant still runs."""
        experiment = storable(assignment.experiment)
        key = hashlib.blake2b(assignment.key.encode(errors="replace"), digest_size=16).hexdigest()

        def note(connection: sqlite3.Connection) -> bool:
            query = "SELECT variant FROM experiment_stops WHERE experiment = ?"
            stopped = {variant for (variant,) in connection.execute(query, (experiment,))}
            if assignment.variant in stopped:
                return False
            left = {name: s for name, s in assignment.shares.items() if name not in stopped}
            connection.execute(
                "INSERT OR IGNORE INTO experiment_assignments (experiment, request, key, "
                "variant, shares, at) VALUES (?, ?, ?, ?, ?, ?)",
                (
                    experiment,
                    storable(assignment.request),
                    key,
                    storable(assignment.variant),
                    json.dumps(left, sort_keys=True),
                    assignment.at.astimezone(UTC).isoformat(),
                ),
            )
            return True

        return self._change(note)

    def outcome(self, request: str, **values: float) -> bool:
        """Note what came of a request, at any time after it; the first value of each name stays.

        A log in a file waits for the disk: on an event loop, `asyncio.to_thread` is for that.

        Returns:
            Whether the request is known: that it got a variant in some experiment.

        Raises:
            ConfigurationError: A value is no finite number.
        """
        wrong = {name: value for name, value in values.items() if not _is_finite(value)}
        if wrong or not values:
            raise ConfigurationError(f"expected finite values by metric, got {wrong or values}")
        rows = [(storable(request), name, float(value)) for name, value in values.items()]

        def note(connection: sqlite3.Connection) -> bool:
            query = "SELECT 1 FROM experiment_assignments WHERE request = ? LIMIT 1"
            known = connection.execute(query, rows[0][:1]).fetchone() is not None
            if known:
                connection.executemany(
                    "INSERT OR IGNORE INTO experiment_outcomes (request, metric, value) "
                    "VALUES (?, ?, ?)",
                    rows,
                )
            return known

        return self._change(note)

    def stop(self, experiment: str, variant: str, *, reason: str) -> None:
        """Serve the control to those who would get a variant, in every process from now on."""
        values = (storable(experiment), storable(variant), reason, datetime.now(UTC).isoformat())
        insert = "INSERT OR IGNORE INTO experiment_stops VALUES (?, ?, ?, ?)"
        self._change(lambda connection: connection.execute(insert, values))

    def stopped(self, experiment: str) -> dict[str, str]:
        """Return the reason of each stopped variant."""
        query = "SELECT variant, reason FROM experiment_stops WHERE experiment = ? ORDER BY at"
        return dict(self._rows(query, (storable(experiment),)))

    def assignments(self, experiment: str) -> Iterator[Assignment]:
        """Yield the assignments of an experiment, oldest first."""
        query = (
            "SELECT variant, key, request, shares, at FROM experiment_assignments "
            "WHERE experiment = ? ORDER BY id"
        )
        for variant, key, request, shares, at in self._rows(query, (storable(experiment),)):
            yield Assignment(
                experiment=experiment,
                variant=variant,
                key=key,
                request=request,
                shares=json.loads(shares),
                at=datetime.fromisoformat(at),
            )

    def outcomes(self, experiment: str, metric: str) -> list[tuple[str, float]]:
        """Return request and value of each outcome of a metric, in the order they came."""
        query = (
            "SELECT o.request, o.value FROM experiment_outcomes o JOIN experiment_assignments a "
            "ON a.request = o.request WHERE a.experiment = ? AND o.metric = ? ORDER BY o.id"
        )
        return self._rows(query, (storable(experiment), metric))

    def close(self) -> None:
        """Close the file; it is opened again when it is needed. What is in memory is lost."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _rows(self, query: str, values: tuple[str, ...]) -> list[Any]:
        return self._change(lambda connection: connection.execute(query, values).fetchall())

    def _change(self, change: Callable[[sqlite3.Connection], T]) -> T:
        with self._lock:
            try:
                if self._connection is None:
                    self._connection = self._open()
                with self._connection:
                    return change(self._connection)
            except sqlite3.Error as error:
                message = f"the experiment log {self._path or 'in memory'} failed: {error}"
                raise StoreError(message) from error

    def _open(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self._path or ":memory:", timeout=self._timeout_s, check_same_thread=False
        )
        connection.executescript(_CREATE)
        return connection


def _is_finite(value: Any) -> bool:
    try:
        return math.isfinite(value)
    except (TypeError, OverflowError):
        return False
