"""Hourly and daily sums beside the calls of a ledger's file, kept by the file itself.

A trigger adds each call that is really inserted to its sums, in the same transaction: whichever
process writes, and also one that opened the file before it had sums, a call counts once.

Latencies are counts in buckets that grow by 4%: a percentile read from them is within 2% of the
exact one between 1 microsecond and about 4 hours, the span of the buckets.
"""

import sqlite3
from collections.abc import Mapping

from langchain_tokenopt.accounting.totals import ANSWERED_KINDS
from langchain_tokenopt.calls.usage import USAGE_FIELDS

GROUPS = ("model", "provider", "feature", "tenant", "endpoint", "node", "kind", "cache")
"""Text by which sums are kept; "" stands for a field that was not given."""
SPANS = (1, 24)
"""Hours that a row of sums covers."""
ROLLUP_SCHEMA = 2
"""The schema of files that have the sums."""
HOUR_US = 3_600_000_000
MICRO = 1_000_000

_GROWTH = 1.04
_LOWEST_S = 1e-6
_BUCKETS = 596  # the last begins at about 3.8 hours

# Whole micro-dollars and the rest are summed apart: no sum of integers can then overflow 64 bits.
_SUMS = {
    "calls": "1",
    "estimated": "COALESCE({0}estimated, 0)",
    "unpriced": "({0}cost IS NULL OR {0}saved IS NULL)",
    "unpriced_tokens": "CASE WHEN {0}cost IS NULL OR {0}saved IS NULL THEN {tokens} ELSE 0 END",
    "cost": f"COALESCE({{0}}cost, 0) / {MICRO}",
    "cost_rest": f"COALESCE({{0}}cost, 0) % {MICRO}",
    "saved": f"COALESCE({{0}}saved, 0) / {MICRO}",
    "saved_rest": f"COALESCE({{0}}saved, 0) % {MICRO}",
    **{name: f"{{0}}{name}" for name in USAGE_FIELDS},
}
SUMS = tuple(_SUMS)
_TOTAL = [name for name in USAGE_FIELDS if name not in ("reasoning", "output_audio")]

_TABLES = (
    f"""CREATE {{temp}} TABLE IF NOT EXISTS rollup_groups (
        id INTEGER PRIMARY KEY, {", ".join(f"{name} TEXT NOT NULL" for name in GROUPS)},
        failed INTEGER NOT NULL, UNIQUE ({", ".join(GROUPS)}, failed))""",
    f"""CREATE {{temp}} TABLE IF NOT EXISTS rollup (
        hours INTEGER NOT NULL, start INTEGER NOT NULL, grp INTEGER NOT NULL,
        {", ".join(f"{name} INTEGER NOT NULL" for name in SUMS)},
        PRIMARY KEY (hours, start, grp)) WITHOUT ROWID""",
    """CREATE {temp} TABLE IF NOT EXISTS rollup_latency (
        hours INTEGER NOT NULL, start INTEGER NOT NULL, grp INTEGER NOT NULL,
        bucket INTEGER NOT NULL, calls INTEGER NOT NULL,
        PRIMARY KEY (hours, start, grp, bucket)) WITHOUT ROWID""",
    """CREATE {temp} TABLE IF NOT EXISTS rollup_buckets (
        from_s REAL PRIMARY KEY, bucket INTEGER NOT NULL) WITHOUT ROWID""",
)


def _group_values(prefix: str) -> str:
    texts = ", ".join(f"COALESCE({prefix}{name}, '')" for name in GROUPS)
    return f"{texts}, {prefix}error IS NOT NULL"


def _sum_values(prefix: str, wrap: str = "{}") -> str:
    tokens = " + ".join(f"{prefix}{name}" for name in _TOTAL)
    return ", ".join(wrap.format(text.format(prefix, tokens=tokens)) for text in _SUMS.values())


def _same_group(prefix: str) -> str:
    pairs = (f"g.{name} = COALESCE({prefix}{name}, '')" for name in GROUPS)
    return f"{' AND '.join(pairs)} AND g.failed = ({prefix}error IS NOT NULL)"


def _bucket(prefix: str) -> str:
    return f"""(
        SELECT bucket FROM rollup_buckets WHERE from_s <= MAX({prefix}latency_s, 0)
        ORDER BY from_s DESC LIMIT 1)"""  # noqa: S608 - only our own names are put into the text


_KINDS = ", ".join(f"'{kind}'" for kind in ANSWERED_KINDS)
_HOUR = f"started_at / {HOUR_US}"
_EACH_SPAN = " UNION ALL ".join(f"SELECT {hours} AS hours" for hours in SPANS)

_TRIGGER = f"""
CREATE TRIGGER IF NOT EXISTS rollup_of_calls AFTER INSERT ON calls BEGIN
    INSERT INTO rollup_groups ({", ".join(GROUPS)}, failed)
        VALUES ({_group_values("NEW.")}) ON CONFLICT DO NOTHING;
    INSERT INTO rollup
        SELECT s.hours, NEW.{_HOUR} / s.hours * s.hours, g.id, {_sum_values("NEW.")}
        FROM ({_EACH_SPAN}) s, rollup_groups g WHERE {_same_group("NEW.")}
        ON CONFLICT DO UPDATE SET {", ".join(f"{n} = {n} + excluded.{n}" for n in SUMS)};
    INSERT INTO rollup_latency
        SELECT s.hours, NEW.{_HOUR} / s.hours * s.hours, g.id, b.bucket, 1
        FROM ({_EACH_SPAN}) s, rollup_groups g, (SELECT {_bucket("NEW.")} AS bucket) b
        WHERE {_same_group("NEW.")} AND b.bucket IS NOT NULL AND NEW.kind IN ({_KINDS})
        ON CONFLICT DO UPDATE SET calls = calls + 1;
END"""  # noqa: S608 - only our own names are put into the text

_FILL_GROUPS = f"""
INSERT INTO rollup_groups ({", ".join(GROUPS)}, failed)
    SELECT DISTINCT {_group_values("")} FROM calls"""  # noqa: S608 - only our own names
_FILL_HOURS = f"""
INSERT INTO rollup
    SELECT 1, c.{_HOUR}, g.id, {_sum_values("c.", "SUM({})")}
    FROM calls c JOIN rollup_groups g ON {_same_group("c.")} GROUP BY 2, 3"""  # noqa: S608 - the same
_FILL_DAYS = f"""
INSERT INTO rollup
    SELECT 24, start / 24 * 24, grp, {", ".join(f"SUM({name})" for name in SUMS)}
    FROM rollup WHERE hours = 1 GROUP BY 2, 3"""  # noqa: S608 - the same
_FILL_HOURLY_LATENCY = f"""
INSERT INTO rollup_latency
    SELECT 1, c.{_HOUR}, g.id, {_bucket("c.")}, COUNT(*)
    FROM calls c JOIN rollup_groups g ON {_same_group("c.")}
    WHERE c.kind IN ({_KINDS}) AND c.latency_s IS NOT NULL GROUP BY 2, 3, 4"""  # noqa: S608 - the same
_FILL_DAILY_LATENCY = """
INSERT INTO rollup_latency
    SELECT 24, start / 24 * 24, grp, bucket, SUM(calls)
    FROM rollup_latency WHERE hours = 1 GROUP BY 2, 3, 4"""
_FILL = (_FILL_GROUPS, _FILL_HOURS, _FILL_DAYS, _FILL_HOURLY_LATENCY, _FILL_DAILY_LATENCY)


def add_rollup(connection: sqlite3.Connection) -> None:
    """Give a file with calls its sums, and the trigger that keeps them.

    Run it in a transaction: others then see the file without sums or with all of them.
    """
    _create(connection, temp="")
    connection.execute(_TRIGGER)
    _fill(connection)


def add_passing_rollup(connection: sqlite3.Connection) -> None:
    """Compute the sums for this connection alone, which may be read-only."""
    connection.execute("PRAGMA temp_store = MEMORY")
    with connection:
        _create(connection, temp="TEMP")
        _fill(connection)


def _create(connection: sqlite3.Connection, *, temp: str) -> None:
    for table in _TABLES:
        connection.execute(table.format(temp=temp))
    connection.executemany(
        "INSERT INTO rollup_buckets VALUES (?, ?)",
        [(0.0 if n == 0 else _LOWEST_S * _GROWTH**n, n) for n in range(_BUCKETS)],
    )


def _fill(connection: sqlite3.Connection) -> None:
    for statement in _FILL:
        connection.execute(statement)


def seconds_of(bucket: int) -> float:
    """Return the duration that stands for a bucket, at most 2% from any in it."""
    return float(_LOWEST_S * _GROWTH ** (bucket + 0.5))


def percentile_of(histogram: Mapping[int, int], share: float) -> float | None:
    """Return the nearest-rank percentile of counts by bucket within 2%, `None` of no calls.

    >>> round(percentile_of({0: 1, 352: 98, 400: 1}, 0.5), 2)
    1.01
    """
    wanted = share * sum(histogram.values())
    seen = 0
    for bucket in sorted(histogram):
        seen += histogram[bucket]
        if seen >= wanted:
            return seconds_of(bucket)
    return None
