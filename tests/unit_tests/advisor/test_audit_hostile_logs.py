"""Logs that are broken, odd or hold secrets: every row is read or told, and nothing leaks."""

import argparse
import json
import os
from collections.abc import Mapping
from copy import deepcopy
from decimal import Decimal
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_tokenopt.advisor.audit import AuditOptions, audit
from langchain_tokenopt.advisor.audit_facts import FactsOf
from langchain_tokenopt.advisor.audit_html import report_as_html
from langchain_tokenopt.advisor.audit_report import AuditReport
from langchain_tokenopt.advisor.audit_spill import Spill
from langchain_tokenopt.advisor.formats import RowError, read_row
from langchain_tokenopt.advisor.log import LoggedCall, LogProblem, iterate_log
from langchain_tokenopt.cli import audit as command
from langchain_tokenopt.errors import ConfigurationError, StoreError

RULES = " ".join(f"Rule {n} of the shop says what to do." for n in range(300))


def row(n: int, question: str = "Where is it?", *, system: str = "Be brief.") -> dict[str, Any]:
    messages = [{"role": "system", "content": system}, {"role": "user", "content": question}]
    return {
        "created_at": 1_790_000_000 + 10 * n,
        "request": {"model": "gpt-5-mini", "messages": messages},
        "response": {
            "choices": [{"message": {"role": "assistant", "content": f"To {question}: here."}}],
            "usage": {"prompt_tokens": 2_000, "completion_tokens": 20},
        },
    }


def written(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(each) + "\n" for each in rows), encoding="utf-8")
    return path


def changed(*path: Any, to: Any) -> dict[str, Any]:
    found = row(0)
    place: Any = found
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = to
    return found


@pytest.mark.parametrize(
    "odd",
    [
        changed("response", "usage", "prompt_tokens", to=float("nan")),
        changed("response", "usage", "prompt_tokens", to=float("inf")),
        changed("response", "choices", to=["text"]),
        changed("request", "service_tier", to=["flex"]),
    ],
)
def test_what_is_odd_beside_the_prompt_costs_no_call(tmp_path: Path, odd: Any) -> None:
    report = audit(written(tmp_path / "log.jsonl", [row(1), odd, row(2)]))

    assert (report.calls, report.problem_count) == (3, 0)


@pytest.mark.parametrize(
    ("odd", "reason"),
    [
        (changed("created_at", to=1e25), "no Unix time"),
        (changed("created_at", to=float("inf")), "no Unix time"),
        (changed("created_at", to="0001-01-01T00:00:00+14:00"), "not ISO 8601"),
        (changed("request", "tools", to="search"), "`tools` must be a list of objects, got str"),
        (changed("request", "tools", to=[None]), "`tools` must be a list of objects"),
        (
            {"run_type": "llm", "inputs": {"messages": [{"lc": 1, "id": [], "kwargs": {}}]}},
            "a message cannot be read",
        ),
    ],
)
def test_a_row_that_cannot_be_read_is_told_and_the_rest_is_audited(
    tmp_path: Path, odd: Any, reason: str
) -> None:
    report = audit(written(tmp_path / "log.jsonl", [row(1), odd, row(2)]))

    assert report.calls == 2
    (problem,) = report.problems
    assert problem.line == 2
    assert reason in problem.reason


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(["id", "text", "role", "content", "type"]), inner, max_size=2
        )
    ),
    max_leaves=4,
)
FULL = {
    "openai": row(0),
    "langsmith": {
        "run_type": "llm",
        "inputs": {"messages": [{"role": "user", "content": "Hi"}]},
        "outputs": {"generations": [[{"text": "Hello", "message": None}]]},
        "extra": {"metadata": {"ls_model_name": "gpt-5-mini"}, "invocation_params": {"tools": []}},
        "start_time": "2026-11-01T00:00:00",
        "end_time": "2026-11-01T00:00:01",
    },
    "langfuse": {
        "type": "GENERATION",
        "model": "gpt-5-mini",
        "input": [{"role": "user", "content": "Hi"}],
        "output": {"role": "assistant", "content": "Hello"},
        "usageDetails": {"input": 5, "output": 2},
        "startTime": "2026-11-01T00:00:00Z",
        "metadata": {"feature": "faq"},
    },
}


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    pairs = (
        value.items()
        if isinstance(value, Mapping)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    return [found for key, inner in pairs for found in ((*path, key), *places(inner, (*path, key)))]


@given(data=st.data(), kind=st.sampled_from(sorted(FULL)), odd=JSON_VALUES)
def test_one_odd_value_anywhere_makes_a_call_with_facts_or_a_reason(
    data: st.DataObject, kind: str, odd: Any
) -> None:
    found: Any = deepcopy(FULL[kind])
    path = data.draw(st.sampled_from(places(found)))
    place = found
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = odd

    try:
        fields = read_row(found)
    except RowError:
        return
    fields["id"] = "a"
    facts = FactsOf()(LoggedCall(line=1, **fields))
    assert facts.input >= 0
    assert facts.output >= 0


def test_a_lone_surrogate_counts_no_call_twice(tmp_path: Path) -> None:
    rows = [row(n, f"Question {n}?") for n in range(30)]
    rows[20] = row(20, "a\ud800b")

    assert audit(written(tmp_path / "log.jsonl", rows)).calls == 30


def test_a_line_that_starts_with_a_bracket_hides_no_later_line(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    lines = [json.dumps(row(n)) for n in range(20)]
    log.write_text("\n".join([*lines[:5], "[2026-11-01] rotated", *lines[5:]]))

    report = audit(log)

    assert report.calls == 20
    assert [problem.line for problem in report.problems] == [6]


@pytest.mark.parametrize("indent", [None, 1])
def test_an_array_is_read_row_by_row(tmp_path: Path, indent: int | None) -> None:
    rows = [row(n, f"{n} " * n) for n in range(400)]
    log = tmp_path / "log.json"
    log.write_text(json.dumps(rows, indent=indent))

    found = list(iterate_log(log))

    assert [each.line for each in found] == list(range(1, 401))
    assert [each.messages[-1].content for each in found if isinstance(each, LoggedCall)] == [
        each["request"]["messages"][-1]["content"] for each in rows
    ]


def test_lines_from_a_pipe_keep_their_numbers(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    text = "".join(json.dumps(row(n, f"{n} " * 300)) + "\n" for n in range(200))
    writer = Thread(target=pipe.write_text, args=(text,))
    writer.start()

    lines = [each.line for each in iterate_log(pipe)]

    writer.join()
    assert lines == list(range(1, 201))


def test_an_array_that_breaks_off_keeps_the_rows_before(tmp_path: Path) -> None:
    log = tmp_path / "log.json"
    log.write_text(json.dumps([row(n) for n in range(3)])[:-20])

    *calls, problem = iterate_log(log)

    assert len(calls) == 2
    assert isinstance(problem, LogProblem)
    assert problem.line == 3
    assert "from row 3 on" in problem.reason


def test_calls_out_of_order_come_back_in_order_of_time(tmp_path: Path) -> None:
    log = written(tmp_path / "log.jsonl", [row(n, f"Question {n}?") for n in (5, 1, 3, 3, 0)])
    of = FactsOf()

    with Spill(tmp_path) as spill:
        spill.add_all(of(call) for call in iterate_log(log) if isinstance(call, LoggedCall))
        lines = [facts.line for facts in spill.in_time_order()]

    assert lines == [5, 2, 3, 4, 1]


def test_a_full_disk_is_told_with_what_to_do(tmp_path: Path) -> None:
    log = written(tmp_path / "log.jsonl", [row(n, f"{n} " * 300) for n in range(200)])
    of = FactsOf()

    with Spill(tmp_path) as spill:
        spill._connection.execute("PRAGMA max_page_count = 8")
        facts = (of(call) for call in iterate_log(log) if isinstance(call, LoggedCall))
        with pytest.raises(StoreError, match=r"disk is full; name a folder with room"):
            spill.add_all(facts)


def secret_report(tmp_path: Path) -> AuditReport:
    def told(n: int) -> str:
        return f"You help.\nCustomer ann@example.com, password: hunter22x, session {n}\n{RULES}"

    rows: list[Any] = [row(n, f"Question {n}?", system=told(n)) for n in range(60)]
    for n in range(5):
        rows[n] = {**rows[n], "response": {}, "error": "Incorrect key: sk-proj-abcdefghijklmno123"}
    rows.append({"request": {"model": "m", "messages": "sk-proj-abcdefghijklmno123"}})
    return audit(written(tmp_path / "log.jsonl", rows))


@pytest.mark.parametrize("secret", ["sk-proj-abc", "ann@example", "hunter22x"])
def test_no_secret_of_a_log_is_in_report_page_or_settings(tmp_path: Path, secret: str) -> None:
    report = secret_report(tmp_path)

    assert report.problem_count == 1
    for text in (report.as_json(), report_as_html(report), report.settings):
        assert secret not in text


def test_a_line_that_changes_is_still_found_where_part_of_it_is_masked(tmp_path: Path) -> None:
    assert 'volatile = ["^Customer"]' in secret_report(tmp_path).settings


def test_what_the_techniques_add_is_what_they_save_together(tmp_path: Path) -> None:
    wordings = ("How do I {}?", "How can I {}?", "How to {}?")
    asks = [f"{verb} my {thing}" for verb in ("renew", "cancel") for thing in ("card", "order")]
    rows = [
        row(n, wordings[n % 3].format(asks[n % 4]), system=f"You help.\nNow: 10:{n}\n{RULES}")
        if n % 3
        else row(n, f"Something {n}, else?", system=f"You help.\nNow: 10:{n}\n{RULES}")
        for n in range(400)
    ]
    for n, each in enumerate(rows):  # a part that repeats, with like questions among it
        if n % 2:
            each["request"]["messages"][0]["content"] = f"You help.\n{RULES}"

    report = audit(written(tmp_path / "log.jsonl", rows))

    added = sum((each.added for each in report.findings if each.added is not None), Decimal(0))
    semantic = report.finding("semantic_cache")
    assert semantic is not None
    assert semantic.calls > 0
    assert abs(added - report.combined_saved) < Decimal("1e-9")


def test_a_smaller_model_without_a_price_is_told(tmp_path: Path) -> None:
    log = written(tmp_path / "log.jsonl", [row(n, f"Is this spam: {n}?") for n in range(50)])

    finding = audit(log, AuditOptions(small="my-own-model")).finding("smaller_model")

    assert finding is not None
    assert "50 of 50 calls have no price there" in "\n".join(finding.notes)


@pytest.mark.parametrize("option", ["--settings", "--html"])
def test_the_log_is_never_written_over(tmp_path: Path, option: str) -> None:
    log = written(tmp_path / "log.jsonl", [row(n) for n in range(20)])
    before = log.read_bytes()
    parser = argparse.ArgumentParser()
    command.add_to(parser.add_subparsers())

    with pytest.raises(ConfigurationError, match="expected a file besides the log"):
        command.run(parser.parse_args(["audit", str(log), option, str(log)]))

    assert log.read_bytes() == before
