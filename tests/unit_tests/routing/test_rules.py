"""Where rules send what has attachments, calls tools, or is written in other letters."""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage

from langchain_tokenopt.errors import ConfigurationError
from langchain_tokenopt.routing import Cascade, Tier
from langchain_tokenopt.routing.rules import Rule, has_attachment, uses_tools, written_in
from langchain_tokenopt.testing import ScriptedModel

PNG = "data:image/png;base64,AAAA"
UNKNOWN: Any = ("Klingon",)


@pytest.mark.parametrize(
    ("block", "kind"),
    [
        ({"type": "image", "base64": "AAAA", "mime_type": "image/png"}, "image"),
        ({"type": "image_url", "image_url": {"url": PNG}}, "image"),
        (
            {
                "type": "image",
                "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"},
            },
            "image",
        ),
        ({"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}, "audio"),
        ({"type": "video", "url": "https://example.com/a.mp4"}, "video"),
        ({"type": "file", "base64": "AAAA", "mime_type": "application/pdf"}, "file"),
        ({"type": "text-plain", "text": "a", "mime_type": "text/plain"}, "file"),
        ({"type": "media", "mime_type": "audio/wav", "data": "AAAA"}, "audio"),
        ({"type": "media", "mime_type": "application/pdf", "data": "AAAA"}, "file"),
        ({"type": "input_image", "image_url": PNG}, "image"),
        ({"type": "input_file", "file_id": "file-1"}, "file"),
        ({"type": "video_url", "video_url": {"url": "https://example.com/a.mp4"}}, "video"),
    ],
)
def test_attachments_are_known_in_the_forms_of_langchain_and_of_providers(
    block: dict[str, Any], kind: Any
) -> None:
    asked = [HumanMessage([{"type": "text", "text": "What is it?"}, block])]
    others: Any = {"image", "audio", "video", "file"} - {kind}

    assert has_attachment(tier="large").applies(asked)
    assert has_attachment(kind, tier="large").applies(asked)
    assert not has_attachment(*others, tier="large").applies(asked)


def test_an_attachment_of_an_earlier_turn_counts_and_text_does_not() -> None:
    rule = has_attachment(tier="large")
    shown = HumanMessage([{"type": "image_url", "image_url": {"url": PNG}}])

    assert rule.applies([shown, AIMessage("A map."), HumanMessage("Of where?")])
    assert not rule.applies([HumanMessage("See image.png"), AIMessage("Which one?")])


def test_a_block_that_only_has_a_kind_in_its_name_is_no_attachment() -> None:
    searched = HumanMessage([{"type": "file_search_call", "id": "1"}])

    assert not has_attachment(tier="large").applies([searched])


CALL = {"name": "query", "args": {}, "id": "1", "type": "tool_call"}


@pytest.mark.parametrize(
    ("turn", "any_tool", "query"),
    [
        ([], False, False),
        ([AIMessage("", tool_calls=[CALL])], True, True),
        ([ToolMessage("2 rows", name="query", tool_call_id="1")], True, True),
        ([ToolMessage("2 rows", name="search", tool_call_id="1")], True, False),
        ([ToolMessage("2 rows", tool_call_id="1")], True, False),
        ([AIMessage("Two.")], False, False),
    ],
)
def test_tools_that_were_called_count(turn: list[BaseMessage], any_tool: bool, query: bool) -> None:
    messages = [HumanMessage("How many?"), *turn]

    assert uses_tools(tier="large").applies(messages) is any_tool
    assert uses_tools("query", tier="large").applies(messages) is query


def test_tools_of_an_earlier_turn_do_not_count() -> None:
    messages = [
        HumanMessage("How many?"),
        AIMessage("", tool_calls=[CALL]),
        ToolMessage("2 rows", name="query", tool_call_id="1"),
        AIMessage("Two."),
        HumanMessage("Thanks!"),
    ]

    assert not uses_tools(tier="large").applies(messages)
    assert uses_tools(tier="large").applies(messages[:-1])


@pytest.mark.parametrize(
    ("text", "scripts", "applies"),
    [
        ("Где мой заказ?", ["Cyrillic"], True),
        ("Где мой iPhone?", ["Cyrillic"], True),
        ("What does \u0434\u0430 mean?", ["Cyrillic"], False),
        ("注文はどこですか", ["CJK", "Hiragana"], True),
        ("ノート PC", ["Katakana"], True),
        ("Où est ma commande ?", ["Latin"], True),
        ("42 + 1?", ["Latin"], False),
        ("", ["Latin"], False),
        ("Πού είναι;", ["Cyrillic", "Greek"], True),
    ],
)
def test_the_script_of_most_letters_counts(text: str, scripts: list[Any], applies: bool) -> None:
    assert written_in(*scripts, tier="large").applies([HumanMessage(text)]) is applies


@given(st.text(alphabet=st.characters(min_codepoint=0x400, max_codepoint=0x44F), min_size=1))
def test_marks_and_digits_do_not_change_the_script(text: str) -> None:
    rule = written_in("Cyrillic", tier="large")

    assert rule.applies([HumanMessage(f"12 {text} - 34!?")])


def test_only_the_last_human_turn_is_read_for_its_script() -> None:
    turns = [HumanMessage("Где мой заказ?"), AIMessage("Уже едет."), HumanMessage("Thanks")]

    assert not written_in("Cyrillic", tier="large").applies(turns)


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (lambda: written_in(*UNKNOWN, tier="large"), "no script is called 'Klingon'"),
        (lambda: written_in(tier="large"), "at least one script"),
        (lambda: uses_tools("query", " ", tier="large"), "names of tools, none of them empty"),
        (
            lambda: has_attachment(*UNKNOWN, tier="large"),
            "no kind of attachment is called 'Klingon'",
        ),
    ],
)
def test_what_no_rule_can_see_is_refused(made: Any, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        made()


@pytest.mark.parametrize(
    ("rules", "tier", "why"),
    [
        (
            [written_in("Cyrillic", tier="large"), has_attachment(tier="small")],
            "large",
            "the question is written in Cyrillic letters",
        ),
        ([has_attachment(tier="large")], "small", "no rule applied"),
        (
            [Rule(tier="large", reason="the user pays", applies=lambda messages: True)],
            "large",
            "the user pays",
        ),
    ],
)
async def test_a_cascade_says_which_rule_it_followed(
    rules: Sequence[Rule], tier: str, why: str
) -> None:
    models = {
        name: ScriptedModel([name], when_exhausted="repeat_last") for name in ("small", "large")
    }
    cascade = Cascade([Tier(name, model) for name, model in models.items()], rules=rules)

    for answer in (cascade.invoke("Где мой заказ?"), await cascade.ainvoke("Где мой заказ?")):
        assert answer.text == tier
        assert answer.response_metadata["tokenopt_cascade"]["route"] == why
