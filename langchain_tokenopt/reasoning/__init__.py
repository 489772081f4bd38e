"""Ways to reason, each a runnable and a graph that answers with the fewest tokens it can."""

from langchain_tokenopt.reasoning.bench import EvaluatedSample
from langchain_tokenopt.reasoning.best_of import BestOf, Scorer
from langchain_tokenopt.reasoning.chain import ChainOfThought, Structured
from langchain_tokenopt.reasoning.choose import (
    TechniqueChoice,
    achoose_technique,
    choose_technique,
    default_techniques,
)
from langchain_tokenopt.reasoning.demonstrations import ChosenExamples, Demonstrations
from langchain_tokenopt.reasoning.evaluate import Evaluation, aevaluate, evaluate
from langchain_tokenopt.reasoning.extract import Answers, Extractor
from langchain_tokenopt.reasoning.facts import Splitter, sentences
from langchain_tokenopt.reasoning.least_to_most import LeastToMost, OnError
from langchain_tokenopt.reasoning.metrics import LabelledSample, Metric, typed_equality
from langchain_tokenopt.reasoning.objective import FewestTokens, HighestScore
from langchain_tokenopt.reasoning.optimize import PromptOptimizer
from langchain_tokenopt.reasoning.optimize_result import OptimizedPrompt, Tried
from langchain_tokenopt.reasoning.plan import Plan, SubQuestion, read_plan
from langchain_tokenopt.reasoning.plan_prompts import plan_prompt, step_prompt
from langchain_tokenopt.reasoning.prompt_parts import read_prompt, write_prompt
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
from langchain_tokenopt.reasoning.selection_inference import (
    Check,
    Halting,
    Inference,
    SchemaIds,
    SelectionInference,
)
from langchain_tokenopt.reasoning.selection_prompts import (
    halting_prompt,
    inference_prompt,
    selection_prompt,
)
from langchain_tokenopt.reasoning.self_consistency import SelfConsistency, Stop, VoteBy
from langchain_tokenopt.reasoning.structured import Output
from langchain_tokenopt.reasoning.technique import OnBudget, ReasoningInput, Technique
from langchain_tokenopt.reasoning.tree_of_thoughts import PathCheck, PathVerdict, TreeOfThoughts
from langchain_tokenopt.reasoning.tree_prompting import (
    read_thoughts,
    tree_propose_prompt,
    tree_score_prompt,
)
from langchain_tokenopt.reasoning.tree_search import Beam, DepthFirst, Search, ThoughtPath
from langchain_tokenopt.reasoning.waves import TokenWeights

__all__ = [
    "Answers",
    "Beam",
    "BestOf",
    "ChainOfThought",
    "Check",
    "ChosenExamples",
    "Demonstrations",
    "DepthFirst",
    "Draw",
    "EvaluatedSample",
    "Evaluation",
    "Example",
    "Extractor",
    "FewestTokens",
    "Halting",
    "HighestScore",
    "Inference",
    "LabelledSample",
    "LeastToMost",
    "Metric",
    "OnBudget",
    "OnError",
    "OptimizedPrompt",
    "Output",
    "PathCheck",
    "PathVerdict",
    "Plan",
    "PromptOptimizer",
    "ReasoningInput",
    "ReasoningResult",
    "ReasoningUsage",
    "Sample",
    "SchemaIds",
    "Scorer",
    "Search",
    "SelectionInference",
    "SelfConsistency",
    "Splitter",
    "StepUsage",
    "Stop",
    "StopReason",
    "Structured",
    "Style",
    "SubQuestion",
    "Technique",
    "TechniqueChoice",
    "ThoughtPath",
    "TokenWeights",
    "TraceStep",
    "TreeOfThoughts",
    "Tried",
    "Vote",
    "VoteBy",
    "achoose_technique",
    "aevaluate",
    "chain_of_thought_prompt",
    "choose_technique",
    "default_techniques",
    "evaluate",
    "halting_prompt",
    "inference_prompt",
    "plan_prompt",
    "read_plan",
    "read_prompt",
    "read_thoughts",
    "selection_prompt",
    "sentences",
    "step_prompt",
    "tree_propose_prompt",
    "tree_score_prompt",
    "typed_equality",
    "write_prompt",
]
