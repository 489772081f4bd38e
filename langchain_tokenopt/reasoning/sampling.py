"""What techniques share that ask one question several times: drawing samples in waves."""

import operator
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from inspect import signature
from typing import Annotated, Any, Literal, TypeAlias, get_args

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import Runnable, RunnableBinding, RunnableLambda
from langgraph.graph import END, StateGraph
from langgraph.types import Command, Overwrite, Send
from typing_extensions import override

from langchain_tokenopt.errors import ConfigurationError
from langchain_tokenopt.messages import mark_sample
from langchain_tokenopt.reasoning import extract
from langchain_tokenopt.reasoning.extract import Extractor
from langchain_tokenopt.reasoning.prompting import Example, Style, chain_of_thought_prompt
from langchain_tokenopt.reasoning.result import ReasoningResult, Sample, StopReason
from langchain_tokenopt.reasoning.steps import Ask, AskMany, Reply, Steps, node
from langchain_tokenopt.reasoning.technique import (
    BEGIN,
    OnBudget,
    Technique,
    TechniqueState,
    formatted,
)
from langchain_tokenopt.wrapping import WrappedChatModel

Draw: TypeAlias = Literal["auto", "n", "separate"]
"""How the samples of a wave are asked for: `n` in one request, which bills its prompt once,
`separate` calls at the same time, or `auto`: by `n` where the model has it."""

PLAN, DRAW = "plan", "draw"


class SamplingState(TechniqueState):
    """State of a technique that draws samples."""

    draws: Annotated[list[dict[str, Any]], operator.add]
    """Each request for samples: its `wave`, how many were `asked` for, how many it `got`, and
    whether it was `refused` by a budget or `failed`."""


class Sampling(Technique):
    """Draws samples in waves; a subclass says how many, and what comes of them."""

    _state: type[TechniqueState] = SamplingState
    _after_draw = PLAN

    def __init__(
        self,
        model: BaseChatModel | Runnable[Any, Any],
        *,
        name: str,
        prompt: ChatPromptTemplate | None,
        style: Style,
        token_hint: int | None,
        examples: Sequence[Example],
        answer: Extractor | None,
        n: int,
        draw: Draw,
        on_budget: OnBudget,
    ) -> None:
        super().__init__(name=name, on_budget=on_budget)
        if n < 1:
            raise ConfigurationError(f"n is the most samples to draw, at least 1, got {n}")
        if draw not in get_args(Draw):
            raise ConfigurationError(f"draw is one of {', '.join(get_args(Draw))}, got {draw!r}")
        self._model = model
        inner = model._answer if isinstance(model, Technique) else None
        self._answer = answer or inner or extract.text
        self.prompt = prompt or chain_of_thought_prompt(
            self._answer, style=style, token_hint=token_hint, examples=examples
        )
        self._n = n
        self._many = _many(model, draw)
        _check_that_samples_differ(model, n)

    @abstractmethod
    def _wave(self, state: SamplingState, samples: Sequence[Sample]) -> int:
        """Return how many samples to ask for now, 0 if they are enough."""

    @abstractmethod
    def _finish(
        self, state: SamplingState, samples: Sequence[Sample], why: StopReason | None, reason: str
    ) -> dict[str, Any]:
        """Return the last update of the state.

        Args:
            state: As it is.
            samples: In their order.
            why: Why no more can be drawn; `None` if `_wave` asked for none.
            reason: The same for a reader.
        """

    @override
    def _load(self, answer: Any) -> Any:
        return self._model._load(answer) if isinstance(self._model, Technique) else answer

    @override
    def _nodes(self, graph: "StateGraph[Any]") -> None:
        # As a runnable: a function's annotation would hide what a subclass adds to the state.
        plan = RunnableLambda(self._plan, name=PLAN)
        graph.add_node(PLAN, plan, destinations=(DRAW, END))
        graph.add_node(DRAW, node(self._draw, DRAW))
        graph.add_edge(BEGIN, PLAN)
        graph.add_edge(DRAW, self._after_draw)

    @override
    def _begin(self, state: TechniqueState) -> dict[str, Any]:
        return {**super()._begin(state), "draws": Overwrite([])}

    def _in_order(self, state: SamplingState) -> list[Sample]:
        return sorted(map(Sample.model_validate, state["samples"]), key=_index)

    def _left(self, state: SamplingState) -> int:
        """Return how many more samples may be asked for."""
        asked: int = sum(draw["asked"] for draw in state["draws"])
        return self._n - asked

    def _asks_for_many(self, state: SamplingState) -> bool:
        """Return whether one request brings several samples; some servers give one all the same."""
        return self._many is not None and not any(draw["short"] for draw in state["draws"])

    def _rounds(self, state: SamplingState) -> int:
        return max((draw["wave"] for draw in state["draws"]), default=0)

    def _plan(self, state: SamplingState) -> Command[Any]:
        samples = self._in_order(state)
        good = any(sample.error is None for sample in samples)
        last = [draw for draw in state["draws"] if draw["wave"] == self._rounds(state)]
        refusal = next((draw["refused"] for draw in state["draws"] if draw["refused"]), None)
        why: StopReason | None = None
        reason = ""
        wanted = 0
        if refusal is not None:
            why, reason = "budget", refusal
        elif last and all(draw["failed"] for draw in last):
            if not good:  # ask once more, alone: its error is the caller's
                return Command(goto=self._sends(state, 1, needed=True))
            why, reason = "error", str(last[-1]["failed"])
        elif self._left(state) == 0:
            why = "max_samples"
        else:
            wanted = min(self._wave(state, samples), self._left(state))
        if wanted > 0:
            return Command(goto=self._sends(state, wanted, needed=False))
        return Command(update=self._finish(state, samples, why, reason), goto=END)

    def _sends(self, state: SamplingState, wanted: int, *, needed: bool) -> list[Send]:
        first = len(state["samples"])
        sizes = [wanted] if self._asks_for_many(state) else [1] * wanted
        given = {
            "messages": state["messages"],
            "variables": state["variables"],
            "wave": self._rounds(state) + 1,
            "needed": needed,
        }
        return [
            Send(DRAW, {**given, "index": first + at, "wanted": size})
            for at, size in enumerate(sizes)
        ]

    def _draw(self, state: Mapping[str, Any]) -> Steps:
        wanted, usage = state["wanted"], list[dict[str, Any]]()
        while True:
            reply: Reply = yield self._request(state, wanted)
            usage.extend(reply.usage)
            if not reply.refused or wanted == 1:
                break
            wanted //= 2  # there may be room for fewer
        told = {"wave": state["wave"], "asked": 1, "got": 0, "short": False}
        told |= {"refused": None, "failed": None}
        if reply.refused:
            self._check_refusal(reply)
            return {"draws": [{**told, "asked": 0, "refused": str(reply.error)}], "usage": usage}
        if reply.error is not None:
            if state["needed"]:
                raise reply.error
            error = f"{type(reply.error).__name__}: {reply.error}"
            lost = Sample(index=state["index"], error=error).model_dump()
            return {"draws": [{**told, "failed": error}], "samples": [lost], "usage": usage}
        if isinstance(reply.value, ReasoningResult) and reply.value.stop_reason == "budget":
            told["refused"] = reply.value.reason or "a budget has no room for another sample"
        values = reply.value if isinstance(reply.value, list) else [reply.value]
        found = [self._sample(value, state["index"] + at) for at, value in enumerate(values)]
        told |= {"asked": len(found), "got": len(found), "short": len(found) < wanted}
        return {
            "draws": [told],
            "samples": [sample.model_dump() for sample in found],
            "usage": usage,
        }

    def _request(self, state: Mapping[str, Any], wanted: int) -> Ask | AskMany:
        if isinstance(self._model, Technique):
            messages = mark_sample(state["messages"], state["index"])
            given = {**state["variables"], "messages": messages}
            return Ask(runnable=self._model, input=given, step="sample")
        messages = mark_sample(formatted(self.prompt, state), state["index"])
        if wanted == 1 or self._many is None:
            return Ask(runnable=self._model, input=messages, step="sample")
        model, keywords = self._many
        return AskMany(model=model, messages=messages, n=wanted, step="sample", keywords=keywords)

    def _sample(self, value: Any, index: int) -> Sample:
        if isinstance(value, ReasoningResult):
            return Sample(
                index=index, text=value.text, answer=value.answer, confidence=value.confidence
            )
        text = str(value.text) if isinstance(value, BaseMessage) else str(value)
        confidence = mean_logprob(value) if isinstance(value, AIMessage) else None
        return Sample(index=index, text=text, answer=self._answer(text), confidence=confidence)


def mean_logprob(message: AIMessage) -> float | None:
    """Return the mean log probability of a message's tokens, `None` if the provider gave none."""
    told = message.response_metadata.get("logprobs")
    tokens = told.get("content") if isinstance(told, Mapping) else None
    found = [token["logprob"] for token in tokens or () if token.get("logprob") is not None]
    return sum(found) / len(found) if found else None


def _index(sample: Sample) -> int:
    return sample.index


def _many(model: Any, draw: Draw) -> tuple[BaseChatModel, Mapping[str, Any]] | None:
    """Return the model that takes `n` and the options bound to it, `None` if it should not."""
    keywords: Mapping[str, Any] = {}
    asked = model
    if isinstance(model, RunnableBinding) and not model.config and not model.config_factories:
        asked, keywords = model.bound, model.kwargs
    if draw == "separate":
        return None
    if isinstance(asked, BaseChatModel) and (draw == "n" or _takes_n(asked)):
        return asked, keywords
    if draw == "n":
        message = f"draw='n' needs a chat model, got {type(model).__name__}; use draw='separate'"
        raise ConfigurationError(message)
    return None


def _takes_n(model: BaseChatModel) -> bool:
    while isinstance(model, WrappedChatModel):
        model = model.model
    responses = getattr(model, "use_responses_api", None) or getattr(model, "reasoning", None)
    kind = type(model)
    known = "n" in kind.model_fields or "n" in signature(kind._generate).parameters
    return known and not responses


def _check_that_samples_differ(model: Any, n: int) -> None:
    bound: Mapping[str, Any] = model.kwargs if isinstance(model, RunnableBinding) else {}
    asked = model.bound if isinstance(model, RunnableBinding) else model
    while isinstance(asked, WrappedChatModel):
        asked = asked.model
    temperature = bound.get("temperature", getattr(asked, "temperature", None))
    if n > 1 and temperature == 0:
        message = (
            f"samples differ only at a temperature above 0, got 0 and n={n}; set the model's "
            "temperature, about 0.7, or use ChainOfThought"
        )
        raise ConfigurationError(message)
