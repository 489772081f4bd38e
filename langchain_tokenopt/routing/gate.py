"""Scores a small model's draft: how likely is it that the stronger model would gain nothing?

Cheapest first, and no further than needed: checks that need no call, features of the draft, second
opinions until one agrees, a judge, and a small model over all of them. A score is no decision: the
threshold comes from calibration, for a promised loss.
"""

import inspect
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from langchain_core.messages import BaseMessage
from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.runnables.config import merge_configs

from langchain_tokenopt.errors import ConfigurationError
from langchain_tokenopt.routing.agreement import SecondOpinion
from langchain_tokenopt.routing.attempt import Attempt, Check, Verdict
from langchain_tokenopt.routing.checks import no_refusal, not_empty, not_truncated
from langchain_tokenopt.routing.gate_features import (
    AnswerReader,
    Reading,
    answer_text,
    own_features,
    pair_features,
    read_answer,
    same_answer,
    text_of,
)
from langchain_tokenopt.routing.gate_model import GateModel
from langchain_tokenopt.routing.judging import Judge

# LangGraph's TAG_NOSTREAM: nobody should see the gate's calls in a stream of answers.
_QUIET = "nostream"
_UNDECIDED = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class GateVerdict:
    """What a gate found; plain values, so that a graph's state can hold it."""

    score: float
    """0 to 1: the chance that the stronger model would gain nothing; 0 where a check failed."""
    reason: str
    features: Mapping[str, float] = field(default_factory=dict)
    opinions: tuple[str, ...] = ()
    """The second opinions that were asked for, in order."""
    judged: float | None = None
    """What the judge said, 0 to 1; `None` if it was not asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedDraft:
    """A draft with what was said of it at the time, to be scored again without a call."""

    question: str
    attempt: Attempt
    opinions: tuple[str, ...] = ()
    judged: float | None = None
    metadata: Mapping[str, Any] | None = None
    """The draft's `response_metadata`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Calls:
    """Replies of a model are needed."""

    model: Runnable[Any, Any]
    requests: Callable[[], list[list[BaseMessage]]]
    read: Callable[[list[str]], Any]
    opinion: int | None
    """Which second opinion it is, from 0; `None` if it is the judge's."""

    @property
    def step(self) -> str:
        return "judge" if self.opinion is None else f"opinion {self.opinion + 1}"


_Steps = Generator[Check | _Calls, Any, GateVerdict]


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """Scores drafts; keeps nothing between calls, so one may serve many threads and graphs.

    Without a model the score is the agreement: 1 if the first second opinion gives the draft's
    answer, 1/2 for the second and so on, else the judge's score, else 0. Without opinions and judge
    it is 1 for a draft that passes the checks. An error of a check, an opinion or a judge is
    raised: a draft that could not be scored must not pass for a good one.

    Args:
        checks: Asked in order; the first that declines ends it with the score 0.
        reader: Reads the answer out of a text, such as `reasoning.extract.number`; needed for
            second opinions.
        second_opinion: Who else is asked.
        judged_by: Asked where no second opinion agreed, or where none is asked for.
        model: What was learned from labels; `fit_gate` makes it.

    >>> from langchain_core.messages import AIMessage, HumanMessage
    >>> from langchain_tokenopt.routing.attempt import attempt_of
    >>> from langchain_tokenopt.testing import ScriptedModel
    >>> peer = SecondOpinion(model=ScriptedModel(["It is 4"]))
    >>> gate = Gate(second_opinion=peer, reader=lambda text: text.split()[-1])
    >>> draft = attempt_of(AIMessage("2 + 2 = 4"), tier="small", latency_s=0.1)
    >>> verdict = gate.judge("2 + 2?", draft, messages=[HumanMessage("2 + 2?")])
    >>> verdict.score, verdict.reason
    (1.0, 'second opinion 1 agrees')
    """

    checks: Sequence[Check] = (not_empty, not_truncated, no_refusal)
    reader: AnswerReader | None = None
    second_opinion: SecondOpinion | None = None
    judged_by: Judge | None = None
    model: GateModel | None = None

    def __post_init__(self) -> None:
        if self.second_opinion is not None and self.reader is None:
            message = (
                "second opinions need a reader to compare answers with, got none; pass one such "
                "as reader=langchain_tokenopt.reasoning.extract.number"
            )
            raise ConfigurationError(message)

    def judge(
        self,
        question: str,
        attempt: Attempt,
        *,
        messages: Sequence[BaseMessage],
        config: RunnableConfig | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> GateVerdict:
        """Return the score of a draft.

        Args:
            question: What was asked.
            attempt: The draft.
            messages: The request that it answers, for the second opinion.
            config: Reaches every call; what streams a graph's answers does not show them.
            metadata: The draft's `response_metadata`, for its log probabilities.
        """
        steps = self._steps(question, attempt, messages, metadata)
        needed = _following(steps, None)
        while not isinstance(needed, GateVerdict):
            if isinstance(needed, _Calls):
                quiet = _quiet(config, needed.step)
                replies = (needed.model.invoke(each, quiet) for each in needed.requests())
                reply = needed.read([_said(each) for each in replies])
            else:
                reply = _at_once(needed(question, attempt), needed)
            needed = _following(steps, reply)
        return needed

    async def ajudge(
        self,
        question: str,
        attempt: Attempt,
        *,
        messages: Sequence[BaseMessage],
        config: RunnableConfig | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> GateVerdict:
        """Do what `judge` does without blocking the event loop; checks may be asynchronous."""
        steps = self._steps(question, attempt, messages, metadata)
        needed = _following(steps, None)
        while not isinstance(needed, GateVerdict):
            if isinstance(needed, _Calls):
                quiet = _quiet(config, needed.step)
                replies = [await needed.model.ainvoke(e, quiet) for e in needed.requests()]
                reply = needed.read([_said(each) for each in replies])
            else:
                found = needed(question, attempt)
                reply = await found if inspect.isawaitable(found) else found
            needed = _following(steps, reply)
        return needed

    def judge_again(self, draft: RecordedDraft) -> GateVerdict:
        """Return the score that `judge` would give, from recorded opinions and without a call.

        Raises:
            ConfigurationError: An opinion or a judge's score is needed and was not recorded.
        """
        steps = self._steps(draft.question, draft.attempt, (), draft.metadata)
        needed = _following(steps, None)
        while not isinstance(needed, GateVerdict):
            if not isinstance(needed, _Calls):
                reply = _at_once(needed(draft.question, draft.attempt), needed)
            elif needed.opinion is None:
                reply = _recorded(draft.judged, "judge's score", draft)
            else:
                rest = draft.opinions[needed.opinion :]
                reply = _recorded(rest[0] if rest else None, needed.step, draft)
            needed = _following(steps, reply)
        return needed

    def _steps(
        self,
        question: str,
        attempt: Attempt,
        messages: Sequence[BaseMessage],
        metadata: Mapping[str, Any] | None,
    ) -> _Steps:
        """Yield what is needed next, and return the verdict."""
        for check in self.checks:
            verdict: Verdict = yield check
            if not verdict.accepted:
                return GateVerdict(score=0.0, reason=verdict.reason)
        draft = read_answer(text_of(attempt), self.reader)
        features = own_features(question, draft, metadata)
        if self.model is not None:
            score = self.model.own.score(features)
            if self.model.full is None or score < self.model.ask_from:
                reason = "scored by the draft alone"
                return GateVerdict(score=score, reason=reason, features=features)
        opinions: list[str] = []
        agreed = False
        if self.second_opinion is not None and self.reader is not None:
            others: list[Reading] = []
            while not agreed and len(opinions) < self.second_opinion.samples:
                opinions.append((yield _opinion(self.second_opinion, messages, len(opinions))))
                others.append(read_answer(opinions[-1], self.reader))
                agreed = same_answer(self.reader, draft.answer, others[-1].answer)
            features |= pair_features(draft, others, int(agreed))
        judged: float | None = None
        if self.judged_by is not None:
            if not agreed:
                other = opinions[-1] if opinions else None
                judged = yield _judging(self.judged_by, question, draft.text, other)
            features["judge"] = 1.0 if judged is None else judged
        return GateVerdict(
            score=self._score(features, judged),
            reason=_reason(opinions, judged, agreed=agreed),
            features=features,
            opinions=tuple(opinions),
            judged=judged,
        )

    def _score(self, features: Mapping[str, float], judged: float | None) -> float:
        if self.model is not None and self.model.full is not None:
            return self.model.full.score(features)
        if judged is not None:
            return judged
        return features.get("agreement", 1.0)


def _following(steps: _Steps, reply: Any) -> Check | _Calls | GateVerdict:
    """Return what is needed next, or the verdict.

    Only here is `StopIteration` the end: one that a check or a model raises is an error.
    """
    try:
        return steps.send(reply)
    except StopIteration as end:
        verdict: GateVerdict = end.value
        return verdict


def _opinion(opinion: SecondOpinion, messages: Sequence[BaseMessage], number: int) -> _Calls:
    return _Calls(
        model=opinion.model,
        requests=lambda: [opinion.request(messages)],
        read=lambda replies: replies[0],
        opinion=number,
    )


def _judging(judge: Judge, question: str, draft: str, other: str | None) -> _Calls:
    def read(replies: list[str]) -> float:
        score = judge.score(replies) if replies else _UNDECIDED
        if not 0 <= score <= 1:
            message = f"a judge's score must be from 0 to 1, got {score}"
            raise ConfigurationError(message)
        return score

    return _Calls(
        model=judge.model,
        requests=lambda: judge.requests(question, draft, other),
        read=read,
        opinion=None,
    )


def _reason(opinions: Sequence[str], judged: float | None, *, agreed: bool) -> str:
    if agreed:
        return f"second opinion {len(opinions)} agrees"
    said = []
    if opinions:
        said.append("no second opinion agrees")
    if judged is not None:
        said.append(f"the judge gives {judged:.2f}")
    return ", ".join(said) or "every check accepted it"


def _quiet(config: RunnableConfig | None, step: str) -> RunnableConfig:
    return merge_configs(config, {"tags": [_QUIET, f"gate:{step}"]})


def _said(reply: Any) -> str:
    return answer_text(str(reply.text), reply.tool_calls)


def _at_once(judged: Any, check: Check) -> Any:
    if not inspect.isawaitable(judged):
        return judged
    if inspect.iscoroutine(judged):
        judged.close()
    name = getattr(check, "__name__", type(check).__name__)
    message = f"the check {name} is asynchronous; use ajudge, or the graph's asynchronous methods"
    raise ConfigurationError(message)


def _recorded(found: Any, what: str, draft: RecordedDraft) -> Any:
    if found is None:
        message = (
            f"the gate asks for the {what} on {draft.question[:60]!r}, which was not recorded; "
            "record it with the draft, or use a gate without"
        )
        raise ConfigurationError(message)
    return found
