"""Take what a bulk job's calls cost from its workers to one ledger."""

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from langchain_tokenopt.accounting import UsageLedger
from langchain_tokenopt.accounting.callback import RecordingHandler
from langchain_tokenopt.accounting.prices import GenaiPrices, PriceSource
from langchain_tokenopt.accounting.records import CallRecord
from langchain_tokenopt.accounting.sqlite_rows import COLUMNS, record_of, row_of


class LedgerBooks:
    """Books the calls of `bulk_map` in a ledger: `bulk_map(..., books=LedgerBooks(ledger))`.

    Each worker notes its own calls; they come with the rows that they were for, so that a row
    that is in the output once is booked once.

    Args:
        ledger: Where the calls are booked.
        prices: For the workers, if they are not to use the installed price table; it is sent to
            them.
    """

    def __init__(self, ledger: UsageLedger, *, prices: PriceSource | None = None) -> None:
        self._ledger = ledger
        self.handler = _HandlerOf(prices)

    def add(self, calls: Sequence[Mapping[str, Any]]) -> None:
        """Book calls; the ledger knows those that it has."""
        for call in calls:
            self._ledger.append(_record(call))
        self._ledger.flush()


class _HandlerOf:
    """Makes handlers on the workers; holds nothing of the ledger, which stays where it is."""

    def __init__(self, prices: PriceSource | None) -> None:
        self._prices = prices

    def __call__(self) -> "_Noting":
        return _Noting(self._prices or GenaiPrices())


class _Noting(RecordingHandler):
    """Keeps the calls of one row."""

    def __init__(self, prices: PriceSource) -> None:
        self._calls: list[CallRecord] = []
        super().__init__(record=self._calls.append, prices=prices)

    def drain(self) -> list[dict[str, Any]]:
        """Return the calls so far as JSON values."""
        noted, self._calls[:] = [_json(call) for call in self._calls], []
        return noted


def _json(call: CallRecord) -> dict[str, Any]:
    row = dict(zip(COLUMNS, row_of(call), strict=True))
    for name in ("run_id", "parent_id"):
        row[name] = row[name].hex() if row[name] else None
    return row


def _record(call: Mapping[str, Any]) -> CallRecord:
    row = dict(call)
    for name in ("run_id", "parent_id"):
        row[name] = UUID(hex=row[name]).bytes if row[name] else None
    return record_of(tuple(row[name] for name in COLUMNS))
