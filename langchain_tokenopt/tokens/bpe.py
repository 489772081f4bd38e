"""Exact counts by tiktoken, only ever from files that are on this machine.

tiktoken downloads a vocabulary on first use, without a time limit. Here it is loaded only after
its file has been found in tiktoken's own cache folder (`TIKTOKEN_CACHE_DIR`) with the right
checksum. To install the files on a machine without a network, copy that folder from another one.
"""

import hashlib
import os
import re
import tempfile
from collections.abc import Callable
from pathlib import Path

# encoding -> (name in tiktoken's cache folder, sha256 of the file)
FILES = {
    "o200k_base": (
        "fb374d419588a4632f3f557e76b4b70aebbca790",
        "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d",
    ),
    "cl100k_base": (
        "9b5ad71b2ce5302211f9c61530b329a4922fc6a4",
        "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7",
    ),
}

# tiktoken panics on a run of about a million equal characters; the regular expression behind it
# overflows its stack. Cutting inside such a run changes the count by one token at the most.
_LONGEST_RUN = 50_000
_LONG_RUN = re.compile(r"\s{50001,}|[^\W\d_]{50001,}|\d{50001,}|[^\w\s]{50001,}")


def cache_folder() -> Path | None:
    """Return the folder in which tiktoken keeps its files, `None` if keeping is switched off."""
    for variable in ("TIKTOKEN_CACHE_DIR", "DATA_GYM_CACHE_DIR"):
        if variable in os.environ:
            return Path(os.environ[variable]) if os.environ[variable] else None
    return Path(tempfile.gettempdir()) / "data-gym-cache"


def load(name: str) -> Callable[[str], int] | None:
    """Return the count function of an encoding, `None` if its file is not on this machine."""
    if name not in FILES:
        return None
    file_name, sha256 = FILES[name]
    folder = cache_folder()
    if folder is None or not (folder / file_name).is_file():
        return None
    if hashlib.sha256((folder / file_name).read_bytes()).hexdigest() != sha256:
        return None  # tiktoken would delete the file and download it again
    import tiktoken  # noqa: PLC0415 - loads an extension, and only here is it known to be of use

    encoding = tiktoken.get_encoding(name)

    def count(text: str) -> int:
        return sum(len(encoding.encode_ordinary(piece)) for piece in pieces(text))

    return count


def pieces(text: str) -> list[str]:
    """Return `text` in pieces that hold no run too long for tiktoken.

    >>> [len(piece) for piece in pieces("a" * 120_000 + " b")]
    [50000, 50000, 20002]
    """
    if len(text) <= _LONGEST_RUN:
        return [text]
    cuts = [0]
    for run in _LONG_RUN.finditer(text):
        cuts.extend(range(run.start() + _LONGEST_RUN, run.end(), _LONGEST_RUN))
    return [text[start:end] for start, end in zip(cuts, [*cuts[1:], len(text)], strict=True)]
