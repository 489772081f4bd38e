"""What other LangChain caches hold, brought into ours."""

import json
import sqlite3
import sys
from pathlib import Path
from typing import Any

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.load import dumps
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, Generation

from langchain_tokenopt.caches import MemoryCache, MemoryStore, SqliteCache, UnreadableError
from langchain_tokenopt.caches.migrate import migrate, old_answer
from langchain_tokenopt.caches.store import StoreError
from langchain_tokenopt.errors import ConfigurationError
from langchain_tokenopt.testing import ScriptedModel


@pytest.fixture
def community() -> Any:
    pytest.importorskip("langchain_community", reason="needs the extra community")
    import langchain_community.cache

    return langchain_community.cache


ANSWER = ChatGeneration(
    message=AIMessage(
        "four",
        tool_calls=[{"name": "add", "args": {"a": 2}, "id": "1", "type": "tool_call"}],
        usage_metadata={"input_tokens": 3, "output_tokens": 1, "total_tokens": 4},
        response_metadata={"model_name": "m", "logprobs": None},
    ),
    generation_info={"finish_reason": "stop"},
)


def test_what_a_model_was_answered_through_the_old_cache_is_served_by_the_new_one(
    community: Any, tmp_path: Path
) -> None:
    path = tmp_path / "old.db"
    old = community.SQLiteCache(str(path))
    upstream = ScriptedModel(["four"], cache=old)
    upstream.invoke([HumanMessage("2 + 2?", id="one")])

    new = SqliteCache(tmp_path / "new.sqlite")
    assert migrate(path, new).moved == 1
    served = ScriptedModel(["five"], cache=new).invoke([HumanMessage("2 + 2?", id="other")])
    assert served.text == "four"
    old.engine.dispose()
    new.close()


def test_a_cache_object_is_read_through_its_own_connection(community: Any, tmp_path: Path) -> None:
    old = community.SQLiteCache(str(tmp_path / "old.db"))
    old.update("prompt", "model", [ANSWER, Generation(text="or IV")])
    new = MemoryCache()
    assert migrate(old, new).moved == 1
    found = new.lookup("prompt", "model")
    assert found is not None
    assert [answer.text for answer in found] == ["four", "or IV"]
    assert isinstance(found[0], ChatGeneration)
    assert found[0].message.tool_calls == ANSWER.message.tool_calls  # type: ignore[attr-defined]
    old.engine.dispose()


def test_langchain_cores_own_cache_is_read() -> None:
    old, new = InMemoryCache(), MemoryCache()
    old.update("prompt", "model", [ANSWER])
    assert migrate(old, new).moved == 1
    assert new.lookup("prompt", "model")


def test_what_cannot_be_read_is_left_and_told(tmp_path: Path) -> None:
    path = tmp_path / "old.db"
    hostile = json.dumps({"lc": 1, "type": "constructor", "id": ["os", "system"], "kwargs": {}})
    secret = dumps(ANSWER).replace('"logprobs": null', '"x": {"lc": 1, "type": "secret"}')
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE full_llm_cache (prompt, llm, idx, response)")
        rows = [("a", hostile), ("b", secret), ("c", "plain text"), ("d", dumps(ANSWER))]
        connection.executemany(
            "INSERT INTO full_llm_cache VALUES (?, 'model', 0, ?)", [(p, r) for p, r in rows]
        )
    connection.close()
    before = path.read_bytes()

    new = MemoryCache()
    report = migrate(path, new)

    assert report.moved == 2
    assert sorted(report.left) == [
        "expected one of ChatGeneration, ChatGenerationChunk, Generation, GenerationChunk",
        "it holds an object",
    ]
    assert new.lookup("c", "model") == [Generation(text="plain text")]
    assert new.lookup("a", "model") is None
    assert path.read_bytes() == before


def test_data_that_only_looked_like_an_object_comes_back_as_it_was() -> None:
    looks = {"lc": 1, "type": "secret", "id": ["KEY"]}
    message = AIMessage("four", response_metadata={"said": looks})
    back = old_answer(dumps(ChatGeneration(message=message)))
    assert isinstance(back, ChatGeneration)
    assert back.message.response_metadata == {"said": looks}


def test_a_streamed_answer_comes_back_as_a_message() -> None:
    back = old_answer(dumps(ChatGenerationChunk(message=AIMessageChunk("four"))))
    assert isinstance(back, ChatGeneration)
    assert type(back.message) is AIMessage


@pytest.mark.parametrize(
    "kwargs",
    [None, [], {}, {"message": None}, {"message": {"lc": 1}}, {"text": {"lc": 1}}, {"text": 1}],
)
def test_a_broken_object_is_refused_with_one_error(kwargs: Any) -> None:
    value = {"lc": 1, "type": "constructor", "id": ["x", "ChatGeneration"], "kwargs": kwargs}
    with pytest.raises(UnreadableError):
        old_answer(json.dumps(value))


@pytest.mark.parametrize("text", ["", "[]", "[1, 2]", "{}", "9" * 5_000, "[" * 100_000, "null"])
def test_what_is_no_object_is_an_answers_text(text: str) -> None:
    assert old_answer(text) == Generation(text=text)


def test_a_source_that_cannot_be_is_refused_with_advice(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no database, but long enough to have a header " * 10)
    (tmp_path / "empty").touch()
    for source, said in (
        (tmp_path / "none.db", "found none"),
        (tmp_path / "text", "cannot be read as an SQLite file"),
        (tmp_path / "empty", "none of the tables"),
        (MemoryCache(), "see OldRedis"),
    ):
        with pytest.raises(ConfigurationError, match=said):
            migrate(source, MemoryCache())


class Full(MemoryStore):
    """A store whose disk is full after some entries."""

    def put(self, entries: Any, **options: Any) -> None:
        if self.size().entries >= 2:
            raise StoreError("no space left on device")
        super().put(entries, **options)


def test_a_full_disk_is_raised_and_what_was_moved_is_kept() -> None:
    from langchain_tokenopt.caches import ExactCache

    old, new = InMemoryCache(), ExactCache(Full())
    for n in range(5):
        old.update(f"prompt {n}", "model", [ANSWER])
    with pytest.raises(StoreError, match="no space left"):
        migrate(old, new)
    assert new.lookup("prompt 1", "model")


def test_migration_needs_neither_redis_nor_sqlalchemy() -> None:
    import subprocess

    code = (
        "import sys; import langchain_tokenopt.caches.migrate;"
        "print([m for m in ('redis', 'sqlalchemy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
