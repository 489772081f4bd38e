"""Whether two answers say the same, and whether one may be served."""

from collections.abc import Callable

from langchain_tokenopt.caches.likeness import read

Judge = Callable[[str, str, str], bool]
"""Says whether two answers to a question (asked, kept, fresh) say the same."""
Verifier = Callable[[str, str, str], bool]
"""Says whether an answer (asked, kept question, kept answer) may be served after all."""


def answers_agree(asked: str, kept: str, fresh: str) -> bool:
    """Return whether two answers have the same numbers and nearly the same words.

    >>> answers_agree("?", "It takes 3 days.", "It takes 3 days")
    True
    """
    one, two = read(kept), read(fresh)
    if one.words == two.words:
        return True
    if one.numbers != two.numbers or one.negated != two.negated:
        return False
    either = one.bag | two.bag
    return len(one.bag & two.bag) >= 0.7 * len(either)
