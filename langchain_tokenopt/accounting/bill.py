"""Read what a provider billed: usage and cost exports of OpenAI and Anthropic, CSV or JSON.

CSV as their consoles export it, JSON as their admin APIs answer: OpenAI's
`/v1/organization/usage/completions`, `/usage/embeddings` and `/costs`, Anthropic's
`usage_report/messages` and `cost_report`.
"""

import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, tzinfo
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, Literal

from langchain_tokenopt.accounting.usage import Usage
from langchain_tokenopt.errors import LogFormatError

Provider = Literal["openai", "anthropic"]

_DAY = (
    "usage_date_utc",
    "start_time_iso",
    "start_time",
    "starting_at",
    "usage_date",
    "date",
    "day",
)
_MODEL = ("model_version", "model", "snapshot_id", "snapshot", "model_name")
_REQUESTS = ("num_model_requests", "n_requests", "num_requests", "requests")
_INPUT = ("input_tokens", "n_context_tokens_total", "prompt_tokens")
_UNCACHED = ("usage_input_tokens_no_cache", "uncached_input_tokens", "input_uncached_tokens")
_READ = (
    "usage_input_tokens_cache_read", "cache_read_input_tokens", "input_cached_tokens",
    "n_cached_context_tokens_total",
)  # fmt: skip
_WRITE = (
    "usage_input_tokens_cache_write_5m", "ephemeral_5m_input_tokens", "cache_write_tokens",
    "input_cache_write_tokens", "usage_input_tokens_cache_write",
)  # fmt: skip
_WRITE_1H = ("usage_input_tokens_cache_write_1h", "ephemeral_1h_input_tokens")
_OUTPUT = ("usage_output_tokens", "output_tokens", "n_generated_tokens_total")
_AUDIO = ("input_audio_tokens",)
_DOLLARS = ("cost_usd", "amount_value", "amount_usd", "cost_in_usd", "cost", "amount")
_ITEM = ("line_item", "description")
_NOT_COUNTED = frozenset(
    """
    object end_time end_time_iso ending_at project_id project_name user_id user_email api_key_id
    api_key api_key_name workspace workspace_id usage_type context_window batch service_tier
    web_search_count inference_geo speed currency amount_currency organization_id
    organization_name cost_type token_type server_tool_use output_audio_tokens operation
    input_text_tokens output_text_tokens input_image_tokens output_image_tokens
    input_cached_text_tokens input_cached_audio_tokens input_cached_image_tokens list_price
    """.split()
)
_MOST_PROBLEMS = 1_000


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
        timezone: Where a day begins, for exports with times instead of dates.

    Raises:
        LogFormatError: It is no export that can be read at all.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise LogFormatError(f"cannot read the export {path}: {error}") from error
    stripped = text.lstrip()
    if not stripped:
        raise LogFormatError(f"the export {path} is empty")
    rows = list(_json_rows(stripped, path) if stripped[0] in "[{" else _csv_rows(text))
    columns = {name for _, row in rows for name in row}
    if not rows or not columns & {*_DAY}:
        message = (
            f"{path} has no column with a day; expected a usage or cost export of OpenAI or "
            f"Anthropic with one of {', '.join(_DAY)}, got {', '.join(sorted(columns)) or 'none'}"
        )
        raise LogFormatError(message)
    found: Provider = provider or _provider(columns)
    cents = "amount" in columns and found == "anthropic" and "cost_usd" not in columns
    read: list[BilledRow] = []
    problems: list[str] = []
    for place, row in rows:
        try:
            read.append(_row(row, timezone=timezone, cents=cents))
        except (ArithmeticError, OSError, TypeError, ValueError) as error:
            if len(problems) < _MOST_PROBLEMS:
                problems.append(f"{place}: {error}")
    known = {
        *_DAY, *_MODEL, *_REQUESTS, *_INPUT, *_UNCACHED, *_READ, *_WRITE, *_WRITE_1H, *_OUTPUT,
        *_AUDIO, *_DOLLARS, *_ITEM, *_NOT_COUNTED,
    }  # fmt: skip
    return Bill(
        provider=found,
        rows=tuple(read),
        problems=tuple(problems),
        unknown_columns=tuple(sorted(columns - known)),
    )


def bare_model(model: str) -> str:
    """Return a model's name without the date of its snapshot.

    >>> bare_model("gpt-5-mini-2025-08-07"), bare_model("claude-sonnet-4-5-20250929")
    ('gpt-5-mini', 'claude-sonnet-4-5')
    """
    return re.sub(r"-(\d{4}-\d\d-\d\d|\d{8}|latest)$", "", model.strip().lower())


def _csv_rows(text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        dialect: Any = csv.Sniffer().sniff(text[:4_096], delimiters=",;\t")
    except csv.Error:
        dialect = csv.excel
    reader = csv.DictReader(io.StringIO(text), dialect=dialect)
    for row in reader:
        told = {_column(name): value for name, value in row.items() if name is not None and value}
        if told:
            yield f"line {reader.line_num}", told


def _column(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", name.strip().lower()).strip("_")


def _json_rows(text: str, path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        content: Any = json.loads(text, parse_float=Decimal)
    except ValueError as error:
        raise LogFormatError(f"the export {path} is not JSON: {error}") from error
    pages = content if isinstance(content, list) else [content]
    number = 0
    for page in pages:
        buckets = page.get("data", [page]) if isinstance(page, dict) else []
        for bucket in buckets:
            results = bucket.get("results", bucket.get("result", [bucket]))
            for result in results if isinstance(results, list) else [results]:
                number += 1
                when = {key: bucket[key] for key in _DAY if key in bucket}
                yield f"result {number}", {**when, **_flat(result)}


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in row.items():
        if name == "amount" and isinstance(value, Mapping):
            flat["amount_value"] = value.get("value")
        elif name == "cache_creation" and isinstance(value, Mapping):
            flat |= value
        elif value is not None:
            flat[name] = value
    return flat


def _provider(columns: set[str]) -> Provider:
    anthropic = {"usage_date_utc", "uncached_input_tokens", "starting_at"}
    return "anthropic" if columns & anthropic else "openai"


def _row(row: Mapping[str, Any], *, timezone: tzinfo, cents: bool) -> BilledRow:
    def count(names: Iterable[str]) -> int:
        return _first(row, names, _whole) or 0

    read, write, write_1h = count(_READ), count(_WRITE), count(_WRITE_1H)
    audio = count(_AUDIO)
    total = _first(row, _INPUT, _whole)
    plain = _first(row, _UNCACHED, _whole)
    if plain is None:
        # OpenAI's total includes what was cached.
        plain = max((total or 0) - read - write - write_1h, 0)
    dollars = _first(row, _DOLLARS, _money)
    return BilledRow(
        day=_day(row, timezone),
        model=_model(row),
        usage=Usage(
            plain_input=plain,
            cache_read=read,
            cache_write=write,
            cache_write_1h=write_1h,
            input_audio=audio,
            output=count(_OUTPUT),
        ),
        requests=_first(row, _REQUESTS, _whole),
        dollars=dollars / 100 if cents and dollars is not None else dollars,
    )


def _first(row: Mapping[str, Any], names: Iterable[str], read: Callable[[Any], Any]) -> Any:
    for name in names:
        if row.get(name) not in (None, ""):
            try:
                return read(row[name])
            except (InvalidOperation, TypeError, ValueError):
                raise ValueError(f"{name} is no number: {row[name]!r}") from None
    return None


def _whole(value: Any) -> int:
    number = Decimal(str(value).replace(",", "").strip())
    if number < 0 or number != int(number):
        raise ValueError(value)
    return int(number)


def _money(value: Any) -> Decimal:
    number = Decimal(str(value).replace(",", "").replace("$", "").strip())
    if not number.is_finite():
        raise ValueError(value)
    return number


def _day(row: Mapping[str, Any], timezone: tzinfo) -> date:
    name = next((name for name in _DAY if row.get(name) not in (None, "")), None)
    if name is None:
        raise ValueError("it has no day")
    value = str(row[name]).strip()
    if re.fullmatch(r"\d{9,11}(\.\d+)?", value):
        return datetime.fromtimestamp(float(value), UTC).astimezone(timezone).date()
    try:
        if len(value) <= 10:
            return date.fromisoformat(value)
        at = datetime.fromisoformat(value.replace(" UTC", "+00:00"))
    except ValueError:
        raise ValueError(f"{name} is no day: {value!r}") from None
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).astimezone(timezone).date()


def _model(row: Mapping[str, Any]) -> str:
    for name in _MODEL:
        if row.get(name):
            return str(row[name])
    item = str(next((row[name] for name in _ITEM if row.get(name)), ""))
    # "gpt-5-mini-2025-08-07, cached input", "Claude Sonnet 4.5 Usage - Output Tokens"
    return re.split(r",| Usage -", item)[0].strip().replace(" ", "-").lower() or "(none)"
