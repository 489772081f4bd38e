"""Read what a provider billed: usage and cost exports of OpenAI and Anthropic, CSV or JSON.

CSV as their consoles export it, JSON as their admin APIs answer: OpenAI's
`/v1/organization/usage/completions`, `/usage/embeddings` and `/costs`, Anthropic's
`usage_report/messages` and `cost_report`.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, tzinfo
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

from langchain_tokenopt.accounting import bill_columns as columns
from langchain_tokenopt.accounting.bill_files import Row, rows_of
from langchain_tokenopt.calls.usage import Usage
from langchain_tokenopt.errors import LogFormatError

Provider = Literal["openai", "anthropic"]

NO_MODEL = "(no model)"
"""Stands for the model of a row that names none."""

_MOST_PROBLEMS = 1_000
_MOST_DIGITS = 15  # no day has as many tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class BilledRow:
    """What was billed for one model on one day, by one key or line."""

    day: date
    model: str
    usage: Usage
    requests: int | None
    dollars: Decimal | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Bill:
    """An export that was read."""

    provider: Provider
    rows: tuple[BilledRow, ...]
    first_day: date
    """The days that the export covers, those on which nothing was billed included."""
    last_day: date
    problems: tuple[str, ...]
    """Rows that could not be read, by their numbers."""
    unknown_columns: tuple[str, ...]
    """Columns that nothing here reads."""


def read_bill(
    path: str | Path, *, provider: Provider | None = None, timezone: tzinfo = UTC
) -> Bill:
    """Return what an export says.

    Args:
        path: A CSV or JSON file.
        provider: Whose it is; by default told by its columns.
        timezone: Where a day begins, for exports with times instead of dates. A row counts for the
            day that its middle is in.

    Raises:
        LogFormatError: It is no export, or not one of its rows can be read.
    """
    path = Path(path)
    rows = list(rows_of(path))
    names = {name for _, row in rows for name in row}
    if not names & {*columns.DAY}:
        message = (
            f"{path} has no column with a day; expected a usage or cost export of OpenAI or "
            f"Anthropic with one of {', '.join(columns.DAY)}, "
            f"got {', '.join(sorted(names)) or 'none'}"
        )
        raise LogFormatError(message)
    found: Provider = provider or ("anthropic" if names & columns.ANTHROPIC else "openai")
    # Anthropic's cost report counts cents, its console dollars.
    cents = found == "anthropic" and "amount" in names and "cost_usd" not in names
    read: list[BilledRow] = []
    days: set[date] = set()
    problems: list[str] = []
    for place, row in rows:
        try:
            billed = _row(row, found, timezone=timezone, cents=cents)
        except (ArithmeticError, OSError, TypeError, ValueError) as error:
            if len(problems) < _MOST_PROBLEMS:
                problems.append(f"{place}: {error}")
            continue
        days.add(billed.day)
        if billed.model != NO_MODEL or billed.usage.total_tokens or billed.dollars:
            read.append(billed)
    if not days:
        message = f"no row of {path} can be read; the first: {problems[0]}"
        raise LogFormatError(message)
    return Bill(
        provider=found,
        rows=tuple(read),
        first_day=min(days),
        last_day=max(days),
        problems=tuple(problems),
        unknown_columns=tuple(sorted(names - columns.KNOWN - {""})),
    )


def bare_model(model: str) -> str:
    """Return a model's name as all exports and answers have it in common.

    Without the date of its snapshot, and for Claude in one order, as its console writes it in
    another way than its API.

    >>> bare_model("gpt-5-mini-2025-08-07"), bare_model("claude-sonnet-4-5-20250929")
    ('gpt-5-mini', 'claude-sonnet-4-5')
    >>> bare_model("Claude Sonnet 4.5"), bare_model("claude-3-7-sonnet-latest")
    ('claude-sonnet-4-5', 'claude-sonnet-3-7')
    """
    name = re.sub(r"\s+", "-", model.strip().lower())
    name = re.sub(r"[-@](\d{4}-\d\d-\d\d|\d{8}|latest)$", "", name)
    if not name.startswith("claude"):
        return name
    parts = re.split(r"[-.]", name)
    family, version = [p for p in parts if not p.isdigit()], [p for p in parts if p.isdigit()]
    return "-".join((*family, *(version[:1] if version[1:] == ["0"] else version)))


def _row(row: Row, provider: Provider, *, timezone: tzinfo, cents: bool) -> BilledRow:
    if "" in row:
        raise TypeError(f"expected an object, got {row['']!r:.40}")
    dollars = _first(row, columns.DOLLARS, _money)
    currency = str(_first(row, columns.CURRENCY, str) or "usd")
    if dollars and currency.lower() != "usd":
        raise ValueError(f"the amount is in {currency}, expected USD")
    return BilledRow(
        day=_day(row, timezone),
        model=_model(row),
        usage=_usage(row, provider),
        requests=_first(row, columns.REQUESTS, _whole),
        dollars=dollars / 100 if cents and dollars is not None else dollars,
    )


def _usage(row: Row, provider: Provider) -> Usage:
    def count(names: Iterable[str]) -> int:
        return _first(row, names, _whole) or 0

    read, audio = count(columns.READ), count(columns.INPUT_AUDIO)
    write, write_1h, write_12h = map(count, (columns.WRITE, columns.WRITE_1H, columns.WRITE_12H))
    write += max(count(columns.WRITE_ALL) - write - write_1h - write_12h, 0)
    plain: int | None = _first(row, columns.UNCACHED, _whole)
    if plain is None:
        inside = read + write + write_1h + write_12h if provider == "openai" else 0
        plain = max(count(columns.INPUT) - inside, 0)
    # OpenAI's sums have included audio and images only since they also say what was text.
    text = _first(row, columns.INPUT_TEXT, _whole)
    plain = max(plain - audio, 0) if text is None else text + count(columns.INPUT_IMAGE)
    output_audio = count(columns.OUTPUT_AUDIO)
    parts = count(columns.OUTPUT_TEXT) + output_audio + count(columns.OUTPUT_IMAGE)
    return Usage(
        plain_input=plain,
        cache_read=read,
        cache_write=write,
        cache_write_1h=write_1h,
        cache_write_12h=write_12h,
        input_audio=audio,
        output=max(count(columns.OUTPUT), parts),
        output_audio=output_audio,
    )


def _first(row: Row, names: Iterable[str], read: Callable[[Any], Any]) -> Any:
    for name in names:
        if row.get(name) not in (None, ""):
            try:
                return read(row[name])
            except (ArithmeticError, TypeError, ValueError):
                raise ValueError(f"{name} is no number: {row[name]!r:.40}") from None
    return None


def _plain(value: Any) -> str:
    """Return a number without the commas that part its thousands."""
    text = str(value).strip()
    parted = re.fullmatch(r"-?\$?[1-9]\d{0,2}(,\d{3})+(\.\d+)?", text)
    return text.replace(",", "") if parted else text


def _whole(value: Any) -> int:
    text = _plain(value)
    if not re.fullmatch(r"\d+(\.0)?", text) or len(text) > _MOST_DIGITS:
        raise ValueError(value)
    return int(text.removesuffix(".0"))


def _money(value: Any) -> Decimal:
    number = Decimal(_plain(value).replace("$", ""))
    if not number.is_finite() or abs(number) >= 10**_MOST_DIGITS:
        raise ValueError(value)
    return number


def _day(row: Row, timezone: tzinfo) -> date:
    name = next((name for name in columns.DAY if row.get(name) not in (None, "")), None)
    if name is None:
        raise ValueError("it has no day")
    begin = _time(row[name], name)
    if type(begin) is date:
        return begin
    end = next((row[name] for name in columns.END if row.get(name) not in (None, "")), None)
    if end is not None:
        until = _time(end, "its end")
        if isinstance(begin, datetime) and isinstance(until, datetime) and until > begin:
            begin += (until - begin) / 2
    return begin.astimezone(timezone).date() if isinstance(begin, datetime) else begin


def _time(value: Any, name: str) -> date | datetime:
    text = str(value).strip()
    try:
        if re.fullmatch(r"\d{9,10}(\.\d+)?", text):
            return datetime.fromtimestamp(float(text), UTC)
        parted = re.fullmatch(r"(\d{4})[/-](\d{1,2})[/-](\d{1,2})", text)
        if parted:
            return date(*map(int, parted.groups()))
        at = datetime.fromisoformat(text.replace(" UTC", "+00:00"))
    except ValueError:
        message = f"{name} is no day: {value!r:.40}; expected 2026-11-23, or seconds since 1970"
        raise ValueError(message) from None
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def _model(row: Row) -> str:
    for name in columns.MODEL:
        if row.get(name):
            return str(row[name])
    item = str(next((row[name] for name in columns.ITEM if row.get(name)), ""))
    # "gpt-5-mini-2025-08-07, cached input", "Claude Sonnet 4.5 Usage - Output Tokens"
    return re.split(r",| Usage -", item)[0].strip() or NO_MODEL
