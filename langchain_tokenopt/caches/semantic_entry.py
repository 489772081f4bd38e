"""A kept question as bytes and back, for a place that others can write to."""

import hashlib
import hmac
import json
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from langchain_core.outputs import Generation
from numpy.typing import NDArray

from langchain_tokenopt.caches.codec import Codec, UnreadableError
from langchain_tokenopt.caches.question import Question
from langchain_tokenopt.caches.semantic_questions import KeptQuestion
from langchain_tokenopt.caches.template import Packed
from langchain_tokenopt.messages import SEMANTIC

_ENTRY, _LEARNED = b"TOQ1", b"TOL1"  # raise the digit when what follows changes
_CHECK_BYTES = 16
# Id, group, Unix time of its end; then the lengths of partition, vector, tags and question.
_HEAD = struct.Struct(">qqdIIII")


@dataclass(frozen=True, slots=True)
class Stored:
    """A kept question with its vector."""

    kept: KeptQuestion
    vector: NDArray[np.float32]


class EntryCodec:
    """Encodes kept questions, and what was learned from them.

    With a `signing_key`, what was written without it is refused. Id and partition are part of what
    is signed: an entry is worth nothing under another id or for another tenant.
    """

    def __init__(self, *, signing_key: bytes | None = None) -> None:
        # Another key than the answers' own, so that neither can be taken for the other.
        self._key = hashlib.sha256(b"question:" + signing_key).digest() if signing_key else b""
        self._answers = Codec(signing_key=signing_key)

    def encode(self, kept: KeptQuestion, vector: NDArray[np.float32], answer: Generation) -> bytes:
        """Return the bytes of an entry.

        Raises:
            UnencodableError: The answer would come back as something else.
        """
        partition = kept.question.partition
        numbers = vector.astype("<f4").tobytes()
        tags = json.dumps(sorted(kept.tags)).encode()
        text = kept.question.text.encode("utf-8", "surrogatepass")
        head = _HEAD.pack(
            kept.id,
            kept.group,
            kept.expires_at,
            len(partition),
            len(numbers),
            len(tags),
            len(text),
        )
        body = b"".join((head, partition, numbers, tags, text, self._answers.encode([answer])))
        return self._sealed(_ENTRY, body)

    def decode(self, data: bytes) -> Stored:
        """Return the entry.

        Raises:
            UnreadableError: The bytes are not what `encode` with this key returns.
        """
        body = self._opened(_ENTRY, data)
        try:
            id_, group, expires_at, *lengths = _HEAD.unpack_from(body)
            parts, start = [], _HEAD.size
            for length in lengths:
                parts.append(body[start : start + length])
                start += length
            partition, numbers, tags, text = parts
            vector = np.frombuffer(numbers, dtype="<f4").astype(np.float32)
            (answer,) = self._answers.decode(body[start:])
            # Not what is infinite, and not what becomes so when it is multiplied.
            length = float(np.linalg.norm(vector.astype(np.float64)))
            if not 1e-9 < length < 1e9 or math.isnan(expires_at):
                raise UnreadableError(f"a vector of length {length}")
            question = Question(
                text=text.decode("utf-8", "surrogatepass"), partition=partition, temperature=None
            )
            kept = KeptQuestion(
                id=id_,
                question=question,
                packed=Packed(answer, source=SEMANTIC),
                answer=answer.text,
                group=group,
                expires_at=expires_at,
                tags=frozenset(str(tag) for tag in json.loads(tags)),
            )
        except UnreadableError:
            raise
        except (ValueError, TypeError, struct.error, RecursionError) as error:
            raise UnreadableError(str(error)) from error
        return Stored(kept, vector)

    def encode_learned(self, coefficients: Sequence[float]) -> bytes:
        """Return the bytes of what a risk model learned."""
        return self._sealed(_LEARNED, json.dumps(list(coefficients)).encode())

    def decode_learned(self, data: bytes) -> list[float]:
        """Return what a risk model learned.

        Raises:
            UnreadableError: The bytes are not what `encode_learned` with this key returns.
        """
        try:
            found = [float(value) for value in json.loads(self._opened(_LEARNED, data))]
        except (ValueError, TypeError, OverflowError, RecursionError) as error:
            raise UnreadableError(str(error)) from error
        if not all(map(math.isfinite, found)):
            raise UnreadableError("coefficients are finite")
        return found

    def _sealed(self, kind: bytes, body: bytes) -> bytes:
        return kind + self._check(kind, body) + body

    def _opened(self, kind: bytes, data: bytes) -> bytes:
        start = len(kind) + _CHECK_BYTES
        body = data[start:]
        check = data[len(kind) : start]
        if data[: len(kind)] != kind or not hmac.compare_digest(check, self._check(kind, body)):
            raise UnreadableError("not of this version, altered, or signed with another key")
        return body

    def _check(self, kind: bytes, body: bytes) -> bytes:
        sealed = hashlib.blake2b(body, digest_size=_CHECK_BYTES, key=self._key, person=kind)
        return sealed.digest()
