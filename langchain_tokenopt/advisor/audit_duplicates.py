"""Requests that a response cache would have answered: the same ones, and those that mean the same.

Both are replayed: the same requests by the rule of the exact cache, like ones by the semantic cache
itself, with the answers of the log.
"""

import json
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from langchain_core.caches import RETURN_VAL_TYPE
from langchain_core.embeddings import Embeddings
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration

from langchain_tokenopt.advisor.audit_evidence import Example, example
from langchain_tokenopt.advisor.audit_facts import CallFacts
from langchain_tokenopt.caches import SemanticCache
from langchain_tokenopt.caches.judge import answers_agree
from langchain_tokenopt.caches.semantic_stats import Rate, rate_of
from langchain_tokenopt.messages import CACHE_MARK

_MOST_EXAMPLES = 5
_MOST_COMPARED = 2_000


class ExactReplay:
    """Says which requests an exact cache would have answered, by what it was shown before.

    Args:
        ttl_s: How long an answer may be served, in seconds.
        max_entries: The longest unused make room, as in a cache of this size.
    """

    def __init__(self, *, ttl_s: float | None, max_entries: int) -> None:
        self._ttl_s = ttl_s
        self._max_entries = max_entries
        self._kept: OrderedDict[bytes, tuple[float, int, str]] = OrderedDict()
        self._examples: OrderedDict[bytes, Example] = OrderedDict()
        self.disagreed = 0
        self.compared = 0

    def serves(self, call: CallFacts) -> bool:
        """Return whether the request has a kept answer; if not, keep the log's."""
        if call.key is None:
            return False
        kept = self._kept.get(call.key)
        if kept is not None and (self._ttl_s is None or call.at - kept[0] < self._ttl_s):
            self._kept.move_to_end(call.key)
            self._note(call, kept)
            return True
        if call.kind in ("answered", "truncated"):
            # The first answers are compared with later ones; beyond them, memory is worth more.
            answer = call.answer if len(self._kept) < _MOST_COMPARED else ""
            self._kept[call.key] = (call.at, call.line, answer)
            self._kept.move_to_end(call.key)
            if len(self._kept) > self._max_entries:
                self._kept.popitem(last=False)
        return False

    def _note(self, call: CallFacts, kept: tuple[float, int, str]) -> None:
        _, line, answer = kept
        if answer and call.answer:
            self.compared += 1
            self.disagreed += not answers_agree(call.question, answer, call.answer)
        if call.key is not None and len(self._examples) < _MOST_EXAMPLES:
            asked = call.question or "(no question in the last message)"
            self._examples.setdefault(call.key, example(call.line, f"as in line {line}: {asked}"))

    @property
    def examples(self) -> tuple[Example, ...]:
        """Requests that came again."""
        return tuple(self._examples.values())

    @property
    def risk(self) -> Rate:
        """How often the log's own answers to the same request differ in words or numbers."""
        return rate_of(self.disagreed, self.compared)


@dataclass(frozen=True, slots=True)
class Window:
    """Calls from `first` up to, not with, `end`, by their place in time order."""

    first: int
    end: int


def windows_of(calls: int, *, most: int, count: int = 4) -> tuple[Window, ...]:
    """Return stretches of consecutive calls, spread evenly, of `most` calls in all.

    >>> windows_of(1_000, most=5_000)
    (Window(first=0, end=1000),)
    >>> windows_of(1_000, most=200, count=2)
    (Window(first=0, end=100), Window(first=900, end=1000))
    """
    if calls <= most:
        return (Window(0, calls),)
    length = max(most // count, 1)
    return tuple(
        Window(first, first + length)
        for first in ((calls - length) * n // max(count - 1, 1) for n in range(count))
    )


class NearReplay:
    """Plays questions through a semantic cache, and checks what it serves against the log.

    Args:
        embeddings: Of the cache.
        max_error_rate: Of the cache.
        ttl_s: Of the cache.

    Raises:
        MissingExtraError: The embeddings need a package that is not there.
    """

    def __init__(
        self, embeddings: Embeddings, *, max_error_rate: float, ttl_s: float | None
    ) -> None:
        embeddings.embed_query("ready?")  # the cache itself would go on without them
        self._now = 0.0
        self._cache = SemanticCache(
            embeddings, max_error_rate=max_error_rate, ttl_s=ttl_s, clock=lambda: self._now
        )
        self.looked = 0
        self.hits = 0
        self.wrong = 0
        self._compared = 0
        self._examples: list[Example] = []
        self._wrong_examples: list[Example] = []

    def serves(self, call: CallFacts) -> bool:
        """Return whether the answer to a like question is served; if not, keep the log's."""
        if call.partition is None:
            return False
        self._now = call.at
        prompt, about = _prompt(call.question), call.partition.hex()
        self.looked += 1
        served = self._cache.lookup(prompt, about)
        if served:
            self._note(call, served)
            return True
        if call.kind == "answered" and call.answer and not call.calls_tools:
            answer = ChatGeneration(message=AIMessage(call.answer))
            self._cache.update(prompt, about, [answer])
        return False

    def _note(self, call: CallFacts, served: RETURN_VAL_TYPE) -> None:
        self.hits += 1
        (answer,) = served
        if not call.answer or not isinstance(answer, ChatGeneration):
            return
        self._compared += 1
        is_wrong = not answers_agree(call.question, answer.text, call.answer)
        self.wrong += is_wrong
        like = answer.message.response_metadata[CACHE_MARK]["question"]
        shown = self._wrong_examples if is_wrong else self._examples
        if len(shown) < _MOST_EXAMPLES:
            told = "another answer" if is_wrong else "the same answer"
            text = f"{example(0, call.question).text} ~ {example(0, like).text} ({told})"
            shown.append(Example(line=call.line, text=text))

    @property
    def examples(self) -> Sequence[Example]:
        """Questions that were served, those with another answer among them."""
        return (*self._examples[:3], *self._wrong_examples[:3])

    @property
    def risk(self) -> Rate:
        """Served answers that the log's own answer disagrees with, of all that were compared."""
        return rate_of(self.wrong, self._compared)

    @property
    def risk_of_all(self) -> Rate:
        """The same, of all requests that were looked for."""
        return rate_of(self.wrong, self.looked)


def _prompt(question: str) -> str:
    """Return a question as LangChain hands it to a cache; what else counts is in `about`."""
    kwargs = {"content": question, "type": "human"}
    kind = ["langchain", "schema", "messages", "HumanMessage"]
    return json.dumps([{"lc": 1, "type": "constructor", "id": kind, "kwargs": kwargs}])
