"""How many of the facts that a question needs are among the documents that are sent?

Three sets, each with `StaticEmbeddings`, at budgets of tokens that both sides get:

- PrOntoQA and ProofWriter: the documents of a question are the sentences of its context, in which
  the facts of the proof are known: PrOntoQA's by following the chain from the entity, ProofWriter's
  by forward chaining over the contexts of the kind "Att" (attributes alone), where only questions
  are used whose derived answer is the gold one. A question counts if every fact of its proof is
  sent. Budgets are shares of the whole context.
- Banking77: a document for each of 77 intents, of five questions from the first half of the stream;
  questions are the second half's. A question counts if the document of its intent is sent.

Plain top-k takes documents in the order of their cosine until the budget is used up. Intervals are
95% over the questions. Needs `--data` or TOKENOPT_DATA.
"""

import random
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from langchain_core.documents import Document
from measure import data_arguments, has_recorded, json_rows, table

from langchain_tokenopt import counter_for
from langchain_tokenopt.embeddings import StaticEmbeddings
from langchain_tokenopt.prompts import DocumentIndex, PreFilter
from langchain_tokenopt.prompts.builder import written

COUNT = counter_for("gpt-5-mini").count_text
Fact = tuple[str, str, bool]


@dataclass(frozen=True)
class Case:
    """A question with its documents and those of them that it needs."""

    question: str
    documents: tuple[Document, ...]
    needed: frozenset[str]
    budget: int


@dataclass(frozen=True)
class Rule:
    """If somebody has all of `given`, then they have `then`."""

    given: tuple[Fact, ...]
    then: Fact
    sentence: str


def main() -> None:
    """Print a table for each set."""
    given = data_arguments(__doc__)
    data, most = given.data, 20 if given.quick else 10_000
    if not has_recorded(data, "reasoning"):
        return
    embeddings = StaticEmbeddings()
    for share in (0.5,) if given.quick else (0.25, 0.5, 0.75):
        for name, read in (("PrOntoQA", prontoqa), ("ProofWriter", proofwriter)):
            cases = list(islice(read(data, share), most))
            title = f"{name}, {len(cases)} questions, {share:.0%} of the context's tokens"
            show(title, cases, embeddings, hops=(1, 2, 3))
    for budget in (300,) if given.quick else (150, 300, 600):
        cases = list(islice(banking(data, budget), 4 * most))
        show(f"Banking77, {len(cases)} questions, {budget} tokens", cases, embeddings, hops=(1,))


def show(title: str, cases: Sequence[Case], embeddings: Any, *, hops: Sequence[int]) -> None:
    """Play one set in all ways and print them."""
    ways: dict[str, Callable[[DocumentIndex, Case], Sequence[Document]]] = {
        "plain top-k": plain,
        "packed by value": ours(words_weight=0.0),
        "+ words (default)": ours(),
        "+ words, diversity": ours(diversity=0.2),
        "+ words, score_ratio 0.5": ours(score_ratio=0.5),
        "+ words, score_ratio 0.7": ours(score_ratio=0.7),
    }
    for n in hops[1:]:
        ways[f"+ words, {n} hops"] = ours(hops=n)
    kept: dict[str, list[tuple[bool, float, int]]] = {name: [] for name in ways}
    known: dict[tuple[str, ...], DocumentIndex] = {}
    for case in cases:
        key = tuple(document.page_content for document in case.documents)
        if key not in known:
            known.clear()
            known[key] = DocumentIndex(embeddings)
            known[key].update(case.documents)
        for name, way in ways.items():
            sent = {str(document.id): document for document in way(known[key], case)}
            got = case.needed & set(sent)
            tokens = sum(map(size, sent.values()))
            kept[name].append((case.needed == got, len(got) / len(case.needed), tokens))
    rows = []
    for name, found in kept.items():
        whole = [float(all_there) for all_there, _, _ in found]
        facts = sum(share for _, share, _ in found) / len(found)
        tokens = sum(used for _, _, used in found) / len(found)
        rows.append(
            [name, percent(whole), f"{facts:.1%}", f"{tokens:.0f}", f"{1000 * facts / tokens:.2f}"]
        )
    head = ["way", "questions with all facts", "facts kept", "tokens", "facts kept per 1,000"]
    table(title, head, rows)


def plain(index: DocumentIndex, case: Case) -> list[Document]:
    """Take documents by their cosine until one does not fit."""
    sent, room = [], case.budget
    for document in index.vectors.similarity_search(case.question, k=len(case.documents)):
        room -= size(document)
        if room < 0:
            break
        sent.append(document)
    return sent


def ours(**options: Any) -> Callable[[DocumentIndex, Case], Sequence[Document]]:
    """Use the pre-filter."""

    def way(index: DocumentIndex, case: Case) -> Sequence[Document]:
        prefilter = PreFilter(
            index=index, max_tokens=case.budget, fetch_k=100, k=100, model="gpt-5-mini", **options
        )
        return prefilter.select(case.question).documents

    return way


def size(document: Document) -> int:
    """Return the tokens of a document as it is sent."""
    return COUNT(written(document)) + 2


def percent(values: Sequence[float]) -> str:
    """Return a mean with its 95% bootstrap interval."""
    rng = random.Random(0)
    draws = sorted(sum(rng.choices(values, k=len(values))) / len(values) for _ in range(500))
    return f"{sum(values) / len(values):.1%} ({draws[12]:.1%} to {draws[487]:.1%})"


# --- sets -----------------------------------------------------------------------------------------


def case_of(row: Any, needed: set[str], share: float) -> Case:
    """Return a question over the sentences of its context."""
    sentences = sentences_of(row["context"])
    documents = [Document(text, id=f"s{n}") for n, text in enumerate(sentences)]
    whole = sum(map(size, documents))
    ids = frozenset(str(d.id) for d in documents if d.page_content in needed)
    question = str(row["query"]).split("?")[-1].strip() or str(row["query"])
    return Case(question, tuple(documents), ids, round(share * whole))


def sentences_of(text: str) -> list[str]:
    """Return the sentences of a context."""
    return [part.strip() + "." for part in text.split(".") if part.strip()]


def prontoqa(data: Path, share: float) -> Iterator[Case]:
    """Yield the questions whose chain is complete."""
    for row in json_rows(data / "reasoning/gold_prontoqa_500_dev.jsonl.gz"):
        needed = chain(row)
        if needed:
            yield case_of(row, needed, share)


def chain(row: Any) -> set[str]:
    """Return the sentences from the entity's kind to what is asked about it."""
    entity, wanted = re.split(
        r" is (?:not )?", row["query"].split("? ")[-1].rstrip("."), maxsplit=1
    )
    links: dict[str, list[tuple[str, str]]] = {}
    for sentence in sentences_of(row["context"]):
        words = re.match(r"(?:Every |Each )?(\w+) (?:is|are) (?:not )?(?:an? )?(\w+)\.", sentence)
        if words:
            links.setdefault(kind(words[1]), []).append((kind(words[2]), sentence))
    paths: list[tuple[str, tuple[str, ...]]] = [(kind(entity), ())]
    seen = set()
    while paths:
        at, path = paths.pop(0)
        if at == kind(wanted):
            return set(path)
        if at in seen:
            continue
        seen.add(at)
        paths += [(there, (*path, sentence)) for there, sentence in links.get(at, [])]
    return set()


def kind(word: str) -> str:
    """Return a word without its plural."""
    lower = word.lower()
    return lower.removesuffix("es") if lower.endswith("uses") else lower


def proofwriter(data: Path, share: float) -> Iterator[Case]:
    """Yield the questions whose derived answer is the gold one."""
    for row in json_rows(data / "reasoning/gold_proofwriter_d5_600_dev.jsonl.gz"):
        if "_Att" not in row["id"] or row["gold"] == "C":
            continue
        needed = proof(row)
        if needed:
            yield case_of(row, needed, share)


def proof(row: Any) -> set[str]:
    """Return the sentences that an answer rests on, none if it cannot be derived."""
    facts: dict[Fact, frozenset[str]] = {}
    rules: list[Rule] = []
    for sentence in sentences_of(row["context"]):
        rule = rule_of(sentence)
        if rule is not None:
            rules.append(rule)
        elif (fact := fact_of(sentence)) is not None:
            facts[fact] = frozenset([sentence])
        else:
            return set()
    names = {name for name, _, _ in facts}
    while True:
        more = dict(derived(facts, rules, names))
        if not more:
            break
        facts |= more
    name, attribute, holds = fact_of(row["query"].split("? ")[-1]) or ("", "", True)
    for truth, answer in ((True, "A"), (False, "B")):
        found = facts.get((name, attribute, holds is truth))
        if found is not None and row["gold"] == answer:
            return set(found)
    return set()


def derived(
    facts: dict[Fact, frozenset[str]], rules: Sequence[Rule], names: set[str]
) -> Iterator[tuple[Fact, frozenset[str]]]:
    """Yield what follows in one step, with the sentences that it rests on."""
    for rule in rules:
        for name in sorted(names):
            given = [(name if who == "*" else who, what, holds) for who, what, holds in rule.given]
            who, what, holds = rule.then
            then = (name if who == "*" else who, what, holds)
            if then not in facts and all(fact in facts for fact in given):
                rest = frozenset().union(*(facts[fact] for fact in given))
                yield then, rest | {rule.sentence}


def fact_of(sentence: str) -> Fact | None:
    """Return what `Bob is not kind.` says."""
    words = re.fullmatch(r"(\w+) is (not )?(\w+)\.?", sentence.strip())
    return None if words is None else (words[1].lower(), words[3].lower(), words[2] is None)


def rule_of(sentence: str) -> Rule | None:
    """Return what a sentence with a condition says."""
    text = sentence.rstrip(".").lower()
    things = re.fullmatch(r"(?:all )?([\w, ]+?) (?:things|people) are (not )?(\w+)", text)
    if things:
        given = tuple(("*", word, True) for word in re.split(r",? and |, ", things[1]))
        return Rule(given, ("*", things[3], things[2] is None), sentence)
    condition = re.fullmatch(r"if (.+) then (\w+) (?:is|are) (not )?(\w+)", text)
    if condition is None:
        return None
    parts: list[Fact] = []
    for part in re.split(r" and ", condition[1]):
        words = re.fullmatch(r"(?:(\w+) (?:is|are) )?(not )?(\w+)", part)
        if words is None:
            return None
        who = subject(words[1]) if words[1] else parts[-1][0]
        parts.append((who, words[3], words[2] is None))
    return Rule(tuple(parts), (subject(condition[2]), condition[4], condition[3] is None), sentence)


def subject(word: str) -> str:
    """Return a name, `*` for anybody."""
    return "*" if word in ("someone", "something", "they", "it") else word


def banking(data: Path, budget: int) -> Iterator[Case]:
    """Yield questions with a document for each intent."""
    rows = list(json_rows(data / "cache/banking77_stream_dev.jsonl.gz"))
    texts: dict[str, list[str]] = {}
    for row in rows[: len(rows) // 2]:
        said = texts.setdefault(str(row["answer_id"]), [])
        if len(said) < 5 and row["prompt"] not in said:
            said.append(row["prompt"])
    documents = tuple(Document("\n".join(said), id=name) for name, said in sorted(texts.items()))
    known = {text for said in texts.values() for text in said}
    asked = {r["prompt"]: str(r["answer_id"]) for r in rows[len(rows) // 2 :]}
    for prompt, name in asked.items():
        if prompt not in known and name in texts:
            yield Case(prompt, documents, frozenset([name]), budget)


if __name__ == "__main__":
    main()
