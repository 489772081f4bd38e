"""The applications that are compared: plain, with the cache, and as one multi-tier graph."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from importlib.util import find_spec
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.runnables import RunnableConfig

from langchain_tokenopt.advisor import LoggedCall
from langchain_tokenopt.caches import CachedChatModel, MemoryCache, SemanticCache
from langchain_tokenopt.demo.play import Application
from langchain_tokenopt.embeddings import StaticEmbeddings
from langchain_tokenopt.routing import (
    Attempt,
    Tier,
    Verdict,
    mentions,
    no_refusal,
    not_empty,
    not_truncated,
)
from langchain_tokenopt.stack import create_multi_tier

ModelFactory = Callable[[str], BaseChatModel]
"""Makes a chat model of a name; every step gets models of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One application to play the traffic through; each step adds one technique."""

    name: str
    adds: str
    """What this step adds to the one before, in a few words."""
    build: Callable[[], Application]


def plain_step(models: ModelFactory) -> Step:
    """Send every request to the model that the log names."""

    def build() -> Application:
        known: dict[str, BaseChatModel] = {}

        def answer(call: LoggedCall, config: RunnableConfig) -> str:
            model = known.setdefault(call.model, models(call.model))
            return str(model.invoke(list(call.messages), config).text)

        return answer

    return Step(
        name="plain", adds="every request goes to the model that the log names", build=build
    )


def cached_step(models: ModelFactory) -> Step:
    """Wrap each model in the exact cache."""

    def build() -> Application:
        cache = MemoryCache()
        known: dict[str, CachedChatModel] = {}

        def answer(call: LoggedCall, config: RunnableConfig) -> str:
            model = known.setdefault(call.model, CachedChatModel(models(call.model), cache=cache))
            return str(model.invoke(list(call.messages), config).text)

        return answer

    adds = "a request seen before is served from memory; those in flight share one call"
    return Step(name="+ exact cache", adds=adds, build=build)


def cascade_step(models: ModelFactory, *, small: str, large: str) -> Step:
    """Ask the small model first, and the large one where a rule or a check says so."""
    adds = f"{small} first; {large} where a rule or a check of the answer asks for it"

    def build() -> Application:
        return multi_tier(models, (small, large), exact=True)

    return Step(name="+ cascade", adds=adds, build=build)


def likeness_step(models: ModelFactory, *, small: str, large: str) -> Step:
    """Serve questions that mean the same before any model is asked."""
    adds = "a question that means the same as one before shares its answer"

    def build() -> Application:
        return multi_tier(models, (small, large), exact=True, like=True)

    return Step(name="+ like questions", adds=adds, build=build)


def multi_tier(
    models: ModelFactory, names: Sequence[str], *, exact: bool = False, like: bool = False
) -> Application:
    """Return the multi-tier graph as an application.

    Args:
        models: Makes each model.
        names: Of the models, the cheapest first.
        exact: Whether a request seen before, or in flight, is asked once.
        like: Whether questions that mean the same share an answer (extra `local`).
    """
    in_flight = MemoryCache()

    def model(name: str) -> BaseChatModel:
        return CachedChatModel(models(name), cache=in_flight) if exact else models(name)

    graph: Any = create_multi_tier(
        [Tier(name, model(name)) for name in names],
        cache=MemoryCache() if exact else None,
        similar=_similar() if like else None,
        rules=[mentions("together", "express delivery", tier=names[-1])],
        checks=[not_empty, not_truncated, no_refusal, equations_hold],
    ).compile()

    def answer(call: LoggedCall, config: RunnableConfig) -> str:
        state = graph.invoke({"messages": list(call.messages)}, config)
        return str(state["answer"].text)

    return answer


def _similar() -> SemanticCache:
    embeddings = StaticEmbeddings()
    embeddings.embed_query("ready?")  # loads the weights before the first request
    return SemanticCache(embeddings, max_error_rate=0.01)


_NUMBER = r"\$?(-?[\d,]*\.?\d+)(%?)"
_EQUATION = re.compile(rf"{_NUMBER}\s*([+\-*/\u00d7])\s*{_NUMBER}\s*=\s*{_NUMBER}")
_CLOSE = Decimal("0.011")  # amounts are rounded to cents


def equations_hold(question: str, attempt: Attempt) -> Verdict:
    """Accept an answer whose every stated equation is right, if it gives a worked number at all.

    A check of the kind that an application writes for itself: it needs no second model.
    """
    text = attempt["text"]
    equations = _EQUATION.findall(text)
    if "answer:" in text.lower() and not equations:
        return Verdict(accepted=False, reason="a number without its working")
    for left, left_percent, sign, right, right_percent, stated, _ in equations:
        a, b = _number(left, left_percent), _number(right, right_percent)
        if sign == "/" and b == 0:
            return Verdict(accepted=False, reason="a division by zero")
        value = {"+": a + b, "-": a - b, "/": a / b if b else a}.get(sign, a * b)
        if abs(value - _number(stated, "")) > _CLOSE:
            shown = f"{left} {sign} {right} = {stated}"
            return Verdict(accepted=False, reason=f"a wrong equation: {shown}")
    return Verdict(accepted=True, reason="the equations hold")


def _number(digits: str, percent: str) -> Decimal:
    value = Decimal(digits.replace(",", ""))
    return value / 100 if percent else value


def steps_for(models: ModelFactory, *, cascade: Sequence[str]) -> list[Step]:
    """Return the steps to play: with a small and a large model named, the cascade too."""
    steps = [plain_step(models), cached_step(models)]
    if cascade:
        small, large = cascade
        steps.append(cascade_step(models, small=small, large=large))
        if find_spec("wordllama") is not None:  # the extra `local`
            steps.append(likeness_step(models, small=small, large=large))
    return steps
