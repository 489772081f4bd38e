"""What a risk model learned, carried over restarts and to other hosts."""

import threading
from contextlib import suppress

from langchain_tokenopt.caches.decision import RiskModel
from langchain_tokenopt.caches.semantic_questions import Questions

_SAVED_EVERY = 50  # answers that were learned from


class Learned:
    """Starts a risk model from what was saved with the questions, and saves what it learns."""

    def __init__(self, model: RiskModel, kept: Questions) -> None:
        self._model = model
        self._kept = kept
        self._lock = threading.Lock()
        self._loaded = threading.Event()
        self._saved = 0

    def load(self) -> None:
        """Start from what was saved last, unless the model has learned by itself meanwhile."""
        if self._loaded.is_set() or self._kept.in_memory:
            return
        with suppress(OSError):  # counted; the next look-up tries again
            coefficients = self._kept.learned()
            with self._lock:
                if not self._loaded.is_set() and self._model.learned == 0:
                    self._model.start_from(coefficients)
                self._loaded.set()

    def save(self, *, after: int = _SAVED_EVERY) -> None:
        """Save what was learned, if it is that much more than the last time."""
        with self._lock:
            if self._kept.in_memory or self._model.learned - self._saved < after:
                return
            self._saved = self._model.learned
        self._kept.save(self._model.coefficients)
