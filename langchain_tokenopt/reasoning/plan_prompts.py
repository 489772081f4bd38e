"""What least-to-most asks: for a plan, and for the answer of each step."""

from collections.abc import Sequence

from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder

from langchain_tokenopt.reasoning.extract import Extractor
from langchain_tokenopt.reasoning.plan import ITSELF
from langchain_tokenopt.reasoning.prompting import Example, Style, chain_of_thought_prompt
from langchain_tokenopt.reasoning.structured import Output

_PLAN = (
    "Split the question into smaller ones, if it is easier to answer them first.\n"
    "Whoever answers one sees only it and the answers of the steps that it depends on: write into "
    "it all else that it needs. Steps that do not depend on each other are answered at the same "
    f'time. The last step is the question itself, written as "{ITSELF}".\n'
    "Write at most {most} steps."
)
_NONE = "Write no steps if nothing becomes easier."
_LINES = (
    "Write a line for each step: its id, the ids that it depends on in brackets, and the question, "
    f"such as\na: How old is Ann?\nb: How old is Bob?\nc (a, b): {ITSELF}\n"
    'Write "none" if nothing becomes easier.'
)


def plan_prompt(
    *, max_steps: int, output: Output = "structured", examples: Sequence[Example] = ()
) -> ChatPromptTemplate:
    """Return the prompt that asks for a plan; gets `messages`.

    Args:
        max_steps: Steps of a plan at most, the question itself included.
        output: Whether the model fills in a `Plan` or writes lines.
        examples: Questions and their plans, written as the model should: `str(plan)` for lines,
            `plan.model_dump_json()` for a schema.
    """
    parts = (_PLAN.format(most=max_steps), _LINES if output == "text" else _NONE)
    shown = [
        message
        for example in examples
        for message in (HumanMessage(example.question), AIMessage(example.text))
    ]
    return ChatPromptTemplate(
        [("system", "\n".join(parts)), *shown, MessagesPlaceholder("messages")]
    )


def step_prompt(
    answer: Extractor,
    *,
    style: Style = "full",
    token_hint: int | None = None,
    examples: Sequence[Example] = (),
) -> ChatPromptTemplate:
    r"""Return the prompt that asks a step; gets `known`, `question` and `history`.

    `known` holds the questions and answers that the step depends on and ends with an empty line;
    it is empty if there are none. `history` are the turns before the question, for the last step.

    >>> from langchain_tokenopt.reasoning.extract import number
    >>> prompt = step_prompt(number, style="none")
    >>> print(prompt.format(known="Known:\na: Age of Ann? 4\n\n", question="Twice her age?"))
    System: Do not explain.
    Write only a line "Answer: " followed by a number.
    Human: Known:
    a: Age of Ann? 4
    <BLANKLINE>
    Twice her age?
    """
    chain = chain_of_thought_prompt(answer, style=style, token_hint=token_hint, examples=examples)
    history = MessagesPlaceholder("history", optional=True)
    return ChatPromptTemplate([*chain.messages[:-1], history, ("user", "{known}{question}")])
