"""Fit the coefficients from which a new semantic cache starts; prints them for caches/decision.py.

Every request of the development streams is asked of an index of all requests before it, as in
shadow mode; the label is whether the nearest kept answer is the right one. Paraphrase pairs, kept
alone, add questions that have no other neighbours. `--unseen 20` shows what a prior is worth on a
stream that it was not fitted on. Run it with PYTHONPATH=benchmarks.
"""

import argparse
import os
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from measure import json_rows, table
from semantic_streams import Remembered, interval, play

from langchain_tokenopt.caches import SemanticCache
from langchain_tokenopt.caches.decision import FEATURES, Neighbour, features, fit
from langchain_tokenopt.caches.likeness import WordWeights, veto
from langchain_tokenopt.embeddings import StaticEmbeddings

NEAR = 8
STREAMS = ("banking77", "clinc150")


def shadow(rows: list[dict[str, Any]], vectors: Any, *, most: int) -> tuple[list[Any], list[bool]]:
    """Return features and labels of a stream in shadow mode."""
    words = WordWeights()
    groups: dict[str, int] = {}
    x, right = [], []
    for n, row in enumerate(rows):
        group = groups.setdefault(row["answer_id"], len(groups))
        if n >= NEAR:
            similar = vectors[:n] @ vectors[n]
            top = np.argsort(-similar)[:most]
            near = [
                Neighbour(rows[i]["prompt"], groups[rows[i]["answer_id"]], float(similar[i]))
                for i in top
            ]
            chosen = next(
                (i for i, one in enumerate(near) if veto(row["prompt"], one.text) is None), None
            )
            if chosen is not None:
                x.append(features(row["prompt"], near, chosen, words))
                right.append(near[chosen].group == group)
        words.add(row["prompt"])
    return x, right


def pairs(rows: list[dict[str, Any]], embed: StaticEmbeddings) -> tuple[list[Any], list[bool]]:
    """Return features and labels of paraphrases, each kept alone."""
    words = WordWeights()
    for row in rows:
        words.add(row["cached"])
    x, right = [], []
    for row in rows:
        if veto(row["new"], row["cached"]) is None:
            other = rows[random.randrange(len(rows))]
            for cached in (row, other):
                one, two = embed.vectors([cached["cached"], row["new"]])
                near = [Neighbour(cached["cached"], 0, float(one @ two))]
                x.append(features(row["new"], near, 0, words))
                right.append(cached is row)
    return x, right


def fitted(folder: Path, streams: Sequence[str], embed: StaticEmbeddings) -> list[float]:
    """Return the coefficients fitted on streams, and on the pairs."""
    random.seed(0)
    x, right, weight = [], [], []
    for name in streams:
        rows = list(json_rows(folder / f"{name}_stream_dev.jsonl.gz"))
        vectors = embed.vectors([row["prompt"] for row in rows])
        for most, each in ((NEAR, 1.0), (1, 0.2)):
            more, labels = shadow(rows, vectors, most=most)
            x += more
            right += labels
            weight += [each] * len(more)
    more, labels = pairs(list(json_rows(folder / "gptcache_mock_pairs.jsonl.gz")), embed)
    x += more
    right += labels
    weight += [0.5] * len(more)
    zero = np.zeros(len(FEATURES))
    found, _ = fit(
        np.array(x), np.array(right, dtype=float), np.array(weight), start=zero, prior=zero
    )
    return [float(value) for value in found]


def unseen(folder: Path, *, orders: int, embed: StaticEmbeddings) -> None:
    """Play each stream, and its beginnings, from coefficients fitted on the other one."""
    shown = []
    for played, other in (STREAMS, STREAMS[::-1]):
        start = fitted(folder, [other], embed)
        rows = list(json_rows(folder / f"{played}_stream_dev.jsonl.gz"))
        known = Remembered(embed, [row["prompt"] for row in rows])
        for length in (1_000, 3_000, len(rows)):
            found = []
            for seed in range(orders):
                order = list(rows)
                random.Random(seed).shuffle(order)
                cache = SemanticCache(known, max_error_rate=0.01, seed=seed, policy=None)
                cache._model.start_from(start)
                found.append(play(order[:length], cache))
            hits, wrong = [h for h, _ in found], [w for _, w in found]
            shown.append(
                [played, other, f"{length:,}", interval(hits), interval(wrong), f"{max(wrong):.2%}"]
            )
    table(
        f"Streams that the prior has not seen, {orders} orders",
        ["stream", "prior from", "requests", "hits of all", "wrong of all", "worst order"],
        shown,
    )


def main() -> None:
    """Fit and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    default = os.environ.get("TOKENOPT_DATA", "../shared/data")
    parser.add_argument("--data", type=Path, default=Path(default))
    parser.add_argument(
        "--unseen", type=int, metavar="ORDERS", help="play each stream with the other one's prior"
    )
    chosen = parser.parse_args()
    folder, embed = chosen.data / "cache", StaticEmbeddings()
    if chosen.unseen:
        unseen(folder, orders=chosen.unseen, embed=embed)
        return
    found = fitted(folder, STREAMS, embed)
    for name, value in zip(FEATURES, found, strict=True):
        print(f"{name:<18} {value:6.2f}")
    print(tuple(round(value, 2) for value in found))


if __name__ == "__main__":
    main()
