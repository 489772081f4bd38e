"""The documents that a pre-filter chooses from, kept in step with where they come from."""

import asyncio
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import VectorStore

from langchain_tokenopt.errors import ConfigurationError
from langchain_tokenopt.files import storable
from langchain_tokenopt.prompts.prefilter_words import WordIndex
from langchain_tokenopt.prompts.vectors import FaissVectors

_AT_ONCE = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexChanges:
    """What bringing an index up to date did."""

    added: int = 0
    changed: int = 0
    deleted: int = 0
    unchanged: int = 0
    """Not embedded again."""


class DocumentIndex:
    """Documents in any LangChain vector store, with an index of their words beside it.

    Documents are known by their id, those without one by their content. What did not change is not
    embedded again. The vectors are written first: what is cut short is done again with the next
    call. Splitting is left to langchain-text-splitters.

    Args:
        embeddings: For the default store.
        vectors: Any vector store with ids, instead of the default `FaissVectors`.
        path: An SQLite file for words, hashes and, by default, the vectors; in memory without one.

    Raises:
        ConfigurationError: Neither embeddings nor a store are given, or both.

    >>> from langchain_core.embeddings import DeterministicFakeEmbedding
    >>> index = DocumentIndex(DeterministicFakeEmbedding(size=8))
    >>> index.update([Document("The shop opens at nine.", id="hours")])
    IndexChanges(added=1, changed=0, deleted=0, unchanged=0)
    """

    def __init__(
        self,
        embeddings: Embeddings | None = None,
        *,
        vectors: VectorStore | None = None,
        path: str | Path | None = None,
    ) -> None:
        if (embeddings is None) == (vectors is None):
            message = "expected embeddings, or a vector store that has its own, and not both"
            raise ConfigurationError(message)
        self.words = WordIndex(path)
        self.vectors: VectorStore = (
            FaissVectors(embeddings, path=path) if embeddings is not None else vectors  # type: ignore[assignment]  # one of them is given
        )

    def update(self, documents: Iterable[Document]) -> IndexChanges:
        """Add documents, and replace those whose content or metadata changed."""
        given = _named(documents)
        hashes = self.words.hashes()
        new = [document for name, document in given.items() if hashes.get(name) != _hash(document)]
        for some in _parts(new):
            self._replace(some, [str(d.id) for d in some if d.id in hashes])
        return _changes(given, new, hashes)

    def replace_all(self, documents: Iterable[Document]) -> IndexChanges:
        """Do what `update` does, and forget all documents that are not among these."""
        given = _named(documents)
        changes = self.update(given.values())
        gone = [name for name in self.words.hashes() if name not in given]
        self.delete(gone)
        return IndexChanges(
            added=changes.added,
            changed=changes.changed,
            unchanged=changes.unchanged,
            deleted=len(gone),
        )

    def delete(self, ids: Sequence[str]) -> None:
        """Forget documents; ids of none are no error."""
        if ids:
            self.vectors.delete(list(ids))
            self.words.delete(ids)

    async def aupdate(self, documents: Iterable[Document]) -> IndexChanges:
        """Do what `update` does without blocking the event loop."""
        given = _named(documents)
        hashes = await asyncio.to_thread(self.words.hashes)
        new = [document for name, document in given.items() if hashes.get(name) != _hash(document)]
        for some in _parts(new):
            old = [str(document.id) for document in some if document.id in hashes]
            if old:
                await self.vectors.adelete(old)
            await self.vectors.aadd_documents(some, ids=[str(d.id) for d in some])
            await asyncio.to_thread(self.words.put, some, _hashes(some))
        return _changes(given, new, hashes)

    async def areplace_all(self, documents: Iterable[Document]) -> IndexChanges:
        """Do what `replace_all` does without blocking the event loop."""
        given = _named(documents)
        changes = await self.aupdate(given.values())
        known = await asyncio.to_thread(self.words.hashes)
        gone = [name for name in known if name not in given]
        await self.adelete(gone)
        return IndexChanges(
            added=changes.added,
            changed=changes.changed,
            unchanged=changes.unchanged,
            deleted=len(gone),
        )

    async def adelete(self, ids: Sequence[str]) -> None:
        """Do what `delete` does without blocking the event loop."""
        if ids:
            await self.vectors.adelete(list(ids))
            await asyncio.to_thread(self.words.delete, ids)

    def __len__(self) -> int:
        return len(self.words.hashes())

    def _replace(self, documents: list[Document], old: list[str]) -> None:
        if old:
            self.vectors.delete(old)
        self.vectors.add_documents(documents, ids=[str(document.id) for document in documents])
        self.words.put(documents, _hashes(documents))


def _named(documents: Iterable[Document]) -> dict[str, Document]:
    """Return documents by id; of those with the same id the last one."""
    named: dict[str, Document] = {}
    for given in documents:
        document: Any = given
        if not isinstance(document, Document):
            message = f"expected LangChain documents, got {type(document).__name__}"
            raise ConfigurationError(message)
        # What SQLite refuses, providers of embeddings refuse as well.
        content = storable(document.page_content)
        name = storable(document.id) if document.id else _digest(content)
        named[name] = Document(id=name, page_content=content, metadata=document.metadata)
    return named


def _parts(documents: list[Document]) -> list[list[Document]]:
    return [documents[at : at + _AT_ONCE] for at in range(0, len(documents), _AT_ONCE)]


def _changes(given: dict[str, Document], new: list[Document], before: Any) -> IndexChanges:
    changed = sum(document.id in before for document in new)
    return IndexChanges(added=len(new) - changed, changed=changed, unchanged=len(given) - len(new))


def _hashes(documents: Sequence[Document]) -> dict[str, str]:
    return {str(document.id): _hash(document) for document in documents}


def _hash(document: Document) -> str:
    told = json.dumps(document.metadata, sort_keys=True, ensure_ascii=False, default=str)
    return _digest(f"{document.page_content}\0{told}")


def _digest(text: str) -> str:
    return blake2b(text.encode(errors="surrogatepass"), digest_size=16).hexdigest()
