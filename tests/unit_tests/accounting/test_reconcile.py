"""A provider's bill beside the ledger."""

import csv
import io
import json
import tempfile
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import uuid4
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from langchain_tokenopt.accounting import CallRecord, Usage, UsageLedger
from langchain_tokenopt.accounting.bill import bare_model, read_bill
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
        "line 4: date is no day: 'yesterday'; expected 2026-11-23, or seconds since 1970",
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
    berlin = ZoneInfo("Europe/Berlin")
    assert read_bill(path).rows[0].day == date(2025, 11, 20)
    assert read_bill(path, timezone=berlin).rows[0].day == date(2025, 11, 21)


# As the provider's console writes it: numbers with `.0`, days without anything, days by their ends.
CONSOLE = """\
start_time\tend_time\tstart_time_iso\tend_time_iso\tnum_model_requests\tmodel\tbatch\tservice_tier\t\
input_tokens\toutput_tokens\tinput_cached_tokens\tinput_uncached_tokens\tinput_text_tokens\t\
output_text_tokens\tinput_cached_text_tokens\tinput_audio_tokens\toutput_audio_tokens
1763596800\t1763683200\t2025-11-20T00:00:00+00:00\t2025-11-21T00:00:00+00:00\t10.0\tgpt-4o-2024-08-06\t\
FALSE\tdefault\t59200.0\t10646.0\t5760.0\t53440.0\t53440.0\t10646.0\t5760.0\t0.0\t0.0
1763683200\t1763769600\t2025-11-21T00:00:00+00:00\t2025-11-22T00:00:00+00:00\t\t\t\t\t\t\t\t\t\t\t\t\t
"""


def test_the_consoles_own_layout_is_read_with_its_empty_days(tmp_path: Path) -> None:
    path = tmp_path / "usage.tsv"
    path.write_text(CONSOLE)
    bill = read_bill(path)

    (read,) = bill.rows
    assert read.usage == Usage(plain_input=53_440, cache_read=5_760, output=10_646)
    assert (read.requests, bill.first_day, bill.last_day) == (
        10, date(2025, 11, 20), date(2025, 11, 21),
    )  # fmt: skip
    assert (bill.problems, bill.unknown_columns) == ((), ())


@pytest.mark.parametrize(
    ("columns", "usage"),
    [
        # The sums of today include audio, and say what of them was text.
        (
            {"input_tokens": 1_000, "input_uncached_tokens": 600, "input_text_tokens": 400,
             "input_audio_tokens": 200, "input_cached_tokens": 400, "output_tokens": 90,
             "output_text_tokens": 50, "output_audio_tokens": 40},
            Usage(plain_input=400, input_audio=200, cache_read=400, output=90, output_audio=40),
        ),
        (
            {"input_tokens": 1_000, "input_audio_tokens": 200, "output_tokens": 90},
            Usage(plain_input=800, input_audio=200, output=90),
        ),
        # Writes to the cache: the sum, and its two lives.
        (
            {"input_tokens": 10_000, "input_cached_tokens": 2_000,
             "input_cache_write_tokens": 7_000, "input_cache_write_30m_tokens": 4_000,
             "input_cache_write_12h_tokens": 3_000},
            Usage(plain_input=1_000, cache_read=2_000, cache_write=4_000, cache_write_12h=3_000),
        ),
        (
            {"input_tokens": 10_000, "input_cached_tokens": 2_000,
             "input_cache_write_tokens": 7_000},
            Usage(plain_input=1_000, cache_read=2_000, cache_write=7_000),
        ),
        # Its API of before.
        (
            {"n_context_tokens_total": 118, "n_generated_tokens_total": 35,
             "n_cached_context_tokens_total": 18},
            Usage(plain_input=100, cache_read=18, output=35),
        ),
    ],
)  # fmt: skip
def test_what_openais_columns_include_is_known(
    tmp_path: Path, columns: dict[str, int], usage: Usage
) -> None:
    path = export(tmp_path, [{"date": "2026-11-20", "model": "gpt-5.6-sol", **columns}])
    assert read_bill(path).rows[0].usage == usage


def test_anthropics_input_never_includes_what_was_cached(tmp_path: Path) -> None:
    path = tmp_path / "usage.tsv"
    path.write_text(
        "Usage Date (UTC)\tModel\tInput Tokens\tCache Creation Input Tokens\t"
        "Cache Read Input Tokens\tOutput Tokens\n2026/9/1\tclaude-sonnet-5\t100\t20\t300\t40\n"
    )
    (read,) = read_bill(path).rows

    assert read.usage == Usage(plain_input=100, cache_write=20, cache_read=300, output=40)
    assert read.day == date(2026, 9, 1)


def test_anthropics_cost_export_names_models_as_the_ledger_does(tmp_path: Path) -> None:
    path = tmp_path / "cost.csv"
    path.write_text(
        "usage_date_utc,model,workspace,api_key,usage_type,context_window,token_type,cost_usd,"
        "list_price_usd,cost_type,inference_geo,speed,api_key_id,api_key_status\n"
        "2026-11-20,Claude Haiku 4.5,Default,app,message,,input_no_cache,0.05,0.05,token,,,,\n"
        "2026-11-20,Claude Haiku 4.5,Default,app,message,,output,0.02,0.02,token,,,,\n"
    )
    bill = read_bill(path)
    claude = booked(
        "claude-haiku-4-5-20251001", provider="anthropic", cost=Decimal("0.07"),
        usage=Usage(plain_input=50_000, output=4_000),
    )  # fmt: skip

    assert bill.unknown_columns == ()
    assert reconcile(bill, ledger_of(claude)).agrees


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("Claude Opus 4.5", "claude-opus-4-5"), ("claude-opus-4-5@20251101", "claude-opus-4-5"),
        ("claude-sonnet-4-0", "claude-sonnet-4"), ("Claude Sonnet 4", "claude-sonnet-4"),
        ("Claude Haiku 3.5", "claude-haiku-3-5"), ("claude-3-5-haiku-latest", "claude-haiku-3-5"),
        ("GPT-5-mini", "gpt-5-mini"), ("gpt-4o-mini-2024-07-18", "gpt-4o-mini"),
        ("gpt-4.1", "gpt-4.1"), ("ft:gpt-4o-2024-08-06:me::x", "ft:gpt-4o-2024-08-06:me::x"),
    ],
)  # fmt: skip
def test_a_model_has_one_name(written: str, read: str) -> None:
    assert bare_model(written) == read


def test_money_is_read_as_it_is_written_or_not_at_all(tmp_path: Path) -> None:
    def dollars(text: str, separator: str = ",") -> Any:
        path = tmp_path / "cost.csv"
        path.write_text(
            f'date{separator}model{separator}cost_usd\n2026-11-20{separator}m{separator}"{text}"\n'
        )
        return read_bill(path).rows[0].dollars

    assert dollars("$1,234.50") == Decimal("1234.50")
    assert dollars("0.5617712500000000") == Decimal("0.56177125")
    assert dollars("0,02", ";") == Decimal("0.02")  # as spreadsheets write it in half of Europe
    assert dollars("-3.10") == Decimal("-3.10")  # a credit
    for wrong in ("0,02", "1,23", "NaN", "1e400", "ten"):
        with pytest.raises(LogFormatError, match="cost_usd is no number"):
            dollars(wrong)


def test_an_amount_in_another_currency_is_not_taken_for_dollars(tmp_path: Path) -> None:
    path = export(
        tmp_path,
        [{"date": "2026-11-20", "line_item": "gpt-5, input", "amount_value": 1,
          "amount_currency": currency} for currency in ("eur", "usd")],
    )  # fmt: skip
    bill = read_bill(path)

    assert bill.problems == ("line 2: the amount is in eur, expected USD",)
    assert [each.dollars for each in bill.rows] == [Decimal(1)]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "date,model,input_tokens\n11/20/2026,m,5\n",
            "no row of .* can be read; the first: line 2",
        ),
        ('{"data": [1, 2]}', "no column with a day"),
        ('{"data": null}', "no column with a day"),
        ("[" * 100_000, "is not JSON"),
        (f"date,model\n2026-11-20,{'m' * 200_000}\n", "is not CSV at line"),
        ("date,input_tokens\n2026-11-20,1e999999999\n", "input_tokens is no number"),
    ],
)
def test_hostile_files_are_refused_with_a_reason(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "usage"
    path.write_text(text)
    with pytest.raises(LogFormatError, match=said):
        read_bill(path)


def test_results_that_are_no_objects_are_told(tmp_path: Path) -> None:
    path = tmp_path / "usage.json"
    results = [None, {"input_tokens": 3, "model": "gpt-5"}]
    path.write_text(json.dumps({"data": [{"start_time": 1763596800, "results": results}]}))
    bill = read_bill(path)

    assert bill.problems == ("result 1: expected an object, got None",)
    assert bill.rows[0].usage.input_tokens == 3


def test_a_file_in_another_encoding_says_so(tmp_path: Path) -> None:
    path = tmp_path / "usage.csv"
    path.write_bytes(OPENAI.encode("utf-16"))
    with pytest.raises(LogFormatError, match="expected UTF-8"):
        read_bill(path)


@pytest.mark.parametrize("zone", ["UTC", "America/Los_Angeles", "Asia/Tokyo", "Asia/Kolkata"])
def test_a_row_for_a_whole_day_counts_for_that_day_everywhere(tmp_path: Path, zone: str) -> None:
    path = tmp_path / "usage.csv"
    path.write_text(CONSOLE.replace("\t", ","))
    assert read_bill(path, timezone=ZoneInfo(zone)).rows[0].day == date(2025, 11, 20)


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
    assert "estimated calls in the ledger: 1" in str(reasons(tmp_path, [row()], booked(), guess))
    unpriced = booked(cost=None, usage=Usage(plain_input=1, output=50))
    assert "calls without a price in the ledger: 1" in str(
        reasons(tmp_path, [row()], booked(), unpriced)
    )
    assert "more requests on the bill: 1" in str(reasons(tmp_path, [row()], booked()))
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


def test_cache_writes_that_differ_are_a_difference(tmp_path: Path) -> None:
    written = [row(input_cache_write_tokens=500)]
    assert "written to the provider's cache" in str(reasons(tmp_path, written, booked(), booked()))


def test_azure_and_other_providers_are_not_on_openais_bill(tmp_path: Path) -> None:
    others = [
        booked(provider="azure"),
        booked("gpt-oss-120b", provider="groq"),
        booked("all-MiniLM-L6-v2", provider=None),
        booked("claude-sonnet-4-5", provider=None),
    ]
    found = reconcile(read_bill(export(tmp_path, [row()])), ledger_of(booked(), booked(), *others))

    assert found.agrees
    assert len(found.differences) == 1


def test_embeddings_whose_provider_is_not_known_are_found_by_their_model(tmp_path: Path) -> None:
    rows = [{"date": "2026-11-20", "model": "text-embedding-3-small", "input_tokens": 7}]
    record = booked(
        "text-embedding-3-small", kind="embedding", provider=None, usage=Usage(plain_input=7)
    )
    assert reconcile(read_bill(export(tmp_path, rows)), ledger_of(record)).agrees


def test_an_export_without_models_is_compared_by_day(tmp_path: Path) -> None:
    rows = [{"date": "2026-11-20", "amount_value": "0.02", "amount_currency": "usd"}]
    ledger = ledger_of(booked(), booked("gpt-5"))
    found = reconcile(read_bill(export(tmp_path, rows)), ledger)

    assert found.agrees
    assert [each.model for each in found.differences] == ["(all models)"]


def test_calls_on_a_day_that_the_bill_leaves_empty_are_a_difference(tmp_path: Path) -> None:
    path = tmp_path / "usage.tsv"
    path.write_text(CONSOLE)
    late = booked(started_at=datetime(2025, 11, 21, 12, tzinfo=UTC))
    found = reconcile(read_bill(path), ledger_of(late))

    assert [each.day for each in found.differences] == [date(2025, 11, 20), date(2025, 11, 21)]
    assert "not on the bill" in str(found.differences[1].reason)


def test_charges_without_a_model_beside_others_are_named(tmp_path: Path) -> None:
    rows = [
        {"date": "2026-11-20", "line_item": "gpt-5-mini, input", "amount_value": "0.02"},
        {"date": "2026-11-20", "line_item": "", "amount_value": "5"},
    ]
    found = reconcile(read_bill(export(tmp_path, rows)), ledger_of(booked(), booked()))

    assert [each.reason for each in found.differences] == [
        "no model is named: tools, storage and other charges that no ledger books", None,
    ]  # fmt: skip


def test_shares_are_of_what_was_billed(tmp_path: Path) -> None:
    rows = [row(cost_usd="0.04")]
    (found,) = reconcile(read_bill(export(tmp_path, rows)), ledger_of(booked())).differences

    assert (found.tokens, found.token_share) == (1_050, 0.5)
    assert (found.dollars, found.dollar_share) == (Decimal("0.03"), 0.75)


def test_a_cost_export_says_nothing_of_tokens(tmp_path: Path) -> None:
    rows = [{"date": "2026-11-20", "line_item": "gpt-5-mini, input", "amount_value": "0.02"}]
    (found,) = reconcile(
        read_bill(export(tmp_path, rows)), ledger_of(booked(), booked())
    ).differences

    assert (found.tokens, found.token_share, found.dollars) == (None, None, 0)
    assert not found.beyond


_AMOUNTS = st.integers(min_value=0, max_value=10**9)
_USAGES = st.builds(
    Usage, plain_input=_AMOUNTS, cache_read=_AMOUNTS, cache_write=_AMOUNTS, output=_AMOUNTS
)


@given(
    calls=st.lists(
        st.tuples(
            _USAGES, st.sampled_from(["gpt-5", "gpt-5.6-sol"]), st.integers(0, 3 * 24 - 1),
            st.decimals(0, 100, places=6),
        ),
        min_size=1, max_size=8,
    )
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_a_bill_for_what_was_booked_agrees_to_the_last_token(
    calls: list[tuple[Usage, str, int, Decimal]],
) -> None:
    midnight = NOON.replace(hour=0)
    ledger = ledger_of(
        *(
            booked(model, usage=usage, cost=cost, started_at=midnight + timedelta(hours=hour))
            for usage, model, hour, cost in calls
        )
    )
    rows = [
        {
            "start_time": int((midnight + timedelta(hours=hour)).timestamp()),
            "model": f"{model}-2025-08-07",
            "input_tokens": usage.input_tokens,
            "input_cached_tokens": usage.cache_read,
            "input_cache_write_tokens": usage.cache_write,
            "output_tokens": usage.output,
            "cost_usd": cost,
        }
        for usage, model, hour, cost in calls
    ]
    with tempfile.TemporaryDirectory() as folder:
        bill = read_bill(export(Path(folder), rows))
    found = reconcile(bill, ledger, tolerance=0)

    assert found.agrees
    assert all(not each.tokens and each.dollars == 0 for each in found.differences)


@given(
    st.binary(max_size=300)
    | st.text(max_size=300).map(str.encode)
    | st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=8),
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(
                st.sampled_from(
                    ["data", "results", "start_time", "date", "model", "amount", "cache_creation",
                     "input_tokens", "cost_usd", "currency", ""]
                ),
                inner, max_size=5,
            )
        ),
        max_leaves=12,
    ).map(lambda content: json.dumps(content).encode())
)  # fmt: skip
@settings(max_examples=300, deadline=None)
def test_whatever_stands_in_a_file_is_read_or_refused(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "usage")
        path.write_bytes(content)
        with suppress(LogFormatError):
            bill = read_bill(path)
            assert reconcile(bill, UsageLedger()).bill is bill


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
    assert "more requests on the bill: 1" in out
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


def test_the_table_fits_a_terminal_and_shows_both_sides_where_they_differ(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    path = tmp_path / "ledger.sqlite"
    with UsageLedger(path) as ledger:
        for model in ("gpt-5-mini", "gpt-5-mini", "gpt-5"):
            ledger.append(booked(model))
    rows = [row(cost_usd="0.02"), row(model="gpt-5", num_model_requests=2, cost_usd="0.02")]

    assert main(["reconcile", str(export(tmp_path, rows)), "--ledger", str(path)]) == 1
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "2026-11-20 gpt-5-mini equal 2 2,100 $0.020000" in lines
    place = lines.index("2026-11-20 gpt-5 billed 2 2,100 $0.020000")
    assert lines[place + 1 : place + 3] == [
        "booked 1 1,050 $0.010000",
        "differs +1 +1,050 (+50.0%) +0.0100 (+50.0%)",
    ]


def test_rows_that_cannot_be_read_are_told_ten_of_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "ledger.sqlite"
    with UsageLedger(path) as ledger:
        ledger.append(booked())
    usage = export(tmp_path, [row(), *[row(input_tokens="many")] * 13])

    main(["reconcile", str(usage), "--ledger", str(path)])

    out = capsys.readouterr().out
    assert out.count("not read, ") == 10
    assert "not read: 3 rows more" in out


@pytest.mark.parametrize(
    ("billed", "own", "reason"),
    [
        ({}, {"cost": None}, "calls without a price in the ledger: 1"),
        ({"input_tokens": 1_000}, {"cost": None}, "calls without a price in the ledger: 1"),
        (
            {"input_tokens": 500, "input_cached_tokens": 0},
            {"usage": Usage(plain_input=500, output=20)},
            "unknown: the tokens of the same calls differ",
        ),
        ({"input_tokens": 300}, {}, "unknown: the tokens of the same calls differ"),
    ],
)
def test_the_reason_of_a_difference_is_told(
    tmp_path: Path, billed: dict[str, Any], own: dict[str, Any], reason: str
) -> None:
    given = {"num_model_requests": 1, "input_tokens": 1_000, "input_cached_tokens": 512,
             "output_tokens": 50, "cost_usd": "0.02", **billed}  # fmt: skip
    bill = read_bill(export(tmp_path, [row(**given)]))

    (found,) = reconcile(bill, ledger_of(booked(**own))).differences

    assert found.reason is not None
    assert reason in found.reason


def test_a_bill_of_dollars_alone_asks_for_the_tokens(tmp_path: Path) -> None:
    rows = [{"date": "2026-11-20", "model": "gpt-5-mini", "cost_usd": "0.02"}]

    (found,) = reconcile(read_bill(export(tmp_path, rows)), ledger_of(booked())).differences

    assert found.reason == "the bill has no tokens to tell by: compare the usage export too"
