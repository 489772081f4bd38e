"""Kept questions as bytes: they come back as they were, or are refused."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration, Generation

from langchain_tokenopt.caches import UnreadableError
from langchain_tokenopt.caches.question import Question
from langchain_tokenopt.caches.semantic_entry import EntryCodec
from langchain_tokenopt.caches.semantic_questions import KeptQuestion
from langchain_tokenopt.caches.template import Packed
from langchain_tokenopt.messages import SEMANTIC

ANSWER = ChatGeneration(message=AIMessage("Click here."))


def kept_of(text: str = "How?", answer: Generation = ANSWER, **fields: object) -> KeptQuestion:
    known = {
        "id": 7,
        "question": Question(text=text, partition=b"p" * 32, temperature=None),
        "packed": Packed(answer, source=SEMANTIC),
        "answer": answer.text,
        "group": 9,
        "expires_at": math.inf,
        "tags": frozenset({"a"}),
    }
    return KeptQuestion(**{**known, **fields})  # type: ignore[arg-type]  # the fields as given


def encoded(codec: EntryCodec) -> bytes:
    return codec.encode(kept_of(), np.array([0.6, 0.8], dtype=np.float32), ANSWER)


ENTRIES = st.builds(
    kept_of,
    text=st.text(st.characters()),
    id=st.integers(0, 2**63 - 1),
    group=st.integers(0, 2**63 - 1),
    expires_at=st.floats(allow_nan=False),
    tags=st.frozensets(st.text(st.characters(exclude_categories=["Cs"])), max_size=4),
)


@given(
    kept=ENTRIES,
    vector=st.lists(st.floats(0.5, 9, width=32), min_size=1, max_size=9),
    signing_key=st.none() | st.binary(min_size=1, max_size=99),
)
def test_what_is_decoded_is_what_was_encoded(
    kept: KeptQuestion, vector: list[float], signing_key: bytes | None
) -> None:
    codec = EntryCodec(signing_key=signing_key)

    stored = codec.decode(codec.encode(kept, np.array(vector, dtype=np.float32), ANSWER))

    assert stored.vector.tolist() == vector
    for name in ("id", "question", "answer", "group", "expires_at", "tags"):
        assert getattr(stored.kept, name) == getattr(kept, name)


@given(data=st.binary(max_size=300), keep=st.integers(0, 60))
def test_other_bytes_are_refused(data: bytes, keep: int) -> None:
    codec = EntryCodec()
    good = encoded(codec)
    for hostile in (data, good[:keep] + data, good + data + b"x"):
        with pytest.raises(UnreadableError):
            codec.decode(hostile)


@given(body=st.binary(max_size=200))
def test_a_right_checksum_over_anything_is_refused_too(body: bytes) -> None:
    codec = EntryCodec()
    sealed = codec._sealed(b"TOQ1", body)

    with pytest.raises(UnreadableError):
        codec.decode(sealed)


@pytest.mark.parametrize(
    "vector", [[], [0.0, 0.0], [math.nan, 1.0], [math.inf, 1.0], [3e38, 3e38]], ids=str
)
def test_a_vector_that_has_no_direction_is_refused(vector: list[float]) -> None:
    codec = EntryCodec()
    data = codec.encode(kept_of(), np.array(vector, dtype=np.float32), ANSWER)

    with pytest.raises(UnreadableError):
        codec.decode(data)


@pytest.mark.parametrize(
    ("written", "read"), [(None, b"k"), (b"k", None), (b"k", b"j")], ids=["none", "lost", "other"]
)
def test_another_key_is_refused(written: bytes | None, read: bytes | None) -> None:
    data = encoded(EntryCodec(signing_key=written))

    with pytest.raises(UnreadableError):
        EntryCodec(signing_key=read).decode(data)


def test_coefficients_are_no_entry_and_an_entry_no_coefficients() -> None:
    codec = EntryCodec(signing_key=b"k")

    assert codec.decode_learned(codec.encode_learned([1.0, -2.5])) == [1.0, -2.5]
    with pytest.raises(UnreadableError):
        codec.decode(codec.encode_learned([1.0]))
    with pytest.raises(UnreadableError):
        codec.decode_learned(encoded(codec))
    with pytest.raises(UnreadableError, match="coefficients are finite"):
        codec.decode_learned(codec.encode_learned([1.0, math.inf]))
