"""Ways to reason, each a runnable and a graph that answers with the fewest tokens it can."""

from langchain_tokenopt.reasoning.best_of import BestOf, Scorer
from langchain_tokenopt.reasoning.chain import ChainOfThought, Structured
from langchain_tokenopt.reasoning.demonstrations import ChosenExamples, Demonstrations
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
from langchain_tokenopt.reasoning.sampling import Draw
from langchain_tokenopt.reasoning.self_consistency import SelfConsistency, Stop, VoteBy
from langchain_tokenopt.reasoning.technique import (
    OnBudget,
    ReasoningInput,
    Technique,
)
from langchain_tokenopt.reasoning.waves import TokenWeights

__all__ = [
    "Answers",
    "BestOf",
    "ChainOfThought",
    "ChosenExamples",
    "Demonstrations",
    "Draw",
    "Example",
    "Extractor",
    "OnBudget",
    "ReasoningInput",
    "ReasoningResult",
    "ReasoningUsage",
    "Sample",
    "Scorer",
    "SelfConsistency",
    "StepUsage",
    "Stop",
    "StopReason",
    "Structured",
    "Style",
    "Technique",
    "TokenWeights",
    "TraceStep",
    "Vote",
    "VoteBy",
    "chain_of_thought_prompt",
]
