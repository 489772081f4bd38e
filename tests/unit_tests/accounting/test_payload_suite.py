"""Answers of providers, recorded or documented, and what is billed for them.

`benchmarks/payloads.json` has them, `benchmarks/accounting_payloads.py` compares others by them.
"""

import csv
import importlib.util
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from langchain_tokenopt.accounting import Usage, UsageLedger
from langchain_tokenopt.accounting.bill import read_bill
from langchain_tokenopt.accounting.reconcile import reconcile

# Recorded answers are of the models of their time.
pytestmark = pytest.mark.filterwarnings("ignore:The model 'claude:DeprecationWarning")

_PLAYER = Path(__file__).parents[3] / "benchmarks" / "peers" / "payloads.py"


def _load() -> Any:
    spec = importlib.util.spec_from_file_location("payload_player", _PLAYER)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


PLAYER = _load()
PAYLOADS = PLAYER.payloads()
NAMES = [payload.name for payload in PAYLOADS]
STREAMS = [payload for payload in PAYLOADS if "stream" in payload.play]


def the_right_usage(payload: Any) -> Usage:
    shares_of_output = ("reasoning", "output_audio")
    apart = sum(n for part, n in payload.parts.items() if part not in shares_of_output)
    return Usage(plain_input=payload.input - apart, output=payload.output, **payload.parts)


@pytest.mark.parametrize("payload", PAYLOADS, ids=NAMES)
def test_what_is_booked_is_what_is_billed(payload: Any) -> None:
    ledger = UsageLedger()
    PLAYER.play(payload, [ledger])
    totals = ledger.totals()

    assert totals.usage == the_right_usage(payload)
    assert totals.cost == payload.dollars
    assert totals.unpriced_calls == 0
    assert ledger.open_calls == 0


@pytest.mark.parametrize("payload", STREAMS, ids=[payload.name for payload in STREAMS])
async def test_an_event_loop_makes_no_difference(payload: Any) -> None:
    ledger = UsageLedger()
    await PLAYER.aplay(payload, [ledger])

    assert ledger.totals().usage == the_right_usage(payload)
    assert ledger.totals().cost == payload.dollars


@pytest.mark.parametrize("payload", PAYLOADS, ids=NAMES)
def test_the_sum_by_hand_is_what_stands_beside_it(payload: Any) -> None:
    terms = [term.split("*") for term in payload.sum.split(" + ") if term]
    assert sum((Decimal(n) * Decimal(rate) for n, rate in terms), Decimal(0)) / 10**6 == (
        payload.dollars
    )
    text = sum(int(n) for n, _ in terms)
    assert text == payload.input + payload.output
    assert payload.source


def test_a_retry_is_an_error_that_costs_nothing_beside_the_call() -> None:
    (payload,) = (each for each in PAYLOADS if each.play == "500 first, with_retry")
    ledger = UsageLedger()
    PLAYER.play(payload, [ledger])

    assert [(record.kind, record.cost) for record in ledger.records()] == [
        ("error", 0),
        ("live", payload.dollars),
    ]


def test_hits_are_savings_of_what_the_call_cost() -> None:
    for payload in PAYLOADS:
        if "three times" in payload.play:
            ledger = UsageLedger()
            PLAYER.play(payload, [ledger])

            assert ledger.totals().cache_hits == 2
            assert ledger.totals().saved == 2 * payload.dollars


def test_what_no_provider_reported_is_labelled() -> None:
    for payload in PAYLOADS:
        ledger = UsageLedger()
        if payload.play == "message":
            PLAYER.play(payload, [ledger])
            reported = payload.body["usage_metadata"] is not None
            assert ledger.totals().estimated_calls == (0 if reported else 1)


def test_the_suite_has_what_is_known_to_be_counted_wrong() -> None:
    assert len(NAMES) == len(set(NAMES)) >= 46
    parts = {part for payload in PAYLOADS for part in payload.parts}
    assert parts == {
        "cache_read", "cache_write", "cache_write_1h", "cache_write_12h", "input_audio",
        "output_audio", "reasoning",
    }  # fmt: skip
    assert {payload.provider for payload in PAYLOADS} == {
        "openai", "anthropic", "google_genai", "amazon_bedrock", "azure",
    }  # fmt: skip


def openais_row(body: Any, dollars: Decimal) -> dict[str, Any]:
    usage = body["usage"]
    into = usage.get("prompt_tokens_details") or usage["input_tokens_details"]
    return {
        "model": body["model"],
        "num_model_requests": 1,
        "input_tokens": usage.get("prompt_tokens", usage.get("input_tokens")),
        "input_cached_tokens": into["cached_tokens"],
        "input_cache_write_tokens": into.get("cache_write_tokens", 0),
        "input_audio_tokens": into.get("audio_tokens", 0),
        "output_tokens": usage.get("completion_tokens", usage.get("output_tokens")),
        "cost_usd": dollars,
    }


def anthropics_row(body: Any, dollars: Decimal) -> dict[str, Any]:
    usage = body["usage"]
    written = usage["cache_creation_input_tokens"]
    lives = usage.get("cache_creation") or {"ephemeral_5m_input_tokens": written}
    return {
        "model_version": body["model"],
        "uncached_input_tokens": usage["input_tokens"],
        "cache_read_input_tokens": usage["cache_read_input_tokens"],
        "ephemeral_5m_input_tokens": lives["ephemeral_5m_input_tokens"],
        "ephemeral_1h_input_tokens": lives.get("ephemeral_1h_input_tokens", 0),
        "output_tokens": usage["output_tokens"],
        "cost_usd": dollars,
    }


@pytest.mark.parametrize(
    ("provider", "row_of"), [("openai", openais_row), ("anthropic", anthropics_row)]
)
def test_the_bill_for_all_of_them_agrees_with_the_ledger(
    tmp_path: Path, provider: str, row_of: Any
) -> None:
    ledger, rows = UsageLedger(), []
    for payload in PAYLOADS:
        if payload.provider == provider and payload.play != "message" and payload.body:
            PLAYER.play(payload, [ledger])
            begun = max(record.started_at for record in ledger.records())
            rows.append({"start_time": begun.timestamp(), **row_of(payload.body, payload.dollars)})
    path = tmp_path / "usage.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    found = reconcile(read_bill(path, provider=provider), ledger, tolerance=0)

    assert len(rows) >= 9
    assert found.bill.problems == ()
    assert [each for each in found.differences if each.tokens or each.dollars] == []
    assert found.agrees
