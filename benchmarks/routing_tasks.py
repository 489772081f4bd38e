"""Does the task classifier tell kinds of questions apart, and say so when it cannot?

Kinds are recorded question sets: GSM8K, AQuA, StrategyQA, SCAN, ProofWriter, PrOntoQA and three
groups of MMLU domains. Examples are the first of each, questions the last hundred of its second
half. In the column "left out" their kind has no profile, and they should be left undecided. How the
classifier abstains was chosen on other questions, but for AQuA and history, which have too few.
Intervals are 95% (Wilson). Needs `--data` or TOKENOPT_DATA.
"""

import time
from pathlib import Path
from typing import Any

from langchain_core.embeddings import Embeddings
from measure import data_arguments, has_recorded, json_rows, table
from reasoning_extract import share

from langchain_tokenopt.embeddings import MiniLmEmbeddings, StaticEmbeddings
from langchain_tokenopt.routing.profiles import TaskProfile
from langchain_tokenopt.routing.tasks import TaskClassifier

SETS = {
    "GSM8K": "gold_gsm8k_test", "AQuA": "gold_aqua_test", "StrategyQA": "gold_strategyqa",
    "SCAN": "gold_scan_length_1000", "ProofWriter": "gold_proofwriter_d5_600",
    "PrOntoQA": "gold_prontoqa_500",
}  # fmt: skip
DOMAINS = {
    "law": ("professional_law", "international_law", "jurisprudence"),
    "medicine": ("professional_medicine", "clinical_knowledge", "anatomy"),
    "history": ("high_school_us_history", "high_school_world_history"),
}


def main() -> None:
    """Print a table for each number of examples."""
    given = data_arguments(__doc__)
    if not has_recorded(given.data, "reasoning"):
        return
    kinds = read(given.data)
    tests = {
        kind: texts[len(texts) // 2 :][-10 if given.quick else -100 :]
        for kind, texts in kinds.items()
    }
    embeddings: dict[str, Embeddings] = {"static": StaticEmbeddings()}
    if not given.quick:
        embeddings["MiniLM"] = MiniLmEmbeddings()
    rows = [
        measure(name, vectors, kinds, tests, examples)
        for name, vectors in embeddings.items()
        for examples in ((8,) if given.quick else (4, 8, 16))
    ]
    head = ["embeddings", "examples a kind", "right of decided", "decided", "undecided, left out"]
    table(
        f"{len(kinds)} kinds, {sum(map(len, tests.values())):,} questions",
        [*head, "a question"],
        rows,
    )


def measure(
    name: str,
    embeddings: Embeddings,
    kinds: dict[str, list[str]],
    tests: dict[str, list[str]],
    examples: int,
) -> list[str]:
    """Classify the questions, with all kinds known and with each one left out."""
    profiles = {
        kind: TaskProfile(name=kind, examples=tuple(texts[:examples]))
        for kind, texts in kinds.items()
    }
    classifier = TaskClassifier(embeddings, list(profiles.values()))
    decided, right = [], []
    started = time.perf_counter()
    for kind, texts in tests.items():
        for match in classifier.classify_all(texts):
            decided.append(match.task is not None)
            if match.task is not None:
                right.append(match.task == kind)
    took_s = time.perf_counter() - started
    silent = []
    for kind, texts in tests.items():
        rest = [profile for other, profile in profiles.items() if other != kind]
        silent += [
            match.task is None for match in TaskClassifier(embeddings, rest).classify_all(texts)
        ]
    each = f"{took_s / len(decided) * 1e3:.2f} ms"
    return [name, str(examples), share(right), share(decided), share(silent), each]


def read(data: Path) -> dict[str, list[str]]:
    """Return the questions of each kind."""
    kinds = {
        name: texts_of(json_rows(data / "reasoning" / f"{file}_dev.jsonl.gz"))
        for name, file in SETS.items()
    }
    rows = list(json_rows(data / "cascade" / "mmlu_dev.jsonl.gz"))
    for name, domains in DOMAINS.items():
        kinds[name] = texts_of([row for row in rows if row["domain"] in domains])
    return kinds


def texts_of(rows: Any) -> list[str]:
    """Return the questions of rows."""
    return [str(row["question"]) for row in rows]


if __name__ == "__main__":
    main()
