"""Whether a fine-tuned model would pay: break-even from what calls cost, day by day."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, Literal

from langchain_tokenopt.accounting import (
    CallRecord,
    GenaiPrices,
    Price,
    PriceSource,
    Usage,
    cost_of,
    normalise_usage,
)
from langchain_tokenopt.advisor.finetune_prices import (
    TuningPrice,
    TuningPrices,
    bundled_tuning_prices,
)
from langchain_tokenopt.advisor.log import LoggedCall
from langchain_tokenopt.errors import ConfigurationError
from langchain_tokenopt.reasoning.sequential import mean_interval

LEAST_DAYS = 7
"""Days of calls without which nothing is sure: fewer do not show how weekdays differ."""
_WEEK = 7
_LEAST_WEEKS = 4
_UNTESTED = "whether the tuned model answers as well, and as briefly, is not known: test it"

Verdict = Literal["pays", "may pay", "does not pay", "unknown"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PaidCall:
    """What one call used and cost."""

    at: datetime
    usage: Usage
    cost: Decimal | None
    """Dollars; `None` if no price is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MoneyRange:
    """Dollars, estimated, with an interval from how days differ."""

    low: Decimal
    middle: Decimal
    high: Decimal

    def __str__(self) -> str:
        return f"${self.middle:,.2f} (${self.low:,.2f} to ${self.high:,.2f})"


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakEven:
    """Whether tuning a model pays within a horizon. All of it is estimated."""

    model: str
    verdict: Verdict
    reason: str
    training_cost: Decimal | None
    """Dollars of one training; `None` if no price is known."""
    calls_a_day: float
    cost_a_day: Decimal | None
    """Dollars now; `None` if a call has no known price."""
    tuned_a_day: Decimal | None
    """Dollars of the tuned model, with its hosting."""
    saving_a_day: MoneyRange | None
    days: float | None
    """Until what was saved has paid for the training; `None` if never."""
    days_range: tuple[float | None, float | None] | None
    """The interval of it: with the largest saving, with the least."""
    horizon_days: int
    """For which it is computed: shorter than asked, if the model stops to answer before."""
    gain: MoneyRange | None
    """Dollars at the end of the horizon, with all trainings paid."""
    confidence: float
    notes: tuple[str, ...]

    def __str__(self) -> str:
        lines = [f"tuning {self.model} {self.verdict}: {self.reason}"]
        if self.saving_a_day is not None and self.gain is not None:
            costs = f"${self.cost_a_day:,.2f} now, ${self.tuned_a_day:,.2f} tuned"
            sure = f"{self.confidence:.0%} interval from how days differ, estimated"
            lines += [
                f"training: ${self.training_cost:,.2f}",
                f"a day: {costs}, saving {self.saving_a_day}",
                f"after {self.horizon_days} days: {self.gain}, {sure}",
            ]
        return "\n".join((*lines, *self.notes))


def calls_of_ledger(
    records: Iterable[CallRecord], *, feature: str | None = None, model: str | None = None
) -> Iterator[PaidCall]:
    """Yield the calls of a ledger that a tuned model would take over: those that models answered.

    Args:
        records: `ledger.records()`.
        feature: These alone.
        model: These alone.
    """
    for record in records:
        is_wanted = feature in (None, record.feature) and model in (None, record.model)
        if is_wanted and record.kind in ("live", "abandoned", "batch"):
            yield PaidCall(at=record.started_at, usage=record.usage, cost=record.cost)


def calls_of_log(
    calls: Iterable[LoggedCall], *, prices: PriceSource | None = None
) -> Iterator[PaidCall]:
    """Yield the answered calls of a log that have a time and usage, priced as they are told."""
    source = prices or GenaiPrices()
    for call in calls:
        reported: Any = call.answer.usage_metadata if call.answer is not None else None
        if reported is None or call.at is None:
            continue
        split = normalise_usage(reported)
        price = source(
            model=call.model, provider=None, tier=split.tier, usage=split.usage, at=call.at
        )
        cost = None if price is None else cost_of(split.usage, price).total
        yield PaidCall(at=call.at, usage=split.usage, cost=cost)


def break_even(
    calls: Iterable[PaidCall],
    *,
    model: str,
    training_tokens: int,
    epochs: int = 3,
    needless_tokens: int = 0,
    horizon_days: int = 180,
    retrain_every_days: int | None = None,
    confidence: float = 0.9,
    prices: TuningPrices | None = None,
    at: date | None = None,
) -> BreakEven:
    """Return whether and when a tuned model would have paid for its training.

    The tuned model is taken to answer with as many tokens as were answered with, to be sent
    `needless_tokens` less in each call, and to read nothing from a cache. Intervals are Student's,
    of the days, or of whole weeks if there are four or more; they say nothing of growth.

    Args:
        calls: What is paid now, on whole days.
        model: The base model to tune.
        training_tokens: Of one epoch; `TrainingSet.training_tokens`.
        epochs: How often the training goes through them.
        needless_tokens: Of each call's input: the instruction that the tuned model knows by heart.
        horizon_days: Days after the training that count.
        retrain_every_days: After how many days it is trained anew, because the task changes.
        confidence: Of the intervals.
        prices: What tuning costs.
        at: The day of the training; by default today.

    Raises:
        ConfigurationError: A value cannot be used, or there are no calls.

    >>> from datetime import datetime, UTC
    >>> calls = [
    ...     PaidCall(
    ...         at=datetime(2026, 1, day, tzinfo=UTC),
    ...         usage=Usage(plain_input=2_000_000, output=100_000),
    ...         cost=Decimal(15),
    ...     )
    ...     for day in range(1, 15)
    ... ]
    >>> day = date(2026, 1, 15)
    >>> print(break_even(calls, model="gpt-4.1-mini", training_tokens=500_000, at=day))
    tuning gpt-4.1-mini pays: its training is paid for after 0.6 days
    ...
    """
    at = at or datetime.now(UTC).date()
    counts = (training_tokens, epochs, horizon_days, retrain_every_days)
    if any(n is not None and n < 1 for n in counts) or needless_tokens < 0:
        message = (
            "expected training tokens, epochs and days of 1 or more and needless tokens of 0 or "
            f"more, got {counts} and {needless_tokens}"
        )
        raise ConfigurationError(message)
    if not 0 < confidence < 1:
        raise ConfigurationError(f"confidence is a share between 0 and 1, got {confidence}")
    days = _days(calls)
    calls_a_day = sum(len(day) for day in days) / len(days)
    price = (prices or bundled_tuning_prices()).find(model, at=at)
    notes = [_UNTESTED]
    unpriced = sum(call.cost is None for day in days for call in day)
    training = None if price is None else price.training_cost(training_tokens, epochs=epochs)
    stopped = _stopped(price, model, at)
    if price is None or training is None or unpriced or stopped:
        reason = stopped or (
            f"{unpriced:,} calls have no known price; give the ledger prices= for their models"
            if price is not None
            else f"no price of tuning {model} is known; give prices=TuningPrices.load(...)"
        )
        return BreakEven(
            model=model,
            verdict="does not pay" if stopped else "unknown",
            reason=reason,
            training_cost=training,
            calls_a_day=calls_a_day,
            cost_a_day=None if unpriced else _paid(days) / len(days),
            tuned_a_day=None,
            saving_a_day=None,
            days=None,
            days_range=None,
            horizon_days=horizon_days,
            gain=None,
            confidence=confidence,
            notes=(),
        )
    if price.serves_until is not None:
        left = (price.serves_until - at).days
        if left < horizon_days:
            horizon_days = left
            notes.append(f"tuned models of {model} stop to answer on {price.serves_until}")
    serving = price.serving()
    savings = [
        sum(
            ((call.cost or 0) - _tuned(call.usage, serving, needless_tokens) for call in day),
            Decimal(0),
        )
        - price.hosting_a_day
        for day in days
    ]
    saving = _mean(savings, confidence)
    trainings = math.ceil(horizon_days / retrain_every_days) if retrain_every_days else 1
    gain = MoneyRange(
        low=saving.low * horizon_days - training * trainings,
        middle=saving.middle * horizon_days - training * trainings,
        high=saving.high * horizon_days - training * trainings,
    )
    if len(days) < LEAST_DAYS:
        notes.append(f"{len(days)} days are too few to know how days differ")
    cost = _paid(days) / len(days)
    paid_after = _paid_after(training, saving.middle)
    verdict, reason = _verdict(gain, paid_after, horizon_days, is_sure=len(days) >= LEAST_DAYS)
    return BreakEven(
        model=model,
        verdict=verdict,
        reason=reason,
        training_cost=training,
        calls_a_day=calls_a_day,
        cost_a_day=cost,
        tuned_a_day=cost - saving.middle,
        saving_a_day=saving,
        days=paid_after,
        days_range=(_paid_after(training, saving.high), _paid_after(training, saving.low)),
        horizon_days=horizon_days,
        gain=gain,
        confidence=confidence,
        notes=tuple(notes),
    )


def _days(calls: Iterable[PaidCall]) -> list[list[PaidCall]]:
    """Return the calls of each day from the first to the last, with days that have none."""
    by_day: dict[date, list[PaidCall]] = {}
    for call in calls:
        by_day.setdefault(call.at.astimezone(UTC).date(), []).append(call)
    if not by_day:
        raise ConfigurationError("no calls to compute from; give those of a ledger or a log")
    first, last = min(by_day), max(by_day)
    return [by_day.get(first + timedelta(days=n), []) for n in range((last - first).days + 1)]


def _paid(days: Sequence[Sequence[PaidCall]]) -> Decimal:
    return sum((call.cost or Decimal(0) for day in days for call in day), Decimal(0))


def _stopped(price: TuningPrice | None, model: str, at: date) -> str | None:
    """Return why a model cannot be tuned any more."""
    if price is None:
        return None
    if price.trains_until is not None and at > price.trains_until:
        return f"{model} could be tuned until {price.trains_until} only"
    if price.serves_until is not None and at >= price.serves_until:
        return f"tuned models of {model} stopped to answer on {price.serves_until}"
    return None


def _tuned(usage: Usage, price: Price, needless_tokens: int) -> Decimal:
    """Return what a call costs with the tuned model."""
    asked = Usage(plain_input=max(usage.input_tokens - needless_tokens, 0), output=usage.output)
    return cost_of(asked, price).total


def _mean(values: Sequence[Decimal], confidence: float) -> MoneyRange:
    """Return the mean of days with its interval, which has no width if there is one day."""
    middle = sum(values, Decimal(0)) / len(values)
    spread = list(map(float, values))
    weeks = len(values) // _WEEK
    if weeks >= _LEAST_WEEKS:
        # Weekdays differ by a pattern, not by chance, and the days of a week are like each other.
        starts = range(len(values) - weeks * _WEEK, len(values), _WEEK)
        spread = [sum(spread[start : start + _WEEK]) / _WEEK for start in starts]
    found = mean_interval(spread, confidence=confidence)
    half = Decimal(0) if found is None else Decimal(str((found.high - found.low) / 2))
    return MoneyRange(low=middle - half, middle=middle, high=middle + half)


def _paid_after(training: Decimal, saving_a_day: Decimal) -> float | None:
    return float(training / saving_a_day) if saving_a_day > 0 else None


def _verdict(
    gain: MoneyRange, paid_after: float | None, horizon_days: int, *, is_sure: bool
) -> tuple[Verdict, str]:
    if paid_after is None:
        return "does not pay", "a day of the tuned model costs as much as now, or more"
    told = f"its training is paid for after {paid_after:,.1f} days"
    if gain.high <= 0:
        return "does not pay", f"{told}, and {horizon_days} days do not pay for what they need"
    if gain.low > 0 and is_sure:
        return "pays", told
    return "may pay", f"{told}, but days differ too much to be sure"
