"""The real tiktoken, offline: its files rebuilt from the vocabulary that toktok-rs carries."""

import base64
import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiktoken
import tiktoken.registry
import toktok

from langchain_tokenopt.tokens.official import OFFICIAL_FILES


@pytest.fixture(scope="session")
def official_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as tiktoken keeps it, with OpenAI's own files, byte for byte."""
    folder = tmp_path_factory.mktemp("tiktoken")
    patch = pytest.MonkeyPatch()
    patch.setenv("TIKTOKEN_CACHE_DIR", str(folder))
    for name in ("o200k_base", "cl100k_base"):
        encoding = toktok._encoding(name)
        tokens = (
            encoding.decode_single_token_bytes(n) for n in range(len(encoding.token_byte_values()))
        )
        content = b"".join(
            base64.b64encode(token) + b" %d\n" % rank for rank, token in enumerate(tokens)
        )
        file = OFFICIAL_FILES[name]
        assert hashlib.sha256(content).hexdigest() == file.sha256
        assert file.path is not None
        file.path.write_bytes(content)
    patch.undo()
    return folder


@pytest.fixture(scope="session")
def reference(official_files: Path) -> Iterator[dict[str, tiktoken.Encoding]]:
    """tiktoken's own encodings."""
    patch = pytest.MonkeyPatch()
    patch.setenv("TIKTOKEN_CACHE_DIR", str(official_files))
    yield {name: tiktoken.get_encoding(name) for name in ("o200k_base", "cl100k_base")}
    patch.undo()
    tiktoken.registry.ENCODINGS.clear()
