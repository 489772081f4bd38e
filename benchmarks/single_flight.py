"""How many requests reach the provider when a hundred callers ask the same thing at once?

Peer: the same `ChatOpenAI` with langchain-core's `InMemoryCache`. Counted at a loopback server that
takes 50 ms to answer. Targets: one request, and none for a stream that was streamed before.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from langchain_core.caches import InMemoryCache
from langchain_core.language_models import BaseChatModel
from langchain_openai import ChatOpenAI
from measure import arguments, table

from langchain_tokenopt import CachedChatModel, MemoryCache
from langchain_tokenopt.testing import Latency, LoopbackServer


def threads(model: BaseChatModel, callers: int) -> None:
    """Ask from threads."""
    with ThreadPoolExecutor(callers) as pool:
        list(pool.map(lambda _: model.invoke("2 + 2?"), range(callers)))


def tasks(model: BaseChatModel, callers: int) -> None:
    """Ask from tasks."""

    async def ask() -> None:
        await asyncio.gather(*(model.ainvoke("2 + 2?") for _ in range(callers)))

    asyncio.run(ask())


def batch(model: BaseChatModel, callers: int) -> None:
    """Ask by `batch`."""
    model.batch(["2 + 2?"] * callers)


def streams(model: BaseChatModel, callers: int) -> None:
    """Stream one after the other."""
    for _ in range(callers):
        for _ in model.stream("2 + 2?"):
            pass


def requests(ask: Callable[[BaseChatModel, int], None], wrap: Any, callers: int) -> int:
    """Return how many requests arrived."""
    with LoopbackServer(lambda _: "four", latency=Latency(first_token_s=0.05)) as server:
        ask(wrap({"model": "gpt-5-mini", "api_key": "any", "base_url": server.base_url}), callers)
        return len(server.requests)


def main() -> None:
    """Count requests for each way of asking."""
    callers = 20 if arguments(__doc__).quick else 100
    rows = []
    for name, ask, asked in (
        ("threads at once", threads, callers),
        ("tasks at once", tasks, callers),
        ("one batch", batch, callers),
        ("streams, one after the other", streams, 2),
    ):
        ours = requests(ask, lambda o: CachedChatModel(ChatOpenAI(**o), cache=MemoryCache()), asked)
        theirs = requests(ask, lambda o: ChatOpenAI(cache=InMemoryCache(), **o), asked)
        rows.append([f"{asked} {name}", str(ours), str(theirs)])
    table(
        "Requests that reach the provider",
        ["identical calls", "CachedChatModel", "core InMemoryCache"],
        rows,
    )


if __name__ == "__main__":
    main()
