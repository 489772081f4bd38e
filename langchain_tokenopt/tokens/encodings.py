"""What an encoder is to the rest of the package."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol


class TextEncoding(Protocol):
    """Counts the tokens of a text."""

    @property
    def name(self) -> str:
        """Who counts, shown in reports: `toktok-rs/o200k_base`, `estimate`, ..."""

    @property
    def exact(self) -> bool:
        """Whether counts equal tiktoken's."""

    def count(self, text: str) -> int:
        """Return the number of tokens of `text`; special tokens in it are ordinary text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unavailable:
    """Why an engine cannot count in an encoding here."""

    reason: str
    broken: bool = False
    """Whether the engine is installed and gave wrong answers, rather than being absent."""


Engine = Callable[[str], TextEncoding | Unavailable]
"""Opens the encoding of a name, or says why it cannot."""


def valid_text(text: str) -> str:
    """Return `text` with surrogate pairs joined and lone surrogates replaced, as tiktoken does."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
