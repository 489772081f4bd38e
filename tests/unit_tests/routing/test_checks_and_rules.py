"""What the checks decline and where the rules send."""

from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage

from langchain_tokenopt.errors import ConfigurationError
from langchain_tokenopt.routing import (
    Attempt,
    longer_than,
    mentions,
    no_refusal,
    not_empty,
    not_truncated,
)
from langchain_tokenopt.routing.attempt import attempt_of
from langchain_tokenopt.tokens import counter_for


def attempt(text: str = "", **metadata: Any) -> Attempt:
    return attempt_of(AIMessage(text, response_metadata=metadata), tier="small", latency_s=0.0)


def test_an_empty_answer_is_declined_and_a_tool_call_is_no_empty_answer() -> None:
    call = {"name": "f", "args": {}, "id": "1", "type": "tool_call"}
    calling = attempt_of(AIMessage("", tool_calls=[call]), tier="small", latency_s=0.0)

    assert not not_empty("q", attempt(" \n")).accepted
    assert not_empty("q", attempt("4")).accepted
    assert not_empty("q", calling).accepted


@pytest.mark.parametrize(
    ("metadata", "accepted"),
    [
        ({"finish_reason": "length"}, False),
        ({"stop_reason": "max_tokens"}, False),
        ({"finish_reason": "stop"}, True),
        ({}, True),
    ],
)
def test_a_cut_answer_is_declined(metadata: dict[str, Any], accepted: bool) -> None:
    assert not_truncated("q", attempt("one two", **metadata)).accepted is accepted


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't help with that.",
        "I\u2019m sorry but that is not possible.",
        "I cannot answer this.",
        "I don't know.",
        "I do not have access to your account.",
        "As an AI language model, I",
        "Unfortunately, I can not say.",
        "I'm not sure what you mean.",
        "I am not sure how to work this out.",
    ],
)
def test_a_refusal_is_declined(text: str) -> None:
    assert not no_refusal("q", attempt(text)).accepted


@pytest.mark.parametrize(
    "text",
    [
        "You can return it within 30 days. I'm sorry for the trouble.",
        "Sorry to hear that! Please restart the app.",
        "If you don't know your order number, look into the e-mail.",
        "I know the answer: 4.",
    ],
)
def test_an_answer_that_helps_is_no_refusal(text: str) -> None:
    assert no_refusal("q", attempt(text)).accepted


def test_a_filtered_answer_is_declined() -> None:
    assert not no_refusal("q", attempt("", finish_reason="content_filter")).accepted


def test_a_rule_on_length_counts_the_whole_request() -> None:
    long = [SystemMessage("word " * 200), HumanMessage("hi")]
    tokens = counter_for().count_messages(long)

    assert longer_than(tokens - 1, tier="large").applies(long)
    assert not longer_than(tokens, tier="large").applies(long)


@pytest.mark.parametrize(
    ("text", "applies"),
    [
        ("I want a REFUND.", True),
        ("refunds are slow", False),
        ("Is my money back guarantee valid?", True),
        ("money, back", False),
        ("", False),
    ],
)
def test_a_rule_on_words_reads_whole_words_and_phrases(text: str, applies: bool) -> None:
    rule = mentions("refund", "money back", tier="large")

    assert rule.applies([HumanMessage(text)]) is applies


def test_a_rule_on_words_reads_the_last_human_turn_only() -> None:
    rule = mentions("refund", tier="large")

    turns = [HumanMessage("a refund?"), AIMessage("A refund it is."), HumanMessage("thanks")]
    assert not rule.applies(turns)


@pytest.mark.parametrize("words", [(), ("",), ("a", "  ")])
def test_a_rule_needs_words(words: tuple[str, ...]) -> None:
    with pytest.raises(ConfigurationError, match="at least one word"):
        mentions(*words, tier="large")


def test_a_rule_on_length_needs_a_length() -> None:
    with pytest.raises(ConfigurationError, match="at least 1, got 0"):
        longer_than(0, tier="large")
