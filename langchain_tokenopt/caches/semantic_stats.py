"""What a semantic cache did, and how sure that is."""

import math
from dataclasses import dataclass

from langchain_tokenopt.caches.semantic_questions import Questions
from langchain_tokenopt.caches.store import Tally


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """A share with its 95% interval (Wilson)."""

    share: float
    low: float
    high: float
    of: int
    """How many it was measured on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SemanticStats:
    """What a semantic cache did since it was made."""

    requests: int
    """Requests that could have been served."""
    hits: int
    would_hit: int
    """In shadow mode: what would have been served."""
    refused: int
    """Requests that the policy wants asked anew each time."""
    vetoed: int
    """Near questions that a rule kept apart."""
    audits: int
    """Requests that could have been served, and were asked to see."""
    errors: int
    """Embeddings, verifiers or stores that failed; the calls went on without the cache."""
    entries: int
    wrong_of_hits: Rate
    """Measured by audits, in shadow mode by every would-be hit."""
    wrong_of_all: Rate
    """The same of all requests: what `max_error_rate` bounds."""
    unconfirmed: int = 0
    """Answers that the verifier kept from being served; it refused, failed, or took too long."""


def rate_of(wrong: int, checked: int) -> Rate:
    """Return the share of `wrong` among `checked`, 0 to 1 where none was checked."""
    if not checked:
        return Rate(share=0.0, low=0.0, high=1.0, of=0)
    z = 1.96
    share = wrong / checked
    scale = 1 + z * z / checked
    middle = (share + z * z / (2 * checked)) / scale
    half = z * math.sqrt(share * (1 - share) / checked + z * z / (4 * checked**2)) / scale
    return Rate(share=share, low=max(middle - half, 0.0), high=min(middle + half, 1.0), of=checked)


def stats_of(tally: Tally, *, kept: Questions, shadow: bool) -> SemanticStats:
    """Return what was counted."""
    of = tally.of
    hits = of("would_hit") if shadow else of("hits")
    wrong = rate_of(of("wrong"), of("checked"))
    share = hits / max(of("requests"), 1)
    return SemanticStats(
        requests=of("requests"),
        hits=of("hits"),
        would_hit=of("would_hit"),
        refused=of("refused"),
        vetoed=of("vetoed"),
        audits=of("audits"),
        errors=of("errors") + kept.failures,
        entries=len(kept),
        wrong_of_hits=wrong,
        wrong_of_all=Rate(
            share=wrong.share * share,
            low=wrong.low * share,
            high=wrong.high * share,
            of=of("requests"),
        ),
        unconfirmed=of("unconfirmed"),
    )
