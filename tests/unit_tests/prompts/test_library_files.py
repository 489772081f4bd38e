"""Templates in files: read, written, compared, booked, and on the command line."""

import json
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
    with pytest.raises(StoreError):
        PromptLibrary.bundled().export(tmp_path / "nowhere" / "all.json")


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
