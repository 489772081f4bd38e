"""Turn an export, CSV or JSON, into rows with plain column names."""

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

from langchain_tokenopt.accounting import bill_columns as columns
from langchain_tokenopt.errors import LogFormatError

Row = Mapping[str, Any]


def rows_of(path: Path) -> Iterator[tuple[str, Row]]:
    """Yield where each row stands ("line 3", "result 3"), and the row.

    A bucket of an admin API without results is a row with its day alone: nothing was billed then.

    Raises:
        LogFormatError: The file cannot be read, is empty, or is neither CSV nor JSON.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise LogFormatError(f"cannot read the export {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        message = f"cannot read the export {path}: expected UTF-8, got {error}; save it as UTF-8"
        raise LogFormatError(message) from error
    stripped = text.lstrip()
    if not stripped:
        raise LogFormatError(f"the export {path} is empty; expected a CSV or JSON export")
    return _json_rows(stripped, path) if stripped[0] in "[{" else _csv_rows(text, path)


def _csv_rows(text: str, path: Path) -> Iterator[tuple[str, Row]]:
    head = text.lstrip().splitlines()[0]
    separator = max(",;\t", key=head.count)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=separator)
    try:
        for row in reader:
            told = {
                _column(name): _point(value) if separator == ";" else value
                for name, value in row.items()
                if name and value and isinstance(value, str)
            }
            if told:
                yield f"line {reader.line_num}", told
    except csv.Error as error:
        message = f"the export {path} is not CSV at line {reader.line_num}: {error}"
        raise LogFormatError(message) from error


def _column(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", name.strip().lower()).strip("_")


def _point(value: str) -> str:
    """Write a decimal comma as a point: spreadsheets that part cells by `;` use it."""
    return value.replace(",", ".") if re.fullmatch(r"\s*-?\d+,\d+\s*", value) else value


def _json_rows(text: str, path: Path) -> Iterator[tuple[str, Row]]:
    try:
        content: Any = json.loads(text, parse_float=Decimal)
    except (ValueError, RecursionError) as error:
        raise LogFormatError(f"the export {path} is not JSON: {error}") from error
    number = 0
    for bucket in _buckets(content):
        for result in _results(bucket):
            number += 1
            if isinstance(bucket, Mapping) and isinstance(result, Mapping):
                when = {k: bucket[k] for k in (*columns.DAY, *columns.END) if k in bucket}
                yield f"result {number}", {**when, **_flat(result)}
            else:
                yield f"result {number}", {"": result}


def _buckets(content: Any) -> Iterator[Any]:
    """Yield the buckets of one page, of a list of pages, or of a list of buckets."""
    for page in content if isinstance(content, list) else [content]:
        data = page.get("data", [page]) if isinstance(page, Mapping) else [page]
        yield from data if isinstance(data, list) else [data]


def _results(bucket: Any) -> list[Any]:
    if not isinstance(bucket, Mapping):
        return [bucket]
    results = bucket.get("results", bucket.get("result", [bucket]))
    if results in ([], None):
        return [{}]
    return results if isinstance(results, list) else [results]


def _flat(row: Row) -> Row:
    flat: dict[str, Any] = {}
    for name, value in row.items():
        if name == "amount" and isinstance(value, Mapping):
            flat |= {
                f"amount_{part}": value[part] for part in ("value", "currency") if part in value
            }
        elif name == "cache_creation" and isinstance(value, Mapping):
            flat |= value
        elif value is not None and name not in ("results", "result"):
            flat[name] = value
    return flat
