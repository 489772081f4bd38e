"""Read a call log: OpenAI-style request/response rows, LangSmith and Langfuse exports."""

import gzip
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from langchain_core.messages import AIMessage, BaseMessage

from langchain_tokenopt.advisor.formats import RowError, read_row
from langchain_tokenopt.errors import LogFormatError


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggedCall:
    """One model call of a log, whatever wrote it."""

    id: str
    line: int
    model: str
    messages: tuple[BaseMessage, ...]
    answer: AIMessage | None
    """What the model answered, with `usage_metadata` where the log has it."""
    at: datetime | None = None
    """When the call started, aware UTC."""
    latency_s: float | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """Request fields besides the messages and the model: temperature, tools, ..."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """What the log says besides: feature, tags, expected answer, ..."""
    error: str | None = None
    """What the log says went wrong; `None` of a call that was answered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogProblem:
    """A line that could not be read, and why."""

    line: int
    reason: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.reason}"


@dataclass(frozen=True, slots=True, kw_only=True)
class CallLog:
    """All readable calls of a log in time order, and the lines that could not be read."""

    calls: tuple[LoggedCall, ...]
    problems: tuple[LogProblem, ...]


def iterate_log(path: str | Path) -> Iterator[LoggedCall | LogProblem]:
    """Yield each call, or what is wrong with its line, in the order of the file.

    A `.gz` file is unpacked on the way. A file that holds one JSON array is read as its rows.

    Raises:
        LogFormatError: The file does not exist, is a folder, or is not text.
    """
    path = Path(path)
    try:
        with _open_text(path) as lines:
            yield from _read_lines(lines)
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        message = f"cannot open the call log {path}: {error.strerror}; expected a JSON Lines file"
        raise LogFormatError(message) from error
    except (gzip.BadGzipFile, EOFError) as error:
        message = f"{path} ends in .gz but cannot be unpacked ({error}); unpack it by hand first"
        raise LogFormatError(message) from error


def read_log(path: str | Path) -> CallLog:
    """Return the calls of a log, sorted by time, with every unreadable line reported.

    Raises:
        LogFormatError: The file cannot be opened, or not one of its lines can be read.
    """
    calls: list[LoggedCall] = []
    problems: list[LogProblem] = []
    for row in iterate_log(path):
        if isinstance(row, LoggedCall):
            calls.append(row)
        else:
            problems.append(row)
    if not calls:
        first = f"; the first problem is at {problems[0]}" if problems else "; it is empty"
        message = f"no call could be read from {path}{first}. {_EXPECTED}"
        raise LogFormatError(message)
    epoch = datetime.fromtimestamp(0, UTC)
    calls.sort(key=lambda call: (call.at or epoch, call.line))
    return CallLog(calls=tuple(calls), problems=tuple(problems))


_EXPECTED = (
    'Expected one JSON object a line: {"request": {"model", "messages"}, "response": {"choices"}}, '
    "a LangSmith run, or a Langfuse observation"
)


def _open_text(path: Path) -> IO[str]:
    # Undecodable bytes become a marked character, so that one bad line costs one row, not the file.
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8", errors="replace")
    return path.open(encoding="utf-8-sig", errors="replace")


def _read_lines(lines: Iterable[str]) -> Iterator[LoggedCall | LogProblem]:
    array: list[str] = []
    for number, text in enumerate(lines, 1):
        stripped = text.strip()
        if array or (stripped.startswith("[") and not _is_json(stripped)):
            array.append(text)
        elif stripped.startswith("["):
            yield from _read_rows(json.loads(stripped))
        elif stripped:
            yield _read_text(stripped, line=number)
    if array:
        try:
            rows = json.loads("".join(array))
        except ValueError as error:
            yield LogProblem(line=1, reason=f"the JSON array cannot be parsed: {error}")
        else:
            yield from _read_rows(rows)


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _read_rows(rows: list[Any]) -> Iterator[LoggedCall | LogProblem]:
    for number, row in enumerate(rows, 1):
        yield _read_value(row, line=number)


def _read_text(text: str, *, line: int) -> LoggedCall | LogProblem:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        return LogProblem(line=line, reason=f"not JSON ({error})")
    return _read_value(value, line=line)


def _read_value(value: Any, *, line: int) -> LoggedCall | LogProblem:
    if not isinstance(value, dict):
        reason = f"expected a JSON object, got {type(value).__name__}"
        return LogProblem(line=line, reason=reason)
    try:
        fields = read_row(value)
    except RowError as error:
        return LogProblem(line=line, reason=str(error))
    return LoggedCall(
        id=str(fields.pop("id", None) or f"line-{line}"),
        line=line,
        **fields,
    )
