"""Run a runnable over many rows on Ray Data: resumable, and each row in the output once.

Needs the extra `ray`.
"""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from langchain_core.callbacks import BaseCallbackHandler

from langchain_tokenopt.batching.bulk_output import BulkOutput
from langchain_tokenopt.batching.bulk_worker import BulkWorker, as_json, id_of, table_of
from langchain_tokenopt.errors import ConfigurationError, MissingExtraError

try:
    import ray
    import ray.data
except ImportError as error:  # says what to install
    raise MissingExtraError(package="ray", extra="ray") from error


class BulkBooks(Protocol):
    """Takes what a job's calls cost from its workers to a ledger; see `advisor.LedgerBooks`."""

    def handler(self) -> BaseCallbackHandler:
        """Return a handler for a worker, whose `drain()` gives what it saw as JSON values."""

    def add(self, calls: Sequence[Mapping[str, Any]]) -> None:
        """Book calls; once more does nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BulkReport:
    """What a job did."""

    rows: int
    """In the output now."""
    added: int
    failed: int
    """In the output with an error in place of an answer."""
    done_before: int
    """Rows that were there already, and were not run again."""


def bulk_map(
    build: Callable[[], Any],
    dataset: "ray.data.Dataset | Iterable[Mapping[str, Any]] | str | Path",
    *,
    output: str | Path,
    id_column: str | None = None,
    input_column: str | None = None,
    workers: int = 2,
    batch_size: int = 16,
    rows_a_part: int = 256,
    retry_errors: bool = False,
    books: BulkBooks | None = None,
    num_cpus: float = 1,
    num_gpus: float = 0,
) -> BulkReport:
    """Run what `build` makes on every row, and keep the answers in a folder.

    Each worker builds its own. Answers go to part files in the order in which they come, each
    written whole or not at all; a job that was ended, by whatever, goes on with the rows that are
    in none. When a node is lost, Ray runs its rows again elsewhere, and the output still has each
    once; what the lost calls cost is lost to the ledger with the node.

    Args:
        build: Returns a runnable, `Embeddings`, or a function of a list of inputs that returns as
            many answers; runs on the workers, so it must make its clients there.
        dataset: Of Ray Data; rows; or the path of a `.jsonl` or `.parquet` file or folder.
        output: A folder; see `read_bulk`.
        id_column: Names each row; without it a row is known by its content, and equal rows are one.
        input_column: What the runnable gets; without it, the whole row.
        workers: Actors of Ray.
        batch_size: Rows in one `batch` call of the runnable.
        rows_a_part: Rows after which a part is written at the latest.
        retry_errors: Whether rows whose answer is an error are run again.
        books: Books the calls.
        num_cpus: Of each worker.
        num_gpus: Of each worker.

    Raises:
        ConfigurationError: A value cannot be used, or a row lacks a column.
    """
    if min(workers, batch_size, rows_a_part) < 1:
        message = (
            "workers, batch_size and rows_a_part must be at least 1, got "
            f"{workers}, {batch_size} and {rows_a_part}"
        )
        raise ConfigurationError(message)
    given: Any = build
    if not callable(given):
        message = f"expected a function that builds the runnable, got {type(build).__name__}"
        raise ConfigurationError(message)
    kept = BulkOutput(output)
    before = kept.done(with_errors=not retry_errors)
    _start_ray()
    done = ray.put(before)
    naming: Any = _name_rows  # Ray's types know of no keyword arguments
    rows = _dataset(dataset).map_batches(
        naming,
        batch_format="pyarrow",
        fn_kwargs={"id_column": id_column, "input_column": input_column, "done": [done]},
    )
    answered = rows.map_batches(
        BulkWorker,
        fn_constructor_kwargs={"build": build, "handler": books.handler if books else None},
        batch_size=batch_size,
        batch_format="pyarrow",
        concurrency=workers,
        num_cpus=num_cpus,
        num_gpus=num_gpus,
    )
    added = failed = 0
    with kept.writing():
        batches: Iterable[Any] = answered.iter_batches(batch_size=None, batch_format="pyarrow")
        for batch in batches:
            new = kept.add(batch.to_pylist(), rows_a_part=rows_a_part, books=books)
            added, failed = added + new.rows, failed + new.failed
        new = kept.flush(books=books)
        added, failed = added + new.rows, failed + new.failed
    return BulkReport(
        rows=len(kept.done(with_errors=True)),
        added=added,
        failed=failed,
        done_before=len(before),
    )


def _start_ray() -> None:
    if not ray.is_initialized():
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        ray.init(include_dashboard=False, log_to_driver=False)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False


def _dataset(given: Any) -> "ray.data.Dataset":
    if isinstance(given, ray.data.Dataset):
        return given
    if isinstance(given, str | Path):
        path = Path(given)
        if not path.exists():
            message = f"expected a .jsonl or .parquet file or folder, found none at {path}"
            raise ConfigurationError(message)
        if path.suffix == ".parquet" or (path.is_dir() and any(path.glob("*.parquet"))):
            return ray.data.read_parquet(str(path))
        return ray.data.read_json(str(path), lines=True)
    rows = [dict(row) for row in given]
    if not rows:
        raise ConfigurationError("expected at least one row, got none")
    return ray.data.from_items(rows)


def _name_rows(
    batch: Any, *, id_column: str | None, input_column: str | None, done: list[Any]
) -> Any:
    """Return the rows that are still to be run, each with its id and its input as JSON."""
    known = ray.get(done[0])
    named: dict[str, str] = {}
    for row in batch.to_pylist():
        for column in (id_column, input_column):
            if column is not None and column not in row:
                message = f"a row has no column {column!r}, it has {', '.join(map(str, row))}"
                raise ConfigurationError(message)
        name = id_of(row) if id_column is None else str(row[id_column])
        if name not in known:
            named[name] = as_json(row if input_column is None else row[input_column])
    return table_of(id=list(named), input=list(named.values()))
