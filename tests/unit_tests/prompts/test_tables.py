"""JSON as tables: fewer tokens, the same data."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage

from langchain_tokenopt import counter_for
from langchain_tokenopt.prompts import TableWriter, as_table, from_table

COUNT = counter_for("gpt-5-mini").count_text
ROWS = [{"id": n, "name": f"Item {n}", "price": n * 1.25, "sold": n % 2 == 0} for n in range(30)]

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(10**18), 10**18)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=10)
)
values: Any = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=12,
)
rows = st.lists(
    st.dictionaries(st.sampled_from(["a", "b c", "d"]), scalars, min_size=1), min_size=2, max_size=5
)


@given(rows | st.dictionaries(st.text(max_size=4), rows, min_size=1, max_size=2) | values)
def test_a_table_comes_back_as_the_same_data_or_is_not_written(value: Any) -> None:
    table = as_table(json.dumps(value))

    if table is not None:
        assert from_table(table) == value
        assert json.dumps(_plain(from_table(table))) == json.dumps(_plain(value))


def _plain(value: Any) -> Any:
    """Return a value with whole floats as integers: JSON knows one kind of number."""
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def test_rows_take_less_than_half_of_the_tokens() -> None:
    result = ToolMessage(json.dumps(ROWS), tool_call_id="1", artifact="kept")

    written = TableWriter(COUNT).rewritten(result)

    assert COUNT(str(written.content)) < 0.5 * COUNT(str(result.content))
    assert from_table(str(written.content)) == ROWS
    assert (written.tool_call_id, written.artifact) == ("1", "kept")  # type: ignore[attr-defined]  # a ToolMessage
    assert result.content == json.dumps(ROWS)


def test_the_same_message_gives_the_same_text_in_every_process() -> None:
    result = ToolMessage(json.dumps(ROWS), tool_call_id="1")

    assert TableWriter(COUNT).rewritten(result) == TableWriter(COUNT).rewritten(result)


@pytest.mark.parametrize(
    "text",
    [
        "plain text " * 50,
        json.dumps(list(range(500))),
        json.dumps([{"a": 1}, {"a": 2}]),
        "[" * 100_000,
        '[{"a": 1, "a": 2}, {"a": 3}]' + " " * 400,
        '[{"a": 0.12345678901234567890123}, {"a": 1}]' + " " * 400,
        '[{"a": NaN}, {"a": 1}]' + " " * 400,
        "",
    ],
    ids=lambda text: text[:20],
)
def test_what_gains_nothing_or_would_lose_something_stays(text: str) -> None:
    result = ToolMessage(text, tool_call_id="1")

    assert TableWriter(COUNT).rewritten(result) is result


def test_a_table_that_saves_next_to_nothing_is_not_written() -> None:
    rows = [{"a": "long words of a text " * 40}, {"a": "other words of a text " * 40}] * 3
    result = ToolMessage(json.dumps(rows, separators=(",", ":")), tool_call_id="1")

    assert as_table(str(result.content)) is not None
    assert TableWriter(COUNT).rewritten(result) is result


def test_more_results_than_are_remembered_are_written_alike() -> None:
    writer = TableWriter(len)
    results = [
        ToolMessage(json.dumps([{"number": n + m} for m in range(25)]), tool_call_id="1")
        for n in range(2_100)
    ]

    first = [writer.rewritten(result) for result in results]

    assert len(writer._written) == 2_000
    assert [writer.rewritten(result) for result in results[:3]] == first[:3]
    assert from_table(str(first[0].content)) == [{"number": m} for m in range(25)]


def test_blocks_of_text_are_written_too_and_other_messages_never() -> None:
    writer = TableWriter(COUNT)
    block: Any = {"type": "text", "text": json.dumps(ROWS)}
    image: Any = {"type": "image", "url": "https://example.com/a.png"}

    written = writer.rewritten(ToolMessage([block, image, block["text"]], tool_call_id="1"))

    assert from_table(written.content[0]["text"]) == ROWS  # type: ignore[index]  # blocks
    assert written.content[1] == image
    assert from_table(str(written.content[2])) == ROWS
    for message in (HumanMessage(json.dumps(ROWS)), AIMessage(json.dumps(ROWS))):
        assert writer.rewritten(message) is message
