"""A small ledger with every kind of call, over a week."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from uuid import UUID

import pytest

from langchain_tokenopt.accounting import CallRecord, Usage, UsageLedger
from langchain_tokenopt.accounting.rollup_query import LedgerReader

START = datetime(2026, 11, 2, tzinfo=UTC)
_KINDS = ("live", "live", "cache_hit", "live", "error", "live", "cache_hit", "abandoned")
_MODELS = (("gpt-5", "openai"), ("claude-sonnet-4-5", "anthropic"), ("our-own", "local"))


def calls_of_a_week(count: int = 400) -> Iterator[CallRecord]:
    for n in range(count):
        kind = _KINDS[n % len(_KINDS)]
        model, provider = _MODELS[n % len(_MODELS)]
        known = model != "our-own"
        hit = kind == "cache_hit"
        price = Decimal(n % 17 + 1) / 1_000 if known else None
        yield CallRecord(
            run_id=UUID(int=n + 1, version=4),
            started_at=START + timedelta(minutes=25 * n),
            kind=kind,
            model=model,
            provider=provider,
            usage=Usage(
                plain_input=1_000 + n,
                cache_read=500,
                cache_write=n % 40,
                output=0 if n % 8 == 4 else 90,
            ),
            cost=Decimal(0) if hit else price,
            saved=price if hit else Decimal(0),
            latency_s=0.01 if hit else 0.5 + n % 13 / 10,
            feature=("faq", "search", None)[n % 3],
            tenant=f"tenant {n % 12}",
            node="answer",
            cache=("sqlite", "memory")[n % 2] if hit else None,
            error="RateLimitError" if kind == "error" else None,
            estimated=n % 50 == 0,
        )


@pytest.fixture(scope="session")
def week() -> list[CallRecord]:
    return list(calls_of_a_week())


@pytest.fixture(scope="session")
def ledger_path(week: list[CallRecord], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("week") / "week.sqlite"
    with UsageLedger(path) as ledger:
        for record in week:
            ledger.append(record)
    return path


@pytest.fixture
def reader(ledger_path: Path) -> Iterator[LedgerReader]:
    found = LedgerReader(ledger_path)
    yield found
    found.close()
