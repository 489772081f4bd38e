"""Kinds of tasks: what they look like, how long their answers are, what they cost at each model."""

import threading
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, TypeAlias

from langchain_core.messages import BaseMessage

from langchain_tokenopt.errors import ConfigurationError
from langchain_tokenopt.tokens import counter_for

TokenPrice: TypeAlias = Callable[[str, int, int], Decimal | None]
"""The dollars of a model's name, input tokens and output tokens; `None` if they are not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskProfile:
    """A kind of task.

    Args:
        name: Shown in routes and reports.
        examples: Questions of this kind; five or more tell it well from others.
        complexity: From 0, which any model can do, to 1, which needs the best.
        output_tokens: How long answers are taken to be before any was seen: an estimate.
    """

    name: str
    examples: tuple[str, ...]
    complexity: float = 0.5
    output_tokens: int = 200

    def __post_init__(self) -> None:
        """Refuse what is no profile."""
        if not self.name or not self.examples or not all(map(str.strip, self.examples)):
            message = f"a task needs a name and example questions, got {self!r:.120}"
            raise ConfigurationError(message)
        if not 0 <= self.complexity <= 1 or self.output_tokens < 1:
            message = (
                "complexity is from 0 to 1 and output_tokens at least 1, got "
                f"{self.complexity} and {self.output_tokens}"
            )
            raise ConfigurationError(message)

    def estimate(
        self,
        messages: Sequence[BaseMessage],
        *,
        models: Mapping[str, str],
        price: TokenPrice,
        lengths: "TaskLengths | None" = None,
        tools: Sequence[Any] = (),
    ) -> dict[str, "CostEstimate"]:
        """Return what a request of this kind is expected to cost at each tier.

        Args:
            messages: The request.
            models: The model's name by tier.
            price: Where prices come from.
            lengths: What was learned of answers.
            tools: Those that the request offers; they are input too.

        >>> from langchain_core.messages import HumanMessage
        >>> faq = TaskProfile(name="faq", examples=("When?",), output_tokens=100)
        >>> known = {"gpt-5-mini": 1, "gpt-5.1": 5}
        >>> def price(model, read, written):
        ...     return Decimal(known[model] * (read + 4 * written)) / 1_000_000
        >>> models = {"small": "gpt-5-mini", "large": "gpt-5.1"}
        >>> at = faq.estimate([HumanMessage("When do you open?")], models=models, price=price)
        >>> at["small"].cost, at["large"].cost
        (Decimal('0.000412'), Decimal('0.00206'))
        """
        return {
            tier: estimate_cost(
                messages, self, model=model, price=price, lengths=lengths, tools=tools
            )
            for tier, model in models.items()
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class CostEstimate:
    """What a request is expected to use and cost."""

    model: str
    input_tokens: int
    input_estimated: bool
    """Whether the input is an estimate too: the model's vocabulary is not known here."""
    output_tokens: int
    """An estimate."""
    seen: int
    """Answers that the estimate rests on; 0 if it is the profile's."""
    cost: Decimal | None
    """Dollars; `None` if the price is not known."""


class TaskLengths:
    """Learns how long the answers to a kind of task are; safe to share between threads.

    >>> lengths = TaskLengths()
    >>> for tokens in (90, 110):
    ...     lengths.observe("code", "gpt-5-mini", tokens)
    >>> lengths.expected(TaskProfile(name="code", examples=("Sort it.",)), "gpt-5-mini")
    (100, 2)
    """

    def __init__(self) -> None:
        self._sums: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0])
        self._lock = threading.Lock()

    def observe(self, task: str, model: str, output_tokens: int) -> None:
        """Take in how long an answer was."""
        if output_tokens < 0:
            raise ConfigurationError(f"output_tokens is not below 0, got {output_tokens}")
        with self._lock:
            sums = self._sums[task, model]
            sums[0] += output_tokens
            sums[1] += 1

    def expected(self, profile: TaskProfile, model: str) -> tuple[int, int]:
        """Return the expected tokens of an answer, and how many answers that rests on."""
        with self._lock:
            total, seen = self._sums.get((profile.name, model), (0, 0))
        return (round(total / seen), seen) if seen else (profile.output_tokens, 0)


def estimate_cost(
    messages: Sequence[BaseMessage],
    profile: TaskProfile,
    *,
    model: str,
    price: TokenPrice,
    lengths: TaskLengths | None = None,
    tools: Sequence[Any] = (),
) -> CostEstimate:
    """Return what a request of this kind is expected to cost at a model.

    Args:
        messages: The request.
        profile: What kind of task it is.
        model: The model's name.
        price: Where the price comes from.
        lengths: What was learned of answers.
        tools: Those that the request offers.

    >>> from langchain_core.messages import HumanMessage
    >>> profile = TaskProfile(name="faq", examples=("When?",), output_tokens=100)
    >>> price = lambda model, read, written: Decimal(read + 4 * written) / 1_000_000
    >>> asked = [HumanMessage("When do you open?")]
    >>> estimate = estimate_cost(asked, profile, model="gpt-5-mini", price=price)
    >>> estimate.output_tokens, estimate.cost
    (100, Decimal('0.000412'))
    """
    counter = counter_for(model)
    read = counter.count_messages(messages, tools=tools)
    written, seen = (lengths or TaskLengths()).expected(profile, model)
    return CostEstimate(
        model=model,
        input_tokens=read,
        input_estimated=counter.estimated,
        output_tokens=written,
        seen=seen,
        cost=price(model, read, written),
    )


def _profile(name: str, complexity: float, output_tokens: int, *examples: str) -> TaskProfile:
    return TaskProfile(
        name=name, examples=examples, complexity=complexity, output_tokens=output_tokens
    )


TASKS: tuple[TaskProfile, ...] = (
    _profile(
        "classification", 0.2, 10,
        "Is this review positive or negative: the screen cracked after a day?",
        "Which category does this support ticket belong to: billing, shipping or returns?",
        "Label the sentiment of the following tweet as positive, neutral or negative.",
        "Does this message contain spam? Answer yes or no.",
        "Which of these topics does the article belong to: sports, politics or business?",
        "Tag the intent of this customer request.",
        "Decide whether the two sentences mean the same.",
        "Detect the language of this text.",
    ),
    _profile(
        "summarisation", 0.4, 200,
        "Summarise the following article in three sentences.",
        "Give me the main points of this meeting transcript.",
        "Write a short summary of the report below.",
        "TL;DR of this email thread, please.",
        "Condense this document into bullet points.",
        "What are the key takeaways from this paper?",
        "Sum up the conversation so far for a colleague who missed it.",
        "Shorten this text to a hundred words.",
    ),
    _profile(
        "code", 0.7, 400,
        "Write a Python function that reverses a linked list.",
        "Why does this code raise a KeyError?",
        "Refactor this class so that it can be tested.",
        "Write a SQL query that returns the ten largest orders of each customer.",
        "Add unit tests for the following method.",
        "Explain what this regular expression matches.",
        "Fix the bug in this JavaScript loop.",
        "Convert this shell script to a Makefile target.",
        "Write a function in Rust that parses a date.",
        "Implement a binary search in C++.",
    ),
    _profile(
        "complex reasoning", 0.9, 500,
        "If a train leaves at 3 and travels at 60 km/h, when does it meet the other one?",
        "Prove that the square root of two is irrational.",
        "A shop sells apples at 3 for 2 dollars; how much do 18 apples cost after a 10% discount?",
        "Anna is taller than Ben, and Ben is taller than Carl. Who is the shortest, and why?",
        "How many ways are there to seat five people around a table?",
        "Given these constraints, find the optimal schedule.",
        "What follows from these premises, if all of them are true?",
        "Calculate the probability that at least one of the three events occurs.",
    ),
    _profile(
        "creative writing", 0.6, 600,
        "Write a short story about a lighthouse keeper.",
        "Compose a poem about autumn rain.",
        "Invent a slogan for a new brand of tea.",
        "Write the opening scene of a detective novel.",
        "Make up a bedtime story with a dragon.",
        "Write song lyrics about leaving home.",
        "Draft a funny birthday toast for my sister.",
        "Describe an imaginary city in the style of a travel guide.",
    ),
)  # fmt: skip
"""Profiles to begin with; their lengths are guesses, their examples English."""
