"""Files of what was learned or decided: written whole, and refused for what they are not."""

import contextlib
import os
import sqlite3
import time
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from langchain_tokenopt.errors import ConfigurationError
from langchain_tokenopt.files import keep_journal_ahead, read_json, write_json

NUMBERS = TypeAdapter(dict[str, int])


def refuse(*_: object) -> None:
    raise OSError("the disk is full")


def names_in(folder: Path) -> list[str]:
    return sorted(each.name for each in folder.iterdir())


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "numbers.json"

    write_json(path, NUMBERS, {"a": 1})
    write_json(path, NUMBERS, {"a": 2})

    assert read_json(path, NUMBERS, expected="numbers", made_by="hand") == {"a": 2}
    assert path.read_text() == '{\n  "a": 2\n}\n'
    assert names_in(tmp_path) == ["numbers.json"]


@pytest.mark.parametrize(
    "fails", [(os, "fsync"), (Path, "replace")], ids=lambda each: f"{each[1]} fails"
)
def test_a_file_that_cannot_be_written_whole_stays_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: tuple[object, str]
) -> None:
    path = tmp_path / "numbers.json"
    write_json(path, NUMBERS, {"a": 1})
    monkeypatch.setattr(*fails, refuse)

    with pytest.raises(OSError, match="the disk is full"):
        write_json(path, NUMBERS, {"a": 2})

    assert path.read_text() == '{\n  "a": 1\n}\n'
    assert names_in(tmp_path) == ["numbers.json"]


@pytest.mark.parametrize("place", [".", "mistyped/numbers.json"])
def test_a_place_where_no_file_can_be_is_named_as_it_was_given(tmp_path: Path, place: str) -> None:
    path = tmp_path / place

    with pytest.raises(ConfigurationError, match=f"in a folder that exists, got {path};"):
        write_json(path, NUMBERS, {"a": 1})

    assert names_in(tmp_path) == []


def test_a_file_keeps_its_permissions_and_a_link_stays_one(tmp_path: Path) -> None:
    path, link = tmp_path / "numbers.json", tmp_path / "link.json"
    path.write_text("{}")
    path.chmod(0o600)
    link.symlink_to(path)

    write_json(link, NUMBERS, {"a": 1})

    assert link.is_symlink()
    assert path.read_text() == '{\n  "a": 1\n}\n'
    assert path.stat().st_mode & 0o777 == 0o600


def test_what_is_no_file_is_written_to_as_it_is(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        write_json(pipe, NUMBERS, {"a": 1})
        assert os.read(reader, 100) == b'{\n  "a": 1\n}\n'
    finally:
        os.close(reader)
    assert pipe.is_fifo()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"no json", "expected numbers in .*numbers.json, got the file: Invalid JSON"),
        (b"\xff", "got the file: Invalid JSON"),
        (b'{"a": "one"}', "got a: Input should be a valid integer.*; write one with `count`"),
    ],
)
def test_a_file_that_holds_something_else_is_refused(
    tmp_path: Path, content: bytes, says: str
) -> None:
    path = tmp_path / "numbers.json"
    path.write_bytes(content)

    with pytest.raises(ConfigurationError, match=says):
        read_json(path, NUMBERS, expected="numbers", made_by="`count`")


def test_who_opens_a_new_database_waits_for_others_that_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "d.sqlite"
    with (
        contextlib.closing(sqlite3.connect(path)) as other,
        contextlib.closing(sqlite3.connect(path, timeout=0)) as mine,
    ):
        other.execute("CREATE TABLE t (a)")
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            keep_journal_ahead(mine, wait_s=0)
        monkeypatch.setattr(time, "sleep", lambda _: other.commit())  # it ends while we wait
        keep_journal_ahead(mine, wait_s=30)

        assert mine.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    path.write_bytes(b"this is no database" * 100)
    with (
        contextlib.closing(sqlite3.connect(path)) as broken,
        pytest.raises(sqlite3.DatabaseError, match="not a database"),
    ):
        keep_journal_ahead(broken, wait_s=30)
