"""A labelled estimate for machines without a vocabulary: characters a token, by kind of text.

The rates were fitted to o200k_base counts of prose, code, JSON and eight scripts; see
`benchmarks/token_counting.py`, which prints the error on texts that were not used for the fit.
"""

import re

# Tokens a character, by class. A word costs by its letters; a digit run comes in threes.
_PIECE = re.compile(
    r"(?P<latin>[A-Za-z]+)"
    r"|(?P<digits>\d+)"
    r"|(?P<cjk>[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]+)"
    r"|(?P<hangul>[\uac00-\ud7af]+)"
    r"|(?P<other>[^\W\d_]+)"
    r"|(?P<space>\s+)"
    r"|(?P<mark>[^\w\s]+|_+)"
)
_RATES = {"cjk": 0.80, "hangul": 0.62, "other": 0.33}
_LONG_WORD = 10


def count(text: str) -> int:
    """Return an estimated number of tokens.

    >>> count("The quick brown fox jumps over the lazy dog.")
    10
    """
    tokens = 0.0
    for piece in _PIECE.finditer(text):
        kind, length = piece.lastgroup, piece.end() - piece.start()
        if kind == "latin":
            # Common words are one token; longer ones and identifiers come in parts.
            tokens += 1.0 if length <= _LONG_WORD else length / 6
        elif kind == "digits":
            tokens += -(-length // 3)
        elif kind == "space":
            tokens += _spaces(piece.group())
        elif kind == "mark":
            tokens += 0.5 + length / 3 if length > 1 else 0.9
        elif kind is not None:
            tokens += length * _RATES[kind]
    return max(round(tokens), 1) if text else 0


def _spaces(run: str) -> float:
    """Return the cost of white space: a single space belongs to the word after it."""
    if run == " ":
        return 0.0
    return 0.6 + len(run) / 80
