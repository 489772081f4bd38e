"""Where to look for a better prompt: fewer sentences, other examples, an instruction rewritten."""

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from langchain_core.messages import BaseMessage
from langchain_core.prompts import ChatPromptTemplate

from langchain_tokenopt.reasoning.bench import EvaluatedSample
from langchain_tokenopt.reasoning.prompt_parts import PromptParts
from langchain_tokenopt.reasoning.prompting import Example
from langchain_tokenopt.reasoning.result import ReasoningResult

_ASK = (
    "You rewrite the instruction of a prompt that is sent to a language model many times. Write "
    "each version between <prompt> and </prompt>, and keep the placeholders in braces as they are."
)
_REQUEST = "<prompt>\n{instruction}\n</prompt>\n\n{goal}\nWrite {n} different versions."
PROPOSAL_PROMPT = ChatPromptTemplate([("system", _ASK), ("human", _REQUEST)])
"""What a proposer is asked; gets `instruction`, `goal` and `n`."""

_SHORTER = "Rewrite it with as few words as possible, so that the answers stay as they are."
_BRIEF = "Rewrite it so that the answers get much shorter and stay right."
_FAILURES = (
    "It led to wrong answers:\n\n{cases}\n\nRewrite it so that questions like these are answered "
    "right. Do not repeat the cases themselves."
)
_MOST_CASES = 4
_MOST_OF_A_CASE = 400  # characters
_SHOWN = 50  # characters of a sentence or question in a report
_VERSION = re.compile(r"<prompt>(.*?)</prompt>", re.DOTALL | re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A prompt to try."""

    parts: PromptParts
    how: str
    """How it differs, for a reader."""
    left_out: str | None = None
    """The sentence that it lacks, if that is all."""


@dataclass(frozen=True, slots=True)
class Case:
    """A question that was answered wrongly."""

    question: str
    text: str
    gold: str


def goals(cases: Sequence[Case], *, saving: bool) -> list[str]:
    """Return what to ask a proposer for, the most promising first."""
    shown = "\n\n".join(
        f"Question: {case.question:.{_MOST_OF_A_CASE}}\nAnswer: {case.text:.{_MOST_OF_A_CASE}}\n"
        f"Right answer: {case.gold:.{_MOST_OF_A_CASE}}"
        for case in cases[:_MOST_CASES]
    )
    better = [_FAILURES.format(cases=shown)] if cases else []
    return [_SHORTER, _BRIEF] if saving else [*better, _SHORTER]


def written(base: PromptParts, text: str) -> Iterator[Candidate]:
    """Yield the versions in what a proposer wrote, without those that lost a variable."""
    for version in _VERSION.findall(text):
        parts = base.rewritten(version)
        if parts is not None and parts.instruction:
            yield Candidate(parts, "rewritten")


def shortened(base: PromptParts, *, harmless: Collection[str]) -> Iterator[Candidate]:
    """Yield the prompt without what did no harm alone, then without single parts, longest first.

    Args:
        base: The prompt.
        harmless: Sentences that were left out one by one without a loss.
    """
    sentences = base.sentences()
    together = [number for number, text in enumerate(sentences) if text.strip() in harmless]
    if len(together) > 1:
        parts = base.without(together)
        if parts is not None:
            how = f"without {len(together)} sentences, none of which was missed alone"
            yield Candidate(parts, how)
    if base.examples:
        yield Candidate(replace(base, examples=()), "without examples")
    for number in sorted(range(len(sentences)), key=lambda n: len(sentences[n]), reverse=True):
        parts = base.without([number])
        if parts is not None:
            left_out = sentences[number].strip()
            yield Candidate(parts, f"without {_short(left_out)!r}", left_out)
    if len(base.examples) > 1:
        longest = sorted(base.examples, key=lambda example: len(example.text), reverse=True)
        for left in longest:
            kept = tuple(example for example in base.examples if example is not left)
            yield Candidate(
                replace(base, examples=kept), f"without example {_short(left.question)!r}"
            )


def demonstrated(base: PromptParts, pool: Sequence[Example], *, most: int) -> Iterator[Candidate]:
    """Yield the prompt with more examples of a pool, short ones first, and in the other order."""
    known = {example.question for example in base.examples}
    fresh = sorted(
        (example for example in pool if example.question not in known),
        key=lambda example: len(example.question) + len(example.text),
    )
    for n in (1, 2, 4, 8):
        if n <= min(most, len(fresh)):
            # The one nearest to the question weighs most: the shortest stands last.
            examples = (*base.examples, *reversed(fresh[:n]))
            noun = "example" if n == 1 else "examples"
            yield Candidate(replace(base, examples=examples), f"with {n} more {noun}")
    if len(base.examples) > 1:
        turned = tuple(reversed(base.examples))
        yield Candidate(replace(base, examples=turned), "examples in the other order")


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def untried(candidates: Iterable[Candidate], tried: Sequence[PromptParts]) -> Iterator[Candidate]:
    """Yield the candidates that are unlike all that were tried, and each other."""
    known = {(parts.instruction, parts.examples) for parts in tried}
    for candidate in candidates:
        key = (candidate.parts.instruction, candidate.parts.examples)
        if key not in known:
            known.add(key)
            yield candidate


def cases_of(rows: Sequence[EvaluatedSample]) -> Iterator[Case]:
    """Yield what was answered wrongly."""
    for row in rows:
        if row.score < 1 and row.error is None:
            yield Case(str(row.sample.input), text_of(row.output), str(row.sample.gold))


def text_of(output: Any) -> str:
    """Return what a model wrote, "" where that cannot be told."""
    if isinstance(output, ReasoningResult | BaseMessage):
        return str(output.text)
    return output if isinstance(output, str) else ""
