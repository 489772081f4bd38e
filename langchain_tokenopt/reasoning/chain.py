"""Chain of thought: one call that reasons before it answers, or does not where that is cheaper."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import Runnable
from langgraph.graph import END, StateGraph
from pydantic import BaseModel, Field, TypeAdapter, create_model
from typing_extensions import override

from langchain_tokenopt.errors import ConfigurationError
from langchain_tokenopt.reasoning import extract
from langchain_tokenopt.reasoning.extract import Extractor
from langchain_tokenopt.reasoning.prompting import Example, Style, chain_of_thought_prompt
from langchain_tokenopt.reasoning.steps import Ask, Steps, node
from langchain_tokenopt.reasoning.technique import (
    BEGIN,
    OnBudget,
    Technique,
    TechniqueState,
    formatted,
)


@dataclass(frozen=True, slots=True)
class Structured:
    """Answers of a type, through the model's structured output.

    Args:
        type: Any type that pydantic knows: `int`, `Literal["a", "b"]`, a `BaseModel`.
        method: As in `with_structured_output`; `None` is the model's default.
    """

    type: Any
    method: str | None = None

    def __call__(self, text: str, /) -> Any:
        """Return the answer that a text of JSON holds, `None` if it holds none."""
        try:
            return TypeAdapter(self.type).validate_json(text)
        except ValueError:
            return None


class ChainOfThought(Technique):
    r"""Ask once, for reasoning and then an answer.

    Reasoning models think anyway, and simple questions need no thought: measure with
    `choose_technique` whether `style="none"` does as well for fewer tokens.

    Args:
        model: A chat model, or one with options bound.
        answer: Reads the answer out of the text, or `Structured(type)`, which makes the model fill
            in `reasoning` and then `answer`.
        style: `full`, `draft` (a few words a step) or `none`.
        token_hint: Tokens that the model is asked to stay below; `None` says nothing of it.
        examples: Demonstrations; `Demonstrations` finds good ones.
        prompt: Used instead of the default one; gets `messages`, `question` and further keys of
            the input.
        on_budget: What a refused call leads to: a result without an answer, or the error.

    >>> from langchain_tokenopt.testing import ScriptedModel
    >>> model = ScriptedModel(["3 boxes of 4 are 12.\nAnswer: 12"])
    >>> result = ChainOfThought(model, answer=extract.number).invoke("3 boxes of 4 apples?")
    >>> result.answer, result.usage.total.output
    (Decimal('12'), 10)
    """

    def __init__(
        self,
        model: BaseChatModel | Runnable[Any, AIMessage],
        *,
        answer: Extractor | Structured = extract.text,
        style: Style = "full",
        token_hint: int | None = None,
        examples: Sequence[Example] = (),
        prompt: ChatPromptTemplate | None = None,
        on_budget: OnBudget = "best",
    ) -> None:
        super().__init__(name="chain_of_thought", on_budget=on_budget)
        self._answer = answer
        structured = isinstance(answer, Structured)
        self.prompt = prompt or chain_of_thought_prompt(
            answer, style=style, token_hint=token_hint, examples=examples, announce=not structured
        )
        self._model: Runnable[Any, Any] = (
            _structured(model, answer, style) if isinstance(answer, Structured) else model
        )

    @override
    def _nodes(self, graph: "StateGraph[Any]") -> None:
        graph.add_node("think", node(self._think, "think"))
        graph.add_edge(BEGIN, "think")
        graph.add_edge("think", END)

    @override
    def _load(self, answer: Any) -> Any:
        if answer is not None and isinstance(self._answer, Structured):
            return TypeAdapter(self._answer.type).validate_python(answer)
        return answer

    def _think(self, state: TechniqueState) -> Steps:
        messages = formatted(self.prompt, state)
        reply = yield Ask(runnable=self._model, input=messages, step="think", streamed=True)
        if reply.refused:
            self._check_refusal(reply)
            return self._end(state, stop_reason="budget", reason=str(reply.error), reply=reply)
        given = reply.needed()
        if isinstance(self._answer, Structured):
            return self._structured_end(state, reply, given)
        answer = self._answer(given.text)
        return self._end(
            state,
            stop_reason="answered",
            reason="" if answer is not None else "no answer could be read out of the text",
            answer=answer,
            text=given.text,
            reply=reply,
            message=given,
        )

    def _structured_end(self, state: TechniqueState, reply: Any, given: Any) -> dict[str, Any]:
        parsed, error = given["parsed"], given["parsing_error"]
        if parsed is None:
            text = given["raw"].text
            why = str(error) if error else "the model did not fill in the schema"
            return self._end(state, stop_reason="answered", reason=why, text=text, reply=reply)
        answer = TypeAdapter(self._answer.type).dump_python(parsed.answer)
        text = parsed.model_dump_json()
        return self._end(state, stop_reason="answered", answer=answer, text=text, reply=reply)


def _structured(
    model: BaseChatModel | Runnable[Any, AIMessage], answer: Structured, style: Style
) -> Runnable[Any, Any]:
    if not isinstance(model, BaseChatModel):
        message = (
            f"structured answers need a chat model, got {type(model).__name__}; bind options after"
        )
        raise ConfigurationError(message)
    words = ", with 5 words at most a step" if style == "draft" else ""
    about = Field(description=f"The reasoning that leads to the answer, step by step{words}.")
    # What is generated first can be built on: the reasoning stands before the answer.
    fields: dict[str, Any] = {} if style == "none" else {"reasoning": (str, about)}
    fields["answer"] = (answer.type, Field(description="The final answer."))
    schema: type[BaseModel] = create_model("Reasoned", **fields)
    method = {} if answer.method is None else {"method": answer.method}
    # Without the raw message its usage would be lost to the caller.
    return model.with_structured_output(schema, include_raw=True, **method)
