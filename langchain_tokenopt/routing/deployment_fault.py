"""Whose fault an error is: the deployment's, so that another is asked, or the caller's."""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Literal

FaultKind = Literal["rate_limited", "unavailable", "refused"]

_TOO_MANY = 429
# Request timeout, conflict and too early: what providers' own clients try again, too.
_PASSING = frozenset({408, 409, 425})
# The key or the name of the deployment is wrong: another deployment has others.
_MISCONFIGURED = frozenset({401, 402, 403, 404})
# Errors without a status, by name: the clients of providers are optional here.
_NO_ANSWER = frozenset({
    "APIConnectionError", "TransportError", "ClientConnectionError", "ConnectTimeoutError",
    "EndpointConnectionError", "HTTPClientError", "ServiceUnavailable", "DeadlineExceeded",
})  # fmt: skip
_THROTTLED = frozenset({"ThrottlingException", "TooManyRequestsException"})
_SPAN = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_UNIT_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_MOST_CAUSES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What is wrong with a deployment."""

    kind: FaultKind
    """It has enough for now, gave no answer, or does not take the key or the model's name."""
    wait_s: float | None = None
    """For how long the provider wants not to be asked, `None` if it does not say."""


Judge = Callable[[Exception], Fault | None]
"""Says what is wrong with the deployment that raised, `None` where the request is at fault."""


def fault_of(error: Exception) -> Fault | None:
    """Return what is wrong with the deployment that raised; `None` if the request is at fault.

    Rate limits, status 5xx, timeouts and lost connections are the deployment's, and so are keys and
    names that it refuses (401 to 404). Any other status, a broken content policy too, and errors
    without one would be the same elsewhere.

    >>> fault_of(TimeoutError())
    Fault(kind='unavailable', wait_s=None)
    >>> fault_of(ValueError("no such tool")) is None
    True
    """
    cause: BaseException | None = error
    for _ in range(_MOST_CAUSES):
        if cause is None:
            break
        found = _status(cause)
        if found is not None:
            return _of_status(found, _headers(cause))
        names = {kind.__name__ for kind in type(cause).__mro__}
        if isinstance(cause, TimeoutError | ConnectionError) or names & _NO_ANSWER:
            return Fault(kind="unavailable")
        if type(cause).__name__ == "APIError":  # of a stream: the error came as an event
            return Fault(kind="unavailable")
        cause = cause.__cause__
    return None


def told_wait_s(headers: Mapping[str, str], *, now: datetime | None = None) -> float | None:
    """Return for how long a provider wants not to be asked, `None` if it does not say.

    Reads `retry-after-ms`, `retry-after` in seconds or as a date, and OpenAI's
    `x-ratelimit-reset-*`, of which those count that have nothing left.

    >>> told_wait_s({"retry-after": "2.5"}), told_wait_s({"x-ratelimit-reset-tokens": "1m6s"})
    (2.5, 66.0)
    """
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    told = headers.get("retry-after")
    seconds = _number(told)
    if seconds is not None:
        return seconds
    if told:
        until = _date(told)
        if until is not None:
            return max((until - (now or datetime.now(UTC))).total_seconds(), 0.0)
    return _reset_s(headers)


def _of_status(status: int, headers: Mapping[str, str]) -> Fault | None:
    if status == _TOO_MANY:
        return Fault(kind="rate_limited", wait_s=told_wait_s(headers))
    if status >= 500 or status in _PASSING:
        return Fault(kind="unavailable", wait_s=_asked_to_wait(headers))
    if status in _MISCONFIGURED:
        return Fault(kind="refused")
    return None


def _asked_to_wait(headers: Mapping[str, str]) -> float | None:
    """Return the wait of an error that is no rate limit: its rate-limit headers say nothing."""
    asked = {k: v for k in ("retry-after-ms", "retry-after") if (v := headers.get(k))}
    return told_wait_s(asked)


def _status(error: BaseException) -> int | None:
    response = getattr(error, "response", None)
    if isinstance(response, Mapping):  # of botocore
        if response.get("Error", {}).get("Code") in _THROTTLED:
            return _TOO_MANY
        found: Any = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    else:
        found = getattr(error, "status_code", None) or getattr(response, "status_code", None)
        if found is None:
            found = getattr(error, "code", None)  # of Google's clients
    return found if isinstance(found, int) and 100 <= found < 600 else None


def _headers(error: BaseException) -> Mapping[str, str]:
    response = getattr(error, "response", None)
    if isinstance(response, Mapping):
        headers: Any = response.get("ResponseMetadata", {}).get("HTTPHeaders")
    else:
        headers = getattr(response, "headers", None)
    if not isinstance(headers, Mapping):
        return {}
    return {str(name).lower(): str(value) for name, value in headers.items()}


def _reset_s(headers: Mapping[str, str]) -> float | None:
    resets: list[float] = []
    used_up: list[float] = []
    for limit in ("requests", "tokens"):
        seconds = _span_s(headers.get(f"x-ratelimit-reset-{limit}"))
        if seconds is not None:
            resets.append(seconds)
            if _number(headers.get(f"x-ratelimit-remaining-{limit}")) == 0:
                used_up.append(seconds)
    # A large request is refused while some tokens are left: then the shorter wait is the guess.
    return max(used_up) if used_up else min(resets, default=None)


def _span_s(text: str | None) -> float | None:
    """Return seconds of `1h2m3s`, `66ms` or a plain number."""
    plain = _number(text)
    if plain is not None or not text:
        return plain
    parts = _SPAN.findall(text)
    if "".join(number + unit for number, unit in parts) != text:
        return None
    return sum(float(number) * _UNIT_S[unit] for number, unit in parts)


def _number(text: str | None) -> float | None:
    try:
        number = float(text or "")
    except ValueError:
        return None
    return number if math.isfinite(number) and number >= 0 else None


def _date(text: str) -> datetime | None:
    try:
        date = parsedate_to_datetime(text)
    except (TypeError, ValueError):
        return None
    return date if date.tzinfo is not None else date.replace(tzinfo=UTC)
