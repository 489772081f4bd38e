"""The row formats of call logs, each turned into the fields of a `LoggedCall`.

Rows are data that others wrote: serialised LangChain messages are read field by field, never
loaded.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, TypeGuard

from langchain_core.messages import AIMessage, BaseMessage, convert_to_messages

from langchain_tokenopt.advisor.responses_format import (
    chat_request,
    chat_response,
    is_responses_request,
)


class RowError(ValueError):
    """A row lacks what a call needs; the message says what."""


def read_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of one call.

    Raises:
        RowError: The row is in none of the known formats or lacks messages.
    """
    if row.get("run_type") is not None or "session_id" in row:
        fields = _langsmith(row)
    elif row.get("type") == "GENERATION" or "usageDetails" in row or "traceId" in row:
        fields = _langfuse(row)
    else:
        fields = _openai(row)
    tools = fields["parameters"].get("tools") or []
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        message = f"`tools` must be a list of objects, got {type(tools).__name__}"
        raise RowError(message)
    return fields


def _openai(row: Mapping[str, Any]) -> dict[str, Any]:
    request = row.get("request") or row.get("body") or row
    response = row.get("response") or {}
    if isinstance(response, dict) and isinstance(response.get("body"), dict):
        response = response["body"]  # a row of the Batch API's output file
    if isinstance(request, dict) and "messages" not in request:
        if is_responses_request(request, response):
            request, response = chat_request(request), chat_response(_object(response))
        elif "input" in request:
            message = "a request for embeddings; only requests that are answered in text are read"
            raise RowError(message)
    if not isinstance(request, dict) or "messages" not in request:
        message = (
            "no `messages` or `input` found; expected them in `request`, in `body` or at the top, "
            f"got the keys {sorted(row)[:8]}"
        )
        raise RowError(message)
    answer = _answer(response, model=str(request.get("model") or ""))
    served = _object(response)
    at = _time(
        row.get("created_at")
        or row.get("timestamp")
        or row.get("created")
        or served.get("created_at")
        or served.get("created")
    )
    apart = {"messages", "model", "stream", "stream_options", "response", "metadata", "id"}
    known = {"request", "body", "created_at", "timestamp", "created", "latency_s", "custom_id"}
    return {
        "id": row.get("id") or row.get("custom_id"),
        "model": str(request.get("model") or "unknown"),
        "messages": _messages(request["messages"]),
        "answer": answer,
        "at": at,
        "latency_s": _number(row.get("latency_s")),
        "parameters": {k: v for k, v in request.items() if k not in apart | known},
        "metadata": _object(row.get("metadata")),
        "error": _error(row.get("error") or served.get("error")),
    }


def _langsmith(row: Mapping[str, Any]) -> dict[str, Any]:
    if row.get("run_type") not in (None, "llm"):
        message = f"a LangSmith run of type {row['run_type']!r}; only `llm` runs are model calls"
        raise RowError(message)
    inputs, outputs = _object(row.get("inputs")), _object(row.get("outputs"))
    extra = _object(row.get("extra"))
    metadata = _object(extra.get("metadata"))
    parameters = _object(extra.get("invocation_params"))
    messages = inputs.get("messages")
    if messages is None:
        message = f"a LangSmith run without `inputs.messages`, got {sorted(inputs)[:8]}"
        raise RowError(message)
    if isinstance(messages, list) and len(messages) == 1 and isinstance(messages[0], list):
        messages = messages[0]  # one prompt of a batch: LangChain's own tracer writes it so
    model = metadata.get("ls_model_name") or parameters.get("model") or parameters.get("model_name")
    start, end = _time(row.get("start_time")), _time(row.get("end_time"))
    return {
        "id": row.get("id"),
        "model": str(model or "unknown"),
        "messages": _messages(messages),
        "answer": _answer(_langsmith_response(outputs), model=str(model or "")),
        "at": start,
        "latency_s": (end - start).total_seconds() if start and end else None,
        "parameters": {k: v for k, v in parameters.items() if k not in ("model", "model_name")},
        "metadata": metadata,
        "error": _error(row.get("error")),
    }


def _langsmith_response(outputs: Mapping[str, Any]) -> Any:
    generations = outputs.get("generations")
    while isinstance(generations, list) and generations:
        generations = generations[0]
    if isinstance(generations, dict):
        text = generations.get("text") or ""
        return generations.get("message") or {"role": "assistant", "content": text}
    return outputs.get("message") or outputs


def _langfuse(row: Mapping[str, Any]) -> dict[str, Any]:
    if row.get("type") not in (None, "GENERATION"):
        message = f"a Langfuse observation of type {row['type']!r}; only GENERATION is a model call"
        raise RowError(message)
    prompt = row.get("input")
    if isinstance(prompt, dict):
        prompt = prompt.get("messages", [prompt] if "role" in prompt else None)
    if isinstance(prompt, str):
        prompt = [{"role": "user", "content": prompt}]
    if not isinstance(prompt, list):
        message = f"a Langfuse generation without messages in `input`, got {type(prompt).__name__}"
        raise RowError(message)
    usage = _object(row.get("usageDetails")) or _object(row.get("usage"))
    output = row.get("output")
    if isinstance(output, str):
        output = {"role": "assistant", "content": output}
    start, end = _time(row.get("startTime")), _time(row.get("endTime"))
    model = str(row.get("model") or "unknown")
    return {
        "id": row.get("id"),
        "model": model,
        "messages": _messages(prompt),
        "answer": _answer({"message": output, "usage": usage} if output else {}, model=model),
        "at": start,
        "latency_s": (end - start).total_seconds() if start and end else None,
        "parameters": _object(row.get("modelParameters")),
        "metadata": _object(row.get("metadata")),
        "error": _error(row.get("statusMessage") or True) if row.get("level") == "ERROR" else None,
    }


_NO_COUNT = 10**12  # no request has as many tokens; nor is NaN a count

_ROLES = {"human": "user", "ai": "assistant", "system": "system", "tool": "tool"}
_CLASSES = {
    "HumanMessage": "human",
    "AIMessage": "ai",
    "AIMessageChunk": "ai",
    "SystemMessage": "system",
    "ToolMessage": "tool",
}


def _messages(value: Any) -> tuple[BaseMessage, ...]:
    if not isinstance(value, list) or not value:
        message = f"`messages` must be a list with at least one message, got {value!r:.80}"
        raise RowError(message)
    try:
        return tuple(convert_to_messages([_plain(message) for message in value]))
    except (ValueError, TypeError, KeyError, IndexError, NotImplementedError) as error:
        message = f"a message cannot be read: {error}"
        raise RowError(message) from error


def _plain(message: Any) -> Any:
    """Return a serialised LangChain message as a role dictionary, others as they are."""
    if not isinstance(message, dict):
        return message
    fields, kind = message, message.get("type")
    if message.get("lc") == 1 and isinstance(message.get("kwargs"), dict):
        fields, kind = message["kwargs"], _CLASSES.get(message["id"][-1])
    elif isinstance(message.get("data"), dict):
        fields = message["data"]
    elif "role" in message:
        return {"content": "", **{k: v for k, v in message.items() if v is not None}}
    if kind not in _ROLES:
        error = f"expected a message with a `role`, got the keys {sorted(message)[:8]}"
        raise ValueError(error)
    kept = {k: fields[k] for k in ("name", "tool_calls", "tool_call_id") if fields.get(k)}
    return {"role": _ROLES[kind], "content": fields.get("content") or "", **kept}


def _answer(response: Any, *, model: str) -> AIMessage | None:
    if not isinstance(response, dict) or not response:
        return None
    choices = response.get("choices")
    choice = _object(choices[0]) if isinstance(choices, list) and choices else {}
    raw = choice.get("message")
    raw = raw or response.get("message") or (response if _is_message(response) else None)
    if not raw:
        return None
    if isinstance(raw, dict) and "content" in raw and not {"role", "lc"} & raw.keys():
        raw = {"role": "assistant", **raw}
    (message,) = _messages([raw])
    if not isinstance(message, AIMessage):
        error = f"the answer must come from the assistant, got a message of type {message.type!r}"
        raise RowError(error)
    usage = _object(response.get("usage")) or _object(
        _object(_object(raw).get("kwargs")).get("usage_metadata")
    )
    served = {"model_name": str(response.get("model") or model or "unknown")}
    finished = choice.get("finish_reason")
    if finished is not None:
        served["finish_reason"] = str(finished)
    return message.model_copy(
        update={"usage_metadata": _usage(usage), "response_metadata": served},
    )


def _is_message(response: Mapping[str, Any]) -> bool:
    return "role" in response or response.get("lc") == 1


def _is_count(value: Any) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and 0 <= value < _NO_COUNT


_ELSEWHERE = {
    "cache_read": ("input_cached_tokens", "cache_read_input_tokens"),
    "cache_creation": ("cache_creation_input_tokens",),
}


def _usage(usage: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the counts under LangChain's names, whichever of the three styles they came in."""

    def first(*names: str) -> int | None:
        found = (usage.get(name) for name in names)
        return next((int(n) for n in found if _is_count(n)), None)

    read, written = (
        first("prompt_tokens", "input_tokens", "input"),
        first("completion_tokens", "output_tokens", "output"),
    )
    if read is None or written is None:
        return None
    details = _details(
        usage, "prompt_tokens_details", "input_tokens_details", "input_token_details"
    )
    into = {
        name: int(count)
        for name, found in (
            ("cache_read", (details.get("cached_tokens"), details.get("cache_read"))),
            ("cache_creation", (details.get("cache_write_tokens"), details.get("cache_creation"))),
        )
        for count in (*found, *(usage.get(key) for key in _ELSEWHERE[name]))
        if _is_count(count)
    }
    out = _details(
        usage, "completion_tokens_details", "output_tokens_details", "output_token_details"
    )
    reasoning = out.get("reasoning_tokens") or out.get("reasoning")
    return {
        "input_tokens": read,
        "output_tokens": written,
        "total_tokens": read + written,
        # A 0 is kept: it says that nothing was cached, where silence says nothing.
        **({"input_token_details": into} if into else {}),
        **({"output_token_details": {"reasoning": int(reasoning)}} if reasoning else {}),
    }


def _details(usage: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return next((details for name in names if (details := _object(usage.get(name)))), {})


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _error(value: Any) -> str | None:
    """Return what went wrong as one short line, `None` for nothing."""
    if not value:
        return None
    told = value.get("code") or value.get("type") if isinstance(value, dict) else value
    return " ".join(str(told or "error").split())[:200] if told is not True else "error"


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _time(value: Any) -> datetime | None:
    """Return an aware UTC time from ISO text or Unix seconds or milliseconds."""
    if isinstance(value, int | float) and value > 0:
        seconds = value / 1000 if value > 1e11 else value
        try:
            return datetime.fromtimestamp(seconds, UTC)
        except (ValueError, OverflowError, OSError) as error:
            message = f"the time {value!r} is no Unix time in seconds or milliseconds"
            raise RowError(message) from error
    if not isinstance(value, str):
        return None
    try:
        moment = datetime.fromisoformat(value)
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (ValueError, OverflowError) as error:
        message = f"the time {value!r} is not ISO 8601"
        raise RowError(message) from error
