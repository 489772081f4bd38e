"""Watches the calls as they are booked, and tells when they are not as usual."""

import logging
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal

from langchain_tokenopt.accounting.alert import Alert, AlertSink, AlertState
from langchain_tokenopt.accounting.alert_rules import AlertRule, default_rules
from langchain_tokenopt.accounting.alert_series import HOUR_S, Series
from langchain_tokenopt.accounting.records import CallRecord
from langchain_tokenopt.accounting.report import dollars, seconds
from langchain_tokenopt.errors import ConfigurationError

_LOG = logging.getLogger(__name__)

_MOST_GROUPS = 1_000
OTHER = "other"
_LONGEST_GAP_H = 24 * 14
# What lasts longer than this is the new normal: the baseline learns it.
_ADOPTED_AFTER_H = 72


@dataclass(slots=True)
class _State:
    """How one rule stands for one group."""

    since_h: int | None = None
    """The hour in which it was raised, `None` if it is not."""
    told_at: float = 0.0
    bad_h: int = -1
    """The latest hour that was past the limit."""
    limit_h: int = -1
    limit: float | None = None
    expected: float | None = None


class AlertMonitor:
    """A ledger's listener that tells sinks what is not as usual: `UsageLedger(listeners=[...])`.

    It is quick, keeps sums only, and never raises. Calls are looked at as they end: spend as soon
    as the running hour has passed what the whole hour should have cost, rates as soon as the calls
    say so beyond chance. Hours in which a rule was past its limit stay out of its baseline, for
    three days: then they are the new normal.

    Args:
        sinks: Told of each alert, in the thread of the call.
        rules: What to watch.

    Raises:
        ConfigurationError: Two rules have one name.

    >>> told: list[Alert] = []
    >>> rule = AlertRule("day", measure="spend", limit=5.0, window="day")
    >>> monitor = AlertMonitor([told.append], rules=[rule])
    """

    def __init__(
        self, sinks: Sequence[AlertSink] = (), *, rules: Sequence[AlertRule] | None = None
    ) -> None:
        self._rules = tuple(default_rules() if rules is None else rules)
        names = [rule.name for rule in self._rules]
        if not names or len(set(names)) < len(names):
            raise ConfigurationError(f"expected rules of different names, got {names}")
        self._sinks = tuple(sinks)
        self._lock = threading.Lock()
        self._by_per: dict[str | None, list[AlertRule]] = {}
        for rule in self._rules:
            self._by_per.setdefault(rule.per, []).append(rule)
        self._series: dict[tuple[str | None, str], Series] = {}
        self._states: dict[tuple[str, str], _State] = {}
        self.late = 0
        """Calls that ended in an hour that was closed already, and were left out."""
        self.overflow = 0
        """Calls counted under `other`, since there were too many groups."""
        self.sink_failures = 0
        """Alerts that a sink did not take."""

    def __call__(self, record: CallRecord) -> None:
        """Look at one call."""
        with self._lock:
            alerts = self._look(record)
        self._tell(alerts)

    def replay(self, records: Iterable[CallRecord], *, tell: bool = False) -> list[Alert]:
        """Look at stored calls, oldest first, and return the alerts that they would have raised.

        To learn what is usual from a ledger before new calls come:
        `monitor.replay(ledger.records())`. The sinks hear nothing unless `tell` is set.
        """
        found: list[Alert] = []
        for record in records:
            with self._lock:
                alerts = self._look(record)
            found += alerts
            if tell:
                self._tell(alerts)
        return found

    def _tell(self, alerts: Sequence[Alert]) -> None:
        for alert in alerts:
            for sink in self._sinks:
                try:
                    sink(alert)
                except Exception as error:  # noqa: BLE001 - no sink may break the call
                    self.sink_failures += 1
                    _LOG.warning("%r could not be told of an alert: %r", sink, error)

    def _look(self, record: CallRecord) -> list[Alert]:
        at_s = record.started_at.timestamp() + record.latency_s
        hour = int(at_s // HOUR_S)
        alerts: list[Alert] = []
        for per, rules in self._by_per.items():
            group = self._group(per, record)
            series = self._series.get((per, group))
            if series is None:
                series = self._series[per, group] = Series()
                series.hour = hour
            if series.hour is not None and hour > series.hour:
                alerts += self._close(series, rules, group, until=hour)
            elif series.hour is not None and hour < series.hour:
                self.late += 1
                continue
            series.add(record, at_s)
            due = series.is_due()
            for rule in rules:
                if not due and rule.measure != "spend":
                    continue
                alert = self._judge(rule, group, series, hour, at_s)
                if alert is not None:
                    alerts.append(alert)
        return alerts

    def _group(self, per: str | None, record: CallRecord) -> str:
        group = "" if per is None else str(getattr(record, per) or "")
        if (per, group) in self._series or len(self._series) < _MOST_GROUPS:
            return group
        self.overflow += 1
        return OTHER

    def _close(
        self, series: Series, rules: Sequence[AlertRule], group: str, *, until: int
    ) -> list[Alert]:
        """Put the hour that ended into the baselines, and say what recovered in it."""
        ended = series.hour
        assert ended is not None  # noqa: S101 - set when the series was made
        alerts: list[Alert] = []
        for rule in rules:
            state = self._state(rule, group)
            past = state.bad_h == ended
            adopted = state.since_h is not None and ended - state.since_h >= _ADOPTED_AFTER_H
            value = series.running.value(rule.measure)
            enough = rule.measure == "spend" or series.running.count(rule.measure) >= rule.min_calls
            if value is not None and enough and (not past or adopted):
                series.baseline(rule.measure).add(ended, value)
            if rule.measure == "spend" and until - ended <= _LONGEST_GAP_H:
                for quiet in range(ended + 1, until):
                    series.baseline("spend").add(quiet, 0.0)
            if state.since_h is None or value is None:
                continue
            if not past and not _beyond(rule, state, value):
                at_s = float((ended + 1) * HOUR_S)
                alerts.append(
                    self._alert(
                        rule, group, series=series, at_s=at_s, what="recovered", value=value
                    )
                )
                state.since_h = None
        series.hour = until
        series.running = type(series.running)()
        return alerts

    def _judge(
        self, rule: AlertRule, group: str, series: Series, hour: int, at_s: float
    ) -> Alert | None:
        state = self._state(rule, group)
        if state.limit_h != hour:
            self._set_limit(rule, series, state, hour)
        if state.limit is None:
            return None
        value = self._value_past(rule, series, state.limit)
        if value is None:
            return None
        state.bad_h = hour
        if state.since_h is None:
            state.since_h, state.told_at = hour, at_s
            return self._alert(rule, group, series=series, at_s=at_s, what="raised", value=value)
        if at_s - state.told_at >= rule.cool_down_s:
            state.told_at = at_s
            return self._alert(rule, group, series=series, at_s=at_s, what="still", value=value)
        return None

    def _value_past(self, rule: AlertRule, series: Series, limit: float) -> float | None:
        """Return the measured value if it is past the limit."""
        if rule.measure == "spend":
            spent = series.day_cost if rule.window == "day" else series.running.cost
            return spent if spent > limit else None
        for recent in series.recent(rule.measure, least=rule.min_calls):
            if recent.is_past(rule.measure, limit):
                return recent.value(rule.measure)
        return None

    def _set_limit(self, rule: AlertRule, series: Series, state: _State, hour: int) -> None:
        state.limit_h = hour
        if rule.limit is not None:
            state.limit, state.expected = rule.limit, None
            return
        usual = series.baseline(rule.measure).usual(hour, least=rule.min_history)
        if usual is None:
            state.limit = None
            return
        share = rule.falls or rule.measure == "error_rate"
        change = rule.change if share else rule.change * abs(usual.median)
        away = max(rule.deviations * usual.scale, change, rule.floor)
        if share:
            # A share cannot leave 0 to 1: many deviations would make a limit that nothing passes.
            away = min(away, max(1.5 * rule.change, rule.floor))
        state.expected = usual.median
        state.limit = usual.median - away if rule.falls else usual.median + away
        if rule.falls and state.limit <= 0:
            state.limit = None  # it was never high enough to collapse

    def _state(self, rule: AlertRule, group: str) -> _State:
        return self._states.setdefault((rule.name, group), _State())

    def _alert(
        self,
        rule: AlertRule,
        group: str,
        *,
        series: Series,
        at_s: float,
        what: AlertState,
        value: float,
    ) -> Alert:
        state = self._state(rule, group)
        limit = 0.0 if state.limit is None else state.limit
        shown = _shown(rule, value)
        about = f" of {rule.per} {group or '(none)'}" if rule.per else ""
        said = {"raised": "is", "still": "is still", "recovered": "is again"}[what]
        usual = "" if state.expected is None else f", usual is {_shown(rule, state.expected)}"
        unpriced = series.running.unpriced
        loose = f"; {unpriced} calls of this hour have no price" if unpriced else ""
        return Alert(
            at=datetime.fromtimestamp(at_s, UTC),
            rule=rule.name,
            measure=rule.measure,
            group=group,
            value=value,
            expected=state.expected,
            limit=limit,
            message=(
                f"{rule.measure.replace('_', ' ')}{about} {said} {shown}"
                f" (limit {_shown(rule, limit)}{usual}){loose}"
            ),
            state=what,
        )


def _beyond(rule: AlertRule, state: _State, value: float) -> bool:
    """Return whether an hour's value is past the limit, though it may be so by chance."""
    if state.limit is None:
        return False
    return value < state.limit if rule.falls else value > state.limit


def _shown(rule: AlertRule, value: float) -> str:
    if rule.measure in ("spend", "unit_cost"):
        every = {"spend": f" a {rule.window}", "unit_cost": " a call"}[rule.measure]
        return f"{dollars(Decimal(str(round(value, 9))))}{every}"
    return seconds(value) if rule.measure == "latency" else f"{value:.1%}"
