"""Whether a model can fill in a schema, and how it is asked to."""

from typing import Any, Literal, TypeAlias

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage
from langchain_core.runnables import Runnable

from langchain_tokenopt.errors import ConfigurationError

Output: TypeAlias = Literal["structured", "text"]
"""How a model gives what is not the answer: filled into a schema, or as lines of text."""

_PROBE = {"title": "Probe", "description": "Nothing.", "type": "object", "properties": {}}


def output_of(model: BaseChatModel | Runnable[Any, AIMessage], wanted: Output | None) -> Output:
    """Return `wanted`; where it is `None`, `structured` if the model can fill in schemas.

    Raises:
        ConfigurationError: `structured` is wanted of a model that cannot.
    """
    if wanted not in (None, "structured", "text"):
        message = f"output is 'structured', 'text' or None, got {wanted!r}"
        raise ConfigurationError(message)
    if wanted == "text":
        return wanted
    able = isinstance(model, BaseChatModel)
    if isinstance(model, BaseChatModel):
        try:
            filled_in(model, _PROBE)
        except NotImplementedError:  # LangChain's word for it
            able = False
    if wanted == "structured" and not able:
        message = (
            f"{type(model).__name__} has no structured output; pass output='text', or a chat "
            "model that has it, with options bound in its constructor"
        )
        raise ConfigurationError(message)
    return "structured" if able else "text"


def filled_in(model: BaseChatModel, schema: Any) -> Runnable[Any, Any]:
    """Return the model made to fill in a schema, with `raw`, `parsed` and `parsing_error`."""
    # Without the raw message its usage would be lost to the caller.
    return model.with_structured_output(schema, include_raw=True)
