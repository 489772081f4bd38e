"""Refuse options of a semantic cache that cannot be."""

from collections.abc import Callable, Mapping
from typing import Any

from langchain_tokenopt.errors import ConfigurationError


def check_options(options: Mapping[str, Any]) -> None:
    """Raise a `ConfigurationError` that names every bad option, what was got and expected."""
    known: list[tuple[str, Callable[[Any], bool], str]] = [
        ("max_error_rate", lambda v: 0 < v <= 0.5, "above 0 and at most 0.5"),
        ("threshold", lambda v: v is None or 0 < v <= 1, "a cosine above 0 and at most 1, or None"),
        ("mode", lambda v: v in ("serve", "shadow", "off"), "serve, shadow or off"),
        ("audit_rate", lambda v: 0 < v < 1, "between 0 and 1"),
        ("ttl_s", lambda v: v is None or v > 0, "more than 0 seconds, or None"),
        ("verifier_timeout_s", lambda v: v > 0, "more than 0 seconds"),
        ("max_entries", lambda v: v >= 1, "at least 1"),
    ]
    problems = [
        f"{name} must be {expected}, got {options[name]!r}"
        for name, good, expected in known
        if name in options and not good(options[name])
    ]
    if options.get("path") is not None and options.get("questions") is not None:
        problems.append("path and questions cannot both be given: each says where entries are kept")
    if problems:
        raise ConfigurationError("; ".join(problems))
