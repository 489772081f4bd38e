"""Checks that need no model: an answer that fails one is not worth a second thought."""

import re

from langchain_tokenopt.routing.attempt import Attempt, Verdict

# Said at the start of an answer, not in the middle of one that goes on to help.
_REFUSAL = re.compile(
    r"\W*(i( am|['\u2019]?m) (sorry,? but|not (able|sure|certain)|unable)"
    r"|i (can(not|['\u2019]t)|won['\u2019]?t|do(n['\u2019]t| not) (know|have (access|enough|that)))"
    r"|as an ai\b|unfortunately,? i (can|do))",
    re.IGNORECASE,
)
_CUT = frozenset({"length", "max_tokens", "model_length", "MAX_TOKENS"})
_FILTERED = frozenset({"content_filter", "SAFETY", "refusal"})


def not_empty(question: str, attempt: Attempt) -> Verdict:
    """Accept an answer that says something or calls a tool."""
    if attempt["text"].strip() or attempt["tool_calls"]:
        return Verdict(accepted=True, reason="there is an answer")
    return Verdict(accepted=False, reason="the answer is empty")


def not_truncated(question: str, attempt: Attempt) -> Verdict:
    """Accept an answer that ran to its end, as far as the provider says."""
    if attempt["finish_reason"] in _CUT:
        return Verdict(accepted=False, reason="the answer was cut at its token limit")
    return Verdict(accepted=True, reason="the answer is whole")


def no_refusal(question: str, attempt: Attempt) -> Verdict:
    """Accept an answer that does not start by declining, and was not filtered.

    Recognises the usual English phrases; an answer in another language passes.
    """
    if attempt["finish_reason"] in _FILTERED:
        return Verdict(accepted=False, reason="the provider filtered the answer")
    if _REFUSAL.match(attempt["text"]):
        return Verdict(accepted=False, reason="the model declined to answer")
    return Verdict(accepted=True, reason="the model did not decline")
