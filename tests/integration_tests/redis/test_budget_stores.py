"""Stores of budgets: one suite for memory, SQLite files and a real Redis, then each one's own."""

import asyncio
import multiprocessing
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from langchain_tokenopt.accounting import (
    Amounts,
    Budget,
    BudgetStore,
    Hold,
    MemoryBudgets,
    SqliteBudgets,
    UsageLedger,
    read_budgets,
)
from langchain_tokenopt.accounting.budget_redis import RedisBudgets
from langchain_tokenopt.errors import ConfigurationError, StoreError

NOW = datetime(2026, 11, 23, 12, 30, tzinfo=UTC)
DAY = Budget("day", tokens=1_000, calls=10, dollars="0.01", per="feature", every="day")
ALL = Budget("all", dollars="0.02")


def hold(
    id_: str,
    *budgets: Budget,
    tokens: int = 100,
    dollars: str = "0.001",
    now: datetime = NOW,
    **metadata: Any,
) -> Hold:
    return Hold(
        id=id_,
        accounts=tuple(b.account(metadata, now=now) for b in budgets or (DAY,)),
        amounts=Amounts(tokens=tokens, calls=1, dollars=Decimal(dollars)),
        floor=Amounts(tokens=10, calls=1, dollars=Decimal("0.0001")),
        expires_at=now + timedelta(seconds=60),
    )


MakeStore = Callable[[], Any]


@pytest.fixture(params=["memory", "sqlite", "redis"])
def make_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MakeStore]:
    """Makes stores that share their accounts, where the kind can."""
    made: list[Any] = []

    def make() -> Any:
        if request.param == "memory":
            store: Any = MemoryBudgets()
        elif request.param == "sqlite":
            store = SqliteBudgets(tmp_path / "ledger.sqlite")
        else:
            url = request.getfixturevalue("redis_server").url
            # Two hundred connections at once take a busy machine more than the usual half second.
            namespace = request.getfixturevalue("namespace")
            store = RedisBudgets(url, namespace=namespace, timeout_s=30)
        made.append(store)
        return store

    yield make
    for store in made:
        store.close()


@pytest.fixture
def store(make_store: MakeStore) -> Any:
    return make_store()


def test_what_is_reserved_is_replaced_by_what_was_spent(store: BudgetStore) -> None:
    one = hold("1")
    reserved = store.reserve(one, now=NOW).standing[0]
    assert (reserved.reserved, reserved.spent) == (one.amounts, Amounts())

    spent = Amounts(tokens=42, calls=1, dollars=Decimal("0.000123456"))
    store.settle(one, spent)

    (status,) = store.statuses()
    assert (status.spent, status.reserved) == (spent, Amounts())
    assert (status.name, status.key, status.window) == ("day", "", "2026-11-23")
    assert status.limits == DAY.limits
    assert status.resets_at == datetime(2026, 11, 24, tzinfo=UTC)


def test_the_limit_can_be_reached_but_not_passed(store: BudgetStore) -> None:
    for n in range(10):
        assert store.reserve(hold(str(n)), now=NOW).refused_by is None

    refused = store.reserve(hold("more"), now=NOW)

    assert refused.refused_by is not None
    assert refused.refused_by.refused == 1
    assert refused.refused_by.reserved.calls == 10
    assert refused.standing == ()


@pytest.mark.parametrize(
    "asked", [{"tokens": 1_001}, {"dollars": "0.010000001"}], ids=["tokens", "dollars"]
)
def test_each_unit_has_a_limit_of_its_own(store: BudgetStore, asked: dict[str, Any]) -> None:
    assert store.reserve(hold("1", **asked), now=NOW).refused_by is not None
    assert store.reserve(hold("2", tokens=1_000, dollars="0.01"), now=NOW).refused_by is None


def test_a_call_that_one_account_refuses_is_reserved_on_none(store: BudgetStore) -> None:
    tight = Budget("tight", tokens=50)

    refused = store.reserve(hold("1", DAY, tight), now=NOW).refused_by

    assert refused is not None
    assert refused.name == "tight"
    assert all(status.reserved == Amounts() for status in store.statuses())


def test_settling_again_changes_nothing(store: BudgetStore) -> None:
    one = hold("1")
    store.reserve(one, now=NOW)
    for _ in range(2):
        store.settle(one, Amounts(tokens=5, calls=1))

    (status,) = store.statuses()
    assert (status.spent.tokens, status.spent.calls) == (5, 1)


def test_keys_and_windows_have_accounts_of_their_own(store: BudgetStore) -> None:
    tomorrow = NOW + timedelta(days=1)
    full = {"tokens": 1_000}
    assert store.reserve(hold("1", feature="a", **full), now=NOW).refused_by is None
    assert store.reserve(hold("2", feature="b", **full), now=NOW).refused_by is None
    late = hold("3", feature="a", now=tomorrow, **full)
    assert store.reserve(late, now=tomorrow).refused_by is None
    assert store.reserve(hold("4", feature="a", **full), now=NOW).refused_by is not None
    assert {(s.key, s.window) for s in store.statuses()} == {
        ("a", "2026-11-23"), ("b", "2026-11-23"), ("a", "2026-11-24"),
    }  # fmt: skip


def test_a_hold_that_nobody_settles_ends_and_leaves_its_floor(store: BudgetStore) -> None:
    dead = hold("dead", tokens=1_000)
    store.reserve(dead, now=NOW)
    assert store.reserve(hold("early"), now=NOW).refused_by is not None
    later = NOW + timedelta(seconds=61)

    status = store.reserve(hold("next", now=later), now=later).standing[0]

    assert status.reserved.tokens == 100
    assert status.spent == dead.floor


def test_a_call_that_ends_after_its_hold_is_booked_in_full(store: BudgetStore) -> None:
    slow = hold("slow")
    store.reserve(slow, now=NOW)
    later = NOW + timedelta(seconds=61)
    other = hold("other", now=later)
    store.reserve(other, now=later)
    for _ in range(2):
        store.settle(slow, Amounts(tokens=70, calls=1, dollars=Decimal("0.0007")))
    store.settle(other, Amounts())

    (status,) = store.statuses()
    assert status.spent == Amounts(tokens=70, calls=1, dollars=Decimal("0.0007"))
    assert status.reserved == Amounts()


def test_a_charge_books_past_the_limit_and_a_grant_makes_room(store: BudgetStore) -> None:
    account = DAY.account({}, now=NOW)
    store.charge((account,), Amounts(tokens=1_500, calls=2), now=NOW)
    assert store.reserve(hold("1"), now=NOW).refused_by is not None

    store.grant(account, Amounts(tokens=600, dollars=Decimal(1)), now=NOW)

    status = store.reserve(hold("2"), now=NOW).standing[0]
    assert (status.limits.tokens, status.limits.dollars) == (1_600, Decimal("1.01"))


def test_two_hundred_threads_at_once_never_overspend(store: BudgetStore) -> None:
    def one(n: int) -> bool:
        mine = hold(str(n), DAY, ALL)
        if store.reserve(mine, now=NOW).refused_by is not None:
            return False
        store.settle(mine, Amounts(tokens=100, calls=1, dollars=Decimal("0.001")))
        return True

    with ThreadPoolExecutor(max_workers=200) as pool:
        made = sum(pool.map(one, range(400)))

    assert made == 10
    spent = {status.name: status.spent for status in store.statuses()}
    assert spent["day"] == Amounts(tokens=1_000, calls=10, dollars=Decimal("0.01"))
    assert spent["all"].dollars == Decimal("0.01")


async def test_two_hundred_tasks_at_once_never_overspend(store: BudgetStore) -> None:
    async def one(n: int) -> bool:
        mine = hold(str(n))
        if (await store.areserve(mine, now=NOW)).refused_by is not None:
            return False
        await store.asettle(mine, Amounts(tokens=100, calls=1))
        return True

    made = await asyncio.gather(*(one(n) for n in range(200)))

    assert sum(made) == 10
    assert store.statuses()[0].spent.tokens == 1_000


def test_any_text_can_be_a_key(store: BudgetStore) -> None:
    for n, odd in enumerate(("", " ", "a:b{c}*", "é\n\u0000x", "名" * 300)):
        store.reserve(hold(str(n), feature=odd), now=NOW)
    assert {s.key for s in store.statuses()} == {"", " ", "a:b{c}*", "é\n\u0000x", "名" * 300}


@pytest.mark.parametrize("make_store", ["memory", "sqlite"], indirect=True)  # Redis has its own
def test_accounts_that_are_long_over_are_forgotten(store: BudgetStore) -> None:
    store.reserve(hold("old"), now=NOW)
    later = NOW + timedelta(days=40)
    for n in range(1_001):
        mine = hold(str(n), now=later)
        store.reserve(mine, now=later)
        store.settle(mine, Amounts())

    assert [status.window for status in store.statuses()] == ["2027-01-02"]


# --- against a model of it --------------------------------------------------------------------

STEPS = st.lists(
    st.tuples(
        st.sampled_from(["reserve", "settle", "wait"]),
        st.integers(0, 5),
        st.integers(0, 600),
    ),
    max_size=40,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(steps=STEPS)
def test_any_order_of_steps_comes_to_the_same_in_memory_and_in_a_file(
    steps: list[tuple[str, int, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("budgets") / "b.sqlite"
    stores: list[BudgetStore] = [MemoryBudgets(), SqliteBudgets(path)]
    now, holds = NOW, {}
    for n, (what, which, amount) in enumerate(steps):
        if what == "wait":
            now += timedelta(seconds=amount / 10)
        elif what == "reserve":
            mine = hold(f"{which}-{n}", tokens=amount, now=now)
            refused = [s.reserve(mine, now=now).refused_by is not None for s in stores]
            assert refused[0] == refused[1]
            if not refused[0]:
                holds[which] = mine
        elif which in holds:
            for each in stores:
                each.settle(holds[which], Amounts(tokens=amount // 2, calls=1))
        assert stores[0].statuses() == stores[1].statuses()
    for each in stores:
        each.close()


# --- each one's own ---------------------------------------------------------------------------


def spend_in_a_process(path: str, name: str) -> int:
    store = SqliteBudgets(path)
    made = 0
    for n in range(50):
        mine = hold(f"{name}-{n}", tokens=10, dollars="0")
        if store.reserve(mine, now=NOW).refused_by is None:
            store.settle(mine, Amounts(tokens=10))
            made += 1
    store.close()
    return made


def test_processes_share_the_accounts_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "b.sqlite"
    spawn = multiprocessing.get_context("spawn")
    with spawn.Pool(3) as pool:
        made = pool.starmap(spend_in_a_process, [(str(path), str(n)) for n in range(3)])

    assert sum(made) == 100
    assert read_budgets(path)[0].spent.tokens == 1_000


def test_a_ledger_file_holds_budgets_too(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    assert read_budgets(path) == ()
    with UsageLedger(path) as ledger:
        ledger.flush()
        store = SqliteBudgets(path)
        store.reserve(hold("1"), now=NOW)
        store.close()
        assert ledger.totals().calls == 0

    assert read_budgets(path)[0].reserved.tokens == 100


def test_a_file_that_is_no_database_is_a_store_error(tmp_path: Path) -> None:
    path = tmp_path / "b.sqlite"
    path.write_text("no database at all, but a text of some length" * 30)

    with pytest.raises(StoreError, match="not a database"):
        SqliteBudgets(path).reserve(hold("1"), now=NOW)
    with pytest.raises(StoreError, match="not a database"):
        read_budgets(path)
    with pytest.raises(ConfigurationError, match="folder that exists"):
        SqliteBudgets(tmp_path / "nowhere" / "b.sqlite")


def test_many_may_open_a_new_file_at_once(tmp_path: Path) -> None:
    def reserved(path: Path, which: int) -> bool:
        store = SqliteBudgets(path, timeout_s=30)
        together.wait(30)
        outcome = store.reserve(hold(str(which)), now=NOW)
        store.close()
        return outcome.refused_by is None

    together = threading.Barrier(8)
    with ThreadPoolExecutor(8) as pool:
        for n in range(20):
            assert all(pool.map(reserved, [tmp_path / f"{n}.sqlite"] * 8, range(8)))


def test_a_file_that_another_locks_is_a_store_error_in_time(tmp_path: Path) -> None:
    path = tmp_path / "b.sqlite"
    store = SqliteBudgets(path, timeout_s=0.05)
    store.reserve(hold("1"), now=NOW)
    other = sqlite3.connect(path)
    other.execute("BEGIN IMMEDIATE")

    with pytest.raises(StoreError, match="locked"):
        store.reserve(hold("2"), now=NOW)

    other.rollback()
    other.close()
    assert store.reserve(hold("2"), now=NOW).refused_by is None
    store.close()


def test_hosts_share_the_accounts_of_a_redis(redis_server: Any, namespace: str) -> None:
    one, two = (RedisBudgets(redis_server.url, namespace=namespace) for _ in range(2))
    first = hold("1", tokens=900)
    one.reserve(first, now=NOW)

    assert two.reserve(hold("2", tokens=200), now=NOW).refused_by is not None
    one.settle(first, Amounts(tokens=100))
    assert two.reserve(hold("2", tokens=200), now=NOW).refused_by is None
    one.close()
    two.close()


def test_a_redis_that_is_away_is_a_store_error(own_server: Any) -> None:
    store = RedisBudgets(own_server.url)
    store.reserve(hold("1"), now=NOW)
    own_server.kill()

    with pytest.raises(StoreError, match=r"127\.0\.0\.1"):
        store.reserve(hold("2"), now=NOW)


def test_redis_keeps_nothing_of_a_day_that_is_long_over(redis_server: Any, namespace: str) -> None:
    store = RedisBudgets(redis_server.url, namespace=namespace)
    past = datetime.now(UTC) - timedelta(days=40)
    store.reserve(hold("1", now=past), now=past)

    assert store.statuses() == ()
    store.close()


def test_what_others_wrote_beside_the_accounts_is_left_out(
    redis_server: Any, namespace: str
) -> None:
    store = RedisBudgets(redis_server.url, namespace=namespace)
    store.reserve(hold("1", Budget("mine", calls=5)), now=NOW)
    for n, bad in enumerate((b"\xff", b"{}", b'{"id": 3}', b"null")):
        redis_server.admin.hset(f"{{{namespace}:budgets}}:account:{n}", "about", bad)

    assert [status.name for status in store.statuses()] == ["mine"]
    store.close()


# --- budgets ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("every", "at", "window", "resets"),
    [
        ("day", "2026-11-23T23:30+00:00", "2026-11-24", "2026-11-24T23:00+00:00"),
        ("month", "2026-12-31T23:30+00:00", "2027-01", "2027-01-31T23:00+00:00"),
        ("hour", "2026-10-25T00:30+00:00", "2026-10-25T02+0200", "2026-10-25T01:00+00:00"),
        ("hour", "2026-10-25T01:30+00:00", "2026-10-25T02+0100", "2026-10-25T02:00+00:00"),
        ("day", "2026-10-25T12:00+00:00", "2026-10-25", "2026-10-25T23:00+00:00"),
        ("day", "2026-03-29T12:00+00:00", "2026-03-29", "2026-03-29T22:00+00:00"),
    ],
)
def test_windows_begin_where_the_user_lives(every: Any, at: str, window: str, resets: str) -> None:
    budget = Budget("b", calls=1, every=every, timezone=ZoneInfo("Europe/Berlin"))

    account = budget.account({}, now=datetime.fromisoformat(at))

    assert account.window == window
    assert account.resets_at == datetime.fromisoformat(resets)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "a limit on tokens, calls or dollars"),
        ({"tokens": -1}, "0 or more"),
        ({"dollars": "much"}, "got 'much'"),
        ({"dollars": "nan"}, "got 'nan'"),
        ({"calls": 1, "every": "week"}, "every must be one of hour, day, month, got 'week'"),
        ({"calls": 1, "warn_at": 80}, "warn_at is a share"),
    ],
)
def test_a_budget_that_cannot_be_kept_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        Budget("b", **options)
