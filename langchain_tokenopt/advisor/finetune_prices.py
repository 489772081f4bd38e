"""What fine-tuning costs: training, serving and hosting, dated, and until when it is offered.

The prices are data (`finetune_prices.json`), with their sources; a file of yours comes first.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from fnmatch import fnmatchcase
from functools import cache
from importlib.resources import files
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from langchain_tokenopt.accounting import Price
from langchain_tokenopt.accounting.prices import MILLION
from langchain_tokenopt.files import read_entries


class TuningPrice(BaseModel):
    """The prices of a model that can be tuned. Dollars per million tokens, but for hosting."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str = Field(min_length=1)
    """A pattern of the base model's name, with `*`."""
    provider: str | None = None
    training: Decimal = Field(ge=0, allow_inf_nan=False)
    """Of each training token, in each epoch."""
    input: Decimal = Field(ge=0, allow_inf_nan=False)
    """Of the tuned model."""
    output: Decimal = Field(ge=0, allow_inf_nan=False)
    cache_read: Decimal | None = Field(default=None, ge=0, allow_inf_nan=False)
    hosting_a_day: Decimal = Field(default=Decimal(0), ge=0, allow_inf_nan=False)
    """Dollars, whatever is asked of the model."""
    valid_from: date = date.min
    trains_until: date | None = None
    """The last day on which training can begin, if the provider has told one."""
    serves_until: date | None = None
    """The day on which tuned models stop to answer, if the provider has told one."""
    source: str = "own prices"

    def serving(self) -> Price:
        """Return the price of the tuned model's calls."""
        return Price(
            input=self.input, output=self.output, cache_read=self.cache_read, source=self.source
        )

    def training_cost(self, tokens: int, *, epochs: int) -> Decimal:
        """Return what training on so many tokens costs."""
        return self.training * tokens * epochs / MILLION


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    as_of: date | None = None
    note: str = ""
    prices: tuple[TuningPrice, ...]


@dataclass(frozen=True, slots=True)
class TuningPrices:
    """Prices in the order in which they are tried."""

    prices: Sequence[TuningPrice]

    @classmethod
    def load(cls, path: str | Path) -> "TuningPrices":
        """Return the prices of a file, before those that come with the package.

        Raises:
            ConfigurationError: The file is absent or wrong; the message names entry and field.
        """
        path = Path(path)
        own = read_entries(path, _File, called=f"the file of tuning prices {path}")
        return cls((*own.prices, *bundled_tuning_prices().prices))

    def find(self, model: str, *, at: date) -> TuningPrice | None:
        """Return the price for a base model that holds at a day, `None` if none is known.

        >>> price = bundled_tuning_prices().find("gpt-4.1-mini-2025-04-14", at=date(2026, 11, 1))
        >>> price.training_cost(1_000_000, epochs=3)
        Decimal('15')
        """
        name = model.strip().lower().rsplit("/", 1)[-1].removeprefix("ft:").split(":")[0]
        for price in self.prices:
            if fnmatchcase(name, price.model.lower()) and price.valid_from <= at:
                return price
        return None


@cache
def bundled_tuning_prices() -> TuningPrices:
    """Return the prices that come with the package."""
    bundled = files("langchain_tokenopt.advisor") / "finetune_prices.json"
    return TuningPrices(read_entries(bundled, _File, called="finetune_prices.json").prices)
