"""A provider's bill beside the ledger."""

import csv
import io
import json
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from langchain_tokenopt.accounting import CallRecord, Usage, UsageLedger
from langchain_tokenopt.accounting.bill import read_bill
from langchain_tokenopt.accounting.reconcile import reconcile
from langchain_tokenopt.cli import main
from langchain_tokenopt.errors import ConfigurationError, LogFormatError

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
OPENAI = """\ufeffstart_time,start_time_iso,num_model_requests,model,input_tokens,output_tokens,\
input_cached_tokens,project_id,shoe_size
1763596800,2025-11-20T00:00:00+00:00,2,gpt-5-mini-2025-08-07,2000,100,1024,p1,43
"""
ANTHROPIC = """usage_date_utc,model_version,api_key,workspace,usage_type,context_window,\
usage_input_tokens_no_cache,usage_input_tokens_cache_write_5m,usage_input_tokens_cache_write_1h,\
usage_input_tokens_cache_read,usage_output_tokens,web_search_count,inference_geo,speed
2026-11-20,claude-sonnet-4-5-20250929,app,Default,standard,0-200k,100,200,300,4000,50,0,global,
2026-11-20,claude-sonnet-4-5-20250929,other,Default,batch,0-200k,1,0,0,0,1,0,global,
"""


def booked(model: str = "gpt-5-mini", **fields: Any) -> CallRecord:
    return CallRecord(
        **{
            "run_id": uuid4(), "started_at": NOON, "kind": "live", "model": model,
            "usage": Usage(plain_input=488, cache_read=512, output=50), "cost": Decimal("0.01"),
            "latency_s": 1.0, "provider": "openai", **fields,
        }
    )  # fmt: skip


def ledger_of(*records: CallRecord) -> UsageLedger:
    ledger = UsageLedger()
    for record in records:
        ledger.append(record)
    return ledger


def export(tmp_path: Path, rows: list[dict[str, Any]], name: str = "usage.csv") -> Path:
    path = tmp_path / name
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def row(**fields: Any) -> dict[str, Any]:
    return {
        "date": "2026-11-20", "model": "gpt-5-mini-2025-08-07", "num_model_requests": 2,
        "input_tokens": 2_000, "input_cached_tokens": 1_024, "output_tokens": 100, **fields,
    }  # fmt: skip


# --- reading ----------------------------------------------------------------------------------


def test_openais_usage_export_is_read(tmp_path: Path) -> None:
    path = tmp_path / "usage.csv"
    path.write_text(OPENAI, encoding="utf-8")
    bill = read_bill(path)

    (read,) = bill.rows
    assert bill.provider == "openai"
    assert (read.day, read.model) == (date(2025, 11, 20), "gpt-5-mini-2025-08-07")
    assert read.usage == Usage(plain_input=976, cache_read=1_024, output=100)
    assert (read.requests, read.dollars) == (2, None)
    assert bill.unknown_columns == ("shoe_size",)


def test_anthropics_usage_export_is_read(tmp_path: Path) -> None:
    path = tmp_path / "usage.csv"
    path.write_text(ANTHROPIC, encoding="utf-8")
    bill = read_bill(path)

    assert bill.provider == "anthropic"
    assert bill.rows[0].usage == Usage(
        plain_input=100, cache_write=200, cache_write_1h=300, cache_read=4_000, output=50
    )
    assert bill.rows[0].requests is None
    assert bill.unknown_columns == ()


def test_the_answers_of_the_admin_apis_are_read(tmp_path: Path) -> None:
    usage = {
        "object": "page",
        "data": [
            {"start_time": 1763596800, "end_time": 1763683200, "results": [
                {"object": "organization.usage.completions.result", "input_tokens": 1000,
                 "output_tokens": 500, "input_cached_tokens": 800, "num_model_requests": 5,
                 "model": "gpt-5", "project_id": None}]},
        ],
    }  # fmt: skip
    costs = {
        "data": [
            {
                "start_time": 1763596800,
                "results": [
                    {
                        "amount": {"value": 0.06, "currency": "usd"},
                        "line_item": "gpt-5-2025-08-07, input",
                    }
                ],
            }
        ]
    }
    messages = {"data": [{"starting_at": "2025-08-01T00:00:00Z", "results": [
        {"cache_creation": {"ephemeral_1h_input_tokens": 1000, "ephemeral_5m_input_tokens": 500},
         "cache_read_input_tokens": 200, "model": "claude-sonnet-4-20250514",
         "output_tokens": 500, "uncached_input_tokens": 1500}]}]}  # fmt: skip
    cents = {
        "data": [
            {
                "starting_at": "2025-08-01T00:00:00Z",
                "results": [
                    {"amount": "123.45", "currency": "USD", "model": "claude-sonnet-4-20250514"}
                ],
            }
        ]
    }
    read = []
    for n, content in enumerate((usage, costs, messages, cents)):
        path = tmp_path / f"{n}.json"
        path.write_text(json.dumps(content))
        (one,) = read_bill(path).rows
        read.append(one)

    assert read[0].usage == Usage(plain_input=200, cache_read=800, output=500)
    assert (read[1].model, read[1].dollars) == ("gpt-5-2025-08-07", Decimal("0.06"))
    assert read[2].usage.input_tokens == 3_200
    assert read[3].dollars == Decimal("1.2345")


def test_bad_rows_are_told_and_the_rest_is_read(tmp_path: Path) -> None:
    path = export(
        tmp_path,
        [row(), row(input_tokens="many"), row(date="yesterday"), row(output_tokens="-5"),
         row(input_tokens="1,000", input_cached_tokens="")],
    )  # fmt: skip
    bill = read_bill(path)

    assert [r.usage.input_tokens for r in bill.rows] == [2_000, 1_000]
    assert bill.problems == (
        "line 3: input_tokens is no number: 'many'",
        "line 4: date is no day: 'yesterday'",
        "line 5: output_tokens is no number: '-5'",
    )


@pytest.mark.parametrize("separator", [";", "\t"])
def test_other_separators_are_read(tmp_path: Path, separator: str) -> None:
    path = tmp_path / "usage.csv"
    path.write_text(OPENAI.replace(",", separator))
    assert read_bill(path).rows[0].usage.output == 100


@pytest.mark.parametrize(
    ("text", "said"),
    [("", "is empty"), ("a,b\n1,2\n", "no column with a day"), ('{"data": [', "is not JSON"),
     ("[]", "got none")],
)  # fmt: skip
def test_what_is_no_export_says_so(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "usage.csv"
    path.write_text(text)
    with pytest.raises(LogFormatError, match=said):
        read_bill(path)
    with pytest.raises(LogFormatError, match="cannot read"):
        read_bill(tmp_path / "none.csv")


def test_days_begin_where_they_are_said_to(tmp_path: Path) -> None:
    path = export(tmp_path, [row(start_time=1763596800 + 23 * 3600, date="")])
    berlin = __import__("zoneinfo").ZoneInfo("Europe/Berlin")
    assert read_bill(path).rows[0].day == date(2025, 11, 20)
    assert read_bill(path, timezone=berlin).rows[0].day == date(2025, 11, 21)


# --- comparing --------------------------------------------------------------------------------


def reasons(tmp_path: Path, rows: list[dict[str, Any]], *records: CallRecord) -> list[str | None]:
    found = reconcile(read_bill(export(tmp_path, rows)), ledger_of(*records))
    return [each.reason for each in found.differences]


def test_what_agrees_agrees(tmp_path: Path) -> None:
    hit = booked(kind="cache_hit", cost=Decimal(0), saved=Decimal("0.01"))
    refused = booked(kind="error", usage=Usage(), cost=Decimal(0), error="RateLimitError")
    claude = booked("claude-sonnet-4-5", provider="anthropic")
    late = booked(started_at=NOON + timedelta(days=3))
    ledger = ledger_of(booked(), booked(), hit, refused, claude, late)
    found = reconcile(read_bill(export(tmp_path, [row(cost_usd="0.02")])), ledger)

    assert found.agrees
    (only,) = found.differences
    assert (only.tokens, only.dollars, only.booked.requests) == (0, 0, 2)


def test_what_may_explain_a_difference_is_told(tmp_path: Path) -> None:
    assert "not in the ledger" in str(reasons(tmp_path, [row()]))
    other = booked("gpt-5", started_at=NOON)
    assert "not on the bill" in str(reasons(tmp_path, [row()], booked(), booked(), other))
    plain = booked(usage=Usage(plain_input=1_000, output=50))
    assert "cached tokens booked as plain" in str(reasons(tmp_path, [row()], plain, plain_too()))
    guess = booked(estimated=True, usage=Usage(plain_input=700, cache_read=512, output=50))
    assert "1 calls in the ledger are estimates" in str(reasons(tmp_path, [row()], booked(), guess))
    unpriced = booked(cost=None, usage=Usage(plain_input=1, output=50))
    assert "1 calls in the ledger have no price" in str(
        reasons(tmp_path, [row()], booked(), unpriced)
    )
    assert "1 requests more on the bill" in str(reasons(tmp_path, [row()], booked()))
    dear = [row(cost_usd="0.04")]
    assert "the tokens agree, the dollars do not" in str(
        reasons(tmp_path, dear, booked(), booked())
    )
    shifted = [booked(started_at=NOON - timedelta(days=1)) for _ in range(2)]
    two_days = [
        row(),
        row(date="2026-11-19", model="gpt-5", input_tokens=10, input_cached_tokens=0),
    ]
    told = reasons(tmp_path, two_days, *shifted)
    assert any(reason and "the days begin elsewhere" in reason for reason in told)


def plain_too() -> CallRecord:
    return booked(usage=Usage(plain_input=1_000, output=50))


def test_within_the_tolerance_is_no_difference(tmp_path: Path) -> None:
    bill = read_bill(export(tmp_path, [row(input_tokens=2_005)]))
    ledger = ledger_of(booked(), booked())

    assert reconcile(bill, ledger).agrees
    assert not reconcile(bill, ledger, tolerance=0.001).agrees
    with pytest.raises(ConfigurationError, match=r"a share, .* got 5"):
        reconcile(bill, ledger, tolerance=5)


def test_models_are_joined_without_the_dates_of_their_snapshots(tmp_path: Path) -> None:
    path = tmp_path / "usage.csv"
    path.write_text(ANTHROPIC)
    usage = Usage(plain_input=101, cache_write=200, cache_write_1h=300, cache_read=4_000, output=51)
    ledger = ledger_of(booked("claude-sonnet-4-5", provider="anthropic", usage=usage))

    assert reconcile(read_bill(path), ledger).agrees


# --- the command ------------------------------------------------------------------------------


def test_the_command_prints_what_differs_and_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "ledger.sqlite"
    with UsageLedger(path) as ledger:
        ledger.append(booked())
    usage = str(export(tmp_path, [row(shoe=1)]))
    command = ["reconcile", usage, "--ledger", str(path)]

    assert main(command) == 1
    out = capsys.readouterr().out
    assert "1 requests more on the bill" in out
    assert "columns not read: shoe" in out
    assert main([*command, "--tolerance", "60%"]) == 0
    capsys.readouterr()
    assert main([*command, "--format", "json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert (told["agrees"], told["differences"][0]["billed_input"]) == (False, 2_000)
    assert main([*command, "--format", "csv"]) == 1
    (line,) = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert line["booked_cache_read"] == "512"
    assert main(["reconcile", usage, "--ledger", str(tmp_path / "none")]) == 2
    for wrong in (["--tolerance", "much"], ["--timezone", "Mars/Base"]):
        with pytest.raises(SystemExit):
            main([*command, *wrong])
