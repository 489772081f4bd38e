"""Ten thousand hostile entries: whatever lies in a store, nothing is raised and no code runs."""

import hashlib
import json
import pickle
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from langchain_core.load import dumps
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.outputs import ChatGeneration, Generation

from langchain_tokenopt.caches import Codec, ExactCache, MemoryStore

SECRET = "the-secret-of-this-process"
PROMPT, LLM = dumps([HumanMessage("2 + 2?")]), "model"
FORBIDDEN = ("exec", "compile", "os.", "subprocess", "pickle", "import", "open", "socket", "ctypes")


class Bomb:
    """Pickles to a call of `os.system`."""

    def __reduce__(self) -> Any:
        import os

        return os.system, ("true",)


ids = st.sampled_from(
    [
        ["langchain_core", "messages", "ai", "AIMessage"],
        ["langchain", "schema", "messages", "AIMessage"],
        ["langchain_core", "prompts", "prompt", "PromptTemplate"],
        ["langchain_openai", "chat_models", "base", "ChatOpenAI"],
        ["langchain", "llms", "openai", "OpenAI"],
        ["builtins", "eval"],
        ["os", "system"],
        ["subprocess", "Popen"],
        [],
        ["", None],
        "os.system",
    ]
)
plain = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["__import__('os').system('true')", "{{7*7}}", "\x00", "\ud800", "__class__"])
)
names = st.text(max_size=6) | st.sampled_from(
    ["lc", "type", "id", "kwargs", "secret", "__lc_escaped__", "py/object", "__reduce__", "$type"]
)


def _injections(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.fixed_dictionaries(
        {
            "lc": st.sampled_from([1, 2, "1", None]),
            "type": st.sampled_from(["constructor", "secret", "not_implemented", "", None]),
            "id": ids | st.just(["TOKENOPT_TEST_SECRET"]),
        },
        optional={"kwargs": st.dictionaries(names, inner, max_size=3) | inner},
    )


values = st.recursive(
    plain | _injections(plain),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3) | _injections(inner)
    ),
    max_leaves=6,
)
messages = st.fixed_dictionaries(
    {
        "content": values,
        "additional_kwargs": values | st.just({}),
        "response_metadata": values | st.just({}),
        "name": st.none() | values,
        "tool_calls": values | st.just([]),
        "invalid_tool_calls": values | st.just([]),
        "usage_metadata": values | st.none(),
    }
)
entries = (
    st.fixed_dictionaries({"message": messages | values, "info": values | st.none()})
    | st.fixed_dictionaries({"text": values, "info": values})
    | values
)


def framed(payload: bytes) -> bytes:
    """Return a payload as an entry whose version and checksum are right."""
    data = struct.pack(">d", 0.0) + payload
    return b"TOC1" + hashlib.blake2b(data, digest_size=16, key=b"").digest() + data


def as_json(value: Any) -> bytes:
    return json.dumps(value).encode()


good = Codec().encode([ChatGeneration(message=AIMessage("four"))])
payloads = (
    st.lists(entries, max_size=3).map(as_json).map(framed)
    | values.map(as_json).map(framed)
    | st.binary(max_size=64)
    | st.binary(max_size=64).map(framed)
    | st.sampled_from(
        [pickle.dumps(Bomb()), dumps(ChatGeneration(message=AIMessage("x"))).encode()]
    )
    | st.sampled_from([b"[" * 100_000, b'{"a":' * 50_000, b"9" * 5_000, b"[1e999999]"]).map(framed)
    | st.tuples(st.integers(0, len(good) - 1), st.integers(1, 255)).map(
        lambda change: (
            good[: change[0]] + bytes([good[change[0]] ^ change[1]]) + good[change[0] + 1 :]
        )
    )
)

_heard: list[str] = []
_listening = [False]


def _hear(event: str, _what: Any) -> None:
    if _listening[0] and event.startswith(FORBIDDEN):
        _heard.append(f"{event} {_what}"[:120])


sys.addaudithook(_hear)  # it cannot be taken away again, so it listens only when told


@contextmanager
def nothing_runs() -> Iterator[None]:
    """Fail if code is loaded or run, or a file or connection opened, in this block."""
    _heard.clear()
    _listening[0] = True
    try:
        yield
    finally:
        _listening[0] = False
    assert _heard == []


def test_the_ear_hears_what_a_pickle_does() -> None:
    with pytest.raises(AssertionError), nothing_runs():
        pickle.loads(pickle.dumps(Bomb()))  # noqa: S301 - that is the point


@settings(max_examples=10_000, deadline=None, suppress_health_check=list(HealthCheck))
@given(payloads)
def test_ten_thousand_hostile_entries_are_refused_or_harmless(payload: bytes) -> None:
    store = MemoryStore()
    cache = ExactCache(store)
    store.put({cache.key(PROMPT, LLM).digest: payload}, ttl_s=None)

    with nothing_runs():
        found = cache.lookup(PROMPT, LLM)

    for answer in found or []:
        assert type(answer) in (Generation, ChatGeneration)
        assert SECRET not in repr(answer)
        if isinstance(answer, ChatGeneration):
            assert type(answer.message) is AIMessage
    assert cache.stats().unreadable == (found is None)


@pytest.fixture(autouse=True, scope="module")
def a_secret() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("TOKENOPT_TEST_SECRET", SECRET)
        ExactCache(MemoryStore()).lookup(PROMPT, LLM)  # what is imported late is imported now
        yield


@settings(max_examples=300, deadline=None)
@given(payloads)
def test_with_a_signing_key_none_of_them_is_read(payload: bytes) -> None:
    store = MemoryStore()
    cache = ExactCache(store, signing_key=b"ours")
    store.put({cache.key(PROMPT, LLM).digest: payload}, ttl_s=None)

    assert cache.lookup(PROMPT, LLM) is None
    assert cache.stats().unreadable == 1
