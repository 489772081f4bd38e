"""Counts of whole requests: messages, tools, images, files."""

import base64
import io
import struct
import zlib
from pathlib import Path
from typing import Any

import pytest
import tiktoken
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import (
    AIMessage,
    ChatMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI

from langchain_tokenopt.tokens import Calibration, counter_for, image_tokens
from langchain_tokenopt.tokens.image_size import size_of_base64

UNKNOWN_WEBP = base64.b64encode(b"RIFF\0\0\0\0WEBPVP9X" + bytes(40)).decode()
CALL = {"name": "weather", "args": {"city": "Ulm", "days": 3}, "id": "call_1", "type": "tool_call"}
CONVERSATIONS: list[list[Any]] = [
    [HumanMessage("hi")],
    [SystemMessage("Be brief."), HumanMessage("2 + 2?")],
    [HumanMessage("hi", name="anna"), AIMessage("hello"), HumanMessage("how are you?")],
    [HumanMessage("Weather?"), AIMessage("", tool_calls=[CALL])],
    [
        HumanMessage("Weather?"),
        AIMessage("Let me see.", tool_calls=[CALL]),
        ToolMessage("rain", tool_call_id="call_1"),
        AIMessage("It rains."),
    ],
    [HumanMessage([{"type": "text", "text": "one"}, {"type": "text", "text": "two"}])],
    [HumanMessage("数学 🙂 Привет")],
]


@pytest.mark.parametrize("model", ["gpt-4o", "gpt-4"])
@pytest.mark.parametrize("messages", CONVERSATIONS, ids=range(len(CONVERSATIONS)))
def test_messages_count_as_langchain_openai_counts_them(
    messages: list[Any],
    model: str,
    official_files: Path,
    reference: dict[str, tiktoken.Encoding],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(official_files))
    theirs = ChatOpenAI(model=model, api_key="any").get_num_tokens_from_messages(messages)

    assert counter_for(model).count_messages(messages) == theirs


def test_tools_count_as_in_openais_cookbook() -> None:
    """The example of How to count tokens with tiktoken, section 7: 105 by the API for gpt-4o."""
    weather = {
        "type": "function",
        "function": {
            "name": "get_current_weather",
            "description": "Get the current weather in a given location",
            "parameters": {
                "type": "object",
                "properties": {
                    "location": {
                        "type": "string",
                        "description": "The city and state, e.g. San Francisco, CA",
                    },
                    "unit": {
                        "type": "string",
                        "description": "The unit of temperature to return",
                        "enum": ["celsius", "fahrenheit"],
                    },
                },
                "required": ["location"],
            },
        },
    }
    messages = [
        SystemMessage(
            "You are a helpful assistant that can answer to questions about the weather."
        ),
        HumanMessage("What's the weather like in San Francisco?"),
    ]

    assert counter_for("gpt-4o").count_messages(messages, tools=[weather]) == 101
    assert counter_for("gpt-4").count_messages(messages, tools=[weather]) == 105


def test_tools_count_the_same_in_every_form() -> None:
    @tool
    def weather(city: str) -> str:
        """Say the weather."""
        return city

    from langchain_core.utils.function_calling import convert_to_openai_tool

    counter = counter_for("gpt-4o")
    messages = [HumanMessage("hi")]
    plain = counter.count_messages(messages)

    forms = [weather, convert_to_openai_tool(weather)]
    counts = {counter.count_messages(messages, tools=[form]) for form in forms}

    assert len(counts) == 1
    assert counts.pop() > plain


# --- images -----------------------------------------------------------------------------------


def png(width: int, height: int) -> str:
    def chunk(kind: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    made = io.BytesIO()
    made.write(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IEND", b""))
    return base64.b64encode(made.getvalue()).decode()


def image(width: int, height: int, detail: str | None = None) -> dict[str, Any]:
    link: dict[str, Any] = {"url": f"data:image/png;base64,{png(width, height)}"}
    return {"type": "image_url", "image_url": {**link, **({"detail": detail} if detail else {})}}


@pytest.mark.parametrize(
    ("model", "size", "detail", "tokens"),
    [
        # OpenAI's guide: 1024 x 1024 in high detail is 765, 2048 x 4096 is 1105, low is 85.
        ("gpt-4o", (1024, 1024), "high", 765),
        ("gpt-4o", (2048, 4096), "high", 1105),
        ("gpt-4o", (4096, 8192), "low", 85),
        ("gpt-4o", (1, 1), "high", 255),
        ("gpt-4o-mini", (1024, 1024), "high", 2833 + 4 * 5667),
        ("gpt-5", (1024, 1024), "high", 70 + 4 * 140),
        ("o1", (1024, 1024), "high", 75 + 4 * 150),
        # OpenAI's guide on patches: 1024 x 1024 is 1024, 1800 x 2400 is 1452, before the factor.
        ("gpt-4.1-mini", (1024, 1024), None, 1659),
        ("gpt-4.1-mini", (1800, 2400), None, 2353),
        # Anthropic's guide: width * height / 750, 1092 x 1092 is about 1,590.
        ("claude-sonnet-4-5", (1092, 1092), None, 1590),
        ("claude-sonnet-4-5", (200, 200), None, 54),
        # Google's guide: 258 for a small image.
        ("gemini-2.5-pro", (384, 384), None, 258),
        ("gemini-2.5-pro", (1000, 1000), None, 4 * 258),
    ],
)
def test_images_follow_the_documented_formula(
    model: str, size: tuple[int, int], detail: str | None, tokens: int
) -> None:
    counted = image_tokens(image(*size, detail), model=model)

    assert counted.tokens == tokens
    assert counted.estimated == (not model.startswith(("gpt", "o1")))


MODELS = ["gpt-4o", "gpt-4.1-mini", "gpt-5", "gpt-5.4", "claude-opus-4-5", "gemini-2.5-pro", None]


@pytest.mark.parametrize("model", MODELS)
@given(width=st.integers(1, 200_000), height=st.integers(1, 200_000))
def test_an_image_of_any_size_costs_something_and_low_detail_no_more(
    model: str | None, width: int, height: int
) -> None:
    high = image_tokens(image(width, height), model=model)
    low = image_tokens(image(width, height, "low"), model=model)

    assert 0 < low.tokens <= high.tokens
    if not str(model).startswith("gemini"):  # the others scale an image down before they count
        assert high.tokens < 10_000


@pytest.mark.parametrize("model", ["gpt-4o", "gpt-4.1-mini", "claude-opus-4-5", "gemini-2.5-pro"])
@given(width=st.integers(1, 5_000), height=st.integers(1, 5_000))
def test_an_image_on_its_side_costs_the_same(model: str, width: int, height: int) -> None:
    upright = image_tokens(image(width, height), model=model)

    assert image_tokens(image(height, width), model=model) == upright


WEBP = b"RIFF\0\0\0\0WEBP"
JPEG_WITH_THUMBNAIL = (
    b"\xff\xd8"
    b"\xff\xe1\x00\x0a\xff\xc0\x00\x01\x00\x01\x00\x01"  # a frame header inside metadata
    b"\xff\xc4\x00\x04\x00\x00"
    b"\xff\xff\xc2\x00\x0b\x08\x02\x58\x03\x20\x01\x01\x11\x00"
)


@pytest.mark.parametrize(
    "content",
    [
        b"GIF89a" + struct.pack("<HH", 800, 600) + b"\0\0\0",
        JPEG_WITH_THUMBNAIL,
        WEBP + b"VP8X\x0a\0\0\0\0\0\0\0" + struct.pack("<HBHB", 799, 0, 599, 0),
        WEBP + b"VP8 \0\0\0\0\0\0\0\x9d\x01\x2a" + struct.pack("<HH", 800, 600),
        WEBP + b"VP8L\0\0\0\0\x2f" + struct.pack("<I", 799 | 599 << 14),
    ],
    ids=["gif", "jpeg", "webp extended", "webp", "webp lossless"],
)
def test_the_size_is_read_from_the_header_of_every_format(content: bytes) -> None:
    assert size_of_base64(base64.b64encode(content).decode()) == (800, 600)


@given(st.binary(max_size=40), st.sampled_from([b"", b"\xff\xd8", b"\x89PNG", WEBP + b"VP8X"]))
def test_bytes_that_are_no_image_never_raise(content: bytes, start: bytes) -> None:
    size = size_of_base64(base64.b64encode(start + content).decode())

    assert size is None or min(size) > 0


def test_langchains_and_anthropics_image_blocks_are_read() -> None:
    encoded = png(1024, 1024)
    blocks = [
        image(1024, 1024),
        {"type": "image", "base64": encoded, "mime_type": "image/png"},
        {"type": "image", "source": {"type": "base64", "data": encoded}},
        {"type": "input_image", "image_url": f"data:image/png;base64,{encoded}"},
    ]

    assert [image_tokens(block, model="gpt-4o").tokens for block in blocks] == [765] * 4


def test_a_remote_image_is_assumed_never_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    block = {"type": "image_url", "image_url": {"url": "https://example.test/a.png"}}

    counted = image_tokens(block, model="gpt-4o")

    assert (counted.tokens, counted.estimated) == (765, True)


@pytest.mark.parametrize(
    "text", ["", "!!!!", "aGVsbG8=", "iVBORw0KGgo=", "R0lGODlh", "/9j/", UNKNOWN_WEBP]
)
def test_what_is_no_image_has_no_size_and_is_estimated(text: str) -> None:
    block = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{text}"}}

    assert size_of_base64(text) is None
    assert image_tokens(block, model="gpt-4o").estimated


def test_an_image_in_a_message_is_counted_beside_its_text() -> None:
    text = {"type": "text", "text": "What is this?"}
    counter = counter_for("gpt-4o")

    both = counter.count_messages([HumanMessage([text, image(1024, 1024)])])

    assert both == counter.count_messages([HumanMessage([text])]) + 765


def test_a_text_file_is_counted_and_a_pdf_by_its_pages() -> None:
    counter = counter_for("gpt-4o")
    words = base64.b64encode(b"one two three").decode()
    pages = base64.b64encode(b"%PDF /Type /Pages /Type /Page /Type /Page ").decode()

    def count(block: dict[str, Any]) -> int:
        empty = counter.count_messages([HumanMessage([])])
        return counter.count_messages([HumanMessage([block])]) - empty

    text = {"type": "file", "mime_type": "text/plain", "base64": words}
    pdf = {"type": "file", "mime_type": "application/pdf", "base64": pages}
    assert count(text) == counter.count_text("one two three")
    assert count(pdf) == 4_000


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    "block",
    [
        {"type": "text-plain", "text": "one two three"},
        {"type": "document", "source": {"type": "text", "data": "one two three"}},
        {
            "type": "document",
            "source": {"type": "text", "media_type": "text/plain", "data": "one two three"},
        },
        {
            "type": "file",
            "file": {"file_data": f"data:text/plain;base64,{encoded('one two three')}"},
        },
        {"type": "file", "file": {"file_data": f"data:text/csv;base64,{encoded('one two three')}"}},
        {
            "type": "file",
            "base64": f"data:application/json;charset=utf-8;base64,{encoded('one two three')}",
        },
    ],
)
def test_the_text_of_a_file_is_counted_in_every_form(block: dict[str, Any]) -> None:
    counter = counter_for("gpt-4o")
    empty = counter.count_messages([HumanMessage([])])

    assert counter.count_messages([HumanMessage([block])]) - empty == 3


@pytest.mark.parametrize(
    ("block", "tokens"),
    [
        ({"type": "file", "file": {"file_id": "file-1"}}, 2_000),
        ({"type": "file", "mime_type": "application/pdf", "base64": "no base64"}, 2_000),
        ({"type": "input_audio", "input_audio": {"format": "wav"}}, 0),
        ({"type": "input_audio", "input_audio": {"data": encoded("s" * 32_000)}}, 20),
    ],
    ids=["id", "no base64", "no sound", "no header"],
)
def test_what_of_a_file_cannot_be_seen_is_assumed(block: dict[str, Any], tokens: int) -> None:
    counter = counter_for("gpt-4o")
    empty = counter.count_messages([HumanMessage([])])

    assert counter.count_messages([HumanMessage([block])]) - empty == tokens


def test_blocks_are_counted_wherever_their_text_stands() -> None:
    counter = counter_for("gpt-4o")

    def count(*blocks: Any) -> int:
        empty = counter.count_messages([HumanMessage([])])
        return counter.count_messages([HumanMessage(list(blocks))]) - empty

    text: Any = {"type": "text", "text": "one two three"}
    assert count("one two three") == count(text) == 3
    assert count({"type": "refusal", "refusal": "one two three"}) == 3
    result = {"type": "tool_result", "tool_use_id": "1", "content": [text, image(1024, 1024)]}
    assert count(result) == 768
    assert count({"type": "tool_result", "tool_use_id": "1"}) == 0


def test_calls_count_alike_whether_they_were_parsed_or_not() -> None:
    counter = counter_for("gpt-4o")
    raw = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    call = {"name": "f", "args": {"a": 1}, "id": "1"}
    broken = {"name": "f", "args": '{"a": 1}', "id": "1", "error": "cut"}

    counts = {
        counter.count_messages([message])
        for message in (
            AIMessage("", tool_calls=[call]),
            AIMessage("", invalid_tool_calls=[broken]),
            AIMessage("", additional_kwargs={"tool_calls": [raw]}, tool_calls=[call]),
            AIMessage("", additional_kwargs={"function_call": raw["function"]}),
        )
    }

    assert len(counts) == 1
    nothing = AIMessage("", invalid_tool_calls=[{**broken, "name": None, "args": None}])
    assert counter.count_messages([nothing]) == counter.count_messages([AIMessage("")])


def test_a_role_of_ones_own_is_counted_by_its_words() -> None:
    counter = counter_for("gpt-4o")

    short, long = (
        counter.count_messages([ChatMessage("hi", role=role)]) for role in ("user", "one two three")
    )

    assert short == counter.count_messages([HumanMessage("hi")])
    assert long == short + 2


def test_a_tool_that_the_provider_runs_is_counted_by_its_json() -> None:
    counter, hi = counter_for("gpt-4o"), [HumanMessage("hi")]

    plain, placed = (
        counter.count_messages(hi, tools=[tool])
        for tool in (
            {"type": "web_search"},
            {"type": "web_search", "user_location": {"type": "approximate", "city": "Ulm"}},
        )
    )

    assert counter.count_messages(hi) < plain < placed


def test_a_property_that_may_be_anything_costs_nothing() -> None:
    def described(properties: dict[str, Any]) -> int:
        parameters = {"type": "object", "properties": properties}
        tool = {"name": "t", "description": "d", "parameters": parameters}
        return counter_for("gpt-4o").count_messages([HumanMessage("hi")], tools=[tool])

    known = {"x": {"type": "string"}}
    assert described({**known, "any": True}) == described(known)


def test_without_a_calibration_or_a_model_a_counter_learns_nothing() -> None:
    plain, calibration = counter_for("claude-sonnet-4-5"), Calibration()
    before = plain.count_text("one two three")
    plain.learn([HumanMessage("hi")], reported=9_000)
    counter_for(None, calibration=calibration).learn([HumanMessage("hi")], reported=9_000)

    assert plain.count_text("one two three") == before
    assert calibration.ratio("claude-sonnet-4-5") == Calibration().ratio("claude-sonnet-4-5")


def test_a_sound_is_counted_by_its_length() -> None:
    header = b"RIFF\0\0\0\0WAVEfmt " + struct.pack("<IHHIIHH", 16, 1, 1, 8000, 16000, 2, 16)
    wave = header + b"data" + struct.pack("<I", 32_000) + bytes(32_000 - 44)  # two seconds
    sound = {"type": "input_audio", "input_audio": {"data": base64.b64encode(wave).decode()}}
    empty = [HumanMessage([])]

    def count(model: str) -> int:
        counter = counter_for(model)
        return counter.count_messages([HumanMessage([sound])]) - counter.count_messages(empty)

    assert (count("gpt-4o-audio-preview"), count("gemini-2.5-pro")) == (20, 64)


def test_no_tools_cost_nothing_and_each_more_costs_more() -> None:
    def schema(name: str) -> dict[str, Any]:
        return {"name": name, "description": "Do it.", "parameters": {"type": "object"}}

    counter = counter_for("gpt-4o")
    counts = [
        counter.count_messages([HumanMessage("hi")], tools=[schema(n) for n in "abc"[:number]])
        for number in range(4)
    ]

    assert counts[0] == counter.count_messages([HumanMessage("hi")])
    assert counts == sorted(set(counts))


def test_properties_inside_lists_and_unions_are_counted() -> None:
    def described(inner: dict[str, Any]) -> int:
        parameters = {"type": "object", "properties": {"x": inner}}
        tool = {"name": "t", "description": "d", "parameters": parameters}
        return counter_for("gpt-4o").count_messages([HumanMessage("hi")], tools=[tool])

    deep = {"type": "object", "properties": {"y": {"type": "string", "description": "why"}}}
    plain = described({"type": "array", "items": {"type": "object"}})

    assert described({"type": "array", "items": deep}) > plain
    assert described({"anyOf": [deep, {"type": "null"}]}) > described(
        {"anyOf": [{"type": "object"}, {"type": "null"}]}
    )


def test_thoughts_of_earlier_turns_are_not_sent_and_not_counted() -> None:
    counter = counter_for("claude-sonnet-4-5")
    answer = {"type": "text", "text": "4"}
    thoughts: list[Any] = [
        {"type": "thinking", "thinking": "long " * 100},
        {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "long " * 100}]},
    ]

    with_thought = counter.count_messages([AIMessage([*thoughts, answer])])

    assert with_thought == counter.count_messages([AIMessage([answer])])


@given(st.lists(st.text(max_size=20), max_size=5))
def test_each_message_adds_its_own_count_and_nothing_else(texts: list[str]) -> None:
    counter = counter_for("gpt-4o")
    alone = [counter.count_messages([HumanMessage(text)]) - 3 for text in texts]

    assert counter.count_messages([HumanMessage(text) for text in texts]) == 3 + sum(alone)
