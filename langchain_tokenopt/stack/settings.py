"""The settings file `tokenopt.toml`: what it may say, checked before anything is built.

```toml
[models]
small = "gpt-5-mini"
large = "gpt-5.1"

[ledger]
path = "ledger.sqlite"

[[budgets]]
name = "support"
dollars = "5"
per = "feature"
every = "day"

[cache]
where = "cache.sqlite"          # a path, "memory", or the URL of a Redis
ttl_s = 86400

[cache.semantic]
embeddings = "static"
max_error_rate = 0.01

[prompt_cache]
lifetime = "24h"

[context]
max_tokens = 8000

[batching]
tokens_per_minute = 90000

[cascade]
checks = ["not_empty", "not_truncated", "no_refusal"]
rules = [{ tier = "large", mentions = ["contract"] }, { tier = "large", longer_than = 4000 }]
```
"""

import tomllib
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from langchain_tokenopt.accounting.budget import Every
from langchain_tokenopt.errors import ConfigurationError


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class ModelSettings(_Table):
    """The models, by the name of their tier; the cheapest first."""

    small: str | None = None
    """`None` for one model alone."""
    large: str


class LedgerSettings(_Table):
    """Where calls are booked."""

    path: str | None = None
    """An SQLite file; without one, in memory."""
    prices: str | None = None
    """A JSON file of your own prices, which come first."""


class BudgetSettings(_Table):
    """One budget; see `Budget`."""

    name: str = Field(min_length=1)
    tokens: int | None = Field(default=None, ge=0)
    calls: int | None = Field(default=None, ge=0)
    dollars: str | int | None = None
    """Text, so that no digit is lost."""
    per: str | None = None
    every: Every | None = None
    when_exceeded: Literal["stop", "raise", "ask"] = "stop"
    """In agents; the strictest of several budgets holds."""


class SemanticSettings(_Table):
    """Answers to questions that mean the same; see `SemanticCache`."""

    embeddings: Literal["static", "minilm"] = "static"
    max_error_rate: float = Field(default=0.01, gt=0, lt=1)
    mode: Literal["serve", "shadow", "off"] = "serve"
    path: str | None = None
    ttl_s: float | None = Field(default=None, gt=0)


class CacheSettings(_Table):
    """Answers to the same request."""

    where: str = "memory"
    """`memory`, the path of an SQLite file, or the URL of a Redis."""
    ttl_s: float | None = Field(default=None, gt=0)
    signing_key_env: str | None = None
    """Name of the environment variable with the secret that entries are signed with."""
    lease: bool = False
    """Whether processes wait for each other's identical calls; needs a Redis."""
    semantic: SemanticSettings | None = None

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.lease and "://" not in self.where:
            raise ValueError("lease = true needs the URL of a Redis in `where`")
        return self


class PromptCacheSettings(_Table):
    """What providers are told for their prompt caches; see `CacheHints`."""

    name: str = "tokenopt"
    lifetime: str | None = None
    shards: int = Field(default=1, ge=1)
    volatile: tuple[str, ...] = ()
    """Regular expressions of lines of the system prompt that change from request to request."""


class ContextSettings(_Table):
    """Long conversations; see `ContextWindow`."""

    max_tokens: int = Field(gt=0)
    keep_tokens: int | None = Field(default=None, gt=0)


class BatchingSettings(_Table):
    """A provider's tokens and requests a minute; see `RateLimiter`."""

    tokens_per_minute: int | None = Field(default=None, ge=1)
    requests_per_minute: int | None = Field(default=None, ge=1)
    redis: str | None = None
    """The URL of a Redis whose users keep to the rates together."""

    @model_validator(mode="after")
    def _limits(self) -> Self:
        if self.tokens_per_minute is None and self.requests_per_minute is None:
            raise ValueError(
                "give tokens_per_minute or requests_per_minute, or leave the table out"
            )
        return self


class RuleSettings(_Table):
    """What is sent straight to a tier."""

    tier: Literal["small", "large"]
    mentions: tuple[str, ...] = ()
    longer_than: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if bool(self.mentions) == (self.longer_than is not None):
            raise ValueError("a rule has either `mentions` or `longer_than`")
        return self


CheckName = Literal["not_empty", "not_truncated", "no_refusal"]


class CascadeSettings(_Table):
    """The small model first, the large one where an answer is not good enough."""

    checks: tuple[CheckName, ...] = ("not_empty", "not_truncated", "no_refusal")
    rules: tuple[RuleSettings, ...] = ()
    policy: str | None = None
    """A file that `tokenopt calibrate` wrote; it says whether to cascade, and from which score."""


class Settings(_Table):
    """All that `tokenopt.toml` may say; every table but `models` may be left out."""

    models: ModelSettings
    ledger: LedgerSettings = LedgerSettings()
    budgets: tuple[BudgetSettings, ...] = ()
    cache: CacheSettings | None = None
    prompt_cache: PromptCacheSettings | None = None
    context: ContextSettings | None = None
    batching: BatchingSettings | None = None
    cascade: CascadeSettings | None = None

    @model_validator(mode="after")
    def _cascades_with_two(self) -> Self:
        if self.cascade is not None and self.models.small is None:
            raise ValueError("[cascade] needs a small model in [models]")
        return self

    @classmethod
    def load(cls, path: str | Path, *, changes: Mapping[str, Any] | None = None) -> Self:
        """Read a settings file.

        Args:
            path: The file.
            changes: Values that come before the file's, by their dotted keys:
                `{"cache.ttl_s": 60, "models.large": "gpt-5.1"}`.

        Raises:
            ConfigurationError: The file cannot be read, or a value is wrong; says which and what
                was expected.
        """
        try:
            told = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            message = f"the settings file {path} cannot be read: {error.strerror or error}"
            raise ConfigurationError(message) from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"{path} is not TOML: {error}") from error
        return cls.of(told, changes=changes, where=str(path))

    @classmethod
    def of(
        cls,
        told: Mapping[str, Any],
        *,
        changes: Mapping[str, Any] | None = None,
        where: str = "the settings",
    ) -> Self:
        """Return checked settings of what a file says; see `load`."""
        merged = _copied(told)
        for key, value in (changes or {}).items():
            _set(merged, key, value, where)
        try:
            # Lists are tuples here; TOML knows no others.
            return cls.model_validate(_with_tuples(merged))
        except ValidationError as error:
            raise ConfigurationError(_explained(error, where)) from error


def _copied(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _copied(each) for key, each in value.items()}
    return [_copied(each) for each in value] if isinstance(value, list) else value


def _with_tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _with_tuples(each) for key, each in value.items()}
    return tuple(map(_with_tuples, value)) if isinstance(value, list | tuple) else value


def _set(told: dict[str, Any], key: str, value: Any, where: str) -> None:
    *tables, last = key.split(".")
    for table in tables:
        inner = told.setdefault(table, {})
        if not isinstance(inner, dict):
            raise ConfigurationError(f"{where}: {key} cannot be set, {table} is no table")
        told = inner
    told[last] = value


def _explained(error: ValidationError, where: str) -> str:
    lines = [f"{where} has {error.error_count()} wrong value(s):"]
    for problem in error.errors():
        key = ".".join(map(str, problem["loc"])) or "the file"
        if problem["type"] == "extra_forbidden":
            lines.append(f"  {key}: not known{_meant(problem['loc'])}")
        elif problem["type"] == "missing":
            lines.append(f"  {key}: missing")
        else:
            got = "" if isinstance(problem["input"], Mapping) else f", got {problem['input']!r}"
            lines.append(f"  {key}: {problem['msg'].removeprefix('Value error, ')}{got}")
    return "\n".join(lines)


def _meant(location: tuple[int | str, ...]) -> str:
    table: Any = Settings
    for part in location[:-1]:
        if isinstance(part, str):
            table = _table_of(table, part)
    known = list(table.model_fields)
    close = get_close_matches(str(location[-1]), known, n=1)
    return f"; did you mean {close[0]}?" if close else f"; known are {', '.join(known)}"


def _table_of(table: Any, name: str) -> Any:
    """Return the settings class of a key in a table, through optional and repeated ones."""
    queue = [table.model_fields[name].annotation]
    while True:
        kind = queue.pop()
        if isinstance(kind, type) and issubclass(kind, _Table):
            return kind
        queue += getattr(kind, "__args__", ())
