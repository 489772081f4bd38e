"""A request as a semantic cache sees it: one question, and all that must be equal."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from langchain_tokenopt.caches.keys import KeyMaker, canonical_prompt, temperature_of

_FRESH = re.compile(
    r"\b(today|tonight|tomorrow|yesterday|(right )?now|currently|at the moment|latest"
    r"|up[- ]to[- ]date|this (morning|afternoon|evening|week|weekend|month|year)"
    r"|(last|next) (week|month|year|night)|news|headlines?|weather|forecast)\b",
    re.IGNORECASE,
)
_ACTION = re.compile(
    r"^\W*(please |can you |could you |would you |i('d| would) like you to |i want you to )*"
    r"(send|book|order|buy|pay|transfer|delete|remove|cancel|schedule|reschedule|create|submit|post"
    r"|call|dial|text|email|e-mail|remind|set|turn|switch|start|stop|play|pause|add|update|reserve)\b"
    r"(?!.*\bhow\b)",
    re.IGNORECASE,
)

_LONGEST_PLAIN = 300  # characters


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """The last human turn of a request, and the digest of everything else."""

    text: str
    partition: bytes
    """Equal only for the same tenant, model, tools, system prompt and earlier turns."""
    temperature: float | None


Turn = tuple[str, str]
"""Who spoke (`human`, `ai`, `tool`), and what."""
Condense = Callable[[list[Turn], str], str | None]
"""Rewrites a question that leans on earlier turns into one that stands alone; `None` if it cannot,
or need not."""


def question_of(
    prompt: str, llm_string: str, *, key: KeyMaker, condense: Condense | None = None
) -> Question | None:
    """Return the question of a request, `None` if it does not end with a human turn of text.

    A plain prompt is one if it is a single line and short: longer ones hold more than a question.

    Args:
        prompt: As LangChain hands it to a cache.
        llm_string: The same.
        key: Makes the partition.
        condense: Asked where there are earlier turns. What it returns stands for them too: only
            tenant, model, tools and system prompt are left to the partition then.
    """
    if _is_plain(prompt):  # a model that completes texts gets no messages
        return Question(
            text=prompt.strip(),
            partition=key.digest("partition of plain prompts", llm_string),
            temperature=temperature_of(llm_string),
        )
    try:
        turns = json.loads(canonical_prompt(prompt))
    except (ValueError, RecursionError):
        return None
    if not isinstance(turns, list) or not turns or not isinstance(turns[-1], list):
        return None
    kind, fields = turns[-1]
    text = _text(fields.get("content")) if kind == "HumanMessage" else ""
    if not text.strip():
        return None
    earlier = [turn for turn in turns[:-1] if turn[0] != "SystemMessage"]
    alone = condense(_spoken(earlier), text.strip()) if condense and earlier else None
    if alone is not None and alone.strip():
        text = alone
        turns = [turn for turn in turns[:-1] if turn[0] == "SystemMessage"] + [turns[-1]]
        turns.insert(0, ["condensed", {}])  # never the partition of a first turn
    turns[-1] = [kind, {**fields, "content": None}]
    rest = json.dumps(turns, sort_keys=True)
    return Question(
        text=text.strip(),
        partition=key.digest(f"partition {rest}", llm_string),
        temperature=temperature_of(llm_string),
    )


def _is_plain(prompt: str) -> bool:
    text = prompt.strip()
    return 0 < len(text) <= _LONGEST_PLAIN and "\n" not in text and not text.startswith("[{")


def _spoken(turns: list[Any]) -> list[Turn]:
    return [
        (str(kind).removesuffix("Message").lower(), _text(fields.get("content")))
        for kind, fields in turns
    ]


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list) or not all(
        isinstance(block, dict) and block.get("type") == "text" for block in content
    ):
        return ""
    return "\n".join(str(block.get("text") or "") for block in content)


Policy = Callable[[Question], str | None]
"""Says why a question must not be answered by another one's answer, `None` if it may."""


def cacheable(question: Question, *, max_temperature: float = 1.0) -> str | None:
    """Return why a question should be asked anew each time; the default policy.

    Questions about the present, commands (which are to be carried out, not answered), and models
    that are told to vary their answers.

    >>> cacheable(Question(text="What's in the news today?", partition=b"", temperature=None))
    "it asks about the present: 'news'"
    """
    fresh = _FRESH.search(question.text)
    if fresh:
        return f"it asks about the present: {fresh.group().lower()!r}"
    action = _ACTION.match(question.text)
    if action:
        return f"it is a command: {action.group().strip().lower()!r}"
    if question.temperature is not None and question.temperature > max_temperature:
        return f"the temperature is {question.temperature}, above {max_temperature}"
    return None
