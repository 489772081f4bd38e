"""One graph from a cached answer to the largest model, each stage where the one before fails."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from langchain_core.caches import BaseCache
from langchain_core.messages import BaseMessage
from langchain_core.runnables import Runnable, RunnableLambda
from langgraph.graph import END, START, MessagesState, StateGraph

from langchain_tokenopt.accounting import GenaiPrices, PriceSource
from langchain_tokenopt.routing import Check, Chooser, Rule, Tier
from langchain_tokenopt.routing.cascade import CHOOSE, add_cascade
from langchain_tokenopt.stack.answers import Answers, FreshAware, described
from langchain_tokenopt.stack.context import MultiTierContext, MultiTierState
from langchain_tokenopt.stack.stages import (
    Begin,
    Finish,
    Prepare,
    Recall,
    Rules,
    current_context,
)

BEGIN, FINISH = "begin", "finish"


def create_multi_tier(
    tiers: Sequence[Tier],
    *,
    cache: BaseCache | None = None,
    similar: BaseCache | None = None,
    rules: Sequence[Rule] = (),
    prepare: Runnable[Any, Sequence[BaseMessage]]
    | Callable[[Sequence[BaseMessage]], Sequence[BaseMessage]]
    | None = None,
    checks: Sequence[Check] = (),
    start: Chooser | None = None,
    prices: PriceSource | None = None,
) -> StateGraph[MultiTierState, MultiTierContext, MessagesState, MultiTierState]:
    """Return a graph that answers from where it is cheapest; every stage but the tiers is optional.

    In this order: an answer to the very same conversation (`cache`); rules, which name a tier and
    pass over likeness; an answer to a question that means the same (`similar`); the request as it
    is sent (`prepare`: context window, documents, prompt); then the tiers as in `create_cascade`.
    Accepted answers are kept for later. What answered, what it cost and what it saved are in the
    state and in the answer's `response_metadata["tokenopt"]`. `context=MultiTierContext(...)` says
    how one request is treated.

    A cache that fails is a miss. An error of `prepare` sends the conversation as it is, and is told
    in `stages`. A ledger in the callbacks hears of cached answers as of any cached call. Identical
    requests at the same time share their model calls where the tiers' models are
    `CachedChatModel`s; give their caches `tenant=current_tenant` where there are tenants.

    Args:
        tiers: At least one, the cheapest first; the last one is what savings are told against.
        cache: An exact cache, such as `TieredCache.default()`.
        similar: A `SemanticCache`.
        rules: The first that applies names the tier.
        prepare: Makes the request of the conversation, such as a `ContextWindow`; the state keeps
            the whole conversation.
        checks: Asked of every answer.
        start: Chooses the first tier where no rule applies.
        prices: Where prices come from; by default the price table.

    >>> from langchain_tokenopt.caches import MemoryCache
    >>> from langchain_tokenopt.testing import ScriptedModel
    >>> tiers = [Tier("small", ScriptedModel(["four"])), Tier("large", ScriptedModel(["4"]))]
    >>> graph = create_multi_tier(tiers, cache=MemoryCache()).compile()
    >>> asked = {"messages": [("user", "2 + 2?")]}
    >>> [graph.invoke(asked)["tier"] for _ in range(2)]
    ['small', 'cache']
    """
    graph = StateGraph(
        MultiTierState,
        context_schema=MultiTierContext,
        input_schema=MessagesState,
        output_schema=MultiTierState,
    )
    names = [tier.name for tier in tiers]
    signature = json.dumps([[tier.name, described(tier.model)] for tier in tiers])
    exact = Answers(cache, kind="cache", signature=signature) if cache is not None else None
    like = Answers(similar, kind="similar", signature=signature) if similar is not None else None
    order = [
        name
        for name, there in (
            ("cache", exact is not None),
            ("rules", bool(rules)),
            ("similar", like is not None),
            ("prepare", prepare is not None),
        )
        if there
    ]
    following = dict(zip([BEGIN, *order], [*order, CHOOSE], strict=True))
    aware = [replace(tier, model=FreshAware(tier.model, _wants_fresh)) for tier in tiers]
    add_cascade(graph, aware, checks=checks, start=start, after=FINISH)
    _add(graph, BEGIN, Begin(names, following=following), to=(following[BEGIN],))
    if exact is not None:
        recall = Recall(exact, "cache", following=following["cache"], found=FINISH)
        _add(graph, "cache", recall, to=(following["cache"], FINISH))
    if rules:
        after_rules = "prepare" if prepare is not None else CHOOSE
        step = Rules(rules, following=following["rules"], ruled=after_rules)
        _add(graph, "rules", step, to=(following["rules"], after_rules))
    if like is not None:
        recall = Recall(like, "similar", following=following["similar"], found=FINISH)
        _add(graph, "similar", recall, to=(following["similar"], FINISH))
    if prepare is not None:
        _add(graph, "prepare", Prepare(prepare, following=CHOOSE), to=(CHOOSE,))
    kept = [answers for answers in (exact, like) if answers is not None]
    finish = Finish(kept, against=tiers[-1].model, prices=prices or GenaiPrices())
    graph.add_node(FINISH, RunnableLambda(finish.run, afunc=finish.arun, name=FINISH))
    graph.add_edge(START, BEGIN)
    graph.add_edge(FINISH, END)
    return graph


def _wants_fresh() -> bool:
    return current_context().fresh


def _add(
    graph: StateGraph[Any, Any, Any, Any], name: str, stage: Any, *, to: tuple[str, ...]
) -> None:
    node = RunnableLambda(stage.run, afunc=stage.arun, name=name)
    graph.add_node(name, node, destinations=tuple(dict.fromkeys(to)))
