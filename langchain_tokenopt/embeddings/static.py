"""The quickest embeddings without a network, means of word vectors: the extra `local`."""

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from langchain_core.embeddings import Embeddings
from typing_extensions import override

from langchain_tokenopt.embeddings.parts import package_folder, readable
from langchain_tokenopt.errors import MissingExtraError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_WEIGHTS = "weights/l2_supercat_256.safetensors"
_TOKENIZER = "tokenizers/l2_supercat_tokenizer_config.json"


class StaticEmbeddings(Embeddings):
    """Unit vectors of 256 dimensions: the mean of a text's token vectors.

    The vectors are WordLlama's (MIT), read from its package; no code of it runs and nothing is
    downloaded. About 15 microseconds a short text, so texts are embedded in the caller's thread.
    Fit for questions of a sentence or two in English; it sees words, not their order.
    See https://github.com/dleemiller/WordLlama

    Raises:
        MissingExtraError: On the first text, if the extra `local` is not installed.

    >>> parcel, package, password = StaticEmbeddings().embed_documents(
    ...     ["Where is my parcel?", "Where is my package?", "I forgot my password."]
    ... )
    >>> sum(a * b for a, b in zip(parcel, package)) > sum(a * b for a, b in zip(parcel, password))
    True
    """

    dimensions = 256

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loaded: tuple[Any, NDArray[np.float32]] | None = None

    @override
    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return [list(map(float, row)) for row in self.vectors(texts)]

    @override
    def embed_query(self, text: str) -> list[float]:
        return self.embed_documents([text])[0]

    @override
    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        return self.embed_documents(texts)

    @override
    async def aembed_query(self, text: str) -> list[float]:
        return self.embed_query(text)

    def vectors(self, texts: Sequence[str]) -> "NDArray[np.float32]":
        """Return the vectors as rows; an empty text is the zero vector."""
        import numpy as np  # noqa: PLC0415 - the package imports without it

        tokenizer, weights = self._load()
        clean = readable(texts)
        rows = np.zeros((len(clean), self.dimensions), dtype=np.float32)
        for row, encoded in zip(
            rows, tokenizer.encode_batch(clean, add_special_tokens=False), strict=True
        ):
            if encoded.ids:
                row[:] = weights[encoded.ids].mean(axis=0)
        lengths = np.linalg.norm(rows, axis=1, keepdims=True)
        scaled: NDArray[np.float32] = rows / np.maximum(lengths, 1e-9)
        return scaled

    def _load(self) -> "tuple[Any, NDArray[np.float32]]":
        if self._loaded is None:
            with self._lock:
                if self._loaded is None:
                    self._loaded = _read_package()
        return self._loaded


def _read_package() -> "tuple[Any, NDArray[np.float32]]":
    folder = package_folder("wordllama", extra="local")
    try:
        from safetensors.numpy import load_file  # noqa: PLC0415 - heavy, and of the extra
        from tokenizers import Tokenizer  # noqa: PLC0415
    except ImportError as error:
        raise MissingExtraError(package=error.name or "tokenizers", extra="local") from error
    (weights,) = load_file(folder / _WEIGHTS).values()
    return Tokenizer.from_file(str(folder / _TOKENIZER)), weights.astype("float32")
