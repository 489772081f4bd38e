"""Real parts to test against without a paid model: a scripted model, recorded samples, a server."""

from langchain_tokenopt.testing.scripted import Failure, ScriptedModel

__all__ = ["Failure", "ScriptedModel"]
