"""Templates in files: read, written, compared, booked, and on the command line."""

import json
import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.caches import InMemoryCache
from langchain_core.load import dumps
from langchain_openai import ChatOpenAI

from langchain_tokenopt import UsageLedger
from langchain_tokenopt.cli import main
from langchain_tokenopt.errors import ConfigurationError, StoreError
from langchain_tokenopt.prompts import LibraryTemplate, PromptLibrary, Variable
from langchain_tokenopt.testing import LoopbackServer

MARKDOWN = """\
---
name: greet
description: Greets somebody.
variables:
  name:
    description: Whom.
    example: Ada
  tone:
    description: How.
    type: choice
    choices: [kind, curt]
    required: false
    default: kind
---
## system

You greet people. Your tone is what is asked for.

## human

Tone: {tone}
Greet {name}.
"""
YAML = """\
name: greet
description: Greets somebody.
variables:
  name: {description: Whom., example: Ada}
  tone: {description: How., type: choice, choices: [kind, curt], required: false, default: kind}
messages:
  - system: You greet people. Your tone is what is asked for.
  - human: "Tone: {tone}\\nGreet {name}."
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts" / "greet.md").write_text(MARKDOWN)
    return tmp_path / "prompts"


# --- files ------------------------------------------------------------------------------------


def test_the_same_template_has_the_same_version_in_every_format(folder: Path) -> None:
    (folder / "greet.yaml").write_text(YAML)
    markdown = PromptLibrary.load(folder / "greet.md").get("greet")
    yaml = PromptLibrary.load(folder / "greet.yaml").get("greet")

    assert markdown.reference == yaml.reference
    assert yaml.invoke({"name": "Ada"}).to_string().endswith("Tone: kind\nGreet Ada.")


def test_a_body_without_sections_is_one_human_message(tmp_path: Path) -> None:
    (tmp_path / "ask.md").write_text("---\nvariables: {q: {description: Q.}}\n---\nAnswer: {q}\n")
    (message,) = PromptLibrary.load(tmp_path).get("ask").invoke({"q": "why?"}).to_messages()

    assert (message.type, message.content) == ("human", "Answer: why?")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("---\nname: [\n---\nx", r"greet\.md:2: expected plain YAML"),
        ("---\nvariables: {q: {colour: red}}\n---\n{q}", "colour"),
        ("---\nvariables: {}\n---\n{q}", "q"),
        ("---\nvariables: {q: {}}\n---\nnothing", "q"),
        ("---\nvariables: {q: !!python/object/apply:os.system ['true']}\n---\n{q}", "greet"),
        ("---\nformat: jinja2\nvariables: {q: {}}\n---\n{{q}}", "jinja2"),
        ("", "greet"),
    ],
    ids=["bad YAML", "field", "undeclared", "unused", "code in YAML", "jinja", "empty"],
)
def test_a_file_that_cannot_be_used_is_named_with_the_reason(
    folder: Path, text: str, told: str
) -> None:
    (folder / "greet.md").write_text(text)
    with pytest.raises(ConfigurationError, match=told):
        PromptLibrary.load(folder)


def test_files_that_are_not_there_or_of_another_kind_are_refused(tmp_path: Path) -> None:
    with pytest.raises((ConfigurationError, StoreError)):
        PromptLibrary.load(tmp_path / "nowhere.md")
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(ConfigurationError, match=r"\.md, \.yaml"):
        PromptLibrary.load(tmp_path / "a.txt")
    with pytest.raises(ConfigurationError, match="got none"):
        PromptLibrary.load(tmp_path)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("name: &n greet\nmessages: [{human: Hi}]", ":1: anchors and aliases"),
        ("name: t\na: &a [x]\nb: *a", ":2: anchors and aliases"),
        ("description: 2026-13-45", ": expected plain YAML, got: month must be in 1..12"),
        ("[" * 2000 + "]" * 2000, ": expected plain YAML, got: nested too deeply"),
        ("name: t\nmessages:\n- human: Hi\n- humam: x", ":4: messages[1].humam: this field is not"),
        ("name: t\nmessages:\n- human: Hi\n- human: ' '", ":4: messages[1]: t: message 2 "),
        ("\nname: t\nmessages: []", ":3: messages: expected a list of messages"),
        ("\nname: t", ":2: messages: expected a list of messages such as `- human: ...`, got None"),
        ("messages:\n- human: Hi\n  ai: Ho", ":2: messages[0]: expected one role, got human, ai"),
        ("messages:\n- {}", ":2: messages[0]: expected one role, got none"),
        ("- a\n- b", ":1: expected fields with values, got ['a', 'b']"),
        ("name: t\n1: x", ":1: expected names of fields, got 1; quote it"),
        ("description: 3", ":1: description: expected a text, got 3; write a text"),
        ("name: t\nversion: 123", ":2: version: expected a text, got 123; quote it"),
        ("messages: [{human: Hi}]\nversion: new", ":2: version: expected 12 hexadecimal digits"),
        ("variables:\n  q:\n    choices: a", ":3: variables.q.choices: expected a list of texts"),
        ("messages:\n- human: Hi\n  human: Ho", ":2: messages[0].human: this field is given twice"),
        ("name: t\n? [a, b]\n: x", ":2: expected plain YAML, got: found unhashable key"),
        ("messages: [{human: x}]\nanswer_schema: [a]", ":2: answer_schema: expected fields with"),
        ("messages: [{human: x}]\nanswer_schema:\n  a: .nan", ":3: answer_schema.a: expected a"),
        ("messages: [{human: x}]\nanswer_schema:\n  a: [.inf]", ":3: answer_schema.a[0]: expected"),
        ("messages: [{human: x}]\nanswer_schema: {a: 2026-01-01}", "got datetime.date(2026"),
        ("messages: [{human: x}]\nanswer_schema: " + "{a: " * 50 + "}" * 50, ": nested too deep"),
    ],
    ids=[
        "anchor", "alias", "no date", "too deep", "unknown field", "empty message", "no messages",
        "messages not there", "two roles", "no role", "a list", "number as field", "number as text",
        "number as version", "word as version", "choices", "twice", "list as field", "schema",
        "not a number", "infinite", "date", "schema too deep",
    ],
)  # fmt: skip
def test_what_is_wrong_in_yaml_is_told_with_its_line_and_field(
    tmp_path: Path, text: str, told: str
) -> None:
    (tmp_path / "t.yaml").write_text(text)
    with pytest.raises(ConfigurationError, match=re.escape(told)) as caught:
        PromptLibrary.load(tmp_path)

    assert str(caught.value).startswith(f"{tmp_path / 't.yaml'}:")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"name": "t",\n oops}', ":2: expected JSON, got: Expecting property name"),
        ('{"name": "t", "name": "u"}', ": expected JSON, got: the field 'name' twice"),
        ('{"answer_schema": {"most": NaN}}', ": expected JSON, got: the number NaN"),
        ("[" * 100_000, ": expected JSON, got: nested too deeply"),
        ('{"messages": [{"humam": "x"}]}', ": messages[0].humam: this field is not known"),
        (
            '{"tokenopt_prompts": 2, "templates": []}',
            ": tokenopt_prompts: expected the format 1",
        ),
        ('{"templates": [], "more": 1}', ": more: this field is not known beside templates"),
        ('{"templates": {}}', ": templates: expected a list, got {}"),
        ('{"templates": [3]}', ": templates[0]: expected fields with values, got 3"),
        ('{"templates": [{"current": "yes"}]}', ": templates[0].current: expected true or false"),
    ],
)
def test_what_is_wrong_in_json_is_told_with_its_field(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "t.json").write_text(text)
    with pytest.raises(ConfigurationError, match=re.escape(f"{tmp_path / 't.json'}{told}")):
        PromptLibrary.load(tmp_path)


def test_a_fault_in_an_exported_library_has_the_line_where_it_stands(tmp_path: Path) -> None:
    file = tmp_path / "all.yaml"
    file.write_text("templates:\n- name: t\n  messages:\n  - human: Hi\n  - humam: x\n")

    with pytest.raises(ConfigurationError, match=r"all\.yaml:5: templates\[0\]\.messages\[1\]"):
        PromptLibrary.load(file)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("---\nname: t\n", ":1: expected --- at the end of the front matter"),
        ("---\n- a\n---\nHi", ":2: expected fields with values as front matter, got ['a']"),
        ("---\nname: t\nmessages: []\n---\nHi", ":3: messages: messages are the sections of"),
        ("---\nname: t\n---\n\nHello\n## system\nGo", ":5: expected a section such as"),
    ],
)
def test_what_is_wrong_around_the_sections_is_told_with_its_line(
    tmp_path: Path, text: str, told: str
) -> None:
    (tmp_path / "t.md").write_text(text)
    with pytest.raises(ConfigurationError, match=re.escape(f"{tmp_path / 't.md'}{told}")):
        PromptLibrary.load(tmp_path)


def test_headings_in_fenced_code_are_text_until_the_fence_that_opened_it_closes(
    tmp_path: Path,
) -> None:
    body = "Like:\n~~~~md\n## human\n~~~\n```\n## ai\n~~~~ no end\n~~~~\n\\## system"
    (tmp_path / "t.md").write_text(f"## system\n{body}\n\n## messages: history\n\n## human\nGo.\n")

    with pytest.raises(ConfigurationError, match="used but not declared: history"):
        PromptLibrary.load(tmp_path)
    (tmp_path / "t.md").write_text(
        "---\nvariables: {history: {description: H., type: messages}}\n---\n"
        + (tmp_path / "t.md").read_text()
    )
    made = PromptLibrary.load(tmp_path).get("t").invoke({"history": [("ai", "Hello")]}).messages

    assert [message.type for message in made] == ["system", "ai", "human"]
    assert made[0].content == body.replace("\\", "")


def test_files_that_are_no_text_or_too_large_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "t.md"
    file.write_bytes(b"caf\xe9")
    with pytest.raises(ConfigurationError, match=r"t\.md: expected UTF-8, got: "):
        PromptLibrary.load(file)
    with file.open("wb") as large:
        large.truncate(16 * 1024 * 1024 + 1)
    with pytest.raises(ConfigurationError, match=r"t\.md: expected at most 16 MiB of prompts"):
        PromptLibrary.load(file)


# --- export and import ------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".yaml", ".json"])
def test_a_library_comes_back_with_all_its_versions(tmp_path: Path, suffix: str) -> None:
    library = PromptLibrary.bundled()
    old = library.get("code_review").reference
    library.add(
        LibraryTemplate("code_review", [("human", "Review {code}")], variables=[var("code")])
    )
    library.export(tmp_path / f"all{suffix}")

    again = PromptLibrary.load(tmp_path / f"all{suffix}")

    assert again.names() == library.names()
    for name in library.names():
        assert [t.reference for t in again.versions(name)] == [
            t.reference for t in library.versions(name)
        ]
    assert again.get("code_review").reference == library.get("code_review").reference != old


def var(name: str, **fields: Any) -> Variable:
    return Variable(name=name, description=f"The {name}.", **fields)


texts = st.text(
    st.characters(blacklist_categories=["Cs", "Cc"], blacklist_characters="{}"), min_size=1
).filter(lambda text: text.strip() != "")


@given(texts, texts, st.sampled_from([".yaml", ".json"]))
def test_whatever_a_template_says_comes_back(system: str, human: str, suffix: str) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        made = LibraryTemplate(
            "t", [("system", system), ("human", human + " {q}")], variables=[var("q")]
        )
        PromptLibrary([made]).export(Path(name) / f"t{suffix}")

        assert PromptLibrary.load(Path(name)).get("t").reference == made.reference


async def test_the_version_in_use_stays_in_use_and_the_file_keeps_its_rights(
    tmp_path: Path,
) -> None:
    old, new = LibraryTemplate("t", [("human", "Old.")]), LibraryTemplate("t", [("human", "New.")])
    library = PromptLibrary([old, new])
    library.use(old.reference)
    file = tmp_path / "t.yaml"
    file.touch(mode=0o600)

    await library.aexport(file)
    again = await PromptLibrary.aload(file)

    assert again.get("t").reference == old.reference
    assert [each.reference for each in again.versions("t")] == [old.reference, new.reference]
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_version_that_is_not_that_of_its_content_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "all.json"
    PromptLibrary.bundled().export(file, names=["code_review"])
    file.write_text(file.read_text().replace("senior engineer", "junior engineer"))

    with pytest.raises(ConfigurationError, match="code_review"):
        PromptLibrary.load(file)


def test_an_export_says_what_it_cannot_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"\.yaml"):
        PromptLibrary.bundled().export(tmp_path / "all.txt")
    with pytest.raises(ConfigurationError, match="no template is named"):
        PromptLibrary.bundled().export(tmp_path / "all.json", names=["nobody"])
    with pytest.raises(ConfigurationError, match="expected a list of names, got the text 'code_"):
        PromptLibrary.bundled().export(tmp_path / "all.json", names="code_review")
    with pytest.raises(ConfigurationError, match="a folder that exists"):
        PromptLibrary.bundled().export(tmp_path / "nowhere" / "all.json")
    assert list(tmp_path.iterdir()) == []


# --- differences ------------------------------------------------------------------------------


def test_a_change_behind_the_prefix_keeps_it_and_one_in_it_breaks_it() -> None:
    base = LibraryTemplate(
        "t", [("system", "Be brief."), ("human", "Say {q}")], variables=[var("q")]
    )
    later = LibraryTemplate(
        "t", [("system", "Be brief."), ("human", "Tell {q}")], variables=[var("q")]
    )
    earlier = LibraryTemplate(
        "t", [("system", "Be kind."), ("human", "Say {q}")], variables=[var("q")]
    )
    library = PromptLibrary([base, later, earlier])

    behind = library.diff(base.reference, later.reference)
    inside = library.diff(base.reference, earlier.reference)

    assert "-Say {q}" in behind.messages[0]
    assert not inside.prefix_kept
    assert inside.divergence is not None
    assert not library.diff(base.reference, base.reference)


def test_variables_that_came_went_or_changed_are_told() -> None:
    before = LibraryTemplate(
        "t", [("human", "{a} {b}")], variables=[var("a"), var("b", max_chars=5)]
    )
    after = LibraryTemplate(
        "t", [("human", "{b} {c}")], variables=[var("b", max_chars=9), var("c")]
    )
    library = PromptLibrary([before, after])

    found = library.diff(before.reference, after.reference)

    assert (found.added, found.removed) == (("c",), ("a",))
    assert list(found.changed) == ["b"]
    assert "variable added: c" in str(found)


def test_placeholders_blocks_and_sections_are_compared_as_they_stand() -> None:
    def made(size: int, word: str, **fields: Any) -> LibraryTemplate:
        block = {"type": "image", "url": "{{shot}}", "size": size}
        said = "Go{{#why}} for {{why}}{{/why}}{{^why}} " + word + "{{/why}}."
        return LibraryTemplate(
            "t",
            [("messages", "h"), ("human", said), ("human", [block])],
            variables=[var("h", type="messages"), var("why", required=False), var("shot")],
            template_format="mustache",
            **fields,
        )

    before, after = made(1, "now"), made(2, "soon", answer_schema={"type": "object"})
    found = PromptLibrary([before, after]).diff(before.reference, after.reference)

    assert len(found.messages) == 2  # the placeholder is the same
    assert "+Go{#why} for {why}{/why}{^why} soon{/why}." in found.messages[0]
    assert '+{"size":2,"type":"image","url":"{{shot}}"}' in found.messages[1]
    assert "the schema of the answer changed" in str(found)


def test_the_prefix_of_a_template_without_variables_is_all_of_it() -> None:
    before = LibraryTemplate("t", [("system", "Go."), ("human", "Now.")])
    longer = LibraryTemplate("t", [("system", "Go."), ("human", "Now."), ("human", "Do.")])
    library = PromptLibrary([before, longer])

    assert library.diff(before.reference, longer.reference).prefix_kept
    assert not library.diff(longer.reference, before.reference).prefix_kept


def test_the_prefix_reaches_through_the_blocks_in_front_of_the_first_variable() -> None:
    def made(*blocks: str) -> LibraryTemplate:
        return LibraryTemplate("t", [("human", list(blocks))], variables=[var("q")])

    before = made("Be brief.", "Say {q}", "Thanks.")
    behind, inside = made("Be brief.", "Say {q}", "Bye."), made("Be brief.", "Tell {q}", "Thanks.")
    library = PromptLibrary([before, behind, inside])

    assert library.diff(before.reference, behind.reference).prefix_kept
    assert not library.diff(before.reference, inside.reference).prefix_kept


# --- the ledger and the provider --------------------------------------------------------------


def test_spend_is_booked_by_version_and_the_provider_sees_no_mark() -> None:
    ledger = UsageLedger()
    template = PromptLibrary.bundled().get("code_review")
    with LoopbackServer(lambda _: "fine") as server:
        model = ChatOpenAI(model="gpt-5-mini", base_url=server.base_url, api_key="any")
        chain = template | model
        for _ in range(2):
            chain.invoke({"code": "x = 1"}, {"callbacks": [ledger]})
        model.invoke("no template", {"callbacks": [ledger]})

    by = ledger.totals_by("template")
    assert by[template.reference].calls == 2
    assert by[template.reference].cost > Decimal(0)
    assert by[""].calls == 1
    assert "tokenopt" not in json.dumps([request.body for request in server.requests])


def test_marked_prompts_go_through_a_cache_as_others_do() -> None:
    template = PromptLibrary.bundled().get("code_review")
    with LoopbackServer(lambda _: "fine") as server:
        model = ChatOpenAI(
            model="gpt-5-mini", base_url=server.base_url, api_key="any", cache=InMemoryCache()
        )
        for _ in range(2):
            (template | model).invoke({"code": "x = 1"})

    assert len(server.requests) == 1
    assert template.reference in dumps(template.invoke({"code": "x = 1"}).to_messages())


# --- the command line -------------------------------------------------------------------------


def test_the_command_lists_shows_and_exports(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["prompts", "list", "--format", "json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert {"code_review", "documentation", "data_analysis"} <= {each["name"] for each in listed}
    assert main(["prompts", "list"]) == 0
    assert "code_review@" in capsys.readouterr().out

    assert main(["prompts", "show", "greet", "--from", str(folder)]) == 0
    assert "one of kind, curt" in capsys.readouterr().out

    output = tmp_path / "out.yaml"
    assert main(["prompts", "export", str(output), "--from", str(folder)]) == 0
    assert PromptLibrary.load(output).names() == ["greet"]


def test_the_command_compares_and_checks(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "greet.md"
    other.write_text(MARKDOWN.replace("You greet people.", "You welcome people."))

    assert main(["prompts", "diff", str(folder / "greet.md"), str(other)]) == 1
    assert "+You welcome people." in capsys.readouterr().out
    assert main(["prompts", "diff", "code_review", "code_review"]) == 0
    assert main(["prompts", "check"]) == 0
    assert "0 findings" in capsys.readouterr().out
    assert main(["prompts", "show", "code_revue"]) == 2
    assert "code_review" in capsys.readouterr().err


def test_the_command_prints_json_where_asked(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bare = MARKDOWN.replace("    example: Ada\n", "")
    (folder / "greet.md").write_text(bare)
    other = tmp_path / "greet.md"
    other.write_text(bare.replace("You greet people.", "You welcome people."))
    source = ["--format", "json", "--from", str(folder)]

    assert main(["prompts", "show", "greet", *source]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["template"]["name"] == "greet"
    assert main(["prompts", "diff", "greet", str(other), *source]) == 1
    assert "You welcome people." in capsys.readouterr().out
    assert main(["prompts", "check", *source]) == 1
    (finding,) = json.loads(capsys.readouterr().out)
    assert finding["code"] == "no_example"
    assert main(["prompts", "check", "--from", str(folder)]) == 1
    assert "no_example: name has no example" in " ".join(capsys.readouterr().out.split())


def test_a_file_of_several_templates_is_none_to_compare(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    both = tmp_path / "both.yaml"
    (folder / "part.md").write_text(MARKDOWN.replace("name: greet", "name: part"))
    PromptLibrary.load(folder).export(both)

    assert main(["prompts", "diff", "code_review", str(both)]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "expected a file with one template" in said
    assert "with greet, part; use --from" in said
