"""Does the SQLite cache stay quick at a million entries, and does it lose anything?

Targets: the median look-up among a million entries takes less than 2 times as long as among ten
thousand; opening takes less than a second; four processes that write at once lose nothing; a
process that is killed while it writes loses nothing that it was told is kept.
"""

import hashlib
import multiprocessing
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from measure import arguments, micro, table

from langchain_tokenopt.caches import SqliteStore

VALUE = b"an encoded answer of a thousand characters " * 23


def key(n: int) -> bytes:
    """Return a key as the caches make them."""
    return hashlib.sha256(b"%d" % n).digest()


def fill(path: Path, entries: int) -> float:
    """Write entries in batches and return seconds."""
    store = SqliteStore(path)
    started = time.perf_counter()
    for first in range(0, entries, 5_000):
        store.put({key(n): VALUE for n in range(first, min(first + 5_000, entries))}, ttl_s=None)
    taken = time.perf_counter() - started
    store.close()
    return taken


def look_up(path: Path, entries: int, *, times: int) -> tuple[float, list[float]]:
    """Return the seconds that opening with the first look-up took, and those of the others."""
    chosen = [key(random.randrange(entries)) for _ in range(times)]
    started = time.perf_counter()
    store = SqliteStore(path)
    assert store.get([key(0)])
    opened = time.perf_counter() - started
    taken = []
    for one in chosen:
        started = time.perf_counter()
        found = store.get([one])
        taken.append(time.perf_counter() - started)
        assert found
    store.close()
    return opened, taken


def write_some(path: str, first: int, entries: int) -> None:
    """Write entries one by one, as one of several processes."""
    store = SqliteStore(path, busy_timeout_s=120)
    for n in range(first, first + entries):
        store.put({key(n): VALUE}, ttl_s=None)
    store.close()


def four_writers(folder: Path, entries: int) -> tuple[int, float]:
    """Return how many entries four processes lost, and writes a second."""
    path = str(folder / "four.sqlite")
    spawn = multiprocessing.get_context("spawn")
    workers = [
        spawn.Process(target=write_some, args=(path, n * entries, entries)) for n in range(4)
    ]
    started = time.perf_counter()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    taken = time.perf_counter() - started
    store = SqliteStore(path)
    found = len(store.get([key(n) for n in range(4 * entries)]))
    store.close()
    return 4 * entries - found, 4 * entries / taken


KILLED = """
import sys
sys.path.insert(0, sys.argv[2])
from cache_sqlite_scale import SqliteStore, VALUE, key
store = SqliteStore(sys.argv[1])
for n in range(10_000_000):
    store.put({key(n): VALUE}, ttl_s=None)
    print(n, flush=True)
"""


def killed(folder: Path, *, kills: int) -> tuple[int, int]:
    """Return how many acknowledged entries were lost, and how many there were."""
    lost = total = 0
    for round_ in range(kills):
        path = str(folder / f"killed{round_}.sqlite")
        with subprocess.Popen(
            [sys.executable, "-c", KILLED, path, str(Path(__file__).parent)],
            stdout=subprocess.PIPE,
            text=True,
        ) as writer:
            assert writer.stdout is not None
            told = [int(next(writer.stdout)) for _ in range(random.randrange(100, 1_000))]
            writer.send_signal(signal.SIGKILL)
            told += [int(line) for line in writer.stdout if line.endswith("\n")]
        store = SqliteStore(path)
        lost += len(told) - len(store.get([key(n) for n in told]))
        total += len(told)
        store.close()
    return lost, total


def main() -> None:
    """Fill, look up, write at once, kill."""
    quick = arguments(__doc__).quick
    small, large = (1_000, 20_000) if quick else (10_000, 1_000_000)
    times = 500 if quick else 5_000
    rows, medians = [], []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for entries in (small, large):
            path = folder / f"{entries}.sqlite"
            filled = fill(path, entries)
            opened, taken = look_up(path, entries, times=times)
            ordered = sorted(taken)
            medians.append(statistics.median(taken))
            rows.append(
                [
                    f"{entries:,}",
                    f"{path.stat().st_size / 1e6:,.0f} MB",
                    f"{entries / filled:,.0f}/s",
                    f"{opened * 1e3:.1f} ms",
                    micro(medians[-1]),
                    micro(ordered[int(0.95 * len(ordered))]),
                ]
            )
        table(
            "Entries in one file",
            ["entries", "file", "written in batches", "open and first", "p50", "p95"],
            rows,
        )
        print(f"\np50 grows {medians[1] / medians[0]:.2f} times (target: less than 2)")
        gone, rate = four_writers(folder, 100 if quick else 2_500)
        print(f"four processes writing at once lost {gone} entries, at {rate:,.0f} writes a second")
        lost, total = killed(folder, kills=2 if quick else 10)
        print(f"processes killed while they wrote lost {lost} of {total:,} acknowledged entries")


if __name__ == "__main__":
    main()
