"""How many dollars does a memory store of so many bytes save, by which entry makes room?

Streams: the blocks of Mooncake's recorded conversations, in slices of time, each block a request;
and the answers of Banking77 and CLINC150 in Zipf's proportions, in several orders with sizes drawn
anew. A share is dollars saved of the dollars that all requests cost without a cache. `clairvoyant`
is Belady's rule by value: it knows the next use, and drops what is worth least for its bytes and
the wait; `bound` no policy can pass. Prices are those of gpt-5-mini in 2025, in dollars a million
tokens: 0.25 in, 2.00 out. The policy was chosen on the first 60,000 blocks and the streams in
their recorded order, which are left out here.
"""

import hashlib
import heapq
import math
import random
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from measure import alternate, data_arguments, has_recorded, json_rows, micro, table

from langchain_tokenopt.caches.eviction import CostAware, Eviction, Lru
from langchain_tokenopt.caches.memory import MemoryStore

INPUT, OUTPUT = 0.25e-6, 2e-6
SHARES = (0.02, 0.05, 0.1, 0.2, 0.4, 0.7)
CHOSEN_ON = 60_000
STUDENT = {2: 12.71, 7: 2.447, 20: 2.093}  # 97.5% quantiles for so many values


@dataclass(frozen=True)
class Answer:
    """What is kept for a key."""

    cost: float
    value: bytes

    @property
    def size(self) -> int:
        """Bytes with the key, as the store counts them."""
        return 32 + len(self.value)


@dataclass(frozen=True)
class Stream:
    """Requests in order, and what each key's answer costs."""

    keys: list[bytes]
    answers: dict[bytes, Answer]


def key_of(name: object) -> bytes:
    """Return a 32-byte key, as the caches make them."""
    return hashlib.blake2b(str(name).encode(), digest_size=32).digest()


def valued(cost: float, size: int) -> Answer:
    """Return an answer whose bytes tell its cost, as encoded answers tell their tokens."""
    return Answer(cost, repr(cost).encode().ljust(size))


def blocks(folder: Path, *, answered: bool, slices: int, length: int) -> Iterator[Stream]:
    """Yield slices of Mooncake's blocks.

    A block costs its tokens and is four bytes a token; or, `answered`, costs an answer on it too,
    as long as that of the request that brought it, and the answer is what is kept.
    """
    requests: list[bytes] = []
    answers: dict[bytes, Answer] = {}
    for row in json_rows(folder / "mooncake_conversation_trace.jsonl.gz"):
        last = len(row["hash_ids"]) - 1
        for place, block in enumerate(row["hash_ids"]):
            key = key_of(block)
            requests.append(key)
            if key not in answers:
                read = 512 if place < last else row["input_length"] - 512 * last
                said = row["output_length"] if answered else 0
                size = 300 + 4 * said if answered else 4 * read
                answers[key] = valued(INPUT * read + OUTPUT * said, size)
    for start in range(CHOSEN_ON, CHOSEN_ON + slices * length, length):
        yield Stream(requests[start : start + length], answers)


def intents(folder: Path, name: str, *, orders: int) -> Iterator[Stream]:
    """Yield a stream's answers in shuffled orders, with tokens drawn log-normally."""
    asked = [row["answer_id"] for row in json_rows(folder / f"{name}.jsonl.gz")]
    for seed in range(1, orders + 1):
        draw = random.Random(seed)
        order = draw.sample(asked, len(asked))
        answers = {}
        for answer in sorted(set(asked)):
            said = min(4_000, round(draw.lognormvariate(5.3, 1)))
            read = min(60_000, round(draw.lognormvariate(6.5, 1.2)))
            answers[key_of(answer)] = valued(INPUT * read + OUTPUT * said, 300 + 4 * said)
        yield Stream([key_of(answer) for answer in order], answers)


class Lfu:
    """The least often used since it was kept makes room."""

    def __init__(self) -> None:
        self.uses: dict[bytes, int] = {}
        self.heap: list[tuple[int, int, bytes]] = []
        self.turn = 0

    def added(self, key: bytes, value: bytes, /) -> None:
        """Note a new entry."""
        self.uses[key] = 0
        self.used(key)

    def used(self, key: bytes, /) -> None:
        """Note a use."""
        self.turn += 1
        self.uses[key] += 1
        heapq.heappush(self.heap, (self.uses[key], self.turn, key))

    def removed(self, key: bytes, /) -> None:
        """Forget the uses."""
        self.uses.pop(key, None)

    def victim(self) -> bytes:
        """Return the least used, the earlier used of equals."""
        while self.uses.get(self.heap[0][2]) != self.heap[0][0]:
            heapq.heappop(self.heap)
        return self.heap[0][2]

    def clear(self) -> None:
        """Forget all."""
        self.uses.clear()


def saved_by(stream: Stream, policy: Eviction, *, room: int) -> float:
    """Return the dollars that a store with the policy saves."""
    store = MemoryStore(max_entries=None, max_bytes=room, policy=policy)
    saved = 0.0
    for key in stream.keys:
        answer = stream.answers[key]
        if store.get((key,)):
            saved += answer.cost
        else:
            store.put({key: answer.value}, ttl_s=None)
    return saved


def next_uses(keys: Sequence[bytes]) -> list[float]:
    """Return when each request comes again, infinity for never."""
    found = [math.inf] * len(keys)
    after: dict[bytes, int] = {}
    for at in reversed(range(len(keys))):
        found[at] = after.get(keys[at], math.inf)
        after[keys[at]] = at
    return found


def clairvoyant(stream: Stream, *, room: int) -> float:
    """Return the dollars saved by dropping what is worth least for its bytes and the wait."""
    again = next_uses(stream.keys)
    held: dict[bytes, int] = {}
    order: list[bytes] = []
    worth, due = np.zeros(len(again) + 1), np.zeros(len(again) + 1)
    used, saved = 0, 0.0

    def drop(place: int) -> int:
        key, last = order[place], order.pop()
        if last != key:
            order[place], held[last] = last, place
            worth[place], due[place] = worth[len(order)], due[len(order)]
        del held[key]
        return stream.answers[key].size

    for now, key in enumerate(stream.keys):
        answer = stream.answers[key]
        if key in held:
            saved += answer.cost
            if again[now] == math.inf:
                used -= drop(held[key])
                continue
        elif again[now] == math.inf or answer.size > room:
            continue
        else:
            held[key] = len(order)
            worth[len(order)] = answer.cost / answer.size
            order.append(key)
            used += answer.size
        due[held[key]] = again[now]
        while used > room:
            count = len(order)
            used -= drop(int(np.argmin(worth[:count] / (due[:count] - now))))
    return saved


def bound(stream: Stream, *, room: int) -> float:
    """Return dollars that cannot be passed: bytes are bounded on the average of time only."""
    again = next_uses(stream.keys)
    waits = []
    for now, (key, due) in enumerate(zip(stream.keys, again, strict=True)):
        if due != math.inf:
            answer = stream.answers[key]
            waits.append((answer.cost / (answer.size * (due - now)), answer.cost))
    left, saved = float(room * len(again)), 0.0
    for density, cost in sorted(waits, reverse=True):
        taken = min(1.0, left * density / cost)
        saved += taken * cost
        left -= taken * cost / density
        if left <= 0:
            break
    return saved


def interval(values: Sequence[float]) -> str:
    """Return the mean of shares and its 95% interval."""
    return f"{statistics.mean(values):.1%} ± {half(values):.1%}"


def half(values: Sequence[float]) -> float:
    """Return half the width of the mean's interval, after Student."""
    quantile = STUDENT.get(len(values), 1.96)
    return float(quantile * statistics.stdev(values) / math.sqrt(len(values)))


def curve(title: str, streams: Sequence[Stream]) -> None:
    """Print what each policy saves over the bytes of the store."""
    policies: dict[str, Callable[[Stream, int], float]] = {
        "LRU": lambda stream, room: saved_by(stream, Lru(), room=room),
        "LFU": lambda stream, room: saved_by(stream, Lfu(), room=room),
        "CostAware": lambda stream, room: saved_by(stream, CostAware(cost_of=float), room=room),
        "clairvoyant": lambda stream, room: clairvoyant(stream, room=room),
        "bound": lambda stream, room: bound(stream, room=room),
    }
    rows = []
    for share in SHARES:
        found: dict[str, list[float]] = {name: [] for name in policies}
        rooms = []
        for stream in streams:
            room = int(share * sum(stream.answers[key].size for key in set(stream.keys)))
            rooms.append(room)
            spent = sum(stream.answers[key].cost for key in stream.keys)
            for name, policy in policies.items():
                found[name].append(policy(stream, room) / spent)
        gains = [
            100 * (ours - theirs)
            for ours, theirs in zip(found["CostAware"], found["LRU"], strict=True)
        ]
        mean, wide = statistics.mean(gains), half(gains)
        rows.append(
            [
                f"{share:.0%}",
                f"{statistics.mean(rooms) / 1e6:,.2f}",
                *(interval(values) for values in found.values()),
                f"{mean:+.1f} ({mean - wide:+.1f} to {mean + wide:+.1f})",
            ]
        )
    table(
        f"{title}: {len(streams)} of {len(streams[0].keys):,} requests",
        ["of all bytes", "MB", *policies, "CostAware - LRU, points (95%)"],
        rows,
    )


def time_taken(*, rounds: int, times: int) -> None:
    """Print what a request costs the store."""
    keys = [key_of(number) for number in range(20_000)]
    rows = []
    for name, policy in (("LRU", Lru()), ("LFU", Lfu()), ("CostAware", CostAware(cost_of=len))):
        store = MemoryStore(max_entries=5_000, policy=policy)
        for key in keys[:6_000]:
            store.put({key: bytes(400)}, ttl_s=None)
        turn = iter(range(10**9))
        held = next(key for key in reversed(keys[:6_000]) if store.get((key,)))

        def write(store: MemoryStore = store, turn: Iterator[int] = turn) -> None:
            store.put({keys[next(turn) % len(keys)]: bytes(400)}, ttl_s=None)

        hits = alternate({"hit": partial(store.get, (held,))}, rounds=rounds, times=times)
        writes = alternate({"write": write}, rounds=rounds, times=times)
        rows.append(
            [
                name,
                micro(statistics.median(hits["hit"])),
                micro(statistics.median(writes["write"])),
            ]
        )
    table("A request to a store of 5,000 entries", ["policy", "hit", "write that evicts"], rows)


def main() -> None:
    """Run all where the recorded data is."""
    chosen = data_arguments(__doc__)
    time_taken(rounds=3 if chosen.quick else 20, times=200 if chosen.quick else 2_000)
    if not has_recorded(chosen.data, "cache"):
        return
    folder = chosen.data / "cache"
    slices, length, orders = (2, 4_000, 2) if chosen.quick else (7, 32_000, 20)
    for title, answered in (("Mooncake blocks", False), ("Answers on Mooncake blocks", True)):
        cut = blocks(folder, answered=answered, slices=slices, length=length)
        curve(title, list(cut))
    for name in ("banking77_stream_dev", "clinc150_stream_dev"):
        curve(f"Answers of {name}", list(intents(folder, name, orders=orders)))


if __name__ == "__main__":
    main()
