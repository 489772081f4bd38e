"""Exact counts with tiktoken, from files that are on this machine and nowhere else.

`tiktoken.get_encoding` downloads a missing file, without a timeout, so it is never called: the
file is read here from the folder in which tiktoken keeps it, checked, and handed over.
"""

import base64
import hashlib
import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

import tiktoken
import tiktoken.registry

from langchain_tokenopt.tokens.encodings import TextEncoding, Unavailable

_URL = "https://openaipublic.blob.core.windows.net/encodings/{}.tiktoken"
_GPT2_PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"


@dataclass(frozen=True, slots=True, kw_only=True)
class OfficialFile:
    """One of OpenAI's vocabulary files, and how it splits a text into words."""

    name: str
    sha256: str
    pattern: str

    @property
    def path(self) -> Path | None:
        """Where tiktoken keeps the file; `None` if keeping files is switched off."""
        folder = os.environ.get("TIKTOKEN_CACHE_DIR", os.environ.get("DATA_GYM_CACHE_DIR"))
        if folder == "":
            return None
        # tiktoken names the file after the address; that is no use of SHA-1 for security.
        key = hashlib.sha1(_URL.format(self.name).encode(), usedforsecurity=False).hexdigest()
        return Path(folder or Path(tempfile.gettempdir()) / "data-gym-cache") / key


OFFICIAL_FILES = {
    file.name: file
    for file in (
        OfficialFile(
            name="o200k_base",
            sha256="446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d",
            pattern=(
                r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
                r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
                r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
                r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
                r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
            ),
        ),
        OfficialFile(
            name="cl100k_base",
            sha256="223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7",
            pattern=r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+"
            r"| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s",
        ),
        OfficialFile(
            name="p50k_base",
            sha256="94b5ca7dff4d00767bc256fdd1b27e5b17361d7b8a5f968547f9f23eb70d2069",
            pattern=_GPT2_PATTERN,
        ),
        OfficialFile(
            name="r50k_base",
            sha256="306cd27f03c1a714eca7108e03d66b7dc042abe8c258b44c199a7ed9838dd930",
            pattern=_GPT2_PATTERN,
        ),
    )
}

# tiktoken's regular expressions overflow their stack on a run of about a million spaces. Cutting
# inside a run changes the count by a token or two for each cut.
_LONGEST_RUN = 50_000
_CLASSES = (r"\s", r"[^\W\d_]", r"\d", r"[^\w\s]", r"_")
# Each alternative starts at the start of a run only, which keeps the search linear.
_LONG_RUN = re.compile("|".join(f"(?<!{c}){c}{{{_LONGEST_RUN + 1},}}" for c in _CLASSES))
_PIECE_AFTER_PANIC = 1_000


def open_encoding(name: str) -> TextEncoding | Unavailable:
    """Return the encoding if this process has loaded it already or its file is at hand."""
    loaded = tiktoken.registry.ENCODINGS.get(name)
    if loaded is not None:
        return TiktokenEncoding(loaded)
    file = OFFICIAL_FILES.get(name)
    if file is None:
        return Unavailable(reason=f"tiktoken's file of {name} is not known")
    path = file.path
    if path is None:
        return Unavailable(reason="TIKTOKEN_CACHE_DIR is empty, so tiktoken keeps no files")
    try:
        content = path.read_bytes()
    except OSError as error:
        return Unavailable(reason=f"tiktoken's file of {name} cannot be read ({error})")
    if hashlib.sha256(content).hexdigest() != file.sha256:
        return Unavailable(reason=f"{path} is not OpenAI's file of {name}", broken=True)
    ranks = (line.split() for line in content.splitlines() if line)
    return TiktokenEncoding(
        tiktoken.Encoding(
            name,
            pat_str=file.pattern,
            mergeable_ranks={base64.b64decode(token): int(rank) for token, rank in ranks},
            special_tokens={},
        )
    )


class TiktokenEncoding:
    """Counts with a `tiktoken.Encoding`, safe from the texts that make it panic."""

    exact = True

    def __init__(self, encoding: tiktoken.Encoding) -> None:
        self._encoding = encoding
        self.name = f"tiktoken/{encoding.name}"

    def count(self, text: str) -> int:
        """Return the number of tokens of `text`."""
        if len(text) <= _LONGEST_RUN:
            return self._count_piece(text)
        return sum(self._count_piece(piece) for piece in pieces(text))

    def _count_piece(self, text: str) -> int:
        try:
            return len(self._encoding.encode_ordinary(text))
        except BaseException as error:
            # A panic of the Rust code derives from BaseException, to pass every `except Exception`.
            if type(error).__name__ != "PanicException" or len(text) <= _PIECE_AFTER_PANIC:
                raise
        starts = range(0, len(text), _PIECE_AFTER_PANIC)
        return sum(self._count_piece(text[at : at + _PIECE_AFTER_PANIC]) for at in starts)


def pieces(text: str) -> list[str]:
    """Return `text` cut inside runs that are too long for tiktoken.

    >>> [len(piece) for piece in pieces("a" * 120_000 + " b")]
    [50000, 50000, 20002]
    """
    cuts = [0]
    for run in _LONG_RUN.finditer(text):
        cuts.extend(range(run.start() + _LONGEST_RUN, run.end(), _LONGEST_RUN))
    return [text[start:end] for start, end in zip(cuts, [*cuts[1:], None], strict=True)]
