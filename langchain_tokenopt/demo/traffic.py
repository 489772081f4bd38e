"""The bundled traffic, and a loopback server's answers from any call log."""

import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from importlib.resources import as_file, files
from typing import Any

from langchain_core.messages import AIMessage, SystemMessage, convert_to_messages

from langchain_tokenopt.advisor import CallLog, LoggedCall, read_log
from langchain_tokenopt.testing import ChatRequest, Fault, Latency, Reply, ServerError

LARGE_MODEL = "gpt-5.1"
SMALL_MODEL = "gpt-5-mini"

_Conversation = tuple[tuple[str, str], ...]


def bundled_traffic() -> CallLog:
    """Return the traffic that ships with the package: a support assistant's working day.

    The requests and the answers of both models were written for this project; every request
    starts with the same handbook of more than 1,500 tokens, as such an assistant's does.
    """
    folder = files("langchain_tokenopt.demo")
    handbook = SystemMessage((folder / "handbook.md").read_text(encoding="utf-8"))
    with as_file(folder / "traffic.jsonl") as path:
        log = read_log(path)
    calls = (replace(call, messages=(handbook, *call.messages)) for call in log.calls)
    return replace(log, calls=tuple(calls))


class RecordedAnswers:
    """What a `LoopbackServer` answers: the log's answer for the model and the conversation.

    Where a log holds one request with several answers they are given in turn. A request that is
    not in the log gets an error that says so, never a made-up answer.
    """

    def __init__(
        self, calls: Iterable[LoggedCall], *, latencies: Mapping[str, Latency] | None = None
    ) -> None:
        self._latencies = dict(latencies or {})
        self._lock = threading.Lock()
        self._answers: dict[tuple[str, _Conversation], list[AIMessage]] = {}
        self._given: dict[tuple[str, _Conversation], int] = {}
        for call in calls:
            conversation = _conversation([_as_role(message) for message in call.messages])
            if call.answer is not None:
                self._answers.setdefault((call.model, conversation), []).append(call.answer)
            for model, text in call.metadata.get("other_answers", {}).items():
                self._answers.setdefault((model, conversation), []).append(AIMessage(text))

    def __call__(self, request: ChatRequest) -> Reply | Fault:
        """Return the answer, in turn where there are several."""
        key = (request.model, _conversation(request.messages))
        with self._lock:
            answers = self._answers.get(key)
            if not answers:
                asked = request.messages[-1].get("content")
                message = f"the log has no answer of {request.model} to {asked!r:.120}"
                return ServerError(status=404, message=message)
            turn = self._given.get(key, 0)
            self._given[key] = turn + 1
        answer = answers[turn % len(answers)]
        return Reply(
            text=str(answer.text),
            tool_calls=tuple(answer.tool_calls),
            latency=self._latencies.get(request.model),
        )


def _as_role(message: Any) -> dict[str, Any]:
    role = {"human": "user", "ai": "assistant"}.get(message.type, message.type)
    return {"role": role, "content": message.content}


def _conversation(messages: Sequence[Mapping[str, Any]]) -> _Conversation:
    """Return role and text of each message: what a log and a request on the wire share."""
    read = convert_to_messages([{"content": "", **_known(message)} for message in messages])
    return tuple((message.type, str(message.text)) for message in read)


def _known(message: Mapping[str, Any]) -> dict[str, Any]:
    role = {"developer": "system"}.get(message["role"], message["role"])
    kept = {k: v for k, v in message.items() if k in ("content", "tool_call_id") and v is not None}
    return {"role": role, **({"tool_call_id": ""} if role == "tool" else {}), **kept}
