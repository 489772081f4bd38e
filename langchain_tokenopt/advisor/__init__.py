"""What a call log says: reading it, and what each technique would save on it."""

from langchain_tokenopt.advisor.log import CallLog, LoggedCall, LogProblem, read_log

__all__ = ["CallLog", "LogProblem", "LoggedCall", "read_log"]
