"""Rows of OpenAI's Responses API as rows of chat completions.

Source: https://platform.openai.com/docs/api-reference/responses
"""

import json
from collections.abc import Mapping
from typing import Any

_CUT = {"max_output_tokens": "length", "content_filter": "content_filter"}


def is_responses_request(request: Mapping[str, Any], response: Any) -> bool:
    """Return whether a request without `messages` is one of the Responses API.

    Requests for embeddings have an `input` too: strings or token ids.
    """
    given = request.get("input")
    if isinstance(response, dict) and ("data" in response or response.get("object") == "list"):
        return False
    if isinstance(given, str):
        return "embedding" not in str(request.get("model"))
    return isinstance(given, list) and bool(given) and all(isinstance(i, dict) for i in given)


def chat_request(request: Mapping[str, Any]) -> dict[str, Any]:
    """Return the request with `messages`, and with tools as chat completions name them."""
    kept = {k: v for k, v in request.items() if k not in ("input", "instructions", "tools")}
    messages: list[dict[str, Any]] = []
    if request.get("instructions"):
        messages.append({"role": "system", "content": str(request["instructions"])})
    given = request["input"]
    items = [{"role": "user", "content": given}] if isinstance(given, str) else given
    for item in items:
        _append(messages, item)
    if isinstance(tools := request.get("tools"), list):
        kept["tools"] = [_tool(tool) for tool in tools]
    return {**kept, "messages": messages}


def chat_response(response: Mapping[str, Any]) -> dict[str, Any]:
    """Return the response with `choices`; without any if it has no output."""
    items = response.get("output")
    if not isinstance(items, list):
        return dict(response)
    messages: list[dict[str, Any]] = []
    for item in items:
        # What it thought, searched and ran on the way is no part of the answer.
        if isinstance(item, dict) and item.get("type") in ("message", "function_call"):
            _append(messages, item)
    if not messages:
        return {k: v for k, v in response.items() if k != "output"}
    message: dict[str, Any] = {
        "role": "assistant",
        "content": "".join(_text(each["content"]) for each in messages),
        "tool_calls": [call for each in messages for call in each.get("tool_calls", ())],
    }
    reason = response.get("incomplete_details")
    cut = reason.get("reason") if isinstance(reason, dict) else None
    finished = _CUT.get(str(cut), "tool_calls" if message["tool_calls"] else "stop")
    return {**response, "choices": [{"message": message, "finish_reason": finished}]}


def _append(messages: list[dict[str, Any]], item: Mapping[str, Any]) -> None:
    """Add an item to a conversation; tool calls join the assistant's message before them."""
    kind = item.get("type")
    if "role" in item:
        messages.append({"role": item["role"], "content": _content(item.get("content"))})
    elif kind == "function_call":
        given = item.get("arguments") or "{}"
        arguments = given if isinstance(given, str) else json.dumps(given)
        called = {"name": str(item.get("name")), "arguments": arguments}
        call = {"id": str(item.get("call_id")), "type": "function", "function": called}
        if not messages or messages[-1]["role"] != "assistant":
            messages.append({"role": "assistant", "content": ""})
        messages[-1].setdefault("tool_calls", []).append(call)
    elif kind == "function_call_output":
        told = _content(item.get("output"))
        call_id = str(item.get("call_id"))
        messages.append({"role": "tool", "tool_call_id": call_id, "content": told})
    else:
        # Reasoning, references and the provider's own tools are a part of the prompt as they are.
        messages.append({"role": "assistant", "content": json.dumps(item, sort_keys=True)})


def _content(content: Any) -> Any:
    """Return text where there is but text, else blocks as chat completions have them."""
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, list):
        return json.dumps(content)
    blocks = [_block(part) for part in content]
    if all(block.get("type") == "text" for block in blocks):
        return "".join(block["text"] for block in blocks)
    return blocks


def _block(part: Any) -> dict[str, Any]:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind in ("input_text", "output_text", "text"):
        return {"type": "text", "text": str(part.get("text") or "")}
    if kind == "refusal":
        return {"type": "text", "text": str(part.get("refusal") or "")}
    if kind == "input_image":
        url = part.get("image_url") or part.get("file_id") or ""
        return {"type": "image_url", "image_url": {"url": url, "detail": part.get("detail")}}
    return part if isinstance(part, dict) else {"type": "text", "text": str(part)}


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    return "".join(str(block.get("text") or "") for block in content)


def _tool(tool: Any) -> Any:
    if not isinstance(tool, dict) or tool.get("type") != "function" or "function" in tool:
        return tool
    return {"type": "function", "function": {k: v for k, v in tool.items() if k != "type"}}
