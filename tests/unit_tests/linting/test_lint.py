"""The linter: every rule's own examples, what it must not say, and the command."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_tokenopt.cli import main
from langchain_tokenopt.errors import ConfigurationError
from langchain_tokenopt.linting import RULES, check, lint

LONG = '"""' + "This never changes. " * 20 + '"""'


UTC_NOW = """
from datetime import datetime as dt
SystemMessage(f"{dt.utcnow().isoformat()}")
"""
PARTIAL = """
def at():
    return str(datetime.now())
PromptTemplate(template="{at}", partial_variables={"at": at})
"""
SYSTEM_TEMPLATE = """
system = SystemMessagePromptTemplate.from_template("At {now}.")
chain.invoke({"now": datetime.now()})
"""
LATE_TEMPLATE = """
ChatPromptTemplate.from_messages([
    HumanMessagePromptTemplate.from_template("{q}"),
    SystemMessagePromptTemplate.from_template("You help."),
])
"""
ONLY_TEMPLATE = 'ChatPromptTemplate.from_messages([("system", "At {now}."), ("human", "{q}")])'
STEADY = """
def style(topic):
    return "brief"
prompt.partial(style=style)
"""
GIVEN_LATER = """
prompt = ChatPromptTemplate.from_messages([("system", "At {now}."), ("human", "{q}")])
(prompt | model).invoke({"now": datetime.now(), "q": q})
"""


def codes(source: str) -> list[str]:
    return [finding.code for finding in check(source)]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.code)
def test_a_rules_bad_example_is_found_and_its_good_one_is_not(rule: Any) -> None:
    assert codes(rule.bad) == [rule.code]
    assert codes(rule.good) == []
    assert rule.title in check(rule.bad)[0].message


@pytest.mark.parametrize(
    ("source", "code"),
    [
        ("import datetime as d\nSystemMessage(content='Now ' + str(d.datetime.now()))", "TOK101"),
        (UTC_NOW, "TOK101"),
        ("import time\nx = [('system', f'At {time.time()}')]", "TOK101"),
        ("x = {'role': 'system', 'content': f'At {datetime.now():%H:%M}'}", "TOK101"),
        ("x = {'role': 'developer', 'content': 'At %s.' % datetime.now()}", "TOK101"),
        ("create_agent(m, system_prompt='At {}'.format(datetime.now()))", "TOK101"),
        ("now = datetime.now()\ntext = 'At ' + now.isoformat()\nSystemMessage(text)", "TOK101"),
        ("def at():\n    return datetime.now()\nSystemMessage(f'At {at()}')", "TOK101"),
        ("from app import get_current_time\nSystemMessage(f'At {get_current_time()}')", "TOK101"),
        ("text = 'You help.'\ntext += f' At {datetime.now()}'\nSystemMessage(text)", "TOK101"),
        ("if x:\n    t = 'a'\nelse:\n    t = str(datetime.now())\nSystemMessage(t)", "TOK101"),
        ("prompt.partial(now=datetime.now())", "TOK101"),
        ("prompt.partial(now=lambda: datetime.now().isoformat())", "TOK101"),
        (PARTIAL, "TOK101"),
        (SYSTEM_TEMPLATE, "TOK101"),
        (LATE_TEMPLATE, "TOK108"),
        ("import time\nSystemMessage(f'At {time.strftime(\"%H:%M\")}')", "TOK101"),
        ("import time\nSystemMessage(f'At {time.localtime()[3]}')", "TOK101"),
        ("SystemMessage(f'Use {set(names).union(more)}')", "TOK103"),
        ("(prompt | model).invoke({**given, 'now': datetime.now()})\n" + ONLY_TEMPLATE, "TOK101"),
        (GIVEN_LATER, "TOK101"),
        ("SystemMessage([{'type': 'text', 'text': f'At {datetime.now()}'}])", "TOK101"),
        ("SystemMessage(f'Today is {datetime.now().strftime(\"%Y-%m-%d\")}')", "TOK114"),
        ("SystemMessage(f'Today is {datetime.now():%d %B %Y}')", "TOK114"),
        ("SystemMessage(PROMPT.format(date=get_today_str()))", "TOK114"),
        ("import random\nSystemMessage(random.choice(['a', 'b']))", "TOK102"),
        ("import secrets\nSystemMessage('x' + secrets.token_hex(4))", "TOK102"),
        ("SystemMessage(f'Object {id(self)}')", "TOK102"),
        ("import os\nSystemMessage('\\n'.join(os.listdir('docs')))", "TOK103"),
        ("SystemMessage('\\n'.join(str(p) for p in Path('docs').glob('*')))", "TOK103"),
        ("for topic in {'a', 'b'}:\n    text += topic\nSystemMessage(text)", "TOK103"),
        ("topics = set(found)\nSystemMessage(f'Topics: {topics}')", "TOK103"),
        ("SystemMessage(f'{list(set(names))}')", "TOK103"),
        (f"def ask(user):\n    SystemMessage(f'You help {{user}}. ' + {LONG})", "TOK105"),
        (f"ChatPromptTemplate.from_template('{{question}} ' + {LONG})", "TOK105"),
        (f"def ask(request):\n    SystemMessage(f'{{request.user_id}} ' + {LONG})", "TOK105"),
        ("create_agent(m, tools=list({a, b}))", "TOK106"),
        ("import random\nm.bind_tools(random.sample(TOOLS, 3))", "TOK106"),
        ("p = ChatPromptTemplate.from_messages([('human', '{q}'), SystemMessage('x')])", "TOK108"),
        ("m.invoke(x, prompt_cache_key=f'k-{time.time()}')", "TOK109"),
        ("history.insert(0, ('user', found))", "TOK112"),
    ],
)  # fmt: skip
def test_it_is_found(source: str, code: str) -> None:
    assert codes(source) == [code]


@pytest.mark.parametrize(
    "source",
    [
        "HumanMessage(f'At {datetime.now()}')",
        "started = datetime.now()\nSystemMessage('You help.')\nlog(datetime.now() - started)",
        "SystemMessage(sorted(set(names))[0])",
        "SystemMessage('\\n'.join(sorted(os.listdir('docs'))))",
        "SystemMessage(f'{len(set(names))} topics')",
        "SystemMessage(f'You use {tools} and {format_instructions}.')",
        "SystemMessage('Only braces: {}')",
        "SystemMessage('{' * 3)",
        "SystemMessage(json.dumps({'a': 1}))",
        f"SystemMessage({LONG} + f' {{user_name}}')",
        "ChatPromptTemplate.from_template('Summarise: {text}')",
        "PromptTemplate()",
        "SystemMessagePromptTemplate(prompt=prompt)",
        "PromptTemplate.from_file('summarise.txt')",
        "PromptTemplate.from_examples(examples, suffix, ['text'])",
        STEADY,
        "ChatPromptTemplate.from_messages([('placeholder', '{system}'), ('system', 'x')])",
        "ChatPromptTemplate.from_messages([('system', 'a'), ('human', 'b'), ('system', 'c')])",
        "messages.insert(0, SystemMessage('You help.'))",
        "items.insert(0, HumanMessage('x'))",
        "model.bind_tools(sorted(set(tools), key=name))",
        "uuid.uuid4()",
        "ChatOpenAI(model=choose(task))",
        "x = ('system', 'a', 'b')",
        "import random\nrandom.seed(1)",
    ],
)
def test_it_is_not_found(source: str) -> None:
    assert codes(source) == []


@given(text=st.text(max_size=60))
def test_any_text_in_a_prompt_is_read(text: str) -> None:
    assert codes(f"SystemMessage({text!r})") == []
    assert codes(f"ChatPromptTemplate.from_messages([('system', {text!r})])") == []


# --- files ------------------------------------------------------------------------------------

BAD = 'SystemMessage(f"Run {uuid.uuid4()}")\n'


def test_lines_can_be_silenced(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(
        f"{BAD.rstrip()}  # noqa\n{BAD.rstrip()}  # noqa: TOK102, E501\n"
        f"{BAD.rstrip()}  # noqa: TOK101\n# noqa is only a word here\n{BAD}"
    )
    (report,) = lint([tmp_path])

    assert [finding.line for finding in report.findings] == [3, 5]


def test_notebooks_are_read_by_cell(tmp_path: Path) -> None:
    cells = [
        {"cell_type": "markdown", "source": "SystemMessage(uuid.uuid4())"},
        {"cell_type": "code", "source": ["%pip install x\n", "import uuid\n"]},
        {"cell_type": "code", "source": "%%bash\nls 'unclosed"},
        {"cell_type": "code", "source": f"x = 1\n{BAD}!ls"},
    ]
    path = tmp_path / "app.ipynb"
    path.write_text(json.dumps({"cells": cells}))
    (report,) = lint([path])

    (finding,) = report.findings
    assert report.place(finding) == f"{path}:cell 4:2:15"


def test_a_file_that_cannot_be_read_says_why_and_the_others_go_on(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("def (:\n")
    (tmp_path / "b.py").write_bytes(b"x = '\xff'")
    (tmp_path / "c.ipynb").write_text("{}")
    (tmp_path / "d.ipynb").write_text("no json")
    (tmp_path / "e.py").write_text("x = " + "(" * 5_000 + ")" * 5_000)
    (tmp_path / "f.py").write_bytes("# coding: latin-1\nSystemMessage('\xe9')".encode("latin-1"))
    (tmp_path / "g.py").write_text(BAD)
    (tmp_path / "h.py").write_bytes(b"x = 1\0")
    reports = {report.path.name: report for report in lint([tmp_path])}

    assert {name for name, report in reports.items() if report.problem} == {
        "a.py", "b.py", "c.ipynb", "d.ipynb", "e.py", "h.py",
    }  # fmt: skip
    assert "line 1" in str(reports["a.py"].problem)
    assert len(reports["g.py"].findings) == 1


def test_installed_packages_and_excluded_files_are_left_out(tmp_path: Path) -> None:
    for name in ("app.py", ".venv/lib/x.py", "node_modules/y.py", "gen/z.py", "test_app.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(BAD)

    found = lint([tmp_path], exclude=["gen/*", "test_*.py"])
    assert [report.path.name for report in found] == ["app.py"]


# --- the command ------------------------------------------------------------------------------


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "app.py").write_text(f"{BAD}SystemMessage(json.dumps(settings))\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_warnings_fail_and_notes_do_not(app: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lint", "app.py"]) == 1
    out = capsys.readouterr().out
    assert out.startswith("app.py:1:15: TOK102 something random stands in")
    assert out.endswith("1 warnings, 1 notes in 1 files\n")
    assert main(["lint", "--ignore", "TOK102"]) == 0
    assert main(["lint", "--select", "tok104"]) == 0
    assert main(["lint", "--select", "TOK1"]) == 1


def test_pyproject_says_what_to_look_for(app: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = app / "pyproject.toml"
    config.write_text('[tool.tokenopt.lint]\nignore = ["TOK102"]\n')
    assert main(["lint"]) == 0
    assert main(["lint", "--ignore", "TOK104"]) == 1  # the command line holds
    config.write_text("[tool.tokenopt.lint]\nignore = 'TOK102'\n")
    assert main(["lint"]) == 2
    assert "got ignore = 'TOK102'" in capsys.readouterr().err.replace("\n", " ")
    config.write_text("[tool")
    assert main(["lint"]) == 2


def test_what_is_not_there_is_an_error(app: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lint", "nowhere"]) == 2
    assert "there is no file or folder nowhere" in capsys.readouterr().err
    assert main(["lint", "--select", "TOK999"]) == 2
    with pytest.raises(ConfigurationError, match="'E501'"):
        list(lint([app], ignore=["E501"]))


def test_other_tools_can_read_it(app: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (app / "bad.py").write_text("(")
    assert main(["lint", "--format", "json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert [each["code"] for each in told["findings"]] == ["TOK102", "TOK104"]
    assert told["problems"][0]["path"] == "bad.py"

    main(["lint", "--format", "github"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("::warning file=app.py,line=1,col=15::TOK102 ")
    assert lines[1].startswith("::notice ")
    assert lines[2].startswith("::error file=bad.py::")

    main(["lint", "--format", "sarif"])
    run = json.loads(capsys.readouterr().out)["runs"][0]
    assert [result["level"] for result in run["results"]] == ["warning", "note"]
    assert {rule["id"] for rule in run["tool"]["driver"]["rules"]} == {r.code for r in RULES}

    assert main(["lint", "--rules"]) == 0
    assert capsys.readouterr().out.count("good") >= len(RULES)


def test_a_reader_that_stops_is_no_error(app: Path) -> None:
    for n in range(400):
        (app / f"m{n}.py").write_text(BAD * 20)
    command = [sys.executable, "-m", "langchain_tokenopt", "lint"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr is not None
    assert b"Traceback" not in process.stderr.read()
    process.stderr.close()
    process.wait()


def test_the_project_itself_is_clean() -> None:
    root = Path(__file__).resolve().parents[3]
    found = [
        report.place(finding)
        for report in lint([root / "graphs", root / "langchain_tokenopt"])
        for finding in report.findings
    ]
    assert found == []


def test_a_file_that_cannot_be_read_is_told_by_the_command(
    app: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (app / "broken.py").write_text("def f(:\n")

    main(["lint", "broken.py"])

    assert "broken.py: cannot be read: " in capsys.readouterr().out
