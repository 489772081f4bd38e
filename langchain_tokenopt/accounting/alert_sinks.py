"""Where alerts go: the log, a webhook. Any function of an `Alert` is a sink too."""

import atexit
import hashlib
import hmac
import json
import logging
import queue
import threading
import time
from dataclasses import asdict
from typing import Any
from urllib.parse import urlsplit

from langchain_tokenopt.accounting.alert import Alert
from langchain_tokenopt.errors import ConfigurationError

_LOG = logging.getLogger("langchain_tokenopt.alerts")
_MOST_WAITING = 1_000
_RETRIED = frozenset({408, 425, 429})


def log_alerts(alert: Alert) -> None:
    """Write an alert to the log `langchain_tokenopt.alerts`: a warning, information if it ended."""
    level = logging.INFO if alert.state == "recovered" else logging.WARNING
    _LOG.log(level, "%s: %s", alert.rule, alert.message)


def alert_as_json(alert: Alert) -> dict[str, Any]:
    """Return an alert as JSON values; `text` is what chat services show."""
    told = {**asdict(alert), "at": alert.at.isoformat()}
    return {**told, "text": f"[{alert.state}] {alert.rule}: {alert.message}"}


class WebhookSink:
    """Posts alerts as JSON to a URL, from a thread of its own.

    The call that raised an alert waits for nothing. A post that fails is tried again, with growing
    pauses; what still cannot be posted is logged and counted. The URL, which may hold a secret, is
    named in logs by its host only.

    Args:
        url: `https://` or `http://`.
        secret: Signs the body: `X-Tokenopt-Signature: sha256=<HMAC in hexadecimal digits>`.
        headers: Sent as well.
        timeout_s: Of one post.
        attempts: How often a post is tried.
        pause_s: Before the second attempt; doubled before each further one.

    Raises:
        ConfigurationError: It is no such URL, or a number has no meaning.
    """

    def __init__(
        self,
        url: str,
        *,
        secret: bytes | None = None,
        headers: dict[str, str] | None = None,
        timeout_s: float = 5.0,
        attempts: int = 4,
        pause_s: float = 1.0,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            message = f"expected the URL of a webhook, got one of scheme {parts.scheme!r}"
            raise ConfigurationError(message)
        if timeout_s <= 0 or attempts < 1 or pause_s < 0:
            message = (
                "timeout_s must be more than 0, attempts at least 1 and pause_s 0 or more, "
                f"got {timeout_s}, {attempts} and {pause_s}"
            )
            raise ConfigurationError(message)
        self._url, self._host = url, parts.hostname
        self._secret = secret
        self._headers = dict(headers or {})
        self._timeout_s, self._attempts, self._pause_s = timeout_s, attempts, pause_s
        self._queue: queue.Queue[Alert | None] = queue.Queue(maxsize=_MOST_WAITING)
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closing = threading.Event()
        self.posted = 0
        """Alerts that arrived."""
        self.failed = 0
        """Alerts given up."""

    def __call__(self, alert: Alert) -> None:
        """Post an alert soon."""
        with self._lock:
            if self._thread is None:
                self._closing.clear()
                self._thread = threading.Thread(
                    target=self._post_for_ever, name="tokenopt-webhook", daemon=True
                )
                self._thread.start()
                atexit.register(self.close)
        try:
            self._queue.put_nowait(alert)
        except queue.Full:
            self._give_up("too many wait")

    def flush(self) -> None:
        """Return when what waited is posted or given up."""
        self._queue.join()

    def close(self) -> None:
        """Post what waits, each once more at most, and end the thread."""
        with self._lock:
            thread, self._thread = self._thread, None
        if thread is not None:
            self._closing.set()
            self._queue.put(None)
            thread.join()
            atexit.unregister(self.close)

    def _post_for_ever(self) -> None:
        import httpx  # noqa: PLC0415 - comes with langchain-openai, and takes a while to load

        with httpx.Client(timeout=self._timeout_s) as client:
            while True:
                alert = self._queue.get()
                try:
                    if alert is None:
                        return
                    self._post(client, alert)
                finally:
                    self._queue.task_done()

    def _post(self, client: Any, alert: Alert) -> None:
        body = json.dumps(alert_as_json(alert)).encode()
        headers = {"content-type": "application/json", **self._headers}
        if self._secret is not None:
            digest = hmac.new(self._secret, body, hashlib.sha256).hexdigest()
            headers["X-Tokenopt-Signature"] = f"sha256={digest}"
        problem = ""
        for attempt in range(self._attempts):
            if attempt and self._waited(self._pause_s * 2 ** (attempt - 1)):
                break
            try:
                answer = client.post(self._url, content=body, headers=headers)
            except Exception as error:  # noqa: BLE001 - whatever the network does is no alert
                problem = type(error).__name__
                continue
            if answer.is_success:
                self.posted += 1
                return
            problem = f"status {answer.status_code}"
            if answer.status_code < 500 and answer.status_code not in _RETRIED:
                break
        self._give_up(problem)

    def _waited(self, pause_s: float) -> bool:
        """Wait, and return whether the sink is closing: then nothing is tried again."""
        end = time.monotonic() + pause_s
        while not self._closing.is_set() and (left := end - time.monotonic()) > 0:
            self._closing.wait(left)
        return self._closing.is_set()

    def _give_up(self, problem: str) -> None:
        self.failed += 1
        _LOG.warning("an alert could not be posted to %s: %s", self._host, problem)
