"""How long does a text take to embed, and how well do cosines tell pairs that mean the same?

Local embeddings and the same behind stores of vectors, for one short text and for a list. Then,
where recorded data is, the area under the curve over pairs that ask the same or not (1 is perfect,
0.5 is chance), and how often the nearest other request has the same answer.
"""

import random
import statistics
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from measure import alternate, data_arguments, has_recorded, json_rows, micro, ratio, shown, table

from langchain_tokenopt.caches import MemoryStore, SqliteStore
from langchain_tokenopt.embeddings import CachedEmbeddings, MiniLmEmbeddings, StaticEmbeddings

LIST = 64
SUBJECTS = "my parcel;the refund;an invoice;the new card;our contract;this login".split(";")
ASKS = "Where is {}?;When will I get {}?;I have a problem with {}, can you help me?".split(";")


def texts(n: int, *, word: str = "") -> list[str]:
    """Return short questions that all differ."""
    return [
        ASKS[i % len(ASKS)].format(SUBJECTS[i % len(SUBJECTS)]) + f" {word}{i}" for i in range(n)
    ]


def times(*, rounds: int, folder: Path) -> None:
    """Time one text and a list, new and kept."""
    static, minilm = StaticEmbeddings(), MiniLmEmbeddings()
    many = texts(LIST)
    sqlite = SqliteStore(folder / "vectors.sqlite")
    kept = {
        "MiniLmEmbeddings, kept in memory": CachedEmbeddings(minilm, MemoryStore(), name="m"),
        "MiniLmEmbeddings, kept in SQLite": CachedEmbeddings(minilm, sqlite, name="m"),
    }
    plain: dict[str, Any] = {"StaticEmbeddings": static, "MiniLmEmbeddings": minilm}
    one: dict[str, Callable[[], object]] = {}
    listed: dict[str, Callable[[], object]] = {}
    for name, embeddings in {**plain, **kept}.items():
        one[name] = lambda embeddings=embeddings: embeddings.embed_query(many[0])
        listed[name] = lambda embeddings=embeddings: embeddings.embed_documents(many)
    fresh = MiniLmEmbeddings(batch_size=1)
    listed["MiniLmEmbeddings, one at a time"] = lambda: fresh.embed_documents(many)
    store = MemoryStore()
    unkept = CachedEmbeddings(static, store, name="s")

    def miss() -> object:
        store.clear()
        return unkept.embed_documents(many)

    listed["StaticEmbeddings, none kept yet"] = miss
    took = alternate(one, rounds=rounds, times=20)
    took_list = alternate(listed, rounds=rounds, times=1)
    base, base_list = took["MiniLmEmbeddings"], took_list["MiniLmEmbeddings"]
    table(
        f"Time to embed, and how many times that MiniLM takes (one thread; a list of {LIST})",
        ["embeddings", "one text", "MiniLm / it", "a text of the list", "MiniLm / it"],
        [
            [
                name,
                micro(statistics.median(took[name])) if name in took else "",
                shown(ratio(base, took[name])) if name in took else "",
                micro(statistics.median(took_list[name]) / LIST),
                shown(ratio(base_list, took_list[name])),
            ]
            for name in took_list
        ],
    )
    sqlite.close()


def area(same: Sequence[float], other: Sequence[float]) -> float:
    """Return how likely a pair that means the same has the greater cosine; ties count half.

    >>> area([0.9, 0.5], [0.5, 0.1])
    0.875
    """
    ordered = np.sort(other)
    below = np.searchsorted(ordered, same, side="left")
    up_to = np.searchsorted(ordered, same, side="right")
    return float((below + up_to).mean() / 2 / len(ordered))


def qualities(folder: Path, *, limit: int | None) -> None:
    """Compare on recorded pairs and streams."""
    embedders = {"StaticEmbeddings": StaticEmbeddings(), "MiniLmEmbeddings": MiniLmEmbeddings()}
    shown_rows = []
    mock = list(json_rows(folder / "gptcache_mock_pairs.jsonl.gz"))[:limit]
    traps = list(json_rows(folder / "adversarial_finance.jsonl.gz"))
    for name, embed in embedders.items():
        kept, new = (embed.vectors([row[side] for row in mock]) for side in ("cached", "new"))
        table_ = kept @ new.T
        same = np.diag(table_).copy()
        np.fill_diagonal(table_, -1)
        one, two = (embed.vectors([row[side] for row in traps]) for side in ("cached", "new"))
        trap = (one * two).sum(axis=1)
        nearest = float((same > table_.max(axis=0)).mean())
        off = table_[~np.eye(len(table_), dtype=bool)]
        shown_rows += [
            ["GPTCache pairs, shuffled", name, f"{area(same, off):.3f}", f"{nearest:.1%}"],
            ["GPTCache pairs, against traps of finance", name, f"{area(same, trap):.3f}", ""],
        ]
    for stream in ("banking77_stream_dev", "clinc150_stream_dev"):
        rows = list(json_rows(folder / f"{stream}.jsonl.gz"))[:limit]
        seen = {row["prompt"]: row["answer_id"] for row in rows}
        prompts = sorted(seen)
        random.Random(7).shuffle(prompts)
        prompts = prompts[:3_000]
        answers = np.array([str(seen[prompt]) for prompt in prompts])
        equal = answers[:, None] == answers[None, :]
        upper = np.triu(np.ones_like(equal), 1)
        for name, embed in embedders.items():
            rows = embed.vectors(prompts)
            cosines = rows @ rows.T
            found = area(cosines[equal & upper], cosines[~equal & upper])
            np.fill_diagonal(cosines, -1)
            right = float((answers[cosines.argmax(axis=1)] == answers).mean())
            shown_rows.append(
                [f"{stream}, {len(prompts):,} prompts", name, f"{found:.3f}", f"{right:.1%}"]
            )
    table(
        "Same answer or not, by cosine",
        ["pairs", "embeddings", "area under the curve", "nearest is right"],
        shown_rows,
    )


def main() -> None:
    """Time, then compare where the recorded data is."""
    chosen = data_arguments(__doc__)
    with tempfile.TemporaryDirectory() as folder:
        times(rounds=3 if chosen.quick else 30, folder=Path(folder))
    if has_recorded(chosen.data, "cache"):
        qualities(chosen.data / "cache", limit=200 if chosen.quick else None)


if __name__ == "__main__":
    main()
