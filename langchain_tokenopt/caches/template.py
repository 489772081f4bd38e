"""A decoded answer from which fresh copies are made: quicker than decoding it again."""

import os
from collections.abc import Callable
from typing import Any, TypeVar

from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration, Generation
from pydantic import BaseModel

from langchain_tokenopt.caches.codec import Codec
from langchain_tokenopt.messages import mark_cache_hit, set_cache_mark

T = TypeVar("T", bound=BaseModel)
_Copy = Callable[[], Any]
_codec = Codec()


def served(answer: Generation, *, source: str) -> Generation:
    """Return an answer that nobody else holds, marked and under a new id."""
    if isinstance(answer, ChatGeneration) and isinstance(answer.message, AIMessage):
        set_cache_mark(answer.message, source=source)
        answer.message.id = _new_id()
    return answer


def _new_id() -> str:
    return f"cached--{os.urandom(16).hex()}"


class Packed:
    """Makes the same copies from few bytes: slower, for answers that are kept by the thousand."""

    __slots__ = ("_data", "_source")

    def __init__(self, answer: Generation, *, source: str) -> None:
        self._data = _codec.encode([answer])
        self._source = source

    def fresh(self) -> Generation:
        """Return a copy."""
        (answer,) = _codec.decode(self._data)
        return served(answer, source=self._source)


class Template:
    """Makes copies of an answer that share nothing that can be changed.

    Copies of a message are marked as served from `source`, and each has a new id: with an old one
    LangGraph would replace the earlier message.
    """

    __slots__ = ("_answer", "_answer_copies", "_message", "_message_copies")

    def __init__(self, answer: Generation, *, source: str) -> None:
        self._answer = answer
        self._answer_copies = _copies_of(answer)
        self._message: Any = None
        self._message_copies: list[tuple[str, _Copy]] = []
        if isinstance(answer, ChatGeneration):
            self._message = mark_cache_hit(answer.message, source=source)  # type: ignore[type-var]  # the codec only makes AI messages
            self._message_copies = _copies_of(self._message)

    def fresh(self) -> Generation:
        """Return a copy."""
        changed = {name: copy() for name, copy in self._answer_copies}
        if self._message is not None:
            fields = {name: copy() for name, copy in self._message_copies}
            fields["id"] = _new_id()
            changed["message"] = _clone(self._message, fields)
        return _clone(self._answer, changed)


def _clone(model: T, changed: dict[str, Any]) -> T:
    """Return a shallow copy with changed fields: `model_copy`, at a third of its time.

    A hit is two of these; what is set here is what pydantic documents a model to consist of.
    """
    made = model.__class__.__new__(model.__class__)
    extra = model.__pydantic_extra__
    object.__setattr__(made, "__dict__", {**model.__dict__, **changed})
    object.__setattr__(made, "__pydantic_fields_set__", set(model.__pydantic_fields_set__))
    object.__setattr__(made, "__pydantic_extra__", extra and dict(extra))
    object.__setattr__(made, "__pydantic_private__", None)
    return made


def _copies_of(model: Any) -> list[tuple[str, _Copy]]:
    return [
        (name, _copy_of(value))
        for name, value in vars(model).items()
        if isinstance(value, dict | list)
    ]


def _copy_of(value: Any) -> _Copy:
    """Return a function that copies the JSON value `value`, planned once."""
    inner = [
        (place, _copy_of(item))
        for place, item in (value.items() if isinstance(value, dict) else enumerate(value))
        if isinstance(item, dict | list)
    ]
    if not inner:
        plain: _Copy = value.copy
        return plain

    def copy() -> Any:
        made = value.copy()
        for place, copy_item in inner:
            made[place] = copy_item()
        return made

    return copy
