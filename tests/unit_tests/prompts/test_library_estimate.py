"""What a template is told to take, against what its messages take."""

import base64
import struct
import zlib
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, HumanMessage

from langchain_tokenopt import counter_for
from langchain_tokenopt.errors import ConfigurationError
from langchain_tokenopt.prompts.library import PromptLibrary
from langchain_tokenopt.prompts.library_template import LibraryTemplate
from langchain_tokenopt.prompts.library_variables import Variable

MODEL = "gpt-5-mini"
MOST_AT_AN_END = 1
BUNDLED = PromptLibrary.bundled()


def real(template: LibraryTemplate, values: dict[str, Any]) -> int:
    return counter_for(MODEL).count_messages(template.invoke(values).messages)


def text(name: str, **fields: Any) -> Variable:
    return Variable(name=name, description="Any.", **fields)


def escaped(words: str) -> str:
    return words.replace("{", "{{").replace("}", "}}")


words = st.text(max_size=60) | st.text(alphabet="ab \n\t0129.,(){}<>/'é漢\u200d👩", max_size=60)


@settings(max_examples=400)
@given(words, words, words, words, words)
@example(" ", "123456", "7", " a", "\n\n")
@example("1", "22", "3", "44", "5")
@example("a" * 50, "a" * 50, "a" * 50, "", "a")
@example("\n" * 7, "\n" * 9, "\n", " " * 30, "  x")
def test_an_estimate_is_the_real_count_but_for_a_token_at_each_end_of_a_value(
    before: str, first: str, between: str, second: str, after: str
) -> None:
    body = f"{escaped(before)}{{a}}{escaped(between)}{{b}}{escaped(after)}"
    template = LibraryTemplate("t", [("human", body)], variables=[text("a"), text("b")])
    values = {"a": first, "b": second}

    estimate = template.estimate(model=MODEL, sample=values)

    assert not estimate.estimated
    parts = estimate.static + sum(estimate.variables.values()) + estimate.merged
    assert estimate.total == parts
    assert abs(estimate.total - real(template, values)) <= 4 * MOST_AT_AN_END


@pytest.mark.parametrize("template", BUNDLED, ids=lambda t: t.name)
def test_bundled_templates_are_estimated_exactly(
    template: LibraryTemplate,
) -> None:
    examples = {n: v.example for n, v in template.variables.items() if v.example is not None}

    estimate = template.estimate(model=MODEL, sample=examples)

    assert estimate.total == real(template, examples)


def test_what_is_static_is_counted_alike_for_all_values() -> None:
    template = LibraryTemplate(
        "t", [("system", "Be brief. " * 40), ("human", "{q}")], variables=[text("q")]
    )

    static = {template.estimate(model=MODEL, sample={"q": q}).static for q in ("", "x", "x " * 99)}

    assert static == {template.static_tokens(MODEL)}


def test_messages_count_as_messages() -> None:
    template = LibraryTemplate(
        "t",
        [("system", "Be brief."), ("messages", "history"), ("human", "{q}")],
        variables=[text("history", type="messages"), text("q")],
    )
    values = {"history": [HumanMessage("2 + 2?"), AIMessage("four")], "q": "and 3 + 3?"}

    estimate = template.estimate(model=MODEL, sample=values)

    assert estimate.total == real(template, values)


def png(width: int, height: int) -> str:
    head = struct.pack(">II", width, height) + b"\x08\x02\0\0\0"
    chunk = b"IHDR" + head
    data = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk
    data += struct.pack(">I", zlib.crc32(chunk))
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


@pytest.mark.parametrize(
    "block",
    [
        {"type": "image_url", "image_url": {"url": "{shot}"}},
        {"type": "image_url", "image_url": "{shot}"},
        {"type": "image", "url": "{shot}"},
    ],
)
def test_images_count_by_their_size(block: dict[str, Any]) -> None:
    template = LibraryTemplate(
        "t", [("human", ["What is this?", block, "{q}"])], variables=[text("shot"), text("q")]
    )
    small, large = png(64, 64), png(1024, 1024)

    estimates = [
        template.estimate(model=MODEL, sample={"shot": s, "q": "?"}) for s in (small, large)
    ]

    assert [e.total for e in estimates] == [
        real(template, {"shot": s, "q": "?"}) for s in (small, large)
    ]
    assert estimates[0].variables["shot"] < estimates[1].variables["shot"]
    assert not any(e.estimated for e in estimates)


def test_an_image_nobody_has_seen_is_an_estimate() -> None:
    block = {"type": "image_url", "image_url": {"url": "{shot}"}}
    template = LibraryTemplate("t", [("human", [block])], variables=[text("shot")])

    unknown = template.estimate(model=MODEL)
    remote = template.estimate(model=MODEL, sample={"shot": "https://a.test/b.png"})

    assert unknown.estimated
    assert remote.estimated
    assert unknown.total == remote.total


def test_a_static_image_is_static() -> None:
    block = {"type": "image_url", "image_url": {"url": png(512, 512)}}
    template = LibraryTemplate("t", [("human", [block, "{q}"])], variables=[text("q")])

    estimate = template.estimate(model=MODEL, sample={"q": "What?"})

    assert estimate.total == real(template, {"q": "What?"})
    assert estimate.variables == {"q": 2}


def test_unknown_values_count_as_the_mean_of_those_seen() -> None:
    template = LibraryTemplate("t", [("human", "Say: {q}")], variables=[text("q")])
    for n in (10, 20, 30):
        template.invoke({"q": "word " * n})

    estimate = template.estimate(model=MODEL)

    assert estimate.estimated
    assert 18 <= estimate.variables["q"] <= 30  # four characters a token; it is 20 here


def test_unknown_messages_count_as_the_mean_of_those_seen() -> None:
    template = LibraryTemplate(
        "t",
        [("messages", "history"), ("human", "Go on.")],
        variables=[text("history", type="messages")],
    )
    for n in (10, 30):
        template.invoke({"history": [HumanMessage("word " * n), AIMessage("word " * n)]})

    estimate = template.estimate(model=MODEL)

    assert estimate.estimated
    assert 40 <= estimate.variables["history"] <= 70  # a quarter token a character; 48 here


def test_an_unknown_value_in_a_block_that_is_no_image_counts_as_the_mean() -> None:
    block = {"type": "file", "file_id": "{file}", "pages": [1, 2]}
    template = LibraryTemplate("t", [("human", [block])], variables=[text("file")])
    template.invoke({"file": "f" * 400})

    estimate = template.estimate(model=MODEL)
    known = template.estimate(model=MODEL, sample={"file": "f1"})

    assert (estimate.variables["file"], estimate.estimated) == (100, True)
    assert known.total == real(template, {"file": "f1"})


def test_an_example_says_how_many_characters_a_token_has() -> None:
    variable = text("q", example="word " * 8)
    template = LibraryTemplate("t", [("human", "Say: {q}")], variables=[variable])
    template.invoke({"q": "word " * 40})

    assert 40 <= template.estimate(model=MODEL).variables["q"] <= 46


def test_before_the_first_use_the_example_is_measured() -> None:
    template = LibraryTemplate(
        "t", [("human", "Say: {q}")], variables=[text("q", example="one two three")]
    )

    estimate = template.estimate(model=MODEL)

    assert (estimate.variables["q"], estimate.estimated) == (3, True)


def test_a_value_of_which_nothing_is_known_is_asked_for() -> None:
    template = LibraryTemplate("t", [("human", "{q} {r}")], variables=[text("q"), text("r")])

    with pytest.raises(ConfigurationError, match="no value is known of r; give one in sample"):
        template.estimate(model=MODEL, sample={"q": "x"})


def test_a_sample_is_checked_like_a_value() -> None:
    template = LibraryTemplate("t", [("human", "{q}")], variables=[text("q", max_chars=3)])

    with pytest.raises(ConfigurationError, match=r"quest is no variable.*q: expected at most 3"):
        template.estimate(model=MODEL, sample={"q": "1234", "quest": 1})


def test_sections_count_only_where_they_are_shown() -> None:
    body = (
        "Do it.{{#why}} Because, and this is quite long, of {{why}}.{{/why}}{{^why}} Now.{{/why}}"
    )
    template = LibraryTemplate(
        "t", [("human", body)], variables=[text("why", required=False)], template_format="mustache"
    )

    for values in ({}, {"why": "rain"}):
        estimate = template.estimate(model=MODEL, sample=values)
        assert estimate.total == real(template, values)


def test_another_vendors_model_is_an_estimate() -> None:
    template = LibraryTemplate("t", [("human", "{q}")], variables=[text("q")])

    assert template.estimate(model="claude-sonnet-4-5", sample={"q": "x"}).estimated
