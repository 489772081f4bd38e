"""What an alert says."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

AlertState = Literal["raised", "still", "recovered"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """Something about the calls is not as it should be, or is again."""

    at: datetime
    """When it was noticed, aware UTC."""
    rule: str
    """Name of the rule that noticed it."""
    measure: str
    """What was measured: `spend`, `unit_cost`, `error_rate`, `latency`, `hit_rate`,
    `provider_hit_rate` or `budget`."""
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
    state: AlertState = "raised"
    """`still` reminds of one that lasts, `recovered` ends it."""


AlertSink = Callable[[Alert], None]
"""Is told of alerts: a function of yours, or one of `alert_sinks`."""
