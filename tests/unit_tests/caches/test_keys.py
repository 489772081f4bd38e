"""Keys: equal for requests that must get the same answer, and for no others."""

import json
import os
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.load import dumps
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, SystemMessage
from langchain_openai import ChatOpenAI

from langchain_tokenopt.caches import KEY_FIELDS, KeyMaker, canonical_prompt
from langchain_tokenopt.errors import ConfigurationError
from langchain_tokenopt.messages import mark_cache_hit

USAGE: Any = {"input_tokens": 1, "output_tokens": 2, "total_tokens": 3}
CALL = {"name": "f", "args": {"x": 1}, "id": "c", "type": "tool_call"}


def digest(*messages: Any, llm: str = "model", **maker: Any) -> bytes:
    return KeyMaker(**maker)(dumps(list(messages)), llm).digest


def turn(**changes: Any) -> list[Any]:
    answer = AIMessage("four", usage_metadata=USAGE, response_metadata={"model_name": "m"}, id="1")
    return [HumanMessage("2 + 2?"), answer.model_copy(update=changes), HumanMessage("doubled?")]


def test_what_a_hit_changes_does_not_change_the_next_key() -> None:
    live = turn()
    hit = [
        live[0],
        mark_cache_hit(live[1], source="memory").model_copy(update={"id": "2"}),
        live[2],
    ]

    assert digest(*live) == digest(*hit)


@pytest.mark.parametrize(
    "changes",
    [
        {"id": "other"},
        {"usage_metadata": None},
        {"response_metadata": {}},
        {"additional_kwargs": {"refusal": None}},
    ],
    ids=lambda c: next(iter(c)),
)
def test_what_says_nothing_about_the_request_is_left_out(changes: dict[str, Any]) -> None:
    assert digest(*turn()) == digest(*turn(**changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"content": "five"},
        {"name": "anna"},
        {"tool_calls": [CALL]},
        {"additional_kwargs": {"reasoning": "because"}},
    ],
    ids=lambda c: next(iter(c)),
)
def test_what_the_model_reads_is_kept(changes: dict[str, Any]) -> None:
    assert digest(*turn()) != digest(*turn(**changes))


def test_a_chunk_and_the_message_it_became_are_the_same_turn() -> None:
    message = AIMessage("four", tool_calls=[CALL])
    chunk = AIMessageChunk(
        "four",
        tool_call_chunks=[
            {"name": "f", "args": '{"x": 1}', "id": "c", "index": 0, "type": "tool_call_chunk"}
        ],
    )

    assert digest(message) == digest(chunk)


def test_kinds_of_messages_are_told_apart() -> None:
    kinds = [HumanMessage("a"), SystemMessage("a"), AIMessage("a")]

    assert len({digest(message) for message in kinds}) == 3


@given(st.lists(st.tuples(st.text(), st.text(), st.text()), min_size=2, unique=True))
def test_no_two_requests_share_a_key(requests: list[tuple[str, str, str]]) -> None:
    digests = {KeyMaker(tenant=tenant)(prompt, llm).digest for tenant, prompt, llm in requests}
    distinct = {(tenant, canonical_prompt(prompt), llm) for tenant, prompt, llm in requests}

    assert len(digests) == len(distinct)


@given(st.text())
def test_a_canonical_prompt_stays_as_it_is(text: str) -> None:
    once = canonical_prompt(dumps([HumanMessage(text)]))

    assert canonical_prompt(once) == once


@given(st.text())
def test_text_that_is_no_dump_is_used_as_it_is(text: str) -> None:
    assert canonical_prompt("x" + text) == "x" + text


@pytest.mark.parametrize(
    "prompt", ["[{", "[{}]", '[{"lc": 1}]', "[{" * 50_000, '[{"lc":1,"id":1}]']
)
def test_a_prompt_that_only_looks_like_a_dump_is_used_as_it_is(prompt: str) -> None:
    assert canonical_prompt(prompt) == prompt


def test_a_tenant_may_be_a_function() -> None:
    current = ["a"]
    make = KeyMaker(tenant=lambda: current[0])
    first = make("hi", "m")
    current[0] = "b"

    assert first != make("hi", "m")
    assert first == KeyMaker(tenant="a")("hi", "m")


def llm_string(**options: Any) -> str:
    given = {"model": "gpt-4.1", "api_key": "any", **options}
    return ChatOpenAI(**given)._get_llm_string(stop=None)


def key(llm: str, **maker: Any) -> bytes:
    return KeyMaker(**maker)("hi", llm).digest


@pytest.mark.parametrize(
    "options",
    [{"timeout": 5}, {"max_retries": 9}, {"base_url": "http://x.test"}, {"request_timeout": 3}],
    ids=lambda o: next(iter(o)),
)
def test_by_default_every_option_counts_and_key_fields_leave_transport_out(
    options: dict[str, Any],
) -> None:
    plain, changed = llm_string(), llm_string(**options)

    assert key(plain) != key(changed)
    assert key(plain, key_fields=sorted(KEY_FIELDS)) == key(changed, key_fields=sorted(KEY_FIELDS))


@pytest.mark.parametrize(
    "options",
    [
        {"model": "gpt-5"},
        {"temperature": 0.5},
        {"max_tokens": 5},
        {"seed": 1},
        {"reasoning_effort": "low"},
        {"model_kwargs": {"x": 1}},
    ],
    ids=lambda o: next(iter(o)),
)
def test_what_changes_the_answer_counts_in_key_fields_too(options: dict[str, Any]) -> None:
    plain, changed = llm_string(), llm_string(**options)

    assert key(plain, key_fields=sorted(KEY_FIELDS)) != key(changed, key_fields=sorted(KEY_FIELDS))


def test_tools_and_stop_words_count_in_key_fields_too() -> None:
    model = ChatOpenAI(model="gpt-5-mini", api_key="any")
    strings = [
        model._get_llm_string(stop=None),
        model._get_llm_string(stop=["x"]),
        model._get_llm_string(stop=None, tools=[{"name": "f"}]),
        model._get_llm_string(stop=None, tools=[{"name": "g"}]),
    ]

    assert len({key(text, key_fields=sorted(KEY_FIELDS)) for text in strings}) == 4


@pytest.mark.parametrize(
    ("one", "two"),
    [("my model", "your model"), ("{'temperature': 0.5}", "{'temperature': 0.7}")],
    ids=["no description", "without a model"],
)
def test_what_key_fields_cannot_be_read_from_counts_as_a_whole(one: str, two: str) -> None:
    fields = ["model"]

    assert key(one, key_fields=fields) == key(one, key_fields=fields)
    assert key(one, key_fields=fields) != key(two, key_fields=fields)


@pytest.mark.parametrize("fields", [[], ["temperature"], "model"])
def test_key_fields_without_the_model_are_refused(fields: Any) -> None:
    with pytest.raises(ConfigurationError, match="holds 'model'"):
        KeyMaker(key_fields=fields)


def test_keys_are_the_same_in_every_process() -> None:
    code = (
        "from langchain_core.load import dumps; from langchain_core.messages import HumanMessage;"
        "from langchain_openai import ChatOpenAI; from langchain_tokenopt.caches import KeyMaker;"
        "m = ChatOpenAI(model='gpt-5-mini', api_key='any');"
        "s = m._get_llm_string(stop=None, tools=[{'b': 1, 'a': 2}]);"
        "make = KeyMaker(key_fields=['model', 'tools']);"
        "print(make(dumps([HumanMessage('hi')]), s).digest.hex())"
    )

    digests = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }

    assert len(digests) == 1


def test_a_long_prompt_is_not_kept_alive() -> None:
    from langchain_tokenopt.caches import keys

    keys._remembered_digest.cache_clear()
    KeyMaker()(json.dumps("x" * 100_000), "m")

    assert keys._remembered_digest.cache_info().currsize == 0
