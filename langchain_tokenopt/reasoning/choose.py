"""Measure on your own samples which way to reason is worth its tokens; it may be none."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.runnables import Runnable, RunnableConfig

from langchain_tokenopt.calls import Usage
from langchain_tokenopt.errors import ConfigurationError
from langchain_tokenopt.reasoning import extract
from langchain_tokenopt.reasoning.bench import Bench
from langchain_tokenopt.reasoning.chain import ChainOfThought
from langchain_tokenopt.reasoning.evaluate import (
    Evaluation,
    evaluation_of,
    measured,
    remarks,
    table_of,
)
from langchain_tokenopt.reasoning.extract import Extractor
from langchain_tokenopt.reasoning.jobs import Work, arun, run
from langchain_tokenopt.reasoning.metrics import LabelledSample, Metric
from langchain_tokenopt.reasoning.objective import FewestTokens, Objective
from langchain_tokenopt.reasoning.race import Race, Verdict, run_race
from langchain_tokenopt.reasoning.self_consistency import SelfConsistency
from langchain_tokenopt.reasoning.spending import Purse


@dataclass(frozen=True, kw_only=True)
class TechniqueChoice:
    """Which technique was chosen, and what was measured of each."""

    name: str | None
    """The chosen one; `None` if none could be measured, or all use too many tokens."""
    technique: Runnable[Any, Any] | None
    certain: bool
    """Whether its score is shown to be within the objective's margin; else it is a guess."""
    reason: str
    evaluations: tuple[Evaluation, ...]
    """Of each technique, over as many of the first samples as it ran."""
    dropped: Mapping[str, str]
    """Why each of the others was not measured further."""
    usage: Usage
    """Of all calls."""
    budget: int
    confidence: float

    def report(self) -> str:
        """Return what was chosen and why, and a Markdown table of what was measured."""
        head = ["technique", "samples", "score", "tokens a question", "tokens in all", "outcome"]
        rows = [
            [
                found.name,
                *measured(found),
                f"{found.spent.total_tokens:,}",
                "**chosen**" if found.name == self.name else self.dropped.get(found.name, ""),
            ]
            for found in self.evaluations
        ]
        chosen = "Chosen" if self.certain else "Chosen, not certain"
        title = "Nothing is chosen" if self.name is None else f"{chosen}: {self.name}"
        used = (
            f"{self.usage.total_tokens:,} of {self.budget:,} tokens were used. Intervals are "
            f"{self.confidence:.0%} for the samples that were measured; the choice rests on paired "
            "differences at a confidence that allows for the looks in between."
        )
        told = [
            f"{title}. {self.reason[:1].upper()}{self.reason[1:]}.",
            "",
            table_of(head, rows),
            "",
            used,
        ]
        return "\n".join([*told, *remarks(self.evaluations)])

    def __str__(self) -> str:
        return self.report()


def default_techniques(
    model: BaseChatModel, *, answer: Extractor = extract.text
) -> dict[str, Runnable[Any, Any]]:
    """Return the techniques worth measuring first: no reasoning, a draft, a full chain, votes.

    Args:
        model: Answers.
        answer: Reads the answers, and tells whether votes agree.

    >>> from langchain_tokenopt.testing import ScriptedModel
    >>> list(default_techniques(ScriptedModel(["4"]), answer=extract.number))
    ['none', 'draft', 'full', 'self_consistency']
    """
    return {
        "none": ChainOfThought(model, answer=answer, style="none"),
        "draft": ChainOfThought(model, answer=answer, style="draft"),
        "full": ChainOfThought(model, answer=answer, style="full"),
        "self_consistency": SelfConsistency(model, answer=answer),
    }


def choose_technique(
    techniques: Mapping[str, Runnable[Any, Any]],
    samples: Sequence[LabelledSample],
    *,
    budget: int,
    metric: Metric | None = None,
    objective: Objective | None = None,
    confidence: float = 0.95,
    order: random.Random | None = None,
    config: RunnableConfig | None = None,
) -> TechniqueChoice:
    """Return the technique to use, measured on labelled samples with as few tokens as will do.

    All techniques get the same samples in the same order, and are compared sample by sample. One
    is dropped as soon as it is shown not to be the answer, and the rest of the samples is left as
    soon as the answer is shown; looking often makes no choice wrong more often than `confidence`
    allows, if samples are like later questions. Where the budget cannot pay for all of it, the
    worse half is dropped as shares of it are spent, and the choice is not `certain`.

    Args:
        techniques: Any runnables by name; `default_techniques(model)` is a good start.
        samples: Questions with their right answers; some hundred tell 5% apart.
        budget: Tokens, input and output of all calls, that may be used; see `evaluate`.
        metric: Scores an output; by default `typed_equality()` of the text.
        objective: Who wins; by default `FewestTokens()`.
        confidence: Of the choice and of the intervals.
        order: Shuffles the samples; by default the same way each time.
        config: For all calls.

    Raises:
        ConfigurationError: A value cannot be used, or a technique cannot take the samples.

    >>> from langchain_tokenopt.testing import ScriptedModel
    >>> short = ScriptedModel(["4"], when_exhausted="repeat_last")
    >>> long = ScriptedModel(["2 and 2 make 4"], when_exhausted="repeat_last")
    >>> samples = [LabelledSample("2 + 2?", "4")] * 200
    >>> choice = choose_technique({"short": short, "long": long}, samples, budget=10_000)
    >>> choice.name, choice.certain
    ('short', True)
    """
    chooser = _Chooser(
        techniques, samples, budget=budget, metric=metric, objective=objective,
        confidence=confidence, order=order,
    )  # fmt: skip
    return run(chooser.work(), purse=chooser.bench.purse, config=config)


async def achoose_technique(
    techniques: Mapping[str, Runnable[Any, Any]],
    samples: Sequence[LabelledSample],
    *,
    budget: int,
    metric: Metric | None = None,
    objective: Objective | None = None,
    confidence: float = 0.95,
    order: random.Random | None = None,
    config: RunnableConfig | None = None,
) -> TechniqueChoice:
    """Do what `choose_technique` does without blocking the event loop."""
    chooser = _Chooser(
        techniques, samples, budget=budget, metric=metric, objective=objective,
        confidence=confidence, order=order,
    )  # fmt: skip
    return await arun(chooser.work(), purse=chooser.bench.purse, config=config)


class _Chooser:
    def __init__(
        self,
        techniques: Mapping[str, Runnable[Any, Any]],
        samples: Sequence[LabelledSample],
        *,
        budget: int,
        metric: Metric | None,
        objective: Objective | None,
        confidence: float,
        order: random.Random | None,
    ) -> None:
        if not techniques:
            raise ConfigurationError("expected at least one technique by name, got none")
        self._techniques = techniques
        self._budget, self._confidence = budget, confidence
        shuffled = list(samples)
        (order or random.Random(0)).shuffle(shuffled)  # noqa: S311 - sampling
        self.bench = Bench(shuffled, metric=metric, purse=Purse(budget))
        self._race = Race(
            list(techniques), objective=objective or FewestTokens(), confidence=confidence
        )

    def work(self) -> Work[TechniqueChoice]:
        verdict: Verdict = yield from run_race(self._race, self.bench, self._techniques)
        return TechniqueChoice(
            name=verdict.name,
            technique=None if verdict.name is None else self._techniques[verdict.name],
            certain=verdict.certain,
            reason=verdict.reason,
            evaluations=tuple(
                evaluation_of(
                    self.bench,
                    name,
                    decided=name in verdict.dropped or not self.bench.ended,
                    confidence=self._confidence,
                )
                for name in self._techniques
            ),
            dropped=verdict.dropped,
            usage=self.bench.purse.usage,
            budget=self._budget,
            confidence=self._confidence,
        )
