"""A ledger's account for a range of hours, and its forms for machines: JSON and CSV."""

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from decimal import Decimal

from langchain_tokenopt.accounting import Totals
from langchain_tokenopt.accounting.report import totals_as_json
from langchain_tokenopt.accounting.rollup_query import LedgerReader, RollupField
from langchain_tokenopt.accounting.rollup_range import HourRange
from langchain_tokenopt.calls.usage import USAGE_FIELDS

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """What a ledger says of a range: all calls, each group, each day."""

    ledger: str
    by: RollupField
    within: HourRange
    """From the first hour to the last that the account covers."""
    totals: Totals
    groups: Mapping[str, Totals]
    days: Mapping[str, Totals]

    @property
    def notices(self) -> tuple[str, ...]:
        """What must be said beside every sum: what is not priced, and what was not reported."""
        told = []
        if self.totals.unpriced_calls:
            models = ", ".join(name or "(none)" for name in self.totals.unpriced_models)
            told.append(
                f"UNPRICED: {self.totals.unpriced_calls:,} calls with "
                f"{self.totals.unpriced_tokens:,} tokens of {models} are in no sum of dollars; "
                f"{self.totals.priced_share:.1%} of tokens are priced. Give prices in an override "
                "file."
            )
        if self.totals.estimated_calls:
            told.append(
                f"ESTIMATED: the usage of {self.totals.estimated_calls:,} calls was counted here, "
                "since their provider reported none."
            )
        return tuple(told)


def account_of(reader: LedgerReader, *, by: RollupField, within: HourRange) -> Account:
    """Return the account of a range, groups in the order of their spend (days and hours: of time).

    Raises:
        LedgerFileError: The ledger cannot be read.
        ConfigurationError: `by` is no field that calls are grouped by.
    """
    found = {key[0]: totals for key, totals in reader.totals_by([by], within=within).items()}
    if by not in ("day", "hour"):
        found = dict(
            sorted(found.items(), key=lambda item: (-item[1].cost, -item[1].calls, item[0]))
        )
    extent = reader.extent() or HourRange()
    covered = within
    if within.since is None and extent.since is not None:
        since = extent.since if within.until is None else min(extent.since, within.until)
        covered = replace(covered, since=since)
    if within.until is None and extent.until is not None:
        until = extent.until if within.since is None else max(extent.until, within.since)
        covered = replace(covered, until=until)
    return Account(
        ledger=reader.path.name,
        by=by,
        within=covered,
        totals=reader.totals(within=within),
        groups=found,
        days={key[0]: totals for key, totals in reader.spend_by(["day"], within=within).items()},
    )


def range_shown(within: HourRange) -> str:
    """Return a range for people.

    >>> range_shown(HourRange())
    'no calls yet'
    """
    if within.since is None or within.until is None:
        return "no calls yet"
    return f"{within.since:%Y-%m-%d %H:%M} to {within.until:%Y-%m-%d %H:%M} UTC"


def account_as_json(account: Account) -> str:
    """Return the account as JSON; money is text, so that no digit is lost."""
    since, until = account.within.since, account.within.until
    values = {
        "ledger": account.ledger,
        "since": since.isoformat() if since else None,
        "until": until.isoformat() if until else None,
        "notices": list(account.notices),
        "totals": totals_as_json(account.totals),
        "by": account.by,
        "groups": {name: totals_as_json(totals) for name, totals in account.groups.items()},
    }
    return json.dumps(values, indent=2, ensure_ascii=False) + "\n"


def account_as_csv(account: Account) -> str:
    """Return a line for each group. A name that a spreadsheet would run begins with a quote."""
    target = io.StringIO()
    writer = csv.writer(target, lineterminator="\n")
    writer.writerow(
        [
            account.by, "calls", "live", "cache_hits", "errors", "abandoned", "cost_dollars",
            "saved_dollars", "unpriced_calls", "unpriced_tokens", "unpriced_models",
            "estimated_calls", "latency_p50_s", "latency_p95_s",
            *(f"{name}_tokens" for name in USAGE_FIELDS),
            *(f"cached_{name}_tokens" for name in USAGE_FIELDS),
        ]
    )  # fmt: skip
    for name, t in account.groups.items():
        writer.writerow(
            [
                harmless(name), t.calls, t.live, t.cache_hits, t.errors, t.abandoned,
                plain(t.cost), plain(t.saved), t.unpriced_calls, t.unpriced_tokens,
                harmless(" ".join(t.unpriced_models)), t.estimated_calls,
                _rounded(t.latency_p50_s), _rounded(t.latency_p95_s),
                *(getattr(t.usage, part) for part in USAGE_FIELDS),
                *(getattr(t.cached_usage, part) for part in USAGE_FIELDS),
            ]
        )  # fmt: skip
    return target.getvalue()


def harmless(text: str) -> str:
    """Return text that no spreadsheet takes for a formula.

    >>> harmless("=1+1"), harmless(" @SUM(A1)"), harmless("faq")
    ("'=1+1", "' @SUM(A1)", 'faq')
    """
    return f"'{text}" if text.startswith(_FORMULA) or text.lstrip().startswith(_FORMULA) else text


def plain(amount: Decimal) -> str:
    """Return an amount in full without an exponent.

    >>> plain(Decimal("1E-7")), plain(Decimal("2.500000000000"))
    ('0.0000001', '2.5')
    """
    return f"{amount.normalize():f}"


def _rounded(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds:.4g}"
