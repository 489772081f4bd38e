"""Play the answers of `payloads.json` through LangChain, over HTTP where a client is installed.

OpenAI's and Anthropic's are answered byte for byte by a server on loopback that `ChatOpenAI` and
`ChatAnthropic` ask; of other providers it is the message that their LangChain client makes.
"""

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from langchain_anthropic import ChatAnthropic
from langchain_core.caches import InMemoryCache
from langchain_core.messages import AIMessage
from langchain_openai import ChatOpenAI

from langchain_tokenopt.caches import MemoryCache
from langchain_tokenopt.testing import ScriptedModel

QUESTION = "What is 2 + 2?"


@dataclass(frozen=True, kw_only=True)
class Payload:
    """An answer with what is billed for it."""

    name: str
    play: str
    """How it is asked for: `invoke`, `responses`, `stream`, `three times, cached`, ..."""
    input: int
    output: int
    parts: Mapping[str, int]
    """The fields of `Usage` beside plain input and output."""
    dollars: Decimal
    sum: str
    """Where the dollars are from: tokens times dollars per million."""
    source: str
    note: str = ""
    options: Mapping[str, Any] | None = None
    """Of the request."""
    body: Mapping[str, Any] | None

    @property
    def provider(self) -> str:
        """LangChain's name of the provider."""
        body = self.body or {}
        if "provider" in body:
            return str(body["provider"])
        return "anthropic" if str(body.get("model")).startswith("claude") else "openai"


def payloads() -> list[Payload]:
    """Return all of them."""
    text = (Path(__file__).parents[1] / "payloads.json").read_text(encoding="utf-8")
    return [Payload(**{**case, "dollars": Decimal(case["dollars"])}) for case in json.loads(text)]


def play(payload: Payload, callbacks: list[Any]) -> list[AIMessage]:
    """Ask for a payload and return the answers; `callbacks` hear of each call."""
    config: Any = {"callbacks": callbacks}
    with _answering(payload) as url:
        model = _model(payload, url)
        if "stream" in payload.play:
            chunks = list(model.stream(QUESTION, config))
            return [sum(chunks[1:], chunks[0])]
        answers = []
        for _ in range(3 if "three times" in payload.play else 1):
            with suppress(Exception):  # a payload that is an error
                answers.append(model.invoke(QUESTION, config))
        return answers


async def aplay(payload: Payload, callbacks: list[Any]) -> list[AIMessage]:
    """Do the same in an event loop."""
    config: Any = {"callbacks": callbacks}
    with _answering(payload) as url:
        model = _model(payload, url)
        if "stream" in payload.play:
            chunks = [chunk async for chunk in model.astream(QUESTION, config)]
            return [sum(chunks[1:], chunks[0])]
        answers = []
        for _ in range(3 if "three times" in payload.play else 1):
            with suppress(Exception):
                answers.append(await model.ainvoke(QUESTION, config))
        return answers


def _model(payload: Payload, url: str) -> Any:
    if payload.play == "message":
        return _scripted(payload)
    name = str((payload.body or {}).get("model", "gpt-5-mini"))
    if payload.provider == "anthropic":
        return ChatAnthropic(model_name=name, api_key="any", base_url=url, timeout=5, stop=None)
    caches: dict[str, Any] = {"cached": InMemoryCache, "our cache": MemoryCache}
    cache = next((make() for word, make in caches.items() if payload.play.endswith(word)), None)
    options = dict(payload.options or {})
    chat: Any = ChatOpenAI(
        model=name,
        base_url=f"{url}/v1",
        api_key="any",
        stream_usage=True,
        use_responses_api=payload.play.startswith("responses"),
        cache=cache,
        max_retries=2 if payload.play == "429 first" else 0,
        n=options.pop("n", None),
    )
    if "with_retry" in payload.play:
        return chat.with_retry(wait_exponential_jitter=False)
    return chat.bind(**options) if options else chat


def _scripted(payload: Payload) -> ScriptedModel:
    body = payload.body or {}
    usage, served = body["usage_metadata"], body["response_metadata"]
    return ScriptedModel(
        [AIMessage("four", usage_metadata=usage, response_metadata=served)],
        model_name=served["model_name"],
        provider=payload.provider,
        usage="counted" if usage else "none",
    )


@contextmanager
def _answering(payload: Payload) -> Iterator[str]:
    statuses = {"429 first": [429], "500 first, with_retry": [500], "400": [400]}
    left = statuses.get(payload.play, [])

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
            status = left.pop(0) if left else 200
            kind = "application/json"
            if status != 200:
                answer = json.dumps({"error": {"message": "no", "type": "x"}})
            elif asked.get("stream"):
                answer, kind = "".join(_events(payload)), "text/event-stream"
            else:
                answer = json.dumps(payload.body)
            data = answer.encode()
            self.send_response(status)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(data)))
            self.send_header("retry-after-ms", "10")
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _events(payload: Payload) -> Iterator[str]:
    body: Any = payload.body
    if payload.provider == "anthropic":
        for event in _claude_events(body):
            yield f"event: {event['type']}\ndata: {json.dumps(event)}\n\n"
    elif payload.play.startswith("responses"):
        for number, event in enumerate(_response_events(body)):
            numbered = json.dumps({**event, "sequence_number": number})
            yield f"event: {event['type']}\ndata: {numbered}\n\n"
    else:
        for chunk in _chat_chunks(body, payload.play):
            yield f"data: {json.dumps(chunk)}\n\n"
        yield "data: [DONE]\n\n"


def _chat_chunks(body: Any, way: str) -> Iterator[dict[str, Any]]:
    usage = body["usage"]
    base = {k: body[k] for k in ("id", "created", "model", "service_tier") if k in body}
    base["object"] = "chat.completion.chunk"
    texts = ("fo", "u", "r", None)
    for number, text in enumerate(texts, 1):
        delta = {} if text is None else {"role": "assistant", "content": text}
        choice = {"index": 0, "delta": delta, "finish_reason": "stop" if text is None else None}
        completed = usage["completion_tokens"]
        if "so far" in way:
            completed = completed * number // len(texts)
        elif "its own" in way:
            completed = int(text is not None)
        of_chunk = {**usage, "completion_tokens": completed}
        of_chunk["total_tokens"] = usage["prompt_tokens"] + completed
        yield {**base, "choices": [choice], **({"usage": of_chunk} if "every" in way else {})}
    if "every" not in way:
        yield {**base, "choices": [], "usage": usage}


def _response_events(body: Any) -> Iterator[dict[str, Any]]:
    begun = {**body, "status": "in_progress", "output": [], "usage": None}
    (item,) = body["output"]
    (part,) = item["content"]
    place = {"output_index": 0, "content_index": 0, "item_id": item["id"]}
    yield {"type": "response.created", "response": begun}
    empty = {**item, "status": "in_progress", "content": []}
    yield {"type": "response.output_item.added", "output_index": 0, "item": empty}
    yield {"type": "response.content_part.added", **place, "part": {**part, "text": ""}}
    for text in ("fo", "ur"):
        yield {"type": "response.output_text.delta", **place, "delta": text, "logprobs": []}
    done = {**place, "text": part["text"], "logprobs": []}
    yield {"type": "response.output_text.done", **done}
    yield {"type": "response.content_part.done", **place, "part": part}
    yield {"type": "response.output_item.done", "output_index": 0, "item": item}
    yield {"type": "response.completed", "response": body}


def _claude_events(body: Any) -> Iterator[dict[str, Any]]:
    usage = body["usage"]
    begun = {**body, "content": [], "stop_reason": None, "usage": {**usage, "output_tokens": 1}}
    yield {"type": "message_start", "message": begun}
    text = {"type": "text", "text": ""}
    yield {"type": "content_block_start", "index": 0, "content_block": text}
    for piece in ("fo", "ur"):
        delta = {"type": "text_delta", "text": piece}
        yield {"type": "content_block_delta", "index": 0, "delta": delta}
    yield {"type": "content_block_stop", "index": 0}
    # The counts of the input come again, as sums so far.
    stop = {"stop_reason": body["stop_reason"], "stop_sequence": None}
    so_far = {k: v for k, v in usage.items() if k.endswith("_tokens")}
    yield {"type": "message_delta", "delta": stop, "usage": so_far}
    yield {"type": "message_stop"}
