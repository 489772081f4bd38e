"""Single calls of a selection, found by way of the hours that the rollup says they are in."""

import sqlite3
from uuid import UUID

from langchain_tokenopt.accounting.records import CallRecord
from langchain_tokenopt.accounting.rollup import HOUR_US
from langchain_tokenopt.accounting.rollup_range import (
    CallFilter,
    HourRange,
    condition_of,
    pieces_of,
)
from langchain_tokenopt.accounting.sqlite_rows import COLUMNS, record_of

_COLUMNS = ", ".join(f"c.{name}" for name in COLUMNS)


def count_in(
    connection: sqlite3.Connection, within: HourRange, where: CallFilter
) -> list[tuple[int, int]]:
    """Return each hour with calls of the selection and how many, the newest first."""
    (piece,) = pieces_of(within, hourly=True)
    condition, values = condition_of(where, "g.")
    query = f"""
        SELECT r.start, SUM(r.calls) FROM rollup r JOIN rollup_groups g ON g.id = r.grp
        WHERE r.{piece} AND {condition} GROUP BY 1 ORDER BY 1 DESC
    """  # noqa: S608 - only our own names are put into the text
    return connection.execute(query, values).fetchall()


def calls_in(
    connection: sqlite3.Connection,
    counted: list[tuple[int, int]],
    where: CallFilter,
    *,
    offset: int,
    limit: int,
) -> tuple[CallRecord, ...]:
    """Return `limit` calls after the first `offset`, reading only the hours that hold them."""
    passed = 0
    found: list[CallRecord] = []
    condition, values = condition_of(where, "c.")
    query = f"""
        SELECT {_COLUMNS} FROM calls c WHERE c.started_at >= ? AND c.started_at < ? AND {condition}
        ORDER BY c.started_at DESC, c.run_id LIMIT ? OFFSET ?
    """  # noqa: S608 - only our own names are put into the text
    for hour, calls in counted:
        if len(found) >= limit:
            break
        if passed + calls > offset:
            span = (hour * HOUR_US, (hour + 1) * HOUR_US)
            left = (limit - len(found), max(offset - passed, 0))
            found.extend(map(record_of, connection.execute(query, (*span, *values, *left))))
        passed += calls
    return tuple(found)


def call_of(connection: sqlite3.Connection, run_id: UUID) -> CallRecord | None:
    """Return one call, `None` if the ledger does not have it."""
    query = f"SELECT {_COLUMNS} FROM calls c WHERE c.run_id = ?"  # noqa: S608 - our own names
    row = connection.execute(query, (run_id.bytes,)).fetchone()
    return None if row is None else record_of(row)
