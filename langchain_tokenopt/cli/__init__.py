"""The command `tokenopt`."""

from langchain_tokenopt.cli.main import main

__all__ = ["main"]
