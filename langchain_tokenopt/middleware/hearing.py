"""Lets a callback handler hear of the calls that an agent's model makes."""

from typing import Any

from langchain.agents.middleware import ModelRequest
from langchain_core.callbacks import BaseCallbackHandler, BaseCallbackManager
from langchain_core.language_models import BaseChatModel


def heard_by(
    request: ModelRequest[Any], model: Any, handler: BaseCallbackHandler
) -> ModelRequest[Any]:
    """Return the request with a model of the same type that tells `handler` of its calls."""
    if not isinstance(model, BaseChatModel):  # one that is chosen by the config
        return request.override(model=model.with_config({"callbacks": [handler]}))
    callbacks: Any = model.callbacks
    if isinstance(callbacks, BaseCallbackManager):
        callbacks = callbacks.copy()
        callbacks.add_handler(handler, inherit=False)
    else:
        callbacks = [*(callbacks or ()), handler]
    return request.override(model=model.model_copy(update={"callbacks": callbacks}))
