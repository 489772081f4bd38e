"""Numbered facts: split from a text, chosen by id, inferred from each other, and proofs of them.

Facts are `TraceStep`s: given ones have ids `f1`, `f2`, ..., inferred ones `d1`, `d2`, ... and the
ids of what they follow from in `uses`.
"""

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from langchain_core.documents import Document

from langchain_tokenopt.errors import ConfigurationError
from langchain_tokenopt.reasoning.extract_text import announced, first_line, last_line, plain_key
from langchain_tokenopt.reasoning.result import TraceStep

Splitter: TypeAlias = Callable[[str], Sequence[str]]
"""Splits a context into facts."""

_SENTENCE_ENDS = re.compile(r"(?<=[.!?])\s+(?=[\"'(\[]?[A-Z0-9])")
_IDS = re.compile(r"(?<!\w)[fd]\d+(?!\w)")
_FACTS_LINE = re.compile(r"^\W*facts\W*:(.*)$", re.IGNORECASE | re.MULTILINE)
_UNKNOWN = re.compile(r"\W*unknown\b\W*(?:$|[.,:;!])", re.IGNORECASE)
_NOTHING = frozenset({"", "nothing", "none", "nothing follows", "no new fact", "unknown"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """What a model chose."""

    ids: tuple[str, ...] = ()
    answer: str | None = None
    """The answer that the chosen facts give, where a model is asked for both at once."""
    problem: str | None = None
    """Why the choice cannot be used, in words for the model."""


def sentences(context: str) -> list[str]:
    """Return the lines of a context, or its sentences if it is one line.

    A sentence ends where `.`, `!` or `?` is followed by a space and a capital or digit: pass a
    splitter of your own for texts with abbreviations.

    >>> sentences("Bob is big. Is he? If he is big, then he is 2.5 m tall.")
    ['Bob is big.', 'Is he?', 'If he is big, then he is 2.5 m tall.']
    """
    lines = [line.strip() for line in context.splitlines() if line.strip()]
    if len(lines) > 1:
        return lines
    return [part for line in lines for part in _SENTENCE_ENDS.split(line)]


def given_facts(facts: Iterable[Any]) -> list[str]:
    """Return the texts of strings and documents, one line each.

    Raises:
        ConfigurationError: There is none, or something else among them.
    """
    if isinstance(facts, str | Mapping) or not isinstance(facts, Iterable):
        message = f"expected 'facts' to be a list of strings or documents, got {facts!r:.80}"
        raise ConfigurationError(message)
    texts = []
    for fact in facts:
        text = fact.page_content if isinstance(fact, Document) else fact
        if not isinstance(text, str):
            message = f"expected facts to be strings or documents, got {fact!r:.80}"
            raise ConfigurationError(message)
        texts.append(" ".join(text.split()))
    if not texts:
        raise ConfigurationError("expected at least one fact, got none")
    return texts


def numbered(texts: Iterable[str]) -> list[TraceStep]:
    """Return given facts with their ids: `f1` is the first."""
    return [
        TraceStep(id=f"f{number}", step="given", text=text)
        for number, text in enumerate(texts, start=1)
    ]


def listed(facts: Iterable[TraceStep]) -> str:
    """Return facts with their ids, one a line."""
    return "\n".join(f"{fact.id}: {fact.text}" for fact in facts)


def find_fact(facts: Iterable[TraceStep], text: str) -> TraceStep | None:
    """Return the fact that says the same, but for case, spaces, quotes and the full stop.

    >>> find_fact(numbered(["Bob is big."]), "bob is  big").id
    'f1'
    """
    key = plain_key(text)
    return next((fact for fact in facts if plain_key(fact.text) == key), None)


def proof_of(ids: Iterable[str], facts: Sequence[TraceStep]) -> list[TraceStep]:
    """Return what some facts rest on, and themselves, each after what it follows from.

    Args:
        ids: The facts to prove.
        facts: All that are known, in the order in which they came to be.

    >>> facts = [*numbered(["A", "A gives B", "C"]), TraceStep(id="d1", step="infer", text="B",
    ...     uses=("f1", "f2"))]
    >>> [fact.id for fact in proof_of(["d1"], facts)]
    ['f1', 'f2', 'd1']
    """
    needed = set(ids)
    # A fact follows from earlier ones only, so one look from the last to the first finds them all.
    for fact in reversed(facts):
        if fact.id in needed:
            needed.update(fact.uses)
    return [fact for fact in facts if fact.id in needed]


def checked_selection(ids: Iterable[Any], answer: str | None, known: Collection[str]) -> Selection:
    """Return a choice, or what is wrong with it.

    >>> checked_selection(["f1", "f9", "f1"], None, ["f1", "f2"]).problem
    'f9 is not the id of a fact above.'
    """
    chosen = tuple(dict.fromkeys(str(each) for each in ids))
    unknown = [each for each in chosen if each not in known]
    if unknown:
        verb = "is not the id of a fact" if len(unknown) == 1 else "are not ids of facts"
        return Selection(problem=f"{', '.join(unknown)} {verb} above.")
    if answer is not None and not chosen:
        return Selection(problem="An answer needs the facts that it rests on.")
    return Selection(ids=chosen, answer=answer)


def filled_selection(filled: Any, known: Collection[str]) -> Selection:
    """Return the choice in a filled-in schema, or what is wrong with it."""
    ids = filled.get("facts") if isinstance(filled, Mapping) else None
    if not isinstance(ids, list):
        return Selection(problem="The schema was not filled in with a list of ids.")
    answer = str(filled.get("answer") or "unknown")
    return checked_selection(ids, None if is_unknown(answer) else answer, known)


def read_selection(text: str, known: Collection[str]) -> Selection:
    """Return the choice in a text: ids in a line "Facts: ", and maybe a line "Answer: ".

    >>> read_selection("Facts: f2, d1", ["f1", "f2", "d1"]).ids
    ('f2', 'd1')
    >>> read_selection("It is clear.", ["f1"]).problem
    'No line "Facts: " with ids was found.'
    """
    lines = _FACTS_LINE.findall(text)
    where = lines[-1] if lines else text
    ids = _IDS.findall(where.lower())
    if not ids and not (lines and plain_key(where) in _NOTHING):
        return Selection(problem='No line "Facts: " with ids was found.')
    answer = first_line(announced(text) or "")
    return checked_selection(ids, None if is_unknown(answer or "unknown") else answer, known)


def inferred_fact(text: str) -> str | None:
    r"""Return the fact that a model wrote, in its last line; `None` if it found that none follows.

    >>> inferred_fact("Big things are red. So:\nBob is red."), inferred_fact("Nothing.")
    ('Bob is red.', None)
    """
    fact = " ".join(last_line(text).split())
    return None if plain_key(fact) in _NOTHING else fact


def is_unknown(text: str) -> bool:
    """Return whether a halter's text says that it does not know.

    >>> is_unknown("Unknown."), is_unknown("Answer: unknown"), is_unknown("Unknown Pleasures")
    (True, True, False)
    """
    span = announced(text)
    return _UNKNOWN.match(last_line(text) if span is None else span) is not None
