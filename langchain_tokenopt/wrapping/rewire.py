"""Put another model where a model stands in a runnable that was built around it."""

from collections.abc import Callable
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.runnables import (
    Runnable,
    RunnableBinding,
    RunnableParallel,
    RunnableSequence,
    RunnableWithFallbacks,
)
from langchain_core.runnables.passthrough import RunnableAssign


def replace_models(  # noqa: PLR0911 - one return for each kind of runnable
    runnable: Runnable[Any, Any], replacement: Callable[[BaseChatModel], BaseChatModel]
) -> Runnable[Any, Any]:
    """Return the runnable with every chat model in it given to `replacement`.

    Looks into bindings, sequences, parallels, assignments and fallbacks: what
    `bind_tools` and `with_structured_output` build. Functions are left as they are.

    >>> from langchain_core.runnables import RunnableLambda
    >>> replace_models(RunnableLambda(len), lambda model: model).invoke("abc")
    3
    """

    def inside(part: Any) -> Any:
        return replace_models(part, replacement)

    if isinstance(runnable, BaseChatModel):
        return replacement(runnable)
    if isinstance(runnable, RunnableBinding):
        return runnable.model_copy(update={"bound": inside(runnable.bound)})
    if isinstance(runnable, RunnableSequence):
        return RunnableSequence(*(inside(step) for step in runnable.steps), name=runnable.name)
    if isinstance(runnable, RunnableParallel):
        steps = {name: inside(step) for name, step in runnable.steps__.items()}
        return runnable.model_copy(update={"steps__": steps})
    if isinstance(runnable, RunnableAssign):
        return runnable.model_copy(update={"mapper": inside(runnable.mapper)})
    if isinstance(runnable, RunnableWithFallbacks):
        return runnable.model_copy(
            update={
                "runnable": inside(runnable.runnable),
                "fallbacks": [inside(fallback) for fallback in runnable.fallbacks],
            }
        )
    return runnable
