"""The demo: what it plays, what it counts, what it says."""

import io
import json
import re
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from langchain_tokenopt.advisor import LoggedCall
from langchain_tokenopt.cli import main
from langchain_tokenopt.cli.demo import run
from langchain_tokenopt.cli.main import parser_of
from langchain_tokenopt.demo.apps import Step, equations_hold, steps_for
from langchain_tokenopt.demo.comparison import Comparison, run_steps
from langchain_tokenopt.demo.grading import is_wrong, stated_number
from langchain_tokenopt.demo.rows import table_rows
from langchain_tokenopt.demo.traffic import RecordedAnswers, bundled_traffic
from langchain_tokenopt.routing.attempt import attempt_of
from langchain_tokenopt.testing import ChatRequest, Reply, ScriptedModel, ServerError
from langchain_tokenopt.tokens import counter_for


def play(*arguments: str) -> tuple[Comparison, str]:
    shown = Console(file=io.StringIO(), width=140)
    comparison = run(parser_of().parse_args(["demo", *arguments]), console=shown)
    return comparison, shown.file.getvalue()  # type: ignore[attr-defined]


def row(model: str, question: str, answer: str) -> str:
    messages = [{"role": "user", "content": question}]
    choice = {"message": {"role": "assistant", "content": answer}, "finish_reason": "stop"}
    return json.dumps(
        {
            "request": {"model": model, "messages": messages},
            "response": {"model": model, "choices": [choice]},
        }
    )


@pytest.fixture(scope="module")
def bundled() -> tuple[Comparison, str]:
    return play()


def test_the_bundled_traffic_is_what_it_is_said_to_be() -> None:
    log = bundled_traffic()
    systems = {call.messages[0].text for call in log.calls}

    assert not log.problems
    assert len(log.calls) >= 300
    assert len(systems) == 1
    assert counter_for("gpt-5.1").count_text(systems.pop()) > 1_500
    assert {call.metadata["feature"] for call in log.calls} == {"faq", "maths", "thread"}
    assert any(len(call.messages) > 3 for call in log.calls)
    maths = [call for call in log.calls if call.metadata["feature"] == "maths"]
    assert all("expected" in call.metadata for call in maths)
    assert all("gpt-5-mini" in call.metadata["other_answers"] for call in maths)


def test_every_request_is_answered_in_every_step(bundled: tuple[Comparison, str]) -> None:
    comparison, _ = bundled

    names = ["plain", "+ exact cache", "+ cascade", "+ like questions"]
    assert [r.step.name for r in comparison.results] == names
    assert [r.failed for r in comparison.results] == [0, 0, 0, 0]
    assert all(len(r.outcomes) == 320 for r in comparison.results)
    assert comparison.plain.changed == 0


def test_each_step_spends_less_and_no_step_is_more_often_wrong(
    bundled: tuple[Comparison, str],
) -> None:
    plain, cached, cascaded, alike = bundled[0].results

    assert plain.totals.cost > cached.totals.cost > cascaded.totals.cost > alike.totals.cost > 0
    assert plain.graded == 62
    assert alike.wrong <= cascaded.wrong <= cached.wrong == plain.wrong
    assert bundled[0].saved_share > 0.5


def test_the_cache_gives_the_same_answers_for_one_call_each(
    bundled: tuple[Comparison, str],
) -> None:
    plain, cached, *_ = bundled[0].results
    distinct = {
        (o.call.model, tuple((m.type, m.text) for m in o.call.messages)) for o in plain.outcomes
    }

    assert [o.answer for o in cached.outcomes] == [o.answer for o in plain.outcomes]
    assert cached.model_calls == len(distinct)
    assert cached.totals.cache_hits == len(plain.outcomes) - len(distinct)


def test_what_was_saved_adds_up(bundled: tuple[Comparison, str]) -> None:
    comparison, _ = bundled
    saved = sum(part.saved for part in comparison.contributions())

    assert comparison.plain.totals.cost - comparison.optimised.totals.cost == saved
    for result in comparison.results:
        assert sum(t.cost for t in result.by_feature.values()) == result.totals.cost
        assert result.spent_after[-1] == result.totals.cost


def test_the_terminal_says_what_is_recorded_real_and_computed(
    bundled: tuple[Comparison, str],
) -> None:
    shown = bundled[1]

    for word in ("Before and after", "Real:", "Computed:", "Written for this demo:", "Simulated:"):
        assert word in shown
    assert "unpriced" not in shown


class Page(HTMLParser):
    """Notes what a page would fetch, and whether its tags are closed."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.handle_startendtag(tag, attrs)
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.links += [value for name, value in attrs if name in ("src", "href", "action")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_report_is_one_page_that_needs_nothing_else(tmp_path: Path) -> None:
    page = tmp_path / "report.html"

    play("--limit", "30", "--html", str(page))

    text = page.read_text()
    read = Page()
    read.feed(text)
    assert read.links == []
    assert read.open == []
    assert "<script" not in text
    assert text.count("<polyline") == 4
    for word in ("Before and after", "What each technique saved", "Computed"):
        assert word in text


def test_a_log_of_ones_own_is_played_and_its_bad_lines_are_told(tmp_path: Path) -> None:
    log = tmp_path / "calls.jsonl"
    rows = [row("gpt-5-mini", "2 + 2?", "4"), "{broken", row("gpt-5-mini", "2 + 2?", "4"), "42"]
    log.write_text("\n".join(rows) + "\n")

    comparison, shown = play("--log", str(log))

    assert "2 of 4 lines could not be read" in shown
    assert re.search(r"line 2: .+", shown)
    assert re.search(r"line 4: .+", shown)
    assert [r.model_calls for r in comparison.results] == [2, 1]
    assert [o.answer for o in comparison.optimised.outcomes] == ["4", "4"]


def test_a_model_without_a_price_is_shown_as_unpriced(tmp_path: Path) -> None:
    log = tmp_path / "calls.jsonl"
    log.write_text(row("our-own-model", "2 + 2?", "4") + "\n")

    comparison, shown = play("--log", str(log))

    assert comparison.plain.totals.cost == 0
    assert comparison.plain.totals.unpriced_calls == 1
    assert "unpriced in plain: the calls of our-own-model" in shown


def test_prices_of_ones_own_are_used(tmp_path: Path) -> None:
    log, prices = tmp_path / "calls.jsonl", tmp_path / "prices.json"
    log.write_text(row("our-own-model", "2 + 2?", "4") + "\n")
    prices.write_text(json.dumps({"prices": [{"model": "our-own-*", "input": "1", "output": "2"}]}))

    comparison, shown = play("--log", str(log), "--prices", str(prices))

    assert comparison.plain.totals.cost > 0
    assert "unpriced" not in shown


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--log", "nowhere.jsonl"], "nowhere.jsonl"),
        (["--prices", "nowhere.json"], "nowhere.json"),
        (["--local", "--weights", "nowhere.gguf"], "make local-model"),
        (["--html", "/nowhere/report.html", "--limit", "1"], "/nowhere"),
    ],
)
def test_what_cannot_be_read_or_written_is_an_error_in_a_line(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status = main(["demo", *arguments])

    error = capsys.readouterr().err
    assert status == 2
    assert "error:" in error
    assert told in error.replace("\n", "")


@pytest.mark.parametrize("number", ["0", "-1", "x", "1.5"])
def test_a_number_that_is_none_is_refused(number: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["demo", f"--limit={number}"])

    assert f"expected a whole number of at least 1, got '{number}'" in capsys.readouterr().err


def test_requests_without_a_recorded_answer_are_left_out_and_told(tmp_path: Path) -> None:
    log = tmp_path / "calls.jsonl"
    unanswered = json.dumps({"request": json.loads(row("gpt-5-mini", "3 + 3?", ""))["request"]})
    log.write_text(row("gpt-5-mini", "2 + 2?", "4") + "\n" + unanswered + "\n")

    comparison, shown = play("--log", str(log))

    assert [o.answer for o in comparison.plain.outcomes] == ["4"]
    assert "Left out: 1 requests without a recorded answer." in shown


def test_of_many_bad_lines_the_first_ten_are_shown(tmp_path: Path) -> None:
    log = tmp_path / "calls.jsonl"
    log.write_text(row("gpt-5-mini", "2 + 2?", "4") + "\n" + "{broken\n" * 13)

    _, shown = play("--log", str(log))

    assert "13 of 14 lines could not be read" in shown
    assert len(re.findall(r"line \d+: ", shown)) == 10
    assert "and 3 more" in shown


def test_a_report_of_what_has_no_price_has_no_curve(tmp_path: Path) -> None:
    log, page = tmp_path / "calls.jsonl", tmp_path / "report.html"
    log.write_text(row("our-own-model", "2 + 2?", "4") + "\n")

    play("--log", str(log), "--html", str(page))

    text = page.read_text()
    assert "Nothing was priced, so there is no curve to draw." in text
    assert "<polyline" not in text


def test_an_application_of_ones_own_is_played_and_its_failures_are_counted() -> None:
    def answer(call: LoggedCall, config: Any) -> str:
        if call.metadata["feature"] == "faq":
            raise LookupError("no page")
        return "4"

    step = Step(name="ours", adds="nothing", build=lambda: answer)
    comparison = run_steps(bundled_traffic().calls[:40], [step])

    (result,) = comparison.results
    faq = sum(outcome.call.metadata["feature"] == "faq" for outcome in result.outcomes)
    assert result.failed == faq > 0
    assert {o.error for o in result.outcomes} == {None, "LookupError: no page"}
    assert f"requests that failed {faq}" in [
        f"{line.label} {line.cells[0]}" for line in table_rows(comparison)
    ]


def test_likeness_is_played_where_its_embeddings_are_installed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def names() -> list[str]:
        steps = steps_for(lambda name: ScriptedModel([name]), cascade=("small", "large"))
        return [step.name for step in steps]

    whole = names()
    monkeypatch.setitem(sys.modules, "wordllama", None)

    assert names() == ["plain", "+ exact cache", "+ cascade"] == whole[:3]


def test_a_log_without_a_readable_line_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "calls.jsonl"
    log.write_text("one\ntwo\n")

    assert main(["demo", "--log", str(log)]) == 2
    captured = capsys.readouterr()
    assert "line 1" in captured.out + captured.err


def test_live_needs_a_key(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)

    assert main(["demo", "--live"]) == 2
    assert "OPENAI_API_KEY" in capsys.readouterr().err


def test_live_cascades_need_a_log_of_one_model(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "any")
    log = tmp_path / "calls.jsonl"
    log.write_text("\n".join(row(model, "2 + 2?", "4") for model in ("gpt-5", "gpt-5.1")))

    assert main(["demo", "--live", "--log", str(log), "--small", "gpt-5-mini"]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "--small needs a log with one model, got ['gpt-5', 'gpt-5.1']" in said


def test_a_call_that_was_not_answered_is_not_answered_again() -> None:
    call = replace(bundled_traffic().calls[0], answer=None, metadata={"other_answers": {"m": "4"}})
    answers = RecordedAnswers([call])
    messages = [
        {"role": {"human": "user"}.get(m.type, m.type), "content": m.text} for m in call.messages
    ]

    asked, other = (
        answers(ChatRequest(body={"model": model, "messages": messages}))
        for model in (call.model, "m")
    )

    assert isinstance(asked, ServerError)
    assert isinstance(other, Reply)
    assert other.text == "4"


def test_answers_come_from_the_log_in_turn_and_nothing_is_made_up() -> None:
    calls = [call for call in bundled_traffic().calls if call.metadata["feature"] == "maths"][:1]
    answers = RecordedAnswers(calls)
    messages = [
        {"role": {"human": "user"}.get(m.type, m.type), "content": m.text}
        for m in calls[0].messages
    ]

    known = answers(ChatRequest(body={"model": calls[0].model, "messages": messages}))
    unknown = answers(ChatRequest(body={"model": "gpt-5-nano", "messages": messages}))

    assert isinstance(known, Reply)
    assert calls[0].answer is not None
    assert known.text == calls[0].answer.text
    assert isinstance(unknown, ServerError)
    assert "the log has no answer of gpt-5-nano" in unknown.message


@pytest.mark.parametrize(
    ("text", "accepted"),
    [
        ("2 + 2 = 4\nAnswer: 4", True),
        ("2 + 2 = 5\nAnswer: 5", False),
        ("$12.50 \u00d7 4 = $50.00\nAnswer: 50", True),
        ("$200.00 \u00d7 5% = $10.00", True),
        ("1,000 / 4 = 250", True),
        ("4 / 0 = 0", False),
        ("Answer: 12", False),
        ("You can return a parcel within 30 days.", True),
    ],
)
def test_the_demos_check_recomputes_every_equation(text: str, accepted: bool) -> None:
    from langchain_core.messages import AIMessage

    attempt = attempt_of(AIMessage(text), tier="small", latency_s=0.0)

    assert equations_hold("q", attempt).accepted is accepted


@pytest.mark.parametrize(
    ("text", "expected", "wrong"),
    [
        ("Answer: 13", "13", False),
        ("Answer: $1,300.00", "1300", False),
        ("Answer: 23", "13", True),
        ("I do not know", "13", True),
        ("anything", None, None),
    ],
)
def test_answers_are_graded_by_their_stated_number(
    text: str, expected: str | None, wrong: bool | None
) -> None:
    assert is_wrong(text, expected=expected) is wrong


def test_the_stated_number_is_the_one_after_answer() -> None:
    assert stated_number("3 + 4 = 7\nAnswer: 7") == 7
