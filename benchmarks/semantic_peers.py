"""Semantic caches side by side: the same requests, the same vectors, each by default and tuned.

Hits and wrong answers as in semantic_streams.py. The peers serve the nearest above a similarity:
each is shown at its own default, and at the lowest cosine that errs no more often than ours on the
very streams, which nobody knows beforehand. Intervals are those of the mean over orders. Peers that
are not installed are named: install `langchain-tokenopt[bench]`. The rule of vCache is written from
its paper, with Firth's penalty.
"""

import ctypes
import gc
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from index_scale import resident_bytes
from langchain_core.embeddings import Embeddings
from langchain_core.load import dumps
from langchain_core.messages import HumanMessage
from measure import data_arguments, has_recorded, json_rows, micro, table
from peers.caches import GptCache, LangChainRedis, Peer, RedisVl, installed, search_server
from peers.vcache import VCacheRule
from semantic_streams import EMBEDDINGS, Remembered, answer, fixed, play

from langchain_tokenopt.caches import SemanticCache

Row = dict[str, Any]
Result = tuple[float, float]
STREAMS = ("banking77", "clinc150")
WHOLE = "langchain-redis, as LangChain calls it"
TEXT = "langchain-redis, given the text"
# Of Student's t, by the number of orders: with few of them 1.96 promises too much.
QUANTILES = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78, 6: 2.57, 7: 2.45, 8: 2.36, 9: 2.31, 10: 2.26}


def interval(values: list[float]) -> str:
    """Return mean and the 95% interval of the mean over orders."""
    mean = statistics.mean(values)
    if len(values) == 1:
        return f"{mean:.2%}"
    half = QUANTILES[len(values)] * statistics.stdev(values) / len(values) ** 0.5
    return f"{mean:.2%} ({max(mean - half, 0):.2%} to {mean + half:.2%})"


def stream(rows: list[Row], peer: Peer) -> Result:
    """Return hits and wrong answers as shares of all requests."""
    hits = wrong = 0
    for row in rows:
        found = peer.look(row["prompt"].strip())
        if found is None:
            peer.keep(row["prompt"].strip(), row["answer_id"])
        else:
            hits += 1
            wrong += found != row["answer_id"]
    return hits / len(rows), wrong / len(rows)


def vcache(rows: list[Row], embed: Remembered, delta: float, seed: int) -> Result:
    """Return the same for the rule of vCache."""
    vectors = embed.embed_documents([row["prompt"] for row in rows])
    rule = VCacheRule(delta, dimensions=len(vectors[0]), seed=seed)
    hits = wrong = 0
    for row, vector in zip(rows, vectors, strict=True):
        found = rule.ask(vector, row["answer_id"])
        hits += found is not None
        wrong += found is not None and found != row["answer_id"]
    return hits / len(rows), wrong / len(rows)


def asked(row: Row, label: str) -> str:
    """Return what a peer embeds of a request."""
    text: str = row["prompt"].strip()
    return dumps([HumanMessage(text)]) if label == WHOLE else text


def tuned(orders: list[list[Row]], vectors: list[Any], allowed: float) -> float:
    """Return the lowest cosine, to a thousandth, that errs in `allowed` of requests or fewer."""
    low, high = 800, 1000
    if allowed <= 0:
        return 1.0
    while _wrong(orders, vectors, low / 1000) <= allowed:
        low -= 100
    while high - low > 1:
        middle = (low + high) // 2
        if _wrong(orders, vectors, middle / 1000) <= allowed:
            high = middle
        else:
            low = middle
    return high / 1000


def _wrong(orders: list[list[Row]], vectors: list[Any], cosine: float) -> float:
    played = [fixed(rows, of, cosine) for rows, of in zip(orders, vectors, strict=True)]
    return statistics.mean(wrong for _, wrong in played)


def dumped(texts: list[str]) -> Remembered:
    """Return the vectors of what LangChain hands a cache instead of these texts."""
    return Remembered(EMBEDDINGS["static"](), [dumps([HumanMessage(t.strip())]) for t in texts])


class Makers:
    """Makes new, empty peers."""

    def __init__(self, url: str | None, folder: str) -> None:
        self._url, self._folder = url, folder
        self._made = 0

    def of(
        self, embed: Embeddings, whole_prompts: Embeddings, *, dimensions: int = 256
    ) -> dict[str, Callable[[float | None], Peer]]:
        """Return what makes each peer at a cosine, `None` for its default."""
        found: dict[str, Callable[[float | None], Peer]] = {}
        if installed("gptcache"):
            found["GPTCache"] = lambda cosine: GptCache(
                f"{self._folder}/{self._next()}",
                embed,
                # Its score is 4 - |a - b|^2 of 4.
                threshold=GptCache.default if cosine is None else (2 + 2 * cosine) / 4,
                dimensions=dimensions,
            )
        url = self._url
        if url is not None and installed("langchain_redis"):
            for label, whole in ((WHOLE, True), (TEXT, False)):
                found[label] = lambda cosine, whole=whole: LangChainRedis(
                    url,
                    whole_prompts if whole else embed,
                    distance=LangChainRedis.default if cosine is None else 1 - cosine,
                    whole_prompt=whole,
                    name=self._next(),
                )
        if url is not None and installed("redisvl"):
            found["redisvl"] = lambda cosine: RedisVl(
                url,
                embed,
                distance=RedisVl.default if cosine is None else 1 - cosine,
                name=self._next(),
            )
        return found

    def bytes_held(self) -> int:
        """Return the memory of this process and of Redis."""
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)  # what was freed before would count as less held
        if self._url is None:
            return resident_bytes()
        import redis  # noqa: PLC0415

        with redis.Redis.from_url(self._url) as client:
            return resident_bytes() + int(client.info("memory")["used_memory"])

    def _next(self) -> str:
        self._made += 1
        return f"bench{self._made}"


def compare(folder: Path, makers: Makers, *, orders: int, limit: int | None) -> None:
    """Play both streams through all of them."""
    for name in STREAMS:
        rows = list(json_rows(folder / f"{name}_stream_dev.jsonl.gz"))[:limit]
        embed = Remembered(EMBEDDINGS["static"](), [row["prompt"] for row in rows])
        shuffled = [random.Random(seed).sample(rows, len(rows)) for seed in range(orders)]
        ours = [
            play(order, SemanticCache(embed, max_error_rate=0.01, seed=seed, policy=None))
            for seed, order in enumerate(shuffled)
        ]
        lines = {"SemanticCache, 1%": ours}
        for delta in (0.01, 0.02, 0.05):
            lines[f"vCache's rule, delta {delta:.0%}"] = [
                vcache(order, embed, delta, seed) for seed, order in enumerate(shuffled)
            ]
        allowed = statistics.mean(wrong for _, wrong in ours)
        cosines = {}
        whole = dumped([row["prompt"] for row in rows])
        for label, embedded in (("text", embed), (WHOLE, whole)):
            vectors = [
                np.array(embedded.embed_documents([asked(row, label) for row in order]))
                for order in shuffled
            ]
            cosines[label] = tuned(shuffled, vectors, allowed)
            if label == "text":
                lines[f"any cosine above {cosines[label]}"] = [
                    fixed(order, of, cosines[label])
                    for order, of in zip(shuffled, vectors, strict=True)
                ]
        for label, make in makers.of(embed, whole).items():
            cosine = cosines.get(label, cosines["text"])
            lines[f"{label}, default"] = [stream(order, make(None)) for order in shuffled]
            lines[f"{label}, cosine {cosine}"] = [stream(order, make(cosine)) for order in shuffled]
        hits = statistics.mean(hit for hit, _ in ours)
        table(
            f"{name}: {len(rows):,} requests, {orders} orders",
            ["cache", "hits of all", "wrong of all", "our hits / its hits"],
            [
                [
                    label,
                    interval([h for h, _ in found]),
                    interval([w for _, w in found]),
                    f"{hits / max(statistics.mean(h for h, _ in found), 1e-9):.2f}",
                ]
                for label, found in lines.items()
            ],
        )


def traps(folder: Path, makers: Makers) -> None:
    """Ask each cache, new for each pair, what it should not answer from the other question."""
    pairs = list(json_rows(folder / "adversarial_finance.jsonl.gz"))
    embed = Remembered(EMBEDDINGS["static"](), [r[end] for r in pairs for end in ("cached", "new")])
    whole = dumped([r[end] for r in pairs for end in ("cached", "new")])
    served: dict[str, int] = {"SemanticCache, 1%": 0}
    for pair in pairs:
        ours = SemanticCache(embed, max_error_rate=0.01, audit_rate=1e-9, policy=None)
        ours.update(dumps([HumanMessage(pair["cached"])]), "model", answer("kept"))
        found = ours.lookup(dumps([HumanMessage(pair["new"])]), "model")
        served["SemanticCache, 1%"] += found is not None
        for label, make in makers.of(embed, whole).items():
            peer = make(None)
            peer.keep(pair["cached"], "kept")
            served[label] = served.get(label, 0) + (peer.look(pair["new"]) is not None)
    table(
        "Traps (adversarial finance) that each serves by default",
        ["cache", "served"],
        [[label, f"{n} of {len(pairs)}"] for label, n in served.items()],
    )


def speed(folder: Path, makers: Makers, *, entries: int) -> None:
    """Time look-ups of one who asks after the other, among many kept ones."""
    rows = list(json_rows(folder / "clinc150_stream_dev.jsonl.gz"))
    rows += json_rows(folder / "banking77_stream_dev.jsonl.gz")
    texts = sorted({row["prompt"].strip() for row in rows})[:entries]
    while len(texts) < entries:
        texts += [f"{text} {len(texts)}" for text in texts[: entries - len(texts)]]
    embed, whole = Remembered(EMBEDDINGS["static"](), texts), dumped(texts)
    sample = random.Random(0).sample(texts, 200)
    held = {}
    before = makers.bytes_held()
    ours = SemanticCache(embed, max_error_rate=0.01, audit_rate=1e-9, policy=None)
    for text in texts:
        ours.update(dumps([HumanMessage(text)]), "model", answer(text))
    held["SemanticCache"] = makers.bytes_held() - before
    looks: dict[str, Callable[[str], Any]] = {
        "SemanticCache": lambda text: ours.lookup(dumps([HumanMessage(text)]), "model")
    }
    for label, make in makers.of(embed, whole).items():
        before = makers.bytes_held()
        peer = make(None)
        peer.keep_all(texts)
        held[label] = makers.bytes_held() - before
        looks[label] = peer.look
    lines = []
    for label, look in looks.items():
        taken = []
        for text in sample:
            started = time.perf_counter()
            look(text)
            taken.append(time.perf_counter() - started)
        taken.sort()
        middle, slow = taken[len(taken) // 2], taken[len(taken) * 99 // 100]
        lines.append([label, micro(middle), micro(slow), f"{held[label] / len(texts):,.0f} bytes"])
    head = ["cache", "p50", "p99", "memory of an entry"]
    table(f"A look-up among {len(texts):,}, without embedding", head, lines)


def main() -> None:
    """Run what can run here."""
    chosen = data_arguments(__doc__)
    if not has_recorded(chosen.data, "cache"):
        return
    folder = chosen.data / "cache"
    with search_server() as url, tempfile.TemporaryDirectory() as place:
        for package, needs in (("gptcache", True), ("langchain_redis", url), ("redisvl", url)):
            if not needs or not installed(package):
                print(f"not measured: {package} (it, or a Redis that can search, is not here)")
        makers = Makers(url, place)
        compare(
            folder, makers, orders=1 if chosen.quick else 3, limit=300 if chosen.quick else None
        )
        traps(folder, makers)
        for entries in (500,) if chosen.quick else (10_000, 100_000):
            speed(folder, makers, entries=entries)


if __name__ == "__main__":
    main()
