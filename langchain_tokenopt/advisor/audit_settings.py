"""The settings file that an audit writes: what pays on this log, and why, as `tokenopt.toml`."""

import json
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field

from langchain_tokenopt.advisor.audit_report import Finding
from langchain_tokenopt.stack import Settings

_LEAST = 0.001  # of the spend; less is not worth a setting


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """What the settings are written from."""

    source: str
    model: str
    """The one that most was spent on."""
    small: str | None
    findings: Sequence[Finding]
    ttl_s: float | None
    max_error_rate: float
    semantic_is_safe: bool
    """Whether disagreement, at its upper bound, stayed below `max_error_rate` of all requests."""
    lifetime: str | None
    volatile: Sequence[str] = field(default_factory=tuple)
    max_tokens: int
    tokens_per_minute: int | None
    """What went through in a minute without a refusal; `None` if none was refused."""


def settings_text(advice: Advice) -> str:
    """Return the file, which `Settings.load` reads; tables that do not pay are left out.

    Raises:
        ConfigurationError: A name of the log cannot be used in settings.
    """
    found = {each.technique: each for each in advice.findings}
    lines = [f"# Written by tokenopt audit from {_plain(advice.source)}.", "", "[models]"]
    if advice.small is not None:
        lines.append(f"small = {_text(advice.small)}")
    lines.append(f"large = {_text(advice.model)}")
    exact, semantic = found.get("exact_cache"), found.get("semantic_cache")
    if _pays(exact) or _pays(semantic):
        lines += _cache(advice, exact)
    if semantic is not None and _pays(semantic):
        lines += _semantic(advice, semantic)
    prompt = found.get("prompt_cache")
    if prompt is not None and _pays(prompt):
        lines += _prompt_cache(advice, prompt)
    context = found.get("context")
    if context is not None and _pays(context):
        lines += ["", f"# {_told(context)}", "[context]", f"max_tokens = {advice.max_tokens}"]
    if advice.tokens_per_minute:
        lines += [
            "",
            "# The busiest minute in which no call was refused for its rate.",
            "[batching]",
            f"tokens_per_minute = {advice.tokens_per_minute}",
        ]
    smaller = found.get("smaller_model")
    if smaller is not None and advice.small is not None and _pays(smaller):
        lines += [
            "",
            f"# {_told(smaller)} Label some drafts, run tokenopt calibrate, then take these in:",
            "# [cascade]",
            '# policy = "policy.json"',
        ]
    text = "\n".join(lines) + "\n"
    Settings.of(tomllib.loads(text), where="the settings of the audit")
    return text


def _pays(finding: Finding | None) -> bool:
    return finding is not None and finding.share.value >= _LEAST


def _told(finding: Finding) -> str:
    bound = "" if finding.kind == "replayed" else f"{finding.kind} "
    return f"Alone it would save {bound}{finding.share} of the spend."


def _cache(advice: Advice, exact: Finding | None) -> list[str]:
    lines = ["", *([f"# {_told(exact)}"] if exact is not None else []), "[cache]"]
    lines.append('where = "cache.sqlite"')
    return [*lines, *([f"ttl_s = {advice.ttl_s}"] if advice.ttl_s is not None else [])]


def _semantic(advice: Advice, finding: Finding) -> list[str]:
    mode = "serve" if advice.semantic_is_safe else "shadow"
    why = (
        "the log's own answers agreed often enough"
        if advice.semantic_is_safe
        else "see what it would serve, and how often wrongly, before it serves"
    )
    return [
        "",
        f"# {_told(finding)}",
        "[cache.semantic]",
        f"max_error_rate = {advice.max_error_rate}",
        f'mode = "{mode}"  # {why}',
    ]


def _prompt_cache(advice: Advice, finding: Finding) -> list[str]:
    lines = ["", f"# {_told(finding)}", "[prompt_cache]"]
    if advice.lifetime is not None:
        lines.append(f"lifetime = {_text(advice.lifetime)}")
    if advice.volatile:
        lines.append(f"volatile = [{', '.join(map(_text, advice.volatile))}]")
    return lines


def _text(value: str) -> str:
    """Return a TOML string: JSON's escapes are TOML's too."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _plain(value: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in value)
