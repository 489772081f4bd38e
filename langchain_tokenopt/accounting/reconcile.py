"""Compare a provider's bill with the ledger, by model and day, and say what may explain it."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from decimal import Decimal

from langchain_tokenopt.accounting.bill import NO_MODEL, Bill, BilledRow, bare_model
from langchain_tokenopt.accounting.ledger import UsageLedger
from langchain_tokenopt.accounting.records import CallRecord
from langchain_tokenopt.calls.usage import Usage
from langchain_tokenopt.errors import ConfigurationError

ALL_MODELS = "(all models)"
"""Stands for every model, where an export names none and days alone are compared."""

# Of calls whose provider is not known. Azure, Bedrock and Vertex send bills of their own.
_NAMES = {
    "openai": re.compile(
        r"(ft:)?(gpt|chatgpt|o\d|codex|text-embedding|davinci|babbage|omni|computer-use)"
    ),
    "anthropic": re.compile(r"claude"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """What one side says of a model on a day."""

    requests: int | None
    """`None` where an export does not say."""
    usage: Usage
    dollars: Decimal | None
    """`None` where nothing is known of money."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One model on one day."""

    day: date
    model: str
    billed: Side
    booked: Side
    reason: str | None
    """What may explain a difference beyond the tolerance; `None` if there is none."""
    beyond: bool
    """Whether tokens or dollars differ by more than the tolerance."""

    @property
    def tokens(self) -> int | None:
        """Tokens billed beyond those booked; `None` if the export has dollars alone."""
        billed = self.billed
        if not billed.usage.total_tokens and billed.requests is None and billed.dollars is not None:
            return None
        return billed.usage.total_tokens - self.booked.usage.total_tokens

    @property
    def token_share(self) -> float | None:
        """The same as a share of those billed, `None` if none were."""
        billed = self.billed.usage.total_tokens
        return self.tokens / billed if self.tokens is not None and billed else None

    @property
    def dollars(self) -> Decimal | None:
        """Dollars billed beyond those booked; `None` if one side does not know."""
        if self.billed.dollars is None or self.booked.dollars is None:
            return None
        return self.billed.dollars - self.booked.dollars

    @property
    def dollar_share(self) -> float | None:
        """The same as a share of those billed; `None` if one side does not know, or none were."""
        if self.dollars is None or not self.billed.dollars:
            return None
        return float(self.dollars / self.billed.dollars)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconciliation:
    """A bill beside the ledger."""

    differences: tuple[Difference, ...]
    """Every model and day that either side has, in the order of days."""
    tolerance: float
    bill: Bill

    @property
    def agrees(self) -> bool:
        """Whether nothing is beyond the tolerance."""
        return not any(difference.beyond for difference in self.differences)


@dataclass(slots=True)
class _Sum:
    requests: int | None = 0
    usage: Usage = field(default_factory=Usage)
    dollars: Decimal | None = None
    estimated: int = 0
    unpriced: int = 0

    def side(self) -> Side:
        return Side(requests=self.requests, usage=self.usage, dollars=self.dollars)


def reconcile(
    bill: Bill, ledger: UsageLedger, *, tolerance: float = 0.005, timezone: tzinfo = UTC
) -> Reconciliation:
    """Return the bill beside the ledger's calls of its provider, in the days that it covers.

    Hits of response caches are no calls of the provider, and Azure, Bedrock and Vertex are not
    OpenAI or Anthropic. Models are compared without the dates of their snapshots, days alone if the
    export names no model. Requests are shown but not judged: one call that embeds many texts is
    several requests.

    Args:
        bill: What `read_bill` returned.
        ledger: The account.
        tolerance: The share by which tokens, of each kind, and dollars may differ.
        timezone: Where the bill's day begins.

    Raises:
        ConfigurationError: The tolerance is no share.
    """
    if not 0 <= tolerance < 1:
        raise ConfigurationError(f"tolerance is a share, such as 0.005, got {tolerance}")
    named = any(row.model != NO_MODEL for row in bill.rows) or not bill.rows
    billed = _billed(bill.rows, named=named)
    booked = _booked(bill, ledger, timezone, named=named)
    keys = sorted({*billed, *booked})
    return Reconciliation(
        differences=tuple(_difference(key, billed, booked, tolerance=tolerance) for key in keys),
        tolerance=tolerance,
        bill=bill,
    )


_Key = tuple[date, str]


def _billed(rows: Iterable[BilledRow], *, named: bool) -> dict[_Key, _Sum]:
    sums: dict[_Key, _Sum] = {}
    for row in rows:
        model = bare_model(row.model) if named and row.model != NO_MODEL else row.model
        key = (row.day, model if named else ALL_MODELS)
        total = sums.setdefault(key, _Sum(requests=None))
        total.usage += row.usage
        if row.requests is not None:
            total.requests = (total.requests or 0) + row.requests
        if row.dollars is not None:
            total.dollars = (total.dollars or Decimal(0)) + row.dollars
    return sums


def _booked(bill: Bill, ledger: UsageLedger, timezone: tzinfo, *, named: bool) -> dict[_Key, _Sum]:
    since = datetime.combine(bill.first_day, time.min, timezone).astimezone(UTC)
    after = bill.last_day + timedelta(days=1)
    until = datetime.combine(after, time.min, timezone).astimezone(UTC)
    sums: dict[_Key, _Sum] = {}
    for record in ledger.records(since=since, until=until):
        if _is_billed(record, bill):
            day = record.started_at.astimezone(timezone).date()
            key = (day, bare_model(record.model) if named else ALL_MODELS)
            total = sums.setdefault(key, _Sum(dollars=Decimal(0)))
            total.requests = (total.requests or 0) + 1
            total.usage += record.usage
            total.dollars = (total.dollars or Decimal(0)) + (record.cost or 0)
            total.estimated += record.estimated
            total.unpriced += record.cost is None
    return sums


def _is_billed(record: CallRecord, bill: Bill) -> bool:
    if record.kind == "cache_hit" or (record.kind == "error" and not record.usage.total_tokens):
        return False
    if record.provider is None:
        return _NAMES[bill.provider].match(record.model.lower()) is not None
    return record.provider == bill.provider


def _difference(
    key: _Key, billed: dict[_Key, _Sum], booked: dict[_Key, _Sum], *, tolerance: float
) -> Difference:
    told, own = billed.get(key), booked.get(key)
    left = told or _Sum(dollars=Decimal(0))
    right = own or _Sum(dollars=Decimal(0))
    has_tokens = told is None or bool(left.usage.total_tokens)  # a cost export has none
    beyond = has_tokens and _apart(left.usage, right.usage, tolerance)
    if left.dollars is not None and right.dollars is not None:
        beyond = beyond or _share(left.dollars, right.dollars) > tolerance
    reason = _reason(key, billed, booked, left, right) if beyond else None
    return Difference(
        day=key[0],
        model=key[1],
        billed=left.side(),
        booked=right.side(),
        reason=reason,
        beyond=beyond,
    )


def _apart(left: Usage, right: Usage, tolerance: float) -> bool:
    pairs = (
        (left.input_tokens, right.input_tokens),
        (left.output, right.output),
        (left.cache_read, right.cache_read),
        (_written(left), _written(right)),
    )
    return any(_share(a, b) > tolerance for a, b in pairs)


def _written(usage: Usage) -> int:
    return usage.cache_write + usage.cache_write_1h + usage.cache_write_12h


def _share(left: Decimal | int, right: Decimal | int) -> float:
    largest = max(abs(float(left)), abs(float(right)))
    return abs(float(left) - float(right)) / largest if largest else 0.0


def _reason(  # noqa: PLR0911 - one return for each reason
    key: _Key, billed: dict[_Key, _Sum], booked: dict[_Key, _Sum], left: _Sum, right: _Sum
) -> str:
    if key not in booked or key not in billed:
        return _why_missing(key, billed, booked, left, right)
    if left.usage.total_tokens and not _apart(left.usage, right.usage, 0.005):
        if right.unpriced:
            return _unpriced(right)
        return "the tokens agree, the dollars do not: another tier, discount or price"
    if (
        left.usage.total_tokens
        and _share(left.usage.input_tokens, right.usage.input_tokens) < 0.005
    ):
        for kind, here, there in (
            ("read from", left.usage.cache_read, right.usage.cache_read),
            ("written to", _written(left.usage), _written(right.usage)),
        ):
            if _share(here, there) > 0.005:
                return (
                    f"the input is equal, but not what of it was {kind} the provider's cache: "
                    "cached tokens booked as plain"
                )
    if right.unpriced:
        return _unpriced(right)
    if right.estimated:
        return (
            f"estimated calls in the ledger: {right.estimated}; streams that were left, or no usage"
        )
    if left.requests is not None and right.requests is not None and left.requests > right.requests:
        more = left.requests - right.requests
        return (
            f"more requests on the bill: {more}; retries of the client, or calls without callbacks"
        )
    if not left.usage.total_tokens:
        return "the bill has no tokens to tell by: compare the usage export too"
    return "unknown: the tokens of the same calls differ"


def _why_missing(
    key: _Key, billed: dict[_Key, _Sum], booked: dict[_Key, _Sum], left: _Sum, right: _Sum
) -> str:
    day, model = key
    here, missing = (left, booked) if key in billed else (right, billed)
    for near in (day - timedelta(days=1), day + timedelta(days=1)):
        other = missing.get((near, model))
        tokens = here.usage.total_tokens
        if other is not None and tokens and _share(other.usage.total_tokens, tokens) < 0.01:
            return f"the same tokens stand at {near}: the days begin elsewhere (--timezone)"
    if model == NO_MODEL:
        return "no model is named: tools, storage and other charges that no ledger books"
    if key in billed:
        return "not in the ledger: calls of another application or key, or without callbacks"
    return "not on the bill: another key or organisation, or the export is not complete yet"


def _unpriced(own: _Sum) -> str:
    return f"calls without a price in the ledger: {own.unpriced}; give it in an override file"
