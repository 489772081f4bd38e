"""What calibration decided, saved as JSON: coefficients, threshold, promise, plan, and the data."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from langchain_tokenopt.errors import ConfigurationError
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
        """Write it as JSON."""
        path.write_text(self.as_json(), encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> "RoutingPolicy":
        """Read what `save` wrote.

        Raises:
            ConfigurationError: The file is no policy.
        """
        try:
            return _CODEC.validate_json(path.read_bytes())
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "the file"
            message = (
                f"expected a routing policy in {path}, got {where}: {first['msg']}; "
                "write one with `tokenopt calibrate`"
            )
            raise ConfigurationError(message) from error


_CODEC = TypeAdapter(RoutingPolicy)
