"""What an alert rule watches, and when it speaks."""

from dataclasses import dataclass, field
from typing import Literal, get_args

from langchain_tokenopt.errors import ConfigurationError

Measure = Literal["spend", "unit_cost", "error_rate", "latency", "hit_rate", "provider_hit_rate"]
Per = Literal["feature", "model", "tenant", "endpoint", "provider"]
Window = Literal["hour", "day"]

FALLS: frozenset[Measure] = frozenset({"hit_rate", "provider_hit_rate"})
"""Measures that are bad when they fall."""


@dataclass(frozen=True, slots=True)
class AlertRule:
    """Compares a measure with a fixed limit, or with what is usual at this hour of the week.

    Args:
        name: Names the rule in alerts.
        measure: `spend` (dollars an hour or a day), `unit_cost` (dollars a call), `error_rate`,
            `latency` (95th percentile in seconds), `hit_rate` (of response caches, share of calls),
            `provider_hit_rate` (share of calls with a prompt of some length that read from the
            provider's cache).
        per: What calls are told apart by; `None` for all together.
        limit: A fixed limit: the most, or for hit rates the least. Without one, the baseline: the
            median of the same hours before, and their median absolute deviation.
        window: Over what `spend` is summed up; a baseline is always by the hour.
        deviations: How many robust standard deviations from the median are too many.
        change: The relative change that a baseline's limit is at least away from the median: 0.5 is
            half as much again. Of error and hit rates it is the difference in share.
        floor: The least absolute difference that matters, in the unit of the measure.
        min_calls: Fewer calls say nothing of a rate, a unit cost or a latency.
        min_history: The fewest earlier hours that make a baseline; spend, which follows the hour
            of the day, needs some days.
        cool_down_s: How long the same alert is not told again, in seconds.

    Raises:
        ConfigurationError: An option has no meaning.
    """

    name: str
    measure: Measure = field(kw_only=True)
    per: Per | None = field(default=None, kw_only=True)
    limit: float | None = field(default=None, kw_only=True)
    window: Window = field(default="hour", kw_only=True)
    deviations: float = field(default=5.0, kw_only=True)
    change: float = field(default=1.0, kw_only=True)
    floor: float = field(default=0.0, kw_only=True)
    min_calls: int = field(default=10, kw_only=True)
    min_history: int = field(default=96, kw_only=True)
    cool_down_s: float = field(default=6 * 3600.0, kw_only=True)

    def __post_init__(self) -> None:
        if self.measure not in get_args(Measure):
            known = ", ".join(get_args(Measure))
            raise ConfigurationError(f"measure must be one of {known}, got {self.measure!r}")
        if self.per is not None and self.per not in get_args(Per):
            known = ", ".join(get_args(Per))
            raise ConfigurationError(f"per must be one of {known} or None, got {self.per!r}")
        if self.window not in get_args(Window) or (
            self.window == "day" and (self.measure != "spend" or self.limit is None)
        ):
            message = (
                f"window is 'hour', or 'day' for a fixed limit on spend, got {self.window!r} "
                f"for {self.measure}"
            )
            raise ConfigurationError(message)
        numbers = (self.deviations, self.change, self.floor, self.cool_down_s)
        if min(numbers) < 0 or self.min_calls < 1 or self.min_history < 3:
            message = (
                "deviations, change, floor and cool_down_s must be 0 or more, min_calls at least "
                f"1 and min_history at least 3, got {self!r}"
            )
            raise ConfigurationError(message)

    @property
    def falls(self) -> bool:
        """Whether small values are the bad ones."""
        return self.measure in FALLS


def default_rules() -> tuple[AlertRule, ...]:
    """Return a rule of each kind, each against its baseline.

    On a replayed month with injected incidents (`benchmarks/alert_replay.py`) they find what they
    are there for within the hour, with about one false alarm in a week or less.
    """
    return (
        AlertRule("spend", measure="spend", per="feature", change=1.5, floor=0.05, min_history=120),
        AlertRule("unit cost", measure="unit_cost", per="feature", change=0.25, min_history=24),
        AlertRule("errors", measure="error_rate", per="feature", change=0.03, min_history=24),
        AlertRule(
            "latency", measure="latency", per="feature", change=0.3, floor=0.25, min_history=24
        ),
        AlertRule("response cache", measure="hit_rate", per="feature", change=0.1, min_history=24),
        AlertRule(
            "provider cache",
            measure="provider_hit_rate",
            per="feature",
            change=0.15,
            min_history=24,
        ),
    )
