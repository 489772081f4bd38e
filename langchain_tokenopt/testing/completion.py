"""The JSON of OpenAI's chat completions: one object, or the events of a stream."""

import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from langchain_core.messages import BaseMessage, convert_to_messages

from langchain_tokenopt.testing.prompt_cache import PromptCache
from langchain_tokenopt.testing.wire import ChatRequest, Reply
from langchain_tokenopt.tokens import counter_for

_PIECE = re.compile(r"\s*\S+\s*$|\s*\S+|\s+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """One answered request: its choices and what it is billed."""

    request: ChatRequest
    reply: Reply
    pieces: tuple[str, ...]
    finish_reason: str
    usage: dict[str, Any]
    id: str
    created: int

    def as_json(self) -> dict[str, Any]:
        """Return the body of an answer that is not streamed."""
        message: dict[str, Any] = {
            "role": "assistant",
            "content": "".join(self.pieces) or None,
            "refusal": None,
        }
        if self.reply.tool_calls:
            message["tool_calls"] = _tool_calls(self.reply)
        choices = [
            {
                "index": index,
                "message": message,
                "finish_reason": self.finish_reason,
                "logprobs": self._logprobs(range(len(self.pieces))),
            }
            for index in range(self.request.n)
        ]
        return {**self._head("chat.completion"), "choices": choices, "usage": self.usage}

    def events(self) -> Iterator[dict[str, Any]]:
        """Yield the events of a stream; each piece of text is one."""
        head = self._head("chat.completion.chunk")
        options = self.request.body.get("stream_options") or {}
        with_usage = bool(options.get("include_usage"))
        if with_usage:
            head["usage"] = None
        for index in range(self.request.n):
            yield {**head, "choices": [_choice(index, {"role": "assistant", "content": ""})]}
            for number, piece in enumerate(self.pieces):
                choice = _choice(index, {"content": piece})
                choice["logprobs"] = self._logprobs([number])
                yield {**head, "choices": [choice]}
            for delta in _tool_call_deltas(self.reply):
                yield {**head, "choices": [_choice(index, {"tool_calls": [delta]})]}
            yield {**head, "choices": [_choice(index, {}, self.finish_reason)]}
        if with_usage:
            yield {**head, "choices": [], "usage": self.usage}

    def _head(self, kind: str) -> dict[str, Any]:
        head = {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.request.model,
            "system_fingerprint": "fp_loopback",
        }
        tier = self.reply.service_tier or self.request.body.get("service_tier")
        return {**head, "service_tier": tier} if tier else head

    def _logprobs(self, numbers: Sequence[int]) -> dict[str, Any] | None:
        if not self.request.body.get("logprobs"):
            return None
        given = self.reply.token_logprobs or ()
        most = int(self.request.body.get("top_logprobs") or 0)
        content = []
        for number in numbers:
            token = self.pieces[number]
            entry = {
                "token": token,
                "logprob": float(given[number]) if number < len(given) else 0.0,
                "bytes": list(token.encode(errors="replace")),
            }
            content.append({**entry, "top_logprobs": [entry][:most]})
        return {"content": content, "refusal": None}


def complete(request: ChatRequest, reply: Reply, *, prompt_cache: PromptCache | None) -> Completion:
    """Return the completion of a reply: cut to the request's limits, counted and billed."""
    counter = counter_for(request.model)
    text, finish_reason = _stopped(reply.text, request.body.get("stop")), reply.finish_reason
    pieces: Sequence[str] = _PIECE.findall(text)
    limit = request.body.get("max_completion_tokens") or request.body.get("max_tokens")
    if limit is not None and counter.count_text(text) > limit:
        pieces = _cut(pieces, limit=int(limit), counter=counter)
        finish_reason = finish_reason or "length"
    finish_reason = finish_reason or ("tool_calls" if reply.tool_calls else "stop")
    usage = dict(reply.usage or {}) or _count(
        request, reply, "".join(pieces), counter=counter, prompt_cache=prompt_cache
    )
    return Completion(
        request=request,
        reply=reply,
        pieces=tuple(pieces),
        finish_reason=finish_reason,
        usage=usage,
        id=f"chatcmpl-{uuid4().hex}",
        created=int(time.time()),
    )


def _count(
    request: ChatRequest, reply: Reply, text: str, *, counter: Any, prompt_cache: PromptCache | None
) -> dict[str, Any]:
    read = counter.count_messages(
        as_messages(request.messages), tools=request.body.get("tools") or ()
    )
    calls = (f"{call['name']}{json.dumps(call['args'])}" for call in reply.tool_calls)
    each = counter.count_text(text) + sum(map(counter.count_text, calls))
    written = each * request.n + reply.reasoning_tokens
    details: dict[str, int] = {"cached_tokens": 0, "audio_tokens": 0}
    if prompt_cache is not None:
        cached, stored = prompt_cache.read(
            request.body, input_tokens=read, count_text=counter.count_text
        )
        details["cached_tokens"] = cached
        if prompt_cache.reports_writes:
            details["cache_write_tokens"] = stored
    return {
        "prompt_tokens": read,
        "completion_tokens": written,
        "total_tokens": read + written,
        "prompt_tokens_details": details,
        "completion_tokens_details": {
            "reasoning_tokens": reply.reasoning_tokens,
            "audio_tokens": 0,
        },
    }


def as_messages(messages: Sequence[Mapping[str, Any]]) -> list[BaseMessage]:
    """Return messages in OpenAI's form as LangChain's."""
    roles = {"developer": "system"}
    return convert_to_messages(
        [
            {
                **message,
                "role": roles.get(message["role"], message["role"]),
                "content": message.get("content") or "",
            }
            for message in messages
        ]
    )


def _stopped(text: str, stop: str | Sequence[str] | None) -> str:
    words = [stop] if isinstance(stop, str) else list(stop or ())
    ends = [text.find(word) for word in words if word and word in text]
    return text[: min(ends)] if ends else text


def _cut(pieces: Sequence[str], *, limit: int, counter: Any) -> list[str]:
    kept = list(pieces)
    while kept and counter.count_text("".join(kept)) > limit:
        kept.pop()
    return kept


def _choice(
    index: int, delta: Mapping[str, Any], finish_reason: str | None = None
) -> dict[str, Any]:
    return {"index": index, "delta": dict(delta), "finish_reason": finish_reason, "logprobs": None}


def _tool_calls(reply: Reply) -> list[dict[str, Any]]:
    return [
        {
            "id": call.get("id") or f"call_{uuid4().hex[:24]}",
            "type": "function",
            "function": {"name": call["name"], "arguments": json.dumps(call["args"])},
        }
        for call in reply.tool_calls
    ]


def _tool_call_deltas(reply: Reply) -> Iterator[dict[str, Any]]:
    """Yield each call as its head and then its arguments in two parts, as OpenAI does."""
    for index, call in enumerate(_tool_calls(reply)):
        arguments = call["function"]["arguments"]
        half = len(arguments) // 2
        yield {**call, "index": index, "function": {**call["function"], "arguments": ""}}
        for part in (arguments[:half], arguments[half:]):
            yield {"index": index, "function": {"arguments": part}}
