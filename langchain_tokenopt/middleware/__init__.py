"""Agent middleware over the parts of this package, for `langchain.agents.create_agent`.

Needs the extra `agents`.
"""

from importlib.util import find_spec

from langchain_tokenopt.errors import MissingExtraError

if find_spec("langchain") is None:
    raise MissingExtraError(package="langchain", extra="agents")

from langchain_tokenopt.middleware.budget import BudgetMiddleware
from langchain_tokenopt.middleware.prompt_cache import PromptCacheMiddleware

__all__ = ["BudgetMiddleware", "PromptCacheMiddleware"]
