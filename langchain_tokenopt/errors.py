"""The errors this package raises.

TokenOptError
├── ConfigurationError (ValueError)   an argument or file that cannot be used
├── MissingExtraError (ImportError)   an optional dependency is not installed
├── LogFormatError (ValueError)       a call log that cannot be read at all
├── LedgerFileError (OSError)         a ledger's file that cannot be read
└── ScriptExhaustedError (RuntimeError)  a scripted or replayed model has no answer left
"""


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


class ScriptExhaustedError(TokenOptError, RuntimeError):
    """A scripted or replayed model was called more often than it has answers."""
