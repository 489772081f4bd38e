"""What calibration decided, saved as JSON: coefficients, threshold, promise, plan, and the data."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter

from langchain_tokenopt.files import read_json, write_json
from langchain_tokenopt.routing.gate import GateVerdict
from langchain_tokenopt.routing.gate_model import GateModel
from langchain_tokenopt.routing.planner import CascadePlan, Choice
from langchain_tokenopt.routing.risk import Promise
from langchain_tokenopt.routing.router import GainRouter


@dataclass(frozen=True, slots=True, kw_only=True)
class DataNote:
    """On what a policy rests."""

    labels: int
    fitted: int
    """Labels that the gate's model was fitted on."""
    calibrated: int
    """Labels that the threshold, the promise and the plan rest on; none of the fitted ones."""
    loss_rate: float
    """The share of calibration labels where the strong model was right and the small one wrong."""
    mark: str
    """Tells two sets of calibration questions apart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutingPolicy:
    """Whether to cascade, and from which score on a draft is accepted."""

    plan: CascadePlan
    promise: Promise
    gate_model: GateModel | None
    """For `Gate(model=...)`; the gate must ask the second opinions that the labels had."""
    data: DataNote
    router: GainRouter | None = None
    """Sends some requests to the strong model before anything is drafted."""
    version: Literal[1] = 1

    @property
    def choice(self) -> Choice:
        """`cascade`, or the one model to ask."""
        return self.plan.choice

    def accepts(self, verdict: GateVerdict) -> bool:
        """Return whether a draft is good enough for the promise."""
        return verdict.score > self.promise.threshold

    def as_json(self) -> str:
        """Return it as JSON."""
        return _CODEC.dump_json(self, indent=2).decode() + "\n"

    def save(self, path: Path) -> None:
        """Write it as JSON; who reads the file meanwhile gets the old policy or the new one."""
        write_json(path, _CODEC, self)

    @classmethod
    def load(cls, path: Path) -> "RoutingPolicy":
        """Read what `save` wrote.

        Raises:
            ConfigurationError: The file is no policy.
        """
        return read_json(path, _CODEC, expected="a routing policy", made_by="`tokenopt calibrate`")


_CODEC = TypeAdapter(RoutingPolicy)
