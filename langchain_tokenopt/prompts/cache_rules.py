"""How each provider caches prompts: minimum, lifetimes, factors, and what a request may say.

The rules are data (`cache_rules.json`), dated, with their sources; a file of yours comes first.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from fnmatch import fnmatchcase
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from langchain_tokenopt.errors import ConfigurationError
from langchain_tokenopt.files import read_entries

_PROVIDERS = {
    "azure": "openai",
    "azure_openai": "openai",
    "google_genai": "google",
    "google_vertexai": "google",
    "anthropic_bedrock": "anthropic",
}


class Lifetime(BaseModel):
    """How long a written prefix stays after its last use, and what writing it costs."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    """The provider's name: `5m`, `1h`, `30m`, `24h`, ..."""
    seconds: float = Field(gt=0)
    write_factor: Decimal = Field(ge=0, allow_inf_nan=False)
    """Times the plain input price."""


class CacheRule(BaseModel):
    """How a provider caches the prompts of some models."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    provider: str
    """LangChain's name: `openai`, `anthropic`, ..."""
    models: tuple[str, ...]
    """Patterns of model names, with `*`, `?` and `[...]`."""
    minimum_tokens: int = Field(ge=1)
    """A shorter prefix is not cached, and nothing says so."""
    step_tokens: int = Field(default=1, ge=1)
    """Cached tokens beyond the minimum are a multiple of this."""
    automatic: bool
    """Whether prompts are cached without being marked."""
    read_factor: Decimal = Field(ge=0, allow_inf_nan=False)
    """Times the plain input price."""
    lifetimes: tuple[Lifetime, ...] = Field(min_length=1)
    """The first is the default."""
    takes_key: bool = False
    """Whether a request may have a `prompt_cache_key`."""
    takes_options: bool = False
    """Whether a request may have `prompt_cache_options`."""
    retentions: tuple[str, ...] = ()
    """Values of `prompt_cache_retention` that a request may have."""
    breakpoints: int = 0
    """The most blocks that a request may mark."""
    mark: Literal["cache_control", "prompt_cache_breakpoint"] | None = None
    """How a block is marked."""
    source: str
    """Where the rule is from."""

    def lifetime(self, name: str | None = None) -> Lifetime:
        """Return a lifetime, the default one without a name.

        Raises:
            ConfigurationError: These models have no such lifetime.
        """
        if name is None:
            return self.lifetimes[0]
        for lifetime in self.lifetimes:
            if lifetime.name == name:
                return lifetime
        known = ", ".join(lifetime.name for lifetime in self.lifetimes)
        message = f"{self.provider} {self.models[0]} keeps prefixes for {known}, got {name!r}"
        raise ConfigurationError(message)

    def rounded(self, tokens: int) -> int:
        """Return how many tokens of an equal prefix are cached.

        >>> rule_for("gpt-5", provider="openai").rounded(1300), rule_for("gpt-5").rounded(1000)
        (1280, 0)
        """
        if tokens < self.minimum_tokens:
            return 0
        return self.minimum_tokens + (
            (tokens - self.minimum_tokens) // self.step_tokens * self.step_tokens
        )


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    as_of: date
    note: str = ""
    rules: tuple[CacheRule, ...]


@dataclass(frozen=True, slots=True)
class CacheRules:
    """Rules in the order in which they are tried."""

    rules: Sequence[CacheRule]
    as_of: date

    @classmethod
    def load(cls, path: str | Path) -> "CacheRules":
        """Return the rules of a file, before those that come with the package.

        Raises:
            ConfigurationError: The file is absent or wrong; the message names the rule and field.
        """
        own = read_entries(Path(path), _File, called=f"the file of cache rules {path}")
        return cls((*own.rules, *bundled_rules().rules), own.as_of)

    def find(self, model: str, *, provider: str | None = None) -> CacheRule | None:
        """Return the rule for a model, `None` if there is none.

        `provider` is LangChain's name; without it the model's name alone decides.
        """
        name = model.strip().lower().rsplit("/", 1)[-1].removeprefix("ft:").split(":")[0]
        wanted = None if provider is None else _PROVIDERS.get(provider, provider)
        for rule in self.rules:
            if wanted is not None and rule.provider != wanted:
                continue
            if any(fnmatchcase(name, pattern) for pattern in rule.models):
                return rule
        return None


def rule_for(model: str, *, provider: str | None = None) -> CacheRule:
    """Return the bundled rule for a model.

    Raises:
        ConfigurationError: There is none.

    >>> rule_for("gpt-4o-mini").read_factor, rule_for("claude-haiku-4-5").minimum_tokens
    (Decimal('0.5'), 4096)
    """
    rule = bundled_rules().find(model, provider=provider)
    if rule is None:
        message = (
            f"how prompts of {model!r} (provider {provider!r}) are cached is not known; "
            "give a rule in a file, see CacheRules.load"
        )
        raise ConfigurationError(message)
    return rule


@cache
def bundled_rules() -> CacheRules:
    """Return the rules that come with the package."""
    source = files("langchain_tokenopt.prompts") / "cache_rules.json"
    read = read_entries(source, _File, called="the bundled file of cache rules")
    return CacheRules(read.rules, read.as_of)
