"""A ledger as an audit's source: what was spent and what failed, without any prompt."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

from langchain_tokenopt.accounting import CallRecord
from langchain_tokenopt.accounting.rollup_file import LedgerFile
from langchain_tokenopt.accounting.sqlite_rows import COLUMNS, record_of
from langchain_tokenopt.advisor.audit_facts import PICO, CallFacts, FactsOf
from langchain_tokenopt.errors import LedgerFileError

_MAGIC = b"SQLite format 3\x00"
_KINDS = {"error": "error", "abandoned": "truncated", "cache_hit": "cache_hit"}


def is_ledger(path: str | Path) -> bool:
    """Return whether a file is an SQLite file, as a ledger's is."""
    path = Path(path)
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(_MAGIC)) == _MAGIC


def ledger_facts(path: str | Path, facts: FactsOf) -> Iterator[CallFacts]:
    """Yield the calls of a ledger, the oldest first; embeddings are left out.

    Raises:
        LedgerFileError: It cannot be read, or holds no calls.
    """
    file = LedgerFile(path)
    try:
        with file.reading() as connection:
            if connection is None:
                message = f"{path} holds no calls of a ledger; expected the file of a UsageLedger"
                raise LedgerFileError(message)
            columns = ", ".join(COLUMNS)
            query = f"SELECT {columns} FROM calls ORDER BY started_at"  # noqa: S608 - our own names
            try:
                for line, row in enumerate(connection.execute(query), 1):
                    record = record_of(row)
                    if record.kind != "embedding":
                        yield _facts(record, line, facts)
            except sqlite3.Error as error:
                raise LedgerFileError(f"the ledger {path} cannot be read: {error}") from error
    finally:
        file.close()


def _facts(record: CallRecord, line: int, facts: FactsOf) -> CallFacts:
    usage = record.usage
    money = facts.money(
        record.model, usage, at=record.started_at, provider=record.provider, tier=record.tier
    )
    # What was booked is what was paid; rates only say what else it might have cost.
    booked = None if record.cost is None else int(record.cost * PICO)
    return CallFacts(
        at=record.started_at.timestamp(),
        line=line,
        id=str(record.run_id),
        model=record.model,
        feature=record.feature or "",
        kind=_KINDS.get(record.kind, "answered"),
        error=record.error or "",
        key=None,
        partition=None,
        question=f"(no text in a ledger; feature {record.feature or 'none'})",
        answer="",
        calls_tools=0,
        blocks=b"",
        characters=0,
        static=0,
        history=0,
        turns=0,
        conversation=b"",
        template=(record.feature or "").encode()[:8],
        static_key=b"",
        input=usage.input_tokens,
        read=usage.cache_read,
        written=usage.cache_write + usage.cache_write_1h + usage.cache_write_12h,
        output=usage.output,
        reads_known=1,
        estimated=int(record.estimated),
        **{**money, "cost": booked},
    )
