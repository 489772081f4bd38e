"""Answers as bytes and back: an explicit schema, a version and a checksum, never code.

An entry is read into two known shapes, a text and an assistant message, field by field. Nothing
in it names a class or a module, so what others wrote into a shared store can at worst be refused.
"""

import hashlib
import hmac
import json
import struct
from collections.abc import Sequence
from typing import Any

from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.outputs import ChatGeneration, Generation
from pydantic import BaseModel

_MAGIC = b"TOC1"  # raise the digit when the schema changes
_CHECK_BYTES = 16
_HEAD = len(_MAGIC) + _CHECK_BYTES
_TIME = struct.Struct(">d")
_MESSAGE_FIELDS = (
    "content", "additional_kwargs", "response_metadata", "name", "tool_calls",
    "invalid_tool_calls", "usage_metadata",
)  # fmt: skip


class UnencodableError(ValueError):
    """An answer holds what JSON cannot hold without loss."""


class UnreadableError(ValueError):
    """Bytes are no entry of this version, were altered, or were signed with another key."""


class Codec:
    """Encodes answers. With a `signing_key`, entries written without it are refused.

    >>> codec = Codec()
    >>> codec.decode(codec.encode([Generation(text="4")]))
    [Generation(text='4')]
    """

    def __init__(self, *, signing_key: bytes | None = None) -> None:
        self._key = hashlib.sha256(signing_key).digest() if signing_key else b""

    def encode(self, answers: Sequence[Generation], *, written_at: float = 0.0) -> bytes:
        """Return the bytes of one answer or, for n > 1, of several.

        Args:
            answers: At least one.
            written_at: Unix time in seconds, for `written_at`.

        Raises:
            UnencodableError: A field holds an object that would come back as something else.
        """
        entries = [_entry(answer) for answer in answers]
        try:
            payload = json.dumps(entries, ensure_ascii=False, separators=(",", ":"))
            data = _TIME.pack(written_at) + payload.encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise UnencodableError(str(error)) from error
        if json.loads(payload) != entries:  # tuples, keys that are not text
            raise UnencodableError("a field would not come back as it was")
        return _MAGIC + self._check(data) + data

    def decode(self, data: bytes) -> list[Generation]:
        """Return the answers of an entry, each a fresh object.

        Raises:
            UnreadableError: The bytes are not what `encode` with this key returns.
        """
        check, checked = data[4:_HEAD], data[_HEAD:]
        if (
            data[:4] != _MAGIC
            or len(checked) < _TIME.size
            or not hmac.compare_digest(check, self._check(checked))
        ):
            raise UnreadableError("not an entry of this version, or altered")
        try:
            entries = json.loads(checked[_TIME.size :].decode())  # never guess an encoding
            if not isinstance(entries, list) or not entries:
                raise UnreadableError("an entry holds at least one answer")
            return [_answer(entry) for entry in entries]
        except UnreadableError:
            raise
        except Exception as error:  # LangChain's validators raise what they run into
            raise UnreadableError(repr(error)) from error

    @staticmethod
    def written_at(data: bytes) -> float:
        """Return the Unix time at which a readable entry was written."""
        (at,) = _TIME.unpack_from(data, _HEAD)
        return float(at)

    def _check(self, payload: bytes) -> bytes:
        return hashlib.blake2b(payload, digest_size=_CHECK_BYTES, key=self._key).digest()


def _entry(answer: Generation) -> dict[str, Any]:
    if not isinstance(answer, ChatGeneration):
        return {"text": answer.text, "info": answer.generation_info}
    message = answer.message
    if not isinstance(message, AIMessage):
        raise UnencodableError(f"only assistant messages are cached, got {message.type!r}")
    fields = {name: getattr(message, name) for name in _MESSAGE_FIELDS}
    parsed = message.additional_kwargs.get("parsed")
    if isinstance(parsed, BaseModel):
        # LangChain's parsers build the object again from its fields.
        extras = {**message.additional_kwargs, "parsed": parsed.model_dump(mode="json")}
        fields["additional_kwargs"] = extras
    return {"message": fields, "info": answer.generation_info}


def _answer(entry: dict[str, Any]) -> Generation:
    info = entry["info"]
    if "message" not in entry:
        return Generation(text=entry["text"], generation_info=info)
    fields = entry["message"]
    message = AIMessage(**{name: fields[name] for name in _MESSAGE_FIELDS})
    return ChatGeneration(message=message, generation_info=info)


def copied(value: Any) -> Any:
    """Copy what JSON is made of; a good deal quicker than `copy.deepcopy`."""
    if isinstance(value, dict):
        return {name: copied(item) for name, item in value.items()}
    if isinstance(value, list):
        return [copied(item) for item in value]
    return value


def settled(answers: Sequence[Generation]) -> list[Generation]:
    """Return answers whose streamed chunks have become messages, the rest as they are."""
    return [_settle(answer) for answer in answers]


def _settle(answer: Generation) -> Generation:
    if not isinstance(answer, ChatGeneration) or not isinstance(answer.message, AIMessageChunk):
        return answer
    fields = {name: getattr(answer.message, name) for name in _MESSAGE_FIELDS}
    message = AIMessage(id=answer.message.id, **fields)
    return ChatGeneration(message=message, generation_info=answer.generation_info)
