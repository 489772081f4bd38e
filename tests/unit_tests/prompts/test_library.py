"""Templates by name and version, and what they refuse."""

import asyncio
import threading
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_core.prompts import ChatPromptTemplate

from langchain_tokenopt.errors import ConfigurationError
from langchain_tokenopt.messages import TEMPLATE_MARK, templates_of
from langchain_tokenopt.prompts import PromptBuilder, Summarizer
from langchain_tokenopt.prompts.library import PromptLibrary
from langchain_tokenopt.prompts.library_template import LibraryTemplate
from langchain_tokenopt.prompts.library_variables import Variable
from langchain_tokenopt.testing import ScriptedModel


def var(name: str, **fields: Any) -> Variable:
    return Variable(name=name, description=f"The {name}.", **fields)


def ask(body: str = "{q}", *, name: str = "ask", **fields: Any) -> LibraryTemplate:
    return LibraryTemplate(
        name, [("system", "Be brief."), ("human", body)], variables=[var("q", **fields)]
    )


# --- versions -------------------------------------------------------------------------------


def test_the_version_is_that_of_what_the_model_sees_and_callers_give() -> None:
    same = LibraryTemplate(
        "other",
        [("system", "Be brief."), ("human", "{{q}}")],
        variables=[Variable(name="q", description="Another one.", example="x")],
        description="Something else.",
        template_format="mustache",
    )

    assert ask().version == same.version
    assert len(ask().version) == 12


@pytest.mark.parametrize(
    "other",
    [
        ask("{q} "),
        ask("{{q}} {q}"),
        ask(max_chars=5),
        ask(required=False),
        ask(type="number"),
        LibraryTemplate("ask", [("human", "{q}")], variables=[var("q")]),
        LibraryTemplate("ask", [("ai", "Be brief."), ("human", "{q}")], variables=[var("q")]),
        LibraryTemplate("ask", [("system", "Be brief."), ("human", ["{q}"])], variables=[var("q")]),
        LibraryTemplate(
            "ask",
            [("system", "Be brief."), ("human", "{q}")],
            variables=[var("q")],
            answer_schema={"type": "object"},
        ),
    ],
)
def test_the_version_changes_with_words_roles_variables_and_the_answer(
    other: LibraryTemplate,
) -> None:
    assert other.version != ask().version


def test_versions_of_a_name_live_side_by_side() -> None:
    old, new = ask(), ask("Please: {q}")
    library = PromptLibrary([old, new])

    assert library.get("ask") is new
    assert library.get(old.reference) is old
    assert library.get(f"ask@{old.version[:4]}") is old
    assert library.versions("ask") == [old, new]
    assert library.use(old.reference) is library.get("ask")
    assert len(library) == 1
    assert old.reference in library
    assert "ask@ffff" not in library


def test_an_unknown_name_is_told_its_neighbours() -> None:
    with pytest.raises(ConfigurationError, match=r"'code_reveiw'; there are code_review"):
        PromptLibrary.bundled().get("code_reveiw")
    with pytest.raises(ConfigurationError, match=r"'code_reveiw'; there are code_review"):
        PromptLibrary.bundled().versions("code_reveiw")
    with pytest.raises(ConfigurationError, match=r"'any'; there is none yet"):
        PromptLibrary().get("any")


@pytest.mark.parametrize("reference", ["ask@", "ask@zz", "ask@0123456789abcdef"])
def test_a_version_that_is_not_there_or_not_one_alone_is_refused(reference: str) -> None:
    library = PromptLibrary([ask(), ask("Please: {q}")])

    with pytest.raises(ConfigurationError, match="expected one version of ask that begins with"):
        library.get(reference)


def test_an_ambiguous_prefix_is_refused_with_what_it_fits() -> None:
    made = [ask(f"{n} {{q}}") for n in range(40)]
    first = [each.version[0] for each in made]
    twice = next(digit for digit in first if first.count(digit) > 1)

    with pytest.raises(ConfigurationError, match="expected one version of ask that begins"):
        PromptLibrary(made).get(f"ask@{twice}")


def test_threads_may_add_and_get_at_once() -> None:
    library = PromptLibrary([ask()])
    errors: list[Exception] = []

    def work(n: int) -> None:
        try:
            for k in range(20):
                library.add(ask(f"{n} {k} {{q}}"))
                library.get("ask")
                library.versions("ask")
        except Exception as error:  # noqa: BLE001 - whatever it is, the test says
            errors.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert not errors
    assert len(library.versions("ask")) == 81


# --- texts ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        "{q.__class__}", "{q[0]}", "{q!r}", "{q:>10}", "{q:{w}}", "{ q }", "{}", "{0}",
        "{__class__}", "{q", "}", "{q.__init__.__globals__}", "{q!r:>5}", "{\u0430}",
    ],
)  # fmt: skip
def test_only_plain_names_are_variables_in_f_strings(body: str) -> None:
    with pytest.raises(ConfigurationError, match=r"ask: message 2 \(human\): "):
        ask(body)


@pytest.mark.parametrize(
    "body",
    [
        "{{q.__class__}}", "{{> other}}", "{{=<% %>=}}<% q %>", "{{#q}}", "{{/q}}", "{{}}", "{{.}}",
        "{{#q.a}}x{{/q.a}}", "{{{q.a}}}", "{{&q.a}}", "{{ q", "{{q}} {{", "{{{{q}}}}",
    ],
)  # fmt: skip
def test_only_plain_names_and_sections_are_read_in_mustache(body: str) -> None:
    with pytest.raises(ConfigurationError, match=r"t: message 1 \(human\): "):
        LibraryTemplate("t", [("human", body)], variables=[var("q")], template_format="mustache")


@pytest.mark.parametrize(
    "block",
    [
        {"type": "image", "url": "{q.__class__}"},
        {"type": "text", "text": "{q[0]}"},
        {"type": "image_url", "image_url": {"path": "{q}"}},
        {"type": "image_url", "image_url": {"path": "/etc/passwd"}},
        {"type": "x", "deep": [["{q}"]]},
    ],
)
def test_blocks_reach_no_attributes_and_no_files(block: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=r"message 1 \(human\)"):
        LibraryTemplate("t", [("human", [block, "{q}"])], variables=[var("q")])


def test_numbers_and_lists_in_blocks_stay_what_they_are() -> None:
    block = {"type": "x", "size": 3, "tags": ["{q}", "b"], "cite": True, "more": {"n": None}}
    template = LibraryTemplate("t", [("human", [block])], variables=[var("q")])
    other = LibraryTemplate("t", [("human", [{**block, "size": "3"}])], variables=[var("q")])

    assert template.invoke({"q": "hi"}).messages[0].content == [{**block, "tags": ["hi", "b"]}]
    assert template.version != other.version


def test_a_block_uses_no_variable_inside_the_section_of_another() -> None:
    block = {"type": "text", "text": "{{#a}}{{b}}{{/a}}"}
    with pytest.raises(ConfigurationError, match="a content block cannot use a variable inside"):
        LibraryTemplate(
            "t",
            [("human", [block])],
            variables=[var("a"), var("b")],
            template_format="mustache",
        )


def test_jinja_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="expected the format f-string or mustache"):
        LibraryTemplate("t", [("human", "{{q}}")], template_format="jinja2")  # type: ignore[arg-type]


@given(st.text() | st.sampled_from(["{q}", "{{q}}", "{0}", "}{", "{{/q}}", '<a> & "b"', "{x!r}"]))
def test_values_are_put_in_as_they_are(value: str) -> None:
    for body, template_format in (("<{q}>", "f-string"), ("<{{q}}>", "mustache")):
        template = LibraryTemplate(
            "t", [("human", body)], variables=[var("q")], template_format=template_format
        )
        assert template.invoke({"q": value}).messages[0].content == f"<{value}>"


def test_sections_show_what_has_a_value() -> None:
    template = LibraryTemplate(
        "t",
        [("human", "Go{{#why}} for {{why}} ({{who}}){{/why}}{{^why}} now{{/why}}.")],
        variables=[var("why", required=False), var("who")],
        template_format="mustache",
    )

    assert template.invoke({"who": "me", "why": "a<b"}).messages[0].content == "Go for a<b (me)."
    assert template.invoke({"who": "me"}).messages[0].content == "Go now."


def test_blocks_and_placeholders_are_filled() -> None:
    template = LibraryTemplate(
        "t",
        [
            ("system", "Look."),
            ("messages", "history"),
            ("human", ["{q}", {"type": "image_url", "image_url": {"url": "{shot}"}}]),
        ],
        variables=[var("history", type="messages", required=False), var("q"), var("shot")],
    )
    given = {"q": "{what}?", "shot": "data:image/png;base64,AAAA"}

    messages = template.invoke({**given, "history": [("human", "Hi"), AIMessage("Hello")]}).messages

    assert [message.type for message in messages] == ["system", "human", "ai", "human"]
    assert messages[3].content == [
        {"type": "text", "text": "{what}?"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
    ]
    assert len(template.invoke(given).messages) == 2


# --- declarations ---------------------------------------------------------------------------


def test_declared_variables_are_those_that_are_used() -> None:
    with pytest.raises(
        ConfigurationError, match="used but not declared: q; declared but not used: query"
    ):
        LibraryTemplate("t", [("human", "{q}")], variables=[var("query")])


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"name": "a b"}, "expected a name of letters"),
        ({"name": "stop"}, "and none of"),
        ({"description": " "}, "expected a description"),
        ({"type": "date"}, "expected a type out of text, number, choice, list, messages"),
        ({"default": "x"}, "a required variable has no default"),
        ({"type": "choice"}, "choices belong to the type choice"),
        ({"choices": ("a",)}, "choices belong to the type choice"),
        ({"type": "choice", "choices": ("a", True)}, "expected texts as choices"),
        ({"max_chars": 0}, "expected a whole number from 1"),
        ({"max_tokens": True}, "expected a whole number from 1"),
        ({"example": 3}, "its example does not fit: expected a text"),
        ({"required": False, "default": "long", "max_chars": 3}, "its default does not fit"),
        ({"required": "no"}, "expected required to be true or false"),
        ({"type": "messages", "max_chars": 3}, "messages are limited by max_tokens"),
    ],
)
def test_a_variable_that_contradicts_itself_is_refused(fields: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        Variable(**{"name": "q", "description": "Any.", **fields})


@pytest.mark.parametrize(
    ("messages", "variables", "told"),
    [
        ([], [], "expected at least one message"),
        ([("human", " ")], [], "expected a text or content blocks"),
        ([("user", "Hi")], [], "expected a role out of system, human, ai, messages"),
        (["Hi"], [], "expected a pair of role and content, got 'Hi'"),
        ([("human", 3)], [], "expected a text or a list of content blocks, got int"),
        ([("human", [3])], [], "expected a content block, got 3"),
        ([("human", [{}])], [], "expected a content block, got {}"),
        ([("human", "\ud800")], [], "expected text that UTF-8 can hold"),
        ([("messages", ["h"])], [], "expected the name of a variable, got \\['h'\\]"),
        ([("messages", "h")], [var("h", type="messages")], "a message besides placeholders"),
        ([("human", "{h}")], [var("h", type="messages")], "messages go where 'messages' is"),
        ([("human", "x"), ("messages", "h")], [var("h")], "a placeholder for h"),
        ([("human", "{q}")], [var("q"), var("q")], "declared twice"),
        (
            [("human", [{"type": "image", "url": "{q}"}])],
            [var("q", required=False)],
            "q must be required or have a default",
        ),
    ],
)
def test_a_template_that_cannot_work_is_refused(
    messages: Any, variables: list[Variable], told: str
) -> None:
    with pytest.raises(ConfigurationError, match=told):
        LibraryTemplate("t", messages, variables=variables)


@pytest.mark.parametrize("name", ["", "a b", "a@b", "../x", "é", "x" * 81, "..."])
def test_a_name_is_plain(name: str) -> None:
    with pytest.raises(ConfigurationError, match="expected a name of at most 80"):
        ask(name=name)


# --- values ---------------------------------------------------------------------------------


def test_all_that_is_wrong_is_told_at_once() -> None:
    template = LibraryTemplate(
        "t",
        [("human", "{language} {code} {lines} {items}")],
        variables=[
            var("language", type="choice", choices=("python", "go")),
            var("code"),
            var("lines", type="number"),
            var("items", type="list"),
        ],
    )

    with pytest.raises(ConfigurationError) as caught:
        template.invoke({"language": "rust", "lines": True, "items": "a", "lnaguage": 1})

    told = str(caught.value)
    for part in (
        f"{template.reference}: ",
        "code is missing: The code.",
        "lnaguage is no variable of it; did you mean language?",
        "language: expected one of python, go, got 'rust'",
        "lines: expected a number, got True (bool)",
        "items: expected a list, got 'a' (str)",
    ):
        assert part in told


@pytest.mark.parametrize(
    ("fields", "value", "told"),
    [
        ({"max_chars": 3}, "abcd", "expected at most 3 characters, got 4"),
        ({"max_tokens": 3}, "one two three four", "expected at most 3 tokens, got 4"),
        ({}, b"x", "expected a text"),
        ({}, "\ud800", "UTF-8"),
        ({"type": "number"}, float("nan"), "expected a number"),
        ({"type": "number"}, "3", "expected a number"),
        ({"type": "list"}, [object()], "what JSON can hold"),
        ({"type": "list"}, [[1, [object()]]], "what JSON can hold"),
        ({"type": "list"}, [{"a": float("nan")}], "what JSON can hold"),
        ({"type": "list"}, {"a": 1}, "expected a list"),
        ({"type": "list", "max_chars": 4}, ["abc"], "expected at most 4 characters"),
    ],
)
def test_a_wrong_value_is_refused(fields: dict[str, Any], value: Any, told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        ask(**fields).invoke({"q": value})


def test_messages_are_limited_and_checked() -> None:
    history = var("history", type="messages", max_tokens=20)
    template = LibraryTemplate(
        "t", [("system", "Go."), ("messages", "history")], variables=[history]
    )

    with pytest.raises(ConfigurationError, match=r"history: expected at most 20 tokens, got \d+"):
        template.invoke({"history": [HumanMessage("word " * 30)]})
    with pytest.raises(ConfigurationError, match="expected a list of messages"):
        template.invoke({"history": [3]})
    with pytest.raises(ConfigurationError, match="expected a list of messages"):
        template.invoke({"history": "Hi"})


@pytest.mark.parametrize(
    ("fields", "value", "written"),
    [
        ({"type": "number"}, 3, "3"),
        ({"type": "number"}, 0, "0"),
        ({"type": "number"}, Decimal("1.50"), "1.50"),
        ({"type": "list"}, ["a{b}", {"c": None}], '["a{b}",{"c":null}]'),
        ({"type": "list"}, (), "[]"),
        ({"type": "list"}, [1.5, ([2],)], "[1.5,[[2]]]"),
        ({"required": False, "default": "x"}, None, "x"),
        ({"required": False}, None, ""),
        ({"max_tokens": 2}, "", ""),
    ],
)
def test_values_are_written_alike(fields: dict[str, Any], value: Any, written: str) -> None:
    assert ask("<{q}>", **fields).invoke({"q": value}).messages[1].content == f"<{written}>"


def test_one_variable_alone_may_be_given_alone() -> None:
    assert ask().invoke("Hi").messages[1].content == "Hi"  # type: ignore[arg-type]
    two = LibraryTemplate("t", [("human", "{a}{b}")], variables=[var("a"), var("b")])
    with pytest.raises(ConfigurationError, match=r"expected values by name \(a, b\), got str"):
        two.invoke("Hi")  # type: ignore[arg-type]


# --- Runnable -------------------------------------------------------------------------------


class Seen(BaseCallbackHandler):
    def __init__(self) -> None:
        self.runs: list[tuple[str, Any]] = []

    def on_chain_start(self, serialized: Any, inputs: Any, **kwargs: Any) -> None:
        self.runs.append((kwargs["name"], kwargs["metadata"]["user"]))


async def test_sync_async_and_batch_agree_and_the_config_reaches_them() -> None:
    template, values = ask(max_tokens=50), {"q": "word " * 20}
    seen = Seen()
    config = {"callbacks": [seen], "metadata": {"user": "dana"}}

    made = [
        template.invoke(values, config),
        await template.ainvoke(values, config),
        *template.batch([values], config),
        *(await template.abatch([values], config)),
    ]

    assert all(each == made[0] for each in made)
    assert seen.runs == [("ask", "dana")] * 4


async def test_one_bad_input_of_a_batch_leaves_the_others_alone() -> None:
    good, bad = await ask().abatch([{"q": "Hi"}, {"p": "Hi"}], return_exceptions=True)

    assert good.messages[1].content == "Hi"
    assert isinstance(bad, ConfigurationError)


async def test_a_long_count_does_not_hold_the_event_loop() -> None:
    template = ask(max_tokens=1_000_000)
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0)
            ticks += 1

    ticking = asyncio.create_task(tick())
    await template.ainvoke({"q": "some words of a long text " * 60_000})
    ticking.cancel()

    assert ticks > 1  # none, if the count were made in the loop


def test_a_chain_answers_and_the_plain_prompt_says_the_same() -> None:
    template = ask("Please: {q}", required=False, default="{nothing}")
    model = ScriptedModel(["four", "four"])
    plain = template.as_prompt()

    assert (template | model).invoke({"q": "2 + 2?"}).text == "four"
    assert (plain | model).invoke({"q": "2 + 2?"}).text == "four"
    assert isinstance(plain, ChatPromptTemplate)
    for values in ({}, {"q": "{x}"}):
        ours, theirs = template.invoke(values).messages, plain.invoke(values).to_messages()
        assert [m.content for m in ours] == [m.content for m in theirs]


def test_the_plain_prompt_is_a_copy() -> None:
    template = ask()
    template.as_prompt().messages.clear()

    assert len(template.as_prompt().messages) == 2


def test_a_prompt_builder_takes_the_system_text() -> None:
    template = LibraryTemplate(
        "t", [("system", "Answer as {{json}}."), ("human", "{q}")], variables=[var("q")]
    )

    builder = PromptBuilder(template.system_text, name=template.name)

    assert builder.messages({"query": "Hi"})[0].content == "Answer as {json}."
    with pytest.raises(ConfigurationError, match="expected a system message that is a text"):
        _ = LibraryTemplate("t", [("human", "Hi")]).system_text


# --- marks ----------------------------------------------------------------------------------


def test_the_first_message_made_carries_the_reference() -> None:
    template = LibraryTemplate(
        "t",
        [("messages", "before"), ("system", "Go."), ("human", "{q}")],
        variables=[var("before", type="messages"), var("q")],
    )
    given = [SystemMessage("First."), HumanMessage("Hi")]

    messages = template.invoke({"before": given, "q": "x"}).messages

    assert [TEMPLATE_MARK in message.response_metadata for message in messages] == [
        False, False, True, False,
    ]  # fmt: skip
    assert templates_of(messages) == (template.reference,)
    assert all(TEMPLATE_MARK not in message.response_metadata for message in given)


def test_a_history_that_another_template_made_is_no_use_of_that_one() -> None:
    earlier = ask().invoke({"q": "Hi"}).messages
    template = LibraryTemplate(
        "t", [("system", "Go."), ("messages", "h")], variables=[var("h", type="messages")]
    )

    assert templates_of(template.invoke({"h": earlier}).messages) == (template.reference,)
    assert templates_of(earlier) == (ask().reference,)


# --- what comes with the package -------------------------------------------------------------


@pytest.mark.parametrize("template", PromptLibrary.bundled(), ids=lambda t: t.name)
def test_bundled_templates_render_and_are_static_first(template: LibraryTemplate) -> None:
    required = {n: v.example for n, v in template.variables.items() if v.required}

    messages = template.invoke(required).messages

    assert [message.type for message in messages] == ["system", "human"]
    assert not template.parts[0].names
    assert template.description
    assert all(
        variable.example is not None or variable.default is not None
        for variable in template.variables.values()
    )
    assert "{{" not in str(messages[0].content)


def test_bundled_templates_have_nothing_to_be_said_about() -> None:
    assert PromptLibrary.bundled().check() == []


def test_the_summary_template_is_taken_by_the_context_window() -> None:
    template = PromptLibrary.bundled().get("summarise_conversation")
    summarizer = Summarizer(ScriptedModel(["ok"]), prompt=template.as_prompt())

    request = next(summarizer.notes(["user: I am Dana & <b>"], previous=None))

    assert "user: I am Dana & <b>" in str(request[1].content)
    assert str(request[1].content).endswith("New notes, in at most 300 words:")


# --- check ----------------------------------------------------------------------------------


def test_a_variable_before_a_long_static_text_is_told() -> None:
    long = LibraryTemplate(
        "late", [("system", "Today is {day}. " + "Be brief. " * 400)], variables=[var("day")]
    )
    short = LibraryTemplate(
        "short", [("system", "Today is {day}. Be brief.")], variables=[var("day", example="Monday")]
    )

    found = PromptLibrary([long, short]).check()

    assert [(f.template, f.code) for f in found] == [
        (long.reference, "variable_before_static"),
        (long.reference, "no_example"),
    ]
    assert "day stands before 1,2" in found[0].message


def test_a_placeholder_before_a_long_static_text_is_told() -> None:
    template = LibraryTemplate(
        "late",
        [("messages", "h"), ("human", "Be brief. " * 400)],
        variables=[var("h", type="messages", required=False)],
    )

    (found,) = PromptLibrary([template]).check()

    assert found.code == "variable_before_static"


def test_an_image_before_a_long_static_text_is_told_by_its_variable() -> None:
    image = {"type": "image", "url": "{shot}"}
    template = LibraryTemplate(
        "late",
        [("human", [image, "Be brief. " * 400])],
        variables=[var("shot", example="https://example.com/a.png")],
    )

    (found,) = PromptLibrary([template]).check()

    assert str(found).startswith(
        f"{template.reference}: variable_before_static: shot stands before 1,2"
    )
