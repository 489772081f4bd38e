"""What does learning the tier online earn, against choosing one for good?

MMLU questions with the recorded correctness of mixtral-8x7b (small) and gpt-4-1106 (large), in
random orders, one after the other; a policy learns of the answer that it served and of no other.
Tasks are the recorded domains. What is earned is 1 for a right answer minus the price of its model,
as a share of a right answer: 0.05, 0.12 or 0.20 for the large one, a twentieth of that for the
small one. Target: never more than 1% below the better of both models.

- `Thompson, by domain`: Beta posteriors, no floor, no budget of losses, no borrowing.
- `one arm for all`: the same without domains.
- `TierBandit`: as shipped, the large model as baseline.

"Swapped" changes the models' places half-way, with `discount` as shipped, stronger and without.
Intervals are 95% over the orders. Needs `--data` or TOKENOPT_DATA.
"""

import argparse
import gzip
import json
import os
import random
import statistics
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from measure import table

from langchain_tokenopt.routing.bandit import TierBandit

ARMS = ("small", "large")


@dataclass(frozen=True)
class Asked:
    """A question with what each model makes of it."""

    domain: str
    right: dict[str, float]


Policy = Callable[[Sequence[Asked], float, int], float]
"""Plays questions at a price and returns what was earned on average."""


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a small run, for CI")
    default = os.environ.get("TOKENOPT_DATA") or Path(__file__).parents[2] / "shared" / "data"
    parser.add_argument("--data", type=Path, default=Path(default))
    given = parser.parse_args()
    path = given.data / "cascade" / "mmlu_dev.jsonl.gz"
    if not path.exists():
        print(f"no recorded data in {given.data}; point --data or TOKENOPT_DATA at it")
        return
    questions = [read(row) for row in rows_of(path)]
    questions = questions[:800] if given.quick else questions
    orders = range(2) if given.quick else range(10)
    policies: dict[str, Policy] = {
        "small for good": fixed("small"),
        "large for good": fixed("large"),
        "one arm for all": thompson(by_domain=False),
        "Thompson, by domain": thompson(by_domain=True),
        "TierBandit": shipped(discount=0.999),
        "better model of each domain, known before": hindsight,
    }
    prices = (0.05, 0.12, 0.20)
    show(f"Earned a question, {len(questions):,} of MMLU", questions, policies, prices, orders)
    drifting: dict[str, Policy] = {
        "small for good": fixed("small"),
        "large for good": fixed("large"),
        "TierBandit, discount 0.999": shipped(discount=0.999),
        "TierBandit, discount 0.99": shipped(discount=0.99),
        "TierBandit, no discount": shipped(discount=1.0),
    }
    show("The same, answers swapped half-way", questions, drifting, (0.12,), orders, drift=True)


def show(
    title: str,
    questions: Sequence[Asked],
    policies: dict[str, Policy],
    prices: Sequence[float],
    orders: Sequence[int],
    *,
    drift: bool = False,
) -> None:
    """Print what each policy earns at each price, and how far the better model is."""
    earned: dict[str, list[list[float]]] = {name: [[] for _ in prices] for name in policies}
    for order in orders:
        asked = list(questions)
        random.Random(order).shuffle(asked)
        if drift:
            half = len(asked) // 2
            asked[half:] = [swapped(each) for each in asked[half:]]
        for name, policy in policies.items():
            for at, price in enumerate(prices):
                earned[name][at].append(policy(asked, price, order))
    best = [
        max(statistics.mean(earned[f"{arm} for good"][at]) for arm in ARMS)
        for at in range(len(prices))
    ]
    lines = []
    for name, found in earned.items():
        cells = []
        for at, values in enumerate(found):
            mean = statistics.mean(values)
            half_width = 1.96 * statistics.stdev(values) / len(values) ** 0.5
            cells.append(f"{mean:.4f} (±{half_width:.4f}), {mean / best[at] - 1:+.2%}")
        lines.append([name, *cells])
    head = ["policy", *(f"price {price:.2f}, to the better model" for price in prices)]
    table(title, head, lines)


def worth(asked: Asked, arm: str, price: float) -> float:
    """Return what an answer earns."""
    return asked.right[arm] - cost_of(arm, price)


def cost_of(arm: str, price: float) -> float:
    """Return the price of an answer."""
    return price if arm == "large" else price / 20


def fixed(arm: str) -> Policy:
    """Serve with one model."""
    return lambda asked, price, _: statistics.mean(worth(each, arm, price) for each in asked)


def hindsight(asked: Sequence[Asked], price: float, _: int) -> float:
    """Serve each domain with the model that turns out to be the better one."""
    sums: dict[str, dict[str, float]] = defaultdict(lambda: dict.fromkeys(ARMS, 0.0))
    for each in asked:
        for arm in ARMS:
            sums[each.domain][arm] += worth(each, arm, price)
    return sum(max(arms.values()) for arms in sums.values()) / len(asked)


def thompson(*, by_domain: bool) -> Policy:
    """Plain Thompson sampling."""

    def play(asked: Sequence[Asked], price: float, seed: int) -> float:
        rng = random.Random(seed)
        counts: dict[str, dict[str, list[int]]] = defaultdict(lambda: {arm: [1, 1] for arm in ARMS})
        total = 0.0
        for each in asked:
            known = counts[each.domain if by_domain else ""]
            drawn = {arm: rng.betavariate(*known[arm]) - cost_of(arm, price) for arm in ARMS}
            arm = max(ARMS, key=lambda one: drawn[one])
            known[arm][0 if each.right[arm] else 1] += 1
            total += worth(each, arm, price)
        return total / len(asked)

    return play


def shipped(*, discount: float) -> Policy:
    """Play with the package's own."""

    def play(asked: Sequence[Asked], price: float, seed: int) -> float:
        bandit = TierBandit(
            ARMS,
            baseline="large",
            price_weight=1.0,
            discount=discount,
            mode="serve",
            seed=seed,
        )
        total = 0.0
        for number, each in enumerate(asked):
            arm = bandit.decide(each.domain, request_id=str(number)).served
            bandit.reward(str(number), quality=each.right[arm], cost=cost_of(arm, price))
            total += worth(each, arm, price)
        return total / len(asked)

    return play


def swapped(asked: Asked) -> Asked:
    """Return a question whose models have changed places."""
    return Asked(asked.domain, {"small": asked.right["large"], "large": asked.right["small"]})


def read(row: Any) -> Asked:
    """Read a question."""
    correct = row["correct"]
    small, large = correct["mixtral-8x7b"], correct["gpt-4-1106-preview"]
    return Asked(row["domain"], {"small": float(small), "large": float(large)})


def rows_of(path: Path) -> list[Any]:
    """Return the rows of a file."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


if __name__ == "__main__":
    main()
