"""How many requests does a semantic cache answer, and how many of those wrongly?

Streams of requests whose right answers are known (Banking77, CLINC150), in several orders, through
the caches' own look-up and update, beside fixed cosines on the same vectors. A wrong answer is one
that belongs to another intent. Audited hits count as calls. Then pairs that must miss and pairs
that should hit, each with a new cache.
"""

import random
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from langchain_core.embeddings import Embeddings
from langchain_core.load import dumps
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.outputs import ChatGeneration
from measure import data_parser, has_recorded, json_rows, table

from langchain_tokenopt.caches import SemanticCache
from langchain_tokenopt.embeddings import MiniLmEmbeddings, StaticEmbeddings

COSINES = (0.97, 0.95, 0.92, 0.90, 0.88, 0.86, 0.84, 0.82, 0.80)
EMBEDDINGS: dict[str, Callable[[], Embeddings]] = {
    "static": StaticEmbeddings,
    "minilm": MiniLmEmbeddings,
}


def answer(text: str) -> list[Any]:
    """Return an answer as LangChain hands it to a cache."""
    return [ChatGeneration(message=AIMessage(text))]


class Remembered(Embeddings):
    """Embeds each text once."""

    def __init__(self, embeddings: Embeddings, texts: list[str]) -> None:
        self._embeddings = embeddings
        distinct = sorted({text.strip() for text in texts})  # as the cache embeds them
        vectors = np.array(embeddings.embed_documents(distinct), dtype=np.float32)
        self.rows = dict(zip(distinct, vectors, strict=True))

    def embed_documents(self, texts: list[str]) -> Any:
        """Return the vectors of texts."""
        return [self.embed_query(text) for text in texts]

    def embed_query(self, text: str) -> Any:
        """Return the vector of a text given before, or a new one."""
        found = self.rows.get(text.strip())
        return self._embeddings.embed_query(text) if found is None else found


def play(rows: list[dict[str, Any]], cache: SemanticCache) -> tuple[float, float]:
    """Return hits and wrong answers as shares of all requests."""
    hits = wrong = 0
    for row in rows:
        prompt = dumps([HumanMessage(row["prompt"])])
        found: Any = cache.lookup(prompt, "model")
        if found is None:
            cache.update(prompt, "model", answer(row["answer_id"]))
        else:
            hits += 1
            wrong += found[0].text != row["answer_id"]
    return hits / len(rows), wrong / len(rows)


def fixed(rows: list[dict[str, Any]], vectors: Any, cosine: float) -> tuple[float, float]:
    """Return the same for a cache that serves above a cosine."""
    kept = np.empty_like(vectors)
    answers: list[str] = []
    hits = wrong = 0
    for row, vector in zip(rows, vectors, strict=True):
        if answers:
            similar = kept[: len(answers)] @ vector
            best = int(similar.argmax())
            if similar[best] >= cosine:
                hits += 1
                wrong += answers[best] != row["answer_id"]
                continue
        kept[len(answers)] = vector
        answers.append(row["answer_id"])
    return hits / len(rows), wrong / len(rows)


def interval(values: list[float]) -> str:
    """Return mean and the 95% interval of the mean over orders."""
    mean = statistics.mean(values)
    if len(values) == 1:
        return f"{mean:.2%}"
    half = 1.96 * statistics.stdev(values) / len(values) ** 0.5
    return f"{mean:.2%} ({mean - half:.2%} to {mean + half:.2%})"


def at_equal_error(curve: list[tuple[float, float]], wrong: float) -> float:
    """Return the hits of a fixed cosine that errs as often, between its measured points."""
    points = sorted((w, h) for h, w in curve)
    return float(np.interp(wrong, [w for w, _ in points], [h for _, h in points]))


def streams(folder: Path, embeddings: Embeddings, *, orders: int, limit: int | None) -> None:
    """Play both streams."""
    for name in ("banking77_stream_dev", "clinc150_stream_dev"):
        rows = list(json_rows(folder / f"{name}.jsonl.gz"))[:limit]
        embed = Remembered(embeddings, [row["prompt"] for row in rows])
        lines: dict[str, list[tuple[float, float]]] = {}
        for seed in range(orders):
            order = list(rows)
            if seed:
                random.Random(seed).shuffle(order)
            vectors = np.array(embed.embed_documents([row["prompt"] for row in order]))
            for cosine in COSINES:
                lines.setdefault(f"fixed {cosine}", []).append(fixed(order, vectors, cosine))
            for label, options in (
                ("SemanticCache, 1%", {"policy": None}),
                ("SemanticCache, 1%, default policy", {}),
            ):
                cache = SemanticCache(embed, max_error_rate=0.01, seed=seed, **options)
                lines.setdefault(label, []).append(play(order, cache))
        curve = [
            (statistics.mean(h for h, _ in lines[f"fixed {c}"]),
             statistics.mean(w for _, w in lines[f"fixed {c}"]))
            for c in COSINES
        ]  # fmt: skip
        shown = []
        for label, found in lines.items():
            hits, wrong = [h for h, _ in found], [w for _, w in found]
            same = at_equal_error(curve, statistics.mean(wrong))
            shown.append(
                [
                    label,
                    interval(hits),
                    interval(wrong),
                    f"{max(wrong):.2%}",
                    f"{statistics.mean(hits) / same:.2f}",
                ]
            )
        table(
            f"{name}: {len(rows):,} requests, {orders} orders",
            ["cache", "hits of all", "wrong of all", "worst order", "hits / fixed cosine's"],
            shown,
        )


def pairs(folder: Path, embeddings: Embeddings, *, limit: int | None) -> None:
    """Ask the pairs of new caches."""
    rows = []
    for name, wants in (("adversarial_finance", "miss"), ("gptcache_mock_pairs", "hit")):
        served = similar = 0
        pairs_ = list(json_rows(folder / f"{name}.jsonl.gz"))[:limit]
        embed = Remembered(embeddings, [row[end] for row in pairs_ for end in ("cached", "new")])
        for row in pairs_:
            cache = SemanticCache(embed, max_error_rate=0.01, audit_rate=1e-9, policy=None)
            cache.update(dumps([HumanMessage(row["cached"])]), "m", answer("kept"))
            served += cache.lookup(dumps([HumanMessage(row["new"])]), "m") is not None
            one, two = embed.embed_documents([row["cached"], row["new"]])
            similar += float(one @ two) >= 0.85
        rows.append([name, wants, f"{served} of {len(pairs_)}", f"{similar} of {len(pairs_)}"])
    table(
        "Pairs, each with a new cache",
        ["pairs", "should", "served", "served at cosine 0.85"],
        rows,
    )


def main() -> None:
    """Run both where the recorded data is."""
    parser = data_parser(__doc__)
    parser.add_argument("--embeddings", choices=list(EMBEDDINGS), default="static")
    chosen = parser.parse_args()
    if not has_recorded(chosen.data, "cache"):
        return
    folder = chosen.data / "cache"
    embeddings, limit = EMBEDDINGS[chosen.embeddings](), 800 if chosen.quick else None
    streams(folder, embeddings, orders=1 if chosen.quick else 20, limit=limit)
    pairs(folder, embeddings, limit=limit)


if __name__ == "__main__":
    main()
