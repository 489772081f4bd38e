"""Reading call logs: three formats, and every kind of unreadable line."""

import gzip
import json
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.load import dumpd
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage

from langchain_tokenopt.advisor import read_log
from langchain_tokenopt.advisor.log import iterate_log
from langchain_tokenopt.errors import LogFormatError

OPENAI_ROW: dict[str, Any] = {
    "id": "a",
    "created_at": "2026-11-02T09:00:00+00:00",
    "request": {
        "model": "gpt-5.1",
        "temperature": 0.2,
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "2+2?"},
        ],
    },
    "response": {
        "model": "gpt-5.1-2025-11-13",
        "choices": [{"message": {"role": "assistant", "content": "4"}}],
        "usage": {
            "prompt_tokens": 20,
            "completion_tokens": 5,
            "prompt_tokens_details": {"cached_tokens": 8},
            "completion_tokens_details": {"reasoning_tokens": 3},
        },
    },
    "metadata": {"feature": "maths"},
}


def write(path: Path, *rows: Any) -> Path:
    lines = (row if isinstance(row, str) else json.dumps(row) for row in rows)
    path.write_text("\n".join(lines) + "\n")
    return path


def test_an_openai_row_keeps_model_messages_answer_usage_time_and_metadata(tmp_path: Path) -> None:
    (call,) = read_log(write(tmp_path / "log.jsonl", OPENAI_ROW)).calls

    assert (call.id, call.model, call.line) == ("a", "gpt-5.1", 1)
    assert [type(m) for m in call.messages] == [SystemMessage, HumanMessage]
    assert call.answer is not None
    assert call.answer.text == "4"
    assert call.answer.response_metadata["model_name"] == "gpt-5.1-2025-11-13"
    assert call.answer.usage_metadata == {
        "input_tokens": 20,
        "output_tokens": 5,
        "total_tokens": 25,
        "input_token_details": {"cache_read": 8},
        "output_token_details": {"reasoning": 3},
    }
    assert call.at == datetime(2026, 11, 2, 9, tzinfo=UTC)
    assert call.parameters == {"temperature": 0.2}
    assert call.metadata == {"feature": "maths"}


def test_a_flat_row_and_a_batch_api_row_are_read_too(tmp_path: Path) -> None:
    flat = {**OPENAI_ROW["request"], "response": OPENAI_ROW["response"], "created": 1_793_613_600}
    batch = {"custom_id": "b-1", "url": "/v1/chat/completions", "body": OPENAI_ROW["request"]}

    log = read_log(write(tmp_path / "log.jsonl", flat, batch))

    assert {call.id for call in log.calls} == {"line-1", "b-1"}
    assert {call.messages[-1].text for call in log.calls} == {"2+2?"}
    assert log.problems == ()


def test_tool_calls_and_their_results_survive(tmp_path: Path) -> None:
    call = {"id": "t1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
    row = {
        "request": {
            "model": "m",
            "messages": [
                {"role": "user", "content": "add"},
                {"role": "assistant", "content": None, "tool_calls": [call]},
                {"role": "tool", "tool_call_id": "t1", "content": "2"},
            ],
        },
        "response": {"choices": [{"message": {"role": "assistant", "tool_calls": [call]}}]},
    }

    (read,) = read_log(write(tmp_path / "log.jsonl", row)).calls

    asked, result = read.messages[1], read.messages[2]
    assert isinstance(asked, AIMessage)
    assert asked.tool_calls[0]["args"] == {"a": 1}
    assert isinstance(result, ToolMessage)
    assert result.tool_call_id == "t1"
    assert read.answer is not None
    assert read.answer.tool_calls[0]["name"] == "add"


def responses_row(given: Any, output: list[Any], **more: Any) -> dict[str, Any]:
    response = {
        "object": "response",
        "created_at": 1_790_000_000,
        "model": "gpt-5.1-2025-11-13",
        "output": output,
        "usage": {
            "input_tokens": 20,
            "input_tokens_details": {"cached_tokens": 8},
            "output_tokens": 5,
            "output_tokens_details": {"reasoning_tokens": 3},
        },
        **more,
    }
    request = {"model": "gpt-5.1", "instructions": "Be brief.", "input": given}
    return {"request": request, "response": response}


def says(text: str) -> dict[str, Any]:
    content = [{"type": "output_text", "text": text, "annotations": []}]
    return {"type": "message", "role": "assistant", "content": content}


def test_a_row_of_the_responses_api_is_read(tmp_path: Path) -> None:
    row = responses_row("2+2?", [{"type": "reasoning", "summary": []}, says("4")])

    (call,) = read_log(write(tmp_path / "log.jsonl", row)).calls

    assert [(m.type, m.text) for m in call.messages] == [("system", "Be brief."), ("human", "2+2?")]
    assert call.at == datetime.fromtimestamp(1_790_000_000, UTC)
    assert call.answer is not None
    assert call.answer.text == "4"
    assert call.answer.response_metadata == {
        "model_name": "gpt-5.1-2025-11-13",
        "finish_reason": "stop",
    }
    assert call.answer.usage_metadata == {
        "input_tokens": 20,
        "output_tokens": 5,
        "total_tokens": 25,
        "input_token_details": {"cache_read": 8},
        "output_token_details": {"reasoning": 3},
    }


def test_tools_images_and_what_is_not_understood_of_the_responses_api_survive(
    tmp_path: Path,
) -> None:
    asked = [
        {"type": "input_text", "text": "What is this?"},
        {"type": "input_image", "image_url": "data:image/png;base64,AA==", "detail": "low"},
    ]
    called = {"type": "function_call", "name": "look", "arguments": '{"at": 1}', "call_id": "c1"}
    given = [
        {"role": "user", "content": asked},
        {"type": "reasoning", "encrypted_content": "zzz"},
        called,
        {"type": "function_call_output", "call_id": "c1", "output": "a cat"},
    ]
    again = {**called, "call_id": "c2"}
    row = responses_row(given, [again], incomplete_details={"reason": "max_output_tokens"})
    row["request"]["tools"] = [{"type": "function", "name": "look", "parameters": {}}]

    (call,) = read_log(write(tmp_path / "log.jsonl", row)).calls

    _, question, thought, result = call.messages
    assert question.content[1]["image_url"]["url"] == "data:image/png;base64,AA=="  # type: ignore[index, call-overload]
    assert isinstance(thought, AIMessage)
    assert "zzz" in thought.text
    assert [each["args"] for each in thought.tool_calls] == [{"at": 1}]
    assert isinstance(result, ToolMessage)
    assert (result.text, result.tool_call_id) == ("a cat", "c1")
    assert call.answer is not None
    assert [each["id"] for each in call.answer.tool_calls] == ["c2"]
    assert call.answer.response_metadata["finish_reason"] == "length"
    assert call.parameters["tools"][0]["function"]["name"] == "look"


def test_a_failed_response_is_a_call_with_an_error(tmp_path: Path) -> None:
    row = responses_row("2+2?", [], error={"code": "server_error"})

    (call,) = read_log(write(tmp_path / "log.jsonl", row)).calls

    assert (call.answer, call.error) == (None, "server_error")


KEYS = "type role content text image_url name arguments call_id output tools reason refusal".split()
TYPES = (
    "message function_call function_call_output reasoning input_text input_image refusal".split()
)
VALUES = st.recursive(
    st.none() | st.integers() | st.text(max_size=3) | st.sampled_from(TYPES),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4)
    ),
    max_leaves=12,
)
ITEMS = st.lists(st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=4), max_size=3)


@settings(max_examples=100, deadline=None)
@given(given_items=ITEMS | VALUES, output=ITEMS | VALUES, cut=VALUES, tools=VALUES)
def test_whatever_a_row_of_the_responses_api_holds_is_a_call_or_a_problem(
    given_items: Any, output: Any, cut: Any, tools: Any
) -> None:
    row = responses_row(given_items, output, incomplete_details=cut)
    row["request"]["tools"] = tools
    with tempfile.TemporaryDirectory() as folder:
        read = list(iterate_log(write(Path(folder) / "log.jsonl", row)))

    assert len(read) == 1


@pytest.mark.parametrize(
    "row",
    [
        {"request": {"model": "text-embedding-3-small", "input": "a text"}},
        {"request": {"model": "our-own", "input": ["a", "b"]}},
        {"request": {"model": "our-own", "input": "a"}, "response": {"object": "list", "data": []}},
    ],
)
def test_requests_for_embeddings_are_told(tmp_path: Path, row: dict[str, Any]) -> None:
    log = read_log(write(tmp_path / "log.jsonl", row, OPENAI_ROW))

    assert "embeddings" in log.problems[0].reason
    assert len(log.calls) == 1


def test_a_langsmith_run_with_serialised_messages_is_read(tmp_path: Path) -> None:
    usage = {"input_tokens": 9, "output_tokens": 1, "total_tokens": 10}
    answer = AIMessage("4", usage_metadata=usage)
    row = {
        "id": "run-1",
        "run_type": "llm",
        "session_id": "s",
        "start_time": "2026-11-02T09:00:00.000000",
        "end_time": "2026-11-02T09:00:01.500000",
        "extra": {"metadata": {"ls_model_name": "gpt-5.1", "feature": "faq"}},
        "inputs": {"messages": [[dumpd(SystemMessage("s")), dumpd(HumanMessage("2+2?"))]]},
        "outputs": {"generations": [[{"text": "4", "message": dumpd(answer)}]]},
    }

    (call,) = read_log(write(tmp_path / "log.jsonl", row)).calls

    assert call.model == "gpt-5.1"
    assert [m.text for m in call.messages] == ["s", "2+2?"]
    assert call.latency_s == 1.5
    assert call.answer is not None
    assert call.answer.usage_metadata == usage
    assert call.metadata["feature"] == "faq"


def test_a_langfuse_generation_is_read(tmp_path: Path) -> None:
    row = {
        "id": "obs-1",
        "type": "GENERATION",
        "traceId": "t",
        "model": "gpt-5.1",
        "startTime": "2026-11-02T09:00:00.000Z",
        "endTime": "2026-11-02T09:00:02.000Z",
        "input": [{"role": "user", "content": "2+2?"}],
        "output": {"role": "assistant", "content": "4"},
        "usageDetails": {"input": 9, "output": 1, "total": 10},
    }

    (call,) = read_log(write(tmp_path / "log.jsonl", row)).calls

    assert call.answer is not None
    assert call.answer.text == "4"
    assert call.answer.usage_metadata is not None
    assert call.answer.usage_metadata["input_tokens"] == 9
    assert call.latency_s == 2.0


def test_a_json_array_and_a_gzipped_file_are_read_as_rows(tmp_path: Path) -> None:
    array = tmp_path / "array.json"
    array.write_text(json.dumps([OPENAI_ROW, OPENAI_ROW], indent=1))
    packed = tmp_path / "log.jsonl.gz"
    packed.write_bytes(gzip.compress(json.dumps(OPENAI_ROW).encode()))

    assert len(read_log(array).calls) == 2
    assert len(read_log(packed).calls) == 1


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ("{not json", "not JSON"),
        ("42", "expected a JSON object, got int"),
        ({"request": {"model": "m"}}, "no `messages` or `input` found"),
        ({"request": {"model": "m", "messages": []}}, "at least one message"),
        ({"request": {"model": "m", "messages": [{"content": "?"}]}}, "a message cannot be read"),
        ({**OPENAI_ROW, "created_at": "yesterday"}, "not ISO 8601"),
        ({"run_type": "chain", "inputs": {}}, "only `llm` runs"),
        ({"run_type": "llm", "inputs": {"prompt": "?"}}, "without `inputs.messages`"),
        ({"type": "GENERATION", "input": 7}, "without messages in `input`"),
        ({**OPENAI_ROW, "response": {"choices": [{"message": {"role": "user", "content": "?"}}]}},
         "must come from the assistant"),
    ],
)  # fmt: skip
def test_an_unreadable_line_is_reported_with_its_number_and_the_rest_is_read(
    tmp_path: Path, bad: Any, reason: str
) -> None:
    log = read_log(write(tmp_path / "log.jsonl", OPENAI_ROW, bad, OPENAI_ROW))

    assert len(log.calls) == 2
    (problem,) = log.problems
    assert problem.line == 2
    assert reason in problem.reason


def test_deep_nesting_and_bytes_that_are_not_text_cost_one_line_each(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    good = json.dumps(OPENAI_ROW).encode()
    path.write_bytes(b'{"a":' * 100_000 + b"\n\xff\xfe\x00\n" + good + b"\n")

    log = read_log(path)

    assert [call.id for call in log.calls] == ["a"]
    assert [problem.line for problem in log.problems] == [1, 2]


@pytest.mark.parametrize("content", ["", "\n\n", "nothing here\n"])
def test_a_log_without_one_readable_call_says_what_was_expected(
    tmp_path: Path, content: str
) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text(content)

    with pytest.raises(LogFormatError, match="Expected one JSON object a line"):
        read_log(path)


def test_a_missing_log_or_a_broken_archive_names_the_file(tmp_path: Path) -> None:
    broken = tmp_path / "log.jsonl.gz"
    broken.write_bytes(b"plain text")

    with pytest.raises(LogFormatError, match=r"absent\.jsonl"):
        read_log(tmp_path / "absent.jsonl")
    with pytest.raises(LogFormatError, match="cannot be unpacked"):
        read_log(broken)


def test_calls_come_in_time_order_whatever_their_order_in_the_file(tmp_path: Path) -> None:
    late = {**OPENAI_ROW, "id": "late", "created_at": "2026-11-03T00:00:00Z"}

    log = read_log(write(tmp_path / "log.jsonl", late, OPENAI_ROW))

    assert [call.id for call in log.calls] == ["a", "late"]


def test_a_serialised_constructor_of_another_class_is_not_loaded(tmp_path: Path) -> None:
    hostile = {"lc": 1, "type": "constructor", "id": ["os", "system"], "kwargs": {"command": "id"}}
    row = {"request": {"model": "m", "messages": [hostile]}}

    log = read_log(write(tmp_path / "log.jsonl", row, OPENAI_ROW))

    assert "a message cannot be read" in log.problems[0].reason
