"""The main job: play recorded traffic, plain and optimised, and show the difference."""

from langchain_tokenopt.demo.apps import Step, cached_step, cascade_step, plain_step
from langchain_tokenopt.demo.comparison import Comparison, StepResult, run_steps
from langchain_tokenopt.demo.grading import is_wrong
from langchain_tokenopt.demo.html import write_html
from langchain_tokenopt.demo.play import Outcome, play
from langchain_tokenopt.demo.traffic import RecordedAnswers, bundled_traffic

__all__ = [
    "Comparison",
    "Outcome",
    "RecordedAnswers",
    "Step",
    "StepResult",
    "bundled_traffic",
    "cached_step",
    "cascade_step",
    "is_wrong",
    "plain_step",
    "play",
    "run_steps",
    "write_html",
]
