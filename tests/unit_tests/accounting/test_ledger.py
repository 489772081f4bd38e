"""The ledger: laws of its sums, its file, and what it does when the file fails."""

import json
import logging
import multiprocessing
import os
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain.agents import create_agent
from langchain_core.messages import AIMessage
from langchain_core.tools import tool

from langchain_tokenopt.accounting import (
    CallRecord,
    GenaiPrices,
    Price,
    PriceOverrides,
    Usage,
    UsageLedger,
    cost_of,
    first_known,
    normalise_usage,
)
from langchain_tokenopt.accounting import sqlite as sqlite_records
from langchain_tokenopt.accounting.prices import warn_if_stale
from langchain_tokenopt.accounting.totals import GROUP_FIELDS
from langchain_tokenopt.errors import ConfigurationError, LedgerFileError
from langchain_tokenopt.testing import ScriptedModel

START = datetime(2026, 11, 1, tzinfo=UTC)


def record(**changes: Any) -> CallRecord:
    given: dict[str, Any] = {
        "run_id": uuid4(),
        "started_at": START,
        "kind": "live",
        "model": "gpt-5",
        "usage": Usage(plain_input=10, output=5),
        "cost": Decimal("0.01"),
        "latency_s": 0.5,
    }
    return CallRecord(**{**given, **changes})


def test_usages_add_up_to_usages_and_nothing_else() -> None:
    one, two = Usage(plain_input=10, output=5), Usage(plain_input=1, cache_read=2)

    assert sum([one, two]) == one + two == Usage(plain_input=11, cache_read=2, output=5)
    with pytest.raises(TypeError):
        _ = one + 1  # type: ignore[operator]  # wrong on purpose
    with pytest.raises(TypeError):
        _ = 1 + one


# --- laws -------------------------------------------------------------------------------------

counts = st.one_of(
    st.none(), st.integers(-10, 2_000_000), st.floats(-5, 5), st.just("7"), st.floats()
)
keys = st.sampled_from(
    [
        "audio", "cache_read", "cache_creation", "flex", "flex_cache_read", "flex_cache_creation",
        "priority", "priority_cache_read", "ephemeral_5m_input_tokens",
        "ephemeral_1h_input_tokens", "reasoning", "flex_reasoning", "something_new",
    ]
)  # fmt: skip
details = st.one_of(st.none(), st.dictionaries(keys, counts))
usages = st.fixed_dictionaries(
    {},
    optional={
        "input_tokens": counts,
        "output_tokens": counts,
        "total_tokens": counts,
        "total_cost": st.integers(0, 1),
        "input_token_details": details,
        "output_token_details": details,
    },
)
amounts = st.decimals(0, 1_000, places=6)
prices = st.builds(
    Price,
    input=amounts,
    output=amounts,
    cache_read=st.none() | amounts,
    cache_write=st.none() | amounts,
    cache_write_1h=st.none() | amounts,
    input_audio=st.none() | amounts,
    output_audio=st.none() | amounts,
    source=st.just("test"),
)


@given(usages, st.sampled_from([None, "5m", "1h", "12h", "30m"]))
def test_parts_are_never_negative_and_sum_to_the_totals(
    reported: dict[str, Any], ttl: str | None
) -> None:
    usage = normalise_usage(reported, cache_write_ttl=ttl).usage

    def said(name: str) -> int:
        value = reported.get(name)
        return int(value) if isinstance(value, int | float) and 0 < value < 10**12 else 0

    assert all(getattr(usage, name) >= 0 for name in Usage.__dataclass_fields__)
    assert usage.output == said("output_tokens")
    assert usage.input_tokens >= said("input_tokens")
    assert usage.reasoning <= usage.output
    assert usage.output_audio <= usage.output
    if usage.input_tokens > said("input_tokens"):  # a provider that keeps cached input outside
        assert usage.total_tokens <= said("total_tokens")


@given(usages, prices)
def test_priced_parts_sum_to_the_cost_and_are_never_negative(
    reported: dict[str, Any], price: Price
) -> None:
    usage = normalise_usage(reported).usage
    cost = cost_of(usage, price)

    highest = max(price.rate(part) for part in ("input", "output", *cost.parts))
    assert all(part >= 0 for part in cost.parts.values())
    assert cost.total == sum(cost.parts.values())
    assert cost.total <= highest * usage.total_tokens / 1_000_000


records = st.builds(
    record,
    run_id=st.uuids(),
    started_at=st.datetimes(datetime(2026, 1, 1), datetime(2026, 12, 1)).map(  # noqa: DTZ001
        lambda at: at.replace(tzinfo=UTC)
    ),
    kind=st.sampled_from(["live", "cache_hit", "error", "abandoned", "embedding", "batch"]),
    model=st.sampled_from(["gpt-5", "gpt-5-mini"]),
    usage=st.builds(Usage, plain_input=st.integers(0, 10**9), output=st.integers(0, 10**9)),
    cost=st.none() | st.decimals(0, 10, places=12),
    saved=st.none() | st.decimals(0, 10, places=12),
    latency_s=st.floats(0, 100),
    first_token_s=st.none() | st.floats(0, 10),
    feature=st.none() | st.text(max_size=5).filter(lambda t: t.isprintable()),
    tags=st.lists(st.sampled_from(["a", "template:review@1", "template:b"]), max_size=3).map(tuple),
    estimated=st.booleans(),
)


@given(st.lists(records, max_size=20))
def test_a_file_and_memory_give_the_same_account(made: list[CallRecord]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        memory, file = UsageLedger(), UsageLedger(Path(folder) / "a.sqlite")
        for each in made:
            memory.append(each)
            file.append(each)

        assert file.totals() == memory.totals()
        for by in GROUP_FIELDS:
            assert file.totals_by(by) == memory.totals_by(by)
        by_id = {r.run_id: r for r in memory.records()}
        assert {r.run_id: r for r in file.records()} == by_id
        file.close()


def test_totals_cover_a_window_and_groups_add_up() -> None:
    ledger = UsageLedger()
    for day in range(4):
        at = START + timedelta(days=day)
        ledger.append(record(started_at=at, feature="faq" if day % 2 else "chat"))

    window = ledger.totals(since=START + timedelta(days=1), until=START + timedelta(days=3))
    by_day = ledger.totals_by("day")

    assert window.calls == 2
    assert list(by_day) == ["2026-11-01", "2026-11-02", "2026-11-03", "2026-11-04"]
    assert sum(t.cost for t in by_day.values()) == ledger.totals().cost == Decimal("0.04")
    assert {name: t.calls for name, t in ledger.totals_by("feature").items()} == {
        "chat": 2,
        "faq": 2,
    }


def test_a_field_that_calls_are_not_grouped_by_is_refused() -> None:
    field: Any = "colour"
    with pytest.raises(ConfigurationError, match="'colour'; choose one of model, provider"):
        UsageLedger().totals_by(field)


@pytest.mark.parametrize("kept", ["memory", "file"])
def test_latency_and_first_token_are_percentiles(kept: str, tmp_path: Path) -> None:
    ledger = UsageLedger(None if kept == "memory" else tmp_path / "a.sqlite")
    for n in range(1, 101):
        ledger.append(record(latency_s=n / 100, first_token_s=n / 1_000))

    totals = ledger.totals()

    assert (totals.latency_p50_s, totals.latency_p95_s) == (0.5, 0.95)
    assert (totals.first_token_p50_s, totals.first_token_p95_s) == (0.05, 0.095)
    ledger.close()


@pytest.mark.parametrize("kept", ["memory", "file"])
def test_a_record_once_written_is_never_changed(kept: str, tmp_path: Path) -> None:
    ledger = UsageLedger(None if kept == "memory" else tmp_path / "a.sqlite")
    first = record(cost=Decimal(1))

    ledger.append(first)
    ledger.append(replace(first, cost=Decimal(2)))

    assert list(ledger.records()) == [first]
    ledger.close()


def test_the_account_is_json_with_money_as_text() -> None:
    ledger = UsageLedger()
    ledger.append(record())

    account = json.loads(json.dumps(ledger.to_json(by="feature")))

    assert account["totals"]["cost"] == "0.01"
    assert account["groups"][""]["calls"] == 1


# --- many at once -----------------------------------------------------------------------------


@pytest.mark.parametrize("kept", ["memory", "file"])
def test_threads_lose_nothing(kept: str, tmp_path: Path) -> None:
    ledger = UsageLedger(None if kept == "memory" else tmp_path / "a.sqlite")
    model = ScriptedModel(["a"], when_exhausted="repeat_last", model_name="gpt-5")

    def calls(_: int) -> None:
        for _ in range(200):
            model.invoke("hi", {"callbacks": [ledger]})

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(calls, range(8)))

    assert ledger.totals().calls == 1_600
    assert ledger.open_calls == 0
    ledger.close()


def write(path: str, first: int) -> None:
    with UsageLedger(path) as ledger:
        for number in range(first, first + 300):
            ledger.append(record(run_id=UUID(int=number)))


def test_processes_share_a_file_and_count_a_run_once(tmp_path: Path) -> None:
    path = str(tmp_path / "a.sqlite")
    spawn = multiprocessing.get_context("spawn")

    workers = [spawn.Process(target=write, args=(path, first)) for first in (0, 150, 300)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)

    with UsageLedger(path) as ledger:
        assert ledger.totals().calls == 600


def test_a_file_is_read_again_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite"
    full = record(
        parent_id=uuid4(), model_asked="gpt-5", provider="openai", tier="flex", feature="faq",
        endpoint="/ask", tenant="acme", node="answer", tags=("a", "b"), cache="memory",
        error="ValueError", overhead=True, estimated=True, first_token_s=0.1,
        saved=Decimal("0.000000000001"), kind="cache_hit",
    )  # fmt: skip
    with UsageLedger(path) as ledger:
        ledger.append(full)

    with UsageLedger(path) as again:
        assert list(again.records()) == [full]


def test_what_was_added_is_on_disk_when_the_process_ends(tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite"
    code = (
        "import sys; from langchain_tokenopt import UsageLedger;"
        "from langchain_tokenopt.testing import ScriptedModel;"
        "ScriptedModel(['a']).invoke('hi', {'callbacks': [UsageLedger(sys.argv[1])]})"
    )

    subprocess.run([sys.executable, "-c", code, str(path)], check=True)

    with UsageLedger(path) as ledger:
        assert ledger.totals().calls == 1


# --- files that fail --------------------------------------------------------------------------


def test_a_folder_that_is_not_there_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="create the folder"):
        UsageLedger(tmp_path / "nowhere" / "a.sqlite")


def test_a_file_that_cannot_be_written_is_told_once_and_keeps_calls_going(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "a.sqlite"
    path.write_bytes(b"this is no database, it is a text of more than a hundred bytes" * 10)
    ledger = UsageLedger(path)
    model = ScriptedModel(["a"], when_exhausted="repeat_last")

    with caplog.at_level(logging.WARNING):
        for _ in range(5):
            model.invoke("hi", {"callbacks": [ledger]})
            ledger.flush()

    assert ledger.unsaved == 5
    path.unlink()
    ledger.flush()
    assert (ledger.unsaved, ledger.totals().calls) == (0, 5)
    warnings = [r for r in caplog.records if "cannot be written" in r.message]
    assert len(warnings) == 1
    ledger.close()


def test_records_of_a_file_that_fails_for_a_while_are_written_later(tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite"
    with UsageLedger(path) as ledger:
        ledger.append(record())
    other = sqlite3.connect(path)
    other.executescript("ALTER TABLE calls RENAME TO moved; CREATE TABLE calls (run_id);")

    ledger = UsageLedger(path)
    ledger.append(record())
    ledger.flush()
    unsaved = ledger.unsaved
    with pytest.raises(LedgerFileError, match="1 records are in memory; move the file away"):
        ledger.report()
    other.executescript("DROP TABLE calls; ALTER TABLE moved RENAME TO calls;")
    other.close()
    ledger.flush()

    assert unsaved == 1
    assert ledger.unsaved == 0
    assert ledger.totals().calls == 2
    ledger.close()


def test_a_file_of_a_later_version_is_left_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "a.sqlite"
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.commit()
    connection.close()

    ledger = UsageLedger(path)
    ledger.append(record())
    ledger.flush()

    assert ledger.unsaved == 1
    assert "schema 99" in caplog.text
    ledger.close()


def test_a_folder_that_goes_away_loses_no_call_and_the_report_says_what_is_not_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sqlite_records, "_MOST_UNSAVED", 3)
    folder = tmp_path / "gone"
    folder.mkdir()
    ledger = UsageLedger(folder / "a.sqlite")
    folder.rmdir()

    for _ in range(5):
        ScriptedModel(["four"]).invoke("hi", {"callbacks": [ledger]})
        ledger.flush()

    assert (ledger.unsaved, ledger.totals().calls) == (3, 3)
    assert "NOT ON DISK: 3 records in memory only, 2 lost" in ledger.report()
    assert len([r for r in caplog.records if "cannot be written" in r.message]) == 1
    ledger.close()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_write_permission_keeps_calls_going(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    ledger = UsageLedger(tmp_path / "a.sqlite")

    answer = ScriptedModel(["four"]).invoke("hi", {"callbacks": [ledger]})

    assert answer.text == "four"
    assert (ledger.totals().calls, ledger.unsaved) == (1, 1)
    tmp_path.chmod(0o700)
    ledger.close()


def test_text_that_sqlite_refuses_is_kept_without_its_broken_characters(tmp_path: Path) -> None:
    with UsageLedger(tmp_path / "a.sqlite") as ledger:
        ScriptedModel(["four"]).invoke(
            "hi", {"callbacks": [ledger], "metadata": {"feature": "half \ud83d emoji"}}
        )

        assert list(ledger.totals_by("feature")) == ["half ? emoji"]


def test_a_record_that_no_file_can_keep_is_lost_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with UsageLedger(tmp_path / "a.sqlite") as ledger:
        for tokens in (1, 2**70, 3):
            ledger.append(record(usage=Usage(plain_input=tokens)))

        assert ledger.totals().usage.plain_input == 4
        assert "0 records in memory only, 1 lost" in ledger.report()
    assert "cannot keep the record" in caplog.text


# --- prices -----------------------------------------------------------------------------------


def test_own_prices_come_first_and_by_date(tmp_path: Path) -> None:
    file = tmp_path / "prices.json"
    rows = [
        {"model": "gpt-5*", "input": "1", "output": "2"},
        {"model": "gpt-5", "input": "3", "output": "4", "valid_from": "2026-11-02"},
    ]
    file.write_text(json.dumps({"prices": rows}))
    source = first_known(PriceOverrides.load(file), GenaiPrices())

    def input_price(model: str, day: int) -> Decimal:
        at = START + timedelta(days=day)
        price = source(model=model, provider="openai", tier=None, usage=Usage(), at=at)
        assert price is not None
        return price.input

    assert [input_price("gpt-5", 0), input_price("gpt-5", 2)] == [Decimal(1), Decimal(3)]
    assert input_price("gpt-4.1", 0) == Decimal(2)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("not json", "Invalid JSON|not JSON|JSON"),
        ('{"prices": [{"model": "m", "input": "-1", "output": "2"}]}', r"prices\.0\.input"),
        ('{"prices": [{"model": "m", "input": "1"}]}', r"prices\.0\.output"),
        ('{"prices": [{"model": "m", "input": "1", "output": "2", "x": 3}]}', r"prices\.0\.x"),
        ("[]", "wrong entries"),
    ],
)
def test_a_bad_price_file_is_refused_with_the_place(
    tmp_path: Path, content: str, told: str
) -> None:
    file = tmp_path / "prices.json"
    file.write_text(content)

    with pytest.raises(ConfigurationError, match=told):
        PriceOverrides.load(file)


def test_a_price_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"cannot read the price file .*none\.json: No"):
        PriceOverrides.load(tmp_path / "none.json")


def test_prices_are_kept_as_written_not_as_the_nearest_float(tmp_path: Path) -> None:
    file = tmp_path / "prices.json"
    file.write_text('{"prices": [{"model": "m", "input": 0.10000000000000000001, "output": 0.3}]}')

    price = PriceOverrides.load(file)(model="m", provider=None, tier=None, usage=Usage(), at=START)

    assert price is not None
    assert (price.input, price.output) == (Decimal("0.10000000000000000001"), Decimal("0.3"))


def test_own_prices_of_a_tier_or_a_provider_hold_for_it_alone(tmp_path: Path) -> None:
    file = tmp_path / "prices.json"
    rows = [
        {"model": "m", "input": "1", "output": "1"},
        {"model": "m", "input": "0.5", "output": "1", "tier": "flex"},
        {"model": "n", "input": "2", "output": "2", "provider": "azure"},
    ]
    file.write_text(json.dumps({"prices": rows}))
    source = PriceOverrides.load(file)

    def input_price(model: str, provider: str, tier: str | None) -> Decimal | None:
        price = source(model=model, provider=provider, tier=tier, usage=Usage(), at=START)
        return price.input if price else None

    assert input_price("m", "openai", None) == Decimal(1)
    assert input_price("m", "openai", "flex") == Decimal("0.5")
    assert input_price("m", "openai", "priority") is None
    assert input_price("n", "azure", None) == Decimal(2)
    assert input_price("n", "openai", None) is None


def test_a_tier_that_the_table_does_not_know_is_unpriced_not_standard() -> None:
    def price(tier: str | None) -> Price | None:
        return GenaiPrices()(model="gpt-4o", provider="openai", tier=tier, usage=Usage(), at=START)

    assert price(None) is not None
    assert price("flex") is None


def test_a_part_of_the_spend_that_has_no_price_shows_as_a_share() -> None:
    ledger = UsageLedger()
    ledger.append(record(usage=Usage(plain_input=982)))
    ledger.append(record(usage=Usage(plain_input=18), cost=None, model="who-knows"))

    assert ledger.totals().priced_share == pytest.approx(0.982)
    assert "UNPRICED: 1 calls, 18 tokens of who-knows; 98.2% of tokens" in ledger.report()


def test_a_price_table_that_is_old_warns() -> None:
    now = datetime(2026, 11, 1, tzinfo=UTC)

    warn_if_stale(now - timedelta(days=59), now=now)
    with pytest.warns(UserWarning, match="61 days old"):
        warn_if_stale(now - timedelta(days=61), now=now)


def test_a_price_source_that_raises_leaves_the_call_and_the_count() -> None:
    def broken(**_: Any) -> Price | None:
        raise RuntimeError("no table today")

    ledger = UsageLedger(prices=broken)

    assert ScriptedModel(["four"]).invoke("hi", {"callbacks": [ledger]}).text == "four"
    (made,) = ledger.records()
    assert made.cost is None
    assert ledger.totals().usage.total_tokens > 0


# --- agents -----------------------------------------------------------------------------------


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_an_agents_calls_are_all_counted(asynchronous: bool) -> None:
    @tool
    def double(number: int) -> int:
        """Double a number."""
        return 2 * number

    call = {"name": "double", "args": {"number": 2}, "id": "1", "type": "tool_call"}
    model = ScriptedModel([AIMessage("", tool_calls=[call]), "It is 4."])
    agent = create_agent(model, tools=[double])
    ledger = UsageLedger()
    asked: Any = {"messages": [("user", "double 2")]}
    config: Any = {"callbacks": [ledger], "metadata": {"feature": "maths"}}

    if asynchronous:
        await agent.ainvoke(asked, config)
    else:
        agent.invoke(asked, config)

    assert [(r.feature, r.node) for r in ledger.records()] == [("maths", "model")] * 2


def test_a_listener_that_keeps_failing_is_logged_once_and_loses_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    heard: list[CallRecord] = []

    def broken(_: CallRecord) -> None:
        raise OSError("no network")

    ledger = UsageLedger(listeners=[broken, heard.append])
    for _ in range(3):
        ledger.append(record())

    assert (ledger.listener_failures, len(heard), ledger.totals().calls) == (3, 3, 3)
    assert caplog.text.count("the calls are booked all the same") == 1


def test_a_price_source_that_keeps_failing_is_logged_once_and_its_calls_are_unpriced(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken(**_: Any) -> Price | None:
        raise LookupError("no table")

    ledger = UsageLedger(prices=broken)
    for _ in range(2):
        ScriptedModel(["four"]).invoke("2 + 2?", {"callbacks": [ledger]})

    assert ledger.totals().unpriced_calls == 2
    assert caplog.text.count("the price source failed") == 1


def test_a_ledger_may_be_closed_twice_and_used_again(tmp_path: Path) -> None:
    ledger = UsageLedger(tmp_path / "a.sqlite")
    ledger.close()
    for _ in range(2):
        ledger.append(record())
        ledger.close()
        ledger.close()

    assert ledger.totals().calls == 2
    ledger.close()
