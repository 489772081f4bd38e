"""What a choice is for: the same score for fewer tokens, or the highest score under a cap."""

from dataclasses import dataclass

from langchain_tokenopt.errors import ConfigurationError


@dataclass(frozen=True, slots=True, kw_only=True)
class FewestTokens:
    """The one with the fewest tokens a question of those whose score is hardly below the best."""

    margin: float = 0.05
    """How far the mean score may be below; nothing smaller can be told apart in few samples."""

    def __post_init__(self) -> None:
        """Refuse a margin that is no difference of scores."""
        if not 0 < self.margin < 1:
            message = f"margin is a difference of scores above 0 such as 0.05, got {self.margin}"
            raise ConfigurationError(message)


@dataclass(frozen=True, slots=True, kw_only=True)
class HighestScore:
    """The one with the highest score of those that use no more than so many tokens."""

    max_tokens: int | None = None
    """The mean for each question, input and output; `None` for no cap."""
    margin: float = 0.01
    """A difference of mean scores that does not matter; lets a choice between equals end."""

    def __post_init__(self) -> None:
        """Refuse what cannot be used."""
        if self.max_tokens is not None and self.max_tokens < 1:
            message = f"max_tokens is a number of tokens above 0, got {self.max_tokens}"
            raise ConfigurationError(message)
        if not 0 <= self.margin < 1:
            message = f"margin is a difference of scores such as 0.01, got {self.margin}"
            raise ConfigurationError(message)


Objective = FewestTokens | HighestScore
"""What wins a choice of techniques or a search for a prompt."""
