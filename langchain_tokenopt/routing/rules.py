"""Rules that send a request straight to a tier, before any model is called."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from langchain_core.messages import BaseMessage

from langchain_tokenopt.errors import ConfigurationError
from langchain_tokenopt.messages import last_human_text
from langchain_tokenopt.tokens import TokenCounter, counter_for


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """Start at `tier` where the rule applies."""

    tier: str
    reason: str
    """Shown with the attempt: why the request went there."""
    applies: Callable[[Sequence[BaseMessage]], bool]


def longer_than(tokens: int, *, tier: str, counter: TokenCounter | None = None) -> Rule:
    """Send requests of more than `tokens` input tokens to `tier`.

    >>> from langchain_core.messages import HumanMessage
    >>> longer_than(100, tier="large").applies([HumanMessage("2 + 2?")])
    False
    """
    if tokens < 1:
        message = f"tokens must be at least 1, got {tokens}"
        raise ConfigurationError(message)
    counts = counter or counter_for()
    return Rule(
        tier=tier,
        reason=f"the request is longer than {tokens} tokens",
        applies=lambda messages: counts.count_messages(messages) > tokens,
    )


def mentions(*words: str, tier: str) -> Rule:
    """Send requests whose last human turn has one of the words or phrases to `tier`.

    Whole words in any case: "contract" is not in "contraction".

    >>> from langchain_core.messages import HumanMessage
    >>> mentions("refund", tier="large").applies([HumanMessage("A REFUND, please")])
    True
    """
    if not words or not all(word.strip() for word in words):
        message = f"expected at least one word, none of them empty, got {words!r}"
        raise ConfigurationError(message)
    either = "|".join(re.escape(word.strip()) for word in words)
    found = re.compile(rf"(?<!\w)(?:{either})(?!\w)", re.IGNORECASE)
    return Rule(
        tier=tier,
        reason=f"the question mentions {' or '.join(repr(word) for word in words)}",
        applies=lambda messages: found.search(last_human_text(messages)) is not None,
    )
