"""Looks at an installation: versions, extras, token counts, prices, a Redis, a settings file."""

import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, TypeAlias

from packaging.requirements import Requirement

from langchain_tokenopt.errors import ConfigurationError, StoreError
from langchain_tokenopt.tokens import counter_for

Status: TypeAlias = Literal["good", "note", "bad"]

PACKAGE = "langchain-tokenopt"
_STALE = timedelta(days=60)
_SLOW_S = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was looked at."""

    subject: str
    status: Status
    """`note` is worth knowing; `bad` will fail or mislead."""
    told: str
    advice: str = ""


def examine(
    *,
    redis: str | None = None,
    settings: str | Path | None = None,
    now: datetime | None = None,
) -> list[Finding]:
    """Return what there is to say about this installation; nothing here raises for what it finds.

    Args:
        redis: The URL of a Redis to look at.
        settings: A settings file to check.
        now: For tests.
    """
    found = [_python(), *_requirements(), *_extras(), _tokens(), _prices(now or datetime.now(UTC))]
    if redis is not None:
        found += _redis(redis)
    if settings is not None:
        found.append(_settings(settings))
    return found


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    good = sys.version_info >= (3, 11)
    advice = "" if good else "use Python 3.11 or newer"
    return Finding(subject="Python", status="good" if good else "bad", told=version, advice=advice)


def _declared() -> list[Requirement]:
    return [Requirement(text) for text in metadata.requires(PACKAGE) or ()]


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _requirements() -> Iterator[Finding]:
    for needed in _declared():
        if needed.marker is not None and not needed.marker.evaluate({"extra": ""}):
            continue
        yield _requirement(needed)


def _requirement(needed: Requirement) -> Finding:
    version = _installed(needed.name)
    if version is None:
        advice = f'pip install "{needed.name}{needed.specifier}"'
        return Finding(subject=needed.name, status="bad", told="not installed", advice=advice)
    if not needed.specifier.contains(version, prereleases=True):
        told = f"{version}, expected {needed.specifier}"
        advice = f'pip install "{needed.name}{needed.specifier}"'
        return Finding(subject=needed.name, status="bad", told=told, advice=advice)
    return Finding(subject=needed.name, status="good", told=version)


def _extras() -> Iterator[Finding]:
    extras = metadata.metadata(PACKAGE).get_all("Provides-Extra") or ()
    for extra in sorted(set(extras) - {"dev", "bench", "docs"}):
        missing, wrong = [], []
        for needed in _declared():
            marker = needed.marker
            if marker is None or marker.evaluate({"extra": ""}):
                continue
            if not marker.evaluate({"extra": extra}):
                continue
            finding = _requirement(needed)
            if finding.told == "not installed":
                missing.append(needed.name)
            elif finding.status == "bad":
                wrong.append(f"{needed.name} {finding.told}")
        subject, advice = f"extra {extra}", f'pip install "{PACKAGE}[{extra}]"'
        if wrong:
            yield Finding(subject=subject, status="bad", told="; ".join(wrong), advice=advice)
        elif missing:
            told = f"not installed: {', '.join(missing)}"
            yield Finding(subject=subject, status="note", told=told, advice=advice)
        else:
            yield Finding(subject=subject, status="good", told="installed")


def _tokens() -> Finding:
    counter = counter_for("gpt-5-mini")
    started = time.perf_counter()
    counter.count_text("How many tokens are these?")
    took_s = time.perf_counter() - started
    told = f"{counter.name}, first count after {took_s * 1e3:.0f} ms"
    if counter.estimated:
        advice = f'counts are estimates: pip install "{PACKAGE}[fast]"'
        return Finding(subject="token counts", status="note", told=told, advice=advice)
    return Finding(subject="token counts", status="good", told=told)


def _prices(now: datetime) -> Finding:
    version = _installed("genai-prices")
    newest = newest_price(now.date())
    if newest is None:
        return Finding(
            subject="prices",
            status="bad",
            told=f"genai-prices {version} has no dated price",
            advice="upgrade genai-prices",
        )
    age = now.date() - newest
    told = f"genai-prices {version}, its newest dated price is of {newest} ({age.days} days ago)"
    if age > _STALE:
        advice = "upgrade genai-prices, or give what changed in an override file"
        return Finding(subject="prices", status="note", told=told, advice=advice)
    return Finding(subject="prices", status="good", told=told)


def newest_price(today: date) -> date | None:
    """Return the last day, until today, on which a price of the installed snapshot changed."""
    from genai_prices.data_snapshot import get_snapshot  # noqa: PLC0415 - takes 0.2 s

    days: list[date] = []
    for provider in get_snapshot().providers:
        for model in provider.models:
            prices: Any = model.prices
            for price in prices if isinstance(prices, list) else ():
                start = getattr(price.constraint, "start_date", None)
                if isinstance(start, date) and start <= today:
                    days.append(start)
    return max(days, default=None)


def _redis(url: str) -> Sequence[Finding]:
    from langchain_tokenopt.redis_client import RedisClients  # noqa: PLC0415 - redis is heavy

    try:
        clients = RedisClients(url)
    except ConfigurationError as error:
        return [Finding(subject="Redis", status="bad", told=str(error))]
    try:
        return list(_answers_of(clients))
    except StoreError as error:
        advice = "check the URL, the password and the network; calls go on without it"
        return [Finding(subject="Redis", status="bad", told=str(error), advice=advice)]
    finally:
        clients.close()


def _answers_of(clients: Any) -> Iterator[Finding]:
    started = time.perf_counter()
    clients.send([("PING",)])
    took_s = time.perf_counter() - started
    kind = "a cluster" if clients.clustered else "one server"
    version = _version_of(clients)
    slow = took_s > _SLOW_S
    yield Finding(
        subject="Redis",
        status="note" if slow else "good",
        told=f"{version or 'unknown version'}, {kind}, answers after {took_s * 1e3:.1f} ms",
        advice="every look-up takes as long: place it near the application" if slow else "",
    )
    vectors = _knows(clients, ("VCARD", "tokenopt:none"))
    yield Finding(
        subject="Redis vector sets",
        status="good" if vectors else "note",
        told="searched by the server" if vectors else "not there: each process keeps a copy",
        advice="" if vectors else "Redis 8 or newer has them",
    )
    tracking = not clients.clustered and _knows(clients, ("CLIENT", "TRACKINGINFO"))
    yield Finding(
        subject="Redis tracking",
        status="good" if tracking else "note",
        told="copies in memory follow changes"
        if tracking
        else "copies in memory are not told of changes, and live for seconds",
    )
    policy = _setting(clients, "maxmemory-policy")
    if policy is not None:
        kept = policy.startswith("noeviction")
        yield Finding(
            subject="Redis memory",
            status="note" if kept else "good",
            told=f"maxmemory-policy {policy}",
            advice="with noeviction a full Redis refuses writes; allkeys-lru makes room"
            if kept
            else "",
        )


def _version_of(clients: Any) -> str | None:
    try:
        info: Any = clients.send([("INFO", "server")])[0]
    except StoreError:
        return None
    if isinstance(info, dict):
        told = info.get("valkey_version") or info.get("redis_version")
        if told is None:  # of a cluster: one answer a node
            told = next(
                (node.get("redis_version") for node in info.values() if isinstance(node, dict)),
                None,
            )
        return None if told is None else str(told)
    return None


def _knows(clients: Any, command: tuple[Any, ...]) -> bool:
    try:
        clients.send([command])
    except StoreError:
        return False
    return True


def _setting(clients: Any, name: str) -> str | None:
    try:
        told: Any = clients.send([("CONFIG", "GET", name)])[0]
    except StoreError:  # managed services forbid it
        return None
    if isinstance(told, list):  # name, value, in turns
        told = dict(zip(told[::2], told[1::2], strict=False))
    value = told.get(name, told.get(name.encode())) if isinstance(told, dict) else None
    return value.decode() if isinstance(value, bytes) else value


def _settings(path: str | Path) -> Finding:
    from langchain_tokenopt.stack import Settings  # noqa: PLC0415 - loads every part

    try:
        Settings.load(path)
    except ConfigurationError as error:
        return Finding(subject="settings", status="bad", told=str(error))
    return Finding(subject="settings", status="good", told=f"{path} is right")
