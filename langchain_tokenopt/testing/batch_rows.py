"""Rows of batches, as OpenAI and Anthropic take and give them."""

from collections.abc import Mapping
from typing import Any
from uuid import uuid4

from langchain_tokenopt.testing.wire import text_of


def as_chat(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return Anthropic's form of a request as OpenAI's; OpenAI's stays."""
    system = body.get("system")
    if system is None:
        return dict(body)
    first = {"role": "system", "content": text_of(system)}
    return {**body, "messages": [first, *body["messages"]]}


def openai_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a line of OpenAI's output file."""
    made: dict[str, Any] = {"id": f"batch_req_{uuid4().hex}", "custom_id": row["custom_id"]}
    if row["kind"] == "answered":
        response = {"status_code": 200, "request_id": uuid4().hex, "body": row["completion"]}
        return {**made, "response": response, "error": None}
    if row["kind"] == "error":
        body = {"error": {"message": row["message"], "type": "loopback_error", "code": None}}
        response = {"status_code": row["status"], "request_id": uuid4().hex, "body": body}
        return {**made, "response": response, "error": None}
    error = {"code": "batch_expired", "message": "not answered within the completion window"}
    return {**made, "response": None, "error": error}


def anthropic_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a line of Anthropic's results."""
    name = {"custom_id": row["custom_id"]}
    if row["kind"] == "error":
        kind = "rate_limit_error" if row["status"] == 429 else "invalid_request_error"
        kind = "api_error" if row["status"] >= 500 else kind
        error = {"type": "error", "error": {"type": kind, "message": row["message"]}}
        return {**name, "result": {"type": "errored", "error": error}}
    if row["kind"] != "answered":
        kind = {"cancelled": "canceled"}.get(row["kind"], row["kind"])
        return {**name, "result": {"type": kind}}
    usage, reply = row["completion"]["usage"], row["reply"]
    content: list[dict[str, Any]] = [{"type": "text", "text": reply.text}] if reply.text else []
    content += [
        {"type": "tool_use", "id": call["id"], "name": call["name"], "input": call["args"]}
        for call in reply.tool_calls
    ]
    message = {
        "id": f"msg_{uuid4().hex}",
        "type": "message",
        "role": "assistant",
        "model": row["model"],
        "content": content,
        "stop_reason": "tool_use" if reply.tool_calls else "end_turn",
        "stop_sequence": None,
        "usage": {
            "input_tokens": usage["prompt_tokens"],
            "output_tokens": usage["completion_tokens"],
            "service_tier": "batch",
        },
    }
    return {**name, "result": {"type": "succeeded", "message": message}}
