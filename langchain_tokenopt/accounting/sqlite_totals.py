"""Totals computed inside SQLite, so that a million records stay quick."""

import sqlite3
from decimal import Decimal
from typing import Any

from langchain_tokenopt.accounting.records import Totals
from langchain_tokenopt.accounting.totals import ANSWERED_KINDS, TEMPLATE_TAG, GroupField
from langchain_tokenopt.calls.usage import USAGE_FIELDS, Usage

_MICRO = 1_000_000
_ANSWERED = f"kind IN ({', '.join(map(repr, ANSWERED_KINDS))})"


def totals_in(
    connection: sqlite3.Connection, by: GroupField | None, where: str, values: tuple[int, ...]
) -> dict[str, Totals]:
    """Return the totals of each group of the calls that `where` selects, "" without a group."""
    group = _group(by)
    sums = ", ".join(
        f"SUM(CASE WHEN kind {op} 'cache_hit' THEN {name} ELSE 0 END)"
        for op in ("<>", "=")
        for name in USAGE_FIELDS
    )
    # Whole dollars and rest are summed apart: no sum of integers can then overflow 64 bits.
    query = f"""
        SELECT {group}, COUNT(*), SUM(kind IN ('live', 'embedding', 'batch')),
            SUM(kind = 'cache_hit'), SUM(kind = 'error'), SUM(kind = 'abandoned'),
            SUM(cost / {_MICRO}), SUM(cost % {_MICRO}),
            SUM(saved / {_MICRO}), SUM(saved % {_MICRO}),
            SUM(cost IS NULL OR saved IS NULL),
            SUM(CASE WHEN cost IS NULL OR saved IS NULL THEN {_total_tokens()} ELSE 0 END),
            SUM(estimated), {sums}
        FROM calls {where} GROUP BY 1 ORDER BY 1
    """  # noqa: S608 - only our own names are put into the text
    latency = _percentiles(connection, group, "latency_s", f"{where} AND {_ANSWERED}", values)
    first = _percentiles(
        connection, group, "first_token_s", f"{where} AND first_token_s IS NOT NULL", values
    )
    unpriced = _unpriced_models(connection, group, where, values)
    return {
        row[0]: _totals(row, latency.get(row[0]), first.get(row[0]), unpriced.get(row[0], ()))
        for row in connection.execute(query, values)
    }


def _totals(
    row: tuple[Any, ...],
    latency: tuple[float, float] | None,
    first: tuple[float, float] | None,
    unpriced_models: tuple[str, ...],
) -> Totals:
    _, calls, live, hits, errors, abandoned, *rest = row
    cost, cost_rest, saved, saved_rest, unpriced, unpriced_tokens, estimated, *tokens = rest
    half = len(USAGE_FIELDS)
    return Totals(
        calls=calls,
        live=live,
        cache_hits=hits,
        errors=errors,
        abandoned=abandoned,
        usage=Usage(**dict(zip(USAGE_FIELDS, tokens[:half], strict=True))),
        cached_usage=Usage(**dict(zip(USAGE_FIELDS, tokens[half:], strict=True))),
        cost=_dollars(cost, cost_rest),
        saved=_dollars(saved, saved_rest),
        unpriced_calls=unpriced,
        unpriced_tokens=unpriced_tokens,
        unpriced_models=unpriced_models,
        estimated_calls=estimated,
        latency_p50_s=latency[0] if latency else None,
        latency_p95_s=latency[1] if latency else None,
        first_token_p50_s=first[0] if first else None,
        first_token_p95_s=first[1] if first else None,
    )


def _group(by: GroupField | None) -> str:
    if by is None:
        return "''"
    if by == "day":
        return f"date(started_at / {_MICRO}, 'unixepoch')"
    if by == "template":
        return f"""COALESCE((
            SELECT substr(value, {len(TEMPLATE_TAG) + 1}) FROM json_each(calls.tags)
            WHERE value LIKE '{TEMPLATE_TAG}%' ORDER BY key LIMIT 1), '')"""  # noqa: S608 - ours
    return f"COALESCE({by}, '')"


def _total_tokens() -> str:
    shares = ("reasoning", "output_audio")  # of the output, so not added to it
    return " + ".join(name for name in USAGE_FIELDS if name not in shares)


def _percentiles(
    connection: sqlite3.Connection, group: str, column: str, where: str, values: tuple[int, ...]
) -> dict[str, tuple[float, float]]:
    """Return the nearest-rank median and 95th percentile of each group."""
    query = f"""
        SELECT g, MIN(CASE WHEN rank * 2 >= n THEN v END),
            MIN(CASE WHEN rank * 20 >= n * 19 THEN v END)
        FROM (SELECT {group} AS g, {column} AS v,
                     ROW_NUMBER() OVER (PARTITION BY {group} ORDER BY {column}) AS rank,
                     COUNT(*) OVER (PARTITION BY {group}) AS n
              FROM calls {where})
        GROUP BY g
    """  # noqa: S608 - only our own names are put into the text
    return {name: (p50, p95) for name, p50, p95 in connection.execute(query, values)}


def _unpriced_models(
    connection: sqlite3.Connection, group: str, where: str, values: tuple[int, ...]
) -> dict[str, tuple[str, ...]]:
    query = f"""
        SELECT DISTINCT {group}, model FROM calls {where} AND (cost IS NULL OR saved IS NULL)
        ORDER BY 1, 2
    """  # noqa: S608 - only our own names are put into the text
    found: dict[str, tuple[str, ...]] = {}
    for name, model in connection.execute(query, values):
        found[name] = (*found.get(name, ()), model)
    return found


def _dollars(micro: int | None, pico: int | None) -> Decimal:
    return Decimal(micro or 0).scaleb(-6) + Decimal(pico or 0).scaleb(-12)
