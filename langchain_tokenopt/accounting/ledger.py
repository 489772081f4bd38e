"""The ledger: every model call once, with its tokens, its cost and what was saved."""

import logging
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from langchain_tokenopt.accounting.callback import RecordingHandler
from langchain_tokenopt.accounting.prices import GenaiPrices, PriceSource
from langchain_tokenopt.accounting.records import CallRecord, RecordListener, Totals
from langchain_tokenopt.accounting.report import report_text, totals_as_json
from langchain_tokenopt.accounting.sqlite import SqliteRecords
from langchain_tokenopt.accounting.storage import MemoryRecords, RecordStorage
from langchain_tokenopt.accounting.totals import GROUP_FIELDS, GroupField, Window
from langchain_tokenopt.errors import ConfigurationError

_LOG = logging.getLogger(__name__)


class UsageLedger(RecordingHandler):
    """An append-only account of model calls that is itself the callback handler that fills it.

    Pass it as a callback, or use `track_usage()`. Calls are keyed by LangChain's run id: two
    handlers on one call, or two processes on one file, count it once.

    A call's feature, endpoint and tenant come from the metadata of its config, which LangChain
    hands down to every child: `config={"metadata": {"feature": "faq", "tenant": "acme"}}`.

    Args:
        path: An SQLite file that processes may share; without one, records live in memory.
        prices: Where prices come from; by default the installed genai-prices snapshot.
        listeners: Told of every call once it is booked: alerts, telemetry, a function of yours.
            They run in the thread of the call and must be quick; one that raises is logged once,
            counted in `listener_failures`, and breaks no call.

    >>> from langchain_tokenopt.testing import ScriptedModel
    >>> ledger = UsageLedger()
    >>> ScriptedModel(["four"]).invoke("2 + 2?", config={"callbacks": [ledger]}).text
    'four'
    >>> ledger.totals().usage.total_tokens, ledger.totals().unpriced_models
    (5, ('scripted',))
    """

    def __init__(
        self,
        path: str | Path | None = None,
        *,
        prices: PriceSource | None = None,
        listeners: Sequence[RecordListener] = (),
    ) -> None:
        self._storage: RecordStorage = MemoryRecords() if path is None else SqliteRecords(path)
        self._listeners = tuple(listeners)
        self.listener_failures = 0
        record = self.append if self._listeners else self._storage.add
        super().__init__(record=record, prices=prices or GenaiPrices())

    def append(self, record: CallRecord) -> None:
        """Add a call that no callback saw: a batch job, an embedding, a replayed log."""
        self._storage.add(record)
        for listener in self._listeners:
            try:
                listener(record)
            except Exception as error:  # noqa: BLE001 - no listener may break the call
                self.listener_failures += 1
                if self.listener_failures == 1:
                    _LOG.warning(
                        "%r failed, the calls are booked all the same: %r", listener, error
                    )

    def records(
        self, *, since: datetime | None = None, until: datetime | None = None
    ) -> Iterator[CallRecord]:
        """Yield the calls that began in a window, oldest first."""
        return self._storage.records(Window(since=since, until=until))

    def totals(self, *, since: datetime | None = None, until: datetime | None = None) -> Totals:
        """Return the sums over a window."""
        return self._storage.totals(Window(since=since, until=until))

    def totals_by(
        self, by: GroupField, *, since: datetime | None = None, until: datetime | None = None
    ) -> dict[str, Totals]:
        """Return the sums of each model, feature, endpoint, tenant, node, day, ...

        Raises:
            ConfigurationError: `by` is no field that calls are grouped by.
        """
        if by not in GROUP_FIELDS:
            message = f"calls cannot be grouped by {by!r}; choose one of {', '.join(GROUP_FIELDS)}"
            raise ConfigurationError(message)
        return self._storage.totals_by(by, Window(since=since, until=until))

    @property
    def unsaved(self) -> int:
        """Records that are only in memory because the file could not be written."""
        return self._storage.unsaved

    def report(self, *, by: GroupField = "model") -> str:
        """Return the account as plain text, with one line for each group."""
        return report_text(
            self.totals(), self.totals_by(by), by=by, unsaved=self.unsaved, lost=self._storage.lost
        )

    def to_json(self, *, by: GroupField = "model") -> dict[str, Any]:
        """Return the account as JSON values; money is text, so that no digit is lost."""
        groups = {name: totals_as_json(t) for name, t in self.totals_by(by).items()}
        return {"totals": totals_as_json(self.totals()), "by": by, "groups": groups}

    def flush(self) -> None:
        """Return when every call so far is in the file, or could not be written to it."""
        self._storage.flush()

    def close(self) -> None:
        """Write what waits. The ledger stays usable."""
        self._storage.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
