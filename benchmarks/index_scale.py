"""How quick is the nearest kept question among many, and is it the nearest?

Random unit vectors of 256 dimensions around 2,000 centres, looked up with a little noise. Exact
below 20,000 entries, an HNSW graph above; recall is against an exact search of all of them.
"""

import random
import statistics
import time

import numpy as np
from measure import arguments, micro, table

from langchain_tokenopt.caches.index import VectorIndex


def main() -> None:
    """Fill and look up at each size."""
    quick = arguments(__doc__).quick
    rng = np.random.default_rng(0)
    random.seed(0)
    rows = []
    for entries in (2_000,) if quick else (10_000, 100_000):
        centres = rng.normal(size=(2_000, 256))
        data = centres[rng.integers(0, 2_000, entries)] + 0.6 * rng.normal(size=(entries, 256))
        data = (data / np.linalg.norm(data, axis=1, keepdims=True)).astype(np.float32)
        index = VectorIndex(graph_from=500 if quick else 20_000)
        slowest = 0.0
        started = time.perf_counter()
        for n, vector in enumerate(data):
            index.add(b"p", n, vector)  # type: ignore[arg-type]  # an array is as good
            if n % 500 == 0:
                asked = time.perf_counter()
                index.search(b"p", vector, most=8)  # type: ignore[arg-type]
                slowest = max(slowest, time.perf_counter() - asked)
        added = time.perf_counter() - started
        index.settle()
        settled = time.perf_counter() - started
        chosen = random.sample(range(entries), 200 if quick else 1_000)
        asked_for = (data[chosen] + 0.01 * rng.normal(size=(len(chosen), 256))).astype(np.float32)
        nearest = (data @ asked_for.T).argmax(axis=0)
        time.sleep(1)  # the threads of that product spin for a while
        taken, right = [], 0
        for vector, best in zip(asked_for, nearest, strict=True):
            started = time.perf_counter()
            found = index.search(b"p", vector, most=8)
            taken.append(time.perf_counter() - started)
            right += found[0].id == int(best)
        ordered = sorted(taken)
        rows.append(
            [
                f"{entries:,}",
                micro(statistics.median(taken)),
                micro(ordered[int(0.99 * len(ordered))]),
                f"{right / len(taken):.2%}",
                f"{entries / added:,.0f}/s",
                f"{settled:.0f} s",
                f"{slowest * 1e3:.0f} ms",
            ]
        )
    table(
        "Look-ups of the 8 nearest",
        [
            "entries", "p50", "p99", "recall@1", "added", "all in place after",
            "slowest look-up meanwhile",
        ],
        rows,
    )  # fmt: skip


if __name__ == "__main__":
    main()
