"""Best of n: samples judged by a score of the user's, until one is good enough."""

import math
import operator
from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, Any, TypeAlias

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import Runnable
from langgraph.graph import StateGraph
from langgraph.types import Overwrite
from typing_extensions import override

from langchain_tokenopt.errors import ConfigurationError
from langchain_tokenopt.messages import last_human_text
from langchain_tokenopt.reasoning.extract import Extractor
from langchain_tokenopt.reasoning.prompting import Example, Style
from langchain_tokenopt.reasoning.result import Sample, StopReason
from langchain_tokenopt.reasoning.sampling import PLAN, Draw, Sampling, SamplingState
from langchain_tokenopt.reasoning.steps import Apply, Steps, node
from langchain_tokenopt.reasoning.technique import OnBudget, Technique, TechniqueState

Scorer: TypeAlias = Callable[[str, Sample], float | Awaitable[float]]
"""Scores a sample for a question, higher is better. If it is asynchronous, call the technique with
`ainvoke` or `astream`."""

_SCORE = "score"


class BestOfState(SamplingState):
    """State of `BestOf`."""

    scores: Annotated[dict[int, float], operator.or_]
    """Scores by the index of the sample."""


class BestOf(Sampling):
    r"""Sample answers until one reaches `threshold`, and return the best.

    Nothing is kept between calls, and what is drawn is scored once. A sample whose answer cannot be
    read is not scored and never wins. An error of the scorer is raised; with a checkpointer the run
    goes on from there without drawing again.

    Args:
        model: A chat model (temperature above 0), one with options bound, or another technique.
        scorer: Scores a sample: tests that pass, a reward model, a comparison with documents.
        answer: Reads the answer out of a text; by default all of it, or as another technique does.
        n: The most samples.
        threshold: A score that is good enough; `None` draws all `n` and takes the best.
        at_once: Samples a round; with a threshold one at a time spends the fewest tokens, more
            take fewer rounds.
        draw: How the samples of a round are asked for.
        style: As in `ChainOfThought`.
        token_hint: As in `ChainOfThought`.
        examples: As in `ChainOfThought`.
        prompt: Used instead of the default one.
        on_budget: What a refused sample leads to: the best of those that came, or the error.

    >>> from langchain_tokenopt.reasoning import extract
    >>> from langchain_tokenopt.testing import ScriptedModel
    >>> model = ScriptedModel(["Answer: 3", "Answer: 12", "Answer: 13"])
    >>> even = lambda question, sample: sample.answer % 2 == 0
    >>> result = BestOf(model, even, answer=extract.number, threshold=1).invoke("3 * 4?")
    >>> result.answer, result.stop_reason, [sample.score for sample in result.samples]
    (Decimal('12'), 'accepted', [0.0, 1.0])
    """

    _state: type[TechniqueState] = BestOfState
    _after_draw = _SCORE

    def __init__(
        self,
        model: BaseChatModel | Runnable[Any, AIMessage] | Technique,
        scorer: Scorer,
        *,
        answer: Extractor | None = None,
        n: int = 5,
        threshold: float | None = None,
        at_once: int | None = None,
        draw: Draw = "auto",
        style: Style = "full",
        token_hint: int | None = None,
        examples: Sequence[Example] = (),
        prompt: ChatPromptTemplate | None = None,
        on_budget: OnBudget = "best",
    ) -> None:
        super().__init__(
            model,
            name="best_of",
            prompt=prompt,
            style=style,
            token_hint=token_hint,
            examples=examples,
            answer=answer,
            n=n,
            draw=draw,
            on_budget=on_budget,
        )
        if at_once is not None and at_once < 1:
            raise ConfigurationError(f"at_once is a number of samples, at least 1, got {at_once}")
        self._scorer = scorer
        self._threshold = threshold
        self._at_once = at_once or (n if threshold is None else 1)

    @override
    def _nodes(self, graph: "StateGraph[Any]") -> None:
        super()._nodes(graph)
        graph.add_node(_SCORE, node(self._score, _SCORE))
        graph.add_edge(_SCORE, PLAN)

    @override
    def _begin(self, state: TechniqueState) -> dict[str, Any]:
        return {**super()._begin(state), "scores": Overwrite({})}

    def _score(self, state: BestOfState) -> Steps:
        question = last_human_text(state["messages"])
        scores: dict[int, float] = {}
        for sample in self._in_order(state):
            if sample.answer is None or sample.index in state["scores"]:
                continue
            reply = yield Apply(self._scorer, (question, sample))
            scores[sample.index] = _checked(reply.value)
        return {"scores": scores}

    @override
    def _wave(self, state: SamplingState, samples: Sequence[Sample]) -> int:
        return 0 if self._accepts(max(_scores(state).values(), default=None)) else self._at_once

    @override
    def _finish(
        self, state: SamplingState, samples: Sequence[Sample], why: StopReason | None, reason: str
    ) -> dict[str, Any]:
        scores = _scores(state)
        scored = [each.model_copy(update={"score": scores.get(each.index)}) for each in samples]
        known = [each for each in scored if each.score is not None]
        good = (each for each in known if self._accepts(each.score))
        best = next(good, None) or max(known, key=_score_of, default=None)
        if best is None:
            reason = reason or "no answer could be read out of any sample"
        elif self._accepts(best.score):
            why, reason = "accepted", ""
        return self._end(
            state,
            stop_reason=why or "max_samples",
            reason=reason,
            answer=best.answer if best else None,
            text=best.text if best else "",
            samples=scored,
            rounds=self._rounds(state),
        )

    def _accepts(self, score: float | None) -> bool:
        return self._threshold is not None and score is not None and score >= self._threshold


def _scores(state: Any) -> dict[int, float]:
    scores: dict[int, float] = state["scores"]
    return scores


def _score_of(sample: Sample) -> float:
    return -math.inf if sample.score is None else sample.score


def _checked(score: Any) -> float:
    if not isinstance(score, int | float) or math.isnan(score):
        message = f"a scorer returns a number, higher is better, got {score!r}"
        raise ConfigurationError(message)
    return float(score)
