"""What an alert says."""

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """Something about the calls is not as it should be."""

    at: datetime
    """When it was noticed, aware UTC."""
    rule: str
    """Name of the rule that noticed it."""
    measure: str
    """What was measured: `spend`, `unit_cost`, `error_rate`, `latency` or `hit_rate`."""
    group: str
    """The feature, model or tenant it is about, "" for all calls."""
    value: float
    """What was measured, in the unit of the measure: dollars, seconds or a share."""
    expected: float | None
    """The baseline's median; `None` of a fixed limit."""
    limit: float
    """What the value went past."""
    message: str
    """All of it in one sentence for people."""
