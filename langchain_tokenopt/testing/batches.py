"""The Batch APIs of OpenAI and Anthropic, as the loopback server speaks them."""

import json
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.parser import BytesParser
from email.policy import HTTP
from typing import Any
from urllib.parse import parse_qs, urlparse
from uuid import uuid4

from langchain_tokenopt.testing.batch_rows import anthropic_row, as_chat, openai_row
from langchain_tokenopt.testing.completion import complete
from langchain_tokenopt.testing.wire import ChatRequest, Dropped, Fault, RateLimited, Reply

_MOST_ROWS = 50_000
_LIFE = timedelta(hours=24)
AnswerRow = Callable[[ChatRequest], Reply | Fault]
Bill = Callable[[Mapping[str, Any], str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchRules:
    """How the server treats batches.

    A row is answered as a chat request is. Where the script gives a `ServerError` or `RateLimited`,
    the row fails with that status; where it gives `Dropped`, it expires.
    """

    polls: int = 1
    """How often a batch must be asked for until it has ended."""
    shuffle: random.Random | None = None
    """Gives the rows in an order by chance."""
    expires: bool = False
    """Whether whole batches expire without an answer."""
    refuse: str | None = None
    """Why every batch fails when it is validated."""


@dataclass(slots=True, kw_only=True)
class _Batch:
    id: str
    rows: list[dict[str, Any]]
    created: datetime
    metadata: Mapping[str, str] = field(default_factory=dict)
    endpoint: str = "/v1/chat/completions"
    input_file: str | None = None
    polls: int = 0
    ended: datetime | None = None
    state: str = "in_progress"
    """`in_progress`, `completed`, `failed`, `expired` or `cancelled`."""
    problems: list[dict[str, Any]] = field(default_factory=list)
    results: list[dict[str, Any]] = field(default_factory=list)
    output_file: str | None = None
    error_file: str | None = None
    usage: dict[str, int] = field(default_factory=dict)

    def counts(self) -> dict[str, int]:
        """Return OpenAI's counts."""
        good = sum(row["kind"] == "answered" for row in self.results)
        bad = sum(row["kind"] == "error" for row in self.results)
        return {"total": len(self.rows), "completed": good, "failed": bad}


class _RefusedError(Exception):
    """A request that the provider refuses: status and message."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class BatchDesk:
    """Files and batches of one server."""

    def __init__(self, rules: BatchRules, *, answer: AnswerRow, bill: Bill) -> None:
        self.rules = rules
        self._answer = answer
        self._bill = bill
        self._lock = threading.RLock()
        self._files: dict[str, bytes] = {}
        self._batches: dict[str, _Batch] = {}

    @property
    def created(self) -> int:
        """How many batches were handed in."""
        return len(self._batches)

    def handle(
        self, method: str, target: str, headers: Mapping[str, str], raw: bytes
    ) -> tuple[int, bytes] | None:
        """Return status and body, `None` for a path that is none of a batch."""
        url = urlparse(target)
        parts = url.path.removeprefix("/v1").strip("/").split("/")
        try:
            with self._lock:
                if parts[:2] == ["messages", "batches"]:
                    return self._anthropic(method, parts[2:], raw)
                if parts[0] == "files":
                    return self._of_files(method, parts[1:], headers, raw)
                if parts[0] == "batches":
                    return self._openai(method, parts[1:], parse_qs(url.query), raw)
        except _RefusedError as refused:
            error = {"message": str(refused), "type": "invalid_request_error", "param": None}
            return refused.status, _json({"type": "error", "error": {**error, "code": None}})
        return None

    # --- OpenAI -------------------------------------------------------------------------------

    def _of_files(
        self, method: str, parts: list[str], headers: Mapping[str, str], raw: bytes
    ) -> tuple[int, bytes]:
        if method == "POST" and not parts:
            name, data = f"file-{uuid4().hex}", _uploaded(headers.get("content-type", ""), raw)
            self._files[name] = data
            return 200, _json(_file(name, len(data)))
        if parts and parts[0] in self._files:
            if method == "DELETE":
                del self._files[parts[0]]
                return 200, _json({"id": parts[0], "object": "file", "deleted": True})
            if parts[1:] == ["content"]:
                return 200, self._files[parts[0]]
            return 200, _json(_file(parts[0], len(self._files[parts[0]])))
        raise _RefusedError(404, f"no such file: {'/'.join(parts)}")

    def _openai(
        self, method: str, parts: list[str], query: Mapping[str, list[str]], raw: bytes
    ) -> tuple[int, bytes]:
        if not parts:
            if method == "POST":
                return 200, _json(self._as_openai(self._handed_in(_object(raw))))
            limit = int(query.get("limit", ["20"])[0])
            all_of = sorted(self._batches.values(), key=lambda b: b.created, reverse=True)
            after = query.get("after", [None])[0]
            names = [batch.id for batch in all_of]
            start = names.index(after) + 1 if after in names else 0
            shown = all_of[start : start + limit]
            page = {
                "object": "list",
                "data": [self._as_openai(batch) for batch in shown],
                "first_id": shown[0].id if shown else None,
                "last_id": shown[-1].id if shown else None,
                "has_more": start + limit < len(all_of),
            }
            return 200, _json(page)
        batch = self._found(parts[0])
        if parts[1:] == ["cancel"]:
            self._end(batch, "cancelled")
        else:
            self._poll(batch)
        return 200, _json(self._as_openai(batch))

    def _handed_in(self, body: Mapping[str, Any]) -> _Batch:
        data = self._files.get(str(body.get("input_file_id")))
        if data is None:
            raise _RefusedError(400, f"no such file: {body.get('input_file_id')}")
        batch = _Batch(
            id=f"batch_{uuid4().hex}",
            rows=[],
            created=datetime.now(UTC),
            metadata=body.get("metadata") or {},
            endpoint=str(body.get("endpoint")),
            input_file=str(body["input_file_id"]),
        )
        self._batches[batch.id] = batch
        batch.problems = list(self._read_rows(data, batch))
        if self.rules.refuse:
            batch.problems.append({"code": "refused", "message": self.rules.refuse, "line": None})
        if batch.problems:
            batch.state, batch.ended = "failed", datetime.now(UTC)
        return batch

    def _read_rows(self, data: bytes, batch: _Batch) -> Iterator[dict[str, Any]]:
        seen: set[str] = set()
        for number, line in enumerate(data.decode(errors="replace").splitlines(), start=1):
            try:
                row = json.loads(line)
                name, body = str(row["custom_id"]), dict(row["body"])
                if row["method"] != "POST" or row["url"] != batch.endpoint:
                    raise ValueError(f"url must be {batch.endpoint}")
            except (ValueError, KeyError, TypeError) as error:
                yield {"code": "invalid_json_line", "message": repr(error), "line": number}
                continue
            if name in seen:
                yield {
                    "code": "duplicate_custom_id",
                    "message": f"custom_id {name}",
                    "line": number,
                }
            if batch.rows and body.get("model") != batch.rows[0]["body"].get("model"):
                yield {"code": "mismatched_model", "message": "one model a batch", "line": number}
            seen.add(name)
            batch.rows.append({"custom_id": name, "body": body})
        if not 0 < len(batch.rows) <= _MOST_ROWS:
            yield {"code": "invalid_size", "message": f"{len(batch.rows)} rows", "line": None}

    def _as_openai(self, batch: _Batch) -> dict[str, Any]:
        ended = int(batch.ended.timestamp()) if batch.ended else None
        if batch.ended and batch.output_file is None and batch.results:
            batch.output_file = self._keep(batch, "answered")
            batch.error_file = self._keep(batch, "error", "expired")
        return {
            "id": batch.id,
            "object": "batch",
            "endpoint": batch.endpoint,
            "completion_window": "24h",
            "created_at": int(batch.created.timestamp()),
            "expires_at": int((batch.created + _LIFE).timestamp()),
            f"{batch.state}_at": ended or int(batch.created.timestamp()),
            "input_file_id": batch.input_file,
            "output_file_id": batch.output_file,
            "error_file_id": batch.error_file,
            "status": batch.state,
            "errors": {"object": "list", "data": batch.problems} if batch.problems else None,
            "request_counts": batch.counts(),
            "metadata": dict(batch.metadata) or None,
            "usage": batch.usage or None,
        }

    def _keep(self, batch: _Batch, *kinds: str) -> str | None:
        rows = [openai_row(row) for row in batch.results if row["kind"] in kinds]
        if not rows:
            return None
        name = f"file-{uuid4().hex}"
        self._files[name] = "".join(json.dumps(row) + "\n" for row in rows).encode()
        return name

    # --- Anthropic ----------------------------------------------------------------------------

    def _anthropic(self, method: str, parts: list[str], raw: bytes) -> tuple[int, bytes]:
        if not parts:
            if method == "POST":
                return 200, _json(_as_anthropic(self._handed_to_anthropic(_object(raw))))
            all_of = sorted(self._batches.values(), key=lambda b: b.created, reverse=True)
            page = {"data": [_as_anthropic(b) for b in all_of], "has_more": False}
            return 200, _json({**page, "first_id": None, "last_id": None})
        batch = self._found(parts[0])
        if parts[1:] == ["results"]:
            rows = (anthropic_row(row) for row in batch.results)
            return 200, "".join(json.dumps(row) + "\n" for row in rows).encode()
        if parts[1:] == ["cancel"]:
            self._end(batch, "cancelled")
        else:
            self._poll(batch)
        return 200, _json(_as_anthropic(batch))

    def _handed_to_anthropic(self, body: Mapping[str, Any]) -> _Batch:
        try:
            rows = [
                {"custom_id": str(row["custom_id"]), "body": dict(row["params"])}
                for row in body.get("requests") or []
            ]
        except (ValueError, KeyError, TypeError) as error:
            raise _RefusedError(400, f"a request needs custom_id and params: {error!r}") from error
        if not rows or len({row["custom_id"] for row in rows}) != len(rows):
            raise _RefusedError(400, "requests need custom_ids that are all different")
        if self.rules.refuse:
            raise _RefusedError(400, self.rules.refuse)
        batch = _Batch(id=f"msgbatch_{uuid4().hex}", rows=rows, created=datetime.now(UTC))
        self._batches[batch.id] = batch
        return batch

    # --- both ---------------------------------------------------------------------------------

    def _found(self, name: str) -> _Batch:
        if name not in self._batches:
            raise _RefusedError(404, f"no such batch: {name}")
        return self._batches[name]

    def _poll(self, batch: _Batch) -> None:
        batch.polls += 1
        if batch.ended is None and batch.polls >= self.rules.polls:
            self._end(batch, "expired" if self.rules.expires else "completed")

    def _end(self, batch: _Batch, state: str) -> None:
        if batch.ended is not None:
            return
        batch.state, batch.ended = state, datetime.now(UTC)
        kinds = {"expired": "expired", "cancelled": "cancelled"}
        for row in batch.rows:
            name = row["custom_id"]
            if state in kinds:
                batch.results.append({"custom_id": name, "kind": kinds[state]})
            else:
                batch.results.append({"custom_id": name, **self._row(row["body"], batch)})
        if self.rules.shuffle is not None:
            self.rules.shuffle.shuffle(batch.results)

    def _row(self, body: dict[str, Any], batch: _Batch) -> dict[str, Any]:
        request = ChatRequest(body=as_chat(body), headers={})
        answer = self._answer(request)
        if isinstance(answer, Dropped):
            return {"kind": "expired"}
        if not isinstance(answer, Reply):
            status = 429 if isinstance(answer, RateLimited) else answer.status
            told = "rate limit reached" if isinstance(answer, RateLimited) else answer.message
            return {"kind": "error", "status": status, "message": told}
        completion = complete(request, answer, prompt_cache=None)
        self._bill(completion.usage, request.model)
        for source, target in (("prompt", "input"), ("completion", "output"), ("total", "total")):
            name = f"{target}_tokens"
            batch.usage[name] = batch.usage.get(name, 0) + completion.usage[f"{source}_tokens"]
        made = completion.as_json()
        return {"kind": "answered", "completion": made, "reply": answer, "model": request.model}


def _object(raw: bytes) -> dict[str, Any]:
    try:
        return dict(json.loads(raw))
    except (ValueError, TypeError) as error:
        raise _RefusedError(400, f"the body is not a JSON object: {error}") from error


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value).encode()


def _file(name: str, size: int) -> dict[str, Any]:
    about = {"id": name, "object": "file", "bytes": size, "created_at": int(time.time())}
    return {**about, "filename": "batch.jsonl", "purpose": "batch", "status": "processed"}


def _uploaded(content_type: str, raw: bytes) -> bytes:
    """Return the file of a multipart form."""
    message = BytesParser(policy=HTTP).parsebytes(
        b"content-type: " + content_type.encode() + b"\r\n\r\n" + raw
    )
    for part in message.iter_parts() if message.is_multipart() else ():
        if part.get_param("name", header="content-disposition") == "file":
            return bytes(part.get_payload(decode=True))
    raise _RefusedError(400, "the form has no file")


def _as_anthropic(batch: _Batch) -> dict[str, Any]:
    kinds = [row["kind"] for row in batch.results]
    return {
        "id": batch.id,
        "type": "message_batch",
        "processing_status": "ended" if batch.ended else "in_progress",
        "request_counts": {
            "processing": 0 if batch.ended else len(batch.rows),
            "succeeded": kinds.count("answered"),
            "errored": kinds.count("error"),
            "canceled": kinds.count("cancelled"),
            "expired": kinds.count("expired"),
        },
        "created_at": batch.created.isoformat(),
        "expires_at": (batch.created + _LIFE).isoformat(),
        "ended_at": batch.ended.isoformat() if batch.ended else None,
        "archived_at": None,
        "cancel_initiated_at": None,
        "results_url": f"/v1/messages/batches/{batch.id}/results" if batch.ended else None,
    }
