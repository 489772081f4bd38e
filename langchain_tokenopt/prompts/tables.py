"""Write large JSON results of tools as tables: the same data in fewer tokens, and back."""

import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any

import toon_format
from langchain_core.messages import BaseMessage, ToolMessage

TABLE_MARK = "tokenopt_table"
"""Key in `response_metadata` of a message whose content was written as a table."""

# Shorter results have nothing to gain.
_SHORT = 300
# A rewritten result must save as large a share of its tokens.
_LEAST_SAVING = 0.1
_MOST_REMEMBERED = 2_000


def as_table(text: str) -> str | None:
    """Return JSON as TOON, `None` where it is no JSON, or does not come back the same.

    A list of objects with the same keys names the keys once and gives a row to each object. See
    https://toonformat.dev. What is returned decodes to equal data, `from_table` does it: the
    order of keys is kept, and whole numbers written as `2.0` come back as `2`.

    >>> print(as_table('[{"id": 1, "name": "Ada"}, {"id": 2, "name": "Grace"}]'))
    [2]{id,name}:
      1,Ada
      2,Grace
    """
    if text.lstrip()[:1] not in ("[", "{"):
        return None
    try:
        value = json.loads(text, parse_float=_exact, object_pairs_hook=_unique)
        if not _has_rows(value):
            return None
        table = toon_format.encode(value)
        return table if _same(toon_format.decode(table), value) else None
    except (ValueError, RecursionError):
        return None


def from_table(table: str) -> Any:
    r"""Return the data that `as_table` wrote.

    >>> from_table('[2]{id,name}:\n  1,Ada\n  2,Grace')
    [{'id': 1, 'name': 'Ada'}, {'id': 2, 'name': 'Grace'}]
    """
    return toon_format.decode(table)


class TableWriter:
    """Rewrites results of tools as tables where that saves a tenth of their tokens, each once.

    What comes out depends on the message alone: it is the same in every request, so that it breaks
    no provider's cache.

    Args:
        count_text: Counts tokens.
    """

    def __init__(self, count_text: Callable[[str], int]) -> None:
        self._count = count_text
        self._written: OrderedDict[tuple[int, int], str | None] = OrderedDict()
        self._lock = threading.Lock()

    def rewritten(self, message: BaseMessage) -> BaseMessage:
        """Return a tool's result with its JSON as tables, the same message if nothing is saved."""
        if not isinstance(message, ToolMessage):
            return message
        content = message.content
        written: Any = (
            self._text(content) if isinstance(content, str) else [self._block(b) for b in content]
        )
        if written == content:
            return message
        metadata = {**message.response_metadata, TABLE_MARK: True}
        return message.model_copy(update={"content": written, "response_metadata": metadata})

    def _block(self, block: Any) -> Any:
        if isinstance(block, str):
            return self._text(block)
        if block.get("type") == "text" and isinstance(block.get("text"), str):
            return {**block, "text": self._text(block["text"])}
        return block

    def _text(self, text: str) -> str:
        if len(text) < _SHORT:
            return text
        key = (len(text), hash(text))
        with self._lock:
            known = key in self._written
            table = self._written.get(key)
        if not known:
            table = as_table(text)
            if table and self._count(table) > (1 - _LEAST_SAVING) * self._count(text):
                table = None
            with self._lock:
                self._written[key] = table
                while len(self._written) > _MOST_REMEMBERED:
                    self._written.popitem(last=False)
        return text if table is None else table


def _exact(digits: str) -> float:
    number = float(digits)
    if Decimal(digits) != Decimal(repr(number)):
        raise ValueError(f"{digits} has more digits than a float keeps")
    return number


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a key is there twice")
    return made


def _has_rows(value: Any) -> bool:
    """Return whether there is a list of objects anywhere near the top."""
    if isinstance(value, list):
        return len(value) > 1 and all(isinstance(each, dict) for each in value)
    return isinstance(value, dict) and any(_has_rows(each) for each in value.values())


def _same(one: Any, other: Any) -> bool:
    """Return whether two JSON values are equal, true apart from 1 and keys in the same order."""
    if isinstance(one, dict) and isinstance(other, dict):
        return list(one) == list(other) and _all_same(list(one.values()), list(other.values()))
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and _all_same(one, other)
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    return bool(one == other) and isinstance(one, str) == isinstance(other, str)


def _all_same(ones: Sequence[Any], others: Sequence[Any]) -> bool:
    return all(_same(one, other) for one, other in zip(ones, others, strict=True))
