"""A LangChain vector store on FAISS whose file is SQLite: no pickle, written as it grows."""

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import numpy as np
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import VectorStore
from langchain_core.vectorstores.utils import maximal_marginal_relevance
from typing_extensions import override

from langchain_tokenopt.errors import ConfigurationError, StoreError
from langchain_tokenopt.files import database_path, storable
from langchain_tokenopt.prompts.vectors_file import VectorFile

if TYPE_CHECKING:
    import faiss

Filter = Mapping[str, Any] | Callable[[Document], bool]


class FaissVectors(VectorStore):
    """Documents with their embeddings, searched exactly by the cosine of the angle.

    Meant for up to some hundred thousand documents: every search compares with all of them, which
    takes about 15 ms for 100,000 of 384 dimensions. With a `path` they are kept in an SQLite file,
    one transaction for each call, which processes may share: each sees what the others wrote with
    its next search.

    Args:
        embeddings: Any.
        path: The file; in memory without one.
        model: A name for the embeddings. A file that was written with other ones is refused.

    Raises:
        ConfigurationError: The path cannot be used, or the file is of other embeddings.
        StoreError: The file cannot be read or written.

    >>> from langchain_core.embeddings import DeterministicFakeEmbedding
    >>> store = FaissVectors(DeterministicFakeEmbedding(size=8))
    >>> store.add_documents([Document("The shop opens at nine.", id="hours")])
    ['hours']
    >>> store.similarity_search("The shop opens at nine.", k=1)[0].id
    'hours'
    """

    def __init__(
        self, embeddings: Embeddings, *, path: str | Path | None = None, model: str | None = None
    ) -> None:
        self._embeddings = embeddings
        self._model = model or str(getattr(embeddings, "model", None) or type(embeddings).__name__)
        self._file = None if path is None else VectorFile(database_path(path), model=self._model)
        self._lock = threading.RLock()
        self._index: faiss.IndexIDMap2 | None = None
        self._documents: dict[int, Document] = {}
        self._numbers: dict[str, int] = {}
        self._next = 0
        self._seen = 0

    @property
    @override
    def embeddings(self) -> Embeddings:
        return self._embeddings

    def __len__(self) -> int:
        with self._current():
            return len(self._documents)

    @classmethod
    @override
    def from_texts(
        cls,
        texts: list[str],
        embedding: Embeddings,
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        **kwargs: Any,
    ) -> "FaissVectors":
        store = cls(embedding, **kwargs)
        store.add_texts(texts, metadatas, ids=ids)
        return store

    @override
    def add_texts(
        self,
        texts: Iterable[str],
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        **kwargs: Any,
    ) -> list[str]:
        listed = list(texts)
        made = _documents(listed, metadatas, ids)
        return self._add(made, self._embeddings.embed_documents(listed)) if made else []

    @override
    async def aadd_texts(
        self,
        texts: Iterable[str],
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        **kwargs: Any,
    ) -> list[str]:
        listed = list(texts)
        made = _documents(listed, metadatas, ids)
        if not made:
            return []
        vectors = await self._embeddings.aembed_documents(listed)
        return await asyncio.to_thread(self._add, made, vectors)

    @override
    def add_documents(self, documents: list[Document], **kwargs: Any) -> list[str]:
        texts, metadatas, ids = _parts(documents, kwargs.pop("ids", None))
        return self.add_texts(texts, metadatas, ids=ids, **kwargs)

    @override
    async def aadd_documents(self, documents: list[Document], **kwargs: Any) -> list[str]:
        texts, metadatas, ids = _parts(documents, kwargs.pop("ids", None))
        return await self.aadd_texts(texts, metadatas, ids=ids, **kwargs)

    @override
    def delete(self, ids: list[str] | None = None, **kwargs: Any) -> bool | None:
        with self._current() as connection:
            gone = list(self._numbers) if ids is None else [i for i in ids if i in self._numbers]
            if self._file is not None and connection is not None:
                self._seen = self._file.forget(connection, gone, before=self._catch_up)
            self._forget(gone)
        return True

    @override
    async def adelete(self, ids: list[str] | None = None, **kwargs: Any) -> bool | None:
        return await asyncio.to_thread(self.delete, ids)

    @override
    def get_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        with self._current():
            found = [self._numbers[name] for name in ids if name in self._numbers]
            return [_copy(self._documents[number]) for number in found]

    @override
    async def aget_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        return await asyncio.to_thread(self.get_by_ids, ids)

    def vectors_of(self, ids: Sequence[str]) -> dict[str, Any]:
        """Return the normalised vectors of documents that are there, by id."""
        with self._current():
            return {
                name: self._index.reconstruct(self._numbers[name])
                for name in ids
                if name in self._numbers and self._index is not None
            }

    @override
    def similarity_search(
        self, query: str, k: int = 4, *, filter: Filter | None = None, **kwargs: Any
    ) -> list[Document]:
        return [d for d, _ in self.similarity_search_with_score(query, k, filter=filter)]

    @override
    async def asimilarity_search(
        self, query: str, k: int = 4, *, filter: Filter | None = None, **kwargs: Any
    ) -> list[Document]:
        found = await self.asimilarity_search_with_score(query, k, filter=filter)
        return [document for document, _ in found]

    @override
    def similarity_search_with_score(
        self, query: str, k: int = 4, *, filter: Filter | None = None, **kwargs: Any
    ) -> list[tuple[Document, float]]:
        return self._search(self._embeddings.embed_query(query), k, filter)

    @override
    async def asimilarity_search_with_score(
        self, query: str, k: int = 4, *, filter: Filter | None = None, **kwargs: Any
    ) -> list[tuple[Document, float]]:
        vector = await self._embeddings.aembed_query(query)
        return await asyncio.to_thread(self._search, vector, k, filter)

    @override
    def similarity_search_by_vector(
        self, embedding: list[float], k: int = 4, *, filter: Filter | None = None, **kwargs: Any
    ) -> list[Document]:
        return [document for document, _ in self._search(embedding, k, filter)]

    @override
    async def asimilarity_search_by_vector(
        self, embedding: list[float], k: int = 4, *, filter: Filter | None = None, **kwargs: Any
    ) -> list[Document]:
        found = await asyncio.to_thread(self._search, embedding, k, filter)
        return [document for document, _ in found]

    @override
    def max_marginal_relevance_search(
        self,
        query: str,
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        *,
        filter: Filter | None = None,
        **kwargs: Any,
    ) -> list[Document]:
        vector = self._embeddings.embed_query(query)
        return self._diverse(vector, k, fetch_k, lambda_mult, filter)

    @override
    async def amax_marginal_relevance_search(
        self,
        query: str,
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        *,
        filter: Filter | None = None,
        **kwargs: Any,
    ) -> list[Document]:
        vector = await self._embeddings.aembed_query(query)
        return await asyncio.to_thread(self._diverse, vector, k, fetch_k, lambda_mult, filter)

    @override
    def _select_relevance_score_fn(self) -> Callable[[float], float]:
        # Rounding takes the cosine of a text with itself a little above 1.
        return lambda score: min(max(score, 0.0), 1.0)

    def close(self) -> None:
        """Let go of the file. The store stays usable."""
        with self._lock:
            if self._file is not None:
                self._file.close()

    # --- searching ------------------------------------------------------------------------------

    def _diverse(
        self, vector: list[float], k: int, fetch_k: int, lambda_mult: float, wanted: Filter | None
    ) -> list[Document]:
        found = [document for document, _ in self._search(vector, fetch_k, wanted)]
        if not found:
            return []
        vectors = self.vectors_of([str(document.id) for document in found])
        chosen = maximal_marginal_relevance(
            _normalised([vector])[0],
            [vectors[str(document.id)] for document in found],
            lambda_mult=lambda_mult,
            k=k,
        )
        return [found[n] for n in chosen]

    def _search(
        self, vector: Sequence[float], k: int, wanted: Filter | None
    ) -> list[tuple[Document, float]]:
        if k < 1:
            raise ConfigurationError(f"expected k of at least 1, got {k}")
        asked = _normalised([vector])
        with self._current():
            if self._index is None or not self._documents:
                return []
            self._check_dimension(asked)
            fetched = k if wanted is None else 4 * k
            while True:
                scores, numbers = self._index.search(asked, min(fetched, len(self._documents)))
                found = [
                    (_copy(self._documents[int(number)]), float(score))
                    for score, number in zip(scores[0], numbers[0], strict=True)
                    if number >= 0 and _passes(self._documents[int(number)], wanted)
                ]
                if len(found) >= k or fetched >= len(self._documents):
                    return found[:k]
                fetched *= 4

    # --- keeping --------------------------------------------------------------------------------

    def _add(self, documents: Sequence[Document], vectors: Sequence[Sequence[float]]) -> list[str]:
        if len(vectors) != len(documents):
            message = (
                f"the embeddings returned {len(vectors)} vectors for {len(documents)} documents"
            )
            raise StoreError(message)
        matrix = _normalised(vectors)
        names = [str(document.id) for document in documents]
        # Of documents with the same id the last one counts.
        last = {name: n for n, name in enumerate(names)}
        with self._current() as connection:
            self._check_dimension(matrix)
            chosen, rows = [documents[n] for n in last.values()], matrix[list(last.values())]
            if self._file is not None and connection is not None:
                self._seen = self._file.write(connection, chosen, rows, before=self._catch_up)
            self._remember(chosen, rows)
        return names

    def _remember(self, documents: Sequence[Document], matrix: Any) -> None:
        import faiss  # noqa: PLC0415 - takes 0.1 s, paid by the first document

        self._forget([str(document.id) for document in documents])
        if self._index is None:
            self._index = faiss.IndexIDMap2(faiss.IndexFlatIP(matrix.shape[1]))
        numbers = np.arange(self._next, self._next + len(documents), dtype=np.int64)
        self._next += len(documents)
        self._index.add_with_ids(np.ascontiguousarray(matrix), numbers)
        for number, document in zip(numbers, documents, strict=True):
            self._documents[int(number)] = document
            self._numbers[str(document.id)] = int(number)

    def _forget(self, names: Iterable[str]) -> None:
        numbers = [self._numbers.pop(name) for name in names if name in self._numbers]
        if numbers and self._index is not None:
            self._index.remove_ids(np.asarray(numbers, dtype=np.int64))  # type: ignore[arg-type]  # its wrapper takes arrays
        for number in numbers:
            del self._documents[number]

    def _check_dimension(self, matrix: Any) -> None:
        if self._index is not None and self._index.d != matrix.shape[1]:
            message = (
                f"expected vectors of {self._index.d} dimensions, as those that are there, got "
                f"{matrix.shape[1]}; use the embeddings that the documents were added with"
            )
            raise ConfigurationError(message)

    @contextmanager
    def _current(self) -> Iterator[sqlite3.Connection | None]:
        """Give the file's connection, with all that others wrote known here."""
        with self._lock:
            if self._file is None:
                yield None
                return
            with self._file.using() as connection:
                self._catch_up()
                yield connection

    def _catch_up(self) -> None:
        if self._file is None:
            return
        with self._file.using() as connection:
            changes = self._file.changes(connection, self._seen)
        if changes is not None:
            self._forget(changes.gone)
            if changes.documents:
                self._remember(changes.documents, changes.matrix)
            self._seen = changes.latest


def _documents(
    texts: Sequence[str], metadatas: Sequence[dict[str, Any]] | None, ids: Sequence[Any] | None
) -> list[Document]:
    for name, given in (("metadatas", metadatas), ("ids", ids)):
        if given is not None and len(given) != len(texts):
            message = f"expected {len(texts)} {name}, one for each text, got {len(given)}"
            raise ConfigurationError(message)
    return [
        Document(
            id=storable(str((ids[n] if ids else None) or uuid4())),
            page_content=text,
            metadata=dict(metadatas[n] or {}) if metadatas else {},
        )
        for n, text in enumerate(texts)
    ]


def _parts(
    documents: Sequence[Document], ids: Sequence[str] | None
) -> tuple[list[str], list[dict[str, Any]], list[Any]]:
    texts = [document.page_content for document in documents]
    names = list(ids) if ids is not None else [document.id for document in documents]
    return texts, [document.metadata for document in documents], names


def _normalised(vectors: Sequence[Sequence[float]]) -> Any:
    try:
        matrix = np.asarray(vectors, dtype=np.float32)
    except ValueError as error:
        raise ConfigurationError(f"expected vectors of one length: {error}") from error
    if matrix.ndim != 2 or not matrix.shape[1] or not np.isfinite(matrix).all():
        message = (
            "expected vectors of finite numbers, all of one length, got an array of shape "
            f"{matrix.shape}; see what the embeddings return"
        )
        raise ConfigurationError(message)
    return matrix / np.maximum(np.linalg.norm(matrix, axis=1, keepdims=True), 1e-12)


def _passes(document: Document, wanted: Filter | None) -> bool:
    if wanted is None:
        return True
    if callable(wanted):
        return bool(wanted(document))
    return all(document.metadata.get(name) == value for name, value in wanted.items())


def _copy(document: Document) -> Document:
    return Document(
        id=document.id, page_content=document.page_content, metadata=dict(document.metadata)
    )
