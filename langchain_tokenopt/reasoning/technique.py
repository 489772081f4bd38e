"""What all techniques share: a graph that is also a runnable."""

import operator
from abc import abstractmethod
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import aclosing
from typing import Annotated, Any, Literal, TypeAlias

from langchain_core.messages import AIMessage, AnyMessage, BaseMessage, HumanMessage
from langchain_core.messages.utils import MessageLikeRepresentation, convert_to_messages
from langchain_core.prompt_values import PromptValue
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import Runnable, RunnableConfig, RunnableLambda
from langchain_core.runnables.config import ensure_config
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.types import Checkpointer, Overwrite
from typing_extensions import override

from langchain_tokenopt.errors import BudgetExceededError, ConfigurationError
from langchain_tokenopt.messages import last_human_text
from langchain_tokenopt.reasoning.result import (
    ReasoningResult,
    ReasoningUsage,
    Sample,
    StepUsage,
    StopReason,
    TraceStep,
)
from langchain_tokenopt.reasoning.steps import Reply

ReasoningInput: TypeAlias = (
    str | PromptValue | Sequence[MessageLikeRepresentation] | Mapping[str, Any]
)
"""A question, messages, or a mapping with `question` or `messages` and further prompt variables."""

OnBudget: TypeAlias = Literal["best", "raise"]
"""What a call refused by a budget leads to: the best answer so far, or the error."""

BEGIN = "begin"
_ADDED = ("samples", "trace", "usage")
_LEAST_STEPS = 10_000  # techniques end by caps of their own


class TechniqueState(MessagesState):
    """State of a technique's graph; `messages` is the input, and gets the answer."""

    variables: dict[str, Any]
    """Further variables of the prompts."""
    samples: Annotated[list[dict[str, Any]], operator.add]
    """`Sample`s as plain data, in the order in which they came."""
    trace: Annotated[list[dict[str, Any]], operator.add]
    """`TraceStep`s as plain data."""
    usage: Annotated[list[dict[str, Any]], operator.add]
    """`StepUsage` rows as plain data."""
    result: dict[str, Any]
    """The `ReasoningResult` as plain data, so that checkpoints can always be read."""


class Technique(Runnable[ReasoningInput, ReasoningResult]):
    """A way to reason: a runnable from a question to a `ReasoningResult`, and a graph.

    `stream` yields the result as it grows, a step or sample at a time, the final one last. A
    budget among the callbacks (`BudgetHandler`) is asked before every model call.
    """

    _state: type[TechniqueState] = TechniqueState
    _answer: Any = None
    """What reads its answers out of texts; says which of them are the same."""

    def __init__(self, *, name: str, on_budget: OnBudget) -> None:
        if on_budget not in ("best", "raise"):
            raise ConfigurationError(f"on_budget is 'best' or 'raise', got {on_budget!r}")
        self.name = name
        self._on_budget = on_budget
        self._compiled: CompiledStateGraph[Any, Any, Any, Any] | None = None

    @abstractmethod
    def _nodes(self, graph: "StateGraph[Any]") -> None:
        """Add the nodes; the edge from `BEGIN` leads to the first."""

    def _load(self, answer: Any) -> Any:
        """Return an answer as it was before it became plain data."""
        return answer

    def as_graph(self, *, checkpointer: Checkpointer = None) -> CompiledStateGraph[Any]:
        """Return the compiled graph: `messages` in, `messages` with the answer and `result` out.

        Args:
            checkpointer: Keeps the state after each step, so that a run that failed or was killed
                goes on with `graph.invoke(None, config)`. Inside of another graph the parent's is
                used; give none there.
        """
        graph: StateGraph[Any] = StateGraph(self._state)
        graph.add_node(BEGIN, RunnableLambda(self._begin, name=BEGIN))
        graph.add_edge(START, BEGIN)
        self._nodes(graph)
        return graph.compile(checkpointer=checkpointer, name=self.name)

    @property
    def answer(self) -> Runnable[ReasoningInput, Any]:
        """This technique, with only the answer as its output."""
        return self | RunnableLambda(_answer_of, name="answer")

    @override
    def invoke(
        self, input: ReasoningInput, config: RunnableConfig | None = None, **kwargs: Any
    ) -> ReasoningResult:
        state = self._graph.invoke(state_of(input), self._own_config(config), **kwargs)
        return self._result(state)

    @override
    async def ainvoke(
        self, input: ReasoningInput, config: RunnableConfig | None = None, **kwargs: Any
    ) -> ReasoningResult:
        state = await self._graph.ainvoke(state_of(input), self._own_config(config), **kwargs)
        return self._result(state)

    @override
    def stream(
        self, input: ReasoningInput, config: RunnableConfig | None = None, **kwargs: Any
    ) -> Iterator[ReasoningResult]:
        growing = _Growing()
        for kind, part in self._graph.stream(
            state_of(input),
            self._own_config(config),
            stream_mode=["updates", "values"],
            **kwargs,
        ):
            if growing.sees(str(kind), part):
                yield growing.result()
        yield self._result(growing.state)

    @override
    async def astream(
        self, input: ReasoningInput, config: RunnableConfig | None = None, **kwargs: Any
    ) -> AsyncIterator[ReasoningResult]:
        growing = _Growing()
        stream: Any = self._graph.astream(
            state_of(input),
            self._own_config(config),
            stream_mode=["updates", "values"],
            **kwargs,
        )
        async with aclosing(stream):
            async for kind, part in stream:
                if growing.sees(str(kind), part):
                    yield growing.result()
        yield self._result(growing.state)

    @property
    def _graph(self) -> CompiledStateGraph[Any, Any, Any, Any]:
        if self._compiled is None:
            # What is called as a function keeps nothing between calls, whatever graph it is in.
            self._compiled = self.as_graph(checkpointer=False)
        return self._compiled

    def _own_config(self, config: RunnableConfig | None) -> RunnableConfig:
        # The limit of a graph around this one says nothing of the steps in here.
        known = ensure_config(config)
        return {**known, "recursion_limit": max(known["recursion_limit"], _LEAST_STEPS)}

    def _begin(self, state: TechniqueState) -> dict[str, Any]:
        if not state["messages"]:
            message = f"{self.name} needs at least one message to answer, got none"
            raise ConfigurationError(message)
        # A thread's state still holds the turn before.
        update: dict[str, Any] = {key: Overwrite([]) for key in _ADDED}
        return {**update, "variables": state.get("variables") or {}, "result": {}}

    def _result(self, state: Mapping[str, Any]) -> ReasoningResult:
        result = dict(state["result"])
        result["answer"] = self._load(result.get("answer"))
        return ReasoningResult.model_validate(result)

    def _end(
        self,
        state: Mapping[str, Any],
        *,
        stop_reason: StopReason,
        reply: Reply | None = None,
        message: AIMessage | None = None,
        **about: Any,
    ) -> dict[str, Any]:
        """Return the update of the last node: the result, and the answer among the messages.

        Args:
            state: As the node got it.
            stop_reason: Why it ends.
            reply: Of a call that the node made, whose usage is not in the state yet.
            message: What the model wrote, if that is the answer as it is.
            about: Further fields of the result; `trace` adds to the state's.
        """
        trace = about.pop("trace", [])
        used = list(reply.usage) if reply else []
        rows = [StepUsage.model_validate(row) for row in [*state["usage"], *used]]
        samples = about.pop("samples", sorted(state["samples"], key=operator.itemgetter("index")))
        result = ReasoningResult(
            stop_reason=stop_reason,
            abstained=about.get("answer") is None,
            samples=tuple(Sample.model_validate(sample) for sample in samples),
            trace=tuple(TraceStep.model_validate(step) for step in [*state["trace"], *trace]),
            usage=ReasoningUsage.of(rows),
            **about,
        )
        shown = result.text or ("" if result.answer is None else str(result.answer))
        answer = message or AIMessage(shown, name=self.name)
        return {
            "result": result.model_dump(),
            "messages": [answer],
            "usage": used,
            "trace": trace,
        }

    def _check_refusal(self, reply: Reply) -> None:
        """Raise what a budget refused, if the caller wants that."""
        if isinstance(reply.error, BudgetExceededError) and self._on_budget == "raise":
            raise reply.error


class _Growing:
    """A state as far as a stream has told it."""

    def __init__(self) -> None:
        self.state: dict[str, Any] = {}

    def sees(self, kind: str, part: Any) -> bool:
        """Take in a part of the stream, and return whether the result grew."""
        if kind == "values":
            self.state = dict(part)
            return False
        grew = False
        for update in part.values():
            # A node that was sent to several times tells a list of updates.
            for change in update if isinstance(update, list) else [update]:
                for key in _ADDED:
                    more = (change or {}).get(key)
                    if isinstance(more, list) and more:
                        self.state[key] = [*self.state.get(key, ()), *more]
                        grew = True
        return grew

    def result(self) -> ReasoningResult:
        known = {key: self.state.get(key, ()) for key in _ADDED}
        rows = [StepUsage.model_validate(row) for row in known["usage"]]
        samples = sorted(known["samples"], key=operator.itemgetter("index"))
        return ReasoningResult(
            samples=tuple(Sample.model_validate(sample) for sample in samples),
            trace=tuple(TraceStep.model_validate(step) for step in known["trace"]),
            usage=ReasoningUsage.of(rows),
        )


def _answer_of(result: ReasoningResult) -> Any:
    return result.answer


def state_of(given: ReasoningInput) -> dict[str, Any]:
    """Return the state that a graph starts from for an input of the runnable."""
    if isinstance(given, str):
        return {"messages": [HumanMessage(given)]}
    if isinstance(given, PromptValue):
        return {"messages": given.to_messages()}
    if not isinstance(given, Mapping):
        return {"messages": convert_to_messages(given)}
    variables = {key: value for key, value in given.items() if key not in ("messages", "question")}
    if "messages" in given:
        messages: list[BaseMessage] = convert_to_messages(given["messages"])
    elif isinstance(given.get("question"), str):
        messages = [HumanMessage(given["question"])]
    else:
        message = f"expected 'question' or 'messages' in the input, got the keys {sorted(given)}"
        raise ConfigurationError(message)
    return {"messages": messages, "variables": variables}


def formatted(
    prompt: ChatPromptTemplate, state: Mapping[str, Any], **values: Any
) -> list[BaseMessage]:
    """Return a prompt with the state's messages, question and variables in it.

    Raises:
        ConfigurationError: The prompt has a variable that nothing fills.
    """
    messages: list[AnyMessage] = state["messages"]
    known = {
        **(state.get("variables") or {}),
        "messages": messages,
        "question": last_human_text(messages),
        **values,
    }
    missing = set(prompt.input_variables) - set(known)
    if missing:
        message = (
            f"the prompt needs {', '.join(sorted(missing))}: give them as keys of the input beside "
            f"'question'; known are {', '.join(sorted(known))}"
        )
        raise ConfigurationError(message)
    return prompt.format_messages(**known)
