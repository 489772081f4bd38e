"""From the sums of a replay to findings: shares with intervals, notes and examples."""

from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal

from langchain_tokenopt.advisor.audit_combine import Replay, Sums
from langchain_tokenopt.advisor.audit_evidence import Example
from langchain_tokenopt.advisor.audit_facts import PICO
from langchain_tokenopt.advisor.audit_intervals import Part, Share, combined_share, share_of
from langchain_tokenopt.advisor.audit_report import Finding, Kind, Technique
from langchain_tokenopt.caches.semantic_stats import Rate

_MOST_TOLD = 5


def findings_of(replay: Replay, *, small: str | None, seed: int) -> tuple[Finding, ...]:
    """Return what was found, in the order in which the techniques act; bounds last."""
    return tuple(
        each
        for each in (
            _exact(replay, seed),
            _near(replay, seed),
            _context(replay, seed),
            _prompt(replay, seed),
            _smaller(replay, small, seed),
            _batch(replay, seed),
            _errors(replay, seed),
        )
        if each is not None
    )


def combined_of(replay: Replay, *, seed: int) -> tuple[Share, Decimal]:
    """Return the share that all replayed techniques save together, and the dollars.

    The exact cache acts on the whole log; of what it leaves, the semantic cache saves the share
    that it saved of the calls it played; of what that leaves, context and prompt cache save theirs.
    """
    behind = replay.behind()
    later = [a + b for a, b in zip(behind.context, behind.prompt, strict=True)]
    share = combined_share(
        [
            _part(replay, replay.exact_sums.after, replay.exact_sums.calls),
            _near_part(replay),
            Part(
                saved=later,
                cost=_reaching(replay),
                events=replay.context_sums.calls + replay.prompt_sums.calls,
                calls=replay.count,
            ),
        ],
        seed=seed,
    )
    share = share.widened(_grain(replay) * (1 - share.value))
    return share, _dollars(sum(replay.cost)) * Decimal(str(share.value))


def _reaching(replay: Replay) -> list[int]:
    """Return the cost of the calls that context and prompt cache saw, by block."""
    left = [c - s for c, s in zip(replay.cost, replay.exact_sums.after, strict=True)]
    seen = sum(left)
    # Those that the semantic cache served in its windows were not seen.
    share = 1 - sum(replay.near_saved) / seen if seen > 0 else 1.0
    return [round(each * share) for each in left]


def _part(replay: Replay, saved: Sequence[int], events: int) -> Part:
    return Part(saved=saved, cost=replay.cost, events=events, calls=replay.count)


def _near_part(replay: Replay) -> Part:
    near = replay.near
    return Part(
        saved=replay.near_saved,
        cost=replay.near_cost,
        events=near.hits if near is not None else 0,
        calls=max(near.looked if near is not None else 0, 1),
    )


def _grain(replay: Replay) -> float:
    cost = sum(replay.cost)
    return replay.prompt_sums.grain / cost if cost else 0.0


def _dollars(pico: int) -> Decimal:
    return pico / PICO


def _added(replay: Replay, saved: Sequence[int]) -> Decimal:
    """Return what a technique behind both caches adds: its share of what they leave."""
    seen, looked = sum(_reaching(replay)), sum(replay.near_cost)
    if seen <= 0:
        return Decimal(0)
    left = _dollars(sum(replay.cost) - sum(replay.exact_sums.after))
    if looked > 0:
        left *= 1 - Decimal(sum(replay.near_saved)) / looked
    return left * sum(saved) / seen


def _finding(
    replay: Replay,
    technique: Technique,
    sums: Sums,
    *,
    seed: int,
    added: Decimal,
    kind: Kind = "replayed",
    notes: Sequence[str] = (),
    examples: Sequence[Example] = (),
) -> Finding:
    return Finding(
        technique=technique,
        kind=kind,
        calls=sums.calls,
        tokens=sums.tokens,
        share=share_of(_part(replay, sums.alone, sums.calls), seed=seed).widened(
            sums.grain / sum(replay.cost) if sums.grain else 0.0
        ),
        saved=_dollars(sum(sums.alone)),
        added=added,
        notes=tuple(notes),
        examples=tuple(examples),
    )


def _exact(replay: Replay, seed: int) -> Finding:
    risk = replay.exact.risk
    notes = [f"{replay.exact_sums.calls:,} calls asked what had been asked before"]
    if risk.of:
        notes.append(
            f"the log's own answers to the same request differ in {_rate(risk)}: served answers "
            "are as old as the cache lets them be"
        )
    return _finding(
        replay,
        "exact_cache",
        replay.exact_sums,
        seed=seed,
        added=_dollars(sum(replay.exact_sums.after)),
        notes=notes,
        examples=replay.exact.examples,
    )


def _near(replay: Replay, seed: int) -> Finding | None:
    near = replay.near
    if near is None or not near.looked:
        return None
    of_rest = share_of(replace(_near_part(replay), saved=replay.near_beyond), seed=seed)
    rest = 1 - sum(replay.exact_sums.after) / sum(replay.cost) if sum(replay.cost) else 0.0
    share = Share(
        of_rest.value * rest,
        None if of_rest.low is None else of_rest.low * rest,
        None if of_rest.high is None else of_rest.high * rest,
    )
    played = sum(window.end - window.first for window in replay.windows)
    sampled = played / replay.count
    looked = sum(replay.near_cost)
    added = sum(replay.near_saved) / looked * rest if looked else 0.0
    cost = _dollars(sum(replay.cost))
    notes = [
        f"beyond the same requests: {near.hits:,} of {near.looked:,} questions were served",
        (
            f"risk: the log's own answer differs in words or numbers in {_rate(near.risk)} of "
            f"what was served, {_rate(near.risk_of_all)} of all; it need not be wrong for that"
        ),
    ]
    if sampled < 1:
        notes.append(
            f"played on {len(replay.windows)} stretches, {sampled:.2%} of the log; a cache that "
            "had seen all of it would serve more"
        )
    return Finding(
        technique="semantic_cache",
        kind="at least" if sampled < 1 else "replayed",
        calls=near.hits,
        tokens=replay.near_tokens,
        share=share,
        saved=cost * Decimal(str(share.value)),
        added=cost * Decimal(str(added)),
        sampled=sampled,
        notes=tuple(notes),
        examples=tuple(near.examples),
    )


def _context(replay: Replay, seed: int) -> Finding:
    context = replay.context
    return _finding(
        replay,
        "context",
        replay.context_sums,
        seed=seed,
        added=_added(replay, replay.behind().context),
        notes=(
            (
                f"the longest input has {context.longest:,} tokens; {context.calls:,} calls have "
                f"more than {context.max_tokens:,} and a history to cut"
            ),
            (
                "cut to half of that in one step, as a ContextWindow does; whether answers stay as "
                "good is not in a log"
            ),
            *_left_out(replay.context_sums),
        ),
        examples=context.examples,
    )


def _prompt(replay: Replay, seed: int) -> Finding:
    notes = [str(each) for each in replay.templates.reports(most=_MOST_TOLD)]
    notes += _left_out(replay.prompt_sums)
    if replay.templates.skipped:
        notes.append(
            f"{replay.templates.skipped:,} calls have kinds of prompts beyond the first thousand: "
            "what breaks theirs was not looked for"
        )
    if replay.unknown_reads:
        notes.append(
            f"{replay.unknown_reads:,} calls do not say what was read from the provider's cache: "
            "an automatic cache is taken to have read what its rule says, at no saving here"
        )
    return _finding(
        replay,
        "prompt_cache",
        replay.prompt_sums,
        seed=seed,
        added=_added(replay, replay.behind().prompt),
        notes=notes,
    )


def _left_out(sums: Sums) -> list[str]:
    if sum(sums.alone) >= 0:
        return []
    return ["it would cost more than it saves, and is left out of the whole"]


def _smaller(replay: Replay, small: str | None, seed: int) -> Finding | None:
    tasks = replay.tasks
    if tasks is None or small is None or not tasks.looked:
        return None
    share = share_of(
        Part(
            saved=tasks.saved,
            cost=tasks.looked_cost,
            events=tasks.easy_calls,
            calls=tasks.looked,
        ),
        seed=seed,
    )
    notes = [
        (
            f"at {small}'s price, if every question of the kinds marked 'easy' could go there; "
            "which can, only labelled answers tell (tokenopt calibrate)"
        )
    ]
    if tasks.without_price:
        notes.append(
            f"{tasks.without_price:,} of {tasks.looked:,} calls have no price there to compare with"
        )
    notes += [
        f"{each.task}{' (easy)' if each.is_easy else ''}: {each.calls:,} calls, "
        f"${each.cost:.4f} now, ${each.at_small:.4f} at {small}"
        for each in tasks.shares()
    ]
    return Finding(
        technique="smaller_model",
        kind="at most",
        calls=tasks.easy_calls,
        tokens=0,
        share=share,
        saved=_dollars(sum(replay.cost)) * Decimal(str(share.value)),
        added=None,
        sampled=tasks.looked / replay.count,
        notes=tuple(notes),
        examples=tasks.examples,
    )


def _batch(replay: Replay, seed: int) -> Finding:
    batchable = replay.batchable
    return Finding(
        technique="batch",
        kind="at most",
        calls=batchable.calls,
        tokens=0,
        share=share_of(_part(replay, batchable.saved, batchable.calls), seed=seed),
        saved=_dollars(sum(batchable.saved)),
        added=None,
        notes=(
            (
                f"single questions of one kind, {batchable.least} or more in a minute; only where "
                "the answers may take a day"
            ),
            *(
                [f"no batch price is known for {batchable.unpriced:,} of them: nothing is claimed"]
                if batchable.unpriced
                else []
            ),
        ),
        examples=batchable.examples,
    )


def _errors(replay: Replay, seed: int) -> Finding:
    errors = replay.errors
    failed = sum(errors.kinds.values())
    told = ", ".join(f"{count:,} {kind}" for kind, count in sorted(errors.kinds.items()))
    notes = [f"{told or 'none'}; {errors.retries:,} requests were made again within two minutes"]
    notes += [f"{error}: {count:,}" for error, count in errors.errors.most_common(_MOST_TOLD)]
    return Finding(
        technique="errors",
        kind="at most",
        calls=failed,
        tokens=0,
        share=share_of(_part(replay, errors.wasted, failed), seed=seed),
        saved=_dollars(sum(errors.wasted)),
        added=None,
        notes=tuple(notes),
        examples=errors.examples,
    )


def _rate(rate: Rate) -> str:
    return f"{rate.share:.1%} ({rate.low:.1%} to {rate.high:.1%} of {rate.of:,})"
