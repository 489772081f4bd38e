"""The prompts of chain of thought, as ordinary templates."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder

from langchain_tokenopt.errors import ConfigurationError
from langchain_tokenopt.reasoning.extract import Extractor

Style: TypeAlias = Literal["full", "draft", "none"]
"""How much the model writes before the answer."""

_STYLES = {
    "full": "Think step by step.",
    # Chain of Draft, arXiv 2502.18600
    "draft": "Think step by step, but keep only a minimum draft for each thinking step, with 5 "
    "words at most.",
    "none": "Do not explain.",
}
_FORMS = {
    "number": "a number",
    "boolean": "yes or no",
    "date": "MM/DD/YYYY",
    "option": "the label of one option",
}


@dataclass(frozen=True, slots=True)
class Example:
    """A demonstration: a question, and the reasoning and answer to it as the model should write."""

    question: str
    text: str


def chain_of_thought_prompt(
    answer: Extractor,
    *,
    style: Style = "full",
    token_hint: int | None = None,
    examples: Sequence[Example] = (),
    announce: bool = True,
) -> ChatPromptTemplate:
    """Return the prompt that `ChainOfThought` and `SelfConsistency` use by default.

    What is fixed comes first, so that providers can cache it.

    Args:
        answer: What will read the answer; its kind is named in the prompt.
        style: `draft` asks for a few words a step, which saves most of the output at a small loss
            on arithmetic; `none` asks for the answer alone.
        token_hint: Asks to use fewer tokens than this; too small a hint makes answers longer
            (arXiv 2412.18547).
        examples: Shown as earlier turns.
        announce: Whether to ask for "Answer: ..." in the last line, for an extractor to find.

    >>> from langchain_tokenopt.reasoning.extract import number
    >>> prompt = chain_of_thought_prompt(number, style="draft", token_hint=50)
    >>> print(prompt.format_messages(messages=[("user", "2 + 2?")])[0].text)
    Think step by step, but keep only a minimum draft for each thinking step, with 5 words at most.
    Use less than 50 tokens.
    End with a line "Answer: " followed by a number.
    """
    if style not in get_args(Style):
        raise ConfigurationError(f"style is one of {', '.join(get_args(Style))}, got {style!r}")
    if token_hint is not None and token_hint < 1:
        raise ConfigurationError(f"token_hint is a number of tokens above 0, got {token_hint}")
    parts = [_STYLES[style]]
    if token_hint is not None:
        parts.append(f"Use less than {token_hint} tokens.")
    if announce:
        form = _FORMS.get(getattr(answer, "kind", ""), "the answer alone")
        ask = "Write only a line" if style == "none" else "End with a line"
        parts.append(f'{ask} "Answer: " followed by {form}.')
    system = "\n".join(parts).replace("{", "{{").replace("}", "}}")
    shown = [
        message
        for example in examples
        for message in (HumanMessage(example.question), AIMessage(example.text))
    ]
    return ChatPromptTemplate([("system", system), *shown, MessagesPlaceholder("messages")])
