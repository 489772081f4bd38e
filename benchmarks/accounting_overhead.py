"""What does counting cost a call, and does it stay the same after thousands of uses?

Peer: langchain-core's `get_usage_metadata_callback()`, which registers a hook with every use.
Target: at most 1.0 times its overhead after 5,000 uses, and flat. A scripted model without latency
stands for the call, so nearly all that is timed is LangChain's and ours. The second table compares
the two handlers passed as `callbacks=[...]`, without hooks: ours keeps a priced record of each
call, core's adds three numbers.
"""

import statistics

from langchain_core.callbacks import UsageMetadataCallbackHandler, get_usage_metadata_callback
from langchain_core.tracers import context
from measure import alternate, arguments, micro, ratio, shown, table

from langchain_tokenopt import UsageLedger, track_usage
from langchain_tokenopt.testing import ScriptedModel

MODEL = ScriptedModel(["four"], when_exhausted="repeat_last")


def bare() -> None:
    """Call with nobody counting."""
    MODEL.invoke("2 + 2?")


def ours() -> None:
    """Call inside `track_usage()`."""
    with track_usage():
        MODEL.invoke("2 + 2?")


def theirs() -> None:
    """Call inside langchain-core's counter."""
    with get_usage_metadata_callback():
        MODEL.invoke("2 + 2?")


def as_callbacks(*, rounds: int, times: int) -> None:
    """Compare the handlers alone."""
    ledger, core = UsageLedger(), UsageMetadataCallbackHandler()
    taken = alternate(
        {
            "bare": bare,
            "ours": lambda: MODEL.invoke("2 + 2?", {"callbacks": [ledger]}),
            "core's": lambda: MODEL.invoke("2 + 2?", {"callbacks": [core]}),
        },
        rounds=rounds,
        times=times,
    )
    plain = statistics.median(taken["bare"])
    rows = [
        [name, micro(min(taken[name])), micro(statistics.median(taken[name]) - plain)]
        for name in ("ours", "core's")
    ]
    table(
        "A call with callbacks=[handler]", ["handler", "call, best", "added to a bare call"], rows
    )
    found = shown(ratio(taken["ours"], taken["core's"]))
    print(f"\nours / core's, whole call: {found}")


def main() -> None:
    """Time a call after more and more uses of each."""
    quick = arguments(__doc__).quick
    as_callbacks(rounds=5 if quick else 20, times=20 if quick else 100)
    rows = []
    hooks_at_start = len(context._configure_hooks)
    # Ours first, all of it: hooks that core's uses leave behind slow every later call of anyone.
    first = None
    for uses in (0, 500, 1_000) if quick else (0, 1_000, 5_000):
        for _ in range(uses - (0 if first is None else first)):
            ours()
        first = uses
        taken = alternate(
            {"bare": bare, "ours": ours}, rounds=5 if quick else 20, times=20 if quick else 100
        )
        added = statistics.median(taken["ours"]) - statistics.median(taken["bare"])
        hooks = len(context._configure_hooks) - hooks_at_start
        rows.append(
            ["track_usage", f"{uses:,}", f"{hooks:,}", micro(min(taken["ours"])), micro(added)]
        )
    mine = taken["ours"]
    done = 0
    for uses in (0, 500, 1_000) if quick else (0, 1_000, 5_000):
        while done < uses:
            theirs()
            done += 1
        rounds, times = (5, 20) if quick else (20, 100)
        taken = alternate({"theirs": theirs}, rounds=rounds, times=max(times // 10, 1))
        done += (rounds * max(times // 10, 1)) + 1
        hooks = len(context._configure_hooks) - hooks_at_start
        rows.append(
            [
                "core get_usage_metadata_callback",
                f"{uses:,}",
                f"{hooks:,}",
                micro(min(taken["theirs"])),
                "-",
            ]
        )
    table(
        "A call with its block",
        ["counter", "uses before", "hooks left behind", "call, best", "added to a bare call"],
        rows,
    )
    print(f"\nours / core's after the last row: {shown(ratio(mine, taken['theirs']))}")


if __name__ == "__main__":
    main()
