"""What does each technique save on the demo's traffic, beside what is often claimed for it?

Claims are those of a survey of token optimisation that reckons with 10,000 requests a day of 2,000
tokens at $600, for gpt-3.5-turbo and gpt-4. Here the demo's working day (320 requests, written for
it, both models' answers and the right answers too) is played through the real caches and the real
cascade over HTTP, one request after the other, at today's list prices.

"Before" is the large model for every request at the full price of every token: the survey counts
the provider's prompt cache as a technique, and so does this. It is simulated by its published rule.

10,000 requests a day are reckoned as 31 such days side by side that share nothing. A larger
day repeats itself more, so caches would save more of it.

Intervals are 95%, by a circular block bootstrap over stretches of 16 requests: they say how far the
saving depends on the hour of this traffic, and nothing of other applications.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal

from langchain_core.language_models import BaseChatModel
from langchain_core.runnables import RunnableConfig
from langchain_openai import ChatOpenAI
from measure import quick_parser, table
from pydantic import SecretStr

from langchain_tokenopt import UsageLedger
from langchain_tokenopt.accounting import GenaiPrices, Usage, cost_of
from langchain_tokenopt.advisor import LoggedCall
from langchain_tokenopt.demo.apps import multi_tier
from langchain_tokenopt.demo.play import play
from langchain_tokenopt.demo.traffic import (
    LARGE_MODEL,
    SMALL_MODEL,
    RecordedAnswers,
    bundled_traffic,
)
from langchain_tokenopt.testing import LoopbackServer, PromptCache

PRICES = GenaiPrices()
A_DAY = 10_000
BLOCK = 16
CLAIMED_BEFORE = 600
EXACT, LIKE, CASCADE, PROVIDER = (
    "same requests (exact cache)",
    "like questions (semantic cache)",
    "small model first (cascade)",
    "provider's prompt cache",
)
ALL = frozenset({EXACT, LIKE, CASCADE, PROVIDER})
CLAIMED_AFTER = {PROVIDER: 420, CASCADE: 180, LIKE: 300, "all four": 96}
EFFORT = {
    PROVIDER: (
        "low",
        "nothing where the static part comes first, as here; else moving what changes behind it",
        "`tokenopt lint` in CI, since one early change of the prompt ends it",
    ),
    EXACT: (
        "low",
        "one line around the model; Redis or a file if answers are to outlive the process",
        "how long an answer stays right (`ttl_s`)",
    ),
    LIKE: (
        "medium",
        "embeddings, an error rate to allow, and a way to hear of wrong answers",
        "the audits' error count: it is held near the rate, not below it",
    ),
    CASCADE: (
        "medium",
        "checks that catch wrong answers; 100 or more labels for a promise (`tokenopt calibrate`)",
        "audits of accepted answers, the drift alarm; calibrate anew with every new model",
    ),
}


@dataclass(frozen=True)
class Played:
    """What one application came to, request by request."""

    costs: list[Decimal]
    wrong: int
    graded: int
    usage: Usage


def main() -> None:
    """Play each technique alone, all together, and all but one."""
    parser = quick_parser(__doc__)
    parser.add_argument(
        "--work", type=Decimal, default=Decimal(1000), help="dollars of work to earn back"
    )
    given = parser.parse_args()
    calls = bundled_traffic().calls[: 48 if given.quick else None]
    before = played(calls, frozenset())
    together = played(calls, ALL)
    alone = {one: played(calls, frozenset({one})) for one in (PROVIDER, EXACT, LIKE, CASCADE)}
    without = {one: played(calls, ALL - {one}) for one in alone}

    n = len(calls)
    print(
        f"\n{n} requests of {before.usage.input_tokens / n:,.0f} + {before.usage.output / n:,.0f} "
        f"tokens. {A_DAY:,} a day cost ${daily(before):,.2f} at {LARGE_MODEL}; the survey's 2,000 "
        f"tokens at $600 a day are $30 a million, gpt-4's price of 2023 for input alone."
    )
    found = {**alone, "all four": together}
    table(
        f"{A_DAY:,} requests a day: the claim, and what was played",
        ["technique", "claimed", "saved", "played", "saved (95%)", "a year", "wrong"],
        [
            [
                name,
                *claim(CLAIMED_AFTER.get(name)),
                f"${daily(before):,.2f} to ${daily(one):,.2f}",
                shown_saving(before, one),
                f"${365 * (daily(before) - daily(one)):,.0f}",
                f"{one.wrong} of {one.graded}",
            ]
            for name, one in found.items()
        ],
    )
    print(f"\nPlain: {before.wrong} of {before.graded} wrong.")
    print(
        "Not played: task decomposition ($600 to $480 claimed). No request of this traffic has "
        "parts, and parts are more calls, not fewer; reasoning_steps.py has what they cost. "
        "Fine-tuning has no claim in dollars; `tokenopt finetune` reckons it for a ledger."
    )
    table(
        "All but one: what each adds to the other three",
        ["left out", "a day", "saved of all (95%)", "the one adds, points", "wrong"],
        [
            [
                name,
                f"${daily(one):,.2f}",
                shown_saving(before, one),
                f"{100 * (saving(before, together) - saving(before, one)):.1f}",
                f"{one.wrong} of {one.graded}",
            ]
            for name, one in without.items()
        ],
    )
    table(
        "What it takes",
        ["technique", "claimed", "to set up", "to keep up", f"earns ${given.work:,} alone in"],
        [[name, *EFFORT[name], payback(given.work, before, one)] for name, one in alone.items()],
    )


def played(calls: Sequence[LoggedCall], techniques: frozenset[str]) -> Played:
    """Play the calls through an application with these techniques."""
    with LoopbackServer(RecordedAnswers(calls), prompt_cache=PromptCache()) as server:

        def models(name: str) -> BaseChatModel:
            return ChatOpenAI(model=name, base_url=server.base_url, api_key=SecretStr("loopback"))

        names = (SMALL_MODEL, LARGE_MODEL) if CASCADE in techniques else (LARGE_MODEL,)
        app = multi_tier(models, names, exact=EXACT in techniques, like=LIKE in techniques)

        def answer(call: LoggedCall, config: RunnableConfig) -> str:
            # What each request costs is told by its endpoint.
            metadata = {**config.get("metadata", {}), "endpoint": call.id}
            return app(call, {**config, "metadata": metadata})

        ledger = UsageLedger(prices=PRICES)
        outcomes = play(calls, answer, config={"callbacks": [ledger]}, workers=1)
    failed = [outcome.error for outcome in outcomes if outcome.error is not None]
    if failed:
        raise SystemExit(f"{len(failed)} requests failed, the first with: {failed[0]}")
    costs = dict.fromkeys([call.id for call in calls], Decimal(0))
    for record in ledger.records():
        if record.kind != "cache_hit":
            assert record.endpoint is not None
            costs[record.endpoint] += cost(record.model, record.usage, techniques)
    return Played(
        costs=list(costs.values()),
        wrong=sum(outcome.wrong is True for outcome in outcomes),
        graded=sum(outcome.wrong is not None for outcome in outcomes),
        usage=ledger.totals().usage,
    )


def cost(model: str, usage: Usage, techniques: frozenset[str]) -> Decimal:
    """Return what a call costs; without the provider's cache, what it read is plain input."""
    if PROVIDER not in techniques:
        plain = usage.plain_input + usage.cache_read
        usage = replace(usage, plain_input=plain, cache_read=0)
    price = PRICES(model=model, provider="openai", tier=None, usage=usage, at=datetime.now(UTC))
    assert price is not None
    return cost_of(usage, price).total


def daily(one: Played) -> Decimal:
    """Return dollars of 10,000 requests."""
    return sum(one.costs, Decimal(0)) * A_DAY / len(one.costs)


def saving(before: Played, after: Played) -> float:
    """Return the share of the cost that is no longer spent."""
    return float(1 - daily(after) / daily(before))


def shown_saving(before: Played, after: Played, *, draws: int = 2_000) -> str:
    """Return the saving with its interval."""
    chance = random.Random(1)
    n = len(before.costs)
    pairs = [(float(b), float(a)) for b, a in zip(before.costs, after.costs, strict=True)]
    shares = []
    for _ in range(draws):
        starts = [chance.randrange(n) for _ in range(-(-n // BLOCK))]
        drawn = [pairs[(start + k) % n] for start in starts for k in range(BLOCK)][:n]
        shares.append(1 - sum(a for _, a in drawn) / sum(b for b, _ in drawn))
    shares.sort()
    low, high = shares[round(0.025 * draws)], shares[round(0.975 * draws) - 1]
    return f"{saving(before, after):.0%} ({low:.0%} to {high:.0%})"


def claim(after: int | None) -> list[str]:
    """Return the survey's dollars and share."""
    if after is None:
        return ["none", ""]
    return [f"${CLAIMED_BEFORE} to ${after}", f"{1 - after / CLAIMED_BEFORE:.0%}"]


def payback(work: Decimal, before: Played, after: Played) -> str:
    """Return how many days of the saving pay for that much work."""
    saved = daily(before) - daily(after)
    return f"{work / saved:,.0f} days" if saved > 0 else "never"


if __name__ == "__main__":
    main()
