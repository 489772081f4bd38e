"""What the embeddings of this package share: their data packages, and text that can be read."""

from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

from langchain_tokenopt.errors import MissingExtraError


def package_folder(package: str, *, extra: str) -> Path:
    """Return where an installed package lies; nothing of it is imported.

    Raises:
        MissingExtraError: It is not installed.
    """
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise MissingExtraError(package=package.replace("_", "-"), extra=extra)
    return Path(spec.origin).parent


def readable(texts: Iterable[str]) -> list[str]:
    r"""Return texts without halves of characters, which a tokenizer refuses.

    >>> readable(["a\ud800b"])
    ['a�b']
    """
    return [text.encode("utf-16", "surrogatepass").decode("utf-16", "replace") for text in texts]
