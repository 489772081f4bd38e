"""Find, without running it, what breaks providers' prompt caches in LangChain code."""

from langchain_tokenopt.linting.check import Finding, check
from langchain_tokenopt.linting.files import FileReport, lint
from langchain_tokenopt.linting.rules import RULES, Rule

__all__ = ["RULES", "FileReport", "Finding", "Rule", "check", "lint"]
