"""Documents and their vectors: LangChain's suite, the file, and what goes wrong."""

import multiprocessing
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding, Embeddings
from langchain_tests.integration_tests import VectorStoreIntegrationTests

from langchain_tokenopt.errors import ConfigurationError, StoreError
from langchain_tokenopt.prompts import FaissVectors

FAKE = DeterministicFakeEmbedding(size=16)


class TestInMemory(VectorStoreIntegrationTests):
    @pytest.fixture
    def vectorstore(self) -> Any:
        return FaissVectors(self.get_embeddings())


class TestInAFile(VectorStoreIntegrationTests):
    @pytest.fixture
    def vectorstore(self, tmp_path: Path) -> Any:
        return FaissVectors(self.get_embeddings(), path=tmp_path / "vectors.sqlite")


def documents(n: int, start: int = 0) -> list[Document]:
    return [
        Document(f"text {i}", id=f"d{i}", metadata={"even": i % 2 == 0})
        for i in range(start, start + n)
    ]


def test_a_file_is_read_again_with_what_was_replaced_and_deleted(tmp_path: Path) -> None:
    path = tmp_path / "vectors.sqlite"
    first = FaissVectors(FAKE, path=path)
    first.add_documents(documents(10))
    first.add_documents([Document("new text", id="d3")])
    first.delete(["d4", "unknown"])
    first.close()

    again = FaissVectors(FAKE, path=path)

    assert len(again) == 9
    assert again.similarity_search_with_score("new text", k=1)[0][0].id == "d3"
    assert again.get_by_ids(["d4"]) == []
    assert again.get_by_ids(["d2"])[0].metadata == {"even": True}


def test_stores_on_one_file_see_what_each_other_writes(tmp_path: Path) -> None:
    path = tmp_path / "vectors.sqlite"
    one, two = FaissVectors(FAKE, path=path), FaissVectors(FAKE, path=path)
    one.add_documents(documents(3))
    assert len(two) == 3
    two.add_documents(documents(3, start=3))
    two.delete(["d0"])

    assert sorted(d.id or "" for d in one.similarity_search("text 1", k=10)) == [
        "d1", "d2", "d3", "d4", "d5",
    ]  # fmt: skip
    assert one.similarity_search("text 5", k=1)[0].id == "d5"


def _write(path: str, start: int) -> None:
    store = FaissVectors(FAKE, path=path)
    for n in range(start, start + 40):
        store.add_documents(documents(1, start=n))


def test_processes_lose_nothing_of_each_other(tmp_path: Path) -> None:
    path = str(tmp_path / "vectors.sqlite")
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_write, args=(path, start)) for start in (0, 1000)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)

    assert [worker.exitcode for worker in workers] == [0, 0]
    assert len(FaissVectors(FAKE, path=path)) == 80


def test_threads_may_write_and_search_at_once(tmp_path: Path) -> None:
    store = FaissVectors(FAKE, path=tmp_path / "vectors.sqlite")
    with ThreadPoolExecutor(4) as pool:
        for n in range(20):
            pool.submit(store.add_documents, documents(5, start=5 * n))
            pool.submit(store.similarity_search, "text 1", k=5)

    assert len(store) == 100
    assert len({d.id for d in store.similarity_search("text 1", k=100)}) == 100


def test_a_filter_is_met_by_all_that_come_back(tmp_path: Path) -> None:
    store = FaissVectors(FAKE)
    store.add_documents(documents(200))

    odd = store.similarity_search("text 4", k=50, filter={"even": False})
    some = store.similarity_search("text 4", k=3, filter=lambda d: d.id in ("d7", "d8"))

    assert len(odd) == 50
    assert not any(document.metadata["even"] for document in odd)
    assert {document.id for document in some} == {"d7", "d8"}


def test_diverse_results_leave_near_duplicates_out() -> None:
    class Points(Embeddings):
        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            return [list(map(float, text.split())) for text in texts]

        def embed_query(self, text: str) -> list[float]:
            return self.embed_documents([text])[0]

    store = FaissVectors(Points())
    store.add_texts(["1 0.1", "1 0.101", "0.7 -0.7"], ids=["a", "twin of a", "b"])

    found = store.max_marginal_relevance_search("1 0", k=2, lambda_mult=0.5)

    assert {document.id for document in found} == {"a", "b"}


def test_a_file_of_other_embeddings_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "vectors.sqlite"
    FaissVectors(FAKE, path=path, model="small").add_documents(documents(1))

    with pytest.raises(ConfigurationError, match="vectors of 'small', got the embeddings 'large'"):
        FaissVectors(FAKE, path=path, model="large").similarity_search("a")


@pytest.mark.parametrize(
    "vector",
    [[float("nan")] * 4, [float("inf")] + [0.0] * 3, [], [0.1] * 5],
    ids=["nan", "inf", "empty", "longer"],
)
def test_wrong_vectors_are_refused_and_nothing_is_kept(vector: list[float], tmp_path: Path) -> None:
    given = [[1.0, 0.0, 0.0, 0.0]]

    class Given(Embeddings):
        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            return [given[0] for _ in texts]

        def embed_query(self, text: str) -> list[float]:
            return given[0]

    store = FaissVectors(Given(), path=tmp_path / "vectors.sqlite")
    store.add_texts(["good"], ids=["good"])
    given[0] = vector

    with pytest.raises(ConfigurationError, match="vectors of"):
        store.add_texts(["bad"], ids=["bad"])
    with pytest.raises(ConfigurationError, match="vectors of"):
        store.similarity_search("good")
    given[0] = [1.0, 0.0, 0.0, 0.0]
    assert [d.id for d in store.similarity_search("good")] == ["good"]


def test_too_few_vectors_are_refused() -> None:
    class Short(DeterministicFakeEmbedding):
        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            return super().embed_documents(texts[1:])

    with pytest.raises(StoreError, match="1 vectors for 2 documents"):
        FaissVectors(Short(size=4)).add_texts(["a", "b"])


def test_metadata_that_a_file_cannot_keep_is_refused(tmp_path: Path) -> None:
    store = FaissVectors(FAKE, path=tmp_path / "vectors.sqlite")
    with pytest.raises(ConfigurationError, match="JSON values"):
        store.add_texts(["a"], [{"lock": threading.Lock()}])
    assert len(store) == 0


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    path = tmp_path / "vectors.sqlite"
    path.write_bytes(b"no database at all" * 100)
    with pytest.raises(StoreError, match=r"vectors\.sqlite cannot be used"):
        FaissVectors(FAKE, path=path).similarity_search("a")


def test_a_file_with_vectors_of_several_lengths_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "vectors.sqlite"
    FaissVectors(FAKE, path=path).add_documents(documents(3))
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE vectors SET vector = x'00000000' WHERE id = 'd1'")

    with pytest.raises(StoreError, match="several lengths"):
        FaissVectors(FAKE, path=path).similarity_search("a")


def test_the_vector_of_a_document_has_length_one() -> None:
    store = FaissVectors(FAKE)
    store.add_documents(documents(1))

    assert np.linalg.norm(store.vectors_of(["d0", "unknown"])["d0"]) == pytest.approx(1)


def test_lists_of_different_length_and_k_of_none_are_refused() -> None:
    store = FaissVectors(FAKE)
    with pytest.raises(ConfigurationError, match="expected 2 ids"):
        store.add_texts(["a", "b"], ids=["1"])
    with pytest.raises(ConfigurationError, match="k of at least 1"):
        store.similarity_search("a", k=0)
    assert store.similarity_search("a") == []
    assert store.add_texts([]) == []


async def test_an_empty_store_finds_nothing_and_adding_nothing_is_no_error(tmp_path: Path) -> None:
    for store in (FaissVectors(FAKE), FaissVectors(FAKE, path=tmp_path / "vectors.sqlite")):
        assert await store.aadd_texts([]) == []
        assert store.max_marginal_relevance_search("a") == []
        assert await store.amax_marginal_relevance_search("a") == []
        store.close()
        store.close()
        assert await store.asimilarity_search("a") == []
        store.close()


async def test_texts_are_found_by_vectors_too() -> None:
    store = FaissVectors.from_texts(["one", "two"], FAKE, [{"n": 1}, {"n": 2}], ids=["a", "b"])
    vector = FAKE.embed_query("two")

    assert store.embeddings is FAKE
    assert [d.id for d in store.similarity_search_by_vector(vector, k=1)] == ["b"]
    (found,) = await store.asimilarity_search_by_vector(vector, k=1, filter={"n": 1})
    assert found.id == "a"
    assert all(0 <= score <= 1 for _, score in store.similarity_search_with_relevance_scores("two"))


def test_a_store_hears_of_what_another_one_only_deleted(tmp_path: Path) -> None:
    path = tmp_path / "vectors.sqlite"
    one, two = FaissVectors(FAKE, path=path), FaissVectors(FAKE, path=path)
    one.add_documents(documents(3))
    assert len(two) == 3
    one.delete(["d1"])

    assert {document.id for document in two.similarity_search("text 1")} == {"d0", "d2"}


def test_vectors_of_several_lengths_are_refused() -> None:
    class Uneven(DeterministicFakeEmbedding):
        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            return [[1.0] * (n + 1) for n in range(len(texts))]

    with pytest.raises(ConfigurationError, match="expected vectors of one length"):
        FaissVectors(Uneven(size=4)).add_texts(["a", "b"])


def test_a_full_disk_loses_nothing_that_was_there(tmp_path: Path) -> None:
    path = tmp_path / "vectors.sqlite"
    store = FaissVectors(FAKE, path=path)
    store.add_documents(documents(5))
    store.close()
    with sqlite3.connect(path) as connection:
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
    store.similarity_search("a")
    assert store._file is not None
    with store._file.using() as connection:
        connection.execute(f"PRAGMA max_page_count = {pages}")

    with pytest.raises(StoreError, match="full"):
        store.add_texts(["long text " * 10_000])

    assert len(store) == 5
    assert len(FaissVectors(FAKE, path=path)) == 5
