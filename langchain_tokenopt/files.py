"""Files: where one may lie, what databases take, files written whole, files of JSON."""

import json
import os
import sqlite3
import time
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import TypeVar
from uuid import uuid4

from pydantic import BaseModel, TypeAdapter, ValidationError

from langchain_tokenopt.errors import ConfigurationError

Entries = TypeVar("Entries", bound=BaseModel)
Held = TypeVar("Held")

_LOOKS_AGAIN_S = 0.005


def database_path(path: str | Path) -> Path:
    """Return the path of a file that can be made or opened.

    Raises:
        ConfigurationError: It is a folder, or its folder does not exist.
    """
    found = Path(path)
    if found.is_dir() or not found.parent.is_dir():
        message = (
            f"expected the path of a file in a folder that exists, got {found}; "
            "create the folder or choose another path"
        )
        raise ConfigurationError(message)
    return found


def storable(text: str) -> str:
    r"""Return `text` without lone surrogates, which SQLite refuses.

    >>> storable("a\ud800b")
    'a?b'
    """
    return text.encode(errors="replace").decode()


def keep_journal_ahead(connection: sqlite3.Connection, *, wait_s: float) -> None:
    """Let others read an SQLite file while one writes.

    SQLite itself does not wait for others that ask for this at the same moment, as all do that
    find a new file.

    Raises:
        sqlite3.Error: The file is still locked after `wait_s` seconds, or is no database.
    """
    until = time.monotonic() + wait_s
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            busy = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
            if not busy or time.monotonic() >= until:
                raise
            time.sleep(_LOOKS_AGAIN_S)
        else:
            return


def write_whole(path: str | Path, content: bytes) -> None:
    """Write a file; who reads it meanwhile, or after a crash, gets the old content or the new one.

    A link stays one, and a file keeps its permissions. What is no file, such as `/dev/stdout`, is
    written to as it is.

    Raises:
        ConfigurationError: No file can be there.
    """
    path = database_path(path)
    if path.exists() and not path.is_file():
        path.write_bytes(content)
        return
    path = path.resolve()
    beside = path.with_name(f".{path.name}.{uuid4().hex}.tmp")
    try:
        with beside.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            beside.chmod(path.stat().st_mode & 0o777)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def read_json(path: str | Path, codec: TypeAdapter[Held], *, expected: str, made_by: str) -> Held:
    """Return what a file of JSON holds.

    Args:
        path: The file.
        codec: Tells what is valid.
        expected: What the file should hold, for the message.
        made_by: What writes such a file, for the message.

    Raises:
        ConfigurationError: The file cannot be read, or holds something else.
    """
    try:
        return codec.validate_json(Path(path).read_bytes())
    except OSError as error:
        message = f"expected {expected} in {path}, which cannot be read: {error.strerror}"
        raise ConfigurationError(message) from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        message = (
            f"expected {expected} in {path}, got {where}: {first['msg']}; write one with {made_by}"
        )
        raise ConfigurationError(message) from error


def write_json(path: str | Path, codec: TypeAdapter[Held], held: Held) -> None:
    """Write a file of JSON, whole or not at all.

    Raises:
        ConfigurationError: No file can be there.
    """
    write_whole(path, codec.dump_json(held, indent=2) + b"\n")


def read_entries(source: Path | Traversable, held: type[Entries], *, called: str) -> Entries:
    """Return what a JSON file holds, with numbers as they are written.

    Args:
        source: The file.
        held: What is valid.
        called: The file's name in a message, such as "the price file prices.json".

    Raises:
        ConfigurationError: The file is absent, is not JSON, or an entry is wrong; the message
            names the entry and the field.
    """
    try:
        # 0.1 in JSON is a price, not the nearest float.
        return held.model_validate(json.loads(source.read_text(encoding="utf-8"), parse_float=str))
    except OSError as error:
        raise ConfigurationError(f"cannot read {called}: {error.strerror}") from error
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}, got {problem['input']!r:.60}"
            for problem in error.errors()
        )
        raise ConfigurationError(f"{called} has wrong entries: {problems}") from error
    except ValueError as error:
        raise ConfigurationError(f"{called} is not JSON: {error}") from error
