"""The user's own prices: a JSON file that comes before the price table.

```json
{"prices": [
  {"model": "gpt-5-mini", "provider": "openai", "input": "0.20", "output": "1.60",
   "cache_read": "0.02", "valid_from": "2026-10-01"},
  {"model": "my-deployment-*", "input": "0", "output": "0"}
]}
```

Prices are dollars per million tokens, as text so that no digit is lost. `model` may hold `*`; of
the entries that match, the one with the latest `valid_from` before the call holds.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from decimal import Decimal
from fnmatch import fnmatchcase
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from langchain_tokenopt.accounting.prices import Price
from langchain_tokenopt.calls.usage import Usage
from langchain_tokenopt.files import read_entries


class PriceEntry(BaseModel):
    """One entry of an override file. Prices are dollars per million tokens."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str = Field(min_length=1)
    input: Decimal = Field(ge=0, allow_inf_nan=False)
    output: Decimal = Field(ge=0, allow_inf_nan=False)
    cache_read: Decimal | None = Field(default=None, ge=0, allow_inf_nan=False)
    cache_write: Decimal | None = Field(default=None, ge=0, allow_inf_nan=False)
    cache_write_1h: Decimal | None = Field(default=None, ge=0, allow_inf_nan=False)
    cache_write_12h: Decimal | None = Field(default=None, ge=0, allow_inf_nan=False)
    input_audio: Decimal | None = Field(default=None, ge=0, allow_inf_nan=False)
    output_audio: Decimal | None = Field(default=None, ge=0, allow_inf_nan=False)
    provider: str | None = None
    tier: str | None = None
    valid_from: date = date.min


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    prices: list[PriceEntry]


@dataclass(frozen=True, slots=True)
class PriceOverrides:
    """A price source over the user's own entries; combine it with others by `first_known`."""

    entries: Sequence[PriceEntry]
    source: str = "own prices"

    @classmethod
    def load(cls, path: str | Path) -> "PriceOverrides":
        """Return the prices of a file.

        Raises:
            ConfigurationError: The file is absent, is not JSON, or an entry is wrong; the message
                names the entry and the field.
        """
        path = Path(path)
        read = read_entries(path, _File, called=f"the price file {path}")
        return cls(entries=tuple(read.prices), source=f"{path.name}")

    def __call__(
        self, *, model: str, provider: str | None, tier: str | None, usage: Usage, at: datetime
    ) -> Price | None:
        """Return the price of the entry that holds at `at`, `None` if none matches."""
        del usage
        matching = [
            entry
            for entry in self.entries
            if fnmatchcase(model, entry.model)
            and entry.provider in (None, provider)
            and entry.tier == tier
            and datetime.combine(entry.valid_from, time.min, UTC) <= at
        ]
        if not matching:
            return None
        entry = max(matching, key=lambda entry: entry.valid_from)
        kept = entry.model_dump(exclude={"model", "provider", "tier", "valid_from"})
        return Price(**kept, source=self.source)
