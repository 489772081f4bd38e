"""What is usual at an hour: median and median absolute deviation of the same hours before."""

import statistics
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

_HOURS_OF_A_WEEK = 168
_KEPT = 6 * _HOURS_OF_A_WEEK
_TO_SIGMA = 1.4826
_FEW = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Usual:
    """What is usual."""

    median: float
    scale: float
    """Robust standard deviation."""


class Baseline:
    """The values of closed hours, by the number of the hour since 1970 (UTC).

    The same hour of the week is asked first; while there are fewer than four of those, the same
    hour of the days of the same kind (working days, weekends), then of all days; before that, all
    hours. Each with the hours beside it.

    >>> baseline = Baseline()
    >>> for hour in range(24 * 21):
    ...     baseline.add(hour, 100.0 if 8 <= hour % 24 <= 10 else 1.0)
    >>> baseline.usual(24 * 21 + 9, least=24).median, baseline.usual(24 * 21 + 3, least=24).median
    (100.0, 1.0)
    """

    def __init__(self) -> None:
        self._hours: list[int] = []
        self._values: list[float] = []

    def add(self, hour: int, value: float) -> None:
        """Note the value of a closed hour; hours come in their order."""
        self._hours.append(hour)
        self._values.append(value)
        if len(self._hours) > _KEPT + _HOURS_OF_A_WEEK:
            del self._hours[:_HOURS_OF_A_WEEK]
            del self._values[:_HOURS_OF_A_WEEK]

    def __len__(self) -> int:
        return len(self._hours)

    def usual(self, hour: int, *, least: int) -> Usual | None:
        """Return what is usual at an hour, `None` with fewer than `least` hours of history."""
        if len(self._hours) < least:
            return None
        week = self._near(hour, [hour - n * _HOURS_OF_A_WEEK for n in range(1, 6)])
        if len(week) >= 3 * _FEW:
            return _usual(week)
        kind = _weekend(hour)
        alike = [hour - n * 24 for n in range(1, 22) if _weekend(hour - n * 24) == kind]
        day = self._near(hour, list(reversed(alike)))
        if len(day) < 3 * _FEW:
            day = self._near(hour, [hour - n * 24 for n in range(1, 22)])
        if len(day) >= 3 * _FEW:
            return _usual(day)
        return _usual(self._values[-_HOURS_OF_A_WEEK:])

    def _near(self, hour: int, centres: Sequence[int]) -> list[float]:
        """Return the values of these hours and of those beside them: seasons are smooth."""
        found: list[float] = []
        for centre in centres:
            at = bisect_left(self._hours, centre - 1)
            while at < len(self._hours) and self._hours[at] <= centre + 1:
                found.append(self._values[at])
                at += 1
        return found


def _usual(values: Sequence[float]) -> Usual:
    median = statistics.median(values)
    deviation = statistics.median(abs(value - median) for value in values)
    # Half of the hours may be equal, and say nothing of the others: the quartiles then do.
    ordered = sorted(values)
    spread = (ordered[len(ordered) * 9 // 10] - ordered[len(ordered) // 10]) / 2.56
    return Usual(median=median, scale=max(deviation * _TO_SIGMA, spread / 2))


def _weekend(hour: int) -> bool:
    return (hour // 24 + 3) % 7 >= 5  # the first day of 1970 was a Thursday
