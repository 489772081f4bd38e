"""What benchmarks share: arguments, recorded rows, runs in turns, how sure a ratio is, tables."""

import argparse
import gc
import gzip
import json
import os
import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any


def arguments(description: str | None) -> argparse.Namespace:
    """Read `--quick`, which every benchmark takes."""
    return quick_parser(description).parse_args()


def quick_parser(description: str | None) -> argparse.ArgumentParser:
    """Return what reads `--quick`, for a benchmark that takes more."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="a small run, for CI")
    return parser


def data_arguments(description: str | None) -> argparse.Namespace:
    """Read `--quick` and `--data`, the folder of recorded answers and texts."""
    return data_parser(description).parse_args()


def data_parser(description: str | None) -> argparse.ArgumentParser:
    """Return what reads `--quick` and `--data`, for a benchmark that takes more."""
    parser = quick_parser(description)
    default = os.environ.get("TOKENOPT_DATA") or Path(__file__).parents[2] / "shared" / "data"
    parser.add_argument("--data", type=Path, default=Path(default))
    return parser


def has_recorded(data: Path, needed: str) -> bool:
    """Return whether a file or folder of recorded data is there, and say so if it is not."""
    found = (data / needed).exists()
    if not found:
        print(f"no recorded data in {data}; point --data or TOKENOPT_DATA at it")
    return found


def json_rows(path: Path) -> Iterator[Any]:
    """Yield the objects of a gzipped file of JSON Lines."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def alternate(
    runs: dict[str, Callable[[], object]], *, rounds: int, times: int
) -> dict[str, list[float]]:
    """Return seconds for each call: `rounds` of `times` calls, in turns and random order.

    Turns keep a slow moment of the machine from falling on one side alone.
    """
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run()
    order = list(runs)
    for _ in range(rounds):
        random.shuffle(order)
        for name in order:
            run = runs[name]
            gc.collect()
            gc.disable()
            started = time.perf_counter()
            for _ in range(times):
                run()
            taken[name].append((time.perf_counter() - started) / times)
            gc.enable()
    return taken


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, float, float]:
    """Return median(ours) / median(theirs) and its 95% bootstrap interval over the rounds."""
    pairs = list(zip(ours, theirs, strict=True))
    draws = sorted(_of_medians([random.choice(pairs) for _ in pairs]) for _ in range(2_000))
    return _of_medians(pairs), draws[50], draws[1949]


def _of_medians(pairs: Sequence[tuple[float, float]]) -> float:
    ours, theirs = zip(*pairs, strict=True)
    return statistics.median(ours) / statistics.median(theirs)


def table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a Markdown table."""
    print(f"\n{title}\n")
    print("| " + " | ".join(head) + " |")
    print("|" + "---|" * len(head))
    for row in rows:
        print("| " + " | ".join(row) + " |")


def micro(seconds: float) -> str:
    """Return a duration in microseconds."""
    return f"{seconds * 1e6:,.1f} us"


def shown(found: tuple[float, float, float]) -> str:
    """Return a ratio with its interval."""
    return f"{found[0]:.2f} ({found[1]:.2f} to {found[2]:.2f})"
