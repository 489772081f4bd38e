"""What a bandit has learned: discounted sums for each task and arm, which merge and are kept."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Literal

from pydantic import ConfigDict, TypeAdapter

from langchain_tokenopt.errors import ConfigurationError
from langchain_tokenopt.files import read_json, write_json

_AS_WRITTEN = ConfigDict(extra="forbid")
"""A file with other names is of something else, or mistyped; nothing must be made of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmSums:
    """Discounted sums over the rewards of one arm."""

    __pydantic_config__ = _AS_WRITTEN

    weight: float = 0.0
    """How many rewards they are worth."""
    quality: float = 0.0
    cost: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what no rewards add up to."""
        # Rounding keeps the order: rewards of 1 add up to the weight exactly, never to more.
        if not (0 <= self.quality <= self.weight < inf and 0 <= self.cost < inf):
            message = (
                "expected a finite weight, a quality from 0 to the weight and a finite cost not "
                f"below 0, got {self.weight}, {self.quality} and {self.cost}"
            )
            raise ConfigurationError(message)

    def aged(self, discount: float) -> "ArmSums":
        """Return the sums when a reward came since."""
        return ArmSums(
            weight=self.weight * discount,
            quality=self.quality * discount,
            cost=self.cost * discount,
        )

    def __add__(self, other: "ArmSums") -> "ArmSums":
        """Return the sums over the rewards of both."""
        return ArmSums(
            weight=self.weight + other.weight,
            quality=self.quality + other.quality,
            cost=self.cost + other.cost,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class BanditState:
    """All that a bandit has learned: sums by task and arm, those over all tasks under "".

    >>> one = BanditState(sums={"faq": {"small": ArmSums(weight=2.0, quality=1.0)}})
    >>> one.merged(one).sums["faq"]["small"].weight
    4.0
    """

    __pydantic_config__ = _AS_WRITTEN

    sums: Mapping[str, Mapping[str, ArmSums]]
    version: Literal[1] = 1

    def merged(self, other: "BanditState") -> "BanditState":
        """Return what both have learned, of different rewards: what both have seen counts twice."""
        tasks = dict.fromkeys([*self.sums, *other.sums])
        return BanditState(sums={task: self._together(other, task) for task in tasks})

    def save(self, path: Path) -> None:
        """Write it as JSON; who reads the file meanwhile gets the old state or the new one."""
        write_json(path, _CODEC, self)

    @classmethod
    def load(cls, path: Path) -> "BanditState":
        """Read what `save` wrote.

        Raises:
            ConfigurationError: The file holds no state.
        """
        return read_json(path, _CODEC, expected="a bandit's state", made_by="`state().save`")

    def _together(self, other: "BanditState", task: str) -> dict[str, ArmSums]:
        mine, theirs = self.sums.get(task, {}), other.sums.get(task, {})
        return {
            arm: mine.get(arm, ArmSums()) + theirs.get(arm, ArmSums())
            for arm in dict.fromkeys([*mine, *theirs])
        }


_CODEC = TypeAdapter(BanditState)
