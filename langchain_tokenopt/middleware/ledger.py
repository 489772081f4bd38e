"""Books what an agent's model uses, without callbacks in the config."""

from typing import Any

from langchain.agents.middleware import ModelRequest
from typing_extensions import override

from langchain_tokenopt.accounting import UsageLedger
from langchain_tokenopt.middleware.hearing import heard_by
from langchain_tokenopt.middleware.rewriting import RewritingMiddleware


class LedgerMiddleware(RewritingMiddleware):
    """Tells a ledger of every call of an agent's model.

    A call that the same ledger hears of by the config's callbacks too is booked once. List it after
    a `CascadeMiddleware`, so that drafts are booked.

    Args:
        ledger: Where to.

    >>> from langchain.agents import create_agent
    >>> from langchain_tokenopt.testing import ScriptedModel
    >>> ledger = UsageLedger()
    >>> agent = create_agent(ScriptedModel(["four"]), middleware=[LedgerMiddleware(ledger)])
    >>> _ = agent.invoke({"messages": [("user", "2 + 2?")]})
    >>> ledger.totals().calls
    1
    """

    def __init__(self, ledger: UsageLedger) -> None:
        super().__init__()
        self._ledger = ledger

    @override
    def _rewritten(self, request: ModelRequest[Any]) -> ModelRequest[Any]:
        return heard_by(request, request.model, self._ledger)
