"""Fit the coefficients from which a new semantic cache starts; prints them for caches/decision.py.

Every request of the development streams is asked of an index of all requests before it, as in
shadow mode; the label is whether the nearest kept answer is the right one. Paraphrase pairs, kept
alone, add questions that have no other neighbours.
"""

import argparse
import gzip
import json
import os
import random
from pathlib import Path
from typing import Any

import numpy as np

from langchain_tokenopt.caches.decision import FEATURES, Neighbour, features, fit
from langchain_tokenopt.caches.likeness import WordWeights, veto
from langchain_tokenopt.embeddings import StaticEmbeddings

NEAR = 8


def rows_of(file: Path) -> list[dict[str, Any]]:
    """Read gzipped JSON lines."""
    with gzip.open(file, "rt") as lines:
        return [json.loads(line) for line in lines]


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


def main() -> None:
    """Fit and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    default = os.environ.get("TOKENOPT_DATA", "../shared/data")
    parser.add_argument("--data", type=Path, default=Path(default))
    folder = parser.parse_args().data / "cache"
    random.seed(0)
    embed = StaticEmbeddings()
    x, right, weight = [], [], []
    for name in ("banking77_stream_dev", "clinc150_stream_dev"):
        rows = rows_of(folder / f"{name}.jsonl.gz")
        vectors = embed.vectors([row["prompt"] for row in rows])
        for most, each in ((NEAR, 1.0), (1, 0.2)):
            more, labels = shadow(rows, vectors, most=most)
            x += more
            right += labels
            weight += [each] * len(more)
    more, labels = pairs(rows_of(folder / "gptcache_mock_pairs.jsonl.gz"), embed)
    x += more
    right += labels
    weight += [0.5] * len(more)
    zero = np.zeros(len(FEATURES))
    found, _ = fit(
        np.array(x), np.array(right, dtype=float), np.array(weight), start=zero, prior=zero
    )
    for name, value in zip(FEATURES, found, strict=True):
        print(f"{name:<18} {value:6.2f}")
    print(tuple(round(float(value), 2) for value in found))


if __name__ == "__main__":
    main()
