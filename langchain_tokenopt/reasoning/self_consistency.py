"""Self-consistency: chains of thought and a vote, with as few samples as tell the answer."""

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias, get_args

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import Runnable
from typing_extensions import override

from langchain_tokenopt.errors import ConfigurationError
from langchain_tokenopt.reasoning.extract import Extractor, same_answer
from langchain_tokenopt.reasoning.prompting import Example, Style
from langchain_tokenopt.reasoning.result import (
    ReasoningUsage,
    Sample,
    StepUsage,
    StopReason,
    Vote,
)
from langchain_tokenopt.reasoning.sampling import Draw, Sampling, SamplingState
from langchain_tokenopt.reasoning.technique import OnBudget, Technique, formatted
from langchain_tokenopt.reasoning.voting import (
    confidence_weights,
    leads,
    least_decisive,
    least_more,
    tally,
)
from langchain_tokenopt.reasoning.waves import TokenWeights, cheapest_wave
from langchain_tokenopt.tokens import counter_for

Stop: TypeAlias = Literal["confident", "lossless", "never"]
"""When samples are enough: when the leader hardly can lose, when it cannot, or at `n`."""

VoteBy: TypeAlias = Literal["count", "confidence"]
"""What a sample's vote weighs: 1, or more the surer the model was of its tokens."""

# Before the first sample says how long they are.
_EXPECTED_OUTPUT = {"full": 200, "draft": 50, "none": 10}


class SelfConsistency(Sampling):
    r"""Sample chains of thought until the vote is decided (arXiv 2203.11171).

    The samples of a round are asked for at once. Where each is a call of its own, a round has the
    fewest samples that could end the sampling: samples and answer are those of drawing one at a
    time, in far fewer rounds. Where one request brings several samples (`n=`) and bills its prompt
    once, rounds are larger the longer the prompt is, as that is cheaper.

    Answers are compared by the extractor's `same`. A sample whose answer cannot be read is paid for
    and casts no vote. With a cache around the model each sample has an entry of its own: a
    repeated question is answered from the cache without its samples becoming one.

    Args:
        model: A chat model (temperature above 0), one with options bound, or another technique,
            each of whose runs is a sample then.
        answer: Reads the answer out of a text; by default all of it, or as another technique does.
        n: The most samples.
        stop: `confident` at `confidence`; `lossless` as soon as the rest cannot change the answer
            of all `n`; `never` draws them all.
        confidence: Of `leads`, the probability that the leader is the more frequent of the first
            two answers: at 0.95 four equal answers end the sampling.
        vote: `confidence` weighs votes by the mean log probability of their tokens, for models
            that return it (`logprobs=True`); by count where one does not. Stops go by count.
        softness: Temperature of those weights: the lower, the more a sure sample counts.
        draw: How the samples of a round are asked for.
        weights: What output and repeated input cost, relative to input.
        style: As in `ChainOfThought`.
        token_hint: As in `ChainOfThought`.
        examples: As in `ChainOfThought`.
        prompt: Used instead of the default one.
        on_budget: What a refused sample leads to: the vote of those that came, or the error.

    >>> from langchain_tokenopt.reasoning import extract
    >>> from langchain_tokenopt.testing import ScriptedModel
    >>> model = ScriptedModel(["3 * 4 = 12.\nAnswer: 12"] * 4)
    >>> result = SelfConsistency(model, answer=extract.number).invoke("3 boxes of 4 apples?")
    >>> result.answer, result.stop_reason, len(result.samples), result.rounds
    (Decimal('12'), 'unanimous', 4, 1)
    """

    def __init__(
        self,
        model: BaseChatModel | Runnable[Any, AIMessage] | Technique,
        *,
        answer: Extractor | None = None,
        n: int = 40,
        stop: Stop = "confident",
        confidence: float = 0.95,
        vote: VoteBy = "count",
        softness: float = 0.1,
        draw: Draw = "auto",
        weights: TokenWeights | None = None,
        style: Style = "full",
        token_hint: int | None = None,
        examples: Sequence[Example] = (),
        prompt: ChatPromptTemplate | None = None,
        on_budget: OnBudget = "best",
    ) -> None:
        super().__init__(
            model,
            name="self_consistency",
            prompt=prompt,
            style=style,
            token_hint=token_hint,
            examples=examples,
            answer=answer,
            n=n,
            draw=draw,
            on_budget=on_budget,
        )
        _check(stop=stop, vote=vote, confidence=confidence, softness=softness)
        self._stop = stop
        self._confidence = confidence
        self._vote = vote
        self._softness = softness
        self._weights = weights or TokenWeights()
        self._expected_output = token_hint or _EXPECTED_OUTPUT[style]
        self._same = same_answer(self._answer)

    @override
    def _wave(self, state: SamplingState, samples: Sequence[Sample]) -> int:
        first, second = _lead(tally(samples, self._same))
        left = self._left(state)
        if self._stop == "never":
            return left
        if self._stop == "lossless":
            return least_decisive(first, second, remaining=left)
        least = least_more(first, second, confidence=self._confidence)
        if not least or not self._asks_for_many(state):
            return least
        return cheapest_wave(
            first,
            second,
            drawn=self._n - left,
            n=self._n,
            confidence=self._confidence,
            ask_cost=self._ask_cost(state, samples),
        )

    def _ask_cost(self, state: SamplingState, samples: Sequence[Sample]) -> float:
        """Return what sending the prompt once more costs, in samples."""
        used = ReasoningUsage.of(map(StepUsage.model_validate, state["usage"]))
        got = sum(sample.error is None for sample in samples)
        if got and used.calls and used.total.output:
            prompt, written = used.total.input_tokens / used.calls, used.total.output / got
        else:
            model = self._many[0] if self._many else None
            name = model._get_ls_params().get("ls_model_name") if model else None
            prompt = counter_for(name).count_messages(formatted(self.prompt, state))
            written = self._expected_output
        return prompt * self._weights.cached_input / (written * self._weights.output)

    @override
    def _finish(
        self, state: SamplingState, samples: Sequence[Sample], why: StopReason | None, reason: str
    ) -> dict[str, Any]:
        votes = tally(samples, self._same)
        first, second = _lead(votes)
        if self._vote == "confidence" and votes:
            weights = confidence_weights(samples, softness=self._softness)
            if weights is None:
                reason = reason or "votes were counted: the model gave no log probabilities"
            else:
                votes = tally(samples, self._same, weights)
        answer = votes[0].answer if votes else None
        if not votes:
            reason = reason or "no answer could be read out of any sample"
        return self._end(
            state,
            stop_reason=why if why in ("budget", "error") else self._why(first, second, votes, why),
            reason=reason,
            answer=answer,
            text=self._text_of(answer, samples),
            confidence=leads(first, second) if votes else None,
            votes=tuple(votes),
            rounds=self._rounds(state),
        )

    def _why(
        self, first: int, second: int, votes: Sequence[Vote], why: StopReason | None
    ) -> StopReason:
        decided = why is None or leads(first, second) >= self._confidence
        if not decided or not votes:
            return "max_samples"
        return "unanimous" if len(votes) == 1 else "confident"

    def _text_of(self, answer: Any, samples: Sequence[Sample]) -> str:
        known = (sample for sample in samples if sample.answer is not None)
        return next((each.text for each in known if self._same(answer, each.answer)), "")


def _lead(votes: Sequence[Vote]) -> tuple[int, int]:
    """Return the votes of the first two answers."""
    counts = [int(vote.votes) for vote in votes[:2]]
    return (*counts, 0, 0)[0], (*counts, 0, 0)[1]


def _check(*, stop: str, vote: str, confidence: float, softness: float) -> None:
    if stop not in get_args(Stop):
        raise ConfigurationError(f"stop is one of {', '.join(get_args(Stop))}, got {stop!r}")
    if vote not in get_args(VoteBy):
        raise ConfigurationError(f"vote is one of {', '.join(get_args(VoteBy))}, got {vote!r}")
    if not 0.5 < confidence < 1:
        message = f"confidence is between 0.5 and 1, got {confidence}; for 1 use stop='lossless'"
        raise ConfigurationError(message)
    if softness <= 0:
        raise ConfigurationError(f"softness is above 0, got {softness}")
