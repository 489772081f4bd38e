"""A model that judges a draft, for open text where answers cannot be compared."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage
from langchain_core.runnables import Runnable

_IS_IT_RIGHT = (
    "You check answers. Say first whether the answer is right and complete, as one word: yes or "
    "no. Then say why in one sentence."
)
_WHICH_IS_BETTER = (
    "You compare two answers to a question. Say first which one is better, as one character: "
    "1 or 2. Then say why in one sentence."
)
_UNDECIDED = 0.5
_YES_OR_NO = re.compile(r"\W*(yes|no)\b", re.IGNORECASE)
_ONE_OR_TWO = re.compile(r"\W*(?:answer\s+)?([12])\b", re.IGNORECASE)


class Judge(Protocol):
    """What asks a model about a draft. It makes no call itself: the gate does, in its config."""

    @property
    def model(self) -> BaseChatModel | Runnable[Any, AIMessage]:
        """Who is asked."""
        ...

    def requests(self, question: str, draft: str, other: str | None) -> list[list[BaseMessage]]:
        """Return what is asked; none if there is nothing to judge.

        Args:
            question: What the draft answers.
            draft: The draft.
            other: The last second opinion, if one was asked for.
        """
        ...

    def score(self, replies: Sequence[str]) -> float:
        """Return the chance that the draft will do, from the replies in order."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class CorrectnessJudge:
    """Asks whether a draft is right: one call.

    >>> from langchain_tokenopt.testing import ScriptedModel
    >>> judge = CorrectnessJudge(model=ScriptedModel(["yes"]))
    >>> judge.score(["Yes. The sum is right."]), judge.score(["No"]), judge.score(["Hm."])
    (1.0, 0.0, 0.5)
    """

    model: BaseChatModel | Runnable[Any, AIMessage]

    def requests(self, question: str, draft: str, other: str | None) -> list[list[BaseMessage]]:
        """Return one request, whatever the other answer is."""
        asked = f"Question:\n{question}\n\nAnswer:\n{draft}\n\nIs the answer right?"
        return [[SystemMessage(_IS_IT_RIGHT), HumanMessage(asked)]]

    def score(self, replies: Sequence[str]) -> float:
        """Return 1 for yes, 0 for no, 0.5 for anything else."""
        found = _YES_OR_NO.match(replies[0])
        return _UNDECIDED if found is None else float(found[1].lower() == "yes")


@dataclass(frozen=True, slots=True, kw_only=True)
class PreferenceJudge:
    """Asks whether a draft or the second opinion is better, in both orders: two calls.

    Models prefer what they read first, or last; a preference that turns with the order is none.

    >>> from langchain_tokenopt.testing import ScriptedModel
    >>> judge = PreferenceJudge(model=ScriptedModel(["1"]))
    >>> judge.score(["1", "2"]), judge.score(["2", "1"]), judge.score(["1", "1"])
    (1.0, 0.0, 0.5)
    """

    model: BaseChatModel | Runnable[Any, AIMessage]

    def requests(self, question: str, draft: str, other: str | None) -> list[list[BaseMessage]]:
        """Return a request with the draft first and one with it last; none without an opinion."""
        if other is None:
            return []
        return [_compared(question, draft, other), _compared(question, other, draft)]

    def score(self, replies: Sequence[str]) -> float:
        """Return the share of orders in which the draft won; an unclear one is half."""
        votes = []
        for place, reply in zip("12", replies, strict=True):
            found = _ONE_OR_TWO.match(reply)
            votes.append(_UNDECIDED if found is None else float(found[1] == place))
        return sum(votes) / len(votes)


def _compared(question: str, one: str, two: str) -> list[BaseMessage]:
    asked = f"Question:\n{question}\n\nAnswer 1:\n{one}\n\nAnswer 2:\n{two}\n\nWhich is better?"
    return [SystemMessage(_WHICH_IS_BETTER), HumanMessage(asked)]
