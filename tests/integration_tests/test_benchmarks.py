"""Every benchmark runs on a small slice and prints a table."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
BENCHMARKS = sorted(file.name for file in FOLDER.glob("*.py") if file.name != "measure.py")


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_benchmark_runs(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning:langchain_tokenopt", name, "--quick"],
        cwd=FOLDER,
        env={**os.environ, "PYTHONHASHSEED": "1"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr[-3_000:]
    if "no recorded data" in done.stdout and "|---|" not in done.stdout:
        pytest.skip(done.stdout.strip().splitlines()[-1])
    assert "|---|" in done.stdout
    assert len(BENCHMARKS) >= 5
