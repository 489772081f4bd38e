"""An OpenAI-compatible server on loopback, for real HTTP without a provider."""

import json
import socket
import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

from typing_extensions import override

from langchain_tokenopt.errors import ConfigurationError
from langchain_tokenopt.testing.batches import BatchDesk, BatchRules
from langchain_tokenopt.testing.completion import Completion, complete
from langchain_tokenopt.testing.embedding import Embed, embed_words, embeddings_json
from langchain_tokenopt.testing.prompt_cache import PromptCache
from langchain_tokenopt.testing.wire import (
    Answer,
    ChatRequest,
    Dropped,
    Fault,
    Latency,
    RateLimited,
    Reply,
    Responder,
    ServerError,
)


class LoopbackServer:
    """Answer `ChatOpenAI` and `OpenAIEmbeddings` over HTTP on this machine.

    Speaks `/chat/completions` (streams with `stream_options`, `n`, logprobs, tools, stop words,
    token limits, service tiers), `/embeddings`, `/models`, and the Batch APIs of OpenAI (`/files`,
    `/batches`) and Anthropic (`/messages/batches`). Usage is counted as the provider
    counts it. Use it as a context manager.

    Args:
        answers: A function of the request, or a script whose entries are given in turn: a text, a
            `Reply`, or a fault (`RateLimited`, `ServerError`, `Dropped`).
        prompt_cache: Simulates a provider's prompt cache; `None` for a provider without one.
        batches: How batches are treated; their rows are answered as chat requests are.
        latency: Of replies that name none.
        embed: Makes the vectors.

    >>> from langchain_openai import ChatOpenAI
    >>> with LoopbackServer(["four"]) as server:
    ...     model = ChatOpenAI(model="gpt-5-mini", base_url=server.base_url, api_key="any")
    ...     model.invoke("2 + 2?").text
    'four'
    """

    def __init__(
        self,
        answers: Responder | Iterable[Answer],
        *,
        prompt_cache: PromptCache | None = None,
        latency: Latency | None = None,
        embed: Embed = embed_words,
        batches: BatchRules | None = None,
    ) -> None:
        if isinstance(answers, str):
            message = f"answers must be a function or a list of answers, got the text {answers!r}"
            raise ConfigurationError(message)
        self._respond = answers if callable(answers) else _script(answers)
        self.prompt_cache = prompt_cache
        self.latency = latency or Latency()
        self.embed = embed
        self.batches = BatchDesk(
            batches or BatchRules(),
            answer=self.answer,
            bill=lambda usage, model: self.bill(usage, model=model),
        )
        self._lock = threading.Lock()
        self._requests: list[ChatRequest] = []
        self._billed: list[dict[str, Any]] = []
        self._errors: list[Exception] = []
        self._abandoned = 0
        self._http: _Http | None = None
        self._thread: threading.Thread | None = None

    @property
    def base_url(self) -> str:
        """What to give to a client as `base_url`."""
        if self._http is None:
            message = "the server is not running; use it as `with LoopbackServer(...) as server:`"
            raise ConfigurationError(message)
        return f"http://127.0.0.1:{self._http.server_address[1]}/v1"

    @property
    def requests(self) -> list[ChatRequest]:
        """The chat requests so far, in the order of their arrival."""
        with self._lock:
            return list(self._requests)

    @property
    def billed(self) -> list[dict[str, Any]]:
        """The usage of every chat or embeddings request that was answered, streams cut short too.

        What a provider would bill, whether or not the client ever saw it.
        """
        with self._lock:
            return list(self._billed)

    @property
    def errors(self) -> list[Exception]:
        """What `answers` raised; the client got a status 500 with the text of it."""
        with self._lock:
            return list(self._errors)

    @property
    def abandoned(self) -> int:
        """How many clients hung up before they had the whole answer."""
        with self._lock:
            return self._abandoned

    def __enter__(self) -> Self:
        self._http = _Http(self)
        self._thread = threading.Thread(
            target=self._http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True
        )
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        http, thread = self._http, self._thread
        self._http = self._thread = None
        if http is not None and thread is not None:
            http.shutdown()
            thread.join()
            http.hang_up()
            http.server_close()

    def answer(self, request: ChatRequest) -> Reply | Fault:
        """Return the answer to a request, and note the request."""
        with self._lock:
            self._requests.append(request)
        try:
            given = self._respond(request)
        except Exception as error:  # noqa: BLE001 - told to the client, and kept for the test
            with self._lock:
                self._errors.append(error)
            return ServerError(message=f"{type(error).__name__}: {error}")
        return Reply(text=given) if isinstance(given, str) else given

    def bill(self, usage: Mapping[str, Any], *, model: str) -> None:
        """Note what a request costs."""
        with self._lock:
            self._billed.append({"model": model, **usage})

    def hung_up(self) -> None:
        """Note that a client went away."""
        with self._lock:
            self._abandoned += 1


def _script(answers: Iterable[Answer]) -> Responder:
    left = iter(answers)
    lock = threading.Lock()

    def respond(request: ChatRequest) -> Answer:
        with lock:
            answer = next(left, None)
        if answer is None:
            return ServerError(status=404, message=f"the script has no answer to {request.text!r}")
        return answer

    return respond


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    # Closing must not wait for a client that keeps its connection for the next request.
    block_on_close = False
    request_queue_size = 256

    def __init__(self, owner: LoopbackServer) -> None:
        self.owner = owner
        self._open: set[socket.socket] = set()
        super().__init__(("127.0.0.1", 0), _Handler)

    def hang_up(self) -> None:
        """Close the connections that clients keep for their next request."""
        for connection in list(self._open):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    @override
    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    @override
    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    @override
    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print errors, but not that a client closed a connection that it kept for later."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Http

    @override
    def log_message(self, format: str, *args: Any) -> None:
        """Keep quiet: requests are in `LoopbackServer.requests`."""

    def _of_batch(self, raw: bytes = b"") -> bool:
        """Answer a request about files and batches, and return whether it was one."""
        headers = {name.lower(): value for name, value in self.headers.items()}
        answer = self.server.owner.batches.handle(self.command, self.path, headers, raw)
        if answer is not None:
            self._send_bytes(*answer)
        return answer is not None

    def do_DELETE(self) -> None:
        """Delete a file."""
        if not self._of_batch():
            self._fail(404, f"no such path: {self.path}")

    def do_GET(self) -> None:
        """Tell of batches, or list the one model there is: whichever is asked for."""
        if self._of_batch():
            return
        if self.path.removeprefix("/v1").rstrip("/") == "/models":
            model = {"id": "loopback", "object": "model", "created": 0, "owned_by": "loopback"}
            self._send(200, {"object": "list", "data": [model]})
        else:
            self._fail(404, f"no such path: {self.path}")

    def do_POST(self) -> None:
        """Answer a chat, an embeddings or a batch request."""
        raw = self.rfile.read(int(self.headers.get("content-length") or 0))
        if self._of_batch(raw):
            return
        path = self.path.removeprefix("/v1").rstrip("/")
        try:
            body = json.loads(raw)
            needed = {"/chat/completions": "messages", "/embeddings": "input"}.get(path)
            if needed is None:
                self._fail(404, f"no such path: {self.path}")
                return
            if not isinstance(body.get("model"), str) or not body.get(needed):
                self._fail(400, f"a request needs `model` and `{needed}`")
                return
        except (ValueError, AttributeError) as error:
            self._fail(400, f"the body is not a JSON object: {error}")
            return
        if needed == "input":
            answer = embeddings_json(body, embed=self.server.owner.embed)
            self.server.owner.bill(answer["usage"], model=body["model"])
            self._send(200, answer)
            return
        headers = {name.lower(): value for name, value in self.headers.items()}
        self._chat(ChatRequest(body=body, headers=headers))

    def _chat(self, request: ChatRequest) -> None:
        owner = self.server.owner
        answer = owner.answer(request)
        if isinstance(answer, ServerError):
            self._fail(answer.status, answer.message)
        elif isinstance(answer, RateLimited):
            wait = answer.retry_after_s
            headers = {} if wait is None else {"retry-after": f"{wait:g}"}
            self._fail(429, "rate limit reached", headers=headers, code="rate_limit_exceeded")
        elif isinstance(answer, Dropped) and not (answer.reply and request.stream):
            self._drop()
        else:
            reply = answer.reply if isinstance(answer, Dropped) else answer
            cut = answer.after_pieces if isinstance(answer, Dropped) else None
            completion = complete(request, reply or Reply(), prompt_cache=owner.prompt_cache)
            owner.bill(completion.usage, model=request.model)
            latency = completion.reply.latency or owner.latency
            time.sleep(latency.first_token_s)
            try:
                if request.stream:
                    self._stream(completion, latency=latency, cut=cut)
                else:
                    time.sleep(latency.per_token_s * completion.usage.get("completion_tokens", 0))
                    self._send(200, completion.as_json())
            except ConnectionError:
                self.close_connection = True
                owner.hung_up()

    def _stream(self, completion: Completion, *, latency: Latency, cut: int | None) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for number, event in enumerate(completion.events()):
            if cut is not None and number > cut:  # the first event holds no text
                self._drop()
                return
            self._chunk(f"data: {json.dumps(event)}\n\n".encode())
            if event["choices"]:
                time.sleep(latency.per_token_s)
        self._chunk(b"data: [DONE]\n\n")
        self._chunk(b"")

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))

    def _drop(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def _fail(
        self, status: int, message: str, *, headers: Mapping[str, str] | None = None, code: str = ""
    ) -> None:
        error = {"message": message, "type": "loopback_error", "param": None, "code": code or None}
        self._send(status, {"error": error}, headers=headers)

    def _send(
        self, status: int, body: Mapping[str, Any], *, headers: Mapping[str, str] | None = None
    ) -> None:
        self._send_bytes(status, json.dumps(body).encode(), headers=headers)

    def _send_bytes(
        self, status: int, data: bytes, *, headers: Mapping[str, str] | None = None
    ) -> None:
        self.send_response(status)
        sent: Sequence[tuple[str, str]] = [
            ("content-type", "application/json"),
            ("content-length", str(len(data))),
            *(headers or {}).items(),
        ]
        for name, value in sent:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)
