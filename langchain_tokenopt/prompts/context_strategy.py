"""Which parts of a conversation stay when not all of them can."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from langchain_tokenopt.errors import ConfigurationError
from langchain_tokenopt.prompts.context_history import Group

_WORD = re.compile(r"\w+")
# What a later question asks for: numbers, ids, names, quoted words.
_SPECIFIC = re.compile(
    r"\d[\d.,:/-]*|\b[A-Z]{2,}[\w-]*|(?<=[a-z,;] )[A-Z]\w+|[\w.]+@[\w.]+|\"[^\"]+\""
)


class Strategy(Protocol):
    """Gives each group a value; those of the highest value for their tokens stay.

    What it decided is kept under its `repr`: let that say how it decides, as a dataclass's does.
    """

    def values(self, groups: Sequence[Group], relevance: Sequence[float] | None) -> list[float]:
        """Return a value for each group, all at least 0.

        Args:
            groups: What may be left out, oldest first.
            relevance: How alike each is to the question, 0 to 1; `None` where it was not asked for.
        """

    @property
    def needs_relevance(self) -> bool:
        """Whether `values` is to be told the relevance."""

    @property
    def contiguous(self) -> bool:
        """Whether what stays is the end of the conversation, without gaps."""


@dataclass(frozen=True, slots=True)
class Recent:
    """The end of the conversation stays, as far as there is room."""

    needs_relevance: bool = False
    contiguous: bool = True

    def values(self, groups: Sequence[Group], relevance: Sequence[float] | None) -> list[float]:
        """Return the place of each group."""
        return [float(n) for n in range(len(groups))]


@dataclass(frozen=True, slots=True, kw_only=True)
class Importance:
    """What matters most for its tokens stays, wherever it stands.

    A group's value is the weighted sum of: recency, which halves every `half_life_turns` human
    turns; relevance to the last question; how specific it is, by the numbers, ids and names that
    it holds; and whether a tool gave it. A message that the user weighted (see `weighted`) has that
    as its value, in place of the sum.

    Args:
        recency: Weight.
        relevance: Weight; 0 embeds nothing.
        specificity: Weight.
        human: Added for what a human said.
        tools: Added for results of tools.
        half_life_turns: More than 0.
        size_exponent: A value is divided by the tokens to this power: 0 takes no notice of size, 1
            prefers many small groups to one large one.

    Raises:
        ConfigurationError: A weight is below 0, or all are 0.
    """

    recency: float = 1.0
    relevance: float = 1.0
    specificity: float = 1.0
    human: float = 0.5
    tools: float = 0.0
    half_life_turns: float = 8.0
    size_exponent: float = 0.5
    contiguous: bool = False

    def __post_init__(self) -> None:
        weights = (self.recency, self.relevance, self.specificity, self.human, self.tools)
        if min(weights) < 0 or not any(weights) or self.half_life_turns <= 0:
            message = (
                "expected weights of at least 0, one of them above, and half_life_turns above 0, "
                f"got {self}"
            )
            raise ConfigurationError(message)

    @property
    def needs_relevance(self) -> bool:
        """Whether the question matters."""
        return self.relevance > 0

    def values(self, groups: Sequence[Group], relevance: Sequence[float] | None) -> list[float]:
        """Return a value for each group."""
        latest = max((group.turn for group in groups), default=0)
        alike = relevance or [0.0] * len(groups)
        return [
            self._value(group, latest - group.turn, like)
            for group, like in zip(groups, alike, strict=True)
        ]

    def _value(self, group: Group, age: int, relevance: float) -> float:
        if group.importance is not None:
            highest = self.recency + self.relevance + self.specificity + self.human + self.tools
            value = group.importance * highest
        else:
            value = (
                self.recency * 0.5 ** (age / self.half_life_turns)
                + self.relevance * relevance
                + self.specificity * specificity(group.text)
                + self.human * (group.kind == "human")
                + self.tools * (group.kind == "tools")
            )
        return float(value / max(group.tokens, 1) ** self.size_exponent)


def specificity(text: str) -> float:
    """Return how much of what a later question may ask for is in a text, 0 to 1.

    >>> specificity("Thanks, that helps!") < specificity("My order A-1734 came on 3 May to Berlin.")
    True
    """
    found = {match.group() for match in _SPECIFIC.finditer(text)}
    return 1 - math.exp(-len(found) / 3)


class CommonWords:
    """Says how much of a question each of some texts holds, rare words counting more.

    Stands in for embeddings where there are none. Texts are read once, questions touch only those
    that have a word of theirs.

    >>> CommonWords(["Order 17 is at the depot.", "Thanks!"]).shares("Where is order 17?")
    [1.0, 0.0]
    """

    def __init__(self, texts: Sequence[str]) -> None:
        self._count = len(texts)
        self._holders: dict[str, list[int]] = {}
        for n, text in enumerate(texts):
            for word in set(_words(text)):
                self._holders.setdefault(word, []).append(n)

    def shares(self, question: str) -> list[float]:
        """Return the share of the question that each text holds, 0 to 1."""
        shares = [0.0] * self._count
        total = 0.0
        # In their order: sums of floats are the same in every process then.
        for word in dict.fromkeys(_words(question)):
            holders = self._holders.get(word, ())
            # A word that no text has counts most: what it asks for is not there.
            weight = math.log(1 + self._count / (len(holders) or 0.5)) if self._count else 0.0
            total += weight
            for n in holders:
                shares[n] += weight
        return [min(share / total, 1.0) if total else 0.0 for share in shares]


def _words(text: str) -> list[str]:
    return [word for word in map(str.lower, _WORD.findall(text)) if word not in _COMMON]


_COMMON = frozenset(
    "a an and are as at be been but by can could did do does for from had has have how i if in is "
    "it its me my of on or our so than that the their them then there these they this to was we "
    "were what when where which who will with would you your".split()
)
