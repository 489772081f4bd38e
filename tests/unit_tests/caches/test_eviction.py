"""Eviction: what each policy lets go, and that it saves more where it should."""

import hashlib
import random
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration, Generation

from langchain_tokenopt.caches import ExactCache, MemoryStore
from langchain_tokenopt.caches.codec import Codec
from langchain_tokenopt.caches.eviction import AnswerCost, CostAware, Eviction, Lru, _Sketch
from langchain_tokenopt.testing import ScriptedModel


def digest(n: int) -> bytes:
    return hashlib.blake2b(b"%d" % n, digest_size=32).digest()


def priced(value: bytes) -> float:
    """Read the cost that a test wrote into a value."""
    return float(value.split(b" ")[0])


def dollars_saved(
    requests: list[int], values: dict[int, bytes], policy: Eviction, *, room: int
) -> float:
    store = MemoryStore(max_entries=None, max_bytes=room, policy=policy)
    saved = 0.0
    for n in requests:
        if store.get([digest(n)]):
            saved += priced(values[n])
        else:
            store.put({digest(n): values[n]}, ttl_s=None)
    return saved


def zipf(*, keys: int, requests: int, seed: int) -> list[int]:
    weights = [1 / (n + 1) ** 0.9 for n in range(keys)]
    return random.Random(seed).choices(range(keys), weights, k=requests)


def test_the_default_is_least_recently_used() -> None:
    given_policy, default = MemoryStore(max_entries=3, policy=Lru()), MemoryStore(max_entries=3)
    draw = random.Random(1)
    for _ in range(500):
        key = digest(draw.randrange(8))
        for store in (given_policy, default):
            if not store.get([key]):
                store.put({key: b""}, ttl_s=None)

    every = [digest(n) for n in range(8)]
    assert given_policy.get(every) == default.get(every)
    assert given_policy.events() == default.events()


def test_a_cheap_answer_goes_before_a_dear_one_that_was_used_earlier() -> None:
    store = MemoryStore(max_entries=2, policy=CostAware(cost_of=priced))
    store.put({digest(1): b"9"}, ttl_s=None)
    store.put({digest(2): b"1"}, ttl_s=None)
    store.put({digest(3): b"5"}, ttl_s=None)

    assert set(store.get([digest(1), digest(2), digest(3)])) == {digest(1), digest(3)}


def test_a_large_answer_goes_before_small_ones_of_the_same_cost() -> None:
    store = MemoryStore(max_bytes=1_000, policy=CostAware(cost_of=priced))
    store.put({digest(1): b"1 " + bytes(600)}, ttl_s=None)
    store.put({digest(2): b"1 " + bytes(100)}, ttl_s=None)
    store.put({digest(3): b"1 " + bytes(300)}, ttl_s=None)

    assert set(store.get([digest(1), digest(2), digest(3)])) == {digest(2), digest(3)}


def test_an_answer_worth_less_than_all_others_is_not_kept() -> None:
    store = MemoryStore(max_entries=2, policy=CostAware(cost_of=priced))
    store.put({digest(1): b"9", digest(2): b"9"}, ttl_s=None)
    store.put({digest(3): b"1"}, ttl_s=None)

    assert store.get([digest(3)]) == {}
    assert store.events().evicted == 1


def test_a_request_that_keeps_coming_gets_in() -> None:
    store = MemoryStore(max_entries=20, policy=CostAware(cost_of=priced))
    for n in range(3_000):
        for asked in (n + 10, 1 if n % 5 == 0 else n + 10):
            if not store.get([digest(asked)]):
                store.put({digest(asked): b"1"}, ttl_s=None)

    assert store.get([digest(1)])


def test_what_was_popular_long_ago_makes_room() -> None:
    store = MemoryStore(max_entries=50, policy=CostAware(cost_of=priced))
    for day in range(6):
        for asked in zipf(keys=40, requests=2_000, seed=day):
            key = digest(1_000 * day + asked)
            if not store.get([key]):
                store.put({key: b"1"}, ttl_s=None)

    first = store.get([digest(n) for n in range(40)])
    last = store.get([digest(5_000 + n) for n in range(40)])
    assert len(last) > 30
    assert len(first) < 10


def test_cost_aware_saves_more_than_lru_at_equal_bytes() -> None:
    draw = random.Random(7)
    values = {
        n: b"%d " % draw.randint(1, 100) + bytes(draw.randint(100, 4_000)) for n in range(300)
    }
    for seed in range(5):
        requests = zipf(keys=300, requests=4_000, seed=seed)
        draw.shuffle(requests)
        lru = dollars_saved(requests, values, Lru(), room=60_000)
        ours = dollars_saved(requests, values, CostAware(cost_of=priced), room=60_000)

        assert ours > 1.3 * lru


def test_a_loop_longer_than_the_store_is_kept_in_part() -> None:
    # Each of 150 in turn: the least recently used is always the one that comes next.
    requests = [n % 150 for n in range(9_000)]
    values = dict.fromkeys(range(150), b"1")

    assert dollars_saved(requests, values, Lru(), room=100 * 33) == 0
    assert dollars_saved(requests, values, CostAware(cost_of=priced), room=100 * 33) > 3_000


def test_the_same_requests_in_the_same_order_keep_the_same() -> None:
    values = {n: b"%d" % (n % 7 + 1) for n in range(500)}
    requests = zipf(keys=500, requests=3_000, seed=3)
    one, other = (
        dollars_saved(requests, values, CostAware(cost_of=priced, seed=5), room=3_000)
        for _ in range(2)
    )

    assert one == other


@given(
    operations=st.lists(
        st.tuples(st.sampled_from("pgdic"), st.integers(0, 30), st.integers(0, 60)), max_size=200
    )
)
def test_a_store_never_passes_its_bounds_nor_serves_a_wrong_value(
    operations: list[tuple[str, int, int]],
) -> None:
    for policy in (Lru(), CostAware(cost_of=len)):
        store = MemoryStore(max_entries=10, max_bytes=600, policy=policy)
        written: dict[bytes, bytes] = {}
        for operation, n, size in operations:
            key, value = digest(n), bytes([n]) * size
            if operation == "p":
                store.put({key: value}, ttl_s=None, tags=["odd"] if n % 2 else ())
                written[key] = value
            elif operation == "d":
                store.delete([key])
            elif operation == "i":
                store.invalidate(["odd"])
            elif operation == "c" and n == 0:
                store.clear()
            for found, value in store.get([digest(m) for m in range(31)]).items():
                assert written[found] == value
            assert store.size().entries <= 10
            assert store.size().bytes <= 600


def test_eight_threads_share_a_cost_aware_store() -> None:
    store = MemoryStore(max_entries=100, policy=CostAware(cost_of=len))

    def work(thread: int) -> None:
        for n in zipf(keys=400, requests=1_500, seed=thread):
            found = store.get([digest(n)])
            assert found in ({}, {digest(n): b"%d" % n})
            store.put({digest(n): b"%d" % n}, ttl_s=None)
            if n % 50 == 0:
                store.delete([digest(n)])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))

    assert store.size().entries <= 100


def test_memory_stays_bounded_however_many_keys_come() -> None:
    policy = CostAware(cost_of=len)
    store = MemoryStore(max_entries=5_000, policy=policy)
    for n in range(60_000):
        store.put({n.to_bytes(4, "big") * 8: b""}, ttl_s=None)

    assert len(policy._kept) == len(policy._keys) == 5_000
    assert len(policy._returns._followed) <= 8_192


def test_a_cost_that_cannot_be_told_leaves_the_store_as_it_was() -> None:
    store = MemoryStore(max_entries=2, policy=CostAware(cost_of=priced))
    store.put({digest(1): b"1"}, ttl_s=None)
    with pytest.raises(ValueError, match="none"):
        store.put({digest(2): b"none"}, ttl_s=None)

    assert set(store.get([digest(1), digest(2)])) == {digest(1)}
    assert store.size().entries == 1


def test_the_cost_of_an_answer_is_that_of_its_tokens() -> None:
    message = AIMessage(
        "four", usage_metadata={"input_tokens": 100, "output_tokens": 10, "total_tokens": 110}
    )
    value = Codec(signing_key=b"secret").encode([ChatGeneration(message=message)])
    cost = AnswerCost(input=0.25, output=2.0, codec=Codec(signing_key=b"secret"))

    assert cost(value) == 100 * 0.25 + 10 * 2.0


def test_an_answer_without_counts_costs_by_its_length() -> None:
    value = Codec().encode([Generation(text="four")])

    assert AnswerCost()(value) == AnswerCost()(bytes(len(value))) == len(value) * 2


def test_a_cache_keeps_the_answer_that_cost_most() -> None:
    cache = ExactCache(MemoryStore(max_entries=1, policy=CostAware()))
    model = ScriptedModel(["four", "six", "four again"], cache=cache)
    model.invoke("word " * 500)
    model.invoke("3 + 3?")
    model.invoke("word " * 500)

    assert model.calls == 2


def test_what_is_not_there_is_removed_without_harm() -> None:
    policy = CostAware(cost_of=priced)
    policy.added(b"a", b"1")
    policy.removed(b"b")
    policy.removed(b"a")
    policy.removed(b"a")
    policy.added(b"c", b"1")

    assert policy.victim() == b"c"


def test_how_often_a_key_was_seen_counts_half_after_a_while() -> None:
    sketch = _Sketch(bits=8)
    for _ in range(100):
        sketch.add(7)
    while sketch._added < sketch.window - 1:
        sketch.add(7)

    assert sketch.add(7) == 255  # no counter passes its byte
    assert 120 <= sketch.add(7) <= 130
