"""Votes over typed answers, and rules that say when further votes would change nothing."""

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

from langchain_tokenopt.reasoning.result import Sample, Vote

Same = Callable[[Any, Any], bool]
"""Whether two answers are the same."""


def tally(
    samples: Sequence[Sample], same: Same, weights: Sequence[float] | None = None
) -> list[Vote]:
    """Return the votes, most first; of equals the one that was named first.

    A sample without an answer casts no vote.

    Args:
        samples: In the order in which they count.
        same: Tells whether two answers are one.
        weights: One for each sample; without, every vote counts 1.

    >>> samples = [Sample(index=n, answer=answer) for n, answer in enumerate("abb")]
    >>> votes = tally(samples, str.__eq__)
    >>> [(vote.answer, vote.votes) for vote in votes]
    [('b', 2.0), ('a', 1.0)]
    """
    answers: list[Any] = []
    sums: list[float] = []
    for sample, weight in zip(samples, weights or [1.0] * len(samples), strict=True):
        if sample.answer is None:
            continue
        known = next((at for at, each in enumerate(answers) if same(each, sample.answer)), None)
        if known is None:
            answers.append(sample.answer)
            sums.append(weight)
        else:
            sums[known] += weight
    ranked = sorted(zip(answers, sums, strict=True), key=lambda vote: -vote[1])
    return [Vote(answer=answer, votes=votes) for answer, votes in ranked]


def confidence_weights(samples: Sequence[Sample], *, softness: float) -> list[float] | None:
    """Return a weight for each sample that sums to their number, `None` if one has no confidence.

    The softmax of the confidences within the question (CISC, arXiv 2502.06233): the softer,
    the less a confident sample counts for more.
    """
    confidences = [sample.confidence for sample in samples if sample.answer is not None]
    if not confidences or any(confidence is None for confidence in confidences):
        return None
    known = [confidence for confidence in confidences if confidence is not None]
    highest = max(known)
    powers = {
        sample.index: math.exp((sample.confidence - highest) / softness)
        for sample in samples
        if sample.answer is not None and sample.confidence is not None
    }
    scale = len(known) / sum(powers.values())
    return [powers.get(sample.index, 0.0) * scale for sample in samples]


@lru_cache(maxsize=4096)
def leads(first: int, second: int) -> float:
    """Return the probability that the leading answer is the more frequent of the two.

    That of P(X > 1/2) for X ~ Beta(first + 1, second + 1), the stop of Adaptive-Consistency
    (arXiv 2305.11860); exact, from integers.

    >>> leads(3, 0), leads(4, 0), leads(5, 5)
    (0.9375, 0.96875, 0.5)
    """
    total = first + second + 1
    lower: int = sum(math.comb(total, at) for at in range(first + 1))
    return lower / (1 << total)


def least_more(first: int, second: int, *, confidence: float) -> int:
    """Return how many further votes for the leader make `leads` reach `confidence`.

    No fewer samples can end the sampling, so this many can be drawn at once without a wasted one.

    >>> least_more(0, 0, confidence=0.95), least_more(3, 1, confidence=0.95)
    (4, 3)
    """
    more = 0
    while leads(first + more, second) < confidence:
        more += 1
    return more


def least_decisive(first: int, second: int, *, remaining: int) -> int:
    """Return how many further votes for the leader put it out of reach of all that remain.

    The answer is then that of all samples, whatever they say.

    >>> least_decisive(0, 0, remaining=5), least_decisive(3, 1, remaining=1)
    (3, 0)
    """
    missing = remaining - (first - second)
    return missing // 2 + 1 if missing >= 0 else 0
