"""Which of several runnables to take, decided on paired samples with as few of them as will do.

After each few samples those are dropped that are shown not to be the answer, at a confidence that
holds however often one looks. Where the budget cannot pay for all samples, the worse half is
dropped each time that a share of it is spent (successive halving), which shows nothing; the verdict
says so.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

from langchain_core.runnables import Runnable

from langchain_tokenopt.reasoning.bench import Bench, EvaluatedSample
from langchain_tokenopt.reasoning.jobs import Work
from langchain_tokenopt.reasoning.objective import FewestTokens, HighestScore, Objective
from langchain_tokenopt.reasoning.sequential import (
    ConfidenceSequence,
    Interval,
    check_confidence,
    mean_interval,
)

WAVE = 8
"""Samples between two looks; also the fewest that a ranking is made of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a race led to."""

    name: str | None
    """Of the winner; `None` if none can be taken."""
    certain: bool
    """Whether it is shown, at the race's confidence, that its score is within the margin."""
    reason: str
    dropped: Mapping[str, str] = field(default_factory=dict)
    """Why each of the others was not measured further."""


class Race:
    """The state of a race: what was seen, who is still in.

    Args:
        names: Who runs.
        objective: Who wins.
        confidence: That no difference of scores is told wrongly, over all pairs and looks.
        start: With `FewestTokens`, scores are compared with this one's, by default with the best.
    """

    def __init__(
        self,
        names: Sequence[str],
        *,
        objective: Objective,
        confidence: float = 0.95,
        start: str | None = None,
    ) -> None:
        check_confidence(confidence)
        self.running = list(names)
        self.dropped: dict[str, str] = {}
        self._objective = objective
        self._start = start
        self._confidence = confidence
        self._proven = True
        self._rows: Mapping[str, Sequence[EvaluatedSample]] = {}
        against = [(start, name) for name in names if name != start]
        pairs = list(combinations(names, 2)) if start is None else against
        # Each pair gets its share of the risk, so that all of them hold at once.
        each = 1 - (1 - confidence) / max(len(pairs), 1)
        self._pairs = {pair: ConfidenceSequence(low=-1, high=1, confidence=each) for pair in pairs}

    def look(self, rows: Mapping[str, Sequence[EvaluatedSample]]) -> None:
        """Take in the rows so far, and drop who is shown not to win."""
        self._rows = rows
        for one, other in self._pairs:
            if one in self.running and other in self.running:
                self.compare(one, other, rows)
        for name in list(self.running) if self._common() else ():
            why = self._why_out(name)
            if why is not None:
                self._drop(name, why)

    def compare(
        self, one: str, other: str, rows: Mapping[str, Sequence[EvaluatedSample]]
    ) -> Interval:
        """Take in the rows of two runnables, and return where the difference of scores lies."""
        pair = (one, other) if (one, other) in self._pairs else (other, one)
        differences = self._pairs[pair]
        known = zip(rows.get(pair[0], ()), rows.get(pair[1], ()), strict=False)
        for mine, theirs in list(known)[differences.n :]:
            differences.observe(mine.score - theirs.score)
        return self.difference(one, other)

    def leave_out(self, name: str, why: str) -> None:
        """Measure a runnable no further, though nothing shows that it would not win."""
        self._proven = False
        self._drop(name, why)

    def halve(self) -> None:
        """Drop the half that ranks lower, though nothing shows that the winner is not in it."""
        ranked = self._ranked()
        kept = ranked[: max(math.ceil(len(ranked) / 2), 2)]
        # What the others are compared with must stay.
        kept += [name for name in (self._compared(),) if name not in kept]
        for name in [name for name in self.running if name not in kept]:
            self.leave_out(name, "ranked in the lower half when the budget could not pay for all")

    def winner(self) -> Verdict | None:
        """Return the verdict if it is certain, `None` if more samples may change it."""
        if self._start is not None and self._start not in self.running:
            return self._verdict(self._start, "the budget could not pay for its first sample")
        if self._common() == 0:
            return None if self.running else self._verdict(None, "none of them can be taken")
        first, margin = self._ranked()[0], self._objective.margin
        if isinstance(self._objective, FewestTokens):
            first = min(self.running, key=self.tokens)
        elif not self._is_under_cap(first):
            return None
        rivals = [name for name in self._references() if name != first]
        if any(self.difference(first, name).low < -margin for name in rivals):
            return None
        reason = "the others are shown not to be the answer"
        if rivals:
            reason = f"its score is shown to be {_within(margin)} that of {', '.join(rivals)}"
        elif len(self.running) > 1:
            reason = "nothing else uses fewer tokens"
        if not self._proven:
            reason += ", but some were left out before anything was shown of them"
        return self._verdict(first, reason)

    def guess(self) -> Verdict:
        """Return the likeliest winner of what was seen, when no more samples can be had."""
        sure = self.winner()
        if sure is not None:
            return sure
        if self._common() == 0:
            return Verdict(
                name=self._start,
                certain=False,
                reason="the budget could not pay for one sample of each",
                dropped=dict(self.dropped),
            )
        first = self._ranked()[0]
        cap = getattr(self._objective, "max_tokens", None)
        if cap is not None and self.tokens(first) > cap:
            return self._verdict(None, f"all use more than {cap:,} tokens a question")
        rivals = [name for name in self._references() if name != first]
        below = {name: self.difference(first, name).low for name in rivals}
        rival = min(below, key=lambda name: below[name]) if below else None
        reason = f"the {self._common()} samples were too few to tell"
        if rival is not None:
            reason += f": its score may be up to {-below[rival]:.1%} below that of {rival}"
        self._proven = False
        return self._verdict(first, reason)

    def difference(self, one: str, other: str) -> Interval:
        """Return where the mean difference of two scores lies, by all the looks so far."""
        if one == other:
            return Interval(0.0, 0.0)
        if (one, other) in self._pairs:
            return self._pairs[one, other].interval
        turned = self._pairs[other, one].interval
        return Interval(-turned.high, -turned.low)

    def tokens(self, name: str) -> float:
        """Return the mean tokens of a question, over the samples that all have."""
        rows = self._rows[name][: self._common()]
        return sum(row.tokens for row in rows) / len(rows)

    def _drop(self, name: str, why: str) -> None:
        self.running.remove(name)
        self.dropped[name] = why

    def _why_out(self, name: str) -> str | None:
        if name == self._start:
            return None
        objective, rivals = self._objective, self._references()
        if isinstance(objective, HighestScore):
            cap, between = objective.max_tokens, self._tokens_interval(name)
            if cap is not None and between is not None and between.low > cap:
                return f"uses more than {cap:,} tokens a question"
            rivals = [rival for rival in rivals if self._is_under_cap(rival)]
        elif self._start is not None and self._is_dearer(name, self._start):
            return f"uses more tokens than {self._start}"
        for rival in rivals:
            if rival == name:
                continue
            highest = self.difference(name, rival).high
            cheaper = self._start is None and self.tokens(rival) <= self.tokens(name)
            allowed = objective.margin if isinstance(objective, FewestTokens) else 0.0
            if highest < -allowed:
                return f"its score is shown to be below that of {rival}" + (
                    f" by more than {allowed:.1%}" if allowed else ""
                )
            if highest < 0 and cheaper:
                return f"its score is shown to be below that of {rival}, which uses fewer tokens"
        return None

    def _references(self) -> list[str]:
        """Return whom the scores are compared with."""
        return [self._start] if self._start else self.running

    def _is_under_cap(self, name: str) -> bool:
        cap = self._objective.max_tokens if isinstance(self._objective, HighestScore) else None
        if cap is None:
            return True
        between = self._tokens_interval(name)
        return between is not None and between.high <= cap

    def _is_dearer(self, name: str, other: str) -> bool:
        mine, theirs = self._tokens_interval(name), self._tokens_interval(other)
        return mine is not None and theirs is not None and mine.low > theirs.high

    def _tokens_interval(self, name: str) -> Interval | None:
        tokens = [row.tokens for row in self._rows.get(name, ())]
        if len(tokens) < WAVE:
            return None
        return mean_interval(tokens, confidence=self._confidence)

    def _ranked(self) -> list[str]:
        """Return who is in, the likeliest winner first."""
        best = self._score(self._compared())
        cap = getattr(self._objective, "max_tokens", None) or math.inf

        def rank(name: str) -> tuple[float, ...]:
            score, tokens = self._score(name), self.tokens(name)
            if isinstance(self._objective, HighestScore):
                return (tokens > cap, -score, tokens)
            within = score >= best - self._objective.margin
            return (0, tokens, -score) if within else (1, -score, tokens)

        return sorted(self.running, key=rank)

    def _compared(self) -> str:
        return self._start or max(self.running, key=self._score)

    def _common(self) -> int:
        return min((len(self._rows.get(name, ())) for name in self.running), default=0)

    def _score(self, name: str) -> float:
        rows = self._rows[name][: self._common()]
        return math.fsum(row.score for row in rows) / len(rows)

    def _verdict(self, name: str | None, reason: str) -> Verdict:
        sure = self._proven and name is not None
        return Verdict(name=name, certain=sure, reason=reason, dropped=dict(self.dropped))


def run_race(
    race: Race, bench: Bench, runnables: Mapping[str, Runnable[Any, Any]]
) -> Work[Verdict]:
    """Run a race on a bench to its end, or as far as its purse pays."""
    before, budget = bench.purse.spent, bench.purse.left
    rounds = math.ceil(math.log2(max(len(race.running), 2)))
    halved = 0
    for until in range(WAVE, len(bench.samples) + WAVE, WAVE):
        running = {name: runnables[name] for name in race.running}
        yield from bench.measure(running, until=min(until, len(bench.samples)))
        for name in sorted(bench.unpaid & set(race.running)):
            race.leave_out(name, "the budget could not pay for its first sample")
        race.look(bench.rows)
        verdict = race.winner()
        if verdict is not None:
            return verdict
        if bench.ended:
            break
        if budget is not None and len(race.running) > 2:
            left = budget - (bench.purse.spent - before)
            each = sum(race.tokens(name) for name in race.running)
            scarce = each * (len(bench.samples) - until) > left
            if scarce and left <= budget * (1 - (halved + 1) / rounds):
                race.halve()
                halved += 1
    return race.guess()


def _within(margin: float) -> str:
    return f"at most {margin:.1%} below" if margin else "not below"
