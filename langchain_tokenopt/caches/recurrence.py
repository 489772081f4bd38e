"""When prompts come up again, and so which are worth asking before somebody does."""

import math
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, tzinfo

from langchain_tokenopt.errors import ConfigurationError

_HOUR_S = 3_600.0
_WEEK_HOURS = 168
_DAY_HOURS = 24
_FRESH = timedelta(days=1)  # how long a release is new
_SUREST = 0.99
_LONG_AGO = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """A prompt that is worth asking before someone does."""

    key: Hashable
    tokens: int
    """What a call takes, on average."""
    chance: float
    """That it is asked inside the horizon when its entry would be gone."""
    expires: datetime
    """When the answer that is kept now ends, as far as calls have shown."""
    saving: float
    """Tokens' worth to expect: `tokens` times what `chance` exceeds the price of a refresh by."""


@dataclass(slots=True)
class _Habit:
    """When one key was asked."""

    hours: list[int] = field(default_factory=lambda: [0] * _WEEK_HOURS)
    """By hour of the week: in how many hours it was asked, new releases apart."""
    fresh: list[int] = field(default_factory=lambda: [0] * _DAY_HOURS)
    """By hour of the day: the same on the days of new releases."""
    last_hour: int = -1
    asked: int = 0
    tokens: int = 0
    expires: datetime = _LONG_AGO


class Recurrence:
    """Learns which prompts are asked when: by hour, weekday, and whether a release is new.

    The chance of a prompt in an hour is its average, times what that hour of the day and that
    weekday stand out by, drawn towards the share of such hours of the week in which it was asked;
    and on the day after a release, drawn from there towards what was seen on such days. Each step
    counts as one observation, so a prompt seen twice is no habit yet. The same observations in
    the same order give the same ranks.

    A refresh takes the place of a call that somebody would have made, so it saves money only
    where it is cheaper: in a Batch API, at night, on idle hardware.

    Args:
        ttl_s: How long the cache keeps an answer, in seconds.
        refresh_price: Price of a refresh, as a share of what the call would cost.
        zone: In which hours and weekdays are meant.
        max_keys: Most prompts to follow; the longest unseen is forgotten.
    """

    def __init__(
        self,
        *,
        ttl_s: float,
        refresh_price: float = 0.5,
        zone: tzinfo = UTC,
        max_keys: int = 10_000,
    ) -> None:
        for name, value in (("ttl_s", ttl_s), ("max_keys", max_keys)):
            if value <= 0:
                message = f"{name} must be more than 0, got {value}"
                raise ConfigurationError(message)
        self._life = timedelta(seconds=ttl_s)
        self._price = refresh_price
        self._zone = zone
        self._max_keys = max_keys
        self._habits: OrderedDict[Hashable, _Habit] = OrderedDict()
        self._first: datetime | None = None
        self._releases: dict[str, datetime | None] = {}
        self._release = ""

    def observe(self, at: datetime, key: Hashable, *, tokens: int, release: str = "") -> None:
        """Note that a prompt was asked; in the order of time.

        Args:
            at: Aware.
            key: Names the prompt.
            tokens: What answering takes, served from the cache or not.
            release: What was out at the time. A tag is new for a day from when it first comes up;
                the first of all may have been out for long.
        """
        at = _aware(at)
        self._first = self._first or at
        if release not in self._releases:
            self._releases[release] = at if self._releases else None
        self._release = release
        habit = self._habits.setdefault(key, _Habit())
        self._habits.move_to_end(key)
        habit.asked += 1
        habit.tokens += tokens
        hour, of_week = int(at.timestamp() // _HOUR_S), self._hour_of(at)
        if hour != habit.last_hour:
            habit.last_hour = hour
            if self._is_fresh(at, release, now=at):
                habit.fresh[of_week % _DAY_HOURS] += 1
            else:
                habit.hours[of_week] += 1
        if at >= habit.expires:
            habit.expires = at + self._life  # the miss wrote it
        if len(self._habits) > self._max_keys:
            self._habits.popitem(last=False)

    def refreshed(self, at: datetime, key: Hashable) -> None:
        """Note that an entry was written anew without being asked for."""
        habit = self._habits.get(key)
        if habit is not None:
            habit.expires = _aware(at) + self._life

    def due(
        self,
        now: datetime,
        horizon_s: float,
        *,
        budget_tokens: int | None = None,
        release: str | None = None,
    ) -> list[Due]:
        """Return what to refresh now, the greatest saving first.

        Args:
            now: Aware.
            horizon_s: How far to look, in seconds; no farther than a refreshed entry lives.
            budget_tokens: Most tokens to spend; what saves most for each goes in first.
            release: What is out now, if not what was observed last; an unknown tag is new.
        """
        now = _aware(now)
        until = now + min(timedelta(seconds=horizon_s), self._life)
        exposed = self._exposed(now)
        release = self._release if release is None else release
        found = [
            self._due(key, habit, now=now, until=until, exposed=exposed, release=release)
            for key, habit in self._habits.items()
            if habit.expires < until
        ]
        worth = sorted((due for due in found if due.saving > 0), key=lambda due: -due.chance)
        left = math.inf if budget_tokens is None else budget_tokens
        chosen = []
        for due in worth:
            if due.tokens <= left:
                left -= due.tokens
                chosen.append(due)
        return sorted(chosen, key=lambda due: -due.saving)

    def _due(
        self,
        key: Hashable,
        habit: _Habit,
        *,
        now: datetime,
        until: datetime,
        exposed: list[float],
        release: str,
    ) -> Due:
        missed = 1.0  # the chance that nobody asks
        at = max(now, habit.expires)
        while at < until:
            step = min(until - at, timedelta(seconds=_HOUR_S - at.timestamp() % _HOUR_S))
            hour = self._hour_of(at)
            asked = _chance(habit, hour, exposed)
            if self._is_fresh(at, release, now=now):
                asked = (habit.fresh[hour % _DAY_HOURS] + asked) / (len(self._newer()) + 1)
            missed *= (1 - min(asked, _SUREST)) ** (step.total_seconds() / _HOUR_S)
            at += step
        chance = 1 - missed
        tokens = round(habit.tokens / habit.asked)
        saving = tokens * (chance - self._price)
        return Due(key=key, tokens=tokens, chance=chance, expires=habit.expires, saving=saving)

    def _hour_of(self, at: datetime) -> int:
        """Return the hour of the week, 0 for Monday's first."""
        local = at.astimezone(self._zone)
        return local.weekday() * 24 + local.hour

    def _exposed(self, now: datetime) -> list[float]:
        """Return how many hours of each kind were observed, days of new releases apart."""
        first = self._first or now
        hours = max(1, math.ceil((now - first).total_seconds() / _HOUR_S))
        weeks, rest = divmod(hours, _WEEK_HOURS)
        exposed = [float(weeks)] * _WEEK_HOURS
        for hour in range(rest):
            exposed[(self._hour_of(first) + hour) % _WEEK_HOURS] += 1
        for since in self._newer():
            for hour in range(_DAY_HOURS):
                place = (self._hour_of(since) + hour) % _WEEK_HOURS
                exposed[place] = max(0.0, exposed[place] - 1)
        return exposed

    def _newer(self) -> list[datetime]:
        """Return since when the releases after the first are out."""
        return [since for since in self._releases.values() if since is not None]

    def _is_fresh(self, at: datetime, release: str, *, now: datetime) -> bool:
        since = self._releases.get(release, now)  # one that was never seen is out from now
        return since is not None and at - since < _FRESH


def _chance(habit: _Habit, hour: int, exposed: list[float]) -> float:
    """Return how likely a key is asked in an hour of the week, most releases being old."""
    average = sum(habit.hours) / max(1.0, sum(exposed))
    like = average
    day = hour // _DAY_HOURS * _DAY_HOURS
    for alike in (slice(hour % _DAY_HOURS, None, _DAY_HOURS), slice(day, day + _DAY_HOURS)):
        like *= _stands_out(sum(habit.hours[alike]), average * sum(exposed[alike]))
    return (habit.hours[hour] + like) / (exposed[hour] + 1)


def _stands_out(counted: float, expected: float) -> float:
    return (counted + 1) / (expected + 1)


def _aware(at: datetime) -> datetime:
    if at.tzinfo is None:
        message = f"times must have a time zone, got {at!r}; use datetime.now(UTC)"
        raise ConfigurationError(message)
    return at
