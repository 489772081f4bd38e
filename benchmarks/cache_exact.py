"""Does a hit of the exact caches cost no more than a peer's?

Peers: langchain-core `InMemoryCache` (through `ChatOpenAI.invoke`, no HTTP on a hit), and
langchain-community `SQLiteCache` (the look-up alone). Targets: memory at most 1.10 times, SQLite at
least 5 times quicker.
"""

import tempfile
import warnings
from pathlib import Path
from typing import Any

from langchain_core.caches import InMemoryCache
from langchain_core.load import dumps
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_core.outputs import ChatGeneration
from langchain_openai import ChatOpenAI
from measure import alternate, arguments, micro, ratio, shown, table

from langchain_tokenopt import CachedChatModel, MemoryCache, SqliteCache
from langchain_tokenopt.testing import LoopbackServer

SYSTEM = SystemMessage("You answer questions on deliveries, returns and accounts. " * 40)
SHORT: list[Any] = [HumanMessage("When can I return a book?")]
LONG: list[Any] = [SYSTEM, *SHORT]


def through_chat_openai(*, rounds: int, times: int) -> None:
    """Compare hits through `ChatOpenAI.invoke`."""
    rows = []
    with LoopbackServer(lambda _: "Within thirty days of its arrival. " * 5) as server:
        options: dict[str, Any] = {
            "model": "gpt-5-mini",
            "api_key": "any",
            "base_url": server.base_url,
        }
        core = ChatOpenAI(cache=InMemoryCache(), **options)
        ours = ChatOpenAI(cache=MemoryCache(), **options)
        wrapped = CachedChatModel(ChatOpenAI(**options), cache=MemoryCache())
        for name, asked in (("26 characters", SHORT), ("2,300 characters", LONG)):
            taken = alternate(
                {
                    "core": lambda asked=asked: core.invoke(asked),
                    "ours": lambda asked=asked: ours.invoke(asked),
                    "wrapped": lambda asked=asked: wrapped.invoke(asked),
                },
                rounds=rounds,
                times=times,
            )
            for label, key in (("MemoryCache", "ours"), ("CachedChatModel", "wrapped")):
                rows.append(
                    [
                        label,
                        name,
                        micro(min(taken[key])),
                        micro(min(taken["core"])),
                        shown(ratio(taken[key], taken["core"])),
                    ]
                )
    table(
        "A hit through ChatOpenAI.invoke (target: MemoryCache at most 1.10)",
        ["ours", "request", "ours, best", "core InMemoryCache, best", "ratio of medians (95%)"],
        rows,
    )


def sqlite_lookup(*, rounds: int, times: int, entries: int) -> None:
    """Compare look-ups in SQLite files that hold the same entries."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # langchain-community announces its end on import
        from langchain_community.cache import SQLiteCache  # noqa: PLC0415
    said = "Within thirty days of its arrival. " * 5
    llm = ChatOpenAI(model="gpt-5-mini", api_key="any")._get_llm_string(stop=None)
    prompts = [dumps([SYSTEM, HumanMessage(f"question {n}")]) for n in range(entries)]
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = SQLiteCache(str(Path(folder) / "theirs.sqlite"))
        ours = SqliteCache(Path(folder) / "ours.sqlite")
        for n, prompt in enumerate(prompts):
            answer = [ChatGeneration(message=AIMessage(f"{n}: {said}"))]
            theirs.update(prompt, llm, answer)
            ours.update(prompt, llm, answer)
        turn = {"ours": 0, "theirs": 0}

        def look(name: str, cache: Any) -> None:
            turn[name] = (turn[name] + 7) % entries
            found = cache.lookup(prompts[turn[name]], llm)
            assert found is not None
            assert found[0].text == f"{turn[name]}: {said}"

        taken = alternate(
            {"ours": lambda: look("ours", ours), "theirs": lambda: look("theirs", theirs)},
            rounds=rounds,
            times=times,
        )
        ours.close()
    table(
        f"A look-up among {entries:,} entries in a file (target: at least 5 times quicker)",
        ["ours, best", "community SQLiteCache, best", "times quicker (95%)"],
        [
            [
                micro(min(taken["ours"])),
                micro(min(taken["theirs"])),
                shown(ratio(taken["theirs"], taken["ours"])),
            ]
        ],
    )


def main() -> None:
    """Run both comparisons."""
    quick = arguments(__doc__).quick
    through_chat_openai(rounds=5 if quick else 30, times=20 if quick else 200)
    sqlite_lookup(
        rounds=5 if quick else 30, times=20 if quick else 200, entries=200 if quick else 5_000
    )


if __name__ == "__main__":
    main()
