"""An audit of a log: what it finds, what it must not claim, and what it may show."""

import json
import random
import re
import tempfile
import tomllib
from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.embeddings import Embeddings

from langchain_tokenopt.accounting import CallRecord, Price, Usage, UsageLedger
from langchain_tokenopt.advisor.audit import AuditOptions, audit
from langchain_tokenopt.advisor.audit_html import report_as_html
from langchain_tokenopt.advisor.audit_report import AuditReport, Finding, Technique
from langchain_tokenopt.errors import (
    ConfigurationError,
    LedgerFileError,
    LogFormatError,
    MissingExtraError,
)
from langchain_tokenopt.stack import Settings

START = 1_790_000_000.0
RULES = "Be exact and kind in all that you say to customers. " * 120


def row(
    n: int,
    question: str,
    answer: str | None = "Yes.",
    *,
    model: str = "gpt-5.1",
    system: str = "",
    history: Sequence[tuple[str, str]] = (),
    usage: tuple[int, int, int | None] | None = None,
    every_s: float = 10.0,
    error: str | None = None,
    finish: str = "stop",
    **more: Any,
) -> dict[str, Any]:
    messages = [{"role": "system", "content": system}] if system else []
    messages += [{"role": role, "content": text} for role, text in history]
    messages.append({"role": "user", "content": question})
    response: dict[str, Any] = {}
    if answer is not None:
        message = {"role": "assistant", "content": answer}
        response["choices"] = [{"message": message, "finish_reason": finish}]
    if error is not None:
        response["error"] = {"code": error}
    if usage is not None:
        read, written, cached = usage
        details = {} if cached is None else {"prompt_tokens_details": {"cached_tokens": cached}}
        response["usage"] = {"prompt_tokens": read, "completion_tokens": written, **details}
    request = {"model": model, "messages": messages, **more.pop("parameters", {})}
    at = START + every_s * n
    return {"id": f"c{n}", "created_at": at, "request": request, "response": response, **more}


def log_of(folder: Path, rows: Sequence[Any]) -> Path:
    path = folder / "calls.jsonl"
    path.write_text("".join(json.dumps(each) + "\n" for each in rows))
    return path


def found(report: AuditReport, technique: Technique) -> Finding:
    finding = report.finding(technique)
    assert finding is not None
    return finding


def words(n: int, count: int = 12) -> str:
    """Return a question that is like no other."""
    chance = random.Random(n)
    letters = "bcdfghklmnprstvw"
    return " ".join("".join(chance.choices(letters, k=7)) for _ in range(count))


class NoExtra(Embeddings):
    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        raise MissingExtraError(package="wordllama", extra="local")

    def embed_query(self, text: str) -> list[float]:
        raise MissingExtraError(package="wordllama", extra="local")


def test_the_same_requests_save_exactly_what_they_cost(tmp_path: Path) -> None:
    rows = [row(n, words(n % 4), usage=(1_000, 100, 0)) for n in range(100)]

    report = audit(log_of(tmp_path, rows))

    exact = found(report, "exact_cache")
    assert exact.calls == 96
    # gpt-5.1: $1.25 and $10 a million.
    assert report.cost == 100 * (Decimal("1.25") * 1_000 + 10 * 100) / 1_000_000
    assert exact.saved == report.cost * 96 / 100
    assert exact.share.value == pytest.approx(0.96)
    assert exact.examples[0].text.startswith("as in line 1: ")


def test_answers_older_than_their_life_are_not_served(tmp_path: Path) -> None:
    rows = [row(n, "Do you ship to Norway?", every_s=100.0) for n in range(20)]

    short = audit(log_of(tmp_path, rows), AuditOptions(ttl_s=150.0))
    for_ever = audit(log_of(tmp_path, rows), AuditOptions(ttl_s=None))

    assert found(short, "exact_cache").calls == 10
    assert found(for_ever, "exact_cache").calls == 19


@pytest.mark.parametrize(
    "change",
    [
        {"model": "gpt-5-mini"},
        {"system": "Be brief."},
        {"parameters": {"temperature": 0.5}},
        {"metadata": {"tenant": "other"}},
        {"history": [("user", "Hi"), ("assistant", "Hello")]},
    ],
)
def test_requests_that_differ_in_what_changes_answers_are_not_the_same(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    rows = [row(0, "Do you ship?"), row(1, "Do you ship?", **change)]

    report = audit(log_of(tmp_path, rows))

    assert found(report, "exact_cache").calls == 0
    assert found(report, "semantic_cache").calls == 0


def test_like_questions_are_served_by_the_semantic_cache_and_checked_against_the_log(
    tmp_path: Path,
) -> None:
    asked = ("How do I return a book?", "How can I return a book?", "I want to return a book, how?")
    rows = [row(n, asked[n % 3], "By post, within 14 days.") for n in range(60)]

    finding = found(audit(log_of(tmp_path, rows)), "semantic_cache")

    assert finding.calls >= 1
    assert finding.kind == "replayed"
    assert "the log's own answer differs in words or numbers in 0.0%" in finding.notes[1]
    assert "(the same answer)" in finding.examples[0].text


def test_a_served_answer_that_the_log_disagrees_with_is_counted_as_risk(tmp_path: Path) -> None:
    first = [
        row(n, f"What does parcel size {words(n, 2)} cost?", f"{n} dollars.") for n in range(9)
    ]
    then = [
        row(20 + n, f"what does parcel size {words(n, 2)} cost", f"{900 + n} dollars.")
        for n in range(9)
    ]

    finding = found(audit(log_of(tmp_path, [*first, *then])), "semantic_cache")

    assert finding.calls >= 1
    assert "differs in words or numbers in 100.0%" in finding.notes[1]
    assert "(another answer)" in finding.examples[0].text


def test_a_long_log_says_which_share_of_it_the_semantic_cache_played(tmp_path: Path) -> None:
    rows = [row(n, words(n)) for n in range(200)]

    finding = found(audit(log_of(tmp_path, rows), AuditOptions(most_compared=40)), "semantic_cache")

    assert finding.kind == "at least"
    assert finding.sampled == pytest.approx(0.2)


def test_savings_that_overlap_are_not_added_twice(tmp_path: Path) -> None:
    # Nine of ten calls are repeats, and all have a long prefix that was not read from the cache.
    rows = [row(n, words(n % 10), system=RULES, usage=(1_300, 5, 0)) for n in range(100)]

    report = audit(log_of(tmp_path, rows))

    exact, prompt = found(report, "exact_cache"), found(report, "prompt_cache")
    assert exact.share.value == pytest.approx(0.9)
    assert prompt.share.value > 0.7
    assert exact.added is not None
    assert prompt.added is not None
    assert report.combined.value < 1
    assert report.combined_saved < exact.saved + prompt.saved
    assert report.combined_saved >= max(exact.saved, prompt.saved)
    total = sum((each.added or Decimal(0)) for each in report.findings)
    assert float(total) == pytest.approx(float(report.combined_saved), rel=0.01)


def test_what_served_calls_kept_warm_at_the_provider_is_booked_on_the_cache(
    tmp_path: Path,
) -> None:
    # Repeats keep the prefix warm; without them each new question comes too late for it.
    rows = [
        row(n, words(n // 4), system=RULES, usage=(1_300, 5, 0 if n == 0 else 1_280), every_s=200.0)
        for n in range(100)
    ]

    exact = found(audit(log_of(tmp_path, rows)), "exact_cache")

    assert exact.calls == 75
    assert exact.share.value < 0  # 25 dear calls cost more than 100 cheap ones


@settings(max_examples=15, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 9), st.booleans(), st.booleans(), st.integers(0, 400)),
        min_size=1,
        max_size=60,
    )
)
def test_what_the_techniques_add_sums_up_to_what_they_save_together(
    asked: list[tuple[int, bool, bool, int]],
) -> None:
    at, rows = 0, []
    for n, (question, is_long, is_told, pause) in enumerate(asked):
        at += pause
        history = [("user", words(1, 400)), ("assistant", words(2, 400))] if is_long else []
        usage = (9_000 if is_long else 1_300, 20, 0 if is_told else None)
        one = row(n, words(question), system=RULES, history=history, usage=usage)
        rows.append({**one, "created_at": START + at})

    with tempfile.TemporaryDirectory() as folder:
        report = audit(log_of(Path(folder), rows))

    added = sum((each.added or Decimal(0)) for each in report.findings)
    assert float(added) == pytest.approx(float(report.combined_saved), rel=1e-3, abs=1e-9)
    assert report.combined_saved < report.cost
    assert len([each for each in report.findings if each.is_combined]) == 4


def test_bounds_are_no_part_of_the_combined_saving(tmp_path: Path) -> None:
    asked = "Is this review positive or negative: the"
    rows = [row(n, f"{asked} {words(n, 2)} died after two days") for n in range(100)]

    plain = audit(log_of(tmp_path, rows))
    report = audit(log_of(tmp_path, rows), AuditOptions(small="gpt-5-nano"))

    smaller = found(report, "smaller_model")
    assert smaller.kind == "at most"
    assert smaller.share.value > 0.3
    assert not smaller.is_combined
    assert report.combined == plain.combined
    assert any(note.startswith("classification (easy)") for note in smaller.notes)


def test_without_a_smaller_model_none_is_looked_at(tmp_path: Path) -> None:
    report = audit(log_of(tmp_path, [row(0, "Is this spam?")]))

    assert report.finding("smaller_model") is None


def test_an_automatic_cache_that_the_log_is_silent_about_is_no_saving(tmp_path: Path) -> None:
    silent = [row(n, words(n), system=RULES) for n in range(50)]
    told = [row(n, words(n), system=RULES, usage=(1_300, 5, 0)) for n in range(50)]

    unknown = audit(log_of(tmp_path, silent), AuditOptions())
    known = audit(log_of(tmp_path, told), AuditOptions())

    assert found(unknown, "prompt_cache").share.value == 0
    assert found(known, "prompt_cache").share.value > 0.7
    assert "at no saving here" in found(unknown, "prompt_cache").notes[-1]


def test_a_time_in_the_prefix_is_found_named_and_made_a_setting(tmp_path: Path) -> None:
    rows = [
        row(
            n,
            words(n),
            system=f"You help.\nNow: 2026-11-02 10:{n:02}\n{RULES}",
            usage=(1_300, 5, 0),
        )
        for n in range(50)
    ]

    report = audit(log_of(tmp_path, rows))

    prompt = found(report, "prompt_cache")
    assert "49 broken by time_in_prefix" in prompt.notes[0]
    assert prompt.share.value > 0.7
    written = Settings.of(loaded(report))
    assert written.prompt_cache is not None
    (line,) = written.prompt_cache.volatile
    assert re.search(line, "Now: 2026-12-24 09:30")
    assert not re.search(line, "You help.")


def test_a_prefix_that_is_used_too_rarely_is_not_worth_writing(tmp_path: Path) -> None:
    rare = [
        row(
            n, words(n), system=RULES, model="claude-sonnet-4-5", usage=(1_300, 5, 0), every_s=3_600
        )
        for n in range(50)
    ]

    report = audit(log_of(tmp_path, rare))

    prompt = found(report, "prompt_cache")
    assert prompt.share.value < 0
    assert "[prompt_cache]" not in report.settings
    assert "a written prefix pays from use 2 on" in prompt.notes[0]


def turns(count: int = 20) -> list[tuple[str, str]]:
    """Return a history of equally long turns."""
    return [(("user", "assistant")[n % 2], words(1_000 + n, 20)) for n in range(2 * count)]


def test_a_history_above_the_bound_is_cut_to_half_of_it_in_whole_turns(tmp_path: Path) -> None:
    rows = [row(n, words(n), history=turns(), usage=(9_000, 10, 0)) for n in range(20)]

    context = found(audit(log_of(tmp_path, rows)), "context")

    assert context.calls == 20
    out = context.tokens / 20
    # 320 tokens are kept free; a turn has some 440.
    assert 5_320 <= out <= 5_320 + 440
    assert context.share.value == pytest.approx(out * 1.25 / (9_000 * 1.25 + 100), rel=0.01)


def test_one_long_turn_goes_as_a_whole(tmp_path: Path) -> None:
    rows = [row(n, words(n), history=turns(1), usage=(9_000, 10, 0)) for n in range(20)]

    context = found(audit(log_of(tmp_path, rows)), "context")

    # What stays is the question.
    assert context.tokens / 20 == pytest.approx(9_000 * 2 / 2.6, rel=0.1)


def test_a_cut_that_breaks_the_cached_prefix_can_cost_more_than_it_saves(tmp_path: Path) -> None:
    first = [row(0, words(0), system=words(7), history=turns(), usage=(9_000, 10, 8_960))]
    others = [row(n, words(n), usage=(20, 10, 0)) for n in range(1, 20)]

    report = audit(log_of(tmp_path, [*first, *others]))

    context = found(report, "context")
    assert context.share.value < 0
    assert context.added == 0
    without = audit(log_of(tmp_path, [*first, *others]), AuditOptions(max_context_tokens=100_000))
    assert report.combined == without.combined
    assert "left out of the whole" in context.notes[-1]


def test_after_a_cut_the_rest_is_read_from_the_cache_again(tmp_path: Path) -> None:
    rows = [row(n, words(n), history=turns(), usage=(9_000, 10, 8_960)) for n in range(50)]

    context = found(audit(log_of(tmp_path, rows)), "context")

    # 49 of 50 calls read what is left out less, at a tenth of the price; one pays the rest in full.
    out = context.tokens / 50
    before = 50 * (8_960 * 0.125 + 40 * 1.25 + 100)
    after = (9_000 - out) * 1.25 + 100 + 49 * ((8_960 - out) * 0.125 + 40 * 1.25 + 100)
    assert context.share.value == pytest.approx(1 - after / before, rel=0.02)


def test_models_without_a_price_are_named_and_in_no_sum(tmp_path: Path) -> None:
    rows = [row(n, words(n), model="our-own", usage=(10, 1, 0)) for n in range(3)]
    rows.append(row(3, words(3), usage=(1_000_000, 0, 0)))

    report = audit(log_of(tmp_path, rows))

    assert (report.unit, report.cost) == ("dollars", Decimal("1.25"))
    assert [(each.model, each.calls, each.tokens) for each in report.unpriced] == [
        ("our-own", 3, 33)
    ]


def test_failures_and_calls_made_again_are_counted(tmp_path: Path) -> None:
    rows = [
        row(0, "A?", None, error="rate_limit_exceeded"),
        row(1, "A?"),
        row(2, "B?", "Cut of", finish="length"),
        row(3, "B?"),
        row(4, "C?", ""),
        row(100, "C?"),  # much later
    ]

    errors = found(audit(log_of(tmp_path, rows)), "errors")

    assert errors.calls == 3
    assert errors.notes[0].startswith("1 empty, 1 error, 1 truncated; 2 requests were made again")
    assert "rate_limit_exceeded: 1" in errors.notes


def test_refusals_for_the_rate_make_a_limit_from_the_busiest_calm_minute(tmp_path: Path) -> None:
    calm = [row(n, words(n), usage=(100, 10, 0)) for n in range(12)]
    refused = [row(13, "A?", None, error="rate_limit_exceeded")]

    written = Settings.of(loaded(audit(log_of(tmp_path, [*calm, *refused]))))

    assert written.batching is not None
    assert written.batching.tokens_per_minute == 6 * 110


def test_where_no_price_is_known_at_all_tokens_are_told(tmp_path: Path) -> None:
    rows = [
        row(n, words(n % 20), system=RULES, model="my-llama", usage=(1_300, 5, 0))
        for n in range(100)
    ]

    report = audit(log_of(tmp_path, rows), AuditOptions(small="gpt-5-nano"))

    assert (report.unit, report.cost) == ("tokens", 130_500)
    same = found(report, "exact_cache")
    assert same.saved == 80 * 1_305
    assert same.share.value == pytest.approx(0.8)
    assert report.amount(same.saved) == "104,400 tokens"
    told = {each.technique for each in report.findings}
    assert not told & {"prompt_cache", "batch", "smaller_model"}, "they are matters of prices"
    assert [each.model for each in report.unpriced] == ["my-llama"]
    assert "$" not in f"{report}{report_as_html(report)}".split("<h2>Evidence")[0]
    assert Settings.of(tomllib.loads(report.settings), where="here").cache


def test_bursts_of_single_questions_are_batchable_at_half_the_price(tmp_path: Path) -> None:
    rows = [row(n, words(n), usage=(1_000, 10, 0), every_s=0.5) for n in range(100)]

    def prices(*, tier: str | None, **_: Any) -> Price:
        half = Decimal("0.5") if tier == "batch" else Decimal(1)
        return Price(input=half, output=8 * half, source="made for the test")

    priced = found(audit(log_of(tmp_path, rows), AuditOptions(prices=prices)), "batch")
    unpriced = found(audit(log_of(tmp_path, rows)), "batch")

    assert priced.calls == unpriced.calls == 80  # the minute begins inside the log
    assert priced.kind == "at most"
    assert priced.share.value == pytest.approx(0.4)
    assert unpriced.share.value == 0
    assert "no batch price is known for 80 of them" in unpriced.notes[1]


def test_the_order_of_the_file_does_not_matter(tmp_path: Path) -> None:
    rows = [row(n, words(n % 7), system=RULES, usage=(1_300, 5, 0)) for n in range(60)]
    mixed = random.Random(3).sample(rows, len(rows))

    one, other = audit(log_of(tmp_path, rows)), audit(log_of(tmp_path, mixed))

    assert one.combined == other.combined
    assert [f.saved for f in one.findings] == [f.saved for f in other.findings]


def test_examples_hide_secrets(tmp_path: Path) -> None:
    question = (
        "Reset ann@example.com, key sk-abcdef0123456789abcdef, password: hunter2, +49 170 1234567"
    )
    rows = [row(n, question) for n in range(20)]

    text = audit(log_of(tmp_path, rows)).as_json()

    assert "[email]" in text
    for secret in ("ann@example.com", "sk-abcdef", "hunter2", "1234567"):
        assert secret not in text


def test_lines_that_cannot_be_read_are_counted(tmp_path: Path) -> None:
    rows: list[Any] = [row(0, "A?"), 42, *[{"request": {}} for _ in range(20)]]

    report = audit(log_of(tmp_path, rows))

    assert report.calls == 1
    assert report.problem_count == 21
    assert len(report.problems) == 10


def test_a_log_without_a_call_says_what_is_wrong_with_its_first_line(tmp_path: Path) -> None:
    with pytest.raises(LogFormatError, match="line 1: expected a JSON object, got int"):
        audit(log_of(tmp_path, [42]))


def test_a_short_log_gets_no_intervals_and_says_so(tmp_path: Path) -> None:
    report = audit(log_of(tmp_path, [row(n, "A?") for n in range(5)]))

    assert report.combined.low is None
    assert "5 calls are too few for intervals" in report.notes


def test_a_log_without_times_says_what_that_costs(tmp_path: Path) -> None:
    rows = [row(n, words(n)) for n in range(3)]
    for each in rows:
        del each["created_at"]

    report = audit(log_of(tmp_path, rows))

    assert report.since is None
    assert any("some calls have no time" in note for note in report.notes)


def test_without_the_extra_for_embeddings_the_rest_is_found_and_the_report_says_so(
    tmp_path: Path,
) -> None:
    rows = [row(n, "A?") for n in range(5)]

    report = audit(log_of(tmp_path, rows), AuditOptions(embeddings=NoExtra(), small="gpt-5-nano"))

    assert report.finding("semantic_cache") is None
    assert found(report, "exact_cache").calls == 4
    assert any("langchain-tokenopt[local]" in note for note in report.notes)


def test_nothing_is_left_in_the_temporary_folder(tmp_path: Path) -> None:
    folder = tmp_path / "spill"
    folder.mkdir()
    surrogate = [row(0, "lone \ud800 surrogate"), row(1, "lone \ud800 surrogate")]

    report = audit(log_of(tmp_path, [row(9, "A?"), *surrogate]), AuditOptions(folder=folder))

    assert report.calls == 3

    assert found(report, "exact_cache").calls == 1
    assert list(folder.iterdir()) == []


def ledger_of(path: Path, *, cost: Decimal | None) -> Path:
    with UsageLedger(path) as ledger:
        for n in range(40):
            kind = ("live", "error", "cache_hit", "live")[n % 4]
            ledger.append(
                CallRecord(
                    run_id=uuid4(),
                    started_at=datetime.fromtimestamp(START + n, UTC),
                    kind=kind,  # type: ignore[arg-type]  # one of the four
                    model="gpt-5.1",
                    usage=Usage() if kind == "error" else Usage(plain_input=100, output=10),
                    cost=cost if kind == "live" else Decimal(0),
                    latency_s=1.0,
                    error="RateLimitError" if kind == "error" else None,
                )
            )
    return path


def test_a_ledger_without_a_price_is_told_in_tokens(tmp_path: Path) -> None:
    report = audit(ledger_of(tmp_path / "ledger.sqlite", cost=None))

    assert (report.unit, report.cost) == ("tokens", 20 * 110)


def test_a_ledger_tells_its_failures_and_that_it_has_no_prompts(tmp_path: Path) -> None:
    report = audit(ledger_of(tmp_path / "ledger.sqlite", cost=Decimal("0.5")))

    assert (report.calls, report.cost) == (40, Decimal(10))
    assert found(report, "errors").calls == 10
    assert report.combined.value == 0
    assert any("a ledger keeps no prompts" in note for note in report.notes)
    assert any("10 calls were served by a cache already" in note for note in report.notes)


def test_a_database_that_is_no_ledger_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.sqlite"
    path.write_bytes(b"SQLite format 3\x00" + b"\x00" * 100)

    with pytest.raises(LedgerFileError):
        audit(path)


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_error_rate": 0}, {"ttl_s": 0}, {"burst": 1}, {"max_entries": 0},
        {"max_context_tokens": 0}, {"most_compared": 0}, {"most_classified": 0},
    ],
)  # fmt: skip
def test_options_that_cannot_be_are_refused(wrong: dict[str, Any]) -> None:
    (name,) = wrong
    with pytest.raises(ConfigurationError, match=name):
        AuditOptions(**wrong)


def loaded(report: AuditReport) -> dict[str, Any]:
    return tomllib.loads(report.settings)
