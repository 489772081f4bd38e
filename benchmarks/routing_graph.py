"""What does the multi-tier graph cost by itself, and does it lose requests under faults?

- Overhead: one request through the graph with models that answer at once, against a bare LangGraph
  graph with as many nodes that do nothing, in the same run. Rows: answered by the small tier, with
  escalation, from the exact cache; and the cascade as a chat model, against one bare model call.
- Faults: 1,000 requests at once over HTTP to a server of which 5% of the answers are faults (429,
  500, dropped connections). Every one must be answered or fail with an error, and the ledger must
  have counted what the server did.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from langchain_core.runnables import RunnableLambda
from langchain_openai import ChatOpenAI
from langgraph.graph import END, START, MessagesState, StateGraph
from measure import alternate, arguments, ratio, shown, table

from langchain_tokenopt import UsageLedger
from langchain_tokenopt.caches import MemoryCache
from langchain_tokenopt.routing import Attempt, Cascade, Tier, Verdict, not_empty
from langchain_tokenopt.stack import create_multi_tier
from langchain_tokenopt.testing import (
    ChatRequest,
    Dropped,
    LoopbackServer,
    RateLimited,
    ScriptedModel,
    ServerError,
)

ASKED: Any = {"messages": [("user", "When do you open?")]}


def main() -> None:
    """Print both tables."""
    given = arguments(__doc__)
    overhead(rounds=3 if given.quick else 30, times=5 if given.quick else 20)
    asyncio.run(faults(100 if given.quick else 1_000))


def overhead(*, rounds: int, times: int) -> None:
    """Time the graph against a bare one with as many nodes."""
    runs: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
        "answered by the small tier": (through(model("nine")), bare(5)),
        "escalated to the large tier": (through(model("")), bare(7)),
        "from the exact cache": (cached(), bare(3)),
    }
    rows = []
    for name, (ours, theirs) in runs.items():
        taken = alternate({"ours": ours, "bare": theirs}, rounds=rounds, times=times)
        rows.append(line(name, taken))
    small = model("nine")
    cascade = Cascade([Tier("small", small), Tier("large", model("ten"))], checks=[not_empty])
    taken = alternate(
        {"ours": lambda: cascade.invoke("Open?"), "bare": lambda: small.invoke("Open?")},
        rounds=rounds,
        times=times,
    )
    rows.append(line("Cascade as a chat model, against the model alone", taken))
    table("Overhead a request", ["request", "ours", "bare", "ratio (95%)"], rows)


def line(name: str, taken: dict[str, list[float]]) -> list[str]:
    """Return a row of the table."""
    times = [f"{min(taken[who]) * 1e3:.2f} ms" for who in ("ours", "bare")]
    return [name, *times, shown(ratio(taken["ours"], taken["bare"]))]


def model(answer: str) -> ScriptedModel:
    """Return a model that always answers the same, at once."""
    return ScriptedModel([answer], when_exhausted="repeat_last", model_name="gpt-5-mini")


def through(small: ScriptedModel) -> Callable[[], object]:
    """Ask a graph with a rule, no cache and two tiers."""
    tiers = [Tier("small", small), Tier("large", model("ten"))]
    graph: Any = create_multi_tier(tiers, checks=[not_empty]).compile()
    return lambda: graph.invoke(ASKED)


def cached() -> Callable[[], object]:
    """Ask a graph whose cache has the answer."""
    graph: Any = create_multi_tier([Tier("small", model("nine"))], cache=MemoryCache()).compile()
    graph.invoke(ASKED)
    return lambda: graph.invoke(ASKED)


def bare(nodes: int) -> Callable[[], object]:
    """Ask a graph whose nodes do nothing, one after the other."""
    graph = StateGraph(MessagesState)
    names = [f"node_{n}" for n in range(nodes)]
    for name in names:
        graph.add_node(name, RunnableLambda(lambda _: {}, name=name))
    for one, other in zip([START, *names], [*names, END], strict=True):
        graph.add_edge(one, other)
    compiled: Any = graph.compile()
    return lambda: compiled.invoke(ASKED)


def sure(question: str, attempt: Attempt) -> Verdict:
    """Accept what is said without a doubt."""
    return Verdict(accepted="perhaps" not in attempt["text"], reason="looked for doubts")


async def faults(requests: int) -> None:
    """Send requests at once, 5% of whose calls go wrong."""
    rng = random.Random(0)
    counts: Counter[str] = Counter()

    def answer(request: ChatRequest) -> Any:
        if rng.random() < 0.05:
            counts["faults"] += 1
            return rng.choice([RateLimited(retry_after_s=1), ServerError(), Dropped()])
        counts["answers"] += 1
        return "At nine, perhaps." if rng.random() < 0.3 else "From nine."

    with LoopbackServer(answer) as server:
        # A thousand connections at once take more than the client's five seconds on a busy machine.
        options: Any = {"base_url": server.base_url, "api_key": "any", "timeout": 120}
        tiers = [
            Tier(name, ChatOpenAI(model=name, max_retries=0, **options))
            for name in ("gpt-5-mini", "gpt-5.1")
        ]
        graph: Any = create_multi_tier(tiers, checks=[sure]).compile()
        ledger = UsageLedger()
        started = time.perf_counter()

        async def ask(number: int) -> Any:
            given = {"messages": [("user", f"Question {number}?")]}
            return await graph.ainvoke(given, {"callbacks": [ledger]})

        found = await asyncio.gather(*map(ask, range(requests)), return_exceptions=True)
        took_s = time.perf_counter() - started
    errors = Counter(type(each).__name__ for each in found if isinstance(each, BaseException))
    answered = [each for each in found if not isinstance(each, BaseException)]
    totals = ledger.totals()
    rows = [
        ["requests", f"{requests:,}"],
        ["answered", f"{len(answered):,}"],
        ["failed with an error", ", ".join(f"{n} {name}" for name, n in errors.items()) or "0"],
        ["lost", str(requests - len(answered) - errors.total())],
        [
            "answered by the large tier",
            str(sum(each["tier"] == tiers[1].name for each in answered)),
        ],
        ["calls answered, server / ledger", f"{counts['answers']:,} / {totals.live:,}"],
        ["faults, server / ledger", f"{counts['faults']:,} / {totals.errors:,}"],
        ["seconds in all", f"{took_s:.1f}"],
    ]
    table(f"{requests:,} requests at once, 5% faults", ["", ""], rows)


if __name__ == "__main__":
    main()
