"""What does learning the tier online earn, against choosing one for good?

MMLU questions with the recorded correctness of mixtral-8x7b (small) and gpt-4-1106 (large), in
random orders, one after the other; a policy learns of the answer that it served and of no other.
Tasks are the recorded domains. What is earned is 1 for a right answer minus the price of its model,
as a share of a right answer: 0.05, 0.12 or 0.20 for the large one, a twentieth of that for the
small one. Target: never more than 1% below the better of both models.

- `Thompson, one for all`: Beta posteriors, no tasks, no floor, no budget of losses, no borrowing.
- `Thompson, by domain`: the same with tasks.
- `LiteLLM's settings`: the priors, weights and cap of its adaptive router's defaults, told what was
  right; its own reward, signs of content in conversations, cannot be replayed.
- `TierBandit`: as shipped, with either model as the baseline.

Regret is against the better model of each domain, which nobody knows before: the price of trying.
"Swapped" changes the models' places half-way, with `discount` as shipped, stronger and without.
The last table asks whether `evaluate_policy` tells from the log of a served `TierBandit` what other
policies would have earned. Intervals are 95% over the orders. The rule of the budget was chosen
among eight, and the discounting among two, on other orders of the same questions. Needs `--data`
or TOKENOPT_DATA.
"""

import random
import statistics
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from measure import data_arguments, has_recorded, json_rows, table

from langchain_tokenopt.routing.bandit import Decision, TierBandit
from langchain_tokenopt.routing.off_policy import Estimator, evaluate_policy

ARMS = ("small", "large")
PRICES = (0.05, 0.12, 0.20)
TIER_BANDIT = "TierBandit, baseline large"


@dataclass(frozen=True)
class Asked:
    """A question with what each model makes of it."""

    domain: str
    right: dict[str, float]


Policy = Callable[[Sequence[Asked], float, int], list[str]]
"""Plays questions at a price and returns who served."""


def main() -> None:
    """Print all tables."""
    given = data_arguments(__doc__)
    if not has_recorded(given.data, "cascade/mmlu_dev.jsonl.gz"):
        return
    questions = [read(row) for row in json_rows(given.data / "cascade/mmlu_dev.jsonl.gz")]
    questions = questions[:600] if given.quick else questions
    orders = [shuffled(questions, 1_000 + order) for order in range(2 if given.quick else 20)]
    policies: dict[str, Policy] = {
        "small for good": fixed("small"),
        "large for good": fixed("large"),
        "Thompson, one for all": thompson(by_domain=False),
        "Thompson, by domain": thompson(by_domain=True),
        "LiteLLM's settings": litellm,
        TIER_BANDIT: shipped(baseline="large"),
        "TierBandit, baseline small": shipped(baseline="small"),
        "better model of each domain, known before": hindsight,
    }
    served = played(policies, orders, PRICES)
    show(f"Earned a question, {len(questions):,} of MMLU", orders, served, PRICES)
    show_regret(orders, served)
    drifting: dict[str, Policy] = {
        "small for good": fixed("small"),
        "large for good": fixed("large"),
        "TierBandit, discount 0.999": shipped(baseline="large"),
        "TierBandit, discount 0.99": shipped(baseline="large", discount=0.99),
        "TierBandit, no discount": shipped(baseline="large", discount=1.0),
    }
    swapped_orders = [swapped_half_way(asked) for asked in orders]
    served = played(drifting, swapped_orders, (0.12,))
    show("The same, answers swapped half-way", swapped_orders, served, (0.12,))
    show_estimates(orders)


Served = Mapping[str, Mapping[float, list[list[str]]]]
"""Who served each question, by policy, price and order."""


def played(
    policies: Mapping[str, Policy], orders: Sequence[Sequence[Asked]], prices: Sequence[float]
) -> Served:
    """Play every policy on every order at every price."""
    return {
        name: {
            price: [policy(asked, price, seed) for seed, asked in enumerate(orders)]
            for price in prices
        }
        for name, policy in policies.items()
    }


def show(
    title: str, orders: Sequence[Sequence[Asked]], served: Served, prices: Sequence[float]
) -> None:
    """Print what each policy earns, and how far from the better model it is in each order."""
    lines = []
    for name, at_price in served.items():
        cells = []
        for price in prices:
            earned = [
                earned_by(asked, arms, price)
                for asked, arms in zip(orders, at_price[price], strict=True)
            ]
            apart = [
                100 * (each / max(earned_by(asked, [arm] * len(asked), price) for arm in ARMS) - 1)
                for each, asked in zip(earned, orders, strict=True)
            ]
            cells.append(
                f"{statistics.mean(earned):.4f}, {around(apart, '+.2f')}%, worst {min(apart):+.2f}%"
            )
        lines.append([name, *cells])
    table(
        title, ["policy", *(f"price {price:.2f}, to the better model" for price in prices)], lines
    )


def show_regret(orders: Sequence[Sequence[Asked]], served: Served) -> None:
    """Print what is lost a thousand questions, in the first and the second half of the orders."""
    lines = []
    for name in ("Thompson, by domain", TIER_BANDIT):
        cells = []
        for price in PRICES:
            lost: list[list[float]] = [[], []]
            for seed, asked in enumerate(orders):
                best = hindsight(asked, price, seed)
                arms, half = served[name][price][seed], len(asked) // 2
                for part, which in enumerate((slice(None, half), slice(half, None))):
                    gained = earned_by(asked[which], best[which], price)
                    lost[part].append(
                        1_000 * (gained - earned_by(asked[which], arms[which], price))
                    )
            cells.append(f"{around(lost[0], '.1f')}, then {around(lost[1], '.1f')}")
        lines.append([name, *cells])
    head = ["regret, right answers in 1,000", *(f"price {price:.2f}" for price in PRICES)]
    table("What trying costs, first and second half", head, lines)


def show_estimates(orders: Sequence[Sequence[Asked]]) -> None:
    """Print how often the intervals of estimates from a log hold what a policy earns."""
    price = 0.12
    lines = []
    logs = [log_of(asked, price, seed) for seed, asked in enumerate(orders)]
    known = [best_of(asked, price) for asked in orders]
    policies: dict[str, Callable[[int, str], str]] = {
        "small for good": lambda _order, _domain: "small",
        "large for good": lambda _order, _domain: "large",
        "better model of each domain": lambda order, domain: known[order][domain],
    }
    for name, choose in policies.items():
        for estimator in get_args(Estimator):
            errors, held, effective, unsupported = [], [], [], []
            for order, (asked, log) in enumerate(zip(orders, logs, strict=True)):
                truth = earned_by(asked, [choose(order, each.domain) for each in asked], price)
                value = evaluate_policy(
                    log,
                    lambda task, at=order, one=choose: {one(at, task): 1.0},  # type: ignore[misc]  # defaults bind
                    price_weight=1.0,
                    estimator=estimator,
                )
                errors.append(value.mean - truth)
                held.append(value.low <= truth <= value.high)
                effective.append(value.effective)
                unsupported.append(value.unsupported)
            lines.append(
                [
                    name,
                    estimator,
                    around(errors, "+.4f"),
                    f"{sum(held)} of {len(held)}",
                    f"{statistics.mean(effective):,.0f}",
                    f"{statistics.mean(unsupported):.1%}",
                ]
            )
    head = ["policy", "estimator", "error", "interval holds it", "effective", "unsupported"]
    table("What the log tells of other policies, price 0.12", head, lines)


def around(values: Sequence[float], form: str) -> str:
    """Return the mean and half the width of its interval."""
    half_width = 1.96 * statistics.stdev(values) / len(values) ** 0.5
    return f"{statistics.mean(values):{form}} (±{half_width:{form.lstrip('+')}})"


def earned_by(asked: Sequence[Asked], arms: Sequence[str], price: float) -> float:
    """Return what was earned on average."""
    return statistics.mean(
        each.right[arm] - cost_of(arm, price) for each, arm in zip(asked, arms, strict=True)
    )


def cost_of(arm: str, price: float) -> float:
    """Return the price of an answer."""
    return price if arm == "large" else price / 20


def fixed(arm: str) -> Policy:
    """Serve with one model."""
    return lambda asked, _price, _seed: [arm] * len(asked)


def best_of(asked: Sequence[Asked], price: float) -> dict[str, str]:
    """Return the better model of each domain, as it turns out."""
    sums: dict[str, dict[str, float]] = defaultdict(lambda: dict.fromkeys(ARMS, 0.0))
    for each in asked:
        for arm in ARMS:
            sums[each.domain][arm] += each.right[arm] - cost_of(arm, price)
    return {domain: max(ARMS, key=arms.__getitem__) for domain, arms in sums.items()}


def hindsight(asked: Sequence[Asked], price: float, seed: int) -> list[str]:
    """Serve each domain with the model that turns out to be the better one."""
    best = best_of(asked, price)
    return [best[each.domain] for each in asked]


def thompson(*, by_domain: bool) -> Policy:
    """Plain Thompson sampling."""

    def play(asked: Sequence[Asked], price: float, seed: int) -> list[str]:
        rng = random.Random(seed)
        counts: dict[str, dict[str, list[int]]] = defaultdict(lambda: {arm: [1, 1] for arm in ARMS})
        served = []
        for each in asked:
            known = counts[each.domain if by_domain else ""]
            drawn = {arm: rng.betavariate(*known[arm]) - cost_of(arm, price) for arm in ARMS}
            arm = max(ARMS, key=drawn.__getitem__)
            known[arm][0 if each.right[arm] else 1] += 1
            served.append(arm)
        return served

    return play


def litellm(asked: Sequence[Asked], price: float, seed: int) -> list[str]:
    """Sample as LiteLLM's adaptive router does with its defaults (quality tiers 2 and 3)."""
    rng = random.Random(seed)
    prior, cheapness = {"small": 0.5, "large": 0.7}, {"small": 1.0, "large": 0.0}
    mass, cap = 10, 200
    cells: dict[str, dict[str, list[float]]] = defaultdict(
        lambda: {arm: [mass * prior[arm], mass * (1 - prior[arm])] for arm in ARMS}
    )
    served = []
    for each in asked:
        cell = cells[each.domain]
        scores = {arm: 0.7 * rng.betavariate(*cell[arm]) + 0.3 * cheapness[arm] for arm in ARMS}
        arm = max(ARMS, key=scores.__getitem__)
        if sum(cell[arm]) + 1 <= cap:
            cell[arm][0 if each.right[arm] else 1] += 1
        served.append(arm)
    return served


def shipped(*, baseline: str, discount: float = 0.999) -> Policy:
    """Play with the package's own."""
    return lambda asked, price, seed: [
        decision.served
        for decision in log_of(asked, price, seed, baseline=baseline, discount=discount)
    ]


def log_of(
    asked: Sequence[Asked],
    price: float,
    seed: int,
    *,
    baseline: str = "large",
    discount: float = 0.999,
) -> list[Decision]:
    """Return the log of a `TierBandit` that served the questions."""
    bandit = TierBandit(
        ARMS, baseline=baseline, price_weight=1.0, discount=discount, mode="serve", seed=seed
    )
    for number, each in enumerate(asked):
        arm = bandit.decide(each.domain, request_id=str(number)).served
        bandit.reward(str(number), quality=each.right[arm], cost=cost_of(arm, price))
    return bandit.log


def shuffled(questions: Sequence[Asked], seed: int) -> list[Asked]:
    """Return the questions in another order."""
    return random.Random(seed).sample(list(questions), len(questions))


def swapped_half_way(asked: Sequence[Asked]) -> list[Asked]:
    """Return questions in whose second half the models have changed places."""
    half = len(asked) // 2
    return [
        *asked[:half],
        *(
            Asked(each.domain, {"small": each.right["large"], "large": each.right["small"]})
            for each in asked[half:]
        ),
    ]


def read(row: Any) -> Asked:
    """Read a question."""
    correct = row["correct"]
    small, large = correct["mixtral-8x7b"], correct["gpt-4-1106-preview"]
    return Asked(row["domain"], {"small": float(small), "large": float(large)})


if __name__ == "__main__":
    main()
