"""Compare a provider's bill with the ledger, by model and day, and say what may explain it."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from decimal import Decimal

from langchain_tokenopt.accounting.bill import Bill, BilledRow, bare_model
from langchain_tokenopt.accounting.ledger import UsageLedger
from langchain_tokenopt.accounting.records import CallRecord
from langchain_tokenopt.accounting.usage import Usage
from langchain_tokenopt.errors import ConfigurationError

_PROVIDERS = {
    "openai": ("openai", "azure", "azure_openai"),
    "anthropic": ("anthropic", "anthropic_bedrock"),
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
    def tokens(self) -> int:
        """Tokens billed beyond those booked."""
        return self.billed.usage.total_tokens - self.booked.usage.total_tokens

    @property
    def dollars(self) -> Decimal | None:
        """Dollars billed beyond those booked; `None` if one side does not know."""
        if self.billed.dollars is None or self.booked.dollars is None:
            return None
        return self.billed.dollars - self.booked.dollars


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

    Hits of response caches are no calls of the provider. Models are compared without the dates of
    their snapshots.

    Args:
        bill: What `read_bill` returned.
        ledger: The account.
        tolerance: The share by which tokens and dollars may differ.
        timezone: Where the bill's day begins.

    Raises:
        ConfigurationError: The tolerance is no share.
    """
    if not 0 <= tolerance < 1:
        raise ConfigurationError(f"tolerance is a share, such as 0.005, got {tolerance}")
    billed = _billed(bill.rows)
    days = sorted({day for day, _ in billed})
    booked = _booked(bill, ledger, days, timezone) if days else {}
    keys = sorted({*billed, *booked})
    return Reconciliation(
        differences=tuple(_difference(key, billed, booked, tolerance=tolerance) for key in keys),
        tolerance=tolerance,
        bill=bill,
    )


_Key = tuple[date, str]


def _billed(rows: Iterable[BilledRow]) -> dict[_Key, _Sum]:
    sums: dict[_Key, _Sum] = {}
    for row in rows:
        total = sums.setdefault((row.day, bare_model(row.model)), _Sum(requests=None))
        total.usage += row.usage
        if row.requests is not None:
            total.requests = (total.requests or 0) + row.requests
        if row.dollars is not None:
            total.dollars = (total.dollars or Decimal(0)) + row.dollars
    return sums


def _booked(
    bill: Bill, ledger: UsageLedger, days: list[date], timezone: tzinfo
) -> dict[_Key, _Sum]:
    since = datetime.combine(days[0], time.min, timezone).astimezone(UTC)
    until = datetime.combine(days[-1] + timedelta(days=1), time.min, timezone).astimezone(UTC)
    sums: dict[_Key, _Sum] = {}
    for record in ledger.records(since=since, until=until):
        if _is_billed(record, bill):
            day = record.started_at.astimezone(timezone).date()
            total = sums.setdefault((day, bare_model(record.model)), _Sum(dollars=Decimal(0)))
            total.requests = (total.requests or 0) + 1
            total.usage += record.usage
            total.dollars = (total.dollars or Decimal(0)) + (record.cost or 0)
            total.estimated += record.estimated
            total.unpriced += record.cost is None
    return sums


def _is_billed(record: CallRecord, bill: Bill) -> bool:
    if record.kind == "cache_hit" or (record.kind == "error" and not record.usage.total_tokens):
        return False
    known = record.provider is None or record.provider in _PROVIDERS[bill.provider]
    claude = "claude" in record.model
    return known and (record.provider is not None or claude == (bill.provider == "anthropic"))


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
    )
    return any(_share(a, b) > tolerance for a, b in pairs)


def _share(left: Decimal | int, right: Decimal | int) -> float:
    largest = max(float(left), float(right))
    return abs(float(left) - float(right)) / largest if largest else 0.0


def _reason(  # noqa: PLR0911 - one return for each reason
    key: _Key, billed: dict[_Key, _Sum], booked: dict[_Key, _Sum], left: _Sum, right: _Sum
) -> str:
    day, model = key
    missing = billed if key not in billed else booked if key not in booked else None
    if missing is not None:
        here = left if key in billed else right
        for near in (day - timedelta(days=1), day + timedelta(days=1)):
            other = missing.get((near, model))
            if (
                other is not None
                and _share(other.usage.total_tokens, here.usage.total_tokens) < 0.01
            ):
                return f"the same tokens stand at {near}: the days begin elsewhere (--timezone)"
        if key in billed:
            return "not in the ledger: calls of another application or key, or without callbacks"
        return "not on the bill: another key or organisation, or the export is not complete yet"
    same_input = _share(left.usage.input_tokens, right.usage.input_tokens) < 0.005
    if same_input and _share(left.usage.cache_read, right.usage.cache_read) > 0.005:
        return "the input is equal, but not what of it was cached: cached tokens booked as plain"
    if right.unpriced:
        return f"{right.unpriced} calls in the ledger have no price: give it in an override file"
    if right.estimated:
        return f"{right.estimated} calls in the ledger are estimates: streams that were left"
    if left.requests is not None and right.requests is not None and left.requests > right.requests:
        more = left.requests - right.requests
        return (
            f"{more} requests more on the bill: retries of the client, or calls without callbacks"
        )
    if not _apart(left.usage, right.usage, 0.005):
        return "the tokens agree, the dollars do not: another tier, discount or price"
    return "unknown: the tokens of the same calls differ"
