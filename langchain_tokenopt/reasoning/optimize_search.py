"""The search for a better prompt: rounds of races on some samples, a comparison on others."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, zip_longest
from typing import Any

from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import Runnable

from langchain_tokenopt.calls import Usage
from langchain_tokenopt.errors import ConfigurationError
from langchain_tokenopt.messages import last_human_text
from langchain_tokenopt.reasoning.bench import Bench
from langchain_tokenopt.reasoning.evaluate import Evaluation, evaluation_of
from langchain_tokenopt.reasoning.jobs import Job, Work
from langchain_tokenopt.reasoning.metrics import LabelledSample, Metric
from langchain_tokenopt.reasoning.objective import FewestTokens, Objective
from langchain_tokenopt.reasoning.optimize_moves import (
    Candidate,
    cases_of,
    demonstrated,
    goals,
    shortened,
    text_of,
    untried,
    written,
)
from langchain_tokenopt.reasoning.optimize_result import OptimizedPrompt, Tried
from langchain_tokenopt.reasoning.prompt_parts import MakesRunnable, messages_for, parts_of
from langchain_tokenopt.reasoning.prompting import Example
from langchain_tokenopt.reasoning.race import WAVE, Race, run_race
from langchain_tokenopt.reasoning.sequential import check_confidence
from langchain_tokenopt.reasoning.spending import Purse

_START, _FOUND = "start", "found"
_MOST_IN_POOL = 16
_SAVING_EXAMPLES = 2  # more of them cost more than they can save in the answer
_FEWEST = 4
_LEAST_WIDTH = 5
_TELLING = 64  # held-out samples that tell scores apart, roughly
_VERSIONS = 3
# The comparison needs more samples than the races, since it has to show something.
_SEARCH_SHARE = 0.6
_UNUSABLE = (
    "What the proposer wrote could not be used: nothing stands between <prompt> and </prompt>, or "
    "a variable of the instruction is missing."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchOptions:
    """What a `PromptOptimizer` was told."""

    make: MakesRunnable
    budget: int
    metric: Metric | None
    objective: Objective
    proposer: Runnable[Any, Any] | None
    examples: tuple[Example, ...]
    rounds: int
    width: int
    confidence: float

    def __post_init__(self) -> None:
        """Refuse what cannot be used."""
        check_confidence(self.confidence)
        if min(self.rounds, self.width) < 1:
            message = f"rounds and width must be at least 1, got {self.rounds} and {self.width}"
            raise ConfigurationError(message)


class Search:
    """One search from one prompt.

    Its samples are in three parts: from the right answers to the first few, examples are made,
    which therefore must not be asked again; races run on the others; the held-out ones are for the
    comparison alone.
    """

    def __init__(
        self,
        options: SearchOptions,
        prompt: ChatPromptTemplate,
        samples: Sequence[LabelledSample],
        *,
        held_out: Sequence[LabelledSample] | None,
        order: random.Random | None,
    ) -> None:
        self.purse = Purse(options.budget)
        self._options = options
        self._start = prompt
        parts = _divided(samples, held_out, order or random.Random(0))  # noqa: S311 - sampling
        self._pool, self._races, self._check = (
            Bench(part, metric=options.metric, purse=self.purse) for part in parts
        )
        self._best = _START
        self._known = {_START: Candidate(parts_of(prompt), "as it was")}
        self._runnables = {_START: options.make(prompt)}
        self._outcomes: dict[str, str] = {}
        self._harmless: set[str] = set()
        self._proposer_usage = Usage()
        self._notes: list[str] = []

    def work(self) -> Work[OptimizedPrompt]:
        """Search, compare and return what was found."""
        share = round(_SEARCH_SHARE * self._options.budget)
        with self.purse.allowance(share):
            start = {_START: self._runnables[_START]}
            yield from self._races.measure(start, until=1)
            if not self._races.rows:
                return self._ended("the budget could not pay for one sample")
            yield from self._pool.measure(start, until=len(self._pool.samples))
        look = WAVE * max(self._races.rows[_START][0].tokens, 1)
        for number in range(self._options.rounds):
            left = share - self.purse.spent
            # Where few can be paid for, fewer rounds: what is tried must be seen a few times.
            rounds = min(self._options.rounds - number, left // (look * _LEAST_WIDTH))
            allowance = left // max(rounds, 1)
            width = min(self._options.width, allowance // look - 1)
            with self.purse.allowance(allowance):
                if width < 1 or not (yield from self._round(width)):
                    break
        if self._best == _START:
            if not self._outcomes:
                return self._ended("there was nothing to try that the budget could pay for")
            return self._ended("nothing better was found in the search")
        return (yield from self._compared())

    def _round(self, width: int) -> Work[bool]:
        """Race new prompts against the best so far; return whether there were any."""
        new: dict[str, Candidate] = {}
        for candidate in islice((yield from self._candidates()), width):
            name = str(len(self._known))
            new[name] = self._known[name] = candidate
            self._runnables[name] = self._options.make(candidate.parts.prompt())
        if not new:
            return False
        saving = isinstance(self._options.objective, FewestTokens)
        old = {_START, self._best} if saving else {self._best}
        race = Race(
            [*sorted(old), *new],
            objective=self._options.objective,
            confidence=self._options.confidence,
            start=_START if saving else None,
        )
        verdict = yield from run_race(race, self._races, self._runnables)
        for name in new:
            self._outcomes[name] = verdict.dropped.get(name, "not the best of its round")
        enough = min(WAVE, len(self._races.samples))
        if verdict.name is not None and len(self._races.rows.get(verdict.name, ())) >= enough:
            self._best = verdict.name
            self._outcomes[self._best] = "the best of its round"
        self._harmless = {
            candidate.left_out
            for name, candidate in new.items()
            if candidate.left_out is not None and self._as_good_as_start(name)
        }
        return True

    def _candidates(self) -> Work[Iterator[Candidate]]:
        best = self._known[self._best].parts
        saving = isinstance(self._options.objective, FewestTokens)
        rows = [*self._pool.rows.get(_START, ()), *self._races.rows.get(self._best, ())]
        texts = yield from self._written(goals(list(cases_of(rows)), saving=saving))
        rewritten = [candidate for text in texts for candidate in written(best, text)]
        if texts and not rewritten:
            self._notes.append(_UNUSABLE)
        fewer = shortened(best, harmless=self._harmless)
        most = _SAVING_EXAMPLES if saving else _MOST_IN_POOL
        more = demonstrated(best, [*self._options.examples, *self._made_examples()], most=most)
        sources = (fewer, rewritten, more) if saving else (more, rewritten, fewer)
        mixed = (each for group in zip_longest(*sources) for each in group if each is not None)
        tried = [candidate.parts for candidate in self._known.values()]
        return untried(mixed, tried)

    def _written(self, asked: Sequence[str]) -> Work[list[str]]:
        """Return what the proposer wrote; nothing without one."""
        if self._options.proposer is None:
            return []
        instruction = self._known[self._best].parts.readable
        outcomes = yield [
            Job(
                runnable=self._options.proposer,
                input={"instruction": instruction, "goal": goal, "n": _VERSIONS},
                step="propose",
            )
            for goal in asked
        ]
        texts = []
        for outcome in outcomes:
            self._proposer_usage += outcome.usage.total
            if outcome.out_of_budget:
                self._notes.append("The budget could not pay for a call of the proposer.")
            elif outcome.error is not None:
                name = type(outcome.error).__name__
                self._notes.append(f"A call of the proposer failed: {name}: {outcome.error}")
            else:
                texts.append(text_of(outcome.output))
        return texts

    def _made_examples(self) -> Iterator[Example]:
        """Yield the right answers to the samples that are kept for this."""
        for row in self._pool.rows.get(_START, ()):
            text = text_of(row.output)
            if row.score == 1 and text:
                messages = messages_for(self._start, row.sample.input)
                yield Example(last_human_text(messages), text)

    def _as_good_as_start(self, name: str) -> bool:
        mine, theirs = self._races.rows.get(name, ()), self._races.rows[_START]
        pairs = list(zip(mine, theirs, strict=False))
        return bool(pairs) and sum(one.score - other.score for one, other in pairs) >= 0

    def _compared(self) -> Work[OptimizedPrompt]:
        """Compare the winner of the search with the start on held-out samples."""
        objective = self._options.objective
        race = Race(
            [_START, _FOUND],
            objective=objective,
            confidence=self._options.confidence,
            start=_START if isinstance(objective, FewestTokens) else None,
        )
        runnables = {_START: self._runnables[_START], _FOUND: self._runnables[self._best]}
        verdict = yield from run_race(race, self._check, runnables)
        if verdict.name != _FOUND:
            why = verdict.dropped.get(_FOUND, verdict.reason)
            return self._ended(f"what won the search did not on held-out samples: {why}")
        if _START not in verdict.dropped:
            return self._ended(verdict.reason, found=True, certain=verdict.certain)
        # The start may be out for its tokens: how the scores compare must be told all the same.
        yield from self._check.measure(runnables, until=min(_TELLING, len(self._check.samples)))
        between = race.compare(_FOUND, _START, self._check.rows)
        reason = (
            f"of the start: {verdict.dropped[_START]}; the score of what was found differs from "
            f"its score by {between.low:+.1%} to {between.high:+.1%}"
        )
        return self._ended(reason, found=True, certain=between.low >= -objective.margin)

    def _ended(self, reason: str, *, found: bool = False, certain: bool = False) -> OptimizedPrompt:
        def measured(bench: Bench, name: str) -> Evaluation:
            return evaluation_of(
                bench, name, decided=not bench.ended, confidence=self._options.confidence
            )

        best = self._known[self._best] if found else None
        return OptimizedPrompt(
            prompt=self._start if best is None else best.parts.prompt(),
            start=self._start,
            certain=certain,
            reason=reason,
            held_out=tuple(measured(self._check, name) for name in self._check.rows),
            tried=tuple(
                Tried(
                    how=self._known[name].how,
                    prompt=self._known[name].parts.prompt(),
                    evaluation=measured(self._races, name),
                    outcome=outcome,
                )
                for name, outcome in self._outcomes.items()
            ),
            usage=self.purse.usage,
            proposer_usage=self._proposer_usage,
            budget=self._options.budget,
            confidence=self._options.confidence,
            notes=tuple(self._notes),
        )


def _divided(
    samples: Sequence[LabelledSample],
    held_out: Sequence[LabelledSample] | None,
    order: random.Random,
) -> tuple[list[LabelledSample], list[LabelledSample], list[LabelledSample]]:
    """Return the samples for examples, for races and for the comparison."""
    search = list(samples)
    order.shuffle(search)
    check = list(held_out or ())
    order.shuffle(check)
    if held_out is None:
        check, search = search[: len(search) // 2], search[len(search) // 2 :]
    asked = {repr(sample.input) for sample in search}
    both = next((sample for sample in check if repr(sample.input) in asked), None)
    if both is not None:
        message = (
            f"{both.input!r:.80} is both searched on and held out: the comparison would favour "
            "what the search has seen; give each question once"
        )
        raise ConfigurationError(message)
    if len(search) < _FEWEST or not check:
        message = (
            f"expected at least {_FEWEST} samples to search on and some to compare on, got "
            f"{len(search)} and {len(check)}; some hundred of each tell 5% apart"
        )
        raise ConfigurationError(message)
    pool = min(len(search) // 4, _MOST_IN_POOL)
    return search[:pool], search[pool:], check
