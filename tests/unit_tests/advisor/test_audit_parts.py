"""The parts of an audit: laws that hold for any log, and what it writes."""

import argparse
import json
import tempfile
from datetime import UTC, datetime
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.load import dumps
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_core.outputs import ChatGeneration

from langchain_tokenopt.advisor import LoggedCall, read_log
from langchain_tokenopt.advisor.audit import AuditOptions, audit
from langchain_tokenopt.advisor.audit_duplicates import ExactReplay, windows_of
from langchain_tokenopt.advisor.audit_evidence import example, mask
from langchain_tokenopt.advisor.audit_facts import FactsOf
from langchain_tokenopt.advisor.audit_html import report_as_html
from langchain_tokenopt.advisor.audit_intervals import Part, blocks_of, combined_share, share_of
from langchain_tokenopt.caches import MemoryCache, SemanticCache
from langchain_tokenopt.cli import audit as command
from langchain_tokenopt.embeddings import StaticEmbeddings
from langchain_tokenopt.errors import ConfigurationError, TokenOptError
from langchain_tokenopt.stack import Settings

FACTS = FactsOf()
WORDINGS = ("How do I {}?", "How can I {}?", "What must I do to {}?", "I want to {}, how?")
ASKS = ("return a book", "return a parcel", "block my card", "unblock my card", "pay by invoice")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def call(n: int, system: str, question: str, *, at: float = 0.0) -> LoggedCall:
    return LoggedCall(
        id=f"c{n}",
        line=n,
        model="gpt-5-mini",
        messages=(SystemMessage(system), HumanMessage(question)),
        answer=AIMessage("yes"),
        at=datetime.fromtimestamp(1_790_000_000 + at, UTC),
    )


@given(
    st.lists(
        st.tuples(st.sampled_from("ab"), st.sampled_from("pqr"), st.integers(0, 90)), max_size=40
    ),
    st.integers(1, 4),
)
def test_the_replay_of_the_same_requests_serves_what_the_real_cache_serves(
    asked: list[tuple[str, str, int]], max_entries: int
) -> None:
    clock = Clock()
    cache = MemoryCache(max_entries=max_entries, ttl_s=100.0, clock=clock)
    replay = ExactReplay(ttl_s=100.0, max_entries=max_entries)

    for n, (system, question, pause) in enumerate(asked):
        clock.now += pause
        one = call(n, system, question, at=clock.now)
        prompt = dumps(list(one.messages))
        real = cache.lookup(prompt, "model")
        assert replay.serves(FACTS(one)) == (real is not None)
        if real is None:
            cache.update(prompt, "model", [ChatGeneration(message=AIMessage("yes"))])


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(WORDINGS), st.sampled_from(ASKS)), min_size=1))
def test_both_caches_together_save_what_the_real_ones_save(asked: list[tuple[str, str]]) -> None:
    questions = [wording.format(ask) for wording, ask in asked]
    embeddings = StaticEmbeddings()
    caches = [MemoryCache(), SemanticCache(embeddings)]
    served = 0
    for question, (_, ask) in zip(questions, asked, strict=True):
        prompt = dumps([HumanMessage(question)])
        if any(cache.lookup(prompt, "model") for cache in caches):
            served += 1
            continue
        for cache in caches:
            cache.update(prompt, "model", [ChatGeneration(message=AIMessage(f"About {ask}."))])

    usage = {"prompt_tokens": 100, "completion_tokens": 10}
    rows = [
        {
            "request": {"model": "gpt-5.1", "messages": [{"role": "user", "content": question}]},
            "response": {
                "choices": [{"message": {"role": "assistant", "content": f"About {ask}."}}],
                "usage": usage,
            },
            "created_at": 1_790_000_000 + n,
        }
        for n, (question, (_, ask)) in enumerate(zip(questions, asked, strict=True))
    ]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "log.json"
        path.write_text(json.dumps(rows))
        report = audit(path, AuditOptions(embeddings=embeddings))

    assert report.combined.value == pytest.approx(served / len(asked))


@given(
    st.lists(st.tuples(st.integers(0, 10**12), st.integers(1, 10**12)), min_size=8, max_size=40),
    st.integers(0, 10_000),
)
def test_an_interval_holds_its_own_value_and_nothing_beyond_everything(
    blocks: list[tuple[int, int]], events: int
) -> None:
    part = Part(
        saved=[min(saved, cost) for saved, cost in blocks],
        cost=[cost for _, cost in blocks],
        events=events,
        calls=10_000,
    )

    share = share_of(part)

    assert share.covers(share.value)
    assert 0 <= share.value <= 1
    assert share.low is not None
    assert share.high is not None
    assert -1e-9 <= share.low <= share.high <= 1


def test_more_blocks_of_the_same_spread_make_a_narrower_interval() -> None:
    def width(blocks: int) -> float:
        share = share_of(
            Part(saved=[1, 3] * (blocks // 2), cost=[10] * blocks, events=1_000, calls=2_000)
        )
        assert share.high is not None
        assert share.low is not None
        return share.high - share.low

    assert width(40) < width(10)


def test_parts_that_each_save_half_save_three_quarters_together() -> None:
    part = Part(saved=[5] * 20, cost=[10] * 20, events=100, calls=200)

    share = combined_share([part, part])

    assert share.value == pytest.approx(0.75)
    assert share.low == pytest.approx(0.75)


def test_nothing_seen_is_not_taken_for_nothing_ever() -> None:
    few = share_of(Part(saved=[0] * 10, cost=[1] * 10, events=0, calls=100))
    many = share_of(Part(saved=[0] * 10, cost=[1] * 10, events=0, calls=10_000))

    assert few.high is not None
    assert many.high is not None
    assert few.high > many.high > 0


@pytest.mark.parametrize(("calls", "blocks"), [(1, 1), (79, 7), (80, 8), (400, 40), (10**6, 40)])
def test_a_log_is_cut_into_blocks_of_ten_calls_or_more(calls: int, blocks: int) -> None:
    assert blocks_of(calls) == blocks


@given(st.integers(1, 10**6), st.integers(1, 10**5))
def test_windows_lie_in_the_log_and_do_not_overlap(calls: int, most: int) -> None:
    windows = windows_of(calls, most=most)

    assert windows[0].first == 0
    assert windows[-1].end == calls
    assert all(w.first < w.end for w in windows)
    if most >= 4:
        assert sum(w.end - w.first for w in windows) <= max(most, 4)
        assert all(a.end <= b.first for a, b in pairwise(windows))


@given(st.text(max_size=600), st.text(max_size=600))
def test_equal_blocks_mean_equal_beginnings(one: str, other: str) -> None:
    first, second = (FACTS(call(0, text, "?")) for text in (one, other))
    texts = [f"system\n{text}\nuser\n?" for text in (one, other)]

    shared = 0
    for n in range(0, min(len(first.blocks), len(second.blocks)), 8):
        if first.blocks[n : n + 8] != second.blocks[n : n + 8]:
            break
        shared += 256

    assert texts[0][:shared] == texts[1][:shared]
    if texts[0][: shared + 256] == texts[1][: shared + 256]:
        assert len(texts[0][: shared + 256]) < shared + 256


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("Bearer abcdef0123456789", "Bearer [secret]"),
        ("postgres://ann:pa55@host/db", "postgres://[password]@host/db"),
        ("api_key = 'abc'", "[secret]'"),
        ("my password is swordfish", "my [secret]"),
        ("IBAN DE89 3704 0044 0532 0130 00", "IBAN [number]"),
        ("card 4111 1111 1111 1111.", "card [number]."),
        ("AKIAIOSFODNN7EXAMPLE", "[key]"),
        ("It costs 1,250 dollars in 2026.", "It costs 1,250 dollars in 2026."),
    ],
)
def test_what_looks_like_a_secret_is_masked(text: str, masked: str) -> None:
    assert mask(text) == masked


def test_an_example_is_short_and_no_half_of_a_secret_is_left() -> None:
    shown = example(3, "x" * 100 + " sk-" + "a1" * 30).text

    assert len(shown) <= 113
    assert "sk-a" not in shown


def test_errors_of_every_format_are_read(tmp_path: Path) -> None:
    message = {"role": "user", "content": "?"}
    rows: list[dict[str, Any]] = [
        {"request": {"model": "m", "messages": [message]}, "error": "time-out"},
        {
            "run_type": "llm", "session_id": "s", "inputs": {"messages": [message]},
            "error": "RateLimitError('no')",
        },
        {"type": "GENERATION", "input": [message], "level": "ERROR", "statusMessage": "refused"},
    ]  # fmt: skip
    path = tmp_path / "log.jsonl"
    path.write_text("".join(json.dumps(each) + "\n" for each in rows))

    errors = [each.error for each in read_log(path).calls]

    assert errors == ["time-out", "RateLimitError('no')", "refused"]


@pytest.mark.parametrize(
    ("usage", "tokens"),
    [
        ({"prompt_tokens": float("nan"), "completion_tokens": 5}, None),
        ({"prompt_tokens": 10**30, "completion_tokens": 5}, None),
        ({"prompt_tokens": -1, "completion_tokens": 5}, None),
        ({"prompt_tokens": 7, "completion_tokens": 5}, 12),
    ],
)
def test_counts_that_cannot_be_are_no_counts(
    tmp_path: Path, usage: dict[str, float], tokens: int | None
) -> None:
    answer = {"role": "assistant", "content": "4"}
    row = {
        "request": {"model": "m", "messages": [{"role": "user", "content": "?"}]},
        "response": {"choices": [{"message": answer}], "usage": usage},
    }
    path = tmp_path / "log.jsonl"
    path.write_text(json.dumps(row) + "\n")

    (read,) = read_log(path).calls

    assert read.answer is not None
    told = read.answer.usage_metadata
    assert (told and told["total_tokens"]) == tokens


def test_a_time_beyond_the_calendar_costs_one_line(tmp_path: Path) -> None:
    good = {"model": "m", "messages": [{"role": "user", "content": "?"}]}
    path = tmp_path / "log.jsonl"
    path.write_text(f"{json.dumps({**good, 'created': 1e30})}\n{json.dumps(good)}\n")

    log = read_log(path)

    assert len(log.calls) == 1
    assert "is no Unix time" in log.problems[0].reason


def test_a_call_that_cannot_have_cost_so_much_is_unpriced(tmp_path: Path) -> None:
    def row(tokens: int) -> dict[str, Any]:
        usage = {"prompt_tokens": tokens, "completion_tokens": tokens}
        answer = {"role": "assistant", "content": "4"}
        return {
            "request": {"model": "gpt-5.1", "messages": [{"role": "user", "content": "?"}]},
            "response": {"choices": [{"message": answer}], "usage": usage},
        }

    path = tmp_path / "log.jsonl"
    path.write_text("".join(json.dumps(row(n)) + "\n" for n in (10**12 - 1, 1_000_000)))

    report = audit(path)

    assert report.cost == Decimal("11.25")
    assert report.unpriced[0].calls == 1


def arguments(*given: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    command.add_to(parser.add_subparsers())
    return parser.parse_args(["audit", *given])


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / 'a "log".jsonl'
    rows = [
        {
            "request": {
                "model": "gpt-5.1",
                "messages": [{"role": "user", "content": f"<b>{n % 3}</b>?"}],
            },
            "response": {"choices": [{"message": {"role": "assistant", "content": "Yes."}}]},
            "created_at": 1_790_000_000 + n,
        }
        for n in range(100)
    ]
    path.write_text("".join(json.dumps(each) + "\n" for each in rows))
    return path


def test_the_command_prints_a_table_and_writes_settings_and_a_page(
    log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings, page = tmp_path / "tokenopt.toml", tmp_path / "audit.html"

    given = arguments(str(log), "--settings", str(settings), "--html", str(page), "--examples")
    assert command.run(given) == 0

    shown = capsys.readouterr().out
    assert "Same requests" in shown
    assert "together, by replay" in shown
    assert "as in line 1: <b>0</b>?" in shown
    assert Settings.load(settings).cache is not None
    html = page.read_text()
    assert "&lt;b&gt;0&lt;/b&gt;?" in html
    assert "<b>0</b>" not in html
    assert "<script" not in html


def test_the_command_writes_json(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.run(arguments(str(log), "--format", "json")) == 0

    told = json.loads(capsys.readouterr().out)
    assert told["calls"] == 100
    assert {each["technique"] for each in told["findings"]} >= {"exact_cache", "prompt_cache"}


def test_the_command_may_write_files_beside_json_and_says_what_was_not_read(
    log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with log.open("a") as file:
        file.write("{broken\n")
    page = tmp_path / "audit.html"

    assert command.run(arguments(str(log), "--format", "json", "--html", str(page))) == 0
    assert json.loads(capsys.readouterr().out)["calls"] == 100
    assert page.exists()
    assert command.run(arguments(str(log))) == 0

    shown = capsys.readouterr().out
    assert "1 lines could not be read:" in shown
    assert "line 101" in shown
    assert "as in line 1" not in shown


def test_a_file_in_a_folder_that_is_not_there_is_refused_before_the_work(log: Path) -> None:
    with pytest.raises(ConfigurationError, match="a folder that exists"):
        command.run(arguments(str(log), "--html", str(log.parent / "none" / "a.html")))


def test_a_log_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TokenOptError, match=r"none\.jsonl"):
        command.run(arguments(str(tmp_path / "none.jsonl")))


def test_the_page_shows_bounds_apart_from_what_is_combined(log: Path) -> None:
    html = report_as_html(audit(log, AuditOptions(small="gpt-5-nano")))

    assert "Smaller model" in html
    assert "at most" in html
    assert "Grey: bounds" in html
