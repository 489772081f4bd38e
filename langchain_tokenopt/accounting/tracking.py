"""`track_usage()`: a ledger for everything that runs inside a `with` block."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from langchain_core.tracers.context import register_configure_hook

from langchain_tokenopt.accounting.ledger import UsageLedger

# One variable for the life of the process. A hook registered per use is never removed by
# LangChain, and makes every later call slower.
_CURRENT: ContextVar[UsageLedger | None] = ContextVar("tokenopt_ledger", default=None)
register_configure_hook(_CURRENT, inheritable=True)


@contextmanager
def track_usage(ledger: UsageLedger | None = None) -> Iterator[UsageLedger]:
    """Record every model call inside the block, in sync and async code, and give the ledger.

    Threads and tasks outside of the block are not recorded. In nested blocks the innermost ledger
    records; a ledger that also is among the callbacks of a call counts that call once.

    >>> from langchain_tokenopt.testing import ScriptedModel
    >>> with track_usage() as ledger:
    ...     answer = ScriptedModel(["four"]).invoke("2 + 2?")
    >>> ledger.totals().calls
    1
    """
    current = ledger if ledger is not None else UsageLedger()
    token = _CURRENT.set(current)
    try:
        yield current
    finally:
        _CURRENT.reset(token)
        current.flush()
