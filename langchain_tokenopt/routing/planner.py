"""Whether a cascade pays: it, the small model alone and the strong one alone, side by side."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from langchain_tokenopt.errors import ConfigurationError

Choice = Literal["weak", "cascade", "strong"]
Vector = NDArray[np.float64]

_DRAWS = 1_000
_LEAST_REQUESTS = 30  # a bootstrap of fewer is surer than it should be


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a request costs and how good its answers are, each way."""

    weak_quality: float
    """0 to 1; 1 for right."""
    strong_quality: float
    weak_cost: Decimal | None
    """Dollars; `None` if not known."""
    strong_cost: Decimal | None
    gate_cost: Decimal | None
    """Of what the gate asked for this draft; 0 if it asked nothing."""
    accepted: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A mean with its 95% bootstrap interval over the requests: an estimate."""

    low: float
    mean: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.1%} ({self.low:.1%} to {self.high:.1%})"


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanOption:
    """One way to answer, as it would have gone on the labelled requests."""

    name: Choice
    quality: Interval
    cost_share: Interval | None
    """Of the strong model's cost; `None` if prices are not known."""
    cost: Decimal | None
    """Dollars a request, estimated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CascadePlan:
    """What is advised, why, and what each way comes to."""

    choice: Choice
    reason: str
    options: tuple[PlanOption, ...]
    requests: int

    @property
    def best(self) -> PlanOption:
        """The advised way."""
        return next(option for option in self.options if option.name == self.choice)

    def __str__(self) -> str:
        return f"{self.choice}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Measured:
    """A model's answer to one request."""

    quality: float
    cost: Decimal


def plan_cascade(
    outcomes: Sequence[Outcome],
    *,
    among: Collection[Choice] = ("weak", "cascade", "strong"),
    tolerance: float = 0.0,
    seed: int = 0,
) -> CascadePlan:
    """Return whether to cascade, or which model to ask alone.

    The small model alone is advised if it costs less and, by at least 30 requests, its quality is
    surely no lower than the strong one's minus `tolerance`; the strong one alone if the small one
    costs more; a cascade only if what accepted drafts save surely exceeds what all drafts and the
    gate cost, that is if P(accept) x cost(strong) > cost(weak) + cost(gate). Surely means at the
    95% interval's bound.
    Without prices the strong model alone is advised.

    Args:
        outcomes: At least one; `accepted` as the gate's threshold has it.
        among: What may be advised; the strong model alone always may.
        tolerance: Share of quality that the small model alone may lack.
        seed: Of the bootstrap.
    """
    if not outcomes:
        raise ConfigurationError("a plan needs at least one labelled request, got none")
    weak = np.array([outcome.weak_quality for outcome in outcomes])
    strong = np.array([outcome.strong_quality for outcome in outcomes])
    accepted = np.array([outcome.accepted for outcome in outcomes])
    draws = _draws(len(outcomes), seed)
    qualities = {
        "weak": weak,
        "cascade": np.where(accepted, weak, strong),
        "strong": strong,
    }
    costs = _costs(outcomes, accepted)
    options = tuple(_option(name, qualities[name], costs, draws) for name in _NAMES)
    choice, reason = _choice(qualities, costs, draws, among=among, tolerance=tolerance)
    return CascadePlan(choice=choice, reason=reason, options=options, requests=len(outcomes))


def dominating(models: Mapping[str, Sequence[Measured]], *, seed: int = 0) -> str | None:
    """Return the model that costs no more than any other and is surely as good, `None` if none is.

    Every model answered the same requests, in the same order, at least 30 for an answer.

    >>> cheap = [Measured(1.0, Decimal("0.001"))] * 40
    >>> dear = [Measured(1.0, Decimal("0.002"))] * 20 + [Measured(0.0, Decimal("0.002"))] * 20
    >>> dominating({"dear": dear, "cheap": cheap})
    'cheap'
    """
    sizes = {len(answers) for answers in models.values()}
    if len(models) < 2 or len(sizes) != 1 or sizes == {0}:
        message = (
            "expected at least two models that answered the same requests, got "
            f"{len(models)} with {', '.join(map(str, sorted(sizes)))} answers"
        )
        raise ConfigurationError(message)
    size = sizes.pop()
    if size < _LEAST_REQUESTS:
        return None
    draws = _draws(size, seed)
    quality = {name: np.array([a.quality for a in row]) for name, row in models.items()}
    cost = {name: sum((a.cost for a in row), Decimal(0)) for name, row in models.items()}
    for name in sorted(models, key=lambda each: cost[each]):
        others = [other for other in models if other != name]
        if all(cost[name] <= cost[other] for other in others) and all(
            _interval(quality[name] - quality[other], draws).low >= 0 for other in others
        ):
            return name
    return None


_NAMES: tuple[Choice, ...] = ("weak", "cascade", "strong")


def _costs(outcomes: Sequence[Outcome], accepted: NDArray[np.bool_]) -> dict[str, Vector] | None:
    """Return the dollars of each request each way, `None` if some are not known."""
    rows = [(o.weak_cost, o.strong_cost, o.gate_cost) for o in outcomes]
    if any(amount is None for row in rows for amount in row):
        return None
    weak, strong, gate = np.array(rows, dtype=float).T
    return {"weak": weak, "cascade": weak + gate + np.where(accepted, 0, strong), "strong": strong}


def _option(
    name: Choice, quality: Vector, costs: dict[str, Vector] | None, draws: NDArray[np.intp]
) -> PlanOption:
    if costs is None:
        return PlanOption(name=name, quality=_interval(quality, draws), cost_share=None, cost=None)
    own, strong = costs[name], costs["strong"]
    share = None
    if strong.sum() > 0:
        shares = own[draws].sum(axis=1) / np.maximum(strong[draws].sum(axis=1), 1e-300)
        low, high = np.quantile(shares, (0.025, 0.975))
        mean = float(own.sum() / strong.sum())
        share = Interval(low=float(low), mean=mean, high=float(high))
    return PlanOption(
        name=name,
        quality=_interval(quality, draws),
        cost_share=share,
        cost=Decimal(f"{own.mean():.10f}"),
    )


def _choice(
    qualities: Mapping[str, Vector],
    costs: dict[str, Vector] | None,
    draws: NDArray[np.intp],
    *,
    among: Collection[Choice],
    tolerance: float,
) -> tuple[Choice, str]:
    if costs is None:
        return "strong", "some costs are not known, so whether a cascade pays cannot be told"
    behind = _interval(qualities["weak"] - qualities["strong"], draws)
    if costs["weak"].mean() > costs["strong"].mean():
        return "strong", "the small model costs more than the strong one"
    if "weak" in among and len(draws[0]) >= _LEAST_REQUESTS and behind.low >= -tolerance:
        return "weak", "the small model costs less and is as good"
    saving = _interval(costs["strong"] - costs["cascade"], draws)
    share = saving.mean / max(float(costs["strong"].mean()), 1e-300)
    if "cascade" not in among or saving.low <= 0:
        return "strong", (
            f"a cascade would cost {1 - share:.1%} of the strong model, which is no sure saving"
        )
    return "cascade", f"accepted drafts save {share:.1%} of the strong model's cost, all calls paid"


def _interval(values: Vector, draws: NDArray[np.intp]) -> Interval:
    means = values[draws].mean(axis=1)
    low, high = np.quantile(means, (0.025, 0.975))
    return Interval(low=float(low), mean=float(values.mean()), high=float(high))


def _draws(size: int, seed: int) -> NDArray[np.intp]:
    return np.random.default_rng(seed).integers(0, size, (_DRAWS, size))
