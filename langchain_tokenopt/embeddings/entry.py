"""How a vector is kept: its key, and its bytes, which are checked when they are read."""

import hashlib
import sys
import zlib
from array import array
from collections.abc import Iterable
from typing import Literal

Kind = Literal["document", "query"]
_MARK = b"tov1"
_HEADER = len(_MARK) + 8


def keys_of(texts: Iterable[str], *, name: str, kind: Kind) -> list[bytes]:
    """Return the keys under which the vectors of texts are kept.

    >>> one, other = keys_of(["a", "b"], name="model/256", kind="query")
    >>> one != other, len(one)
    (True, 32)
    """
    named = name.encode(errors="surrogatepass")
    start = hashlib.sha256(b"%d:%b:%b:" % (len(named), named, kind.encode()))
    keys = []
    for text in texts:
        digest = start.copy()
        digest.update(text.encode(errors="surrogatepass"))
        keys.append(digest.digest())
    return keys


def encode(vector: Iterable[float]) -> bytes:
    """Return a vector as 32-bit floats behind its number of dimensions and a checksum."""
    floats = array("f", vector)
    if sys.byteorder == "big":
        floats.byteswap()
    body = floats.tobytes()
    return b"%b%b%b%b" % (
        _MARK,
        len(floats).to_bytes(4, "little"),
        zlib.crc32(body).to_bytes(4, "little"),
        body,
    )


def intact(entry: bytes) -> bool:
    """Return whether bytes are an encoded vector, as it was written."""
    body = memoryview(entry)[_HEADER:]
    return (
        len(entry) >= _HEADER
        and entry.startswith(_MARK)
        and len(body) == 4 * int.from_bytes(entry[4:8], "little")
        and zlib.crc32(body) == int.from_bytes(entry[8:12], "little")
    )


def decode(entry: bytes) -> list[float]:
    """Return the vector of an intact entry.

    >>> decode(encode([0.5, -2.0]))
    [0.5, -2.0]
    """
    floats = array("f")
    floats.frombytes(memoryview(entry)[_HEADER:])
    if sys.byteorder == "big":
        floats.byteswap()
    return floats.tolist()
