"""The sums beside the calls: the same as of the calls themselves, whoever writes."""

import multiprocessing
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import chain
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from langchain_tokenopt.accounting import CallRecord, Totals, Usage, UsageLedger
from langchain_tokenopt.accounting.records import KINDS
from langchain_tokenopt.accounting.rollup import add_rollup, percentile_of
from langchain_tokenopt.accounting.rollup_query import ROLLUP_FIELDS, LedgerReader
from langchain_tokenopt.accounting.rollup_range import CallFilter, HourRange
from langchain_tokenopt.accounting.sqlite_rows import CREATE, INSERT, row_of
from langchain_tokenopt.accounting.totals import GROUP_FIELDS, Window, total
from langchain_tokenopt.errors import ConfigurationError, LedgerFileError

START = datetime(2026, 11, 1, tzinfo=UTC)
FIELDS = [field for field in ROLLUP_FIELDS if field in GROUP_FIELDS]

tokens = st.integers(0, 10**6)
money = st.none() | st.decimals(0, 50, places=9)
calls = st.builds(
    CallRecord,
    run_id=st.uuids(version=4),
    started_at=st.integers(0, 100 * 3600).map(lambda s: START + timedelta(seconds=s)),
    kind=st.sampled_from(KINDS),
    model=st.sampled_from(["gpt-5", "our-own", "gemini"]),
    provider=st.sampled_from([None, "openai"]),
    usage=st.builds(
        Usage, plain_input=tokens, cache_read=tokens, cache_write=tokens, output=tokens
    ),
    cost=money,
    saved=money,
    latency_s=st.floats(1e-6, 5_000),
    feature=st.sampled_from([None, "", "faq", "search"]),
    tenant=st.sampled_from([None, "acme", "o'neil"]),
    endpoint=st.sampled_from([None, "/ask"]),
    node=st.sampled_from([None, "plan"]),
    cache=st.sampled_from([None, "sqlite"]),
    error=st.sampled_from([None, "RateLimitError"]),
    estimated=st.booleans(),
)
months = st.lists(calls, min_size=1, max_size=30, unique_by=lambda record: record.run_id)


def call(**changes: Any) -> CallRecord:
    given_: dict[str, Any] = {
        "run_id": uuid4(),
        "started_at": START,
        "kind": "live",
        "model": "gpt-5",
        "usage": Usage(plain_input=10, output=5),
        "cost": Decimal("0.01"),
        "latency_s": 0.5,
    }
    return CallRecord(**{**given_, **changes})


def write(path: Path, records: list[CallRecord]) -> Path:
    with UsageLedger(path) as ledger:
        for record in records:
            ledger.append(record)
    return path


def write_older(path: Path, records: list[CallRecord]) -> Path:
    with closing(sqlite3.connect(path)) as connection, connection:
        for statement in CREATE:
            connection.execute(statement)
        connection.executemany(INSERT, map(row_of, records))
        connection.execute("PRAGMA user_version = 1")
        connection.execute("PRAGMA journal_mode = WAL")
    return path


def counted(totals: Totals) -> Totals:
    """All of it that is exact."""
    return replace(
        totals,
        latency_p50_s=None,
        latency_p95_s=None,
        first_token_p50_s=None,
        first_token_p95_s=None,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ledgers")


@settings(max_examples=40, deadline=None)
@given(months, st.sampled_from([write, write_older]))
def test_sums_are_those_of_the_calls(folder: Path, records: list[CallRecord], kept: Any) -> None:
    path = kept(folder / f"{uuid4()}.sqlite", records)
    with closing(LedgerReader(path)) as reader, UsageLedger(path) as ledger:
        assert counted(reader.totals()) == counted(ledger.totals())
        for field in FIELDS:
            exact = {(name,): counted(t) for name, t in ledger.totals_by(field).items()}
            assert {k: counted(t) for k, t in reader.totals_by([field]).items()} == exact


@settings(max_examples=40, deadline=None)
@given(months, st.integers(0, 110), st.integers(0, 110), st.sampled_from(["day", "hour", "kind"]))
def test_a_range_of_hours_covers_its_calls_once(
    folder: Path, records: list[CallRecord], first: int, length: int, by: Any
) -> None:
    path = write(folder / f"{uuid4()}.sqlite", records)
    since = START + timedelta(hours=first)
    until = since + timedelta(hours=length)
    window = Window(since=since, until=until)
    with closing(LedgerReader(path)) as reader:
        groups = reader.spend_by([by], within=HourRange(since=since, until=until))

    chosen = [record for record in records if window.covers(record)]
    assert sum(group.calls for group in groups.values()) == len(chosen)
    assert sum(group.cost for group in groups.values()) == total(chosen).cost


@given(st.lists(st.floats(1e-6, 14_000), min_size=1, max_size=50), st.sampled_from([0.5, 0.95]))
@settings(max_examples=40, deadline=None)
def test_a_percentile_is_within_two_percent(
    folder: Path, seconds: list[float], share: float
) -> None:
    path = write(folder / f"{uuid4()}.sqlite", [call(latency_s=s) for s in seconds])
    with closing(LedgerReader(path)) as reader, UsageLedger(path) as ledger:
        found, exact = reader.totals(), ledger.totals()

    assert found.latency_p50_s == pytest.approx(exact.latency_p50_s, rel=0.02)
    assert found.latency_p95_s == pytest.approx(exact.latency_p95_s, rel=0.02)


def test_no_calls_have_no_percentile() -> None:
    assert percentile_of({}, 0.5) is None


@pytest.mark.parametrize("latency_s", [0.0, -1.0, 1e9, float("inf"), float("nan")])
def test_a_latency_outside_of_the_buckets_is_kept_all_the_same(
    tmp_path: Path, latency_s: float
) -> None:
    path = write(tmp_path / "a.sqlite", [call(latency_s=latency_s), call()])
    with closing(LedgerReader(path)) as reader:
        assert reader.totals().calls == 2


def test_a_run_that_is_inserted_twice_counts_once(tmp_path: Path) -> None:
    once = call()
    write(tmp_path / "a.sqlite", [once, once])
    path = write(tmp_path / "a.sqlite", [once, call()])

    with closing(LedgerReader(path)) as reader:
        assert (reader.totals().calls, reader.totals().cost) == (2, Decimal("0.02"))


def test_a_process_that_opened_the_file_before_it_had_sums_keeps_them_right(
    tmp_path: Path,
) -> None:
    path = write_older(tmp_path / "a.sqlite", [call()])
    older = sqlite3.connect(path)
    write(path, [call()])
    twice = row_of(call())
    with older:
        older.executemany(INSERT, [twice, twice])
    older.close()

    with closing(LedgerReader(path)) as reader:
        assert reader.totals().calls == 3


def test_a_file_of_before_the_sums_is_upgraded_on_the_first_write(tmp_path: Path) -> None:
    path = write_older(tmp_path / "a.sqlite", [call(), call(feature="faq")])

    write(path, [call()])

    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (2,)
        assert connection.execute("SELECT SUM(calls) FROM rollup GROUP BY hours").fetchall() == [
            (3,),
            (3,),
        ]


def test_a_file_of_before_the_sums_is_read_and_not_changed(tmp_path: Path) -> None:
    path = write_older(tmp_path / "a.sqlite", [call()])
    before = path.read_bytes()

    with closing(LedgerReader(path)) as reader:
        assert reader.totals().calls == 1
    with UsageLedger(path) as ledger:
        assert ledger.totals().calls == 1

    assert path.read_bytes() == before


def test_a_reader_of_an_older_file_sees_what_comes_later(tmp_path: Path) -> None:
    path = write_older(tmp_path / "a.sqlite", [call()])
    with closing(LedgerReader(path)) as reader:
        first = reader.totals().calls
        with closing(sqlite3.connect(path)) as older, older:
            older.execute(INSERT, row_of(call()))
        second = reader.totals().calls
        write(path, [call()])

        assert (first, second, reader.totals().calls) == (1, 2, 3)


def test_an_upgrade_that_is_cut_short_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = write_older(tmp_path / "a.sqlite", [call()])
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        add_rollup(connection)

    with closing(sqlite3.connect(path)) as connection:
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
    assert not any(name.startswith("rollup") for name in tables)


def append_some(path: str, count: int) -> None:
    with UsageLedger(path) as ledger:
        for _ in range(count):
            ledger.append(call())


def test_processes_that_open_an_older_file_at_once_upgrade_it_once(tmp_path: Path) -> None:
    path = write_older(tmp_path / "a.sqlite", [call() for _ in range(2_000)])
    spawn = multiprocessing.get_context("spawn")
    workers = [spawn.Process(target=append_some, args=(str(path), 100)) for _ in range(3)]

    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=60)

    with closing(LedgerReader(path)) as reader:
        assert [worker.exitcode for worker in workers] == [0, 0, 0]
        assert reader.totals().calls == 2_300


def some_calls() -> Iterator[CallRecord]:
    for n in range(250):
        yield call(
            started_at=START + timedelta(minutes=7 * n),
            feature="rare" if n % 50 == 0 else "faq",
            kind="error" if n % 10 == 0 else "live",
        )


def test_pages_of_calls_follow_each_other_newest_first(tmp_path: Path) -> None:
    records = list(some_calls())
    with closing(LedgerReader(write(tmp_path / "a.sqlite", records))) as reader:
        pages = [reader.calls(offset=first, limit=40) for first in range(0, 280, 40)]

    found = list(chain.from_iterable(page.calls for page in pages))
    assert found == sorted(records, key=lambda r: r.started_at, reverse=True)
    assert {page.total for page in pages} == {250}


def test_calls_are_filtered_by_every_field(tmp_path: Path) -> None:
    records = list(some_calls())
    with closing(LedgerReader(write(tmp_path / "a.sqlite", records))) as reader:
        page = reader.calls(
            where=CallFilter(feature=("rare",), kind=("error",), model=("gpt-5",), tenant=("",)),
            limit=3,
        )

    assert (page.total, len(page.calls)) == (5, 3)
    assert {record.feature for record in page.calls} == {"rare"}


def test_one_call_is_found_by_its_run(tmp_path: Path) -> None:
    wanted = call(tags=("a", "b"), saved=None)
    with closing(LedgerReader(write(tmp_path / "a.sqlite", [wanted, call()]))) as reader:
        assert reader.call(wanted.run_id) == wanted
        assert reader.call(uuid4()) is None


def test_the_extent_is_whole_hours(tmp_path: Path) -> None:
    records = [call(started_at=START + timedelta(minutes=m)) for m in (30, 150)]
    with closing(LedgerReader(write(tmp_path / "a.sqlite", records))) as reader:
        assert reader.extent() == HourRange(since=START, until=START + timedelta(hours=3))


def test_an_empty_ledger_has_no_sums(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "a.sqlite")) as connection:
        connection.execute("PRAGMA user_version = 0")
    (tmp_path / "a.sqlite").touch()
    with closing(LedgerReader(tmp_path / "a.sqlite")) as reader:
        assert reader.extent() is None
        assert reader.totals().calls == 0
        assert reader.calls().total == 0
        assert reader.names("feature") == ()


def test_a_field_that_no_sums_are_kept_by_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.sqlite", [call()])
    with (
        closing(LedgerReader(path)) as reader,
        pytest.raises(ConfigurationError, match="'tier'; choose of model"),
    ):
        reader.totals_by(["tier"])


@pytest.mark.parametrize(
    ("since", "told"),
    [
        (START + timedelta(minutes=1), "expected a full hour"),
        (START.replace(tzinfo=None), "expected a full hour with a time zone"),
        (START + timedelta(days=2), "expected a start before the end"),
    ],
)
def test_a_range_that_sums_cannot_answer_is_refused(since: datetime, told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        HourRange(since=since, until=START + timedelta(days=1))


# --- files that cannot be read ------------------------------------------------------------------


def told_of(path: Path) -> str:
    reader = LedgerReader(path, timeout_s=0.05)
    with closing(reader), pytest.raises(LedgerFileError) as caught:
        reader.totals()
    return str(caught.value)


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    assert "found none at" in told_of(tmp_path / "a.sqlite")


def test_a_file_of_something_else_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.sqlite").write_text("this is no database at all, it is a letter" * 100)
    with closing(sqlite3.connect(tmp_path / "b.sqlite")) as connection:
        connection.execute("CREATE TABLE songs (title TEXT)")
    with closing(sqlite3.connect(tmp_path / "c.sqlite")) as connection:
        connection.execute("CREATE TABLE calls (number TEXT)")

    assert "is no ledger: file is not a database" in told_of(tmp_path / "a.sqlite")
    assert "is an SQLite file but no ledger" in told_of(tmp_path / "b.sqlite")
    assert "is an SQLite file but no ledger" in told_of(tmp_path / "c.sqlite")


def test_a_ledger_that_is_locked_is_told_and_read_again_later(tmp_path: Path) -> None:
    path = write(tmp_path / "a.sqlite", [call()])
    holder = sqlite3.connect(path)
    holder.execute("PRAGMA locking_mode = EXCLUSIVE")
    holder.execute("PRAGMA journal_mode = DELETE")
    holder.execute("BEGIN EXCLUSIVE")

    with closing(LedgerReader(path, timeout_s=0.05)) as reader:
        with pytest.raises(LedgerFileError, match="is locked by another process"):
            reader.totals()
        holder.rollback()
        holder.close()

        assert reader.totals().calls == 1


def test_a_ledger_of_a_later_version_is_told(tmp_path: Path) -> None:
    path = write(tmp_path / "a.sqlite", [call()])
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 99")

    assert "has schema 99, this version knows up to 2" in told_of(path)


def test_another_file_in_the_place_is_noticed(tmp_path: Path) -> None:
    path = write(tmp_path / "a.sqlite", [call()])
    other = write(tmp_path / "b.sqlite", [call(), call()])
    with closing(LedgerReader(path)) as reader:
        before = reader.totals().calls
        other.replace(path)

        assert (before, reader.totals().calls) == (1, 2)
