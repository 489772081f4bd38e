"""Which tasks of a log might be worth a fine-tuned model: much of the same, behind one text."""

import hashlib
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

import numpy as np
from langchain_core.embeddings import Embeddings
from langchain_core.messages import SystemMessage

from langchain_tokenopt.accounting import GenaiPrices, PriceSource
from langchain_tokenopt.advisor.finetune import PaidCall, calls_of_log
from langchain_tokenopt.advisor.log import LoggedCall
from langchain_tokenopt.errors import ConfigurationError
from langchain_tokenopt.messages import last_human_text, templates_of
from langchain_tokenopt.tokens import counter_for

_MOST_EMBEDDED = 1_000
_LEADER = 0.6
"""Cosine from which on prompts without an instruction are of one task."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A task that a log has many calls of."""

    name: str
    """Its feature or template, else the beginning of its instruction or of a prompt."""
    model: str
    """That answers now."""
    ids: tuple[str, ...]
    """Of the calls, to pick them for an export."""
    calls_a_day: float | None
    """`None` if the log tells no times."""
    cost: Decimal | None
    """Dollars of the calls in the log; `None` if one has no known price."""
    shared_tokens: int
    """Of each call's input: the instruction, equal in all, that a tuned model knows by heart."""
    input_tokens: float
    """Mean."""
    output_tokens: float
    """Mean."""
    likeness: float
    """Mean cosine of two prompts, 0 to 1: near 1, one thing is asked; near 0, anything."""

    @property
    def shared_share(self) -> float:
        """The share of the input that is the same in all calls."""
        return min(self.shared_tokens / self.input_tokens, 1.0) if self.input_tokens else 0.0

    def __str__(self) -> str:
        cost = "unpriced" if self.cost is None else f"${self.cost:,.2f}"
        return (
            f"{self.name} ({self.model}): {len(self.ids):,} calls, {cost}, {self.shared_share:.0%} "
            f"of the input is one instruction, likeness {self.likeness:.2f}"
        )


def find_candidates(
    calls: Iterable[LoggedCall],
    *,
    embeddings: Embeddings,
    least_calls: int = 50,
    least_likeness: float = 0.0,
    prices: PriceSource | None = None,
    seed: int = 0,
) -> list[Candidate]:
    """Return the tasks of a log with many calls, the dearest first.

    Calls are of one task if they name the same feature and have the same template or instruction;
    those with neither are put together by the likeness of their prompts.

    Args:
        calls: Of a log.
        embeddings: Tell how alike prompts are: `StaticEmbeddings()` is quick.
        least_calls: A task with fewer is left out.
        least_likeness: A task whose prompts are less alike is left out.
        prices: Where prices come from.
        seed: Of the sample of prompts that is compared, 1,000 of each task.

    Raises:
        ConfigurationError: A value cannot be used.
    """
    if least_calls < 1 or not 0 <= least_likeness <= 1:
        message = (
            "expected least_calls of 1 or more and a likeness from 0 to 1, "
            f"got {least_calls} and {least_likeness}"
        )
        raise ConfigurationError(message)
    tasks: dict[tuple[str, ...], list[LoggedCall]] = {}
    bare: dict[str, list[LoggedCall]] = {}
    for call in calls:
        if call.answer is None or call.error is not None:
            continue
        key = _key_of(call)
        if any(key):
            tasks.setdefault((call.model, *key), []).append(call)
        else:
            bare.setdefault(call.model, []).append(call)
    found = list(tasks.values())
    for some in bare.values():
        found += _clustered(some, embeddings)
    candidates = [
        _candidate(some, embeddings, prices or GenaiPrices(), seed)
        for some in found
        if len(some) >= least_calls
    ]
    chosen = [each for each in candidates if each.likeness >= least_likeness]
    return sorted(chosen, key=lambda each: (-(each.cost or 0), -len(each.ids), each.name))


def _key_of(call: LoggedCall) -> tuple[str, str, str]:
    """Return feature, template and instruction; the latter tells nothing beside a template."""
    template = " ".join(templates_of(call.messages))
    instruction = "" if template else _instruction_of(call)
    digest = hashlib.blake2b(instruction.encode(errors="replace"), digest_size=8).hexdigest()
    feature = str(call.metadata.get("feature") or "")
    return feature, template, digest if instruction else ""


def _instruction_of(call: LoggedCall) -> str:
    return "\n".join(str(each.text) for each in call.messages if isinstance(each, SystemMessage))


def _clustered(calls: Sequence[LoggedCall], embeddings: Embeddings) -> list[list[LoggedCall]]:
    """Return calls by the likeness of their prompts: each joins the first that it is like."""
    leaders: list[Any] = []
    clusters: list[list[LoggedCall]] = []
    rows = _vectors([last_human_text(call.messages) for call in calls], embeddings)
    for call, row in zip(calls, rows, strict=True):
        if leaders:
            near = np.array(leaders) @ row
            best = int(near.argmax())
            if near[best] >= _LEADER:
                clusters[best].append(call)
                continue
        leaders.append(row)
        clusters.append([call])
    return clusters


def _vectors(texts: Sequence[str], embeddings: Embeddings) -> Any:
    """Return unit vectors, the zero vector of a text that has none."""
    rows = np.array(embeddings.embed_documents(list(texts)), dtype=np.float64)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def _candidate(
    calls: Sequence[LoggedCall], embeddings: Embeddings, prices: PriceSource, seed: int
) -> Candidate:
    paid = list(calls_of_log(calls, prices=prices))
    shown = list(calls)
    if len(shown) > _MOST_EMBEDDED:
        shown = random.Random(seed).sample(shown, _MOST_EMBEDDED)  # noqa: S311 - no secret
    rows = _vectors([last_human_text(call.messages) for call in shown], embeddings)
    n = len(rows)
    # The mean of all pairs, from the length of the sum: without each row's likeness to itself.
    whole = float((rows.sum(axis=0) ** 2).sum() - (rows**2).sum())
    used = [call.answer.usage_metadata for call in calls if call.answer is not None]
    known = [usage for usage in used if usage is not None]
    cost = None
    if len(paid) == len(calls) and all(call.cost is not None for call in paid):
        cost = sum((call.cost or Decimal(0) for call in paid), Decimal(0))
    return Candidate(
        name=_name_of(calls[0]),
        model=calls[0].model,
        ids=tuple(call.id for call in calls),
        calls_a_day=_calls_a_day(paid),
        cost=cost,
        shared_tokens=_shared_tokens(calls),
        input_tokens=_mean([usage["input_tokens"] for usage in known]),
        output_tokens=_mean([usage["output_tokens"] for usage in known]),
        likeness=min(max(whole / (n * (n - 1)), 0.0), 1.0) if n > 1 else 1.0,
    )


def _name_of(call: LoggedCall) -> str:
    named = str(call.metadata.get("feature") or "") or " ".join(templates_of(call.messages))
    told = named or _instruction_of(call) or last_human_text(call.messages)
    return " ".join(told.split())[:60]


def _calls_a_day(paid: Sequence[PaidCall]) -> float | None:
    times: list[datetime] = [call.at for call in paid]
    if not times:
        return None
    return len(times) / ((max(times).date() - min(times).date()).days + 1)


def _shared_tokens(calls: Sequence[LoggedCall]) -> int:
    """Return the tokens of the instructions' common beginning."""
    instructions = [_instruction_of(call) for call in calls]
    # What the first and the last in order have in common, all between them have too.
    first, last = min(instructions), max(instructions)
    pairs = enumerate(zip(first, last, strict=False))
    parted = next((place for place, (a, b) in pairs if a != b), min(len(first), len(last)))
    return counter_for(calls[0].model).count_text(first[:parted])


def _mean(values: Sequence[int]) -> float:
    return sum(values) / len(values) if values else 0.0
