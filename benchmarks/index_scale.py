"""How quick is the nearest kept question among many, and is it the nearest?

Random unit vectors of 256 dimensions around 2,000 centres, looked up with noise (a cosine of 0.9
to the one that is meant). Exact below 20,000 entries, an HNSW graph above; recall is against an
exact search of all of them.
"""

import os
import random
import statistics
import time
from pathlib import Path

import numpy as np
from measure import arguments, micro, table

from langchain_tokenopt.caches.index import VectorIndex


def resident_bytes() -> int:
    """Return the memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    """Fill and look up at each size."""
    quick = arguments(__doc__).quick
    rng = np.random.default_rng(0)
    random.seed(0)
    rows = []
    for entries in (2_000,) if quick else (10_000, 100_000, 1_000_000):
        centres = rng.standard_normal(size=(2_000, 256), dtype=np.float32)
        data = 0.6 * rng.standard_normal(size=(entries, 256), dtype=np.float32)
        data += centres[rng.integers(0, 2_000, entries)]
        data /= np.linalg.norm(data, axis=1, keepdims=True)
        before = resident_bytes()
        index = VectorIndex(graph_from=500 if quick else 20_000)
        slowest = 0.0
        started = time.perf_counter()
        for n, vector in enumerate(data):
            index.add(b"p", n, vector)  # type: ignore[arg-type]  # an array is as good
            if n % (entries // 20) == 0:
                asked = time.perf_counter()
                index.search(b"p", vector, most=8)  # type: ignore[arg-type]
                slowest = max(slowest, time.perf_counter() - asked)
        added = time.perf_counter() - started
        index.settle()
        settled = time.perf_counter() - started
        held = (resident_bytes() - before) / entries
        chosen = random.sample(range(entries), 200 if quick else 1_000)
        noise = 0.03 * rng.standard_normal(size=(len(chosen), 256), dtype=np.float32)
        asked_for = data[chosen] + noise
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
                f"{held:,.0f} bytes",
            ]
        )
    table(
        "Look-ups of the 8 nearest",
        [
            "entries", "p50", "p99", "recall@1", "added", "all in place after",
            "slowest look-up meanwhile", "memory of an entry",
        ],
        rows,
    )  # fmt: skip


if __name__ == "__main__":
    main()
