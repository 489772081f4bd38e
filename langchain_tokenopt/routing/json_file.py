"""Reads and writes what routing learned or decided, a JSON file each."""

import os
from pathlib import Path
from typing import TypeVar
from uuid import uuid4

from pydantic import TypeAdapter, ValidationError

from langchain_tokenopt.errors import ConfigurationError
from langchain_tokenopt.files import database_path

Held = TypeVar("Held")


def read_json(path: Path, codec: TypeAdapter[Held], *, expected: str, made_by: str) -> Held:
    """Return what a file holds.

    Args:
        path: The file.
        codec: Tells what is valid.
        expected: What the file should hold, for the message.
        made_by: What writes such a file, for the message.

    Raises:
        ConfigurationError: The file holds something else.
    """
    try:
        return codec.validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        message = (
            f"expected {expected} in {path}, got {where}: {first['msg']}; write one with {made_by}"
        )
        raise ConfigurationError(message) from error


def write_json(path: Path, codec: TypeAdapter[Held], held: Held) -> None:
    """Write a file; who reads it meanwhile gets the old content or the new one.

    A link stays one, and a file keeps its permissions. What is no file, such as `/dev/stdout`, is
    written to as it is.

    Raises:
        ConfigurationError: No file can be there.
    """
    content = codec.dump_json(held, indent=2) + b"\n"
    path = database_path(path)
    if path.exists() and not path.is_file():
        path.write_bytes(content)
        return
    path = path.resolve()
    beside = path.with_name(f".{path.name}.{uuid4().hex}")
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
