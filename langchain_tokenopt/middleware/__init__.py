"""Agent middleware over the parts of this package, for `langchain.agents.create_agent`.

Needs the extra `agents`.
"""

import langchain_tokenopt.middleware.needs  # noqa: F401 - says what is missing, if it is
from langchain_tokenopt.middleware.budget import BudgetMiddleware
from langchain_tokenopt.middleware.cascade import CascadeMiddleware
from langchain_tokenopt.middleware.context import ContextMiddleware
from langchain_tokenopt.middleware.ledger import LedgerMiddleware
from langchain_tokenopt.middleware.order import check_order
from langchain_tokenopt.middleware.prompt_cache import PromptCacheMiddleware
from langchain_tokenopt.middleware.response_cache import ResponseCacheMiddleware

__all__ = [
    "BudgetMiddleware",
    "CascadeMiddleware",
    "ContextMiddleware",
    "LedgerMiddleware",
    "PromptCacheMiddleware",
    "ResponseCacheMiddleware",
    "check_order",
]
