"""Choose documents for a budget of tokens: most value for each token, nothing twice."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from langchain_core.documents import Document

SHARPNESS = 0.05
Reason = Literal["no room", "not relevant", "the same as another", "too many"]
_SPACE = re.compile(r"\W+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A document that may be sent."""

    document: Document
    relevance: float
    """0 to 1."""
    tokens: int
    """As it is rendered."""
    vector: Any = None
    """Normalised; `None` where the store does not tell."""

    @property
    def id(self) -> str:
        """The document's id."""
        return str(self.document.id)


@dataclass(frozen=True, slots=True, kw_only=True)
class Left:
    """A document that is not sent."""

    id: str
    relevance: float
    tokens: int
    reason: Reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """The documents for a question, in the order in which they are sent."""

    documents: tuple[Document, ...]
    tokens: int
    """Of the documents as they are rendered."""
    tokens_found: int
    """Of all that were found relevant: what sending them all would take."""
    relevance: Mapping[str, float] = field(default_factory=dict)
    """Of the documents, by id. It is not in their metadata, which is sent: it changes with each
    question."""
    left: tuple[Left, ...] = ()
    problems: tuple[str, ...] = ()

    @property
    def saved_tokens(self) -> int:
        """Tokens of what was found and is not sent."""
        return self.tokens_found - self.tokens


def pack(
    candidates: Sequence[Candidate],
    *,
    max_tokens: int,
    most: int,
    least: float,
    diversity: float,
    size_exponent: float,
) -> tuple[list[Candidate], list[Left]]:
    """Return what is sent, the most valuable first, and what is not.

    Greedy: each time the document with the highest value for its tokens that still fits. Its value
    is its relevance less `diversity` times its likeness to the likest that is already there, as in
    maximal marginal relevance (https://doi.org/10.1145/290941.291025).
    """
    left: list[Left] = []
    open_: list[Candidate] = []
    texts: set[str] = set()
    for candidate in sorted(candidates, key=lambda each: (-each.relevance, each.id)):
        text = _SPACE.sub(" ", candidate.document.page_content).casefold().strip()
        if candidate.relevance < least:
            left.append(_left(candidate, "not relevant"))
        elif text in texts:
            left.append(_left(candidate, "the same as another"))
        else:
            texts.add(text)
            open_.append(candidate)
    chosen: list[Candidate] = []
    alike = [0.0] * len(open_)
    alive = list(range(len(open_)))
    room = max_tokens
    while alive:
        if len(chosen) == most:
            left += [_left(open_[n], "too many") for n in alive]
            break
        fits = [n for n in alive if open_[n].tokens <= room]
        left += [_left(open_[n], "no room") for n in alive if open_[n].tokens > room]
        if not fits:
            break
        best = max(fits, key=lambda n: (_value(open_[n], alike[n], diversity, size_exponent), -n))
        alive = [n for n in fits if n != best]
        chosen.append(open_[best])
        room -= open_[best].tokens
        if diversity:
            for n in alive:
                alike[n] = max(alike[n], likeness(open_[n], open_[best]))
    return chosen, left


def _value(candidate: Candidate, alike: float, diversity: float, size_exponent: float) -> float:
    # Relevance is no probability: the likest documents are needed far more often than the next.
    worth = math.exp((candidate.relevance - diversity * alike) / SHARPNESS)
    return worth / float(max(candidate.tokens, 1) ** size_exponent)


def likeness(one: Candidate, other: Candidate) -> float:
    """Return how alike two documents are, 0 to 1: by vectors, or by words in common."""
    if one.vector is not None and other.vector is not None:
        return max(float(one.vector @ other.vector), 0.0)
    mine, theirs = _words(one.document), _words(other.document)
    return len(mine & theirs) / len(mine | theirs) if mine | theirs else 0.0


def _words(document: Document) -> set[str]:
    return set(_SPACE.split(document.page_content.casefold())) - {""}


def in_order(chosen: Sequence[Candidate], stable: Callable[[Document], bool]) -> list[Document]:
    """Return the documents as they are sent: stable ones by id first, then by relevance.

    What is the same in many requests stands in the same place in all of them, so that the
    provider's cache serves it.
    """
    first = sorted((each for each in chosen if stable(each.document)), key=lambda each: each.id)
    names = {each.id for each in first}
    rest = sorted(
        (each for each in chosen if each.id not in names), key=lambda c: (-c.relevance, c.id)
    )
    return [each.document for each in (*first, *rest)]


def fused(
    found: Sequence[tuple[Document, float]],
    by_words: Sequence[tuple[str, float]],
    *,
    weight: float,
) -> dict[str, float]:
    """Return the relevance of documents: cosines and BM25 scores, which are divided by the best.

    A weighted mean, which does better than the ranks alone (https://arxiv.org/abs/2210.11934).
    """
    best = max((score for _, score in by_words), default=0.0)
    words = {name: score / best for name, score in by_words} if best > 0 else {}
    near = {str(document.id): min(max(score, 0.0), 1.0) for document, score in found}
    return {
        name: (1 - weight) * near.get(name, 0.0) + weight * words.get(name, 0.0)
        for name in {**near, **(words if weight else {})}
    }


def merged(one: dict[str, float], other: dict[str, float], *, share: float) -> dict[str, float]:
    """Return relevances of a further hop, of which a share counts, with those that were there."""
    return {
        name: max(one.get(name, 0.0), share * other.get(name, 0.0)) for name in {**one, **other}
    }


def _left(candidate: Candidate, reason: Reason) -> Left:
    return Left(
        id=candidate.id, relevance=candidate.relevance, tokens=candidate.tokens, reason=reason
    )
