"""Alerts: what is noticed, what is not, where it goes."""

import hashlib
import hmac
import json
import logging
import random
import sqlite3
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from langchain_tokenopt.accounting import Alert, CallRecord, Usage, UsageLedger
from langchain_tokenopt.accounting.alert_log import AlertLog
from langchain_tokenopt.accounting.alert_rules import AlertRule
from langchain_tokenopt.accounting.alert_sinks import WebhookSink, log_alerts
from langchain_tokenopt.accounting.alerts import AlertMonitor
from langchain_tokenopt.errors import ConfigurationError, StoreError

MONDAY = datetime(2026, 11, 2, tzinfo=UTC)
SPEND = AlertRule("spend", measure="spend", per="feature", change=1.0)
SOON = AlertRule("spend", measure="spend", per="feature", min_history=24)


def call(at: datetime, **fields: Any) -> CallRecord:
    return CallRecord(
        **{
            "run_id": uuid4(), "started_at": at, "kind": "live", "model": "gpt-5-mini",
            "usage": Usage(plain_input=1_000, cache_read=1_000, output=50),
            "cost": Decimal("0.01"), "latency_s": 1.0, "feature": "faq", **fields,
        }
    )  # fmt: skip


def hours(
    count: int, *, calls: int = 30, start: datetime = MONDAY, **fields: Any
) -> Iterator[CallRecord]:
    """Calls at equal distances, the same in every hour."""
    for hour in range(count):
        for n in range(calls):
            at = start + timedelta(hours=hour, seconds=3_500 * n / calls)
            yield call(at, **{k: v(n) if callable(v) else v for k, v in fields.items()})


def raised(monitor: AlertMonitor, *calls: Iterator[CallRecord]) -> list[Alert]:
    return [a for each in calls for a in monitor.replay(each) if a.state == "raised"]


# --- fixed limits -----------------------------------------------------------------------------


def test_spend_past_a_fixed_limit_is_told_at_once() -> None:
    rule = AlertRule("hour", measure="spend", limit=0.055)
    monitor = AlertMonitor(rules=[rule])

    (alert,) = raised(monitor, hours(1))
    assert alert.at == MONDAY + timedelta(seconds=3_500 * 5 / 30 + 1)
    assert alert.value == pytest.approx(0.06)
    assert alert.message == "spend is $0.060000 a hour (limit $0.055000 a hour)"
    assert alert.expected is None


def test_a_day_is_summed_up_and_begins_anew() -> None:
    rule = AlertRule("day", measure="spend", limit=6.5, window="day")
    alerts = raised(AlertMonitor(rules=[rule]), hours(48))

    assert [a.at.date().day for a in alerts] == [2, 3]
    rule = AlertRule("day", measure="spend", limit=7.5, window="day")
    assert raised(AlertMonitor(rules=[rule]), hours(72)) == []  # 7.20 a day


@pytest.mark.parametrize(
    ("measure", "limit", "good", "bad"),
    [
        ("unit_cost", 0.02, {}, {"cost": Decimal("0.03")}),
        ("error_rate", 0.05, {}, {"kind": lambda n: "error" if n % 2 else "live"}),
        ("latency", 3.0, {}, {"latency_s": 5.0}),
        ("hit_rate", 0.5, {"kind": "cache_hit"}, {"kind": "live"}),
        ("provider_hit_rate", 0.5, {}, {"usage": Usage(plain_input=2_000, output=50)}),
    ],
)
def test_each_measure_has_a_limit(measure: Any, limit: float, good: Any, bad: Any) -> None:
    monitor = AlertMonitor(rules=[AlertRule("r", measure=measure, limit=limit)])

    assert raised(monitor, hours(3, **good)) == []
    (alert,) = raised(monitor, hours(2, start=MONDAY + timedelta(hours=3), **bad))
    assert alert.measure == measure
    assert alert.at < MONDAY + timedelta(hours=4)


@pytest.mark.parametrize("errors", [1, 2, 3])
def test_a_few_bad_calls_of_a_few_are_no_alert(errors: int) -> None:
    rule = AlertRule("r", measure="error_rate", limit=0.2, min_calls=5)
    kinds = ["error"] * errors + ["live"] * (6 - errors)
    calls = (call(MONDAY + timedelta(minutes=n), kind=kind) for n, kind in enumerate(kinds))

    assert raised(AlertMonitor(rules=[rule]), calls) == []


# --- baselines --------------------------------------------------------------------------------


def test_what_is_usual_at_this_hour_raises_nothing_and_ten_times_as_much_does() -> None:
    def month() -> Iterator[CallRecord]:
        rng = random.Random(1)
        for hour in range(24 * 15):
            busy = 40 if 8 <= hour % 24 <= 18 else 4
            yield from hours(
                1, calls=max(1, round(busy * rng.uniform(0.8, 1.2))),
                start=MONDAY + timedelta(hours=hour),
            )  # fmt: skip

    monitor = AlertMonitor(rules=[SPEND])
    assert raised(monitor, month()) == []
    night = MONDAY + timedelta(days=15, hours=2)
    (alert,) = raised(monitor, hours(1, calls=40, start=night))

    assert alert.expected == pytest.approx(0.04, abs=0.01)
    assert (alert.at - night) < timedelta(minutes=20)  # 40 calls would be usual at noon
    assert "spend of feature faq is" in alert.message


def test_a_monitor_that_knows_too_little_says_nothing() -> None:
    monitor = AlertMonitor(rules=[SOON])
    day = hours(23)
    assert raised(monitor, day, hours(1, calls=900, start=MONDAY + timedelta(hours=23))) == []


def test_small_amounts_do_not_matter_below_the_floor() -> None:
    rule = AlertRule("r", measure="spend", floor=5.0, min_history=24)
    quiet = AlertMonitor(rules=[rule])
    assert raised(quiet, hours(48), hours(1, calls=300, start=MONDAY + timedelta(hours=48))) == []


def test_an_incident_stays_out_of_the_baseline_until_it_is_the_new_normal() -> None:
    monitor = AlertMonitor(rules=[AlertRule("r", measure="unit_cost", change=0.5, min_history=24)])
    raised(monitor, hours(48))
    dear = {"cost": Decimal("0.03")}
    start = MONDAY + timedelta(hours=48)

    two_days = monitor.replay(hours(48, start=start, **dear))
    assert [a.state for a in two_days] == ["raised"] + ["still"] * 7  # every six hours
    later = monitor.replay(hours(24 * 9, start=start + timedelta(hours=48), **dear))
    assert [a.state for a in later if a.state != "still"] == ["recovered"]


def test_what_ends_is_told_once() -> None:
    monitor = AlertMonitor(rules=[AlertRule("r", measure="error_rate", limit=0.1)])
    bad = hours(1, kind=lambda n: "error" if n % 2 else "live")
    states = [a.state for a in monitor.replay(bad)]
    states += [a.state for a in monitor.replay(hours(4, start=MONDAY + timedelta(hours=1)))]

    assert states == ["raised", "recovered"]


def test_groups_are_looked_at_alone() -> None:
    monitor = AlertMonitor(rules=[AlertRule("r", measure="spend", per="tenant", limit=0.2)])
    calls = hours(1, tenant=lambda n: "acme" if n % 2 else "bolt")
    assert raised(monitor, calls) == []
    (alert,) = raised(monitor, hours(1, tenant="acme", start=MONDAY + timedelta(hours=1)))
    assert alert.group == "acme"


def test_calls_without_a_price_are_said() -> None:
    rule = AlertRule("r", measure="spend", limit=0.01)
    calls = [call(MONDAY, cost=None), call(MONDAY), call(MONDAY)]
    (alert,) = raised(AlertMonitor(rules=[rule]), iter(calls))
    assert "1 calls of this hour have no price" in alert.message


def test_late_calls_and_too_many_groups_are_counted() -> None:
    monitor = AlertMonitor(rules=[AlertRule("r", measure="spend", per="tenant", limit=99.0)])
    monitor.replay(hours(2, tenant="a"))
    monitor.replay([call(MONDAY, tenant="a")])
    assert monitor.late == 1
    monitor.replay(call(MONDAY, tenant=f"t{n}") for n in range(1_010))
    assert monitor.overflow == 11


def test_a_ledger_teaches_a_monitor_what_is_usual(tmp_path: Path) -> None:
    with UsageLedger(tmp_path / "ledger.sqlite") as ledger:
        for each in hours(48):
            ledger.append(each)
        told: list[Alert] = []
        monitor = AlertMonitor([told.append], rules=[SOON])
        monitor.replay(ledger.records())
        live = UsageLedger(listeners=[monitor])
        for each in hours(1, calls=200, start=MONDAY + timedelta(hours=48)):
            live.append(each)

    assert [alert.rule for alert in told] == ["spend"]


def test_many_threads_at_once_lose_nothing() -> None:
    told: list[Alert] = []
    monitor = AlertMonitor([told.append], rules=[AlertRule("r", measure="spend", limit=19.995)])
    threads = [
        threading.Thread(target=lambda: [monitor(call(MONDAY)) for _ in range(250)])
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    (alert,) = told  # the last of two thousand
    assert alert.value == pytest.approx(20.0)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"measure": "speed"}, "measure must be one of spend, .* got 'speed'"),
        ({"measure": "spend", "per": "user"}, "per must be one of feature, .* got 'user'"),
        ({"measure": "latency", "window": "day"}, "for a fixed limit on spend"),
        ({"measure": "spend", "window": "day"}, "for a fixed limit on spend"),
        ({"measure": "spend", "min_calls": 0}, "min_calls at least 1"),
    ],
)
def test_a_rule_without_meaning_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        AlertRule("r", **options)
    with pytest.raises(ConfigurationError, match="different names"):
        AlertMonitor(rules=[SPEND, SPEND])


# --- sinks ------------------------------------------------------------------------------------

ALERT = Alert(
    at=MONDAY, rule="spend", measure="spend", group="faq", value=3.0, expected=1.0, limit=2.0,
    message="spend of feature faq is $3.00 a hour",
)  # fmt: skip


def test_the_log_says_it(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        log_alerts(ALERT)
    assert caplog.record_tuples == [
        ("langchain_tokenopt.alerts", logging.WARNING, f"spend: {ALERT.message}")
    ]


def test_a_sink_that_fails_is_counted_and_the_others_hear_it() -> None:
    told: list[Alert] = []

    def broken(alert: Alert) -> None:
        raise OSError("no sink")

    rule = AlertRule("r", measure="spend", limit=0.005)
    monitor = AlertMonitor([broken, told.append], rules=[rule])
    monitor(call(MONDAY))

    assert (len(told), monitor.sink_failures) == (1, 1)


def test_a_replay_tells_its_sinks_where_that_is_wanted() -> None:
    told: list[Alert] = []
    rule = AlertRule("r", measure="spend", limit=0.005)

    quiet = AlertMonitor([told.append], rules=[rule]).replay([call(MONDAY)])
    assert (len(quiet), told) == (1, [])
    AlertMonitor([told.append], rules=[rule]).replay([call(MONDAY)], tell=True)

    assert told == quiet


class Receiver:
    """A real HTTP server that answers by script and keeps what it got."""

    def __init__(self, *statuses: int) -> None:
        received: list[tuple[dict[str, str], bytes]] = []
        left = list(statuses)

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                received.append((dict(self.headers), body))
                self.send_response(left.pop(0) if left else 200)
                self.end_headers()

            def log_message(self, *args: Any) -> None:
                pass

        self.received = received
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/hook?token=secret"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def receive() -> Iterator[Any]:
    made: list[Receiver] = []

    def make(*statuses: int) -> Receiver:
        made.append(Receiver(*statuses))
        return made[-1]

    yield make
    for receiver in made:
        receiver.close()


def test_a_webhook_posts_signed_json(receive: Any) -> None:
    receiver = receive()
    sink = WebhookSink(receiver.url, secret=b"key", headers={"X-Team": "llm"})
    sink(ALERT)
    sink.flush()
    sink.close()

    ((headers, body),) = receiver.received
    told = json.loads(body)
    assert (told["rule"], told["at"]) == ("spend", "2026-11-02T00:00:00+00:00")
    assert told["text"] == f"[raised] spend: {ALERT.message}"
    digest = hmac.new(b"key", body, hashlib.sha256).hexdigest()
    assert headers["X-Tokenopt-Signature"] == f"sha256={digest}"
    assert headers["X-Team"] == "llm"
    assert sink.posted == 1


def test_a_webhook_tries_again_and_then_says_what_it_gave_up(
    receive: Any, caplog: pytest.LogCaptureFixture
) -> None:
    busy = receive(503, 429, 200)
    sink = WebhookSink(busy.url, pause_s=0.001)
    sink(ALERT)
    sink.flush()
    assert (sink.posted, sink.failed, len(busy.received)) == (1, 0, 3)
    sink.close()

    refusing = receive(400, 400)
    sink = WebhookSink(refusing.url, pause_s=0.001)
    sink(ALERT)
    sink.flush()
    sink.close()
    assert (sink.failed, len(refusing.received)) == (1, 1)  # it would refuse again
    assert "status 400" in caplog.text
    assert "secret" not in caplog.text


def test_a_webhook_may_be_closed_before_and_after_it_was_used(receive: Any) -> None:
    receiver = receive()
    sink = WebhookSink(receiver.url)
    sink.close()
    for _ in range(2):
        sink(ALERT)
        sink(ALERT)
        sink.close()
        sink.close()

    assert (sink.posted, len(receiver.received)) == (4, 4)


def test_a_webhook_that_is_away_holds_nobody_up(receive: Any) -> None:
    gone = receive()
    gone.close()
    sink = WebhookSink(gone.url, pause_s=3_600, timeout_s=0.2)
    sink(ALERT)
    sink.close()  # does not wait for the pause

    assert sink.failed == 1


@pytest.mark.parametrize("url", ["ftp://x", "hooks.example.com", "http://"])
def test_a_url_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="URL of a webhook"):
        WebhookSink(url)
    with pytest.raises(ConfigurationError, match="attempts at least 1"):
        WebhookSink("http://example.com", attempts=0)


def test_a_file_keeps_alerts_beside_the_ledger(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    log = AlertLog(path)
    assert log.alerts() == []
    with UsageLedger(path) as ledger:
        ledger.append(call(MONDAY))
    assert log.alerts() == []
    log(ALERT)
    AlertLog(path)(ALERT)

    assert AlertLog(path).alerts() == [ALERT, ALERT]
    assert log.alerts(since=MONDAY + timedelta(seconds=1)) == []
    assert log.alerts(until=MONDAY) == []


def test_a_file_that_cannot_be_used_says_so(tmp_path: Path) -> None:
    path = tmp_path / "x.sqlite"
    path.write_text("no database, and long enough to be read as one " * 20)
    with pytest.raises(StoreError, match="not a database"):
        AlertLog(path)(ALERT)
    with pytest.raises(StoreError, match="not a database"):
        AlertLog(path).alerts()
    with pytest.raises(ConfigurationError, match="folder that exists"):
        AlertLog(tmp_path / "none" / "x.sqlite")

    locked = tmp_path / "y.sqlite"
    AlertLog(locked)(ALERT)
    other = sqlite3.connect(locked)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreError, match="locked"):
        AlertLog(locked, timeout_s=0.05)(ALERT)
    other.close()
