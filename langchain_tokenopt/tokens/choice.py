"""The encoder behind a count: chosen once per encoding, from what is on this machine."""

import importlib
import logging
import threading
from collections.abc import Sequence

from langchain_tokenopt.tokens.encodings import Engine, TextEncoding, Unavailable
from langchain_tokenopt.tokens.estimator import Estimator
from langchain_tokenopt.tokens.memo import RememberedCounts

_logger = logging.getLogger(__name__)

# Modules with an `open_encoding`, the preferred first; the library behind each is loaded by the
# first count, if at all.
_ENGINES = ("langchain_tokenopt.tokens.fast", "langchain_tokenopt.tokens.official")

# Encodings that differ from another in special tokens only, which are ordinary text in a count.
_SAME_TEXT = {"o200k_harmony": "o200k_base", "p50k_edit": "p50k_base", "gpt2": "r50k_base"}

_lock = threading.Lock()
_loaded: dict[str, TextEncoding] = {}


def load_encoding(name: str) -> TextEncoding:
    """Return the best encoder for the encoding `name` that this machine has.

    The first call for an encoding loads its vocabulary (about 0.3 s); the choice then stays for
    the life of the process. Nothing is downloaded: without toktok-rs and without tiktoken's file
    the result is an estimator, with `exact` false, and a warning is logged once.

    >>> load_encoding("cl100k_base") is load_encoding("cl100k_base")
    True
    """
    name = _SAME_TEXT.get(name, name)
    found = _loaded.get(name)
    if found is None:
        with _lock:
            found = _loaded.get(name)
            if found is None:
                chosen = choose_encoding(name, engines=[_engine(module) for module in _ENGINES])
                found = _loaded[name] = RememberedCounts(chosen)
    return found


def choose_encoding(name: str, *, engines: Sequence[Engine]) -> TextEncoding:
    """Return the encoding of the first engine that has it, else an estimator."""
    reasons = []
    for engine in engines:
        answer = engine(name)
        if not isinstance(answer, Unavailable):
            return answer
        if answer.broken:
            _logger.warning("not counting with a broken encoder: %s", answer.reason)
        reasons.append(answer.reason)
    _logger.warning(
        "token counts in %s are estimated: %s; "
        'install exact counts that need no network with: pip install "langchain-tokenopt[fast]"',
        name,
        "; ".join(reasons),
    )
    return Estimator(name)


def _engine(module: str) -> Engine:
    def open_encoding(name: str) -> TextEncoding | Unavailable:
        try:
            engine: Engine = importlib.import_module(module).open_encoding
        except ImportError as error:
            return Unavailable(reason=f"{error.name or module} cannot be imported")
        return engine(name)

    return open_encoding
