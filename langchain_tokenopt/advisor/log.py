"""Read a call log: OpenAI-style request/response rows, LangSmith and Langfuse exports."""

import gzip
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from io import StringIO
from itertools import chain
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

    A `.gz` file is unpacked on the way. A file that is one JSON array is read row by
    row, and a row's place stands for its line.

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


_CHUNK = 65_536
_EXPECTED = (
    'Expected one JSON object a line: {"request": {"model", "messages"}, "response": {"choices"}}, '
    "the same of the Responses API, a LangSmith run, or a Langfuse observation"
)


def _open_text(path: Path) -> IO[str]:
    # Undecodable bytes become a marked character, so that one bad line costs one row, not the file.
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8", errors="replace")
    return path.open(encoding="utf-8-sig", errors="replace")


def _read_lines(file: IO[str]) -> Iterator[LoggedCall | LogProblem]:
    start = file.read(_CHUNK)
    if start.lstrip().startswith("["):
        yield from _read_array(start.lstrip()[1:], file)
        return
    # Not from the start again: a pipe cannot go back.
    for number, text in enumerate(chain(StringIO(start + file.readline()), file), 1):
        stripped = text.strip()
        if stripped:
            yield _read_text(stripped, line=number)


def _read_array(text: str, file: IO[str]) -> Iterator[LoggedCall | LogProblem]:
    """Yield the rows of an array, a few of them in memory at a time."""
    decode = json.JSONDecoder().raw_decode
    at = number = 0
    while True:
        while at < len(text) and text[at] in " \t\r\n,":
            at += 1
        if text.startswith("]", at):
            break
        try:
            value, at = decode(text, at)
        except (ValueError, RecursionError) as error:
            # Twice as much each time, so that a long row is not parsed from its start for ever.
            if chunk := file.read(max(_CHUNK, len(text) - at)):
                text, at = text[at:] + chunk, 0
                continue
            reason = f"the JSON array cannot be parsed from row {number + 1} on: {error}"
            yield LogProblem(line=number + 1, reason=reason)
            return
        number += 1
        yield _read_value(value, line=number)
    if text[at + 1 :].strip() or file.read(_CHUNK).strip():
        yield LogProblem(line=number + 1, reason="text behind the JSON array was not read")


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
    except (RowError, RecursionError) as error:
        return LogProblem(line=line, reason=str(error))
    return LoggedCall(
        id=str(fields.pop("id", None) or f"line-{line}"),
        line=line,
        **fields,
    )
