"""What one request may ask of a multi-tier graph, and what the graph keeps while it answers."""

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from langchain_tokenopt.errors import ConfigurationError
from langchain_tokenopt.routing import CascadeState

Stage: TypeAlias = Literal["cache", "rules", "similar", "prepare"]
"""A stage before the tiers."""

STAGES: tuple[Stage, ...] = ("cache", "rules", "similar", "prepare")


@dataclass(frozen=True, slots=True, kw_only=True)
class MultiTierContext:
    """How one request is treated; given as `context=` to the graph's methods.

    Raises:
        ConfigurationError: A stage is not known.
    """

    tenant: str = ""
    """Whose request it is: no tenant gets another's cached answer."""
    skip: tuple[Stage, ...] = ()
    """Stages to leave out."""
    fresh: bool = False
    """Ask the models, whatever is cached; the answer is kept for others."""
    first_tier: str = ""
    """The tier to start at, whatever the rules say."""
    last_tier: str = ""
    """A tier not to go beyond."""

    def __post_init__(self) -> None:
        """Refuse stages that are none."""
        unknown = set(self.skip) - set(STAGES)
        if unknown:
            message = f"skip takes {', '.join(STAGES)}, got {', '.join(sorted(unknown))}"
            raise ConfigurationError(message)


class MultiTierState(CascadeState):
    """State of a multi-tier graph; `messages` is the conversation, and gets the answer."""

    tier: str
    """What answered: `cache`, `similar` or the name of a tier."""
    cost: str | None
    """Dollars that this turn's model calls cost, as a decimal; `None` if a price is not known."""
    saved: str | None
    """An estimate of the dollars that asking the last tier alone would have cost more: for as many
    tokens as the answer has. `None` if a price is not known."""
    unpriced: list[str]
    """Models whose price is not known."""
    stages: list[dict[str, Any]]
    """What each stage before the tiers did: its name, what came of it, and the seconds."""
