"""Says what to install where langchain is missing, before anything else needs it."""

from importlib.util import find_spec

from langchain_tokenopt.errors import MissingExtraError

if find_spec("langchain") is None:
    raise MissingExtraError(package="langchain", extra="agents")
