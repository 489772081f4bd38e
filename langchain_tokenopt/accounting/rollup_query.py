"""Sums of a ledger's file over whole hours, read from its rollup: quick at a million calls."""

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal
from uuid import UUID

from langchain_tokenopt.accounting.records import CallRecord, Totals
from langchain_tokenopt.accounting.rollup import SUMS, percentile_of
from langchain_tokenopt.accounting.rollup_calls import call_of, calls_in, count_in
from langchain_tokenopt.accounting.rollup_file import LedgerFile
from langchain_tokenopt.accounting.rollup_range import (
    CallFilter,
    HourRange,
    condition_of,
    pieces_of,
)
from langchain_tokenopt.accounting.totals import total
from langchain_tokenopt.calls.usage import USAGE_FIELDS, Usage
from langchain_tokenopt.errors import ConfigurationError

RollupField = Literal[
    "model", "provider", "feature", "tenant", "endpoint", "node", "kind", "cache", "day", "hour"
]
ROLLUP_FIELDS: tuple[RollupField, ...] = (
    "model", "provider", "feature", "tenant", "endpoint", "node", "kind", "cache", "day", "hour",
)  # fmt: skip
_EVERYTHING = CallFilter()
_EVER = HourRange()
_EPOCH = datetime.fromtimestamp(0, UTC)

Key = tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CallsPage:
    """Some of the calls of a selection, newest first."""

    calls: tuple[CallRecord, ...]
    total: int
    """How many calls the selection has."""


class LedgerReader:
    """What a ledger's file says, without changing it.

    Money and counts are exact; percentiles of latency are within 2% (see `rollup`); the time to
    the first token is not in the rollup, so it is `None`. Times are whole hours, in UTC.

    Args:
        path: The file of a `UsageLedger`.
        timeout_s: How long to wait for a process that locks the file.
    """

    def __init__(self, path: str | Path, *, timeout_s: float = 5.0) -> None:
        self.path = Path(path)
        self._file = LedgerFile(path, timeout_s=timeout_s)

    def check(self) -> None:
        """Raise a `LedgerFileError` if the file is not there, is locked, or is no ledger."""
        self._file.check()

    def extent(self) -> HourRange | None:
        """Return the hours from the first call to the last, `None` of an empty ledger."""
        with self._file.reading() as connection:
            if connection is None:
                return None
            query = "SELECT MIN(start), MAX(start) FROM rollup WHERE hours = 1"
            first, last = connection.execute(query).fetchone()
        if first is None:
            return None
        return HourRange(since=_time(first), until=_time(last + 1))

    def names(self, field: RollupField) -> tuple[str, ...]:
        """Return every name of a field, "" for calls without one."""
        _check([field])
        with self._file.reading() as connection:
            if connection is None:
                return ()
            query = f"SELECT DISTINCT {field} FROM rollup_groups ORDER BY 1"  # noqa: S608 - our own names
            return tuple(name for (name,) in connection.execute(query))

    def totals(self, *, within: HourRange = _EVER, where: CallFilter = _EVERYTHING) -> Totals:
        """Return the sums of a selection."""
        return self.totals_by([], within=within, where=where).get((), total(()))

    def totals_by(
        self,
        by: Sequence[RollupField],
        *,
        within: HourRange = _EVER,
        where: CallFilter = _EVERYTHING,
    ) -> dict[Key, Totals]:
        """Return the sums of each combination of `by`, which are the keys, in order.

        A day reads `2026-11-23`, an hour `2026-11-23 14:00`; "" is a field that was not given.

        Raises:
            ConfigurationError: `by` has a field that calls are not grouped by.
        """
        with self._file.reading() as connection:
            spent = self.spend_by(by, within=within, where=where)
            latencies = _histograms(connection, by, within, where) if connection else {}
        return {
            key: replace(
                totals,
                latency_p50_s=percentile_of(latencies.get(key, {}), 0.5),
                latency_p95_s=percentile_of(latencies.get(key, {}), 0.95),
            )
            for key, totals in spent.items()
        }

    def spend_by(
        self,
        by: Sequence[RollupField],
        *,
        within: HourRange = _EVER,
        where: CallFilter = _EVERYTHING,
    ) -> dict[Key, Totals]:
        """Return what `totals_by` does in half the time, with `None` for every latency."""
        _check(by)
        with self._file.reading() as connection:
            if connection is None:
                return {}
            sums = _grouped(connection, by, within, where)
            unpriced = _unpriced(connection, by, within, where)
        return {key: _totals(sums[key], unpriced.get(key, ())) for key in sorted(sums)}

    def calls(
        self,
        *,
        within: HourRange = _EVER,
        where: CallFilter = _EVERYTHING,
        offset: int = 0,
        limit: int = 50,
    ) -> CallsPage:
        """Return single calls, newest first, `limit` of them after the first `offset`."""
        with self._file.reading() as connection:
            if connection is None:
                return CallsPage(calls=(), total=0)
            counted = count_in(connection, within, where)
            found = calls_in(connection, counted, where, offset=offset, limit=limit)
            return CallsPage(calls=found, total=sum(n for _, n in counted))

    def call(self, run_id: UUID) -> CallRecord | None:
        """Return one call, `None` if the ledger does not have it."""
        with self._file.reading() as connection:
            return None if connection is None else call_of(connection, run_id)

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()


def _check(by: Iterable[str]) -> None:
    for field in by:
        if field not in ROLLUP_FIELDS:
            message = f"calls cannot be grouped by {field!r}; choose of {', '.join(ROLLUP_FIELDS)}"
            raise ConfigurationError(message)


def _columns(by: Sequence[RollupField]) -> str:
    times = {"day": "r.start / 24 * 24", "hour": "r.start"}
    return "".join(f"{times.get(field, f'g.{field}')}, " for field in by)


def _key(by: Sequence[RollupField], values: Sequence[Any]) -> Key:
    return tuple(map(_shown, by, values))


def _shown(field: RollupField, value: Any) -> str:
    if field == "day":
        return _time(value).date().isoformat()
    return f"{_time(value):%Y-%m-%d %H:00}" if field == "hour" else str(value)


def _time(hour: int) -> datetime:
    return _EPOCH + timedelta(hours=hour)


def _selected(
    table: str, by: Sequence[RollupField], within: HourRange, where: CallFilter
) -> tuple[str, tuple[Any, ...]]:
    """Return what comes after the SELECT list."""
    rows = " UNION ALL ".join(
        f"SELECT * FROM {table} WHERE {piece}"  # noqa: S608 - our own names
        for piece in pieces_of(within, hourly="hour" in by)
    )
    condition, values = condition_of(where, "g.")
    count = len(by) + (table == "rollup")
    order = f"GROUP BY {', '.join(str(n + 1) for n in range(count))}" if count else ""
    return f"FROM ({rows}) r JOIN rollup_groups g ON g.id = r.grp WHERE {condition} {order}", values


def _grouped(
    connection: sqlite3.Connection,
    by: Sequence[RollupField],
    within: HourRange,
    where: CallFilter,
) -> dict[Key, dict[str, dict[str, int]]]:
    """Return the sums of each key, apart by kind."""
    rest, values = _selected("rollup", by, within, where)
    summed = ", ".join(f"SUM(r.{name})" for name in SUMS)
    found: dict[Key, dict[str, dict[str, int]]] = {}
    query = f"SELECT {_columns(by)} g.kind, {summed} {rest}"
    for row in connection.execute(query, values):
        kind = row[len(by)]
        sums = dict(zip(SUMS, row[len(by) + 1 :], strict=True))
        found.setdefault(_key(by, row[: len(by)]), {})[kind] = sums
    return found


def _unpriced(
    connection: sqlite3.Connection,
    by: Sequence[RollupField],
    within: HourRange,
    where: CallFilter,
) -> dict[Key, tuple[str, ...]]:
    rest, values = _selected("rollup", by, within, where)
    query = f"SELECT {_columns(by)} g.model {rest} HAVING SUM(r.unpriced) > 0"
    found: dict[Key, tuple[str, ...]] = {}
    for row in connection.execute(query, values):
        key = _key(by, row[: len(by)])
        found[key] = (*found.get(key, ()), row[len(by)])
    return found


def _histograms(
    connection: sqlite3.Connection,
    by: Sequence[RollupField],
    within: HourRange,
    where: CallFilter,
) -> dict[Key, dict[int, int]]:
    rest, values = _selected("rollup_latency", by, within, where)
    rest += f", {len(by) + 1}" if by else "GROUP BY 1"
    query = f"SELECT {_columns(by)} r.bucket, SUM(r.calls) {rest}"
    found: dict[Key, dict[int, int]] = {}
    for row in connection.execute(query, values):
        *names, bucket, calls = row
        found.setdefault(_key(by, names), {})[bucket] = calls
    return found


def _totals(
    kinds: Mapping[str, Mapping[str, int]],
    unpriced_models: tuple[str, ...],
) -> Totals:
    def summed(name: str) -> int:
        return sum(sums[name] for sums in kinds.values())

    def calls(*names: str) -> int:
        return sum(kinds[name]["calls"] for name in names if name in kinds)

    def usage(*, hits: bool) -> Usage:
        chosen = [sums for kind, sums in kinds.items() if (kind == "cache_hit") is hits]
        return Usage(**{name: sum(sums[name] for sums in chosen) for name in USAGE_FIELDS})

    def money(name: str) -> Decimal:
        return Decimal(summed(name)).scaleb(-6) + Decimal(summed(f"{name}_rest")).scaleb(-12)

    return Totals(
        calls=summed("calls"),
        live=calls("live", "embedding", "batch"),
        cache_hits=calls("cache_hit"),
        errors=calls("error"),
        abandoned=calls("abandoned"),
        usage=usage(hits=False),
        cached_usage=usage(hits=True),
        cost=money("cost"),
        saved=money("saved"),
        unpriced_calls=summed("unpriced"),
        unpriced_tokens=summed("unpriced_tokens"),
        unpriced_models=unpriced_models,
        estimated_calls=summed("estimated"),
        latency_p50_s=None,
        latency_p95_s=None,
        first_token_p50_s=None,
        first_token_p95_s=None,
    )
