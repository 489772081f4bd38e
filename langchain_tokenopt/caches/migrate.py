"""Bring the entries of other LangChain caches into one of ours.

Old entries are JSON that LangChain's own `loads` would turn into objects of any class it knows.
Here they are read field by field into the two shapes that answers have, and nothing else is made.
"""

import json
import sqlite3
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any
from urllib.parse import quote

from langchain_core.caches import BaseCache, InMemoryCache
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration, Generation

from langchain_tokenopt.caches.codec import UnencodableError, UnreadableError
from langchain_tokenopt.caches.exact import ExactCache
from langchain_tokenopt.errors import ConfigurationError

_TABLES = ("full_llm_cache", "full_md5_llm_cache")
_ANSWERS = frozenset({"Generation", "GenerationChunk", "ChatGeneration", "ChatGenerationChunk"})
_MESSAGES = frozenset({"AIMessage", "AIMessageChunk"})
_FIELDS = (
    "content", "additional_kwargs", "response_metadata", "name", "tool_calls",
    "invalid_tool_calls", "usage_metadata",
)  # fmt: skip
_ESCAPED = "__lc_escaped__"

_Entry = tuple[str, str, list[str] | list[Generation]]


@dataclass(slots=True)
class MigrationReport:
    """What was brought over."""

    moved: int = 0
    """Requests whose answers are kept now."""
    left: Counter[str] = field(default_factory=Counter)
    """Requests that were not, by reason."""


def migrate(source: str | Path | BaseCache, cache: ExactCache) -> MigrationReport:
    """Keep in `cache` what `source` holds; the source is only read.

    Entries of unknown age count as too old for a request with a `max_age_s`. For caches that keep
    no prompts (those in Redis) see `OldRedis`, which brings entries over as they are asked for.

    Args:
        source: The file of langchain-community's `SQLiteCache`, one of its `SQLAlchemyCache`s, or
            langchain-core's `InMemoryCache`.
        cache: Where to.

    Raises:
        ConfigurationError: The source is none of these, or no such file.
        StoreError: `cache` cannot be written; what was moved until then is kept, and it may be
            tried again.

    >>> from langchain_tokenopt.caches import MemoryCache
    >>> old, new = InMemoryCache(), MemoryCache()
    >>> old.update("2 + 2?", "model", [Generation(text="4")])
    >>> migrate(old, new).moved, new.lookup("2 + 2?", "model")
    (1, [Generation(text='4')])
    """
    report = MigrationReport()
    for prompt, llm_string, held in _entries(source):
        try:
            answers = [one if isinstance(one, Generation) else old_answer(one) for one in held]
            cache.keep(prompt, llm_string, answers)
        except (UnreadableError, UnencodableError) as error:
            report.left[str(error)] += 1
        else:
            report.moved += 1
    return report


def _entries(source: str | Path | BaseCache) -> Iterator[_Entry]:
    if isinstance(source, str | Path):
        return _rows_of_file(Path(source))
    if isinstance(source, InMemoryCache):
        held = list(source._cache.items())
        return ((prompt, llm, list(answers)) for (prompt, llm), answers in held)
    if hasattr(source, "engine") and hasattr(source, "cache_schema"):
        return _rows_of_engine(source)
    message = (
        "expected the path of an SQLite file, a SQLAlchemyCache or an InMemoryCache, "
        f"got {type(source).__name__}; a cache in Redis keeps no prompts, see OldRedis"
    )
    raise ConfigurationError(message)


def _rows_of_file(path: Path) -> Iterator[_Entry]:
    if not path.is_file():
        raise ConfigurationError(f"expected the file of a SQLiteCache, found none at {path}")
    uri = f"file:{quote(str(path.resolve()))}?mode=ro"
    try:
        with closing(sqlite3.connect(uri, uri=True)) as connection:
            names = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
            tables = [table for table in _TABLES if table in names]
            if not tables:
                message = f"{path} has none of the tables {', '.join(_TABLES)}"
                raise ConfigurationError(message)
            for table in tables:
                yield from _grouped(
                    connection.execute(
                        f"SELECT prompt, llm, response FROM {table} ORDER BY prompt, llm, idx"  # noqa: S608 - one of two names
                    )
                )
    except sqlite3.DatabaseError as error:
        raise ConfigurationError(f"{path} cannot be read as an SQLite file: {error}") from error


def _rows_of_engine(source: Any) -> Iterator[_Entry]:
    from sqlalchemy import select  # noqa: PLC0415 - whoever has such a cache has it

    schema = source.cache_schema
    wanted = select(schema.prompt, schema.llm, schema.response)
    with source.engine.connect() as connection:
        yield from _grouped(
            connection.execute(wanted.order_by(schema.prompt, schema.llm, schema.idx))
        )


def _grouped(rows: Any) -> Iterator[_Entry]:
    for (prompt, llm), group in groupby(rows, key=lambda row: (row[0], row[1])):
        yield str(prompt), str(llm), [str(row[2]) for row in group]


def old_answers(texts: Sequence[str]) -> list[Generation]:
    """Return the answers that other caches keep as these texts.

    Raises:
        UnreadableError: One of them is no answer.
    """
    return [old_answer(text) for text in texts]


def old_answer(text: str) -> Generation:
    """Return the answer that LangChain's `dumps` made this text of; others are an answer's text.

    Raises:
        UnreadableError: It is another object, or holds one.

    >>> old_answer("It is four.")
    Generation(text='It is four.')
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return Generation(text=text)  # as caches of long ago kept it
    if not isinstance(value, dict) or "lc" not in value:
        return Generation(text=text)
    try:
        return _answer(value)
    except UnreadableError:
        raise
    except Exception as error:  # LangChain's validators raise what they run into
        raise UnreadableError(f"no answer: {type(error).__name__}") from error


def _answer(value: Any) -> Generation:
    fields = _fields(value, _ANSWERS)
    info = _plain(fields.get("generation_info"))
    if "message" not in fields:
        return Generation(text=fields["text"], generation_info=info)
    told = _fields(fields["message"], _MESSAGES)
    known = {name: _plain(told[name]) for name in _FIELDS if told.get(name) is not None}
    return ChatGeneration(message=AIMessage(**known), generation_info=info)


def _fields(value: Any, names: frozenset[str]) -> dict[str, Any]:
    """Return the fields of an object of one of these classes."""
    known = (
        isinstance(value, dict)
        and value.get("lc") == 1
        and value.get("type") == "constructor"
        and isinstance(value.get("kwargs"), dict)
        and value.get("id", [None])[-1] in names
    )
    if not known:
        raise UnreadableError(f"expected one of {', '.join(sorted(names))}")
    return dict(value["kwargs"])


def _plain(value: Any) -> Any:
    """Return a value that holds no objects."""
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if not isinstance(value, dict):
        return value
    if _ESCAPED in value:  # what looked like an object when it was written, and was none
        return value[_ESCAPED]
    if "lc" in value:
        raise UnreadableError("it holds an object")
    return {name: _plain(item) for name, item in value.items()}
