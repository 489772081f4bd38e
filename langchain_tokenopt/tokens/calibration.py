"""How far a counter is off for a model, learned from the usage that the provider reports."""

import threading

from langchain_tokenopt.errors import ConfigurationError
from langchain_tokenopt.tokens.models import bare_model_name


class Calibration:
    """Learn, per model, the ratio of reported to counted tokens.

    Both sides are averaged with exponentially falling weights before they are divided, so that
    long prompts, which say more about the ratio, count for more. Safe to share between threads.

    Args:
        weight: Share of the newest observation in the average, above 0 and at most 1.

    >>> calibration = Calibration()
    >>> calibration.observe("claude-sonnet-4-5", counted=1000, reported=1150)
    >>> calibration.ratio("claude-sonnet-4-5"), calibration.ratio("another-model")
    (1.15, 1.0)
    """

    def __init__(self, *, weight: float = 0.2) -> None:
        if not 0 < weight <= 1:
            message = f"weight must be above 0 and at most 1, got {weight!r}"
            raise ConfigurationError(message)
        self._weight = weight
        self._lock = threading.Lock()
        self._averages: dict[str, tuple[float, float]] = {}

    def observe(self, model: str, *, counted: int, reported: int) -> None:
        """Learn from one call: `counted` must be the count before any calibration.

        Calls without both numbers say nothing and are left out: a provider that reports no usage
        must not pull the ratio to zero.
        """
        if counted <= 0 or reported <= 0:
            return
        name = bare_model_name(model)
        with self._lock:
            old_counted, old_reported = self._averages.get(name, (counted, reported))
            self._averages[name] = (
                old_counted + self._weight * (counted - old_counted),
                old_reported + self._weight * (reported - old_reported),
            )

    def ratio(self, model: str) -> float:
        """Return reported over counted tokens for `model`; 1.0 if nothing was observed."""
        with self._lock:
            counted, reported = self._averages.get(bare_model_name(model), (1.0, 1.0))
        return reported / counted
