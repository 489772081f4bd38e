"""Ways to reason, each a runnable and a graph that answers with the fewest tokens it can."""

from langchain_tokenopt.reasoning.chain import ChainOfThought, Structured
from langchain_tokenopt.reasoning.extract import Answers, Extractor
from langchain_tokenopt.reasoning.prompting import Example, Style, chain_of_thought_prompt
from langchain_tokenopt.reasoning.result import (
    ReasoningResult,
    ReasoningUsage,
    Sample,
    StepUsage,
    StopReason,
    TraceStep,
    Vote,
)
from langchain_tokenopt.reasoning.technique import (
    OnBudget,
    ReasoningInput,
    Technique,
)

__all__ = [
    "Answers",
    "ChainOfThought",
    "Example",
    "Extractor",
    "OnBudget",
    "ReasoningInput",
    "ReasoningResult",
    "ReasoningUsage",
    "Sample",
    "StepUsage",
    "StopReason",
    "Structured",
    "Style",
    "Technique",
    "TraceStep",
    "Vote",
    "chain_of_thought_prompt",
]
