"""Bulk work on a real Ray cluster of two nodes: lost nodes, killed jobs, errors, the ledger."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
import ray
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.messages import messages_from_dict
from langchain_core.runnables import RunnableLambda
from pyarrow import parquet
from pydantic import BaseModel

from langchain_tokenopt import UsageLedger
from langchain_tokenopt.advisor import LedgerBooks
from langchain_tokenopt.batching.bulk import _dataset, _name_rows, bulk_map
from langchain_tokenopt.batching.bulk_output import BulkOutput, read_bulk
from langchain_tokenopt.batching.bulk_worker import BulkWorker
from langchain_tokenopt.errors import ConfigurationError, StoreError
from langchain_tokenopt.testing import ScriptedModel

pytestmark = [
    pytest.mark.xdist_group("ray"),
    pytest.mark.filterwarnings("ignore"),  # Ray's own, of what it depends on
]
ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    from ray.cluster_utils import Cluster

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    # What the tests build must be importable on the workers.
    os.environ["PYTHONPATH"] = f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    try:
        made = Cluster(
            initialize_head=True,
            head_node_args={"num_cpus": 2, "object_store_memory": 100_000_000},
        )
    except (OSError, RuntimeError) as error:  # no shared memory, no ports
        pytest.skip(f"Ray cannot start a cluster here: {error}")
    ray.init(address=made.address, log_to_driver=False)
    yield made
    ray.shutdown()
    made.shutdown()


ROWS = [{"id": f"r{n}", "text": f"row number {n}"} for n in range(60)]


def shout() -> Any:
    return RunnableLambda(lambda text: text.upper())


def slow_shout() -> Any:
    def answer(text: str) -> str:
        time.sleep(0.05)
        return text.upper()

    return RunnableLambda(answer)


def choosy() -> Any:
    def answer(text: str) -> str:
        if text.endswith("7") and not Path(os.environ.get("TOKENOPT_TEST_OK", "/none")).exists():
            raise ValueError("no sevens")
        return text.upper()

    return RunnableLambda(answer)


def model() -> Any:
    return ScriptedModel(
        ["four"], when_exhausted="repeat_last", model_name="gpt-5-mini", provider="openai"
    )


def run(build: Any, output: Path, rows: Any = None, **options: Any) -> Any:
    given = {"id_column": "id", "input_column": "text", "batch_size": 4, "workers": 1, **options}
    return bulk_map(build, ROWS if rows is None else rows, output=output, **given)


def answers(output: Path) -> dict[str, Any]:
    rows = list(read_bulk(output))
    assert len({row.id for row in rows}) == len(rows)
    return {row.id: row.answer for row in rows}


EXPECTED = {row["id"]: row["text"].upper() for row in ROWS}


def test_every_row_is_in_the_output_once(cluster: Any, tmp_path: Path) -> None:
    report = run(shout, tmp_path / "out", rows_a_part=16)

    assert (report.rows, report.added, report.failed, report.done_before) == (60, 60, 0, 0)
    assert answers(tmp_path / "out") == EXPECTED
    assert len(list((tmp_path / "out").glob("part-*"))) > 1


def test_what_is_there_is_not_run_again(cluster: Any, tmp_path: Path) -> None:
    run(shout, tmp_path / "out", ROWS[:40])

    report = run(shout, tmp_path / "out")

    assert (report.added, report.done_before) == (20, 40)
    assert answers(tmp_path / "out") == EXPECTED


def test_a_row_that_fails_keeps_its_error_and_can_be_run_again(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = run(choosy, tmp_path / "out")
    errors = [row for row in read_bulk(tmp_path / "out") if row.error]
    assert report.failed == len(errors) == 6
    assert errors[0].error == "ValueError: no sevens"
    assert run(choosy, tmp_path / "out").added == 0

    report = run(shout, tmp_path / "out", retry_errors=True)

    assert report.added == 6
    assert answers(tmp_path / "out") == EXPECTED


def test_a_node_that_is_killed_half_way_loses_and_doubles_nothing(
    cluster: Any, tmp_path: Path
) -> None:
    import threading

    node = cluster.add_node(num_cpus=1, object_store_memory=100_000_000)
    cluster.wait_for_nodes()
    output = tmp_path / "out"

    def kill() -> None:
        end = time.monotonic() + 60
        while not list(output.glob("part-*.jsonl")) and time.monotonic() < end:
            time.sleep(0.02)
        cluster.remove_node(node, allow_graceful=False)

    killer = threading.Thread(target=kill)
    killer.start()
    report = run(slow_shout, output, workers=2, rows_a_part=4)
    killer.join()

    assert report.rows == 60
    assert answers(output) == EXPECTED


_JOB = """
import sys
sys.path.insert(0, sys.argv[1])
import ray
ray.init(address=sys.argv[3], log_to_driver=False)
from pathlib import Path
from tests.unit_tests.batching.test_bulk import run, slow_shout
run(slow_shout, Path(sys.argv[2]), rows_a_part=4)
"""


def test_a_job_that_is_killed_goes_on_where_it_was(cluster: Any, tmp_path: Path) -> None:
    output = tmp_path / "out"
    job = subprocess.Popen(
        [sys.executable, "-c", _JOB, str(ROOT), str(output), cluster.address],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    end = time.monotonic() + 60
    while not list(output.glob("part-*.jsonl")) and time.monotonic() < end and job.poll() is None:
        time.sleep(0.02)
    os.kill(job.pid, signal.SIGKILL)
    job.wait(30)
    kept = len(answers(output))
    assert 0 < kept < 60

    report = run(shout, output)

    assert report.done_before == kept
    assert answers(output) == EXPECTED


def test_calls_of_the_workers_are_booked_once_in_one_ledger(cluster: Any, tmp_path: Path) -> None:
    ledger = UsageLedger(tmp_path / "ledger.sqlite")
    books = LedgerBooks(ledger)
    run(model, tmp_path / "out", ROWS[:10], books=books)
    calls = list(ledger.records())
    run(model, tmp_path / "out", ROWS[:12], books=books)

    assert len(calls) == 10
    assert ledger.totals().calls == 12
    assert calls[0].model == "gpt-5-mini"
    assert calls[0].cost
    (message,) = messages_from_dict([answers(tmp_path / "out")["r0"]])
    assert message.text == "four"


def test_rows_without_ids_are_known_by_their_content(cluster: Any, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    rows = [{"n": 1}, {"n": 2}, {"n": 1}]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def build() -> Any:
        return lambda inputs: [each["n"] * 10 for each in inputs]

    bulk_map(build, file, output=tmp_path / "out", workers=1)

    assert sorted(answers(tmp_path / "out").values()) == [10, 20]


def test_embeddings_are_run_as_such(cluster: Any, tmp_path: Path) -> None:
    run(lambda: DeterministicFakeEmbedding(size=4), tmp_path / "out", ROWS[:5])

    expected = DeterministicFakeEmbedding(size=4).embed_documents([ROWS[3]["text"]])[0]
    assert answers(tmp_path / "out")["r3"] == pytest.approx(expected)


# --- without a cluster ----------------------------------------------------------------------------


def test_rows_may_be_a_dataset_or_a_parquet_file_or_folder(cluster: Any, tmp_path: Path) -> None:
    file = tmp_path / "rows.parquet"
    parquet.write_table(pyarrow.Table.from_pylist(ROWS), file)
    data = _dataset(file)

    assert _dataset(data) is data
    for read in (data, _dataset(str(tmp_path))):
        assert read.schema().names == ["id", "text"]
        assert read.count() == 60


@pytest.mark.parametrize("lacks", [{"id_column": "name"}, {"input_column": "question"}])
def test_a_row_that_lacks_a_column_is_told_with_those_it_has(
    cluster: Any, lacks: dict[str, str]
) -> None:
    columns = {"id_column": "id", "input_column": "text", **lacks}
    batch = pyarrow.Table.from_pylist(ROWS[:2])

    with pytest.raises(ConfigurationError, match=r"no column '(name|question)', it has id, text"):
        _name_rows(batch, done=[ray.put(frozenset())], **columns)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"workers": 0}, "workers"),
        ({"rows": "/nowhere.jsonl"}, "found none at"),
        ({"rows": []}, "at least one row"),
        ({"build": "text"}, "a function that builds"),
    ],
)
def test_wrong_options_are_refused(
    cluster: Any, tmp_path: Path, wrong: dict[str, Any], named: str
) -> None:
    given = {"build": shout, "output": tmp_path / "out", "rows": ROWS, **wrong}
    with pytest.raises(ConfigurationError, match=named):
        run(**given)


def test_an_output_that_is_written_by_another_process_is_left_alone(tmp_path: Path) -> None:
    first, second = BulkOutput(tmp_path / "out"), BulkOutput(tmp_path / "out")
    with (
        first.writing(),
        pytest.raises(ConfigurationError, match="another process writes"),
        second.writing(),
    ):
        pass


def test_a_damaged_part_is_named(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "part-000001.jsonl").write_text('{"id": "a"')
    with pytest.raises(StoreError, match=r"part-000001\.jsonl cannot be read"):
        BulkOutput(tmp_path / "out")
    with pytest.raises(ConfigurationError, match="found none at"):
        list(read_bulk(tmp_path / "other"))


def test_a_part_that_cannot_be_written_leaves_those_that_are_there(tmp_path: Path) -> None:
    kept = BulkOutput(tmp_path / "out")
    row = {"id": "a", "answer": "1", "error": None, "calls": "[]"}
    kept.add([row], rows_a_part=1, books=None)
    (tmp_path / "out" / "part-000002.jsonl").mkdir()  # in the way
    with pytest.raises(StoreError, match="cannot be written"):
        kept.add([{**row, "id": "b"}], rows_a_part=1, books=None)
    (tmp_path / "out" / "part-000002.jsonl").rmdir()

    assert [each.id for each in read_bulk(tmp_path / "out")] == ["a"]
    assert not list((tmp_path / "out").glob("*.tmp"))


def test_an_output_needs_a_folder_to_be_in(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    for path in (tmp_path / "file", tmp_path / "nowhere" / "out"):
        with pytest.raises(ConfigurationError, match="expected the path of a folder in one that"):
            BulkOutput(path)


def test_a_part_that_was_cut_off_is_cleared_away_and_no_row_is_written_twice(
    tmp_path: Path,
) -> None:
    row = {"id": "a", "answer": "1", "error": None, "calls": "[]"}
    BulkOutput(tmp_path / "out").add([row], rows_a_part=1, books=None)
    (tmp_path / "out" / "part-000002.jsonl.tmp").write_text('{"id": "b", "ans')

    again = BulkOutput(tmp_path / "out")
    added = again.add([row, {**row, "id": "b"}], rows_a_part=1, books=None)

    assert added.rows == 1
    assert [each.id for each in read_bulk(tmp_path / "out")] == ["a", "b"]
    assert not list((tmp_path / "out").glob("*.tmp"))


def worked(built: Any, *texts: str) -> list[dict[str, Any]]:
    rows = [{"id": f"r{n}", "input": json.dumps(text)} for n, text in enumerate(texts)]
    table = BulkWorker(build=lambda: built, handler=None)(pyarrow.Table.from_pylist(rows))
    return list(table.to_pylist())


def test_a_function_of_a_list_gives_an_answer_for_each_row() -> None:
    def lengths(texts: list[str]) -> list[int]:
        return list(map(len, texts))

    assert [row["answer"] for row in worked(lengths, "a", "bb")] == ["1", "2"]
    short = worked(lambda texts: texts[1:], "a", "bb")
    assert [row["answer"] for row in short] == [None, None]
    assert {row["error"] for row in short} == {
        "ConfigurationError: expected 2 answers, one for each input, got 1"
    }


def test_what_cannot_be_run_is_refused_by_the_worker() -> None:
    with pytest.raises(ConfigurationError, match="to be a runnable, embeddings, or a function of"):
        worked("a text", "a")


class Town(BaseModel):
    """A town."""

    name: str


@pytest.mark.parametrize(
    ("answer", "kept"),
    [
        (Town(name="Ulm"), {"name": "Ulm"}),
        (np.array([[1.0, 2.0]]), [[1.0, 2.0]]),
        ({"when": datetime(2026, 11, 25, tzinfo=UTC)}, {"when": "2026-11-25 00:00:00+00:00"}),
    ],
)
def test_answers_are_kept_as_what_they_hold(answer: Any, kept: Any) -> None:
    (row,) = worked(lambda _: [answer], "a")

    assert json.loads(row["answer"]) == kept


def test_messages_are_kept_so_that_they_can_be_read_again() -> None:
    (row,) = worked(ScriptedModel(["four"]), "2 + 2?")

    (message,) = messages_from_dict([json.loads(row["answer"])])
    assert message.text == "four"
