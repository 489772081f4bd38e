"""How many samples to ask for at once, where a request bills its prompt once for all of them."""

from dataclasses import dataclass
from functools import lru_cache
from math import lgamma, log
from typing import Any

import numpy as np
from numpy.typing import NDArray

from langchain_tokenopt.errors import ConfigurationError
from langchain_tokenopt.reasoning.voting import leads, least_more

_MOST_PLANNED = 64  # samples; plans grow with the fourth power
_PRIOR = 0.5
_GRAIN = 1.15  # plans are shared by prices that differ by less

_Costs = NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenWeights:
    """What a token costs, relative to an input token that was not cached."""

    output: float = 4.0
    """Of an output token."""
    cached_input: float = 1.0
    """Of a prompt that was sent before: 0.1 where the provider reads it from its cache."""

    def __post_init__(self) -> None:
        """Refuse what is no price."""
        if self.output <= 0 or self.cached_input < 0:
            message = f"weights of tokens are prices: above 0 for output, got {self}"
            raise ConfigurationError(message)


def cheapest_wave(
    first: int, second: int, *, drawn: int, n: int, confidence: float, ask_cost: float
) -> int:
    """Return how many samples to ask for in one request, for the least expected cost until the end.

    Few samples a request waste none, many spare the prompt of further requests. The plan is exact
    for two answers whose shares are as uncertain as a first look makes them (the prior is
    Jeffreys's: most questions are answered nearly always or nearly never alike).

    Args:
        first: Votes for the leader.
        second: Votes for the next answer.
        drawn: Samples so far, those without an answer included.
        n: The most samples.
        confidence: `leads` ends the sampling at this.
        ask_cost: What the prompt of one more request costs, in samples.

    >>> cheap = cheapest_wave(0, 0, drawn=0, n=40, confidence=0.95, ask_cost=0.1)
    >>> dear = cheapest_wave(0, 0, drawn=0, n=40, confidence=0.95, ask_cost=30)
    >>> cheap, dear
    (4, 12)
    """
    remaining = n - drawn
    least = min(least_more(first, second, confidence=confidence), remaining)
    horizon = min(first + second + remaining, _MOST_PLANNED)
    if least in (0, remaining) or first + second + least >= horizon:
        return least
    grain = round(log(max(ask_cost, 1e-6), _GRAIN))
    return _plan(horizon, confidence, grain)[first, second]


@lru_cache(maxsize=64)
def _plan(n: int, confidence: float, grain: int) -> dict[tuple[int, int], int]:
    """Return the best wave for every pair of counts, found backwards from the end."""
    ask_cost = _GRAIN**grain
    cost = np.zeros((n + 1, n + 1))
    best: dict[tuple[int, int], int] = {}
    for drawn in range(n - 1, -1, -1):
        for second in range(drawn // 2 + 1):
            first = drawn - second
            if leads(first, second) >= confidence:
                continue
            remaining = n - drawn
            least = min(least_more(first, second, confidence=confidence), remaining)
            found = {
                more: ask_cost + more + _expected(cost, first, second, more)
                for more in range(least, remaining + 1)
            }
            best[first, second] = min(found, key=lambda more: found[more])
            cost[first, second] = cost[second, first] = found[best[first, second]]
    return best


def _expected(cost: _Costs, first: int, second: int, more: int) -> float:
    votes = np.arange(more + 1)
    return float(_shares(first, second, more) @ cost[first + votes, second + more - votes])


@lru_cache(maxsize=100_000)
def _shares(first: int, second: int, more: int) -> _Costs:
    """Return the probability of each number of votes for the leader among `more`."""
    a, b = first + _PRIOR, second + _PRIOR
    return np.exp(
        [
            _log_choose(more, votes) + _log_beta(votes + a, more - votes + b) - _log_beta(a, b)
            for votes in range(more + 1)
        ]
    )


def _log_choose(n: int, k: int) -> float:
    return lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1)


def _log_beta(a: float, b: float) -> float:
    return lgamma(a) + lgamma(b) - lgamma(a + b)
