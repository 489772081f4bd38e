"""Means of word vectors."""

import math
import sys

import pytest

from langchain_tokenopt.embeddings import StaticEmbeddings, parts
from langchain_tokenopt.errors import MissingExtraError


def test_vectors_have_unit_length_and_an_empty_text_is_zero() -> None:
    some, empty = StaticEmbeddings().embed_documents(["Where is my parcel?", ""])

    assert len(some) == StaticEmbeddings.dimensions
    assert math.hypot(*some) == pytest.approx(1)
    assert not any(empty)


async def test_the_async_twins_give_the_same_vectors() -> None:
    embeddings = StaticEmbeddings()

    assert await embeddings.aembed_query("hi") == embeddings.embed_query("hi")
    assert await embeddings.aembed_documents(["a", "b"]) == embeddings.embed_documents(["a", "b"])


def test_without_its_extra_the_error_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "find_spec", lambda name: None)

    with pytest.raises(MissingExtraError, match=r'pip install "langchain-tokenopt\[local\]"'):
        StaticEmbeddings().embed_query("hi")


def test_without_the_tokenizer_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)

    with pytest.raises(MissingExtraError, match=r"\[local\]"):
        StaticEmbeddings().embed_query("hi")
