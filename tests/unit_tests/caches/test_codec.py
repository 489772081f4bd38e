"""The codec: what is written comes back, and nothing else is ever read."""

import json
import os
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.load import dumps
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage
from langchain_core.outputs import ChatGeneration, Generation
from pydantic import BaseModel

from langchain_tokenopt.caches import Codec, UnencodableError, UnreadableError

texts = st.text()
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
calls = st.fixed_dictionaries(
    {
        "name": texts,
        "args": st.dictionaries(texts, values, max_size=3),
        "id": st.none() | texts,
        "type": st.just("tool_call"),
    }
)
tokens = st.integers(0, 10**9)
usages = st.fixed_dictionaries(
    {"input_tokens": tokens, "output_tokens": tokens, "total_tokens": tokens},
    optional={"input_token_details": st.dictionaries(st.just("cache_read"), tokens)},
)
messages = st.builds(
    AIMessage,
    content=texts | st.lists(st.builds(lambda t: {"type": "text", "text": t}, texts), max_size=3),
    tool_calls=st.lists(calls, max_size=2),
    usage_metadata=st.none() | usages,
    response_metadata=st.dictionaries(texts, values, max_size=3),
    name=st.none() | texts,
)
answers = st.lists(
    st.builds(Generation, text=texts)
    | st.builds(lambda message: ChatGeneration(message=message), messages),
    min_size=1,
    max_size=3,
)


def same(one: Any, two: Any) -> bool:
    return dumps(one) == dumps(two)


@given(answers)
def test_what_was_written_comes_back(written: list[Generation]) -> None:
    codec = Codec()
    try:
        data = codec.encode(written)
    except UnencodableError:
        # Text that is no Unicode is refused, never changed.
        assert any("\\ud" in repr(each).lower() for each in written)
        return

    assert same(codec.decode(data), written)


@given(st.binary())
def test_any_bytes_are_read_or_refused_with_one_error(data: bytes) -> None:
    for given_bytes in (data, b"TOC1" + data):
        with pytest.raises(UnreadableError):
            Codec().decode(given_bytes)


def signed(payload: Any) -> bytes:
    """A payload with a right checksum, as one who reads the source can make it."""
    codec = Codec()
    data = bytes(8) + (payload if isinstance(payload, bytes) else json.dumps(payload).encode())
    return b"TOC1" + codec._check(data) + data


CONSTRUCTOR = {
    "lc": 1,
    "type": "constructor",
    "id": ["langchain_core", "prompts", "PromptTemplate"],
    "kwargs": {"template": "{x}", "template_format": "jinja2"},
}
SECRET = {"lc": 1, "type": "secret", "id": ["HOME"]}


@pytest.mark.parametrize(
    "payload",
    [
        b"not json",
        b"\xff\xfe",
        b"[" * 100_000,
        [],
        {},
        None,
        5,
        [1],
        [[]],
        [{}],
        [{"text": 1, "info": None}],
        [{"text": "a"}],
        [{"message": "a", "info": None}],
        [{"message": {}, "info": None}],
        [{"message": {"content": 5}, "info": None}],
        [CONSTRUCTOR],
        [{"message": CONSTRUCTOR, "info": None}],
    ],
    ids=range(17),
)
def test_a_hostile_payload_with_a_right_checksum_is_refused(payload: Any) -> None:
    with pytest.raises(UnreadableError):
        Codec().decode(signed(payload))


def test_a_pickle_is_never_loaded(tmp_path: Any) -> None:
    target = tmp_path / "ran"

    class Bomb:
        def __reduce__(self) -> Any:
            return (os.mkdir, (str(target),))

    for data in (
        pickle.dumps(Bomb()),
        b"TOC1" + pickle.dumps(Bomb()),
        signed(pickle.dumps(Bomb())),
    ):
        with pytest.raises(UnreadableError):
            Codec().decode(data)
    assert not target.exists()


def test_objects_that_look_like_langchains_come_back_as_the_data_they_are() -> None:
    message = AIMessage("a", additional_kwargs={"x": SECRET}, response_metadata={"y": CONSTRUCTOR})

    (back,) = Codec().decode(Codec().encode([ChatGeneration(message=message)]))

    assert isinstance(back, ChatGeneration)
    assert back.message.additional_kwargs == {"x": SECRET}
    assert back.message.response_metadata == {"y": CONSTRUCTOR}


@given(st.data())
def test_an_altered_entry_is_refused(data: st.DataObject) -> None:
    entry = bytearray(Codec().encode([Generation(text="the answer is four")]))
    place = data.draw(st.integers(0, len(entry) - 1))
    entry[place] ^= data.draw(st.integers(1, 255))

    with pytest.raises(UnreadableError):
        Codec().decode(bytes(entry))


@given(st.integers(0, 60))
def test_a_cut_entry_is_refused(length: int) -> None:
    entry = Codec().encode([Generation(text="the answer is four")])

    with pytest.raises(UnreadableError):
        Codec().decode(entry[: min(length, len(entry) - 1)])


def test_with_a_signing_key_only_its_own_entries_are_read() -> None:
    written = [Generation(text="four")]
    plain, one, two = Codec(), Codec(signing_key=b"one"), Codec(signing_key=b"two")

    assert one.decode(one.encode(written)) == written
    for writer, reader in ((plain, one), (two, one), (one, plain)):
        with pytest.raises(UnreadableError):
            reader.decode(writer.encode(written))


@given(st.floats(0, 1e11))
def test_an_entry_tells_when_it_was_written(at: float) -> None:
    assert Codec.written_at(Codec().encode([Generation(text="a")], written_at=at)) == at


class Answer(BaseModel):
    """An answer."""

    number: int


def test_a_parsed_object_is_kept_as_its_fields() -> None:
    message = AIMessage('{"number": 4}', additional_kwargs={"parsed": Answer(number=4)})

    (back,) = Codec().decode(Codec().encode([ChatGeneration(message=message)]))

    assert isinstance(back, ChatGeneration)
    assert back.message.additional_kwargs["parsed"] == {"number": 4}


@pytest.mark.parametrize(
    "message",
    [
        HumanMessage("a question"),
        AIMessage("a", additional_kwargs={"x": object()}),
        AIMessage("a", additional_kwargs={"x": (1, 2)}),
        AIMessage("a", additional_kwargs={"x": {1: 2}}),
        AIMessage("a", additional_kwargs={"x": float("nan")}),
        AIMessage("a\ud800"),
    ],
    ids=["human", "object", "tuple", "integer key", "nan", "surrogate"],
)
def test_what_would_not_come_back_is_refused_when_written(message: Any) -> None:
    with pytest.raises(UnencodableError):
        Codec().encode([ChatGeneration(message=message)])


def test_a_streamed_answer_is_kept_as_a_message() -> None:
    from langchain_tokenopt.caches.codec import settled

    (back,) = settled([ChatGeneration(message=AIMessageChunk("four"))])

    assert isinstance(back, ChatGeneration)
    assert type(back.message) is AIMessage
