"""What selection-inference asks: which facts, what follows from them, whether that is the answer.

What is fixed comes first in each prompt and what grows comes last, so that providers can cache the
rest.
"""

from collections.abc import Sequence
from typing import Any

from langchain_core.prompts import ChatPromptTemplate

from langchain_tokenopt.reasoning.extract import Extractor
from langchain_tokenopt.reasoning.prompting import chain_of_thought_prompt
from langchain_tokenopt.reasoning.structured import Output

_SELECT = (
    "Choose the facts from which one new fact follows that brings you nearer to the answer of the "
    "question: as few as one step of inference needs. Choose none if no such fact follows."
)
_SELECT_LINE = (
    'Write only a line "Facts: " with their ids, such as "Facts: f2, f5" or "Facts: none".'
)
_ANSWER = "If facts already give the answer, choose just those, and give the answer."
_ANSWER_LINE = (
    'If facts already give the answer, write a line "Facts: " with just those, and below it a line '
    '"Answer: " followed by {form}.'
)
_INFER = (
    "Write the one new fact that follows from the facts taken together, as a short sentence like "
    'them and nothing else. Use no other knowledge. Write "nothing" if no new fact follows.'
)
_HALT = (
    "Does the fact answer the question?\n"
    'If it does not, write only "Unknown".\n'
    'If it does, write only a line "Answer: " followed by {form}.'
)


def selection_prompt(
    answer: Extractor, *, output: Output = "structured", merged: bool = False
) -> ChatPromptTemplate:
    """Return the prompt that asks for facts; gets `facts`, `question` and `inferred`.

    `inferred` holds what was inferred so far and what was tried in vain.

    Args:
        answer: What will read the answer; its kind is named in the prompt.
        output: Whether the model fills in a schema or writes lines.
        merged: Whether the answer is asked for as well, as soon as facts give it.

    >>> from langchain_tokenopt.reasoning.extract import text
    >>> print(selection_prompt(text).format(facts="f1: A.", question="B?", inferred="nothing"))
    System: Choose the facts from which one new fact follows that brings you nearer to the answer \
of the question: as few as one step of inference needs. Choose none if no such fact follows.
    Human: Facts:
    f1: A.
    <BLANKLINE>
    Question: B?
    <BLANKLINE>
    Inferred so far:
    nothing
    """
    parts = [_SELECT]
    if output == "text":
        parts.append(_SELECT_LINE)
    if merged:
        parts.append(_ANSWER_LINE.format(form=answer_form(answer)) if output == "text" else _ANSWER)
    human = "Facts:\n{facts}\n\nQuestion: {question}\n\nInferred so far:\n{inferred}"
    return ChatPromptTemplate([("system", "\n".join(parts)), ("user", human)])


def inference_prompt() -> ChatPromptTemplate:
    """Return the prompt that asks what follows; gets `facts`, the texts of the selected ones."""
    return ChatPromptTemplate([("system", _INFER), ("user", "{facts}")])


def halting_prompt(answer: Extractor) -> ChatPromptTemplate:
    """Return the prompt that asks whether a fact is the answer; gets `question` and `fact`."""
    system = _HALT.format(form=answer_form(answer))
    return ChatPromptTemplate([("system", system), ("user", "Question: {question}\nFact: {fact}")])


def selection_schema(ids: Sequence[str], *, answer_form: str | None = None) -> dict[str, Any]:
    """Return the schema of a choice of facts, in which no other id can be written.

    Args:
        ids: Of the facts.
        answer_form: Asks for the answer too, in this form.

    >>> selection_schema(["f1", "f2"])["properties"]["facts"]["items"]
    {'type': 'string', 'enum': ['f1', 'f2']}
    """
    facts = {"type": "array", "items": {"type": "string", "enum": [*ids]}}
    properties: dict[str, Any] = {"facts": {**facts, "description": "Ids of the chosen facts."}}
    if answer_form is not None:
        about = f"The answer, as {answer_form}; empty while the facts do not give it."
        properties["answer"] = {"type": "string", "description": about}
    return {
        "title": "Selection",
        "description": "A choice of facts.",
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def answer_form(answer: Extractor) -> str:
    """Return how the answer is to be written, in the words that a chain of thought is told.

    >>> from langchain_tokenopt.reasoning.extract import boolean
    >>> answer_form(boolean)
    'yes or no'
    """
    asked = chain_of_thought_prompt(answer, style="none").format_messages(messages=[])[0].text
    return asked.rpartition("followed by ")[2].removesuffix(".")
