"""A call as a row of a ledger's file, and back."""

import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from langchain_tokenopt.accounting.records import CallRecord
from langchain_tokenopt.calls.usage import USAGE_FIELDS, Usage
from langchain_tokenopt.files import storable

# Money is a whole number of 1e-12 dollars: a price of six decimals per million tokens is exact.
PICO = Decimal(10) ** 12

_TEXT = (
    "kind", "model", "model_asked", "provider", "tier", "feature", "endpoint", "tenant", "node",
    "cache", "error",
)  # fmt: skip
COLUMNS = (
    "run_id", "parent_id", "started_at", *_TEXT, "tags", "cost", "saved", "latency_s",
    "first_token_s", "overhead", "estimated", *USAGE_FIELDS,
)  # fmt: skip

CREATE = (
    f"""CREATE TABLE IF NOT EXISTS calls (
    run_id BLOB PRIMARY KEY, parent_id BLOB, started_at INTEGER NOT NULL,
    {", ".join(f"{name} TEXT" for name in _TEXT)}, tags TEXT,
    cost INTEGER, saved INTEGER, latency_s REAL, first_token_s REAL,
    overhead INTEGER, estimated INTEGER,
    {", ".join(f"{name} INTEGER NOT NULL" for name in USAGE_FIELDS)}
) WITHOUT ROWID""",
    "CREATE INDEX IF NOT EXISTS calls_started_at ON calls (started_at)",
)
INSERT = f"INSERT OR IGNORE INTO calls VALUES ({', '.join('?' * len(COLUMNS))})"  # noqa: S608 - our own names


def microseconds(at: datetime) -> int:
    """Return a time as the file keeps it."""
    since = at - datetime.fromtimestamp(0, UTC)
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


def row_of(record: CallRecord) -> tuple[Any, ...]:
    """Return the values of `COLUMNS`."""
    return (
        record.run_id.bytes,
        record.parent_id.bytes if record.parent_id else None,
        microseconds(record.started_at),
        *(_storable(getattr(record, name)) for name in _TEXT),
        json.dumps(record.tags) if record.tags else None,
        None if record.cost is None else int(record.cost * PICO),
        None if record.saved is None else int(record.saved * PICO),
        record.latency_s,
        record.first_token_s,
        record.overhead,
        record.estimated,
        *(getattr(record.usage, name) for name in USAGE_FIELDS),
    )


def _storable(text: str | None) -> str | None:
    """Return `text` without lone surrogates, which SQLite refuses."""
    return None if text is None else storable(text)


def record_of(row: tuple[Any, ...]) -> CallRecord:
    """Return the call that a row of `COLUMNS` keeps."""
    values = dict(zip(COLUMNS, row, strict=True))
    usage = Usage(**{name: values.pop(name) for name in USAGE_FIELDS})
    seconds, micro = divmod(values.pop("started_at"), 1_000_000)
    parent = values.pop("parent_id")
    return CallRecord(
        run_id=UUID(bytes=values.pop("run_id")),
        parent_id=UUID(bytes=parent) if parent else None,
        started_at=datetime.fromtimestamp(seconds, UTC).replace(microsecond=micro),
        tags=tuple(json.loads(values.pop("tags") or "[]")),
        cost=dollars_of(values.pop("cost")),
        saved=dollars_of(values.pop("saved")),
        overhead=bool(values.pop("overhead")),
        estimated=bool(values.pop("estimated")),
        usage=usage,
        **values,
    )


def dollars_of(pico: int | None) -> Decimal | None:
    """Return a kept amount, `None` where no price was known."""
    return None if pico is None else pico / PICO
