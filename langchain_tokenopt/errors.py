"""The errors this package raises.

TokenOptError
├── ConfigurationError (ValueError)   an argument or file that cannot be used
├── MissingExtraError (ImportError)   an optional dependency is not installed
├── LogFormatError (ValueError)       a call log that cannot be read at all
├── LedgerFileError (OSError)         a ledger's file that cannot be read
├── StoreError (OSError)              a store that cannot be read or written now
├── ContextOverflowError (ValueError)  a request that cannot be made short enough
├── BatchAnswerError (ValueError)   a model that gave no usable answer to an item of a batch
├── BudgetExceededError (RuntimeError)  a call that was not made for want of budget
├── DeploymentsCoolingError (RuntimeError)  every deployment rests (in `routing`)
└── ScriptExhaustedError (RuntimeError)  a scripted or replayed model has no answer left
"""

from typing import Any


class TokenOptError(Exception):
    """Base of every error that this package raises on purpose."""


class ConfigurationError(TokenOptError, ValueError):
    """An argument or a file cannot be used; the message says what was expected."""


class MissingExtraError(TokenOptError, ImportError):
    """An optional dependency is missing; the message names the `pip install` line."""

    def __init__(self, *, package: str, extra: str) -> None:
        super().__init__(
            f"{package} is not installed; install it with: "
            f'pip install "langchain-tokenopt[{extra}]"'
        )
        self.package = package
        self.extra = extra


class LogFormatError(TokenOptError, ValueError):
    """A call log cannot be read; single bad lines are reported, not raised."""


class LedgerFileError(TokenOptError, OSError):
    """A ledger's file cannot be read; the message says why, and what is still in memory."""


class StoreError(TokenOptError, OSError):
    """A store cannot be reached, read or written."""


class ContextOverflowError(TokenOptError, ValueError):
    """A request has more tokens than allowed, and nothing more can be left out of it."""


class BatchAnswerError(TokenOptError, ValueError):
    """A model gave no usable answer to an item of a batch, alone and several times."""


class BudgetExceededError(TokenOptError, RuntimeError):
    """A call was not made: a budget has not enough left for it.

    `status` is how the budget stands (an `accounting.BudgetStatus`), `needed` what was asked of it
    (an `accounting.Amounts`).
    """

    def __init__(self, message: str, *, status: Any, needed: Any) -> None:
        super().__init__(message)
        self.status = status
        self.needed = needed


class ScriptExhaustedError(TokenOptError, RuntimeError):
    """A scripted or replayed model was called more often than it has answers."""
