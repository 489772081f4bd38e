"""What a tree of thoughts asks its models, and how it reads what they write."""

import re
from collections.abc import Iterator, Sequence
from itertools import groupby

from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder

from langchain_tokenopt.reasoning.tree_search import BEST_SCORE, Thought, Tree, path_to

_PROPOSE = """\
A problem is solved in small steps. You are shown the steps so far. Propose different next steps, \
each of which is complete in itself and follows from the steps so far. Write each as one numbered \
line, and nothing else:
1. <a next step>
2. <another one>"""
_SCORES = f"""\
A problem is solved in small steps. You are shown numbered candidates for the next step. Score \
each from 0 (wrong, or cannot lead to a solution) to {BEST_SCORE:g} (surely leads to one). Write \
a line for every candidate, and nothing else:
<number>: <score>"""
_MARK = re.compile(
    r"""(?P<indent>\s*)
    (?:(?P<bold>\*\*)?(?P<number>\d{1,3})[.):](?!\d)(?P<end>\*\*)?|[-*\u2022])(?:\s+|$)""",
    re.VERBOSE,
)
_SCORE = re.compile(
    r"""[\s*#(-]*(?:(?:candidate|step|score)\s+)?(?P<number>\d{1,4})[\s*)]*(?:[:=]|\.\s|-\s|\u2013|\s)
    [\s*]*(?P<score>\d{1,3}(?:\.\d+)?)(?:\s*/\s*10)?(?![\d%/]|\.\d)""",
    re.VERBOSE | re.IGNORECASE,
)
_SCORE_ALONE = re.compile(
    r"[\s*]*(?:score[\s:=]*)?(\d{1,3}(?:\.\d+)?)(?:\s*/\s*10)?[\s*.]*", re.IGNORECASE
)


def tree_propose_prompt() -> ChatPromptTemplate:
    """Return the prompt that `TreeOfThoughts` asks for next steps with by default.

    It gets `steps`, the path so far with a step a line, and `count`, how many are wanted, beside
    `messages`, `question` and further keys of the input. What is fixed comes first, so that
    providers can cache it.
    """
    human = "Steps so far:\n{steps}\n\nNext steps, {count} at most:"
    return ChatPromptTemplate(
        [("system", _PROPOSE), MessagesPlaceholder("messages"), ("user", human)]
    )


def tree_score_prompt() -> ChatPromptTemplate:
    """Return the prompt that `TreeOfThoughts` asks for scores with by default.

    It gets `candidates`, numbered from 1 under the steps that they follow, beside `messages`,
    `question` and further keys of the input.
    """
    human = "{candidates}\n\nScores:"
    return ChatPromptTemplate(
        [("system", _SCORES), MessagesPlaceholder("messages"), ("user", human)]
    )


def read_thoughts(text: str) -> list[str]:
    r"""Return the items of a numbered or bulleted list, none if there is no list.

    Lines right below an item belong to it. What stands before the list, or after it behind an
    empty line, was not proposed as a step.

    >>> read_thoughts("Steps:\n1. 4 + 8 = 12\n2. 6 - 4 = 2\n   (left: 2 8)\n\nPick one.")
    ['4 + 8 = 12', '6 - 4 = 2\n(left: 2 8)']
    """
    items: list[list[str]] = []
    first: re.Match[str] | None = None
    ended = False
    for line in text.splitlines():
        mark = _MARK.match(line)
        if mark is not None and (first is None or _same_list(first, mark)):
            first = first or mark
            opened = "**" if mark["bold"] and not mark["end"] else ""
            items.append([opened + line[mark.end() :].strip()])
            ended = False
        elif not line.strip():
            ended = True
        elif items and not ended:
            items[-1].append(line.strip())
    return [text for item in items if (text := "\n".join(item).strip())]


def _same_list(first: re.Match[str], mark: re.Match[str]) -> bool:
    """Return whether a mark is of the outer list and not of one inside an item."""
    numbered = (first["number"] is None) == (mark["number"] is None)
    return numbered and len(mark["indent"]) <= len(first["indent"])


def read_scores(text: str, count: int) -> dict[int, float]:
    r"""Return the scores that a reply gives to candidates 1 to `count`, by number.

    A candidate is left out if it has no score, one that is not from 0 to 10, or two different
    ones: a score that cannot be read is not a score of 0.

    >>> read_scores("1: 7\n2: 11\n3 - 2.5/10\n4: good", 4)
    {1: 7.0, 3: 2.5}
    """
    alone = _SCORE_ALONE.fullmatch(text)
    if count == 1 and alone is not None:
        given = {1: {float(alone[1])}}
    else:
        given = {}
        for match in filter(None, map(_SCORE.match, text.splitlines())):
            given.setdefault(int(match["number"]), set()).add(float(match["score"]))
    return {
        number: score
        for number, scores in sorted(given.items())
        if 1 <= number <= count and len(scores) == 1 and (score := min(scores)) <= BEST_SCORE
    }


def written_candidates(tree: Tree, thoughts: Sequence[Thought]) -> str:
    """Return the thoughts numbered from 1, the steps that siblings share written once."""
    return "\n\n".join(_groups(tree, thoughts))


def _groups(tree: Tree, thoughts: Sequence[Thought]) -> Iterator[str]:
    numbered = enumerate(thoughts, start=1)
    for parent, siblings in groupby(numbered, key=lambda pair: pair[1].parent):
        before = f"Steps so far:\n{written_steps(path_to(tree, parent))}\nCandidates:"
        yield "\n".join([before, *(f"{number}. {thought.text}" for number, thought in siblings)])


def written_steps(steps: Sequence[str]) -> str:
    """Return steps as the prompts show them."""
    return "\n".join(steps) or "(none)"
