"""Which questions should go to the strong model at once, told from the question alone?

MMLU, Mixtral 8x7B and gpt-4-1106, whose correctness was recorded. A router learns from that many
labels drawn at random and is measured on all other questions. APGR is the mean share of the gap in
quality that is recovered over all shares of strong calls; a random order gets 0.5. "Weak is right"
trains the same model on whether the small model is right, in place of the strong one's gain.
Intervals are 95% over draws of labels and of questions together. Needs `--data` or TOKENOPT_DATA.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from langchain_core.embeddings import Embeddings
from measure import data_arguments, has_recorded, json_rows, table
from numpy.typing import NDArray
from recorded.cascades import STRONG, WEAK
from typing_extensions import override

from langchain_tokenopt.embeddings import StaticEmbeddings
from langchain_tokenopt.routing.router import fit_router

Scores = Callable[[Sequence[int], Sequence[int]], Sequence[float]]
"""Takes the questions to learn from and those to score, by number."""


class Known(Embeddings):
    """Embeddings of texts that were embedded before."""

    def __init__(self, vectors: dict[str, list[float]]) -> None:
        self._vectors = vectors

    @override
    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return [self._vectors[text] for text in texts]

    @override
    def embed_query(self, text: str) -> list[float]:
        return self._vectors[text]


def main() -> None:
    """Print one table."""
    given = data_arguments(__doc__)
    if not has_recorded(given.data, "cascade"):
        return
    read = list(json_rows(given.data / "cascade/mmlu_dev.jsonl.gz"))
    if given.quick:
        read = read[::6]
    questions = [row["question"] for row in read]
    weak = np.array([row["correct"][WEAK] for row in read], dtype=float)
    strong = np.array([row["correct"][STRONG] for row in read], dtype=float)
    vectors = StaticEmbeddings().embed_documents(questions)
    static = Known(dict(zip(questions, vectors, strict=True)))
    draws = 2 if given.quick else 40

    def router(target: NDArray[Any], embeddings: Embeddings | None) -> Scores:
        def scores(learn: Sequence[int], others: Sequence[int]) -> Sequence[float]:
            fitted = fit_router(
                [questions[n] for n in learn], target[learn].tolist(), embeddings=embeddings
            )
            return fitted.scores([questions[n] for n in others], embeddings=embeddings)

        return scores

    def length(learn: Sequence[int], others: Sequence[int]) -> Sequence[float]:
        return [-len(questions[n]) for n in others]

    ways: dict[str, Scores] = {
        "question length": length,
        "words and shape": router(strong - weak, None),
        "words, shape, embedding": router(strong - weak, static),
        "the same, target: weak is right": router(-weak, static),
    }
    shown = []
    for labels in (400,) if given.quick else (200, 1_000):
        for name, way in ways.items():
            found = [apgr(way, weak, strong, labels, draw) for draw in range(draws)]
            shown.append([f"{labels:,}", name, interval(np.array(found))])
    title = f"MMLU, {len(read):,} questions, {draws} draws of labels"
    table(title, ["labels", "router", "APGR"], shown)


def apgr(
    way: Scores, weak: NDArray[Any], strong: NDArray[Any], labels: int, draw: int
) -> tuple[float, float]:
    """Return the APGR on the questions not learnt from, and on as many drawn from them again."""
    rng = np.random.default_rng(draw)
    order = rng.permutation(len(weak))
    others = order[labels:]
    scores = np.asarray(way(order[:labels], others))
    again = rng.integers(0, len(others), len(others))
    found = []
    for chosen in (slice(None), again):
        taken = others[chosen]
        ranked = taken[np.lexsort((rng.random(len(taken)), scores[chosen]))]
        gains = np.concatenate([[0.0], np.cumsum(strong[ranked] - weak[ranked])])
        found.append(float(np.trapezoid(gains / gains[-1], dx=1 / len(ranked))))
    return found[0], found[1]


def interval(found: NDArray[Any]) -> str:
    """Return the mean and its interval."""
    low, high = np.quantile(found[:, 1], (0.025, 0.975))
    return f"{found[:, 0].mean():.3f} ({low:.3f} to {high:.3f})"


if __name__ == "__main__":
    main()
