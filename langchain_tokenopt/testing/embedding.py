"""The JSON of OpenAI's embeddings endpoint."""

import base64
import hashlib
import math
import re
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from langchain_tokenopt.tokens import counter_for

Embed = Callable[[str], Sequence[float]]


def embed_words(text: str, *, dimensions: int = 256) -> list[float]:
    """Return a unit vector of the words of a text: texts that share words are near each other.

    Each word has its own fixed direction, so this needs no weights and is the same everywhere.

    >>> a, b, c = map(embed_words, ["track my parcel", "track a parcel", "reset a password"])
    >>> sum(x * y for x, y in zip(a, b)) > sum(x * y for x, y in zip(a, c))
    True
    """
    total = [0.0] * dimensions
    for word in re.findall(r"\w+", text.lower()) or [text]:
        digest = hashlib.blake2b(word.encode(errors="surrogatepass"), digest_size=64).digest()
        for at in range(0, 64, 4):  # sixteen signed marks a word
            (mark,) = struct.unpack_from("<I", digest, at)
            total[mark % dimensions] += 1.0 if mark >> 31 else -1.0
    length = math.sqrt(sum(value * value for value in total)) or 1.0
    return [value / length for value in total]


def embeddings_json(body: Mapping[str, Any], *, embed: Embed) -> dict[str, Any]:
    """Return the answer to an embeddings request; inputs are texts or lists of token ids."""
    counter = counter_for(str(body["model"]))
    items, tokens = [], 0
    for index, given in enumerate(_inputs(body["input"])):
        text = given if isinstance(given, str) else " ".join(map(str, given))
        tokens += counter.count_text(given) if isinstance(given, str) else len(given)
        vector = list(embed(text))[: body.get("dimensions")]
        packed: Any = vector
        if body.get("encoding_format") == "base64":
            packed = base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
        items.append({"object": "embedding", "index": index, "embedding": packed})
    return {
        "object": "list",
        "data": items,
        "model": body["model"],
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }


def _inputs(given: Any) -> list[str | list[int]]:
    """Return one entry for each text, or list of token ids, to embed."""
    single = isinstance(given, str) or (bool(given) and isinstance(given[0], int))
    return [given] if single else list(given)
