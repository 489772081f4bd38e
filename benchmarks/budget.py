"""Do budgets hold when many calls come at once, and what do they cost a call?

First table: callers at once against a budget with room for 40 of 200 calls; the overshoot is
what was spent beyond the limit. Beside ours, what applications write themselves: a handler that
adds up what calls cost and refuses when the sum is past the limit. Second table: what a guard adds
to a call, as a ratio to a call with the ledger's handler alone; a scripted model without latency
stands for the call, and each prompt has 1,000 tokens.
"""

import logging
import statistics
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from typing import Any

from langchain_core.callbacks import BaseCallbackHandler
from measure import alternate, arguments, micro, ratio, shown, table
from servers.redis_server import redis_on_socket

from langchain_tokenopt import UsageLedger
from langchain_tokenopt.accounting import (
    Budget,
    BudgetGuard,
    BudgetHandler,
    PriceEntry,
    PriceOverrides,
    SqliteBudgets,
)
from langchain_tokenopt.accounting.budget_redis import RedisBudgets
from langchain_tokenopt.errors import BudgetExceededError
from langchain_tokenopt.testing import ScriptedModel

CALLERS, ROOM = 200, 40
PRICES = PriceOverrides(
    entries=(PriceEntry(model="scripted", input=Decimal(1), output=Decimal(8)),)
)
PROMPT = "word " * 990


class Naive(BaseCallbackHandler):
    """Adds up what calls cost, and refuses when that is past the limit."""

    raise_error = True

    def __init__(self, limit: Decimal, cost: Decimal) -> None:
        self.limit, self.cost, self.spent = limit, cost, Decimal(0)

    def on_chat_model_start(self, *args: Any, **kwargs: Any) -> None:
        """Refuse."""
        if self.spent >= self.limit:
            raise BudgetExceededError("full", status=None, needed=None)

    def on_llm_end(self, *args: Any, **kwargs: Any) -> None:
        """Add."""
        self.spent += self.cost


def main() -> None:
    """Print both tables."""
    quick = arguments(__doc__).quick
    logging.disable(logging.CRITICAL)  # every refusal would be told
    with tempfile.TemporaryDirectory() as folder, redis_on_socket() as url:
        overshoot(Path(folder), url, repeats=1 if quick else 5)
        overhead(Path(folder), url, rounds=3 if quick else 20, times=10 if quick else 100)


def overshoot(folder: Path, url: str | None, *, repeats: int) -> None:
    """Let everyone call at once."""
    one = cost_of_a_call()
    limit = one * ROOM
    rows = []
    for name in ("memory", "SQLite", "Redis", "sum and check"):
        if name == "Redis" and url is None:
            rows.append([name, "-", "no redis-server here", "-"])
            continue
        worst, made = Decimal(0), []
        for n in range(repeats):
            handler, spent = of_kind(name, folder / f"{n}.sqlite", url, limit, one)
            made.append(sum(call_all(handler)))
            worst = max(worst, spent() - limit)
        share = f"{max(worst, Decimal(0)) / limit:.0%}"
        calls = f"{min(made)} to {max(made)} of {CALLERS}"
        rows.append([name, calls, f"${max(worst, Decimal(0)):.6f}", share])
    head = ["budget kept in", "calls made", "overshoot, worst", "of the limit"]
    table(f"{CALLERS} callers at once, room for {ROOM} calls, {repeats} times", head, rows)


def of_kind(name: str, path: Path, url: str | None, limit: Decimal, one: Decimal) -> Any:
    """Return a handler, and what tells what was spent."""
    if name == "sum and check":
        naive = Naive(limit, one)
        return naive, lambda: naive.spent
    store: Any = None
    if name == "SQLite":
        store = SqliteBudgets(path)
    elif name == "Redis":
        store = RedisBudgets(str(url), namespace=f"bench-{time.time_ns()}")
    # What has no cap may write as much as it does here.
    guard = BudgetGuard([Budget("b", dollars=limit)], store=store, prices=PRICES, output_tokens=20)
    return BudgetHandler(guard), lambda: guard.statuses()[0].spent.dollars


def call_all(handler: Any) -> Iterator[bool]:
    """Call from many threads at once."""
    model = ScriptedModel(["word " * 20], when_exhausted="repeat_last", latency_s=0.05)

    def call(_: int) -> bool:
        try:
            model.invoke(PROMPT, {"callbacks": [handler]})
        except BudgetExceededError:
            return False
        return True

    with ThreadPoolExecutor(max_workers=CALLERS) as pool:
        return iter(list(pool.map(call, range(CALLERS))))


def cost_of_a_call() -> Decimal:
    """Return what one of these calls costs."""
    ledger = UsageLedger(prices=PRICES)
    ScriptedModel(["word " * 20]).invoke(PROMPT, {"callbacks": [ledger]})
    return ledger.totals().cost


def overhead(folder: Path, url: str | None, *, rounds: int, times: int) -> None:
    """Time one call after the other."""
    model = ScriptedModel(["four"], when_exhausted="repeat_last")
    ledger = UsageLedger(prices=PRICES)

    def guarded(budget: Budget, store: Any = None) -> Any:
        guard = BudgetGuard([budget], store=store, prices=PRICES, output_tokens=20)
        handler = BudgetHandler(guard)
        return lambda: model.invoke(PROMPT, {"callbacks": [ledger, handler]})

    dollars = Budget("b", dollars=10**6)
    runs: dict[str, Any] = {
        "bare handler": lambda: model.invoke(PROMPT, {"callbacks": [ledger]}),
        "calls, in memory": guarded(Budget("b", calls=10**9)),
        "dollars, in memory": guarded(dollars),
        "dollars, in SQLite": guarded(dollars, SqliteBudgets(folder / "timed.sqlite")),
    }
    if url is not None:
        runs["dollars, in Redis"] = guarded(dollars, RedisBudgets(url, namespace="timed"))
    taken = alternate(runs, rounds=rounds, times=times)
    plain = taken["bare handler"]
    rows = [
        [
            name,
            micro(min(times_)),
            micro(statistics.median(times_) - statistics.median(plain)),
            shown(ratio(times_, plain)),
        ]
        for name, times_ in taken.items()
    ]
    head = ["budget", "a call, best", "added", "ratio to the bare handler (95%)"]
    table("A call of 1,000 tokens with the ledger's handler, and a guard", head, rows)


if __name__ == "__main__":
    main()
