"""What each feature will cost in the days to come, with an interval: the extra `forecast`.

The model is statsmodels' local level with a weekly pattern, on a scale on which zero days and
days of ten times the usual are both bearable. Gaps are left to its Kalman filter, a shift of level
to the level that moves. Intervals come from paths that are drawn from it, with the residuals that
the history had, so that sums over days have theirs too.
"""

import math
import warnings
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import numpy as np
from numpy.typing import NDArray

from langchain_tokenopt.accounting import CallRecord
from langchain_tokenopt.accounting.rollup_query import LedgerReader, RollupField
from langchain_tokenopt.errors import ConfigurationError, MissingExtraError

LEAST_DAYS = 7
"""Days of history without which nothing is forecast."""
_PATHS = 2_000
# Where the scale turns from linear to logarithmic: a fifth of the usual day.
_BEND = 5.0
_Vector = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class SpendSeries:
    """What something cost, day by day."""

    name: str
    begins: date
    amounts: tuple[Decimal | None, ...]
    """Dollars; 0 for a day without calls, `None` for one that nothing is known of."""
    unpriced_calls: int = 0
    """Calls of unknown price: not in the amounts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ForecastDay:
    """An estimate of one day. Money is rounded to a millionth of a dollar."""

    day: date
    expected: Decimal
    """The median: it may as well be more as less."""
    low: Decimal
    high: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class SpendForecast:
    """An estimate of the days to come, and of their sum."""

    name: str
    days: tuple[ForecastDay, ...]
    expected: Decimal
    """Of all days together."""
    low: Decimal
    high: Decimal
    confidence: float
    """Of each day's interval, and of the sum's."""
    method: str
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        told = "".join(f"; {note}" for note in self.notes)
        return (
            f"{self.name or '(none)'}: ${self.expected:,.2f} in {len(self.days)} days "
            f"({self.confidence:.0%}: ${self.low:,.2f} to ${self.high:,.2f}; estimated, "
            f"{self.method}){told}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ForecastReport:
    """Forecasts by name, and why others have none."""

    forecasts: Mapping[str, SpendForecast]
    skipped: Mapping[str, str]

    def __str__(self) -> str:
        lines = [str(found) for found in self.forecasts.values()]
        lines += [f"{name or '(none)'}: no forecast, {why}" for name, why in self.skipped.items()]
        return "\n".join(lines) or "nothing to forecast"


def spend_by_feature(
    records: Iterable[CallRecord], *, until: date | None = None, gaps: Collection[date] = ()
) -> dict[str, SpendSeries]:
    """Return the spend of each feature by day, from a ledger's records.

    Args:
        records: `ledger.records()`.
        until: The first day that is left out; by default today, which is not over.
        gaps: Days of which the ledger knows nothing: it was off, or its file was lost.
    """
    sums: dict[str, dict[date, tuple[Decimal, int]]] = {}
    for record in records:
        amount, unpriced = sums.setdefault(record.feature or "", {}).get(
            record.started_at.date(), (Decimal(0), 0)
        )
        sums[record.feature or ""][record.started_at.date()] = (
            amount + (record.cost or 0),
            unpriced + (record.cost is None),
        )
    return _series(sums, until=until, gaps=gaps)


def read_spend(
    reader: LedgerReader,
    *,
    by: RollupField = "feature",
    until: date | None = None,
    gaps: Collection[date] = (),
) -> dict[str, SpendSeries]:
    """Return what `spend_by_feature` does, by any field, quick at millions of calls."""
    sums: dict[str, dict[date, tuple[Decimal, int]]] = {}
    for (name, day), totals in reader.spend_by([by, "day"]).items():
        found = (totals.cost, totals.unpriced_calls)
        sums.setdefault(name, {})[date.fromisoformat(day)] = found
    return _series(sums, until=until, gaps=gaps)


def forecast(
    series: SpendSeries,
    *,
    days: int = 30,
    confidence: float = 0.8,
    season: int | None = 7,
    seed: int = 0,
) -> SpendForecast:
    """Return what the days after a series will cost if what drove it goes on.

    Args:
        series: The history; the model knows nothing but it.
        days: How many days.
        confidence: Of the intervals.
        season: Days after which a pattern repeats, if two of them are known; `None` for no pattern.
        seed: Of the paths.

    Raises:
        ConfigurationError: A value cannot be used, or the history is too short.
        MissingExtraError: The extra `forecast` is not installed.

    >>> week = [Decimal(n) for n in (20, 21, 22, 21, 20, 8, 7)]
    >>> found = forecast(
    ...     SpendSeries(name="faq", begins=date(2026, 1, 5), amounts=(*week, *week, *week)), days=7
    ... )
    >>> found.low <= 119 <= found.high, found.method
    (True, 'local level with a pattern of 7 days')
    """
    if days < 1 or not 0 < confidence < 1 or (season is not None and season < 2):
        message = (
            "expected days of 1 or more, a confidence between 0 and 1 and a season of 2 days or "
            f"more, got {days}, {confidence} and {season}"
        )
        raise ConfigurationError(message)
    history = np.array([math.nan if a is None else float(a) for a in series.amounts])
    known = history[~np.isnan(history)]
    if len(known) < LEAST_DAYS:
        message = f"{len(known)} days of history are too few; expected {LEAST_DAYS} or more"
        raise ConfigurationError(message)
    if (known < 0).any() or not np.isfinite(known).all():
        raise ConfigurationError("expected amounts of 0 dollars or more")
    notes = []
    if series.unpriced_calls:
        notes.append(f"{series.unpriced_calls:,} calls of unknown price are not in it")
    if np.ptp(known) == 0:
        paths = np.full((_PATHS, days), known[0])
        method = "every day was the same"
        notes.append("the interval says nothing: no day differed from another")
    else:
        if season is not None and not _shows_pattern(history, season):
            notes.append(f"too short for a pattern of {season} days")
            season = None
        paths, method = _paths(history, days, season, seed)
    shares = ((1 - confidence) / 2, 0.5, (1 + confidence) / 2)
    by_day = np.quantile(paths, shares, axis=0)
    whole = np.quantile(paths.sum(axis=1), shares)
    first = series.begins + timedelta(days=len(series.amounts))
    return SpendForecast(
        name=series.name,
        days=tuple(
            ForecastDay(
                day=first + timedelta(days=n),
                expected=_money(middle),
                low=_money(low),
                high=_money(high),
            )
            for n, (low, middle, high) in enumerate(by_day.T)
        ),
        expected=_money(whole[1]),
        low=_money(whole[0]),
        high=_money(whole[2]),
        confidence=confidence,
        method=method,
        notes=tuple(notes),
    )


def forecast_all(
    series: Mapping[str, SpendSeries],
    *,
    days: int = 30,
    confidence: float = 0.8,
    season: int | None = 7,
) -> ForecastReport:
    """Return a forecast of each series, dearest first, and why some have none."""
    found: dict[str, SpendForecast] = {}
    skipped: dict[str, str] = {}
    for name, each in series.items():
        known = sum(amount is not None for amount in each.amounts)
        if known < LEAST_DAYS:
            skipped[name] = f"{known} days of history are too few, expected {LEAST_DAYS} or more"
        else:
            found[name] = forecast(each, days=days, confidence=confidence, season=season)
    dearest = sorted(found.items(), key=lambda pair: -pair[1].expected)
    return ForecastReport(forecasts=dict(dearest), skipped=skipped)


def _series(
    sums: Mapping[str, Mapping[date, tuple[Decimal, int]]],
    *,
    until: date | None,
    gaps: Collection[date],
) -> dict[str, SpendSeries]:
    ends = until or datetime.now(UTC).date()
    found = {}
    for name, by_day in sorted(sums.items()):
        begins = min(by_day)
        days = [begins + timedelta(days=n) for n in range((ends - begins).days)]
        found[name] = SpendSeries(
            name=name,
            begins=begins,
            amounts=tuple(
                None if day in gaps else by_day.get(day, (Decimal(0), 0))[0] for day in days
            ),
            unpriced_calls=sum(n for day, (_, n) in by_day.items() if day < ends),
        )
    return found


def _shows_pattern(history: _Vector, season: int) -> bool:
    """Return whether a history has two seasons, of which three quarters of the days are known."""
    known = int(np.count_nonzero(~np.isnan(history)))
    return len(history) >= 2 * season and known >= 1.5 * season


def _paths(history: _Vector, days: int, season: int | None, seed: int) -> tuple[_Vector, str]:
    """Return paths of the days to come, a row each, and the name of the model."""
    known = history[~np.isnan(history)]
    usual = max(float(np.median(known[known > 0])), float(known.max()) / 1e6)
    scaled = np.arcsinh(history / usual * _BEND)
    candidates = [_fit(scaled, None)]
    if season is not None:
        candidates.append(_fit(scaled, season))
    best = min(candidates, key=lambda fitted: float(fitted.aic))
    pattern = best.model.seasonal_periods if best.model.seasonal else None
    parameters = dict(zip(best.model.param_names, map(float, best.params), strict=True))
    noise, drift = parameters["sigma2.irregular"], parameters["sigma2.level"]
    ahead = best.get_forecast(days)
    begun = max(float(np.asarray(ahead.var_pred_mean)[0]) - noise - drift, 0.0)
    drawn = np.random.default_rng(seed)
    # The fit flatters itself by the parameters that it took from the history.
    taken = 2 + ((pattern or 1) - 1)
    flattered = math.sqrt(len(known) / max(len(known) - taken, 1))
    level = drawn.normal(size=(_PATHS, 1)) * math.sqrt(begun)
    moved = np.cumsum(drawn.normal(size=(_PATHS, days)) * math.sqrt(drift), axis=1)
    shocks = drawn.choice(_residuals(best, taken), (_PATHS, days)) * math.sqrt(noise) * flattered
    scaled_paths = np.asarray(ahead.predicted_mean) + level + moved + shocks
    # Bounded where no spend lies, so that a wild path cannot overflow.
    paths = np.sinh(np.clip(scaled_paths, 0.0, 50.0)) * usual / _BEND
    return paths, "local level" + (f" with a pattern of {pattern} days" if pattern else "")


def _fit(scaled: _Vector, season: int | None) -> Any:
    try:
        # Heavy, and of an extra.
        from statsmodels.tsa.statespace import structural  # type: ignore[import-untyped] # noqa: PLC0415
    except ImportError as error:
        raise MissingExtraError(package="statsmodels", extra="forecast") from error
    with warnings.catch_warnings():
        # A variance at its bound of 0 is told as an optimum that was not surely reached.
        warnings.simplefilter("ignore")
        model = structural.UnobservedComponents(
            scaled, level="llevel", seasonal=season, stochastic_seasonal=False
        )
        return model.fit(disp=0)


def _residuals(fitted: Any, taken: int) -> _Vector:
    """Return the errors of the fit a day ahead, with mean 0 and variance 1."""
    errors = np.asarray(fitted.filter_results.standardized_forecasts_error[0])[taken:]
    errors = errors[np.isfinite(errors)]
    spread = float(errors.std()) if len(errors) > 1 else 0.0
    if spread == 0:
        return np.array([-1.0, 1.0])
    found: _Vector = (errors - errors.mean()) / spread
    return found


def _money(amount: float) -> Decimal:
    return Decimal(f"{amount:.6f}")
