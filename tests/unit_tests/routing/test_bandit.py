"""Learning online: what is tried, what it may cost, and what is kept."""

import asyncio
import multiprocessing
import random
import sqlite3
import statistics
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import astuple
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.messages import HumanMessage

from langchain_tokenopt.embeddings import StaticEmbeddings
from langchain_tokenopt.errors import ConfigurationError, StoreError
from langchain_tokenopt.routing import Cascade, Tier
from langchain_tokenopt.routing.bandit import TierBandit
from langchain_tokenopt.routing.bandit_state import ArmSums, BanditState
from langchain_tokenopt.routing.bandit_store import MemoryBandit, SqliteBandit
from langchain_tokenopt.routing.tasks import TaskClassifier, TaskMatch
from langchain_tokenopt.testing import ScriptedModel

ARMS = ("small", "large")


def bandit(**options: Any) -> TierBandit:
    return TierBandit(ARMS, **{"baseline": "large", "mode": "serve", "seed": 0, **options})


def play(
    learner: TierBandit,
    rounds: int,
    quality: dict[str, float],
    cost: dict[str, float] | None = None,
    *,
    task: str = "faq",
    seed: int = 0,
) -> list[str]:
    rng = random.Random(seed)
    served = []
    for number in range(rounds):
        name = f"{task}-{seed}-{number}"
        arm = learner.decide(task, request_id=name).served
        right = float(rng.random() < quality[arm])
        assert learner.reward(name, quality=right, cost=(cost or {}).get(arm, 0.0))
        served.append(arm)
    return served


def test_the_better_tier_is_found_even_if_it_is_not_the_baseline() -> None:
    served = play(bandit(price_weight=1.0), 3_000, {"small": 0.8, "large": 0.85}, {"large": 0.3})

    assert served[-500:].count("small") > 400


def test_the_baseline_stays_where_it_is_better() -> None:
    served = play(bandit(), 3_000, {"small": 0.3, "large": 0.9})

    assert served[-500:].count("large") > 450


def tried_of(allowed: float, quality: dict[str, float]) -> float:
    runs = [
        play(bandit(allowed_loss=allowed, seed=seed), 500, quality, seed=seed) for seed in range(8)
    ]
    return statistics.mean(served.count("small") for served in runs)


def test_nothing_is_tried_where_nothing_may_be_lost() -> None:
    assert tried_of(0.0, {"small": 0.9, "large": 0.1}) == 0


def test_less_is_tried_where_less_may_be_lost() -> None:
    quality = {"small": 0.3, "large": 0.7}

    assert 0 < tried_of(0.002, quality) < 0.6 * tried_of(10.0, quality)


@given(st.floats(0.05, 0.95), st.floats(0.05, 0.95), st.integers(0, 1_000))
@settings(max_examples=15, deadline=None)
def test_trying_costs_little_of_what_the_baseline_would_have_earned(
    small: float, large: float, seed: int
) -> None:
    quality = {"small": small, "large": large}
    rounds = 1_500

    served = play(bandit(seed=seed, allowed_loss=0.01), rounds, quality, seed=seed)

    earned = sum(quality[arm] for arm in served) / rounds
    assert earned >= large * 0.94 - 0.02


def test_kinds_of_tasks_are_learned_apart_and_a_new_one_borrows() -> None:
    learner = bandit(price_weight=1.0)
    cost = {"large": 0.2}
    play(learner, 2_000, {"small": 0.9, "large": 0.9}, cost, task="faq")
    play(learner, 2_000, {"small": 0.1, "large": 0.9}, cost, task="proofs")

    faq, proofs, new = (learner.beliefs(task) for task in ("faq", "proofs", "new"))
    nothing = bandit().beliefs("new")

    assert faq["small"][0] > faq["large"][0]
    assert proofs["small"][0] < proofs["large"][0]
    assert nothing["large"][1] > new["large"][1] > proofs["large"][1]
    assert new["large"][0] + 0.2 > 0.7 > nothing["large"][0]


def test_a_tier_below_the_quality_floor_is_left_out() -> None:
    learner = bandit(price_weight=1.0, quality_floor=0.7)
    cost = {"large": 0.9}

    served = play(learner, 2_000, {"small": 0.5, "large": 0.9}, cost)

    free = play(bandit(price_weight=1.0), 2_000, {"small": 0.5, "large": 0.9}, cost)
    assert served[-1_000:].count("small") < 100  # tried again in time, some times in a row
    assert free[-1_000:].count("small") > 900


def test_in_shadow_mode_the_baseline_serves_and_decisions_are_logged() -> None:
    learner = bandit(mode="shadow")

    served = play(learner, 300, {"small": 1.0, "large": 0.5})

    assert set(served) == {"large"}
    assert {decision.arm for decision in learner.log} == set(ARMS)
    assert all(decision.shadow for decision in learner.log)


def test_an_audit_may_reward_another_tier() -> None:
    learner = bandit(mode="shadow")
    for number in range(200):
        name = str(number)
        learner.decide("faq", request_id=name)
        learner.reward(name, quality=1.0, arm="small")
        learner.reward(name, quality=0.2)

    beliefs = learner.beliefs("faq")
    assert beliefs["small"][0] > 0.9
    assert beliefs["large"][0] < 0.4


def test_a_changed_world_is_followed() -> None:
    learner = bandit(discount=0.99)
    play(learner, 1_000, {"small": 0.2, "large": 0.9})

    served = play(learner, 3_000, {"small": 0.95, "large": 0.3}, seed=1)

    assert served[-500:].count("small") > 400


@pytest.mark.parametrize(("discount", "found"), [(0.999, True), (1.0, False)])
def test_a_tier_that_was_given_up_is_tried_again_in_time(discount: float, found: bool) -> None:
    learner = bandit(discount=discount)
    play(learner, 2_000, {"small": 0.3, "large": 0.8})

    served = play(learner, 4_000, {"small": 0.95, "large": 0.8}, seed=1)

    assert (served[-500:].count("small") > 400) is found


def test_rewards_come_late_once_and_for_what_was_asked() -> None:
    learner = bandit()
    learner.decide("faq", request_id="a")

    assert learner.reward("a", quality=1.0)
    assert not learner.reward("a", quality=1.0)
    assert not learner.reward("never asked", quality=1.0)


def test_an_audit_of_what_served_is_its_reward_and_counts_once() -> None:
    learner = bandit(mode="shadow")
    learner.decide("faq", request_id="a")

    assert learner.reward("a", quality=1.0, arm="large")
    assert not learner.reward("a", quality=1.0)
    assert not learner.reward("a", quality=0.0, arm="small")
    assert len(learner.log) == 1


def test_an_audit_that_is_told_twice_counts_once() -> None:
    store = MemoryBandit()
    learner = bandit(mode="shadow", store=store)
    learner.decide("faq", request_id="a")

    assert learner.reward("a", quality=1.0, arm="small")
    assert not learner.reward("a", quality=1.0, arm="small")
    assert store.sums("faq") == {"small": ArmSums(weight=1, quality=1)}
    assert learner.reward("a", quality=1.0)


def test_prices_in_dollars_may_be_decimals() -> None:
    priced, plain = bandit(price_weight=2.0), bandit(price_weight=2.0)
    for learner, cost in ((priced, Decimal("0.25")), (plain, 0.25)):
        arm = learner.decide("faq", request_id="a").served
        learner.reward("a", quality=1.0, cost=cost)

    assert priced.beliefs("faq") == plain.beliefs("faq")
    assert priced.beliefs("faq")[arm][0] < 0.75


def test_an_id_that_comes_again_gives_up_the_decision_before() -> None:
    learner = bandit()
    learner.decide("faq", request_id="a")
    learner.decide("proofs", request_id="a")

    assert learner.expired == 1
    assert learner.reward("a", quality=1.0)
    assert [decision.task for decision in learner.log] == ["proofs"]


def test_a_reward_that_comes_too_late_is_not_taken() -> None:
    now = [0.0]
    learner = bandit(open_s=10, clock=lambda: now[0])
    learner.decide("faq", request_id="a")

    now[0] = 11.0

    assert not learner.reward("a", quality=1.0)
    assert learner.expired == 1


def test_decisions_that_wait_too_long_are_given_up_and_counted() -> None:
    now = [0.0]
    learner = bandit(most_open=2, open_s=10, clock=lambda: now[0])
    for name in "abc":
        learner.decide("faq", request_id=name)
    assert learner.expired == 1
    assert not learner.reward("a", quality=1.0)

    now[0] = 11.0
    learner.decide("faq", request_id="d")

    assert learner.expired == 3
    assert learner.reward("d", quality=1.0)


def test_propensities_are_those_that_arms_are_drawn_with() -> None:
    learner = bandit()
    decisions = [learner.decide("faq", request_id=str(n)) for n in range(2_000)]

    expected = np.mean([decision.propensities["small"] for decision in decisions])
    chosen = np.mean([decision.served == "small" for decision in decisions])

    assert all(abs(sum(each.propensities.values()) - 1) < 1e-9 for each in decisions)
    assert chosen == pytest.approx(expected, abs=0.03)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"baseline": "huge"}, "with the baseline among them"),
        ({"mode": "try"}, "mode is 'shadow' or 'serve'"),
        ({"discount": 0}, "discount is above 0"),
        ({"allowed_loss": -1}, "allowed_loss and price_weight are not below 0"),
        ({"allowed_loss": float("nan")}, "allowed_loss and price_weight are not below 0"),
        ({"price_weight": float("inf")}, "allowed_loss and price_weight are not below 0"),
        ({"quality_floor": 70}, "quality_floor is from 0 to 1, got 70"),
        ({"most_open": 0}, "most_open is at least 1"),
        ({"open_s": 0}, "open_s above 0"),
        ({"open_s": float("nan")}, "open_s above 0"),
    ],
)
def test_wrong_options_are_refused(options: Any, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        bandit(**options)


@pytest.mark.parametrize(
    "wrong",
    [
        {"quality": 2},
        {"quality": float("nan")},
        {"quality": 1, "cost": -1},
        {"quality": 1, "cost": Decimal("Infinity")},
        {"quality": 1, "cost": Decimal("NaN")},
    ],
)
def test_wrong_rewards_are_refused(wrong: Any) -> None:
    learner = bandit()
    learner.decide(request_id="a")

    with pytest.raises(ConfigurationError, match="quality is from 0 to 1"):
        learner.reward("a", **wrong)
    with pytest.raises(ConfigurationError, match="no arm is called"):
        learner.reward("a", quality=1, arm="huge")


# --- stores ---------------------------------------------------------------------------------------


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    return MemoryBandit() if request.param == "memory" else SqliteBandit(tmp_path / "b.sqlite")


def test_a_store_keeps_discounted_sums_by_task_and_over_all(store: Any) -> None:
    store.add("faq", "small", quality=1.0, cost=0.5, discount=0.5)
    store.add("faq", "small", quality=0.0, cost=0.5, discount=0.5)
    store.add("proofs", "large", quality=1.0, cost=1.0, discount=0.5)

    assert store.sums("faq") == {"small": ArmSums(weight=1.5, quality=0.5, cost=0.75)}
    assert store.sums("")["small"] == ArmSums(weight=0.75, quality=0.25, cost=0.375)
    assert store.sums("")["large"] == ArmSums(weight=1, quality=1, cost=1)
    assert store.sums("other") == {}


REWARDS = st.lists(
    st.tuples(
        st.sampled_from(["", "faq", "proofs"]),
        st.sampled_from(ARMS),
        st.floats(0, 1),
        st.floats(0, 2),
    ),
    max_size=20,
)


@given(REWARDS, st.floats(0.5, 1))
@settings(max_examples=20, deadline=None)
def test_memory_and_file_learn_the_same(rewards: list[Any], discount: float) -> None:
    with tempfile.TemporaryDirectory() as folder:
        stores = MemoryBandit(), SqliteBandit(Path(folder) / "b.sqlite")
        for task, arm, quality, cost in rewards:
            for store in stores:
                store.add(task, arm, quality=quality, cost=cost, discount=discount)
        memory, file = (store.state().sums for store in stores)

    assert memory.keys() == file.keys()
    for task in memory:
        assert memory[task].keys() == file[task].keys()
        for arm, sums in memory[task].items():
            assert astuple(sums) == pytest.approx(astuple(file[task][arm]))


@given(REWARDS, REWARDS)
@settings(max_examples=30, deadline=None)
def test_what_two_have_learned_apart_merges_into_what_one_would_have(
    mine: list[Any], theirs: list[Any]
) -> None:
    one, other, both = MemoryBandit(), MemoryBandit(), MemoryBandit()
    for store, rewards in ((one, mine), (other, theirs), (both, [*mine, *theirs])):
        for task, arm, quality, cost in rewards:
            store.add(task, arm, quality=quality, cost=cost, discount=1.0)

    one.merge(other.state())

    merged, expected = one.state().sums, both.state().sums
    assert merged.keys() == expected.keys()
    for task in merged:
        assert merged[task].keys() == expected[task].keys()
        for arm, sums in merged[task].items():
            assert astuple(sums) == pytest.approx(astuple(expected[task][arm]))


def test_a_state_is_saved_read_and_merged_by_any_store(store: Any, tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    store.add("faq", "small", quality=1.0, cost=0.25, discount=1.0)
    store.state().save(path)
    again = BanditState.load(path)

    store.merge(again)

    assert MemoryBandit(again).sums("faq") == {"small": ArmSums(weight=1, quality=1, cost=0.25)}
    assert store.sums("faq") == {"small": ArmSums(weight=2, quality=2, cost=0.5)}


@pytest.mark.parametrize(
    "text",
    [
        "no json",
        "{}",
        '{"plan": {"choice": "cascade"}, "version": 1}',
        '{"sums": {"faq": {"small": {"weight": 1, "qualty": 1}}}, "version": 1}',
        '{"sums": {"faq": {"small": {"weight": 1, "cost": "Infinity"}}}, "version": 1}',
        '{"sums": {"faq": {"small": {"weight": -1}}}, "version": 1}',
        '{"sums": {"faq": {"small": {"weight": 1, "quality": 2}}}, "version": 1}',
        '{"sums": {}, "version": 2}',
    ],
)
def test_a_file_that_holds_no_state_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    path.write_text(text)

    with pytest.raises(ConfigurationError, match="expected a bandit's state in"):
        BanditState.load(path)


def test_threads_lose_no_reward(store: Any) -> None:
    def add() -> None:
        for _ in range(50):
            store.add("faq", "small", quality=1.0, cost=0.0, discount=1.0)

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert store.sums("faq")["small"].weight == 200


def test_threads_that_open_a_new_file_together_lose_no_reward(tmp_path: Path) -> None:
    for number in range(10):
        path, ready = tmp_path / f"{number}.sqlite", threading.Barrier(8)

        def add(path: Path = path, ready: threading.Barrier = ready) -> None:
            ready.wait()
            SqliteBandit(path).add("faq", "small", quality=1.0, cost=0.0, discount=1.0)

        with ThreadPoolExecutor(8) as pool:
            for done in [pool.submit(add) for _ in range(8)]:
                done.result()

        assert SqliteBandit(path).sums("faq")["small"].weight == 8


def _add_in_a_process(path: str) -> None:
    for _ in range(50):
        SqliteBandit(path, timeout_s=30).add("faq", "small", quality=1.0, cost=0.0, discount=1.0)


def test_a_task_that_sqlite_cannot_hold_is_learned_all_the_same(store: Any) -> None:
    odd = "half a pair \ud800"
    learning = bandit(store=store)

    decision = learning.decide(odd)

    assert learning.reward(decision.request_id, quality=1.0)
    assert store.sums(odd)[decision.served].weight == 1
    store.merge(store.state())
    assert store.sums(odd)[decision.served].weight == 2


def test_processes_share_a_file_and_lose_no_reward(tmp_path: Path) -> None:
    path = str(tmp_path / "b.sqlite")
    SqliteBandit(path).sums("")
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_add_in_a_process, args=(path,)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()

    assert SqliteBandit(path).sums("faq")["small"].weight == 100


def test_what_was_learned_outlives_the_process(tmp_path: Path) -> None:
    path = tmp_path / "b.sqlite"
    play(bandit(store=SqliteBandit(path)), 200, {"small": 0.1, "large": 0.9})

    again = bandit(store=SqliteBandit(path)).beliefs("faq")

    assert again["large"][0] > again["small"][0]


def test_a_reward_is_taken_only_by_the_bandit_that_decided(tmp_path: Path) -> None:
    store = SqliteBandit(tmp_path / "b.sqlite")
    one, other = bandit(store=store), bandit(store=store)
    one.decide("faq", request_id="a")

    assert not other.reward("a", quality=1.0)
    assert one.reward("a", quality=1.0)
    assert sum(sums.weight for sums in store.sums("faq").values()) == 1


class OffTheLoop(MemoryBandit):
    """A store that must not be asked on the thread of an event loop."""

    def sums(self, task: str) -> Any:
        with pytest.raises(RuntimeError, match="no running event loop"):
            asyncio.get_running_loop()
        return super().sums(task)

    def add(self, *args: Any, **options: Any) -> None:
        with pytest.raises(RuntimeError, match="no running event loop"):
            asyncio.get_running_loop()
        super().add(*args, **options)


async def test_the_asynchronous_twins_keep_the_store_off_the_event_loop() -> None:
    learner = bandit(store=OffTheLoop())

    decisions = await asyncio.gather(
        *(learner.adecide("faq", request_id=str(n)) for n in range(50))
    )
    taken = await asyncio.gather(
        *(learner.areward(each.request_id, quality=1.0) for each in decisions)
    )

    assert all(taken)
    assert len(learner.log) == 50


def test_threads_that_decide_and_reward_lose_nothing() -> None:
    learner = bandit()

    def work(name: str) -> None:
        for number in range(50):
            learner.decide("faq", request_id=f"{name}{number}")
            assert learner.reward(f"{name}{number}", quality=1.0)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, "abcd"))

    assert (len(learner.log), learner.expired) == (200, 0)


def test_a_store_that_fails_leads_to_the_baseline_and_is_counted(tmp_path: Path) -> None:
    broken = tmp_path / "b.sqlite"
    broken.write_bytes(b"no database at all, but long enough to be looked at as one" * 50)
    learner = bandit(store=SqliteBandit(broken))

    decision = learner.decide("faq", request_id="a")

    assert (decision.served, decision.propensities["large"]) == ("large", 1.0)
    assert learner.reward("a", quality=1.0)
    assert learner.failures == 2
    with pytest.raises(StoreError, match="the bandit's file"):
        SqliteBandit(broken).sums("")


def test_sums_that_no_rewards_add_up_to_are_a_store_that_fails(tmp_path: Path) -> None:
    path = tmp_path / "b.sqlite"
    SqliteBandit(path).add("faq", "small", quality=1.0, cost=0.0, discount=1.0)
    with closing(sqlite3.connect(path)) as file, file:
        file.execute("UPDATE arms SET quality = 5")

    assert bandit(store=SqliteBandit(path)).decide("faq").propensities["large"] == 1.0
    with pytest.raises(StoreError, match="the bandit's file"):
        SqliteBandit(path).state()


def test_a_file_where_none_can_be_is_refused_before_any_request(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="a folder that exists"):
        SqliteBandit(tmp_path / "mistyped" / "b.sqlite")


# --- in a cascade ---------------------------------------------------------------------------------


async def test_it_chooses_the_tier_of_a_cascade() -> None:
    learner = TierBandit(
        ARMS,
        baseline="large",
        tells_task=TaskClassifier(StaticEmbeddings()),
        price_weight=1.0,
        mode="serve",
        seed=0,
    )
    play(learner, 2_000, {"small": 0.95, "large": 0.95}, {"large": 0.4}, task="code")
    models = {arm: ScriptedModel([arm], when_exhausted="repeat_last") for arm in ARMS}
    cascade = Cascade([Tier(arm, models[arm]) for arm in ARMS], start=learner)

    question = "Write a Python function that sorts a list."
    config: Any = {"metadata": {"request_id": "r1"}}
    answers = [str(cascade.invoke(question, config).text)]
    answers += [str(answer.text) for answer in await asyncio.gather(
        *(cascade.ainvoke(question) for _ in range(20))
    )]  # fmt: skip

    assert answers.count("small") > 15
    assert learner.reward("r1", quality=1.0)


async def test_asynchronous_graphs_ask_for_the_kind_without_blocking() -> None:
    class OnlyAsync:
        def classify(self, question: str) -> Any:
            raise AssertionError("the event loop would be blocked")

        async def aclassify(self, question: str) -> TaskMatch:
            return TaskMatch(task="code", likeness=1.0, margin=1.0, reason="told")

    learner = bandit(tells_task=OnlyAsync())
    models = {arm: ScriptedModel([arm], when_exhausted="repeat_last") for arm in ARMS}
    cascade = Cascade([Tier(arm, models[arm]) for arm in ARMS], start=learner)

    await cascade.ainvoke("Sort it.", {"metadata": {"request_id": "a"}})

    assert await learner.areward("a", quality=1.0)
    assert [decision.task for decision in learner.log] == ["code"]


def test_a_request_that_no_reward_can_name_is_told_of_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    learner = bandit()

    for _ in range(3):
        learner([HumanMessage("When do you open?")], {})

    assert [record.getMessage()[:34] for record in caplog.records] == [
        "a request without `request_id` in "
    ]
    assert learner.expired == 0
