"""A graph that asks a small model first, and a larger one where the answer is not good enough."""

from collections.abc import Sequence
from typing import Any, get_type_hints

from langchain_core.runnables import RunnableLambda
from langgraph.graph import END, START, StateGraph

from langchain_tokenopt.routing.attempt import Check
from langchain_tokenopt.routing.cascade_nodes import GATE, Ask, Choose, Judge, check_cascade
from langchain_tokenopt.routing.cascade_state import CascadeInput, CascadeState, Chooser, Tier
from langchain_tokenopt.routing.rules import Rule

CHOOSE = "choose_tier"


def create_cascade(
    tiers: Sequence[Tier],
    *,
    checks: Sequence[Check] = (),
    rules: Sequence[Rule] = (),
    start: Chooser | None = None,
) -> StateGraph[CascadeState, None, CascadeInput, CascadeState]:
    """Return a graph that asks the tiers in order until an answer is good enough.

    The first rule that applies says at which tier to start, then `start`; otherwise it is the
    first. An answer that fails a check or whose score is too low, a check that raises, and a model
    that raises all lead to the next tier. The last tier's answer is given whatever is thought of it
    (`accepted` in the state tells), and its error is raised; where a budget has no room for the
    last tier, the latest draft is given. Drafts of the tiers before are not streamed to the user.
    A ledger in the callbacks counts every call, under the tier's name or `gate` as its node.

    Args:
        tiers: At least one, the cheapest first; each may have a gate of its own.
        checks: Asked in order of every answer; the first that declines ends it.
        rules: Asked in order; the first that applies counts.
        start: Asked where no rule applies: a router that learned, a bandit.

    >>> from langchain_tokenopt.routing import not_empty
    >>> from langchain_tokenopt.testing import ScriptedModel
    >>> tiers = [Tier("small", ScriptedModel([""])), Tier("large", ScriptedModel(["four"]))]
    >>> state = create_cascade(tiers, checks=[not_empty]).compile().invoke(
    ...     {"messages": [("user", "2 + 2?")]}
    ... )
    >>> state["answer"].text, [attempt["reason"] for attempt in state["attempts"]]
    ('four', ['the answer is empty', 'every check accepted it'])
    """
    graph = StateGraph(CascadeState, input_schema=CascadeInput, output_schema=CascadeState)
    add_cascade(graph, tiers, checks=checks, rules=rules, start=start, after=END)
    graph.add_edge(START, CHOOSE)
    return graph


def add_cascade(
    graph: StateGraph[Any, Any, Any, Any],
    tiers: Sequence[Tier],
    *,
    after: str,
    checks: Sequence[Check] = (),
    rules: Sequence[Rule] = (),
    start: Chooser | None = None,
) -> None:
    """Add the nodes of a cascade to a graph whose state has those of `CascadeState`.

    Args:
        graph: Leads to `choose_tier`.
        tiers: As in `create_cascade`.
        after: The node to go to with an answer.
        checks: As in `create_cascade`.
        rules: As in `create_cascade`.
        start: As in `create_cascade`.
    """
    names = [tier.name for tier in tiers]
    taken = {CHOOSE, GATE, START, END, *get_type_hints(graph.state_schema)}
    check_cascade(names, rules, taken=taken)
    choose = Choose(names, rules, start)
    graph.add_node(
        CHOOSE,
        RunnableLambda(choose.choose, afunc=choose.achoose, name=CHOOSE),
        destinations=tuple(names),
    )
    following = dict(zip(names, [*names[1:], None], strict=True))
    for tier in tiers:
        ask = Ask(tier, following=following[tier.name], after=after)
        graph.add_node(
            tier.name,
            RunnableLambda(ask.ask, afunc=ask.aask, name=tier.name),
            destinations=(GATE, following[tier.name] or after),
        )
    gate = Judge(tiers, checks, following=following, after=after)
    graph.add_node(
        GATE,
        RunnableLambda(gate.judge, afunc=gate.ajudge, name=GATE),
        destinations=(*names[1:], after),
    )
